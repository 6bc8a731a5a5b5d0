"""Longformer in transformers' format: its config to our arguments, its parameter names to ours, and back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import roberta
from torchstone.hub.roberta import count_tokens

# our head for each of their classes, and whether the class has a pooler
HEADS = {
    "LongformerModel": ("none", True),
    "LongformerForMaskedLM": ("masked", False),
    "LongformerForSequenceClassification": ("sentence", False),
    "LongformerForTokenClassification": ("tokens", False),
}
# defaults of transformers' classes, for what a config leaves out, but `max_length` counts tokens
DEFAULTS: dict[str, Any] = {
    "num_segments": 2,
    "max_length": 510,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "eps": 1e-12,
    "activation": "gelu",
    "pad_id": 1,
    "tie_weights": True,
    "use_pooler": True,
    "head": "none",
    "num_classes": 2,
    "attention_window": 512,
}
ONLY = {
    "position_embedding_type": ("absolute", None),
    "is_encoder_decoder": False,
    "onnx_export": False,
    # of the authors' own code
    "attention_mode": "longformer",
    "ignore_attention_mask": False,
}
FORMAT = replace(
    roberta.FORMAT,
    model_type="longformer",
    heads=HEADS,
    defaults={**DEFAULTS, "max_length": 512},
    inside=(
        *roberta.FORMAT.inside,
        ("attention.global_projection.q", "attention.self.query_global"),
        ("attention.global_projection.k", "attention.self.key_global"),
        ("attention.global_projection.v", "attention.self.value_global"),
    ),
    classifier_dropout=None,
    only=ONLY,
)


def windows_of(window: Any, layers: int, name: str = "attention_window") -> list[int]:
    """The window of each layer, both sides together.

    Raises:
        BadInput: there are not as many as layers; one is odd, or not positive.
    """
    windows = list(window) if isinstance(window, list | tuple) else [window] * layers
    if len(windows) != layers:
        raise BadInput(f"{name} gives {len(windows)} windows for {layers} layers")
    for layer, each in enumerate(windows):
        if isinstance(each, bool) or not isinstance(each, int) or each < 1 or each % 2:
            raise BadInput(
                f"{name} is {each!r} in layer {layer}: it must be an even number of tokens, half to each side"
            )
    return windows


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    config = {"pad_token_id": DEFAULTS["pad_id"], **config}
    window = config.pop("attention_window", DEFAULTS["attention_window"])
    if set(config.get("attention_dilation") or [1]) == {1}:
        config.pop("attention_dilation", None)
    arguments = count_tokens(FORMAT.from_config(config))
    arguments["attention_window"] = windows_of(window, arguments["layers"])
    return "longformer_base", arguments


def to_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of the same network.

    Raises:
        BadInput: it has dilated windows, which transformers' Longformer has not.
    """
    model_config = {**DEFAULTS, **model_config}
    dilation = model_config.get("dilation", 1)
    if {*(dilation if isinstance(dilation, list | tuple) else [dilation])} != {1}:
        raise BadInput(f"transformers' Longformer has no dilated windows, and this one has {dilation}")
    positions = model_config["max_length"] + model_config["pad_id"] + 1
    config = FORMAT.to_config({**model_config, "max_length": positions})
    windows = windows_of(model_config["attention_window"], model_config["layers"])
    return {**config, "attention_window": windows}


def match_weights(model_config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments for weights that hold more than the config's class: the masked-word head, a pooler."""
    head = model_config["head"]
    has_pooler = any("pooler." in name for name in tensors)
    if head == "none" and FORMAT.second_bias in tensors:
        head = "masked"
    return {**model_config, "head": head, "use_pooler": has_pooler}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours."""
    return FORMAT.published(tensors)


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones."""
    new = FORMAT.unpublished(tensors)
    if "pre_classifier.weight" in tensors:
        return new
    return {name.replace("classifier.out_proj.", "classifier."): value for name, value in new.items()}
