"""Denoising networks as diffusers writes them: a U-Net's folder, its scheduler's, and their names.

A folder has `unet/` and `scheduler/`, or in the first releases all files side by side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.diffusers_schedulers import choice, process
from torchstone.hub.state_dict_names import fuse_qkv, split_qkv, rename_keys
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

CLASS = "UNet2DModel"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# ours: theirs, and what their class takes where nothing is said
NUMBERS = {
    "channels": ("in_channels", 3),
    "outputs": ("out_channels", 3),
    "depth": ("layers_per_block", 2),
    "groups": ("norm_num_groups", 32),
    "eps": ("norm_eps", 1e-5),
    "dropout": ("dropout", 0.0),
    "padding": ("downsample_padding", 1),
    "divisor": ("mid_block_scale_factor", 1.0),
    "shift": ("freq_shift", 0),
}
# (attention, a convolution to the next grid); None where another setting says how
DOWN = {
    "DownBlock2D": (False, True),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, False),
}
UP = {
    "UpBlock2D": (False, True),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, False),
}
WIDTHS = (224, 448, 672, 896)
USED = {theirs for theirs, _ in NUMBERS.values()} | {
    "_class_name", "_diffusers_version", "scheduler", "sample_size", "block_out_channels",
    "down_block_types", "up_block_types", "downsample_type", "upsample_type", "act_fn",
    "attention_head_dim", "attn_norm_num_groups", "resnet_time_scale_shift", "add_attention",
    "num_class_embeds", "flip_sin_to_cos", "center_input_sample", "time_embedding_dim",
    "num_train_timesteps",
}  # fmt: skip
ONLY = {
    "time_embedding_type": "positional",
    "class_embed_type": None,
    "mid_block_type": "UNetMidBlock2D",
}


def holds(folder: Path) -> bool:
    """Whether a folder is of this kind."""
    return (folder / "model_index.json").exists() or any((_home(folder) / w).exists() for w in WEIGHTS)


def _home(folder: Path) -> Path:
    inner = folder / "unet"
    return inner if inner.is_dir() else folder


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The U-Net's config with that of its scheduler as `scheduler`, and its weights.

    Raises:
        BadInput: it is another network; a file is missing, damaged, or holds code.
    """
    home = _home(folder)
    config = hf_folder.read_json(home / "config.json")
    if config.get("_class_name") != CLASS:
        raise BadInput(f"{home} holds a {config.get('_class_name')}; read here is {CLASS}")
    _, tensors = hf_folder.read(home, WEIGHTS)
    for each in ("scheduler", "../scheduler", "."):
        file = folder / each / "scheduler_config.json"
        if file.exists():
            config["scheduler"] = hf_folder.read_json(file)
            break
    return config, tensors


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    hf_folder.reject_unsupported(config, USED, ONLY)
    arguments: dict[str, Any] = {
        ours: hf_folder.get_number(config, theirs, usual) for ours, (theirs, usual) in NUMBERS.items()
    }
    widths = _several(config, "block_out_channels", WIDTHS)
    count = len(widths)
    usual = ("DownBlock2D", *["AttnDownBlock2D"] * 3), (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    for known, way, key, how, default in (
        (DOWN, "", "down_block_types", "downsample_type", usual[0]),
        (UP, "up_", "up_block_types", "upsample_type", usual[1]),
    ):
        types = _several(config, key, default)
        if len(types) != count:
            raise BadInput(f"the config sets {len(types)} {key} for {count} block_out_channels")
        if wrong := [each for each in types if each not in known]:
            able = ", ".join(known)
            raise BadInput(f"the config sets {key} with {wrong[0]!r}; implemented are {able}")
        kind = choice(config, how, {"conv": True, "resnet": False}, "conv")
        arguments[f"{way}attention"] = tuple(known[each][0] for each in types)
        ways = (known[each][1] for each in types)
        arguments[f"{way}convolve"] = tuple(kind if each is None else each for each in ways)
    size = config.get("sample_size")
    arguments["size"] = tuple(size) if isinstance(size, list | tuple) else size or 32
    heads = config.get("attention_head_dim", 8)
    groups = config.get("attn_norm_num_groups")
    arguments |= {
        "widths": tuple(widths),
        "head_width": heads,
        "inner": config.get("time_embedding_dim") or 4 * widths[0],
        "activation": choice(config, "act_fn", {name: name for name in ACTIVATIONS}, "silu"),
        "scale_shift": choice(
            config, "resnet_time_scale_shift", {"default": False, "scale_shift": True}, "default"
        ),
        "cosine_first": bool(config.get("flip_sin_to_cos", True)),
        "centred": bool(config.get("center_input_sample", False)),
        "middle_attention": bool(config.get("add_attention", True)),
        "classes": config.get("num_class_embeds") or 0,
        "process": process(config.get("scheduler", {})),
    }
    # in the middle there is a norm before attention only without scale and shift, unless it is asked for
    arguments["middle_groups"] = groups or (None if arguments["scale_shift"] else arguments["groups"])
    return "ddpm_cifar10", arguments


def _several(config: Mapping[str, Any], name: str, usual: tuple) -> tuple:
    value = config.get(name, usual)
    if not isinstance(value, list | tuple) or not value:
        raise BadInput(f"the config sets {name} = {value!r}, which is no list")
    return tuple(value)


# their names to ours, one after another
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
    # the first releases call them otherwise
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
    """Their names of the weights to ours, those of the first releases too."""
    return fuse_qkv(rename_keys(tensors, RULES))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours to theirs."""
    return rename_keys(split_qkv(tensors), BACK)
