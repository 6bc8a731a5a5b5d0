"""Folders of Stable Diffusion 1 and 2 in diffusers' layout: `unet`, `vae`, `text_encoder`, `tokenizer` and
`scheduler`, listed in `model_index.json`.

Weights are safetensors, or pickles that are read without running code; in one file or in shards; in single
precision, or else in its `fp16` variant.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from torchstone.errors import BadInput, did_you_mean
from torchstone.hub import clip, diffusers, hf_folder, kl_autoencoder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys
from torchstone.hub.weight_files import (
    WEIGHTS,
    find_weights,
    read_json,
    read_settings,
    read_shards,
    read_whole,
)
from torchstone.parts.diffusion.process import DiffusersCompat, DiffusionProcess
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# whose classes a pipeline is made of; of another library it comes with code of its own
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
# parts that other pipelines have; of these nothing is used
UNUSED_PARTS = ("feature_extractor", "image_encoder")

# field of `LatentUNetConfig`: (diffusers' name, the default of its class)
NUMBERS = {
    "channels": ("in_channels", 4),
    "out_channels": ("out_channels", 4),
    "depth": ("layers_per_block", 2),
    "groups": ("norm_num_groups", 32),
    "eps": ("norm_eps", 1e-5),
    "dropout": ("dropout", 0.0),
    "padding": ("downsample_padding", 1),
    "freq_shift": ("freq_shift", 0),
    "context": ("cross_attention_dim", 1280),
    "transformer_depth": ("transformer_layers_per_block", 1),
}
FLAGS = {
    "linear": ("use_linear_projection", False),
    "flip_sin_to_cos": ("flip_sin_to_cos", True),
    "center_input": ("center_input_sample", False),
}
DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
DEFAULT_WIDTHS = (320, 640, 1280, 1280)
DEFAULT_DOWN = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
DEFAULT_UP = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
USED = {theirs for theirs, _ in (*NUMBERS.values(), *FLAGS.values())} | {
    "_class_name",
    "_diffusers_version",
    "act_fn",
    "attention_head_dim",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "sample_size",
    "upcast_attention",  # of half precision, whose kernels sum in single precision
    "addition_embed_type_num_heads",  # of embeddings that it has not
}
ONLY = {
    "attention_type": "default",
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "dual_cross_attention": False,
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}

# scheduler: our solver, and its class's defaults of spacing, of the last step to x₀, and of clipping
SCHEDULERS = {
    "DDIMScheduler": ("ddim", "leading", True, True),
    "PNDMScheduler": ("plms", "leading", False, False),
    "DPMSolverMultistepScheduler": ("dpm_solver++", "linspace", True, False),
    "EulerDiscreteScheduler": ("euler", "linspace", True, False),
}
SCHEDULER_USED = {
    "_class_name",
    "_diffusers_version",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "clip_sample",
    "clip_sample_range",
    # of settings that are off
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "time_shift_type",
    "lambda_min_clipped",
    "lower_order_final",  # the last step is of first order in any case: it goes to no noise
}
SCHEDULER_ONLY = {
    "trained_betas": None,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": False,
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "solver_order": 2,
    "solver_type": "midpoint",
    "algorithm_type": "dpmsolver++",
    "euler_at_final": False,
    "variance_type": None,
    "skip_prk_steps": True,
}


class Folder(NamedTuple):
    """What a folder says beside its weights.

    Args:
        model_config: arguments of `ldm.latent_diffusion`.
        scale: of the latents, `scaling_factor` of `vae`.
        solver: by our name; None for a scheduler that is not implemented.
        scheduler: its class.
        notes: lines about what is not used.
    """

    model_config: dict[str, Any]
    scale: float
    solver: str | None
    scheduler: str
    notes: tuple[str, ...]


def holds(folder: Path) -> bool:
    """Whether a folder is of this kind, whole or not."""
    index = read_settings(folder / "model_index.json")
    name = index.get("_class_name")
    is_named = isinstance(name, str) and name.startswith("StableDiffusion")
    return is_named or (
        (folder / "unet").is_dir() and ("text_encoder" in index or (folder / "text_encoder").is_dir())
    )


def read(folder: Path) -> Folder:
    """The configs of a folder, which must be whole.

    Raises:
        BadInput: a part is missing, of another class, or comes with code; a setting is not implemented.
    """
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").exists() else {}
    notes = _check_index(folder, index)
    for part in PARTS:
        if not (folder / part).is_dir():
            raise BadInput(f"{folder} lacks {part}/, a part of Stable Diffusion's layout: fetch it again")
        if code := sorted((folder / part).glob("*.py")):
            raise BadInput(f"{folder} comes with code, {part}/{code[0].name}, which is never run here")
    unet, vae, text = (read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    solver, process = read_scheduler(scheduler)
    class_name = str(scheduler.get("_class_name"))
    try:
        autoencoder = kl_autoencoder.from_config(vae)
    except BadInput as error:
        raise BadInput(f"vae: {error}") from None
    model_config = {
        "unet": unet_from_config(unet),
        "autoencoder": {name: getattr(autoencoder, name) for name in autoencoder.__dataclass_fields__},
        "text": clip.text_from_config(text),
        "process": process,
    }
    scale = hf_folder.get_number(vae, "scaling_factor", kl_autoencoder.DEFAULT_SCALE)
    return Folder(model_config, scale, solver, class_name, notes)


def _check_index(folder: Path, index: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse a pipeline that is another one or comes with code; what it names that is not used."""
    name = index.get("_class_name", PIPELINES[0])
    if not isinstance(name, str):
        raise BadInput(f"{folder} comes with code of its own, {name!r}, which is never run here")
    if name not in PIPELINES:
        raise BadInput(f"{folder} holds a {name}: {did_you_mean(name, PIPELINES)}")
    if code := sorted(folder.glob("*.py")):
        raise BadInput(f"{folder} comes with code, {code[0].name}, which is never run here")
    notes: tuple[str, ...] = ()
    for part, named in index.items():
        if part.startswith("_") or not isinstance(named, list) or named in ([None, None], []):
            continue
        library, kind = (*named, None)[:2]
        if library not in LIBRARIES:
            raise BadInput(
                f"{folder}: its {part} is {library}.{kind}, code of its own, which is never run here"
            )
        if part in CLASSES and kind != CLASSES[part]:
            raise BadInput(f"{folder}: its {part} is a {kind}; implemented is {CLASSES[part]}")
        if part == "safety_checker":
            is_there = (folder / part).is_dir()
            why = "is not run here" if is_there else f"is not there ({folder.name}/{part} is missing)"
            notes += (f"the safety checker that it names, {kind}, {why}: samples are not filtered",)
        elif part not in (*PARTS, *UNUSED_PARTS):
            raise BadInput(f"{folder}: it has a {part} ({library}.{kind}), which is not implemented here")
    return notes


def unet_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `LatentUNetConfig`.

    Raises:
        BadInput: another network; a setting that is not implemented, by its name.
    """
    name = config.get("_class_name", CLASSES["unet"])
    if name != CLASSES["unet"]:
        raise BadInput(f"unet is a {name}; implemented is {CLASSES['unet']}")
    try:
        hf_folder.reject_unsupported(config, USED, ONLY)
        fields: dict[str, Any] = {
            field: hf_folder.get_number(config, *theirs) for field, theirs in NUMBERS.items()
        }
        fields |= {field: hf_folder.get_flag(config, *theirs) for field, theirs in FLAGS.items()}
        names = {each: each for each in ACTIVATIONS}
        fields["activation"] = diffusers.choice(config, "act_fn", names, "silu")
        widths = _sequence(config, "block_out_channels", DEFAULT_WIDTHS)
        heads = config.get("attention_head_dim", 8)  # so misnamed there
        size = config.get("sample_size")
        if size is not None and not isinstance(size, int):
            raise BadInput(f"the config sets sample_size = {size!r}; implemented here are squares")
        fields |= {"widths": widths, "size": size or 64}
        fields["heads"] = tuple(heads) if isinstance(heads, list | tuple) else heads
        for field, known, key, default in (
            ("attention", DOWN, "down_block_types", DEFAULT_DOWN),
            ("up_attention", UP, "up_block_types", DEFAULT_UP),
        ):
            types = _sequence(config, key, default)
            if len(types) != len(widths):
                raise BadInput(f"the config sets {len(types)} {key} for {len(widths)} block_out_channels")
            if unknown := [each for each in types if each not in known]:
                raise BadInput(
                    f"the config sets {key} with {unknown[0]!r}; implemented are {', '.join(known)}"
                )
            fields[field] = tuple(known[each] for each in types)
    except BadInput as error:
        raise BadInput(f"unet: {error}") from None
    return fields


def _sequence(config: Mapping[str, Any], name: str, default: tuple) -> tuple:
    value = config.get(name, default)
    if not isinstance(value, list | tuple) or not value:
        raise BadInput(f"the config sets {name} = {value!r}, which is no list")
    return tuple(value)


def read_scheduler(config: Mapping[str, Any]) -> tuple[str | None, DiffusionProcess]:
    """Our solver's name, None where we have none, and the process with the scheduler's spacing.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    known = SCHEDULERS.get(config.get("_class_name", ""))
    solver, spacing, to_zero, clips = known or (None, "leading", True, False)
    try:
        if known:
            hf_folder.reject_unsupported(config, SCHEDULER_USED, SCHEDULER_ONLY)
        else:  # what it shares with others must be ours; what is its own has no effect on them
            shared = {
                name: config[name] for name in config if name in SCHEDULER_ONLY and name != "variance_type"
            }
            hf_folder.reject_unsupported(shared, SCHEDULER_USED, SCHEDULER_ONLY)
        clip_range = hf_folder.get_number(config, "clip_sample_range", 1.0)
        timesteps = hf_folder.get_number(config, "num_train_timesteps", 1000)
        if timesteps != int(timesteps) or not 1 <= timesteps <= diffusers.MAX_TIMESTEPS:
            raise BadInput(
                f"the config sets num_train_timesteps = {timesteps}: give 1 to {diffusers.MAX_TIMESTEPS}"
            )
        process = DiffusionProcess(
            timesteps=timesteps,
            beta_schedule=diffusers.choice(config, "beta_schedule", diffusers.BETA_SCHEDULES, "linear"),
            beta_start=hf_folder.get_number(config, "beta_start", 1e-4),
            beta_end=hf_folder.get_number(config, "beta_end", 0.02),
            prediction_type=diffusers.choice(
                config, "prediction_type", diffusers.PREDICTION_TYPES, "epsilon"
            ),
            clip_sample_range=clip_range if config.get("clip_sample", clips) else None,
            sampler="ddim",
            compat=DiffusersCompat(
                timestep_spacing=config.get("timestep_spacing", spacing),
                steps_offset=hf_folder.get_number(config, "steps_offset", 0),
                final_step_to_zero=bool(config.get("set_alpha_to_one", to_zero)),
                recompute_epsilon=False,
                fixed_stride=True,
            ),
        )
    except BadInput as error:
        raise BadInput(f"scheduler: {error}") from None
    return solver, process


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """The weights of `unet`, `vae` or `text_encoder` by our names, in single precision.

    Raises:
        BadInput: they are missing, damaged, or hold code.
    """
    tensors = _read_weights(folder / part, WEIGHTS if part == "text_encoder" else diffusers.WEIGHTS)
    if part == "vae":
        renamed = kl_autoencoder.published(read_json(folder / part / "config.json"), tensors)
    else:
        renamed = published_unet(tensors) if part == "unet" else published_text(tensors)
    return {name: tensor.float() for name, tensor in renamed.items()}


def _read_weights(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """One of `names`, or its shards; or the same of the `fp16` variant."""
    for name in names:
        stem, _, ending = name.rpartition(".")
        if (folder / name).exists() or (folder / f"{name}.index.json").exists():
            return read_whole(find_weights(folder, (name,)))
        if (file := folder / f"{stem}.fp16.{ending}").exists():
            return read_whole(file)
        for index in (f"{name}.index.fp16.json", f"{stem}.fp16.{ending}.index.json"):
            if (folder / index).exists():
                return read_shards(folder / index)
    raise BadInput(f"{folder} holds no weights: {' or '.join(names)} is missing")


TRANSFORMER = (
    (r"\.transformer_blocks\.", ".transformer."),
    (r"\.attn1\.to_([qkv])\.", r".attention.\1."),
    (r"\.attn1\.to_out\.0\.", ".attention.out."),
    (r"\.attn2\.to_q\.", ".text.locations."),  # no part of a joint projection: a text is of another width
    (r"\.attn2\.to_([kv])\.", r".text.\1."),
    (r"\.attn2\.to_out\.0\.", ".text.out."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.proj."),
    (r"\.ff\.net\.2\.", ".feed_forward.down."),
)
AFTER = ((r"\.transformer\.", ".blocks."), (r"\.text\.locations\.", ".text.q."), (r"^time\.2\.", "time.1."))


def published_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameter names of a `UNet2DConditionModel`'s."""
    fused = fuse_qkv(fuse_qkv(rename_keys(tensors, (*TRANSFORMER, *diffusers.RULES))), "kv")
    new: dict[str, Tensor] = {}
    for name, tensor in rename_keys(fused, AFTER).items():
        if ".feed_forward.proj." in name:  # the hidden units, then their gates
            for part, half in zip(("up", "gate"), tensor.chunk(2), strict=True):
                new[name.replace(".proj.", f".{part}.")] = half
        else:
            new[name] = tensor
    return new


def published_text(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameter names of a `CLIPTextModel`'s, with or without the prefix that earlier versions wrote."""
    prefix = "text_model."
    prefixed = {prefix + name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return {name.removeprefix("text."): tensor for name, tensor in clip.published("", prefixed).items()}


def whole_state(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, by the names of `LatentDiffusion`, in single precision."""
    tensors: dict[str, Tensor] = {}
    for part, prefix in (("text_encoder", "text"), ("vae", "autoencoder"), ("unet", "unet")):
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in read_part(folder, part).items()}
    return tensors
