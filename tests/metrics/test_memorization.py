"""Memorization: nearest training images, distances to them, and the sheet that shows them."""

import pytest
import torch
from PIL import Image

from torchstone.data.vision.captioned import Captioned
from torchstone.data.vision.dataset import ImageSplit
from torchstone.metrics import memorization


@pytest.fixture
def data():
    images = torch.arange(12, dtype=torch.uint8).view(-1, 1, 1, 1) * 20
    splits = [
        ImageSplit(rows, images[rows].expand(-1, 3, 8, 8).contiguous())
        for rows in (torch.arange(0, 12, 2), torch.tensor([1, 5, 9]), torch.tensor([3, 7, 11]))
    ]
    names = tuple(f"image {i}" for i in range(12))
    return Captioned("mine", names, *splits, metadata={"size": 8, "channels": 3}, note="")


def test_save_nearest_sheet_shows_the_nearest_training_images(data, tmp_path):
    samples = data.train.take(torch.tensor([4, 0, 2])) + 3
    assert memorization.nearest_training_image(samples, data.train).tolist() == [4, 0, 2]
    file = tmp_path / "new" / "sheet.png"
    assert memorization.save_nearest_sheet(samples, data, file, captions=["a", "b", "c"]) == file
    with Image.open(file) as image:
        stride = memorization.IMAGE_SIZE + memorization.GAP
        below = memorization.GAP + memorization.IMAGE_SIZE + memorization.TEXT_HEIGHT
        for column, row in enumerate((4, 0, 2)):
            left = memorization.GAP + column * stride + 5
            assert image.getpixel((left, memorization.GAP + 5)) == (40 * row + 3,) * 3
            assert image.getpixel((left, below + 5)) == (40 * row,) * 3


def test_nn_distance_ratio_is_0_for_copies_and_1_for_new_images(data):
    copies = data.train.take(torch.arange(5))
    assert memorization.nn_distance_ratio(copies, data.train, data.test) == 0
    new = memorization.nn_distance_ratio(data.test.take(torch.arange(3)), data.train, data.test)
    assert new == pytest.approx(1)


def test_caption_match_is_1_for_the_own_images_and_a_half_for_equal_ones(data):
    targets = data.train.take(torch.arange(6))
    assert memorization.caption_match(targets, targets) == 1
    assert memorization.caption_match(targets.flip(0), targets) < 0.5
