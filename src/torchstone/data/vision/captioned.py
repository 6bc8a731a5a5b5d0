"""Colour pictures with captions: OpenMoji's by the names that Unicode gives them, or a person's own.

A folder has a text file beside each picture (`cat.png`, `cat.txt`), or a `metadata.jsonl` with
`file_name` and `text` on each line, as Hugging Face's image folders have.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from tokenizers import Tokenizer, models
from torch import Tensor

from torchstone.data import download
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.text.pretrained_tokenizers import bert_tokenizer
from torchstone.data.vision import openmoji
from torchstone.data.vision.dataset import Pictures
from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.data.vision.preprocess import decode, fit, readable
from torchstone.errors import BadInput, did_you_mean

NAMES = (
    "emoji==2.16.0",
    "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
    0.6,
)
TONE = re.compile(r"-1F3F[B-F](?=-|$)")
BUNDLED = ("openmoji",)
LAYOUT = "a folder of pictures with a .txt beside each, or a metadata.jsonl of file_name and text"
PAD, START, UNKNOWN = "[PAD]", "[START]", "[UNK]"
HELD_OUT = 0.05  # of all, for test and for validation alike


@dataclass(frozen=True)
class Captioned:
    """Pictures in three splits. A picture's label is its place in `captions`, that of all of them; `metadata`
    as `PictureSet` has it, for values from −1 to 1."""

    name: str
    captions: tuple[str, ...]
    train: Pictures
    val: Pictures
    test: Pictures
    metadata: dict
    note: str


def load_captioned(spec: str | Path, *, size: int, device: torch.device | str = "cpu") -> Captioned:
    """Pictures and captions of `openmoji` or a folder, fitted to `size` x `size`, in colour.

    A twentieth is cut off by a constant seed for the test, as much for validation; drawings of one
    family (a man's and a woman's) stay together.

    Raises:
        BadInput: no such data; no captions; a picture that is corrupt or missing, by its name.
    """
    spec = str(spec)
    if spec in BUNDLED:
        arrays, captions, families = _openmoji(size)
        note = f"openmoji: {len(captions)} drawings (artwork, CC BY-SA 4.0, openmoji.org) by their names"
    else:
        arrays, captions = _folder(Path(spec).expanduser(), size)
        families = [str(i) for i in range(len(captions))]
        note = f"{Path(spec).name}: {len(captions)} pictures with captions"
    if len(captions) < 10:
        raise BadInput(f"{spec} has {len(captions)} captioned pictures; at least 10 are needed")
    images = torch.from_numpy(np.ascontiguousarray(arrays)).to(device)
    names = sorted(set(families))
    order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    share = max(1, round(HELD_OUT * len(names)))
    of = {"test": order[:share], "val": order[share : 2 * share], "train": order[2 * share :]}
    splits = {}
    for split, chosen in of.items():
        wanted = {names[i] for i in chosen}
        rows = torch.tensor([i for i, f in enumerate(families) if f in wanted], device=device)
        splits[split] = Pictures(rows, images[rows])
    sizes = " / ".join(f"{len(splits[split])} {split}" for split in ("train", "val", "test"))
    metadata = {"size": size, "channels": 3, "ink": False, "mean": [0.5] * 3, "std": [0.5] * 3}
    return Captioned(spec, tuple(captions), **splits, metadata=metadata, note=f"{note}; {sizes}")


def _openmoji(size: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Drawn at twice the size and averaged; of skin tones only the drawing without one."""
    pictures, _, stems = openmoji.drawings(2 * size)
    with download.archive(*NAMES) as opened:
        said = json.loads(opened.read("emoji/unicode_codes/emoji.json"))
    named = {_points(text): each["en"] for text, each in said.items()}
    rows = [i for i, stem in enumerate(stems) if not TONE.search(stem) and stem.replace("-FE0F", "") in named]
    captions = [named[stems[i].replace("-FE0F", "")].strip(":").replace("_", " ").lower() for i in rows]
    fine = pictures[rows].reshape(len(rows), size, 2, size, 2, 3).astype(np.float32)
    small = fine.mean((2, 4)).round().astype(np.uint8)
    return small.transpose(0, 3, 1, 2), captions, [openmoji.family(stems[i]) for i in rows]


def _points(text: str) -> str:
    """`1F468-200D-1F680`, without the sign that asks for a coloured picture."""
    return "-".join(f"{ord(letter):04X}" for letter in text if letter != "\ufe0f")


def _folder(folder: Path, size: int) -> tuple[np.ndarray, list[str]]:
    if not folder.is_dir():
        raise BadInput(f"no data {str(folder)!r}: {did_you_mean(str(folder), BUNDLED)}, or {LAYOUT}")
    listed = folder / "metadata.jsonl"
    pairs = []
    if listed.exists():
        for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                pairs.append((folder / row["file_name"], str(row["text"])))
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"{listed}, line {number}: give file_name and text") from None
    else:
        for file in sorted(folder.rglob("*")):
            beside = file.with_suffix(".txt")
            if file.suffix.lower() in SUFFIXES and beside.exists():
                pairs.append((file, beside.read_text(encoding="utf-8").strip()))
    if not pairs:
        raise BadInput(f"{folder} holds no captioned pictures: give {LAYOUT}")
    arrays = []
    for file, caption in pairs:
        if not file.is_file():
            raise BadInput(f"{listed} names {file.name}, which is not there")
        if not caption:
            raise BadInput(f"{file} has an empty caption")
        with readable(str(file)), Image.open(file) as image:
            arrays.append(fit(decode(image, 3), size, False))
    return np.stack(arrays), [caption.lower() for _, caption in pairs]


def words(captions: list[str]) -> Tokenizer:
    """Whole words and marks, each with an id of its own; ids 0, 1 and 2 pad, start, and stand for others."""
    split = bert_tokenizer(models.WordPiece({UNKNOWN: 0}, unk_token=UNKNOWN), lowercase=True)
    seen = {w for text in captions for w in _split(split, text)}
    vocabulary = {word: i for i, word in enumerate((PAD, START, UNKNOWN, *sorted(seen)))}
    # a WordPiece of whole words: what is none of them is unknown
    whole = models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix="\x00")
    return bert_tokenizer(whole, lowercase=True)


def _split(tokenizer: Tokenizer, text: str) -> list[str]:
    text = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def ids(tokenizer: Tokenizer, texts: list[str], length: int) -> Int64[Tensor, "count {length}"]:
    """Each text behind [START], filled up with [PAD], cut off after `length` tokens."""
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        found = [tokenizer.token_to_id(START), *tokenizer.encode(text).ids][:length]
        row[: len(found)] = torch.tensor(found)
    return rows


def asked(tokenizer: Tokenizer, prompt: str, length: int) -> Int64[Tensor, "1 {length}"]:
    """The ids of what a person asks for.

    Raises:
        BadInput: a word that no caption had, or more words than the network reads.
    """
    known = tokenizer.get_vocab()
    found = _split(tokenizer, prompt)
    if not found:
        raise BadInput("the prompt is empty: say what is to be drawn, in words of the captions")
    if strange := [word for word in found if word not in known]:
        near = did_you_mean(strange[0], sorted(known))
        raise BadInput(f"no caption had the word {strange[0]!r}: {near}")
    if len(found) > length - 1:
        raise BadInput(f"a prompt has at most {length - 1} words, not {len(found)}")
    return ids(tokenizer, [prompt], length)
