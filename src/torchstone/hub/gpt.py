"""GPT-1 and GPT-2 as transformers writes them: what their configs say, and their names for the weights."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

# ours: theirs, and what their classes take where nothing is said
NUMBERS = {
    "vocabulary": ("vocab_size", None),
    "context": ("n_positions", None),
    "width": ("n_embd", None),
    "depth": ("n_layer", None),
    "heads": ("n_head", None),
    "dropout": ("resid_pdrop", 0.1),
    "embedding_dropout": ("embd_pdrop", 0.1),
    "attention_dropout": ("attn_pdrop", 0.1),
    "eps": ("layer_norm_epsilon", 1e-5),
}
CLASSES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "openai-gpt": ("OpenAIGPTLMHeadModel", "OpenAIGPTModel"),
}
# GPT-1's class calls them by other names, and by "gelu" means the approximation
FIRST = {"relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu_new"}
USED = {theirs for theirs, _ in NUMBERS.values()} | {"tie_word_embeddings", "pad_token_id", "n_ctx"}
SECOND = {"n_inner", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"}
# of heads that classify, which are refused
SUMMARY = {f"summary_{end}" for end in ("activation", "first_dropout", "proj_to_labels", "type")}
SUMMARY |= {"summary_use_proj", "num_labels", "n_special", "predict_special_tokens"}
ONLY = {"reorder_and_upcast_attn": False, "is_encoder_decoder": False}


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

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
    arguments = {
        ours: hf_folder.get_number(config, theirs, usual) for ours, (theirs, usual) in NUMBERS.items()
    }
    if config.get("n_ctx", arguments["context"]) != arguments["context"]:
        raise BadInput(
            f"the config sets n_ctx = {config['n_ctx']!r}; implemented here is n_positions, "
            f"{arguments['context']}"
        )
    if arguments["width"] % max(1, arguments["heads"]):
        raise BadInput(
            f"the config sets n_head = {arguments['heads']}, which does not divide "
            f"n_embd = {arguments['width']}"
        )
    name, usual, known = ("afn", "gelu", FIRST) if first else ("activation_function", "gelu_new", ACTIVATIONS)
    activation = config.get(name, usual)
    if activation not in known:
        raise BadInput(f"the config sets {name} = {activation!r}; implemented are {', '.join(known)}")
    arguments |= {"tied": bool(config.get("tie_word_embeddings", True)), "post_norm": first}
    if first:
        return "gpt1", {**arguments, "activation": FIRST[activation]}
    if config.get("n_inner") is not None:
        arguments["inner"] = hf_folder.get_number(config, "n_inner")
    return "gpt2", {
        **arguments,
        "activation": activation,
        "scaled": bool(config.get("scale_attn_weights", True)),
        "scaled_by_layer": bool(config.get("scale_attn_by_inverse_layer_idx", False)),
    }


def to_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers has to know to make the same network."""
    first = arguments.get("post_norm", False)
    family = "openai-gpt" if first else "gpt2"
    config: dict[str, Any] = {"architectures": [CLASSES[family][0]], "model_type": family}
    usual = {"eps": 1e-5, "dropout": 0.0}
    for ours, (theirs, _) in NUMBERS.items():
        value = arguments.get(ours, usual.get(ours))
        # what is not said is as the rest of the network has it
        config[theirs] = arguments.get("dropout", 0.0) if value is None else value
    config |= {"tie_word_embeddings": arguments.get("tied", True), "dtype": "float32"}
    activation = arguments.get("activation", "gelu_new")
    if first:
        names = {ours: theirs for theirs, ours in FIRST.items() if theirs != "swish"}
        wide = 4 * arguments["width"]
        if activation not in names or arguments.get("inner", wide) not in (None, wide):
            raise BadInput("transformers' GPT-1 has no such feed-forward layers")
        return config | {"afn": names[activation]}
    return config | {
        "activation_function": activation,
        "n_inner": arguments.get("inner"),
        "scale_attn_weights": arguments.get("scaled", True),
        "scale_attn_by_inverse_layer_idx": arguments.get("scaled_by_layer", False),
    }


# (ours, theirs): the same inside of a layer in both families
LAYER = (
    ("norm1", "ln_1"),
    ("attention.qkv", "attn.c_attn"),
    ("attention.out", "attn.c_proj"),
    ("norm2", "ln_2"),
    ("feed.up", "mlp.c_fc"),
    ("feed.down", "mlp.c_proj"),
)
SECOND_NAMES = (("tokens", "wte"), ("places", "wpe"), ("norm", "ln_f"), ("head", "lm_head"))
FIRST_NAMES = (("tokens", "tokens_embed"), ("places", "positions_embed"), ("head", "lm_head"))
OURS = {theirs: ours for ours, theirs in (*LAYER, *SECOND_NAMES, *FIRST_NAMES)}
PRODUCTS = ("attention.qkv", "attention.out", "feed.up", "feed.down")


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours: their products are (in, out); nanoGPT's, with the same names,
    are (out, in), which the shape of the first one tells."""
    shapes = (t.shape for name, t in tensors.items() if name.endswith("attn.c_attn.weight"))
    shape = next(shapes, (1, 3))
    turned, found = shape[1] == 3 * shape[0], {}
    for key, value in tensors.items():
        name = key.removeprefix("_orig_mod.").removeprefix("transformer.")
        if re.search(r"\.attn\.(masked_)?bias$", name):
            continue  # the causal mask was once saved as well
        name, _, end = name.rpartition(".")
        layer = re.match(r"h\.(\d+)\.(.*)$", name)
        inner = OURS.get(layer[2] if layer else name, name)
        if turned and end == "weight" and layer and inner in PRODUCTS:
            value = value.T
        begin = f"layers.{layer[1]}." if layer else ""
        found[f"{begin}{inner}.{end}"] = value
    return found


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to transformers'; its networks have biases everywhere, ours perhaps zeros."""
    first = "norm.weight" not in tensors
    theirs = dict((*LAYER, *(FIRST_NAMES if first else SECOND_NAMES)))
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        layer = re.match(r"layers\.(\d+)\.(.*)$", name)
        inner = layer[2] if layer else name
        begin = "" if inner == "head" else "transformer."
        begin += f"h.{layer[1]}." if layer else ""
        turned = value.T if inner in PRODUCTS and end == "weight" else value
        found[f"{begin}{theirs[inner]}.{end}"] = turned.contiguous()
        biased = inner in PRODUCTS or "norm" in inner
        if biased and end == "weight" and f"{name}.bias" not in tensors:
            found[f"{begin}{theirs[inner]}.bias"] = torch.zeros(len(value), dtype=value.dtype)
    return found
