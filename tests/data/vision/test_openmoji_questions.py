"""Made questions: colors that are measured, drawings that are counted, hands of clocks, and splits by drawing."""

import colorsys

import numpy as np
import pytest

from torchstone.data.vision import openmoji, openmoji_questions
from torchstone.data.vision.openmoji_questions import (
    CLOCK_FACES,
    LINE,
    NUMBERS,
    compose,
    draw_clock,
    hsv,
    load_answered,
    name_color,
    time_in_words,
)

# OpenMoji's own palette
COLORS = {
    "red": (0xEA5A47, 0xD22F27),
    "orange": (0xF1B31C, 0xE27022),
    "yellow": (0xFCEA2B,),
    "green": (0xB1CC33, 0x5C9E31),
    "blue": (0x92D3F5, 0x61B2E4, 0x1E50A0),
    "purple": (0xB399C8, 0x8967AA),
    "pink": (0xFFA7C0, 0xE67A94),
    "brown": (0xA57939, 0x6A462F),
    "gray": (0xD0CFCE, 0x9B9B9A, 0x3F3F3F),
}


@pytest.mark.parametrize(("name", "color"), [(name, c) for name, colors in COLORS.items() for c in colors])
def test_openmojis_palette_has_its_names(name, color):
    image = np.full((8, 8, 3), 255, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    image[:4, :4], mask[:4, :4] = [color >> 16, color >> 8 & 255, color & 255], 1
    image[4:, :4], mask[4:, :4] = 0, LINE  # lines have no say
    mask[4:, 4:] = 1  # nor has white
    assert name_color(image, mask) == name


def test_a_color_needs_three_fifths():
    image, mask = np.zeros((10, 10, 3), np.uint8), np.ones((10, 10), np.uint8)
    image[:], image[:, :5] = (234, 90, 71), (97, 178, 228)
    assert name_color(image, mask) is None
    image[:, :6] = (97, 178, 228)
    assert name_color(image, mask) == "blue"
    assert name_color(image, np.zeros_like(mask)) is None


def test_hsv_is_that_of_the_standard_library():
    rgb = np.random.RandomState(0).rand(200, 3)
    rgb[:3] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.2]]
    hue, saturation, value = hsv(rgb)
    expected = np.array([colorsys.rgb_to_hsv(*row) for row in rgb])
    np.testing.assert_allclose(np.stack([hue / 360, saturation, value], 1), expected, atol=1e-12)


def test_as_many_drawings_as_the_answer_says():
    black = [np.zeros((24, 24, 3), np.uint8)]
    random, answers = np.random.RandomState(0), set()
    for _ in range(40):
        image, [(kind, answer)] = compose(black, 32, random)
        cells = (image[0] == 0).sum() / 100  # of 10 × 10 pixels
        assert (kind, answer) == ("count", NUMBERS[int(cells) - 1])
        answers.add(answer)
    assert answers == set(NUMBERS[:6])


def test_the_hands_of_a_clock_point_to_the_answer():
    random = np.random.RandomState(3)
    for _ in range(12):
        image, [(kind, answer)] = draw_clock(96, random)
        assert kind == "clock"
        hour = next(n for n, word in enumerate(NUMBERS, 1) if word in answer.replace("'", " ").split())
        gray = image.astype(int).mean(0)
        y, x = np.nonzero(gray < gray[1, 1] - 100)
        middle = np.array([(x.min() + x.max()) / 2, (y.min() + y.max()) / 2])
        offsets = np.stack([x, y], 1) - middle
        distance, radius = np.hypot(*offsets.T), (x.max() - x.min()) / 2
        hand = offsets[(distance > 0.25 * radius) & (distance < 0.4 * radius)]
        degrees = np.degrees(np.arctan2(hand[:, 0], -hand[:, 1])) % 360
        minute, is_half = (180 if "half" in answer else 0), "half" in answer
        expected = 30 * hour % 360
        apart = np.abs((degrees[:, None] - [minute, expected + 7.5 * is_half] + 180) % 360 - 180)
        assert (apart.min(1) < 20).all()  # no ink between the hands
        assert (apart.min(0) < 10).all()  # and both are there
    assert time_in_words(3, is_half=True) == "half past three"
    assert time_in_words(12, is_half=False) == "twelve o'clock"


@pytest.fixture
def drawings(monkeypatch):
    """Thirty persons of three families each, and the clock faces, in place of the archives."""
    codes = [f"1F{i:03X}" for i in range(0x900, 0x91E)]
    stems = [code + end for code in codes for end in ("", "-200D-2640-FE0F", "-1F3FB")]
    stems += [f"{code:X}" for code in CLOCK_FACES]
    images = np.full((len(stems), 24, 24, 3), 200, np.uint8)
    for row, stem in enumerate(stems):
        images[row] = int(stem.split("-")[0][-2:], 16)
    groups = {stem.replace("-FE0F", ""): "People & Body" for stem in stems if "1F3FB" not in stem}
    groups |= {f"{code:X}": "Travel & Places" for code in CLOCK_FACES}
    monkeypatch.setattr(openmoji, "load_drawings", lambda size: (images, images[..., 0] * 0 + 1, stems))
    monkeypatch.setattr(openmoji_questions, "read_groups", lambda: groups)
    for counts in (openmoji_questions.COMPOSED, openmoji_questions.CLOCKS):
        for split in counts:
            monkeypatch.setitem(counts, split, 2)


def test_variants_of_a_drawing_and_what_is_made_of_it_are_in_one_split(drawings):
    levels = {}
    for split, answered in load_answered(12).items():
        of_kind = {kind for _, answers in answered for kind, _ in answers}
        assert of_kind - {"emoji_clock"} >= {"category", "count", "clock"}
        own = {int(image[0, 0, 0]) for image, answers in answered if answers[0][0] == "category"}
        pasted = {int(v) for image, [(kind, *_), *_] in answered if kind == "count" for v in np.unique(image)}
        assert pasted - {255} <= own | {code & 255 for code in CLOCK_FACES}
        levels[split] = own
        # of each drawing two variants, in training mirrored too; no skin tone
        persons = sum(answers[0] == ("category", "a person") for _, answers in answered)
        assert persons == len(own) * 2 * (2 if split == "train" else 1)
        clocks = [answers for _, answers in answered if answers[0][0] == "emoji_clock"]
        assert len(clocks) == (24 if split == "test" else 0)
    assert not levels["train"] & levels["test"]
    assert not levels["val"] & (levels["train"] | levels["test"])
    assert sum(map(len, levels.values())) == 30
    assert len(levels["test"]) > len(levels["val"]) > 0
