"""What a diffusion is told of a picture: nothing, its label, or its caption; in training and when asked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from torchstone.data.text.tokenizers import from_metadata, to_metadata
from torchstone.data.vision.captioned import Captioned, asked, ids, load_captioned, words
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images
from torchstone.errors import BadInput, did_you_mean

# from labels, and of which to keep silent, to contexts
Tell = Callable[[Int64[Tensor, " share"], Bool[Tensor, " share"]], Tensor]
PLACES = 10  # tokens of a caption that are read, its beginning included


class Material(NamedTuple):
    """Pictures, what the network that is to be told of them is made with, how it is told, and what
    its metadata has to say of that."""

    data: Any
    model_config: dict[str, Any]
    tell: Tell | None
    metadata: dict[str, Any]

    def in_turn(self, count: int) -> tuple[Int64[Tensor, "count *places"] | None, list[str]]:
        """What each of `count` pictures on a sheet is asked to show, and its name: each class in turn;
        captions of training and of held-out pictures by turns, evenly chosen; nothing for nothing."""
        if self.tell is None:
            return None, []
        if not isinstance(self.data, Captioned):
            labels = torch.arange(count) % len(self.data.classes)
        else:
            splits = [split.labels.cpu() for split in (self.data.train, self.data.val)]
            half = (count + 1) // 2
            picked = [each[torch.linspace(0, len(each) - 1, half).long()] for each in splits]
            labels = torch.stack(picked, 1).flatten()[:count]
        device = self.data.train.labels.device
        told = self.tell(labels.to(device), torch.zeros(count, dtype=torch.bool, device=device))
        return told.cpu(), captions_of(self.data, labels)

    def some(
        self, split: ImageSplit, most: int
    ) -> tuple[Tensor | None, UInt8[Tensor, "count 3 height width"]]:
        """What up to `most` evenly chosen pictures of a split are told by, and these pictures."""
        rows = torch.linspace(0, len(split) - 1, min(most, len(split))).long()
        labels = split.labels[rows.to(split.labels.device)]
        silent = torch.zeros(len(rows), dtype=torch.bool, device=labels.device)
        return self.tell(labels, silent) if self.tell else None, split.take(rows).cpu()


def material(recipe: Any, model_config: dict[str, Any], device: torch.device) -> Material:
    """The recipe's data, fitted to the network of `arguments`, and its `condition`.

    Raises:
        BadInput: the data cannot be read, or the network reads no captions.
    """
    process = {"schedule": recipe.noise, "levels": recipe.levels, "told": recipe.told}
    model_config = {**model_config, "dropout": recipe.dropout, "process": process}
    sampling = {"steps": recipe.sampled, "sampler": recipe.sampler, "guidance": recipe.guidance}
    metadata: dict[str, Any] = {"sampling": sampling, "source": recipe.data}
    size = model_config["size"]
    if recipe.condition == "text":
        if model_config.get("reader") is None or model_config["channels"] != 3:
            raise BadInput(f"{recipe.variant} reads no captions: use --variant ddpm_emoji")
        data: Any = load_captioned(recipe.data, size=size, device=device)
        tokenizer = words([data.captions[row] for row in data.train.labels.tolist()])
        _, _, *shape = model_config["reader"]
        model_config["reader"] = (tokenizer.get_vocab_size(), PLACES, *shape)
        table = ids(tokenizer, list(data.captions), PLACES).to(device)
        empty = ids(tokenizer, [""], PLACES).to(device)
        metadata |= {"tokenizer": to_metadata(tokenizer), "length": PLACES}
        return Material(data, model_config, by_caption(table, empty), metadata)
    model_config |= {"reader": None, "sketch": 0}  # a variant's own, if it can read
    data = load_images(recipe.data, size=size, channels=model_config["channels"], device=device)
    if recipe.condition == "none":
        return Material(data, model_config, None, metadata)
    count = len(data.classes)
    model_config |= {"classes": count, "null": True}
    return Material(data, model_config, by_label(count), metadata | {"classes": list(data.classes)})


def by_label(classes: int) -> Tell:
    """A picture's label, or the number of classes, which tells nothing."""
    return lambda labels, silent: torch.where(silent, classes, labels)


def by_caption(table: Int64[Tensor, "count places"], empty: Int64[Tensor, "1 places"]) -> Tell:
    """The tokens of the caption that a label stands for, or those of none."""
    return lambda labels, silent: torch.where(silent[:, None], empty, table[labels])


def context(
    metadata: dict[str, Any], count: int, label: str | int | None = None, prompt: str | None = None
) -> Int64[Tensor, "count *places"] | None:
    """What each of `count` pictures is asked to show: the prompt, or the label, or each label in turn.

    Raises:
        BadInput: no such label; a prompt for a network that reads none; a word it never saw.
    """
    classes, reads = metadata.get("classes"), "tokenizer" in metadata
    if prompt is not None:
        if not reads:
            raise BadInput("this network reads no text" + ": use --label" * bool(classes))
        tokens = asked(from_metadata(metadata["tokenizer"]), prompt, metadata["length"])
        return tokens.expand(count, -1)
    if label is not None:
        if not classes:
            raise BadInput("this network knows no labels" + ": use --prompt" * reads)
        return torch.full((count,), place_of(label, classes))
    return torch.arange(count) % len(classes) if classes else None


def place_of(label: str | int, classes: list[str]) -> int:
    """The number of a class by its name.

    Raises:
        BadInput: there is none of that name.
    """
    if str(label) not in classes:
        raise BadInput(f"no label {str(label)!r}: {did_you_mean(str(label), classes)}")
    return classes.index(str(label))


def captions_of(data: ImageDataset | Captioned, rows: Int64[Tensor, " count"]) -> list[str]:
    """What is written under the pictures with these labels: captions, or names of classes."""
    names = data.captions if isinstance(data, Captioned) else data.classes
    return [names[row] for row in rows.tolist()]
