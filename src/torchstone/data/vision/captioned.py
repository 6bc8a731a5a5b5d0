"""Color images with captions: OpenMoji drawings with their Unicode names, shapes, or a folder of your own.

A folder has a text file for each image (`cat.png`, `cat.txt`), a `captions.tsv` with an image's name, a tab
and its caption on each line, or a `metadata.jsonl` with `file_name` and `text` on each line, as Hugging
Face's image folders have. An image that is listed several times has several captions.
"""

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from tokenizers import Tokenizer, models
from torch import Tensor

from torchstone.data import download
from torchstone.data.bad_files import read_good, split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.text.pretrained_tokenizers import bert_tokenizer
from torchstone.data.text_files import optional_text, read_utf8
from torchstone.data.vision import openmoji
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.data.vision.preprocess import (
    Levels,
    decode,
    deep_values,
    describe_levels,
    fit_to_square,
    measure_levels,
    report_unreadable,
)
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import parse_json

UNICODE_NAMES = ("emoji==2.16.0", "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330", 0.6)
SKIN_TONE = re.compile(r"-1F3F[B-F](?=-|$)")
BUNDLED = ("openmoji",)
GENERATED = "shapes"
COLORS = {
    "red": (220, 40, 40),
    "orange": (250, 150, 30),
    "yellow": (240, 220, 50),
    "green": (60, 170, 70),
    "blue": (50, 90, 220),
    "purple": (140, 60, 190),
    "pink": (250, 150, 190),
    "brown": (130, 85, 50),
    "gray": (140, 140, 140),
    "black": (20, 20, 20),
}
# whether a point is inside, by its distance from the center in units of the half side
SHAPES = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "ring": lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.3),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.9,
    "diamond": lambda x, y: abs(x) + abs(y) <= 1,
    "triangle": lambda x, y: (y <= 0.9) & (abs(x) <= (y + 0.9) / 1.8),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
}
LAYOUT = (
    "a folder of images with a .txt for each, a captions.tsv of names and captions, or a metadata.jsonl of "
    "file_name and text"
)
PAD, START, UNKNOWN = "[PAD]", "[START]", "[UNK]"
HELD_OUT = 0.05  # fraction in the test split, and as much in the validation split


@dataclass(frozen=True)
class Captioned:
    """Images in three splits. An image's label is the index of its caption in `captions`; `metadata` as
    `PictureSet` has it, for values from −1 to 1."""

    name: str
    captions: tuple[str, ...]
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    metadata: dict
    description: str


@identified(lambda data: {split: _contents(data, split) for split in SPLITS}, unit="images")
def load_captioned(source: str | Path, *, size: int, device: torch.device | str = "cpu") -> Captioned:
    """Images and captions of `openmoji`, `shapes` or a folder, resized to `size` x `size`, in color.

    A twentieth is held out for the test by a constant seed, and as much for validation; variants of one
    drawing (of a man and of a woman) stay in one split.

    Raises:
        BadInput: no such data; no captions; an image that is corrupt or missing, by its name.
    """
    (source, skip), levels = split_skip(str(source)), None
    if source in BUNDLED:
        arrays, captions, families = _load_openmoji(size)
        description = (
            f"openmoji: {len(captions)} drawings (artwork, CC BY-SA 4.0, openmoji.org) by their names"
        )
    elif source == GENERATED:
        arrays, texts = draw_shapes(size)
        captions = [each[0] for each in texts]
        families = [str(i) for i in range(len(captions))]
        description = f"{source}: {len(captions)} drawn shapes of a size, color and side"
    else:
        arrays, texts, levels, left_out = load_folder(Path(source).expanduser(), size, skip)
        captions = [each[0] for each in texts]
        families = [str(i) for i in range(len(captions))]
        description = (
            f"{Path(source).name}: {len(captions)} images with captions{left_out}{describe_levels(levels)}"
        )
    if len(captions) < 10:
        raise BadInput(f"{source} has {len(captions)} captioned images; at least 10 are needed")
    images = torch.from_numpy(np.ascontiguousarray(arrays)).to(device)
    names = sorted(set(families))
    order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    share = max(1, round(HELD_OUT * len(names)))
    rows_of = {"test": order[:share], "val": order[share : 2 * share], "train": order[2 * share :]}
    splits = {}
    for split, chosen in rows_of.items():
        members = {names[i] for i in chosen}
        rows = torch.tensor([i for i, f in enumerate(families) if f in members], device=device)
        splits[split] = ImageSplit(rows, images[rows])
    sizes = " / ".join(f"{len(splits[split])} {split}" for split in ("train", "val", "test"))
    metadata = {"size": size, "channels": 3, "ink": False, "mean": [0.5] * 3, "std": [0.5] * 3}
    if levels is not None:
        metadata["levels"] = list(levels)
    return Captioned(
        source, tuple(captions), **splits, metadata=metadata, description=f"{description}; {sizes}"
    )


def _contents(data: Captioned, split: str) -> Iterator[tuple[Tensor, str]]:
    own = getattr(data, split)
    for image, label in zip(own.images, own.labels.tolist(), strict=True):
        yield image, data.captions[label]


def _load_openmoji(size: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Images, captions and families of the drawings that have a Unicode name; of skin tones only the drawing
    without one."""
    names = {code: english_name(emoji) for code, emoji in read_unicode_names().items()}
    images, codes, families = load_named_drawings(size, names)
    return images, [names[code] for code in codes], families


def load_named_drawings(
    size: int, names: Container[str]
) -> tuple[UInt8[np.ndarray, "count 3 {size} {size}"], list[str], list[str]]:
    """OpenMoji's drawings whose code points are among `names`, without skin tones: images, rendered at twice
    the size and averaged; code points without variation selectors; families."""
    images, _, stems = openmoji.load_drawings(2 * size)
    rows = [
        i for i, stem in enumerate(stems) if not SKIN_TONE.search(stem) and stem.replace("-FE0F", "") in names
    ]
    codes = [stems[i].replace("-FE0F", "") for i in rows]
    return openmoji.halve(images[rows]), codes, [openmoji.family(stems[i]) for i in rows]


def read_unicode_names(language: str = "") -> dict[str, Any]:
    """What the package `emoji` says of each emoji, by code points: its English entry, or in another language
    its name."""
    with download.fetch_archive(*UNICODE_NAMES) as archive:
        file = f"emoji/unicode_codes/emoji{language and '_'}{language}.json"
        emoji = json.loads(archive.read(file))
    return {code_points(text): each for text, each in emoji.items()}


def english_name(emoji: Mapping[str, Any]) -> str:
    return plain_name(emoji["en"])


def plain_name(name: str) -> str:
    """`red apple` of `:red_apple:`."""
    return name.strip(":").replace("_", " ").lower()


def code_points(text: str) -> str:
    """`1F468-200D-1F680`, without the variation selector for color."""
    return "-".join(f"{ord(letter):04X}" for letter in text if letter != "\ufe0f")


class Pair(NamedTuple):
    """An image with one of its captions, and where that is written."""

    file: Path
    caption: str
    where: str


def list_pairs(folder: Path) -> list[Pair]:
    """What a folder says about its images.

    Raises:
        BadInput: no such folder; no captions in it; a line that cannot be read.
    """
    if not folder.is_dir():
        raise BadInput(
            f"no data {str(folder)!r}: {did_you_mean(str(folder), (*BUNDLED, GENERATED))}, or {LAYOUT}"
        )
    pairs: list[Pair] = []
    if (table := folder / "captions.tsv").exists():
        for number, line in enumerate(read_utf8(table).strip("\n").split("\n"), 1):
            name, tab, caption = line.partition("\t")
            if number == 1 and not Path(name.strip()).suffix:  # the names of the columns
                continue
            if not tab or not name.strip():
                raise BadInput(f"{table}, line {number}: give an image's name, a tab and its caption")
            pairs.append(Pair(folder / name.strip(), caption.strip(), f"{table}, line {number}"))
    elif (listing := folder / "metadata.jsonl").exists():
        for number, line in enumerate(read_utf8(listing).strip("\n").split("\n"), 1):
            try:
                row = parse_json(line)
                caption = optional_text(row["text"], f"{listing}, line {number}: text")
                pairs.append(Pair(folder / row["file_name"], caption or "", f"{listing}, line {number}"))
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"{listing}, line {number}: give file_name and text") from None
    else:
        for file in sorted(folder.rglob("*")):
            text = file.with_suffix(".txt")
            if file.suffix.lower() in SUFFIXES and text.exists():
                pairs.append(Pair(file, read_utf8(text).strip(), str(text)))
    if not pairs:
        raise BadInput(f"{folder} holds no captioned images: give {LAYOUT}")
    return pairs


def load_folder(
    folder: Path, size: int, skip: bool
) -> tuple[UInt8[np.ndarray, "count 3 {size} {size}"], list[tuple[str, ...]], Levels, str]:
    """Images of a folder, the captions of each, the levels of deep images, and a note of what was left out.

    Raises:
        BadInput: no captions; an image that is corrupt or missing, or a caption that is empty, by its name.
    """
    captions: dict[Path, list[Pair]] = {}
    for pair in list_pairs(folder):
        captions.setdefault(pair.file, []).append(pair)

    def read(file: Path, use: Callable[[Image.Image], Any]) -> Any:
        with report_unreadable(str(file)), Image.open(file) as image:
            return use(image)

    def check(file: Path) -> np.ndarray | None:
        if not file.is_file():
            raise BadInput(f"{captions[file][0].where} names {file.name}, which is not there")
        if empty := [pair for pair in captions[file] if not pair.caption]:
            raise BadInput(f"{empty[0].where}: {file} has an empty caption")
        read(file, partial(decode, channels=3))
        return read(file, deep_values)

    files = list(captions)
    deep, good, left_out = read_good(check, files, skip=skip)
    files, levels = [files[i] for i in good], measure_levels(deep)
    arrays = [
        fit_to_square(read(file, partial(decode, channels=3, levels=levels)), size, False) for file in files
    ]
    texts = [tuple(dict.fromkeys(pair.caption.lower() for pair in captions[file])) for file in files]
    return np.stack(arrays), texts, levels, left_out


def draw_shapes(size: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Each shape in each color, small and large, on either side; captions with and without the last two."""
    steps = (np.arange(size) + 0.5) / size
    pictures, texts = [], []
    for side, center in (("left", 0.3), ("right", 0.7)):
        for kind, half in (("small", 0.15), ("large", 0.28)):
            for color, value in COLORS.items():
                for shape, contains in SHAPES.items():
                    inside = contains((steps[None] - center) / half, (steps[:, None] - 0.5) / half)
                    pictures.append(np.where(inside, np.array(value, np.uint8)[:, None, None], np.uint8(255)))
                    texts.append((f"{kind} {color} {shape} on the {side}", f"{color} {shape}"))
    return np.stack(pictures), texts


def word_tokenizer(captions: list[str], special: tuple[str, ...] = (PAD, START, UNKNOWN)) -> Tokenizer:
    """Words and punctuation marks of `captions`; the first ids are those of the `special` tokens."""
    splitter = bert_tokenizer(models.WordPiece({UNKNOWN: 0}, unk_token=UNKNOWN), lowercase=True)
    words = {word for text in captions for word in split_words(splitter, text)}
    vocab = {word: i for i, word in enumerate((*special, *sorted(words)))}
    # a WordPiece of complete words: any other word is unknown
    model = models.WordPiece(vocab, unk_token=UNKNOWN, continuing_subword_prefix="\x00")
    return bert_tokenizer(model, lowercase=True)


def split_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words and punctuation marks that a tokenizer looks up."""
    text = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def token_ids(tokenizer: Tokenizer, texts: list[str], max_length: int) -> Int64[Tensor, "count {max_length}"]:
    """Each text after [START], truncated to `max_length` tokens and padded with [PAD]."""
    rows = torch.zeros(len(texts), max_length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = [tokenizer.token_to_id(START), *tokenizer.encode(text).ids][:max_length]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def tokenize_prompt(tokenizer: Tokenizer, prompt: str, max_length: int) -> Int64[Tensor, "1 {max_length}"]:
    """The token ids of a prompt.

    Raises:
        BadInput: no words, a word that no caption had, or more words than the network reads.
    """
    vocab = tokenizer.get_vocab()
    words = split_words(tokenizer, prompt)
    if not words:
        raise BadInput("the prompt is empty: describe the image, in words of the captions")
    if unknown := [word for word in words if word not in vocab]:
        suggestion = did_you_mean(unknown[0], sorted(vocab))
        raise BadInput(f"no caption had the word {unknown[0]!r}: {suggestion}")
    if len(words) > max_length - 1:
        raise BadInput(f"a prompt has at most {max_length - 1} words, not {len(words)}")
    return token_ids(tokenizer, [prompt], max_length)
