"""RoBERTa in transformers' format, read as weights that others start from: its config to arguments, its
parameter names to those of `hub.bert`'s networks.

Positions are counted from `pad_token_id` + 1 on; ours are numbers of tokens.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import bert
from torchstone.hub.encoder_format import EncoderFormat

# our head for each of their classes, and whether the class has a pooler
HEADS = {
    "RobertaModel": ("none", True),
    "RobertaForMaskedLM": ("masked", False),
    "RobertaForSequenceClassification": ("sentence", False),
    "RobertaForTokenClassification": ("tokens", False),
}
# (ours, theirs)
HEAD = (
    ("transform", "lm_head.dense"),
    ("transform_norm", "lm_head.layer_norm"),
    ("decoder", "lm_head.decoder"),
    ("pre_classifier", "classifier.dense"),
    ("classifier", "classifier"),  # of words
    ("classifier", "classifier.out_proj"),  # of texts
)
FORMAT = EncoderFormat(
    model_type="roberta",
    heads=HEADS,
    numbers=bert.NUMBERS,
    defaults={**bert.DEFAULTS, "pad_id": 1},
    our_layer=bert.FORMAT.our_layer,
    their_layer=bert.FORMAT.their_layer,
    inside=bert.FORMAT.inside,
    outside=bert.FORMAT.outside,
    head=HEAD,
    second_bias="lm_head.bias",
    classifier_dropout="classifier_dropout",
    only={"position_embedding_type": ("absolute", None), "is_encoder_decoder": False},
)


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The base variant's name and the arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    return "longformer_base", count_tokens(FORMAT.from_config({"pad_token_id": 1, **config}))


def count_tokens(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose `max_length`, a number of position embeddings, becomes one of tokens.

    Raises:
        BadInput: there is no padding token to count from, or no position after it.
    """
    pad_id, length = arguments["pad_id"], arguments["max_length"]
    if not isinstance(pad_id, int) or pad_id < 0:
        raise BadInput(f"the config sets pad_token_id = {pad_id!r}; positions are counted from it on")
    if length <= pad_id + 1:
        raise BadInput(
            f"the config sets max_position_embeddings = {length} and pad_token_id = {pad_id}: "
            "no position is left for a token"
        )
    return {**arguments, "max_length": length - pad_id - 1}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours."""
    return FORMAT.published(tensors)
