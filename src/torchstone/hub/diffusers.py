"""U-Nets in diffusers' layout: the folder of a network and its scheduler, and their parameter names.

A folder has `unet/` and `scheduler/`, or in the first releases all files side by side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys, split_qkv
from torchstone.parts.diffusion.process import DiffusersCompat, DiffusionProcess
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

CLASSES = ("UNet2DModel", "PriorTransformer")  # of the second all else is in `hub/unclip.py`
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# field of `UNetConfig`: (diffusers' name, the default of its class)
NUMBERS = {
    "channels": ("in_channels", 3),
    "out_channels": ("out_channels", 3),
    "depth": ("layers_per_block", 2),
    "groups": ("norm_num_groups", 32),
    "eps": ("norm_eps", 1e-5),
    "dropout": ("dropout", 0.0),
    "padding": ("downsample_padding", 1),
    "divisor": ("mid_block_scale_factor", 1.0),
    "freq_shift": ("freq_shift", 0),
}
# (attention, resampling by a convolution); None where another setting says how
DOWN = {
    "DownBlock2D": (False, True),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, False),
}
UP = {"UpBlock2D": (False, True), "AttnUpBlock2D": (True, None), "ResnetUpsampleBlock2D": (False, False)}
DEFAULT_WIDTHS = (224, 448, 672, 896)
DEFAULT_DOWN = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
DEFAULT_UP = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
USED = {theirs for theirs, _ in NUMBERS.values()} | {
    "_class_name",
    "_diffusers_version",
    "scheduler",
    "sample_size",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "downsample_type",
    "upsample_type",
    "act_fn",
    "attention_head_dim",
    "attn_norm_num_groups",
    "resnet_time_scale_shift",
    "add_attention",
    "num_class_embeds",
    "flip_sin_to_cos",
    "center_input_sample",
    "time_embedding_dim",
    "num_train_timesteps",
}
ONLY = {"time_embedding_type": "positional", "class_embed_type": None, "mid_block_type": "UNetMidBlock2D"}

MAX_TIMESTEPS = 1_000_000
# settings of schedulers
SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTION_TYPES = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large"}
SCHEDULER_USED = {
    "_class_name",
    "_diffusers_version",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "timestep_spacing",
    "steps_offset",
    "variance_type",
    "set_alpha_to_one",
    "dynamic_thresholding_ratio",
    "sample_max_value",
}
SCHEDULER_ONLY = {
    "trained_betas": None,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "skip_prk_steps": (True, False),  # left over from another scheduler
}


def holds(folder: Path) -> bool:
    """Whether a folder is of this kind."""
    return (folder / "model_index.json").exists() or any(
        (_home(folder) / f"{name}{ending}").exists() for name in WEIGHTS for ending in ("", ".index.json")
    )


def _home(folder: Path) -> Path:
    parts = (folder / name for name in ("unet", "prior"))
    return next((part for part in parts if part.is_dir()), folder)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The U-Net's config with that of its scheduler as `scheduler`, and its weights.

    Raises:
        BadInput: it is another network; a file is missing, damaged, or holds code.
    """
    home = _home(folder)
    config = hf_folder.read_json(home / "config.json")
    if config.get("_class_name") not in CLASSES:
        raise BadInput(f"{home} holds a {config.get('_class_name')}; implemented are {', '.join(CLASSES)}")
    _, tensors = hf_folder.read(home, WEIGHTS)
    for each in ("scheduler", "../scheduler", "."):
        file = folder / each / "scheduler_config.json"
        if file.exists():
            config["scheduler"] = hf_folder.read_json(file)
            break
    return config, tensors


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The variant, and its keyword arguments.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    hf_folder.reject_unsupported(config, USED, ONLY)
    model_config: dict[str, Any] = {
        field: hf_folder.get_number(config, theirs, default) for field, (theirs, default) in NUMBERS.items()
    }
    widths = _sequence(config, "block_out_channels", DEFAULT_WIDTHS)
    for known, prefix, key, resampling, default in (
        (DOWN, "", "down_block_types", "downsample_type", DEFAULT_DOWN),
        (UP, "up_", "up_block_types", "upsample_type", DEFAULT_UP),
    ):
        types = _sequence(config, key, default)
        if len(types) != len(widths):
            raise BadInput(f"the config sets {len(types)} {key} for {len(widths)} block_out_channels")
        if unknown := [each for each in types if each not in known]:
            raise BadInput(f"the config sets {key} with {unknown[0]!r}; implemented are {', '.join(known)}")
        convolve = choice(config, resampling, {"conv": True, "resnet": False}, "conv")
        model_config[f"{prefix}attention"] = tuple(known[each][0] for each in types)
        own = (known[each][1] for each in types)
        model_config[f"{prefix}convolve"] = tuple(convolve if each is None else each for each in own)
    size = config.get("sample_size")
    groups = config.get("attn_norm_num_groups")
    scale_shifts = {"default": False, "scale_shift": True}
    model_config |= {
        "size": tuple(size) if isinstance(size, list | tuple) else size or 32,
        "widths": tuple(widths),
        "head_width": config.get("attention_head_dim", 8),
        "time_embed_dim": config.get("time_embedding_dim") or 4 * widths[0],
        "activation": choice(config, "act_fn", {name: name for name in ACTIVATIONS}, "silu"),
        "scale_shift": choice(config, "resnet_time_scale_shift", scale_shifts, "default"),
        "flip_sin_to_cos": bool(config.get("flip_sin_to_cos", True)),
        "center_input": bool(config.get("center_input_sample", False)),
        "mid_attention": bool(config.get("add_attention", True)),
        "num_classes": config.get("num_class_embeds") or 0,
        "process": read_process(config.get("scheduler", {})),
    }
    # the middle attention has a norm only without scale and shift, unless its groups are set
    default_groups = None if model_config["scale_shift"] else model_config["groups"]
    model_config["mid_norm_groups"] = groups or default_groups
    return "ddpm_cifar10", model_config


def read_process(config: Mapping[str, Any]) -> DiffusionProcess:
    """The process of a scheduler's config, by DDPMScheduler's defaults.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    sampler = choice(config, "_class_name", SAMPLERS, "DDPMScheduler")  # first: others have other settings
    hf_folder.reject_unsupported(config, SCHEDULER_USED, SCHEDULER_ONLY)
    clip_range = hf_folder.get_number(config, "clip_sample_range", 1.0)
    timesteps = hf_folder.get_number(config, "num_train_timesteps", 1000)
    if timesteps != int(timesteps) or not 1 <= timesteps <= MAX_TIMESTEPS:
        raise BadInput(f"the config sets num_train_timesteps = {timesteps}: give 1 to {MAX_TIMESTEPS}")
    return DiffusionProcess(
        timesteps=timesteps,
        beta_schedule=choice(config, "beta_schedule", BETA_SCHEDULES, "linear"),
        beta_start=hf_folder.get_number(config, "beta_start", 1e-4),
        beta_end=hf_folder.get_number(config, "beta_end", 0.02),
        prediction_type=choice(config, "prediction_type", PREDICTION_TYPES, "epsilon"),
        clip_sample_range=clip_range if config.get("clip_sample", True) else None,
        sampler=sampler,
        variance=choice(config, "variance_type", VARIANCES, "fixed_small"),
        compat=DiffusersCompat(
            timestep_spacing=config.get("timestep_spacing", "leading"),
            steps_offset=hf_folder.get_number(config, "steps_offset", 0),
            final_step_to_zero=bool(config.get("set_alpha_to_one", True)),
            recompute_epsilon=False,
            fixed_stride=True,
            noise_until_zero=True,
        ),
    )


def choice(config: Mapping[str, Any], name: str, known: Mapping[Any, Any], default: Any) -> Any:
    """What we call the value of a setting.

    Raises:
        BadInput: it has a value that is not implemented.
    """
    value = config.get(name, default)
    if value not in known:
        raise BadInput(f"the config sets {name} = {value!r}; implemented are {', '.join(map(str, known))}")
    return known[value]


def _sequence(config: Mapping[str, Any], name: str, default: tuple) -> tuple:
    value = config.get(name, default)
    if not isinstance(value, list | tuple) or not value:
        raise BadInput(f"the config sets {name} = {value!r}, which is no list")
    return tuple(value)


# diffusers' parameter names to ours, applied in this order
RULES = (
    (r"^time_embedding\.linear_1", "time.0"),
    (r"^time_embedding\.linear_2", "time.2"),
    (r"^class_embedding", "labels"),
    (r"^conv_norm_out", "norm"),
    (r"^(down|up)_blocks", r"\1"),
    (r"^mid_block\.resnets\.0", "middle_before"),
    (r"^mid_block\.attentions\.0", "middle_attention"),
    (r"^mid_block\.resnets\.1", "middle_after"),
    (r"\.resnets\.", ".blocks."),
    (r"\.(down|up)samplers\.0", ".resize"),
    (r"\.resize\.(op|Conv2d_0)\.", ".resize.conv."),
    (r"\.time_emb_proj\.", ".time."),
    (r"\.conv_shortcut\.", ".carry."),
    (r"\.group_norm\.", ".norm."),
    # the first releases have other names for these
    (r"\.(?:to_q|query)\.", ".attention.q."),
    (r"\.(?:to_k|key)\.", ".attention.k."),
    (r"\.(?:to_v|value)\.", ".attention.v."),
    (r"\.(?:to_out\.0|proj_attn)\.", ".attention.out."),
)
BACK = (
    (r"^time\.0", "time_embedding.linear_1"),
    (r"^time\.2", "time_embedding.linear_2"),
    (r"^labels", "class_embedding"),
    (r"^norm\.", "conv_norm_out."),
    (r"^(down|up)\.(\d+)\.resize", r"\1_blocks.\2.\1samplers.0"),
    (r"^(down|up)\.", r"\1_blocks."),
    (r"^middle_before", "mid_block.resnets.0"),
    (r"^middle_attention", "mid_block.attentions.0"),
    (r"^middle_after", "mid_block.resnets.1"),
    (r"\.blocks\.", ".resnets."),
    (r"(resnets\.\d+|samplers\.0)\.time\.", r"\1.time_emb_proj."),
    (r"\.carry\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"\.attention\.([qkv])\.", r".to_\1."),
    (r"\.attention\.out\.", ".to_out.0."),
)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' parameter names to ours, those of the first releases too."""
    return fuse_qkv(rename_keys(tensors, RULES))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameter names to diffusers'."""
    return rename_keys(split_qkv(tensors), BACK)
