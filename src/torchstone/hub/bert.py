"""BERT in transformers' format: its config to our arguments, its parameter names to ours, and back."""

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
USED = {*NUMBERS.values(), "hidden_act", "pad_token_id", "tie_word_embeddings"}
USED |= {"classifier_dropout", "num_labels", "id2label", "label2id"}
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


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    hf_folder.reject_unsupported(config, USED | UNUSED, ONLY)
    classes = config.get("architectures") or ["BertModel"]
    if classes[0] not in HEADS:
        raise BadInput(f"no head of {classes[0]!r} here; implemented are {', '.join(HEADS)}")
    head, use_pooler = HEADS[classes[0]]
    model_config = {
        name: hf_folder.get_number(config, theirs, DEFAULTS.get(name)) for name, theirs in NUMBERS.items()
    }
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise BadInput(f"the config sets hidden_act = {activation!r}; implemented are {known}")
    if model_config["width"] % max(1, model_config["heads"]):
        raise BadInput(
            f"the config sets num_attention_heads = {model_config['heads']}, which does not divide "
            f"hidden_size = {model_config['width']}"
        )
    labels = hf_folder.num_labels(config)
    return "bert_base", {
        **model_config,
        "activation": activation,
        "pad_id": config.get("pad_token_id", 0),
        "tie_weights": config.get("tie_word_embeddings", True),
        "use_pooler": use_pooler,
        "head": head,
        "num_classes": labels if head in ("sentence", "tokens") else 2,
        "classifier_dropout": config.get("classifier_dropout"),
    }


def match_weights(model_config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments for weights that hold more, or less, than the config's class: the published files
    of "BertForMaskedLM" have the pooler and the next-sentence head too."""
    has_pooler = any("pooler." in name for name in tensors)
    head = model_config["head"]
    if head == "masked" and has_pooler and "cls.seq_relationship.weight" in tensors:
        head = "pretraining"
    if head == "none" and "cls.predictions.bias" in tensors:
        head = "pretraining" if "cls.seq_relationship.weight" in tensors else "masked"
    needs_pooler = head in ("pretraining", "sentence")
    return {**model_config, "head": head, "use_pooler": has_pooler or needs_pooler}


def to_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of the same network."""
    model_config = {**DEFAULTS, **model_config}
    head = model_config["head"]
    name = next(name for name, (own, _) in HEADS.items() if own == head)
    config: dict[str, Any] = {"architectures": [name], "model_type": "bert"}
    config |= {theirs: model_config[ours] for ours, theirs in NUMBERS.items()}
    config |= {
        "hidden_act": model_config["activation"],
        "pad_token_id": model_config["pad_id"],
        "tie_word_embeddings": model_config["tie_weights"],
        "classifier_dropout": model_config["classifier_dropout"],
        "dtype": "float32",
    }
    if head in ("sentence", "tokens"):
        config["num_labels"] = count = model_config["num_classes"]
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
    return config


# (ours, theirs) inside of a layer and outside; transformers stores queries, keys and values separately
QKV = {"q": "query", "k": "key", "v": "value"}
LAYER = (
    *((f"attention.{ours}", f"attention.self.{theirs}") for ours, theirs in QKV.items()),
    ("attention.out", "attention.output.dense"),
    ("norm1", "attention.output.LayerNorm"),
    ("feed_forward.up", "intermediate.dense"),
    ("feed_forward.down", "output.dense"),
    ("norm2", "output.LayerNorm"),
)
OUTSIDE = (
    ("token_embedding", "embeddings.word_embeddings"),
    ("position_embedding", "embeddings.position_embeddings"),
    ("segment_embedding", "embeddings.token_type_embeddings"),
    ("norm", "embeddings.LayerNorm"),
    ("pooler", "pooler.dense"),
)
HEAD = (
    ("transform", "cls.predictions.transform.dense"),
    ("transform_norm", "cls.predictions.transform.LayerNorm"),
    ("decoder", "cls.predictions.decoder"),
    ("next_sentence", "cls.seq_relationship"),
    ("classifier", "classifier"),
)
OURS = {theirs: ours for ours, theirs in (*LAYER, *OUTSIDE, *HEAD)}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours, those of the first release (`gamma`, `beta`) included."""
    ours: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        if name.endswith(("position_ids", "token_type_ids")):
            continue  # 0, 1, 2, … and zeros were once saved as well
        if name == "cls.predictions.bias":
            # one parameter with two names; where they differ, this one is unused
            if "cls.predictions.decoder.bias" in tensors:
                continue
            name = "cls.predictions.decoder.bias"
        layer = re.match(r"encoder\.layer\.(\d+)\.(.*)\.(weight|bias)$", name)
        number, inner, end = layer.groups() if layer else ("", *_split_name(name))
        own = OURS.get(inner, inner)
        ours[f"layers.{number}.{own}.{end}" if layer else f"{own}.{end}".strip(".")] = value
    fused = fuse_qkv(ours)
    for name in fused:
        if match := re.search(r"\.attention\.([qkv])\.", name):
            missing = next(p for p in "qkv" if name.replace(f".{match[1]}.", f".{p}.") not in ours)
            raise BadInput(f"the weights have {name} but no {QKV[missing]}")
    return fused


def _split_name(name: str) -> tuple[str, str]:
    """`a.b.weight` as (`a.b`, `weight`)."""
    module, _, parameter = name.rpartition(".")
    return module or parameter, parameter if module else ""


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones."""
    theirs = {ours: name for name, ours in OURS.items()}
    has_head = any(_split_name(key)[0] in dict(HEAD) for key in tensors)
    prefix, published_tensors = "bert." if has_head else "", {}
    for key, value in split_qkv(tensors).items():
        name, end = _split_name(key)
        layer = re.match(r"layers\.(\d+)\.(.*)$", name)
        module = f"{prefix}encoder.layer.{layer[1]}." if layer else prefix
        inner = layer[2] if layer else name
        if inner in dict(HEAD):
            published_tensors[f"{theirs[inner]}.{end}"] = value
            if key == "decoder.bias":
                published_tensors["cls.predictions.bias"] = value
        else:
            published_tensors[f"{module}{theirs[inner]}.{end}"] = value
    return published_tensors
