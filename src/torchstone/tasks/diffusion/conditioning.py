"""What a diffusion is told of a picture: nothing, its label, or its caption; in training and when asked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from torchstone.data.text.tokenizers import from_card, to_card
from torchstone.data.vision.captioned import Captioned, asked, ids, load_captioned, words
from torchstone.data.vision.dataset import Pictures, PictureSet, load_pictures
from torchstone.errors import BadInput, did_you_mean

# from labels, and of which to keep silent, to contexts
Tell = Callable[[Int64[Tensor, " share"], Bool[Tensor, " share"]], Tensor]
PLACES = 10  # tokens of a caption that are read, its beginning included


class Material(NamedTuple):
    """Pictures, what the network that is to be told of them is made with, how it is told, and what
    its card has to say of that."""

    data: Any
    arguments: dict[str, Any]
    tell: Tell | None
    card: dict[str, Any]

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
        place = self.data.train.labels.device
        told = self.tell(labels.to(place), torch.zeros(count, dtype=torch.bool, device=place))
        return told.cpu(), captions_of(self.data, labels)

    def some(self, split: Pictures, most: int) -> tuple[Tensor | None, UInt8[Tensor, "count 3 height width"]]:
        """What up to `most` evenly chosen pictures of a split are told by, and these pictures."""
        rows = torch.linspace(0, len(split) - 1, min(most, len(split))).long()
        labels = split.labels[rows.to(split.labels.device)]
        silent = torch.zeros(len(rows), dtype=torch.bool, device=labels.device)
        return self.tell(labels, silent) if self.tell else None, split.take(rows).cpu()


def material(recipe: Any, arguments: dict[str, Any], place: torch.device) -> Material:
    """The recipe's data, fitted to the network of `arguments`, and its `condition`.

    Raises:
        BadInput: the data cannot be read, or the network reads no captions.
    """
    process = {"schedule": recipe.noise, "levels": recipe.levels, "told": recipe.told}
    arguments = {**arguments, "dropout": recipe.dropout, "process": process}
    sampling = {"steps": recipe.sampled, "sampler": recipe.sampler, "guidance": recipe.guidance}
    card: dict[str, Any] = {"sampling": sampling, "source": recipe.data}
    size = arguments["size"]
    if recipe.condition == "text":
        if arguments.get("reader") is None or arguments["channels"] != 3:
            raise BadInput(f"{recipe.variant} reads no captions: use --variant ddpm_emoji")
        data: Any = load_captioned(recipe.data, size=size, device=place)
        tokenizer = words([data.captions[row] for row in data.train.labels.tolist()])
        _, _, *shape = arguments["reader"]
        arguments["reader"] = (tokenizer.get_vocab_size(), PLACES, *shape)
        table = ids(tokenizer, list(data.captions), PLACES).to(place)
        empty = ids(tokenizer, [""], PLACES).to(place)
        card |= {"tokenizer": to_card(tokenizer), "length": PLACES}
        return Material(data, arguments, by_caption(table, empty), card)
    arguments |= {"reader": None, "sketch": 0}  # a variant's own, if it can read
    data = load_pictures(recipe.data, size=size, channels=arguments["channels"], device=place)
    if recipe.condition == "none":
        return Material(data, arguments, None, card)
    count = len(data.classes)
    arguments |= {"classes": count, "null": True}
    return Material(data, arguments, by_label(count), card | {"classes": list(data.classes)})


def by_label(classes: int) -> Tell:
    """A picture's label, or the number of classes, which tells nothing."""
    return lambda labels, silent: torch.where(silent, classes, labels)


def by_caption(table: Int64[Tensor, "count places"], empty: Int64[Tensor, "1 places"]) -> Tell:
    """The tokens of the caption that a label stands for, or those of none."""
    return lambda labels, silent: torch.where(silent[:, None], empty, table[labels])


def context(
    card: dict[str, Any], count: int, label: str | int | None = None, prompt: str | None = None
) -> Int64[Tensor, "count *places"] | None:
    """What each of `count` pictures is asked to show: the prompt, or the label, or each label in turn.

    Raises:
        BadInput: no such label; a prompt for a network that reads none; a word it never saw.
    """
    classes, reads = card.get("classes"), "tokenizer" in card
    if prompt is not None:
        if not reads:
            raise BadInput("this network reads no text" + ": use --label" * bool(classes))
        tokens = asked(from_card(card["tokenizer"]), prompt, card["length"])
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


def captions_of(data: PictureSet | Captioned, rows: Int64[Tensor, " count"]) -> list[str]:
    """What is written under the pictures with these labels: captions, or names of classes."""
    names = data.captions if isinstance(data, Captioned) else data.classes
    return [names[row] for row in rows.tolist()]
