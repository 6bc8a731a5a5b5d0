"""Folders of DiT in diffusers' layout: `transformer`, `vae` and `scheduler`.

In this layout every block has an embedder of timestep and class of its own, all of them copies of the one
that the paper's network has: it is read once, and copies that differ are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import diffusers, hf_folder, kl_autoencoder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second in folders of 2022
USED = {
    "_class_name",
    "_diffusers_version",
    "scheduler",
    "vae",
    "id2label",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "num_layers",
    "patch_size",
    "sample_size",
    "num_embeds_ada_norm",
    "norm_eps",
    "norm_num_groups",  # of a group norm that there is not
    "upcast_attention",  # of half precision alone
}
ONLY = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "double_self_attention": False,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
    "only_cross_attention": False,
    "use_linear_projection": False,
}


def holds(folder: Path) -> bool:
    """Whether a folder is of this kind: a pipeline around a transformer."""
    return (folder / "transformer" / "config.json").exists()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The transformer's config, with those of the others as `vae` and `scheduler` and names of classes as
    `id2label`; and all weights, their names preceded by that of the part.

    Raises:
        BadInput: it is another network; a part or file is missing, damaged, or holds code.
    """
    config = hf_folder.read_json(folder / "transformer" / "config.json")
    if config.get("_class_name") not in CLASSES:
        raise BadInput(f"{folder} holds a {config.get('_class_name')}; implemented is {CLASSES[0]}")
    missing = [name for name in ("vae", "scheduler") if not (folder / name).is_dir()]
    if missing:
        raise BadInput(f"{folder} has no {missing[0]}: a folder of DiT has transformer, vae and scheduler")
    _, tensors = hf_folder.read(folder / "transformer", diffusers.WEIGHTS)
    config["vae"], decoding = kl_autoencoder.read(folder / "vae")
    config["scheduler"] = hf_folder.read_json(folder / "scheduler" / "scheduler_config.json")
    index = folder / "model_index.json"
    config["id2label"] = hf_folder.read_json(index).get("id2label") if index.exists() else None
    named = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    named |= {f"vae.{name}": tensor for name, tensor in decoding.items()}
    # no weight there, but a setting
    scale = hf_folder.get_number(config["vae"], "scaling_factor", kl_autoencoder.DEFAULT_SCALE)
    return config, named | {"vae.latent_scale": torch.tensor(float(scale))}


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The variant, and its keyword arguments.

    Raises:
        BadInput: a setting that is not implemented, by its name; parts that do not go together.
    """
    hf_folder.reject_unsupported(config, USED, ONLY)
    arguments = denoiser_config(config)
    vae = config.get("vae")
    if vae is None:
        raise BadInput("the config has no vae: a folder of DiT has transformer, vae and scheduler")
    autoencoder = kl_autoencoder.from_config(vae)
    if arguments.pop("channels") != autoencoder.latent_channels:
        raise BadInput(f"the transformer does not take the {autoencoder.latent_channels} channels of the vae")
    return "dit_xl_2", arguments | {
        "size": arguments["size"] * autoencoder.downsampling,
        "channels": autoencoder.channels,
        "autoencoder": vars(autoencoder),
        "process": diffusers.read_process(config.get("scheduler", {})),
    }


def denoiser_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `DiTConfig` that a transformer's config states, `size` and `channels` those of latents.

    Raises:
        BadInput: a setting that is no number; outputs of neither as many channels nor twice as many.
    """
    heads = hf_folder.get_number(config, "num_attention_heads", 16)
    channels = hf_folder.get_number(config, "in_channels", 4)
    outputs = config.get("out_channels") or channels
    if outputs not in (channels, 2 * channels):
        raise BadInput(
            f"the config sets out_channels = {outputs}; implemented are {channels} and {2 * channels}"
        )
    return {
        "width": heads * hf_folder.get_number(config, "attention_head_dim", 72),
        "depth": hf_folder.get_number(config, "num_layers", 28),
        "heads": heads,
        "patch": hf_folder.get_number(config, "patch_size", 2),
        "size": hf_folder.get_number(config, "sample_size", 32),
        "channels": channels,
        "num_classes": hf_folder.get_number(config, "num_embeds_ada_norm", 1000),
        "learned_sigma": outputs == 2 * channels,
        "eps_feed_forward": hf_folder.get_number(config, "norm_eps", 1e-5),
        "freq_shift": 1.0,
    }


# diffusers' parameter names to ours, applied in this order
RULES = (
    (r"^pos_embed\.proj", "patches"),
    (r"^transformer_blocks", "blocks"),
    (r"\.norm1\.linear", ".modulation"),
    (r"\.attn1\.to_([qkv])\.", r".attention.\1."),
    (r"\.attn1\.to_out\.0\.", ".attention.out."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.up."),
    (r"\.ff\.net\.2\.", ".feed_forward.down."),
    (r"^proj_out_1", "modulation"),
    (r"^proj_out_2", "head"),
)
EMBEDDER = ".norm1.emb."
EMBEDDER_RULES = (
    (r"^timestep_embedder\.linear_1", "time.0"),
    (r"^timestep_embedder\.linear_2", "time.2"),
    (r"^class_embedder\.embedding_table", "labels"),
)


def published_denoiser(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' parameter names of the transformer to ours; of the embedders the one that all are.

    Raises:
        BadInput: embedders of two blocks differ.
    """
    own: dict[str, Tensor] = {}
    embedder: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "pos_embed.pos_embed":  # fixed, and computed here
            continue
        block, found, rest = name.partition(EMBEDDER)
        if not found:
            own[name] = tensor
        elif rest not in embedder:
            embedder[rest] = tensor
        elif not torch.equal(embedder[rest], tensor):
            raise BadInput(f"{block} has another embedder than the first block; DiT has one for all of them")
    return fuse_qkv(rename_keys(own, RULES)) | rename_keys(embedder, EMBEDDER_RULES)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of `read` to ours.

    Raises:
        BadInput: embedders of two blocks differ.
    """
    parts: dict[str, dict[str, Tensor]] = {"transformer": {}, "vae": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    scale = parts["vae"].pop("latent_scale", torch.ones(()))
    autoencoder = kl_autoencoder.published({}, parts["vae"]) | {"latent_scale": scale}
    return {f"denoiser.{name}": each for name, each in published_denoiser(parts["transformer"]).items()} | {
        f"autoencoder.{name}": each for name, each in autoencoder.items()
    }
