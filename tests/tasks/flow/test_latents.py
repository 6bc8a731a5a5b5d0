"""The latent space of an image flow: codes without loss, mean latents of classes, and the paths between them."""

import dataclasses

import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.data.vision.dataset import ImageSplit, load_images
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.flow.likelihood import quantize
from torchstone.references import randomize_weights
from torchstone.systems.generative.glow import Glow
from torchstone.tasks.flow import inference, latents
from torchstone.tasks.flow.latents import (
    class_direction,
    class_latents,
    decode_latents,
    encode_images,
    save_directions,
    save_interpolations,
)


@pytest.fixture(scope="module")
def data():
    return load_images("digits", size=8, channels=1, device="cpu")


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    return randomize_weights(Glow(width=8, depth=2), 0.1, add=True)


def test_encode_decode_loses_nothing(flow, data):
    images = all_images(data.test)[:40]
    z = encode_images(flow, images, 17)
    again = decode_latents(flow, z, 17)
    assert z.shape == (40, 64)
    assert torch.equal(quantize(again, 17), quantize(images, 17))
    assert torch.equal(encode_images(flow, images, 17), z)


def test_class_latents_are_means_over_their_class(flow, data):
    """Of as many training images as are read: here all."""
    some = dataclasses.replace(data, train=ImageSplit(data.train.labels[:300], data.train.images[:300]))
    means = class_latents(flow, some, 17)
    labels, z = some.train.labels, encode_images(flow, all_images(some.train), 17)
    assert list(means) == [str(digit) for digit in range(10)]
    for digit in (0, 7):
        by_hand = sum(row for row, label in zip(z, labels, strict=True) if label == digit)
        by_hand = by_hand / int((labels == digit).sum())
        assert means[str(digit)] == pytest.approx(by_hand.tolist(), abs=1e-4)


def test_class_latents_are_left_out_where_they_say_nothing(flow, data, monkeypatch):
    one = dataclasses.replace(data, classes=("digit",))
    assert class_latents(flow, one, 17) == {}
    assert latents.num_mean_images(one) == 0
    assert latents.num_mean_images(data) == latents.MEAN_IMAGES < len(data.train)
    monkeypatch.setattr(latents, "MAX_NUMBERS", 639)
    assert class_latents(flow, data, 17) == {}


MEANS = {"cat": [0.0, 1.0], "dog": [3.0, 0.0], "7": [1.0, 1.0]}


def test_class_direction_leads_from_the_first_to_the_second():
    start, move = class_direction(MEANS, "cat", "dog")
    assert start.tolist() == [0, 1]
    assert move.tolist() == [3, -1]
    assert class_direction(MEANS, "7", "cat")[1].tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("means", "words", "message"),
    [
        (MEANS, ("cat", None), "give both --from-label and --to-label"),
        (MEANS, (None, None), "give both"),
        (MEANS, ("cat", "dug"), "no class 'dug'.*dog"),
        ({}, ("cat", "dog"), "no mean latents"),
        (None, ("cat", "dog"), "no mean latents"),
    ],
)
def test_class_direction_rejects(means, words, message):
    with pytest.raises(BadInput, match=message):
        class_direction(means, *words)


@pytest.fixture(scope="module")
def metadata(flow, data):
    means = {name: [0.1 * k] * 64 for k, name in enumerate(data.classes)}
    return {"picture": data.metadata | {"ink": False}, "pixel_levels": 17, "class_latents": means}


def test_sample_follows_a_direction_from_an_image(flow, data, metadata, tmp_path):
    """It begins at the image itself, and ends where its latent plus the difference of means decodes to."""
    images = all_images(data.test)[:2]
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number}.png")
    path = inference.sample(flow, metadata, from_label="2", to_label="5", image=tmp_path)
    z = encode_images(flow, images, 17)
    assert len(path) == 2 * latents.COLUMNS
    assert torch.equal(torch.stack(path[:: latents.COLUMNS]), decode_latents(flow, z, 17))
    ends = torch.stack(path[latents.COLUMNS - 1 :: latents.COLUMNS])
    assert torch.equal(ends, decode_latents(flow, z + 0.3, 17))
    assert not torch.equal(ends[0], path[0])


def test_sample_follows_a_direction_from_noise(flow, metadata, tmp_path):
    words = {"from_label": "2", "to_label": "5", "num_samples": 3, "seed": 4, "temperature": 0.5}
    path = inference.sample(flow, metadata, **words)
    z = 0.2 + 0.5 * torch.randn(3, 64, generator=torch.Generator().manual_seed(4))
    assert torch.equal(torch.stack(path[:: latents.COLUMNS]), decode_latents(flow, z, 17))
    (name,) = inference.sample(flow, metadata, **words, out=tmp_path / "strip.png")
    assert Image.open(name).size == (9 * 50 + 2, 3 * 50 + 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_label": "2"}, "give both"),
        ({"image": "x.png"}, "give both"),
        ({"from_label": "2", "to_label": "eleven"}, "no class 'eleven'"),
        ({"from_label": "2", "to_label": "3", "image": "nowhere.png"}, "nowhere.png"),
        ({"from_label": "2", "to_label": "3", "image": "x.png", "num_samples": 2}, "leave the number"),
    ],
)
def test_sample_rejects_a_direction(flow, metadata, options, message):
    with pytest.raises(BadInput, match=message):
        inference.sample(flow, metadata, **options)


def test_latent_pictures(flow, data, metadata, tmp_path):
    file = save_interpolations(flow, all_images(data.test)[:5], 17, tmp_path / "a.png")
    assert Image.open(file).size == (9 * 50 + 2, 2 * 50 + 2)
    file = save_directions(flow, data, metadata["class_latents"], 17, tmp_path / "b.png")
    assert Image.open(file).size == (9 * 50 + 2, 8 * 50 + 2)
    assert save_directions(flow, data, {}, 17, tmp_path / "c.png") is None
    assert not (tmp_path / "c.png").exists()


def test_decode_latents_raises_when_not_finite():
    class Broken(nn.Linear):
        def inverse(self, z):
            return z.view(-1, 1, 8, 8) / 0, z.sum(1)

    with pytest.raises(NotFinite, match="images are not finite"):
        decode_latents(Broken(1, 1), torch.ones(2, 64), 17)
