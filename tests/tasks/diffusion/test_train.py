"""Training: the conditions of what sheets show."""

import torch

from torchstone.data.vision.captioned import Captioned
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.tasks.diffusion.train import ConditionedData, caption_context, label_context


def captioned(count=12):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1) * 20
    splits = [
        ImageSplit(rows, images[rows].expand(-1, 3, 8, 8).contiguous())
        for rows in (torch.arange(0, count, 2), torch.tensor([1, 5, 9]), torch.tensor([3, 7, 11]))
    ]
    names = tuple(f"image {i}" for i in range(count))
    return Captioned("mine", names, *splits, metadata={"size": 8, "channels": 3}, description="")


def test_conditioned_data_cycle_is_captions_or_labels_in_turn():
    data = captioned()
    table, empty = torch.arange(100, 112)[:, None], torch.zeros(1, 1).long()
    tokens, names = ConditionedData(data, {}, caption_context(table, empty), {}).cycle(6)
    assert tokens is not None
    assert [f"image {row - 100}" for row in tokens.flatten().tolist()] == names
    assert names == ["image 0", "image 1", "image 4", "image 5", "image 10", "image 9"]
    nothing = ImageSplit(torch.zeros(1).long(), torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    digits = ImageDataset("", ("zero", "one", "two"), nothing, nothing, nothing, {}, "")
    labels, names = ConditionedData(digits, {}, label_context(3), {}).cycle(4)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0]
    assert names == ["zero", "one", "two", "zero"]
    assert ConditionedData(digits, {}, None, {}).cycle(4) == (None, [])


def test_conditioned_data_subset_is_images_with_their_captions():
    data = captioned()
    table, empty = torch.arange(100, 112)[:, None], torch.zeros(1, 1).long()
    context, images = ConditionedData(data, {}, caption_context(table, empty), {}).subset(data.train, 3)
    assert context is not None
    assert context.flatten().tolist() == [100, 104, 110]
    assert images[:, 0, 0, 0].tolist() == [0, 80, 200]
