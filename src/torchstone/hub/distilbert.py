"""DistilBERT in transformers' format: its config to our arguments, its parameter names to ours, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.hub.encoder_format import EncoderFormat

# our head for each of their classes; none has a pooler
HEADS = {
    "DistilBertModel": ("none", False),
    "DistilBertForMaskedLM": ("masked", False),
    "DistilBertForSequenceClassification": ("sentence", False),
    "DistilBertForTokenClassification": ("tokens", False),
}
# ours: theirs
NUMBERS = {
    "vocab_size": "vocab_size",
    "width": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "d_ff": "hidden_dim",
    "max_length": "max_position_embeddings",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
# defaults of transformers' classes, for what a config leaves out
DEFAULTS: dict[str, Any] = {
    "max_length": 512,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "classifier_dropout": 0.2,
    "activation": "gelu",
    "pad_id": 0,
    "tie_weights": True,
    "head": "none",
    "num_classes": 2,
}
FORMAT = EncoderFormat(
    model_type="distilbert",
    heads=HEADS,
    numbers=NUMBERS,
    defaults=DEFAULTS,
    our_layer="layers.#",
    their_layer="transformer.layer.#",
    inside=(
        ("attention.q", "attention.q_lin"),
        ("attention.k", "attention.k_lin"),
        ("attention.v", "attention.v_lin"),
        ("attention.out", "attention.out_lin"),
        ("norm1", "sa_layer_norm"),
        ("feed_forward.up", "ffn.lin1"),
        ("feed_forward.down", "ffn.lin2"),
        ("norm2", "output_layer_norm"),
    ),
    outside=(
        ("token_embedding", "embeddings.word_embeddings"),
        ("position_embedding", "embeddings.position_embeddings"),
        ("norm", "embeddings.LayerNorm"),
    ),
    head=(
        ("transform", "vocab_transform"),
        ("transform_norm", "vocab_layer_norm"),
        ("decoder", "vocab_projector"),
        ("pre_classifier", "pre_classifier"),
        ("classifier", "classifier"),
    ),
    activation="activation",
    width=("dim", "n_heads"),
    classifier_dropout="seq_classif_dropout",
    # positions are trained; the first release wrote `tie_weights_`
    only={"sinusoidal_pos_embds": False, "tie_weights_": True, "is_encoder_decoder": False},
    unused=frozenset({"qa_dropout"}),  # of a head that is not implemented
)
to_config = FORMAT.to_config


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    return "distilbert", FORMAT.from_config(config)


def match_weights(model_config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments for weights that hold the masked-word head beyond what the config's class has."""
    has_head = model_config["head"] == "none" and "vocab_transform.weight" in tensors
    return {**model_config, "head": "masked" if has_head else model_config["head"]}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours."""
    return FORMAT.published(tensors)


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones."""
    return FORMAT.unpublished(tensors)
