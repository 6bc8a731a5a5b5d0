"""Images with a short caption and a description each: OpenMoji's drawings, or drawn shapes.

    openmoji   `red apple`   `food, mostly red with green and brown: red apple`
    shapes     `circle`      `red, small, on the left: circle`

The short caption of a drawing is its Unicode name. A description says what the name mostly leaves out:
Unicode's group of the drawing, and its colors, measured on the drawing itself; after a colon the name.

A part of the images, `captioner`, is for the training of a captioner; what is trained on captions that the
captioner writes has the others. All variants of one drawing are in one part.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.vision import openmoji
from torchstone.data.vision.captioned import SKIN_TONE, draw_shapes, english_name, read_unicode_names
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.data.vision.image_texts import picture_metadata
from torchstone.data.vision.openmoji_questions import (
    CATEGORIES,
    DOMINANT,
    bare,
    color_shares,
    name_color,
    read_groups,
)
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("openmoji", "shapes")
SEPARATOR = ": "  # between what a description says and the short caption
# Unicode's other groups, whose drawings have less in common
OTHER_CATEGORIES = {
    "Objects": "an object",
    "Activities": "an activity",
    "Travel & Places": "a vehicle or place",
}
MENTIONED, MAX_MENTIONED = 0.12, 3  # least share of a color that is named, and how many are
PARTS = {"test": 0.15, "val": 0.05, "captioner": 0.35}  # fractions; the others are in `train`


class Attribute(NamedTuple):
    """Something that a description says in one phrase, of which an image has one value or none.

    Args:
        classes: the values.
        labels: of every image, by the row of its captions; −1 for none.
        phrase: how a description says a value, `{}` standing for it.
    """

    classes: tuple[str, ...]
    labels: Int64[Tensor, " count"]
    phrase: str = "{}"

    def is_in(self, caption: str, row: int) -> bool:
        """Whether a caption says what is true of image `row`."""
        words = f" {spaced(caption)} "
        return f" {spaced(self.phrase.format(self.classes[int(self.labels[row])]))} " in words


@dataclass(frozen=True)
class Described:
    """Images in four parts; an image's label is its row of `short`, `long` and of the attributes' labels.

    Args:
        long: the descriptions, by which the captioner is trained and samples are evaluated.
        metadata: as `ImageDataset` has it, for values from −1 to 1.
    """

    name: str
    short: tuple[str, ...]
    long: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    captioner: ImageSplit
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    metadata: dict
    description: str

    def labeled(self, name: str) -> ImageDataset:
        """The images that have the attribute `name`, labeled by it: `captioner` and `train` to train on."""
        attribute = self.attributes[name]
        parts = {"train": (self.captioner, self.train), "val": (self.val,), "test": (self.test,)}
        splits = {}
        for split, several in parts.items():
            rows, images = (torch.cat([getattr(each, n) for each in several]) for n in ("labels", "images"))
            labels = attribute.labels.to(rows.device)[rows]
            splits[split] = ImageSplit(labels[labels >= 0], images[labels >= 0])
        return ImageDataset(
            f"{self.name}-{name}",
            attribute.classes,
            **splits,
            metadata=self.metadata,
            description=self.description,
        )


def spaced(text: str) -> str:
    """Words and punctuation marks divided by spaces, as tokenizers give them back."""
    return " ".join(text.replace(",", " , ").replace(":", " : ").split())


@identified(lambda data: {split: _contents(data, split) for split in SPLITS}, unit="images")
def load_described(source: str, *, size: int, device: torch.device | str = "cpu") -> Described:
    """Images, short captions and descriptions of `openmoji` or `shapes`, `size` × `size`, in color.

    A constant seed holds out 15 % for the test and 5 % for validation; 35 % are the captioner's.

    Raises:
        BadInput: no such data.
    """
    if source not in BUNDLED:
        raise BadInput(f"no described images {str(source)!r}: {did_you_mean(str(source), BUNDLED)}")
    load = _load_openmoji if source == "openmoji" else _load_shapes
    arrays, short, long, attributes, families = load(size)
    images = torch.from_numpy(np.ascontiguousarray(arrays)).to(device)
    names = sorted(set(families))
    order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    part_of, first = dict.fromkeys(names, "train"), 0
    for part, share in PARTS.items():
        last = first + round(share * len(names))
        part_of |= {names[i]: part for i in order[first:last]}
        first = last
    splits = {}
    for part in (*PARTS, "train"):
        rows = torch.tensor([i for i, f in enumerate(families) if part_of[f] == part], device=device)
        splits[part] = ImageSplit(rows, images[rows])
    sizes = " / ".join(f"{len(splits[part])} {part}" for part in ("captioner", "train", "val", "test"))
    artwork = " drawings (artwork, CC BY-SA 4.0, openmoji.org)" if source == "openmoji" else " drawn shapes"
    return Described(
        source,
        tuple(short),
        tuple(long),
        attributes,
        **splits,
        metadata=picture_metadata(size),
        description=f"{source}: {len(short)}{artwork} with names and descriptions; {sizes}",
    )


def _contents(data: Described, split: str) -> Iterator[tuple[Tensor, tuple[str, str]]]:
    parts = [data.captioner, data.train] if split == "train" else [getattr(data, split)]
    for part in parts:
        assert isinstance(part.images, Tensor)
        for image, row in zip(part.images, part.labels.tolist(), strict=True):
            yield image, (data.short[row], data.long[row])


Loaded = tuple[UInt8[np.ndarray, "count 3 size size"], list[str], list[str], dict[str, Attribute], list[str]]


def make_attribute(values: list[str | None], phrase: str = "{}") -> Attribute:
    """The values, sorted, and the label of each image."""
    classes = sorted({value for value in values if value is not None})
    index = {value: i for i, value in enumerate(classes)}
    return Attribute(tuple(classes), torch.tensor([index.get(v or "", -1) for v in values]), phrase)


def _load_openmoji(size: int) -> Loaded:
    """Images, names, descriptions, main color and category, and families; of skin tones only the drawing
    without one."""
    names = {code: english_name(emoji) for code, emoji in read_unicode_names().items()}
    groups = {**CATEGORIES, **OTHER_CATEGORIES}
    category_of = {code: groups[group] for code, group in read_groups().items() if group in groups}
    images, masks, stems = openmoji.load_drawings(2 * size)
    rows = [
        i
        for i, stem in enumerate(stems)
        if not SKIN_TONE.search(stem) and bare(stem) in names and bare(stem) in category_of
    ]
    codes = [bare(stems[i]) for i in rows]
    short, categories = [names[code] for code in codes], [category_of[code] for code in codes]
    common = set(CATEGORIES.values())
    shares = [color_shares(images[i], masks[i]) for i in rows]
    long = [describe(*each) for each in zip(categories, shares, short, strict=True)]
    attributes = {
        "color": make_attribute([name_color(images[i], masks[i]) for i in rows], "mostly {}"),
        "category": make_attribute([each if each in common else None for each in categories]),
    }
    families = [openmoji.family(stems[i]) for i in rows]
    return openmoji.halve(images[rows]), short, long, attributes, families


def describe(category: str, shares: Mapping[str, float], name: str) -> str:
    """`food, mostly red with green: apple`; without a color of three fifths `food, red with green: apple`."""
    ordered = sorted((-share, color) for color, share in shares.items() if color and share >= MENTIONED)
    colors = [color for _, color in ordered[:MAX_MENTIONED]]
    if not colors:
        return f"{category}, black and white{SEPARATOR}{name}"
    main = f"mostly {colors[0]}" if shares[colors[0]] >= DOMINANT else colors[0]
    others = f" with {' and '.join(colors[1:])}" if colors[1:] else ""
    return f"{category}, {main}{others}{SEPARATOR}{name}"


def _load_shapes(size: int) -> Loaded:
    """Images, shapes, descriptions, and color and shape; each image is a family of its own."""
    images, texts = draw_shapes(size)
    words = [text.split() for text, _ in texts]  # small red circle on the left
    kinds, colors, shapes = (list(each) for each in zip(*(each[:3] for each in words), strict=True))
    sides = [each[-1] for each in words]
    long = [
        f"{color}, {kind}, on the {side}{SEPARATOR}{shape}"
        for kind, color, shape, side in zip(kinds, colors, shapes, sides, strict=True)
    ]
    attributes = {"color": make_attribute(list(colors)), "side": make_attribute(list(sides), "on the {}")}
    return images, shapes, long, attributes, [str(i) for i in range(len(long))]


def details_of(description: str) -> str:
    """What a description says before the short caption."""
    return spaced(description).partition(SEPARATOR.strip())[0].strip()


def with_details(details: str, short: str) -> str:
    """A description of these details, of the short caption."""
    return spaced(f"{details}{SEPARATOR}{short}")
