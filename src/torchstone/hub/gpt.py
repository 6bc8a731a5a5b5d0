"""GPT-1 and GPT-2 in transformers' format: configs, and names of the weights."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

# our field: theirs, and its default in their classes
NUMBERS = {
    "vocab_size": ("vocab_size", None),
    "context": ("n_positions", None),
    "width": ("n_embd", None),
    "depth": ("n_layer", None),
    "heads": ("n_head", None),
    "dropout": ("resid_pdrop", 0.1),
    "embedding_dropout": ("embd_pdrop", 0.1),
    "attention_dropout": ("attn_pdrop", 0.1),
    "eps": ("layer_norm_epsilon", 1e-5),
}
CLASSES = {"gpt2": ("GPT2LMHeadModel", "GPT2Model"), "openai-gpt": ("OpenAIGPTLMHeadModel", "OpenAIGPTModel")}
# GPT-1's activations by our names; its "gelu" is the tanh approximation
FIRST = {"relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu_new"}
USED = {theirs for theirs, _ in NUMBERS.values()} | {"tie_word_embeddings", "pad_token_id", "n_ctx"}
SECOND = {"n_inner", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"}
# of classification heads, which are refused
SUMMARY = {f"summary_{end}" for end in ("activation", "first_dropout", "proj_to_labels", "type")}
SUMMARY |= {"summary_use_proj", "num_labels", "n_special", "predict_special_tokens"}
ONLY = {"reorder_and_upcast_attn": False, "is_encoder_decoder": False}


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The variant and the `GPTConfig` fields that a transformers config describes.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    family = config.get("model_type")
    if family not in CLASSES:
        raise BadInput(f"the config is of model_type {family!r}, not {' or '.join(CLASSES)}")
    first = family == "openai-gpt"
    hf_folder.reject_unsupported(config, USED | SUMMARY | ({"afn"} if first else SECOND), ONLY)
    classes = config.get("architectures") or CLASSES[family]
    if classes[0] not in CLASSES[family]:
        raise BadInput(f"no head of {classes[0]!r} here; implemented is {CLASSES[family][0]}")
    fields = {
        ours: hf_folder.get_number(config, theirs, default) for ours, (theirs, default) in NUMBERS.items()
    }
    if config.get("n_ctx", fields["context"]) != fields["context"]:
        raise BadInput(
            f"the config sets n_ctx = {config['n_ctx']!r}; implemented here is n_positions, "
            f"{fields['context']}"
        )
    if fields["width"] % max(1, fields["heads"]):
        raise BadInput(
            f"the config sets n_head = {fields['heads']}, which does not divide n_embd = {fields['width']}"
        )
    if first:
        name, default, known = "afn", "gelu", FIRST
    else:
        name, default, known = "activation_function", "gelu_new", ACTIVATIONS
    activation = config.get(name, default)
    if activation not in known:
        raise BadInput(f"the config sets {name} = {activation!r}; implemented are {', '.join(known)}")
    fields |= {"tie_embeddings": bool(config.get("tie_word_embeddings", True)), "post_norm": first}
    if first:
        return "gpt1", {**fields, "activation": FIRST[activation]}
    if config.get("n_inner") is not None:
        fields["d_ff"] = hf_folder.get_number(config, "n_inner")
    return "gpt2", {
        **fields,
        "activation": activation,
        "scale_attention": bool(config.get("scale_attn_weights", True)),
        "scale_attention_by_layer": bool(config.get("scale_attn_by_inverse_layer_idx", False)),
    }


def to_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers config of a network with these `GPTConfig` fields.

    Raises:
        BadInput: a window, or feed-forward layers that its GPT-1 has not.
    """
    if fields.get("window") is not None:
        raise BadInput("transformers' GPT has no window: each token attends to all before it")
    first = fields.get("post_norm", False)
    family = "openai-gpt" if first else "gpt2"
    config: dict[str, Any] = {"architectures": [CLASSES[family][0]], "model_type": family}
    defaults = {"eps": 1e-5, "dropout": 0.0}
    for ours, (theirs, _) in NUMBERS.items():
        value = fields.get(ours, defaults.get(ours))
        # a dropout that is not set is that of the residual branches
        config[theirs] = fields.get("dropout", 0.0) if value is None else value
    config |= {"tie_word_embeddings": fields.get("tie_embeddings", True), "dtype": "float32"}
    activation = fields.get("activation", "gelu_new")
    if first:
        names = {ours: theirs for theirs, ours in FIRST.items() if theirs != "swish"}
        d_ff = 4 * fields["width"]
        if activation not in names or fields.get("d_ff", d_ff) not in (None, d_ff):
            raise BadInput("transformers' GPT-1 has no such feed-forward layers")
        return config | {"afn": names[activation]}
    return config | {
        "activation_function": activation,
        "n_inner": fields.get("d_ff"),
        "scale_attn_weights": fields.get("scale_attention", True),
        "scale_attn_by_inverse_layer_idx": fields.get("scale_attention_by_layer", False),
    }


# (ours, theirs): the same inside a block in both families
BLOCK = (
    ("norm1", "ln_1"),
    ("attention.qkv", "attn.c_attn"),
    ("attention.out", "attn.c_proj"),
    ("norm2", "ln_2"),
    ("mlp.up", "mlp.c_fc"),
    ("mlp.down", "mlp.c_proj"),
)
SECOND_NAMES = (
    ("token_embedding", "wte"),
    ("position_embedding", "wpe"),
    ("final_norm", "ln_f"),
    ("head", "lm_head"),
)
FIRST_NAMES = (
    ("token_embedding", "tokens_embed"),
    ("position_embedding", "positions_embed"),
    ("head", "lm_head"),
)
OURS = {theirs: ours for ours, theirs in (*BLOCK, *SECOND_NAMES, *FIRST_NAMES)}
PROJECTIONS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, from the published ones.

    The published projections are (in, out); nanoGPT's, with the same names, are (out, in). The shape of
    the first one shows which.
    """
    shapes = (t.shape for name, t in tensors.items() if name.endswith("attn.c_attn.weight"))
    shape = next(shapes, (1, 3))
    is_transposed = shape[1] == 3 * shape[0]
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key.removeprefix("transformer.")
        if re.search(r"\.attn\.(masked_)?bias$", name):
            continue  # the causal mask was once saved as well
        name, _, end = name.rpartition(".")
        block = re.match(r"h\.(\d+)\.(.*)$", name)
        ours = OURS.get(block[2] if block else name, name)
        if is_transposed and end == "weight" and block and ours in PROJECTIONS:
            value = value.T
        prefix = f"blocks.{block[1]}." if block else ""
        weights[f"{prefix}{ours}.{end}"] = value
    return weights


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by transformers' names, from ours; its networks have biases everywhere: zeros, where ours
    has none."""
    first = "final_norm.weight" not in tensors
    theirs = dict((*BLOCK, *(FIRST_NAMES if first else SECOND_NAMES)))
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        block = re.match(r"blocks\.(\d+)\.(.*)$", name)
        ours = block[2] if block else name
        prefix = "" if ours == "head" else "transformer."
        prefix += f"h.{block[1]}." if block else ""
        transposed = value.T if ours in PROJECTIONS and end == "weight" else value
        weights[f"{prefix}{theirs[ours]}.{end}"] = transposed.contiguous()
        has_bias = ours in PROJECTIONS or "norm" in ours
        if has_bias and end == "weight" and f"{name}.bias" not in tensors:
            weights[f"{prefix}{theirs[ours]}.bias"] = torch.zeros(len(value), dtype=value.dtype)
    return weights
