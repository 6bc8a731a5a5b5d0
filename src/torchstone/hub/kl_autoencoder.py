"""Folders of latent diffusion's autoencoder in diffusers' layout: the `vae` of a Stable Diffusion folder.

`latent_scale` is no weight there but the config's `scaling_factor`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import diffusers, hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.parts.vae.kl_autoencoder import KLAutoencoderConfig

CLASS = "AutoencoderKL"
DEFAULT_SCALE = 0.18215  # of diffusers' class, where a config has no scaling_factor
# field of `KLAutoencoderConfig`: (diffusers' name, the default of its class)
NUMBERS = {
    "channels": ("in_channels", 3),
    "out_channels": ("out_channels", 3),
    "depth": ("layers_per_block", 1),
    "latent_channels": ("latent_channels", 4),
    "groups": ("norm_num_groups", 32),
}
FLAGS = {
    "mid_attention": "mid_block_add_attention",
    "quant_conv": "use_quant_conv",
    "post_quant_conv": "use_post_quant_conv",
}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
USED = {theirs for theirs, _ in NUMBERS.values()} | {
    *FLAGS.values(),
    *BLOCKS,
    "_class_name",
    "_diffusers_version",
    "act_fn",
    "block_out_channels",
    "force_upcast",  # of half precision alone
    "sample_size",  # of tiled decoding alone
    "scaling_factor",
}
ONLY = {"shift_factor": None, "latents_mean": None, "latents_std": None}


def from_config(config: Mapping[str, Any]) -> KLAutoencoderConfig:
    """The architecture that a config describes.

    Raises:
        BadInput: another network; a setting that is not implemented, by its name.
    """
    if config.get("_class_name", CLASS) != CLASS:
        raise BadInput(f"the config is of a {config['_class_name']}; implemented is {CLASS}")
    hf_folder.reject_unsupported(config, USED, ONLY)
    widths = config.get("block_out_channels", (64,))
    if not isinstance(widths, list | tuple) or not widths:
        raise BadInput(f"the config sets block_out_channels = {widths!r}, which is no list")
    for key, known in BLOCKS.items():
        types = config.get(key, (known,))
        if list(types) != [known] * len(widths):
            raise BadInput(
                f"the config sets {key} = {list(types)}; implemented is {known}, {len(widths)} times"
            )
    names = {name: name for name in ACTIVATIONS}
    return KLAutoencoderConfig(
        widths=tuple(widths),
        activation=diffusers.choice(config, "act_fn", names, "silu"),
        **{field: hf_folder.get_number(config, *theirs) for field, theirs in NUMBERS.items()},
        **{field: hf_folder.get_flag(config, theirs, True) for field, theirs in FLAGS.items()},
    )


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a folder, with diffusers' names.

    Raises:
        BadInput: it is another network; a file is missing, damaged, or holds code.
    """
    config = hf_folder.read_json(folder / "config.json")
    if config.get("_class_name") != CLASS:
        raise BadInput(f"{folder} holds a {config.get('_class_name')}; implemented is {CLASS}")
    return hf_folder.read(folder, diffusers.WEIGHTS)


RULES = (*diffusers.RULES, (r"^middle_", "middle."))
BACK = ((r"^middle\.", "middle_"), *diffusers.BACK)


def published(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' parameter names to ours, those of the first releases too; `latent_scale` from the config."""
    scale = hf_folder.get_number(config, "scaling_factor", DEFAULT_SCALE)
    return fuse_qkv(_rename(tensors, RULES)) | {"latent_scale": torch.tensor(float(scale))}


def unpublished(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config's `scaling_factor`, and our parameter names to diffusers'."""
    weights = dict(tensors)
    scale = weights.pop("latent_scale")
    return {"scaling_factor": float(scale)}, _rename(split_qkv(weights), BACK)


def _rename(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """The U-Net's rules, within encoder and decoder."""
    new: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        if half in ("encoder", "decoder"):
            (rest,) = rename_keys({rest: tensor}, rules)
        new[f"{half}.{rest}"] = tensor
    return new
