"""Images with questions and answers: OpenMoji's drawings, scikit-learn's digits, or a folder of your own.

A folder has a `questions.tsv`: on each line the name of an image in it, a question and an answer, with tabs
between.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from torchstone.data.bad_files import read_good, split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.text_files import read_utf8
from torchstone.data.vision import openmoji_questions
from torchstone.data.vision.openmoji_questions import NUMBERS, PHRASINGS
from torchstone.data.vision.preprocess import fit_to_square, load_upright
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("openmoji", "digits")
LISTING = "questions.tsv"
LAYOUT = f"a folder with {LISTING}: image, question and answer on each line, divided by tabs"
HELD_OUT = 0.1  # fraction of the images in the test split, and as many in the validation split
DIGITS = ("zero", *NUMBERS[:9])


class Question(NamedTuple):
    """A question about the image with the index `image`; accuracy is measured for each `kind`."""

    image: int
    question: str
    answer: str
    kind: str = ""


@dataclass(frozen=True, eq=False)
class QuestionSplit:
    """Images of one split, and the questions about them in the order of the images."""

    pixels: UInt8[Tensor, "count 3 size size"]
    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def contents(self) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
        """Each question's image, and what is asked and answered."""
        for each in self.questions:
            yield self.pixels[each.image], each[1:]


@dataclass(frozen=True)
class QuestionData:
    """Questions in three splits, no image in two of them; `metadata` as `ImageDataset` has it, for values
    from −1 to 1."""

    name: str
    train: QuestionSplit
    val: QuestionSplit
    test: QuestionSplit
    metadata: dict
    description: str


@identified(lambda data: {split: getattr(data, split).contents() for split in SPLITS}, unit="questions")
def load_questions(source: str | Path, *, size: int, device: torch.device | str = "cpu") -> QuestionData:
    """Images of `openmoji`, `digits` or a folder, resized to `size` x `size`, in color, and their questions.

    Of a folder a tenth of the images is held out for the test by a constant seed, and as many for validation.

    Raises:
        BadInput: no such data; no `questions.tsv`, a line of it that is not whole, or an image that is
            corrupt or missing, by its name.
    """
    source, skip = split_skip(str(source))
    note = ""
    if source == "openmoji":
        answered = openmoji_questions.load_answered(size)
        about = "openmoji: drawings (artwork, CC BY-SA 4.0, openmoji.org) with made questions"
        parts = {split: _ask(each, split, number) for number, (split, each) in enumerate(answered.items())}
    elif source == "digits":
        parts, about = _digits(size), "digits: handwritten digits of scikit-learn with made questions"
    else:
        images, questions, note = _read_folder(Path(source).expanduser(), size, skip)
        parts, about = _divide(images, questions), f"{Path(source).name}: images with questions"
    splits = {
        split: QuestionSplit(torch.from_numpy(images).to(device), tuple(questions))
        for split, (images, questions) in parts.items()
    }
    sizes = " / ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    count = sum(len(split.pixels) for split in splits.values())
    return QuestionData(
        source,
        **splits,
        metadata={"size": size, "channels": 3, "ink": False, "mean": [0.5] * 3, "std": [0.5] * 3},
        description=f"{about}{note}; {count} images, questions {sizes}",
    )


Part = tuple[UInt8[np.ndarray, "_ 3 size size"], list[Question]]


def _ask(answered: list[openmoji_questions.Answered], split: str, number: int) -> Part:
    """Questions for answers: in training of any phrasing, else of the first."""
    random, questions = np.random.RandomState(SPLIT_SEED + number), []
    for row, (_, answers) in enumerate(answered):
        for kind, answer in answers:
            phrasings = PHRASINGS[kind.removeprefix("emoji_")]
            choice = random.randint(len(phrasings)) if split == "train" else 0
            questions.append(Question(row, phrasings[choice], answer, kind))
    return np.stack([image for image, _ in answered]), questions


def _digits(size: int) -> dict[str, Part]:
    """Which digit, and whether it is even."""
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    gray = np.round(data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = np.arange(size) * 8 // size
    images = np.repeat(gray[:, None, rows][..., rows], 3, 1)
    questions = []
    for row, digit in enumerate(target.tolist()):
        questions.append(Question(row, "which digit is it?", DIGITS[digit], "digit"))
        questions.append(Question(row, "is it even or odd?", ("even", "odd")[digit % 2], "parity"))
    return _divide(images, questions)


def _divide(images: UInt8[np.ndarray, "count 3 size size"], questions: list[Question]) -> dict[str, Part]:
    """Splits by images, from a constant seed."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))
    share = max(1, round(HELD_OUT * len(images)))
    index_of = {"train": order[2 * share :], "val": order[share : 2 * share], "test": order[:share]}
    parts = {}
    for split, index in index_of.items():
        index = np.sort(index)
        new = {int(old): i for i, old in enumerate(index)}
        kept_questions = [each._replace(image=new[each.image]) for each in questions if each.image in new]
        parts[split] = images[index], kept_questions
    return parts


def _read_folder(folder: Path, size: int, skip: bool) -> tuple[np.ndarray, list[Question], str]:
    """Images, their questions, and what was left out."""
    if not folder.is_dir():
        raise BadInput(f"no data {str(folder)!r}: {did_you_mean(str(folder), BUNDLED)}, or {LAYOUT}")
    listing = folder / LISTING
    if not listing.is_file():
        raise BadInput(f"{folder} has no {LISTING}: give {LAYOUT}")
    pairs_of: dict[str, list[tuple[str, str]]] = {}
    for number, line in enumerate(read_utf8(listing).strip("\n").split("\n"), 1):
        columns = [column.strip() for column in line.rstrip("\r").split("\t")]
        if number == 1 and [column.lower() for column in columns] == ["picture", "question", "answer"]:
            continue
        if len(columns) != 3 or not all(columns):
            raise BadInput(
                f"{listing}, line {number}: give an image, a question and an answer, with tabs between"
            )
        pairs_of.setdefault(columns[0], []).append((columns[1].lower(), columns[2].lower()))

    def read(name: str) -> np.ndarray:
        if not (folder / name).is_file():
            raise BadInput(f"{listing} names {name}, which is not there")
        return fit_to_square(load_upright(folder / name, 3)[0], size, False)

    images, good, note = read_good(read, list(pairs_of), skip=skip)
    if len(images) < 10:
        raise BadInput(f"{listing} names {len(images)} images; at least 10 are needed")
    names = [list(pairs_of)[i] for i in good]
    questions = [Question(i, *pair) for i, name in enumerate(names) for pair in pairs_of[name]]
    return np.stack(images), questions, note
