"""The prior of DALL-E 2 in diffusers' layout: config and parameter names to ours, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.hub import hf_folder
from torchstone.hub.diffusers import choice
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

# field of `PriorConfig`: (diffusers' name, the default of its class)
NUMBERS = {
    "embed_dim": ("embedding_dim", 768),
    "max_length": ("num_embeddings", 77),
    "layers": ("num_layers", 20),
    "heads": ("num_attention_heads", 32),
    "head_dim": ("attention_head_dim", 64),
    "dropout": ("dropout", 0.0),
}
USED = {theirs for theirs, _ in NUMBERS.values()} | {
    "_class_name",
    "_diffusers_version",
    "scheduler",  # how it was sampled: not of the network
    "time_embed_act_fn",
    "norm_in_type",
    "embedding_proj_norm_type",
    "time_embed_dim",
}
NORMS: dict[Any, bool] = {None: False, "layer": True}

RULES = (
    (r"^time_embedding\.linear_1\.", "time.0."),
    (r"^time_embedding\.linear_2\.", "time.1."),
    (r"^proj_in\.", "embedding_in."),
    (r"^embedding_proj_norm\.", "text_norm."),
    (r"^embedding_proj\.", "text_embedding_in."),
    (r"^encoder_hidden_states_proj\.", "text_in."),
    (r"^positional_embedding$", "position_embedding"),
    (r"^prd_embedding$", "query"),
    (r"^transformer_blocks\.", "layers."),
    (r"\.attn1\.to_([qkv])\.", r".attention.\1."),
    (r"\.attn1\.to_out\.0\.", ".attention.out."),
    (r"\.norm3\.", ".norm2."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.up."),
    (r"\.ff\.net\.2\.", ".feed_forward.down."),
    (r"^norm_in\.", "input_norm."),
    (r"^norm_out\.", "final_norm."),
    (r"^proj_to_clip_embeddings\.", "out."),
    (r"^clip_(mean|std)$", r"\1"),
)
BACK = (
    (r"^time\.0\.", "time_embedding.linear_1."),
    (r"^time\.1\.", "time_embedding.linear_2."),
    (r"^embedding_in\.", "proj_in."),
    (r"^text_norm\.", "embedding_proj_norm."),
    (r"^text_embedding_in\.", "embedding_proj."),
    (r"^text_in\.", "encoder_hidden_states_proj."),
    (r"^position_embedding$", "positional_embedding"),
    (r"^query$", "prd_embedding"),
    (r"^layers\.", "transformer_blocks."),
    (r"\.attention\.([qkv])\.", r".attn1.to_\1."),
    (r"\.attention\.out\.", ".attn1.to_out.0."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"\.feed_forward\.up\.", ".ff.net.0.proj."),
    (r"\.feed_forward\.down\.", ".ff.net.2."),
    (r"^input_norm\.", "norm_in."),
    (r"^final_norm\.", "norm_out."),
    (r"^out\.", "proj_to_clip_embeddings."),
    (r"^(mean|std)$", r"clip_\1"),
)


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The variant, and its keyword arguments.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    dim = config.get("embedding_dim", 768)
    only = {
        "additional_embeddings": 4,
        "encoder_hid_proj_type": "linear",
        "added_emb_type": "prd",
        "embedding_proj_dim": (None, dim),
        "clip_embed_dim": (None, dim),
    }
    hf_folder.reject_unsupported(config, USED, only)
    model_config = {
        field: hf_folder.get_number(config, theirs, default) for field, (theirs, default) in NUMBERS.items()
    }
    model_config |= {
        "text_width": model_config["embed_dim"],
        "time_embed_dim": config.get("time_embed_dim"),
        "activation": choice(config, "time_embed_act_fn", {name: name for name in ACTIVATIONS}, "silu"),
    }
    for field, theirs in (("input_norm", "norm_in_type"), ("text_norm", "embedding_proj_norm_type")):
        model_config[field] = choice(config, theirs, NORMS, None)
    return "dalle2_prior", model_config


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' parameter names to ours."""
    return fuse_qkv(rename_keys(tensors, RULES))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameter names to diffusers'."""
    return rename_keys(split_qkv(tensors), BACK)
