"""What the inference of several tasks shares: input files, and the answer about one of them."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.engine.console import notify
from torchstone.errors import BadInput, did_you_mean

# of files with texts in them
ENDINGS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".md", ".conll", ".pdf", ".docx")


def with_options(use: Callable[..., Any], request: type) -> Callable[..., Any]:
    """`use(model, metadata, **options)` with a signature that names the fields of `request`, a dataclass, as
    its options: what the command line and `ts.sample` offer and check."""
    outer = list(inspect.signature(use).parameters.values())[:2]
    options = inspect.signature(request).parameters.values()
    named = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    vars(use)["__signature__"] = inspect.Signature([*outer, *named])
    return use


def class_index(label: str | int, classes: Sequence[str]) -> int:
    """The index of a class by its name.

    Raises:
        BadInput: there is none of that name.
    """
    if str(label) not in classes:
        raise BadInput(f"no label {str(label)!r}: {did_you_mean(str(label), classes)}")
    return classes.index(str(label))


def list_files(inputs: Sequence[Path | str]) -> list[Path]:
    """The image files named, with folders replaced by those in them; what else lies there is said.

    Raises:
        BadInput: a folder without images.
    """
    files = []
    for each in map(Path, inputs):
        if not each.is_dir():
            files.append(each)
            continue
        inside = sorted(p for p in each.iterdir() if not p.name.startswith("."))
        images = [p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file()]
        # where no name says what it is, all may be images
        images = images or [p for p in inside if not p.suffix and p.is_file()]
        if not images:
            what = "holds no images" if inside else "is an empty folder"
            raise BadInput(f"{each} {what}: give image files, or a folder of them")
        if others := [p.name + "/" * p.is_dir() for p in inside if p not in images]:
            names = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
            notify(f"{each}: {len(images)} images; left out is what has no image's name: {names}")
        files += images
    return files


def files_in(metadata: Mapping[str, Any], source: str) -> list[str]:
    """What an input of `predict` stands for: of a folder the images or recordings in it, else itself.

    Raises:
        BadInput: a folder without any.
    """
    if not os.path.isdir(source):  # which, unlike Path's, takes texts longer than a file name
        return [source]
    if metadata.get("task") in ("speech", "voices", "audio_lm"):
        from torchstone.data.audio.files import expand_audio_paths

        return list(map(str, expand_audio_paths([source])))
    if {"picture", "image"} & set(metadata):
        return list(map(str, list_files([source])))
    return [source]


def refuse_file_names(texts: Iterable[str]) -> None:
    """For models that take texts themselves: a file's name would be taken for one.

    Raises:
        BadInput: a file, or what is named like one.
    """
    for text in texts:
        if not looks_like_a_file(text):
            continue
        if os.path.isfile(text):
            raise BadInput(
                f'{text} is a file, and this model takes texts: give what is in it, "$(cat {text})"'
            )
        raise BadInput(f"{text} is a file's name, and this model takes texts: give the text itself")


def looks_like_a_file(text: str) -> bool:
    """Whether a text is one word that ends as files do, or the path of one that is there."""
    if len(text.split()) != 1:
        return False
    return text.lower().endswith(ENDINGS) or (os.path.isfile(text) and ("/" in text or "." in text))


def label_prediction(name: str, classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, Any]:
    """The answer about the input `name`: its likeliest label, and the probability of each."""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return {
        "input": name,
        "label": classes[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }
