"""BERT in transformers' format: its config to our arguments, its parameter names to ours, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.hub.encoder_format import EncoderFormat

# our head for each of their classes, and whether the class has a pooler
HEADS = {
    "BertModel": ("none", True),
    "BertForPreTraining": ("pretraining", True),
    "BertForMaskedLM": ("masked", False),
    "BertForSequenceClassification": ("sentence", True),
    "BertForTokenClassification": ("tokens", False),
}
# ours: theirs
NUMBERS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "max_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "eps": "layer_norm_eps",
}
# defaults of transformers' classes, for what a config leaves out
DEFAULTS: dict[str, Any] = {
    "num_segments": 2,
    "max_length": 512,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "classifier_dropout": None,
    "eps": 1e-12,
    "activation": "gelu",
    "pad_id": 0,
    "tie_weights": True,
    "use_pooler": True,
    "head": "none",
    "num_classes": 2,
}
ONLY = {
    "position_embedding_type": ("absolute", None),
    "is_encoder_decoder": False,
    # of the first release, for another pooler than any of its networks has
    "directionality": "bidi",
    "pooler_type": "first_token_transform",
}
# of the first release too: no code ever used them
UNUSED = {f"pooler_{name}" for name in ("fc_size", "num_attention_heads", "num_fc_layers")}
UNUSED |= {"pooler_size_per_head"}
FORMAT = EncoderFormat(
    model_type="bert",
    heads=HEADS,
    numbers=NUMBERS,
    defaults=DEFAULTS,
    our_layer="layers.#",
    their_layer="encoder.layer.#",
    # (ours, theirs); transformers stores queries, keys and values separately
    inside=(
        ("attention.q", "attention.self.query"),
        ("attention.k", "attention.self.key"),
        ("attention.v", "attention.self.value"),
        ("attention.out", "attention.output.dense"),
        ("norm1", "attention.output.LayerNorm"),
        ("feed_forward.up", "intermediate.dense"),
        ("feed_forward.down", "output.dense"),
        ("norm2", "output.LayerNorm"),
    ),
    outside=(
        ("token_embedding", "embeddings.word_embeddings"),
        ("position_embedding", "embeddings.position_embeddings"),
        ("segment_embedding", "embeddings.token_type_embeddings"),
        ("norm", "embeddings.LayerNorm"),
        ("pooler", "pooler.dense"),
    ),
    head=(
        ("transform", "cls.predictions.transform.dense"),
        ("transform_norm", "cls.predictions.transform.LayerNorm"),
        ("decoder", "cls.predictions.decoder"),
        ("next_sentence", "cls.seq_relationship"),
        ("classifier", "classifier"),
    ),
    second_bias="cls.predictions.bias",
    order_head="cls.seq_relationship",
    classifier_dropout="classifier_dropout",
    only=ONLY,
    unused=frozenset(UNUSED),
)
match_weights, to_config = FORMAT.match_weights, FORMAT.to_config


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    return "bert_base", FORMAT.from_config(config)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours, those of the first release (`gamma`, `beta`) included."""
    return FORMAT.published(tensors)


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones."""
    return FORMAT.unpublished(tensors)
