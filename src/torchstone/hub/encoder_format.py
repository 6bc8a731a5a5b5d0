"""How transformers stores BERT and its relatives: config, classes and parameter names; and both ways between
theirs and ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

Pairs = tuple[tuple[str, str], ...]  # (ours, theirs)
QKV = ("q", "k", "v")


@dataclass(frozen=True)
class EncoderFormat:
    """One family of encoders. In names of layers `#` stands for a number."""

    model_type: str
    heads: Mapping[str, tuple[str, bool]]  # their class: our head, and whether it has a pooler
    numbers: Mapping[str, str]  # settings that are numbers, ours: theirs
    defaults: Mapping[str, Any]  # our arguments as their classes have them where a config leaves them out
    our_layer: str
    their_layer: str
    inside: Pairs  # of a layer
    outside: Pairs
    head: Pairs
    second_bias: str | None = None  # another name of the bias of the output matrix
    order_head: str | None = None  # theirs, of a head for pairs
    activation: str = "hidden_act"
    width: tuple[str, str] = ("hidden_size", "num_attention_heads")  # the second divides the first
    classifier_dropout: str | None = None
    only: Mapping[str, Any] = field(default_factory=dict)  # settings implemented at one value, or several
    unused: frozenset[str] = frozenset()
    prefix: str | None = None  # of the encoder's names beside a head; by default `model_type`

    def from_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our arguments.

        Raises:
            BadInput: a setting that is not implemented; the message names it.
        """
        used = {*self.numbers.values(), self.activation, "pad_token_id", "tie_word_embeddings", "num_labels"}
        used |= {"id2label", "label2id", *([self.classifier_dropout] if self.classifier_dropout else [])}
        hf_folder.reject_unsupported(config, used | self.unused, self.only)
        classes = config.get("architectures") or list(self.heads)
        if classes[0] not in self.heads:
            raise BadInput(f"no head of {classes[0]!r} here; implemented are {', '.join(self.heads)}")
        head, use_pooler = self.heads[classes[0]]
        arguments = {
            name: hf_folder.get_number(config, theirs, self.defaults.get(name))
            for name, theirs in self.numbers.items()
        }
        activation = config.get(self.activation, self.defaults["activation"])
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise BadInput(f"the config sets {self.activation} = {activation!r}; implemented are {known}")
        if arguments["width"] % max(1, arguments["heads"]):
            width, heads = self.width
            raise BadInput(
                f"the config sets {heads} = {arguments['heads']}, which does not divide "
                f"{width} = {arguments['width']}"
            )
        labels, pad_id = hf_folder.num_labels(config), config.get("pad_token_id", 0)
        if isinstance(pad_id, bool) or not isinstance(pad_id, int | None):
            raise BadInput(f"the config sets pad_token_id = {pad_id!r}, which is no token's number")
        arguments |= {
            "activation": activation,
            "pad_id": pad_id,
            "tie_weights": hf_folder.get_flag(config, "tie_word_embeddings", True),
            "head": head,
            "num_classes": labels if head in ("sentence", "tokens") else 2,
        }
        if "use_pooler" in self.defaults:
            arguments["use_pooler"] = use_pooler
        if self.classifier_dropout:
            default = self.defaults["classifier_dropout"]
            arguments["classifier_dropout"] = config.get(self.classifier_dropout, default)
        return arguments

    def to_config(self, model_config: Mapping[str, Any]) -> dict[str, Any]:
        """transformers' config of the same network."""
        model_config = {**self.defaults, **model_config}
        head = model_config["head"]
        name = next(name for name, (own, _) in self.heads.items() if own == head)
        config: dict[str, Any] = {"architectures": [name], "model_type": self.model_type}
        config |= {theirs: model_config[ours] for ours, theirs in self.numbers.items()}
        config |= {
            self.activation: model_config["activation"],
            "pad_token_id": model_config["pad_id"],
            "tie_word_embeddings": model_config["tie_weights"],
            "dtype": "float32",
        }
        if self.classifier_dropout:
            config[self.classifier_dropout] = model_config["classifier_dropout"]
        if head in ("sentence", "tokens"):
            config["num_labels"] = count = model_config["num_classes"]
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
        return config

    def match_weights(self, model_config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments for weights that hold more, or less, than the config's class: published files of a
        masked language model may have the pooler and the head for pairs too."""
        has_pooler = any("pooler." in name for name in tensors)
        has_order = self.order_head is not None and f"{self.order_head}.weight" in tensors
        head = model_config["head"]
        if head == "masked" and has_pooler and has_order:
            head = "pretraining"
        if head == "none" and self.second_bias in tensors:
            head = "pretraining" if has_order else "masked"
        needs_pooler = head in ("pretraining", "sentence")
        return {**model_config, "head": head, "use_pooler": has_pooler or needs_pooler}

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From the published names to ours, those of the first releases (`gamma`, `beta`) included."""
        own_names = {theirs: ours for ours, theirs in (*self.inside, *self.outside, *self.head)}
        pattern = re.compile(re.escape(self.their_layer).replace(r"\#", r"(\d+)") + r"\.(.*)\.(weight|bias)$")
        ours: dict[str, Tensor] = {}
        for key, value in tensors.items():
            name = key.removeprefix(f"{self.prefix or self.model_type}.").replace(".gamma", ".weight")
            name = name.replace(".beta", ".bias")
            if name.endswith(("position_ids", "token_type_ids")):
                continue  # 0, 1, 2, … and zeros were once saved as well
            if name == self.second_bias:
                # one parameter with two names; where they differ, this one is unused
                if f"{dict(self.head)['decoder']}.bias" in tensors:
                    continue
                name = f"{dict(self.head)['decoder']}.bias"
            if layer := pattern.match(name):
                *numbers, inner, end = layer.groups()
                ours[f"{_numbered(self.our_layer, numbers)}.{own_names.get(inner, inner)}.{end}"] = value
            else:
                inner, end = split_name(name)
                ours[f"{own_names.get(inner, inner)}.{end}".strip(".")] = value
        fused = fuse_qkv(ours)
        for name in fused:
            if match := re.search(r"\.attention\.([qkv])\.", name):
                missing = next(p for p in QKV if name.replace(f".{match[1]}.", f".{p}.") not in ours)
                theirs = dict(self.inside)[f"attention.{missing}"].split(".")[-1]
                raise BadInput(f"the weights have {name} but no {theirs}")
        return fused

    def unpublished(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From our names to the published ones."""
        theirs, heads = dict((*self.inside, *self.outside, *self.head)), dict(self.head)
        pattern = re.compile(re.escape(self.our_layer).replace(r"\#", r"(\d+)") + r"\.(.*)$")
        has_head = any(split_name(key)[0] in heads for key in tensors)
        prefix, published_tensors = f"{self.prefix or self.model_type}." if has_head else "", {}
        for key, value in split_qkv(tensors).items():
            name, end = split_name(key)
            if layer := pattern.match(name):
                *numbers, inner = layer.groups()
                module = f"{prefix}{_numbered(self.their_layer, numbers)}."
            else:
                module, inner = "" if name in heads else prefix, name
            published_tensors[f"{module}{theirs[inner]}.{end}"] = value
            if key == "decoder.bias" and self.second_bias:
                published_tensors[self.second_bias] = value
        return published_tensors


def split_name(name: str) -> tuple[str, str]:
    """`a.b.weight` as (`a.b`, `weight`)."""
    module, _, parameter = name.rpartition(".")
    return module or parameter, parameter if module else ""


def _numbered(template: str, numbers: list[str]) -> str:
    """`layers.#` with its number."""
    for number in numbers:
        template = template.replace("#", number, 1)
    return template
