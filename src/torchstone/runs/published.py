"""Published models in Hugging Face layout, with the metadata that `predict`, `eval` and `export` use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from torchstone.errors import BadInput
from torchstone.hub.weight_files import read_settings, stated_statistics
from torchstone.systems import System

MAX_LENGTH = 512  # tokens of a text, where the network has no largest


def load_published(folder: Path, device: str = "cpu") -> tuple[nn.Module, dict[str, Any], System]:
    """The model in a folder that `load` takes, its metadata, and its system's entry.

    Raises:
        BadInput: the folder is not whole, or lacks what its inputs are prepared with.
    """
    from torchstone.engine.device import select_device
    from torchstone.runs.load import from_layout

    model, config, entry, variant, model_config = from_layout(folder)
    metadata = {"variant": variant, "model_config": model_config, "data": f"published in {folder}"}
    if entry.name == "vit":
        metadata |= _image_metadata(folder, config, model_config)
    elif entry.name in ("bert", "gpt", "t5"):
        metadata |= _text_metadata(folder, entry.name, config, model_config)
    else:
        raise BadInput(f"{folder} holds a {entry.name}: it is loaded in Python, by ts.load")
    return model.to(select_device(device)).eval(), metadata, entry


def class_names(config: Mapping[str, Any], count: int) -> list[str]:
    """The names of `id2label`, in the order of the outputs."""
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    return [names.get(i, f"LABEL_{i}") for i in range(count)]


def _image_metadata(folder: Path, config: Mapping[str, Any], model_config: dict[str, Any]) -> dict[str, Any]:
    size = model_config["image_size"]
    if not model_config["num_classes"]:
        raise BadInput(f"{folder} holds a network without classes: it is loaded in Python, by ts.load")
    if not isinstance(size, int):
        raise BadInput(f"{folder} holds a network for images of {size}: only squares are framed here")
    statistics = stated_statistics(folder / "config.json", read_settings(folder / "config.json"))
    if statistics is None:
        raise BadInput(
            f"{folder} does not say how images are normalized: preprocessor_config.json with image_mean and "
            "image_std is missing"
        )
    mean, std = statistics
    picture = {"size": size, "channels": model_config["channels"], "ink": False, "box": None, "native": size}
    picture |= {"mean": list(mean), "std": list(std)}
    classes = class_names(config, model_config["num_classes"])
    return {"task": "classify", "classes": classes, "picture": picture}


def _text_metadata(
    folder: Path, system: str, config: Mapping[str, Any], model_config: dict[str, Any]
) -> dict[str, Any]:
    from torchstone.data.text import tokenizers

    tokenizer = tokenizers.load(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    metadata: dict[str, Any] = {"tokenizer": tokenizers.to_metadata(tokenizer)}
    if system == "gpt":
        return metadata | {"task": "language"}
    if system == "t5":
        text = {"task": "texts", "max_length": MAX_LENGTH, "noise_density": 0.15, "mean_span_length": 3.0}
        return metadata | {"task": "texts", "beam_size": 1, "text": text}
    metadata["length"] = model_config["max_length"]
    head = model_config["head"]
    if head in ("masked", "pretraining"):
        return metadata | {"task": "masked", "pairs": head == "pretraining"}
    if head == "none":
        raise BadInput(f"{folder} holds a network without a head: it is loaded in Python, by ts.load")
    return metadata | {
        "task": "labels",
        "classes": class_names(config, model_config["num_classes"]),
        "has_word_labels": head == "tokens",
        "pairs": False,
        "max_examples": None,
    }
