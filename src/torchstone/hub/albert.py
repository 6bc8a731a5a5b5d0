"""ALBERT in transformers' format: its config to our arguments, its parameter names to ours, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.encoder_format import EncoderFormat

# our head for each of their classes, and whether the class has a pooler
HEADS = {
    "AlbertModel": ("none", True),
    "AlbertForPreTraining": ("pretraining", True),
    "AlbertForMaskedLM": ("masked", False),
    "AlbertForSequenceClassification": ("sentence", True),
    "AlbertForTokenClassification": ("tokens", False),
}
# ours: theirs
NUMBERS = {
    "vocab_size": "vocab_size",
    "embedding_size": "embedding_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "groups": "num_hidden_groups",
    "group_layers": "inner_group_num",
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
    "embedding_size": 128,
    "groups": 1,
    "group_layers": 1,
    "num_segments": 2,
    "max_length": 512,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "classifier_dropout": 0.1,
    "eps": 1e-12,
    "activation": "gelu_new",
    "pad_id": 0,
    "tie_weights": True,
    "use_pooler": True,
    "head": "none",
    "num_classes": 2,
}
ONLY = {
    "position_embedding_type": ("absolute", None),
    "is_encoder_decoder": False,
    # of the first release, for networks that were never published
    "down_scale_factor": 1,
    "gap_size": 0,
    "layers_to_keep": [],
    "net_structure_type": 0,
    "num_memory_blocks": 0,
}
FORMAT = EncoderFormat(
    model_type="albert",
    heads=HEADS,
    numbers=NUMBERS,
    defaults=DEFAULTS,
    our_layer="groups.#.#",
    their_layer="encoder.albert_layer_groups.#.albert_layers.#",
    inside=(
        ("attention.q", "attention.query"),
        ("attention.k", "attention.key"),
        ("attention.v", "attention.value"),
        ("attention.out", "attention.dense"),
        ("norm1", "attention.LayerNorm"),
        ("feed_forward.up", "ffn"),
        ("feed_forward.down", "ffn_output"),
        ("norm2", "full_layer_layer_norm"),
    ),
    outside=(
        ("token_embedding", "embeddings.word_embeddings"),
        ("position_embedding", "embeddings.position_embeddings"),
        ("segment_embedding", "embeddings.token_type_embeddings"),
        ("norm", "embeddings.LayerNorm"),
        ("project", "encoder.embedding_hidden_mapping_in"),
        ("pooler", "pooler"),
    ),
    head=(
        ("transform", "predictions.dense"),
        ("transform_norm", "predictions.LayerNorm"),
        ("decoder", "predictions.decoder"),
        ("sentence_order", "sop_classifier.classifier"),
        ("classifier", "classifier"),
    ),
    second_bias="predictions.bias",
    order_head="sop_classifier.classifier",
    classifier_dropout="classifier_dropout_prob",
    only=ONLY,
)
match_weights, to_config = FORMAT.match_weights, FORMAT.to_config


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    arguments = FORMAT.from_config(config)
    if arguments["head"] == "pretraining" and (labels := hf_folder.num_labels(config)) != 2:
        raise BadInput(f"the config sets num_labels = {labels}; a pair has one of 2 orders")
    groups, layers = arguments["groups"], arguments["layers"]
    if not 1 <= groups <= layers or arguments["group_layers"] < 1:
        raise BadInput(
            f"the config sets num_hidden_groups = {groups} and inner_group_num = "
            f"{arguments['group_layers']}: at least 1 each, and not more groups than the {layers} layers"
        )
    return "albert_base", arguments


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours."""
    return FORMAT.published(tensors)


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones."""
    return FORMAT.unpublished(tensors)
