"""BERT as transformers writes it: what its config says, and its names for the weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

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
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "places": "max_position_embeddings",
    "segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "eps": "layer_norm_eps",
}
# what a config leaves out is as its class has it
USUAL: dict[str, Any] = {
    "segments": 2,
    "places": 512,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "classifier_dropout": None,
    "eps": 1e-12,
    "activation": "gelu",
    "pad": 0,
    "tied": True,
    "pooler": True,
    "head": "none",
    "num_classes": 2,
}
USED = {*NUMBERS.values(), "hidden_act", "pad_token_id", "tie_word_embeddings"}
USED |= {"classifier_dropout", "num_labels", "id2label", "label2id"}
ONLY = {
    "position_embedding_type": ("absolute", None),
    "is_encoder_decoder": False,
    # of the first release, for another pooler than any of its networks has
    "directionality": "bidi",
    "pooler_type": "first_token_transform",
}
# of the first release too: nothing was ever made of them
UNREAD = {f"pooler_{name}" for name in ("fc_size", "num_attention_heads", "num_fc_layers")}
UNREAD |= {"pooler_size_per_head"}


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    hf_folder.reject_unsupported(config, USED | UNREAD, ONLY)
    classes = config.get("architectures") or ["BertModel"]
    if classes[0] not in HEADS:
        raise BadInput(f"no head of {classes[0]!r} here; implemented are {', '.join(HEADS)}")
    head, pooler = HEADS[classes[0]]
    arguments = {
        name: hf_folder.get_number(config, theirs, USUAL.get(name)) for name, theirs in NUMBERS.items()
    }
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise BadInput(f"the config sets hidden_act = {activation!r}; implemented are {known}")
    if arguments["width"] % max(1, arguments["heads"]):
        raise BadInput(
            f"the config sets num_attention_heads = {arguments['heads']}, which does not divide "
            f"hidden_size = {arguments['width']}"
        )
    labels = config.get("num_labels") or len(config.get("id2label") or {}) or 2
    return "bert_base", {
        **arguments,
        "activation": activation,
        "pad": config.get("pad_token_id", 0),
        "tied": config.get("tie_word_embeddings", True),
        "pooler": pooler,
        "head": head,
        "num_classes": labels if head in ("sentence", "tokens") else 2,
        "classifier_dropout": config.get("classifier_dropout"),
    }


def match_weights(arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments for weights that hold more, or less, than the config's class has: the published
    files of "BertForMaskedLM" have the pooler and the next-sentence head too."""
    pooler = any("pooler." in name for name in tensors)
    head = arguments["head"]
    if head == "masked" and pooler and "cls.seq_relationship.weight" in tensors:
        head = "pretraining"
    if head == "none" and "cls.predictions.bias" in tensors:
        head = "pretraining" if "cls.seq_relationship.weight" in tensors else "masked"
    needs = head in ("pretraining", "sentence")
    return {**arguments, "head": head, "pooler": pooler or needs}


def to_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What `transformers` has to know to make the same network."""
    arguments = {**USUAL, **arguments}
    head = arguments["head"]
    name = next(name for name, (own, _) in HEADS.items() if own == head)
    config: dict[str, Any] = {"architectures": [name], "model_type": "bert"}
    config |= {theirs: arguments[ours] for ours, theirs in NUMBERS.items()}
    config |= {
        "hidden_act": arguments["activation"],
        "pad_token_id": arguments["pad"],
        "tie_word_embeddings": arguments["tied"],
        "classifier_dropout": arguments["classifier_dropout"],
        "dtype": "float32",
    }
    if head in ("sentence", "tokens"):
        config["num_labels"] = count = arguments["num_classes"]
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
    return config


# (ours, theirs) of what is in a layer, and of what is not; queries, keys and values are apart there
THREE = {"q": "query", "k": "key", "v": "value"}
LAYER = (
    *((f"attention.{ours}", f"attention.self.{theirs}") for ours, theirs in THREE.items()),
    ("attention.out", "attention.output.dense"),
    ("norm1", "attention.output.LayerNorm"),
    ("feed_forward.up", "intermediate.dense"),
    ("feed_forward.down", "output.dense"),
    ("norm2", "output.LayerNorm"),
)
WHOLE = (
    ("word", "embeddings.word_embeddings"),
    ("place", "embeddings.position_embeddings"),
    ("segment", "embeddings.token_type_embeddings"),
    ("norm", "embeddings.LayerNorm"),
    ("pooler", "pooler.dense"),
)
HEAD = (
    ("transform", "cls.predictions.transform.dense"),
    ("transform_norm", "cls.predictions.transform.LayerNorm"),
    ("decoder", "cls.predictions.decoder"),
    ("follows", "cls.seq_relationship"),
    ("classifier", "classifier"),
)
OURS = {theirs: ours for ours, theirs in (*LAYER, *WHOLE, *HEAD)}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours; those of the first release (`gamma`, `beta`) too."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        if name.endswith("position_ids"):
            continue  # 0, 1, 2, … were once saved as well
        if name == "cls.predictions.bias":
            # one parameter, two names; where they differ, it is idle
            if "cls.predictions.decoder.bias" in tensors:
                continue
            name = "cls.predictions.decoder.bias"
        layer = re.match(r"encoder\.layer\.(\d+)\.(.*)\.(weight|bias)$", name)
        begin, inner, end = layer.groups() if layer else ("", *_cut(name))
        ours = OURS.get(inner, inner)
        found[f"layers.{begin}.{ours}.{end}" if layer else f"{ours}.{end}".strip(".")] = value
    whole = fuse_qkv(found)
    for name in whole:
        if apart := re.search(r"\.attention\.([qkv])\.", name):
            lost = next(p for p in "qkv" if name.replace(f".{apart[1]}.", f".{p}.") not in found)
            raise BadInput(f"the weights have no {THREE[lost]} beside {name}")
    return whole


def _cut(name: str) -> tuple[str, str]:
    begin, _, end = name.rpartition(".")
    return begin or end, end if begin else ""


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones."""
    theirs = {ours: name for name, ours in OURS.items()}
    headed = any(_cut(key)[0] in dict(HEAD) for key in tensors)
    front, found = "bert." if headed else "", {}
    for key, value in split_qkv(tensors).items():
        name, end = _cut(key)
        layer = re.match(r"layers\.(\d+)\.(.*)$", name)
        begin = f"{front}encoder.layer.{layer[1]}." if layer else front
        inner = layer[2] if layer else name
        if inner in dict(HEAD):
            found[f"{theirs[inner]}.{end}"] = value
            if key == "decoder.bias":
                found["cls.predictions.bias"] = value
        else:
            found[f"{begin}{theirs[inner]}.{end}"] = value
    return found
