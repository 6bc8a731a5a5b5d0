"""Pictures of two domains, such as drawings of two artists: read, fitted to one size, split.

What is known of which picture of one belongs to which of the other is in `pairs`. Unpaired translation is
measured by it, and never trained on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from torchstone.data.bad_files import read_good, split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.vision import openmoji, twemoji
from torchstone.data.vision.dataset import THREADS
from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.data.vision.preprocess import fit_to_square, load_upright
from torchstone.errors import BadInput, did_you_mean

Images = UInt8[np.ndarray, "_ 3 side side"]

BUNDLED = ("openmoji", "twemoji", "digits")
LAYOUT = "a folder with a/ and b/, the pictures of the two domains"
HELD_OUT = {"test": 0.1, "val": 0.05}  # fractions of the drawings
MEMORY_LIMIT = 2**32  # bytes of pixels
MIN_SIZE = 8  # pixels
PAPER, INK = (32, 64, 160), (255, 208, 64)  # of digits in color


@dataclass(frozen=True, eq=False)
class DomainSplit:
    """Pictures of each domain on one device, and the rows (of `a`, of `b`) that belong to each other."""

    a: UInt8[Tensor, "count 3 size size"]
    b: UInt8[Tensor, "others 3 size size"]
    pairs: Int64[Tensor, "pairs 2"]

    def contents(self) -> Iterator[tuple[Any, int]]:
        """Each picture with the number of its domain: see `data.identity`."""
        for number, images in enumerate((self.a, self.b)):
            for image in images.cpu().numpy():
                yield image.tobytes(), number


@dataclass(frozen=True)
class ImageDomains:
    """Two domains in three splits. `metadata` (JSON): size, channels, and what each domain is called."""

    name: str
    train: DomainSplit
    val: DomainSplit
    test: DomainSplit
    metadata: dict
    description: str


@identified(lambda data: {split: getattr(data, split).contents() for split in SPLITS}, unit="images")
def load_domains(spec: str | Path, *, size: int, device: torch.device | str = "cpu") -> ImageDomains:
    """Two domains in color, fitted to `size` × `size`.

    - `openmoji`: line art (a) and the drawings in color (b)
    - `twemoji`: OpenMoji's (a) and Twitter's (b) drawings of the same emoji
    - `digits`: black on white (a), and yellow on blue (b)
    - a folder with `a/` and `b/`; pictures of the same name but for the ending belong to each other

    A drawing, with its variants (skin tones, genders) and its partner, is in one split.

    Raises:
        BadInput: no such data, a folder that lacks pictures, or a picture that cannot be read. With
            `skip-bad:` before the name of a folder such pictures are left out.
    """
    if size < MIN_SIZE:
        raise BadInput(f"pictures to translate have a size of at least {MIN_SIZE}, not {size}")
    spec = str(spec)
    if spec in BUNDLED:
        a, b, names_a, names_b, titles, description = _bundled(spec, size)
    else:
        a, b, names_a, names_b, titles, description = _folder(spec, size)
    splits = {}
    for split, rows in split_rows(names_a, names_b).items():
        chosen = [[names[i] for i in index] for names, index in zip((names_a, names_b), rows, strict=True)]
        for domain, names in zip("ab", chosen, strict=True):
            if not names:
                raise BadInput(f"the {split} split of {spec} has no picture in {domain}/: add some there")
        splits[split] = DomainSplit(
            *(torch.from_numpy(x[index]).to(device) for x, index in zip((a, b), rows, strict=True)),
            torch.tensor(match_names(*chosen), dtype=torch.int64).view(-1, 2).to(device),
        )
    sizes = " / ".join(
        f"{len(each.a)} and {len(each.b)} {name} ({len(each.pairs)} pairs)" for name, each in splits.items()
    )
    metadata = {"size": size, "channels": 3, "domains": titles}
    return ImageDomains(spec, **splits, metadata=metadata, description=f"{description}; {sizes}")


def match_names(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """The rows of `a` and `b` with the same name."""
    rows = {name: row for row, name in enumerate(b)}
    return [(row, rows[name]) for row, name in enumerate(a) if name in rows]


def split_rows(names_a: list[str], names_b: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The rows of each domain in each split. Families of drawings that both domains have, and those that one
    has, are divided alike, with a constant seed; each split has one of each domain, if there are enough."""
    families = [np.array([openmoji.family(name.upper()) for name in names]) for names in (names_a, names_b)]
    a, b = (set(each.tolist()) for each in families)
    random, split_of = np.random.RandomState(SPLIT_SEED), {}
    for group in (sorted(a & b), sorted(a - b), sorted(b - a)):
        order = [group[i] for i in random.permutation(len(group))]
        for split, share in HELD_OUT.items():
            count = round(share * len(group))
            split_of |= dict.fromkeys(order[:count], split)
            order = order[count:]
        split_of |= dict.fromkeys(order, "train")
    for split in HELD_OUT:
        for domain in (a, b):
            left = [name for name, where in split_of.items() if where == "train" and name in domain]
            if len(left) > 1 and not any(split_of[name] == split for name in domain):
                split_of[left[0]] = split
    of_a, of_b = (np.array([split_of[name] for name in each]) for each in families)
    return {split: (np.flatnonzero(of_a == split), np.flatnonzero(of_b == split)) for split in SPLITS}


def _bundled(spec: str, size: int) -> tuple[Images, Images, list[str], list[str], dict[str, str], str]:
    if spec == "digits":
        a, b = _digits(size)
        names = [str(i) for i in range(len(a))]
        titles = {"a": "black on white", "b": "yellow on blue"}
        return a, b, names, names, titles, "digits: handwritten digits of scikit-learn in two pairs of colors"
    if size % 2:
        raise BadInput(f"drawings are rendered at twice the size and halved: give an even size, not {size}")
    drawings, masks, stems = openmoji.load_drawings(2 * size)
    color = openmoji.halve(drawings)
    if spec == "openmoji":
        line = np.where(masks == openmoji.CLASSES.index("line"), 0, 255).astype(np.uint8)
        line = openmoji.halve(np.repeat(line[..., None], 3, 3))
        about = "openmoji: drawings (artwork, CC BY-SA 4.0, openmoji.org), their lines and their colors"
        return line, color, stems, stems, {"a": "line art", "b": "color"}, about
    codes = [stem.replace("-FE0F", "") for stem in stems]
    others, found = twemoji.load_drawings(size, set(codes))
    rows = [codes.index(code) for code in found]
    about = "twemoji: OpenMoji's and Twitter's drawings of the same emoji (CC BY-SA 4.0 and CC BY 4.0)"
    return color[rows], others, found, found, {"a": "OpenMoji", "b": "Twemoji"}, about


def _digits(size: int) -> tuple[Images, Images]:
    from PIL import Image
    from sklearn.datasets import load_digits

    gray = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    ink = np.stack([np.asarray(Image.fromarray(each).resize((size, size))) for each in gray])
    share = ink[:, None] / np.float32(255)
    paper, yellow = (np.array(color, np.float32)[:, None, None] for color in (PAPER, INK))
    colored = (paper + share * (yellow - paper)).round().astype(np.uint8)
    return np.repeat(255 - ink[:, None], 3, 1), colored


def _folder(spec: str, size: int) -> tuple[Images, Images, list[str], list[str], dict[str, str], str]:
    name, skip = split_skip(spec)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise BadInput(f"no data {spec!r}: {did_you_mean(spec, BUNDLED)}, or {LAYOUT}")
    files = {domain: _files(folder / domain) for domain in "ab"}
    if sum(map(len, files.values())) * 3 * size**2 > MEMORY_LIMIT:
        raise BadInput(
            f"{folder} at {size}×{size} takes more than {MEMORY_LIMIT >> 30} GiB of memory: give a smaller "
            "size, or fewer pictures"
        )
    images, names, note = [], [], ""
    for domain in "ab":
        loaded, good, left_out = read_good(
            lambda file: fit_to_square(load_upright(file, 3)[0], size, ink=False),
            files[domain],
            skip=skip,
            threads=THREADS,
        )
        names.append([files[domain][i].stem for i in good])
        _refuse_few(folder / domain, len(good))
        images.append(np.stack(loaded))
        note += left_out
    about = f"{folder.name}: {len(images[0])} pictures in a/ and {len(images[1])} in b/{note}"
    return *images, *names, {"a": "a", "b": "b"}, about


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder} does not exist: give {LAYOUT}")
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in SUFFIXES and f.name[0] != "."]
    _refuse_few(folder, len(files))
    by_stem: dict[str, Path] = {}
    for file in files:
        if file.stem in by_stem:
            raise BadInput(f"{by_stem[file.stem]} and {file} have one name: rename one of them")
        by_stem[file.stem] = file
    return files


def _refuse_few(folder: Path, count: int) -> None:
    if count < len(SPLITS):
        raise BadInput(
            f"{folder} holds {count} picture{'s' * (count != 1)}: at least {len(SPLITS)} are needed, one "
            "each to train, to validate and to test with"
        )
