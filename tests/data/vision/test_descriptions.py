"""Described images: what a description says, attributes, and parts that share no image."""

import numpy as np
import pytest
import torch

from torchstone.data.vision import descriptions, openmoji
from torchstone.data.vision.descriptions import (
    describe,
    details_of,
    load_described,
    make_attribute,
    spaced,
    with_details,
)
from torchstone.data.vision.openmoji_questions import color_shares, name_color
from torchstone.errors import BadInput

RED, GREEN, SKIN = (234, 90, 71), (92, 158, 49), (250, 220, 188)


@pytest.fixture(scope="module")
def shapes():
    return load_described("shapes", size=16)


def test_a_description_names_category_colors_and_subject():
    assert (
        describe("food", {"red": 0.7, "green": 0.2, "brown": 0.1}, "apple")
        == "food, mostly red with green: apple"
    )
    assert (
        describe("food", {"red": 0.5, "green": 0.3, "brown": 0.2}, "pie")
        == "food, red with green and brown: pie"
    )
    assert describe("a symbol", {}, "plus") == "a symbol, black and white: plus"
    assert describe("a person", {"": 0.8, "red": 0.2}, "clown") == "a person, red: clown"
    many = {"red": 0.3, "blue": 0.25, "gray": 0.25, "pink": 0.2}
    assert describe("a flag", many, "x") == "a flag, red with blue and gray: x"


def test_shares_of_colors_are_counted_inside_the_lines():
    image = np.full((10, 10, 3), 255, np.uint8)
    image[:6, :5], image[6:, :5], image[:2, 5:] = RED, GREEN, SKIN
    mask = np.ones((10, 10), np.uint8)
    shares = color_shares(image, mask)
    assert shares == pytest.approx({"red": 30 / 60, "green": 20 / 60, "": 10 / 60})
    assert name_color(image, mask) is None
    assert name_color(image[:6], mask[:6]) == "red"
    assert color_shares(image, mask * 0) == {}


def test_attributes_are_found_in_captions_as_words():
    color = make_attribute(["red", None, "blue"], "mostly {}")
    assert (color.classes, color.labels.tolist()) == (("blue", "red"), [1, -1, 0])
    assert color.is_in("food, mostly red with blue: apple", 0)
    assert not color.is_in("food, mostly red with blue: apple", 2)
    assert not color.is_in("food, mostly redder: apple", 0)
    place = make_attribute(["a flag"])
    assert place.is_in("a flag , blue", 0)
    assert not place.is_in("a flagship , blue", 0)


def test_details_and_subject_come_apart_and_together():
    text = "food, mostly red with green: red apple"
    assert details_of(text) == "food , mostly red with green"
    assert with_details(details_of(text), "red apple") == spaced(text)
    assert details_of("no subject") == "no subject"


def test_parts_share_no_image_and_labels_are_rows(shapes):
    parts = [shapes.captioner, shapes.train, shapes.val, shapes.test]
    rows = torch.cat([part.labels for part in parts])
    assert len(rows) == len(set(rows.tolist())) == len(shapes.short)
    assert [len(part) for part in parts] == [84, 108, 12, 36]
    colors = shapes.attributes["color"]
    for part in parts:
        for row in part.labels.tolist():
            assert colors.is_in(shapes.long[row], row)
            assert shapes.long[row].endswith(f": {shapes.short[row]}")


def test_a_classifier_is_trained_on_no_image_of_the_test(shapes):
    labeled = shapes.labeled("color")
    test = {bytes(image.numpy()) for image in shapes.test.images}
    trained = {bytes(image.numpy()) for image in labeled.train.images}
    assert {bytes(image.numpy()) for image in labeled.test.images} == test
    assert not test & trained
    assert len(labeled.train) == len(shapes.captioner) + len(shapes.train)
    rows = shapes.test.labels
    assert torch.equal(labeled.test.labels, shapes.attributes["color"].labels[rows])


def test_openmojis_families_stay_in_one_part(monkeypatch):
    stems = [f"1F9D1-{i:04X}" for i in range(60)] + [f"1F469-{i:04X}" for i in range(60)]
    images = np.full((120, 16, 16, 3), 255, np.uint8)
    images[:, 2:14, 2:14] = RED
    images[::2, 2:14, 2:14] = SKIN
    monkeypatch.setattr(openmoji, "load_drawings", lambda size: (images, images[..., 0] * 0 + 1, stems))
    names = {stem: {"en": f":thing_{stem}:"} for stem in stems}
    monkeypatch.setattr(descriptions, "read_unicode_names", lambda: names)
    groups = dict.fromkeys(stems, "People & Body") | {stems[0]: "Objects", stems[1]: "Component"}
    monkeypatch.setattr(descriptions, "read_groups", lambda: groups)
    data = load_described("openmoji", size=8)
    assert len(data.short) == 119
    assert data.long[0].startswith("an object")
    category, color = data.attributes["category"], data.attributes["color"]
    assert category.labels[0] == -1
    assert category.classes == ("a person",)
    assert color.classes == ("red",)
    family_of = {}
    for name in ("captioner", "train", "val", "test"):
        for row in getattr(data, name).labels.tolist():
            stem = data.short[row].removeprefix("thing ").upper()
            assert family_of.setdefault(openmoji.family(stem), name) == name
    assert {"captioner", "train", "val", "test"} == set(family_of.values())


def test_other_data_are_refused():
    with pytest.raises(BadInput, match=r"no described images 'openmojis': .*openmoji"):
        load_described("openmojis", size=16)
