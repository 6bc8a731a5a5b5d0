"""The gain of generated images: equal numbers on both sides, and a generator as good as the data brings much."""

import dataclasses

import numpy as np
import pytest
import torch

from torchstone.data.vision.dataset import ImageSplit, load_images
from torchstone.errors import BadInput
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.vision import class_balance

RARE, KEPT = 8, 2  # a class, and how many of its training images are kept


@pytest.fixture(scope="module")
def rare():
    """Digits with two training images of a class, and the others of that class."""
    data = load_images("digits", size=8, channels=1)
    rows = (data.train.labels == RARE).nonzero()[:, 0]
    kept = torch.ones(len(data.train), dtype=torch.bool)
    kept[rows[KEPT:]] = False
    train = ImageSplit(data.train.labels[kept], data.train.images[kept])
    return dataclasses.replace(data, train=train), data.train.images[rows[KEPT:]]


def test_real_images_as_generated_ones_raise_recall(rare, monkeypatch):
    data, held_back = rare
    trained = []

    def recorded(data, spec, seed, device):
        trained.append((data.train, seed))
        return train_and_test(data, spec, seed, device)

    train_and_test = class_balance._train_and_test
    monkeypatch.setattr(class_balance, "_train_and_test", recorded)
    spec = CLASSIFIER._replace(recipe=dataclasses.replace(CLASSIFIER.recipe, steps=60))
    state = torch.random.get_rng_state()
    gain = class_balance.measure_gain(data, {RARE: held_back}, spec, 1)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator stays as it was"
    (repeated, seed), (generated, seed_) = trained
    counts = [torch.bincount(each.labels).tolist() for each in (repeated, generated)]
    print(f"counts {counts}; recall {gain.repeated[0, RARE]:.3f} and {gain.generated[0, RARE]:.3f}")
    assert counts[0] == counts[1]
    assert counts[0][RARE] == KEPT + len(held_back)
    assert seed == seed_
    unique = [
        len(np.unique(x.images[x.labels == RARE].flatten(1).numpy(), axis=0)) for x in (repeated, generated)
    ]
    assert unique[0] == KEPT
    assert unique[1] > KEPT
    assert gain.generated[0, RARE] > gain.repeated[0, RARE] + 0.15


def test_both_arms_start_from_the_weights_of_the_seed(rare):
    """Whatever the global generator's state; another seed has other weights."""
    data, images = rare
    spec = CLASSIFIER._replace(recipe=dataclasses.replace(CLASSIFIER.recipe, steps=2))
    gains = []
    for state in (1, 2):
        torch.manual_seed(state)
        gains.append(class_balance.measure_gain(data, {RARE: images[:1]}, spec, 2))
    one, again = gains
    print(f"recall of seeds 0 and 1: {one.generated.tolist()}")
    assert torch.equal(one.generated, again.generated)
    assert torch.equal(one.repeated, again.repeated)
    assert not torch.equal(one.generated[0], one.generated[1])


def test_repeated_images_come_in_turn():
    labels = torch.tensor([0, 1, 1, 0, 1])
    assert class_balance.repeat_to(labels, {0: 3, 1: 1}).tolist() == [0, 3, 0, 1]
    assert class_balance.count_missing(labels, 2, 3) == [1, 0]
    with pytest.raises(BadInput, match="every class has 2 training images or more, the rarest 2"):
        class_balance.count_missing(labels, 2, 2)
    with pytest.raises(BadInput, match="class 2 of 3 has no training image"):
        class_balance.count_missing(labels, 3, 5)


def test_a_class_without_test_images_is_refused(rare):
    data, images = rare
    test = ImageSplit(data.test.labels.clamp(max=8), data.test.images)
    with pytest.raises(BadInput, match="class '9' has no test image"):
        class_balance.measure_gain(dataclasses.replace(data, test=test), {RARE: images}, CLASSIFIER, 1)


def test_classes_whose_folders_would_be_one_are_refused():
    assert class_balance.folder_names(["a/b", "c"]) == ["a_b", "c"]
    with pytest.raises(BadInput, match="would share a folder"):
        class_balance.folder_names(["a/b", "A_b"])
