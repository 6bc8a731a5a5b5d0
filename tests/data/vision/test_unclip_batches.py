"""Batches of pictures, captions, timesteps and noise: shares that are dropped, and resuming."""

from types import SimpleNamespace

import pytest
import torch

from torchstone.data.vision.image_text_batches import ImageTextBatches, encode_texts
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.data.vision.unclip_batches import UnclipBatches
from torchstone.tasks.vision.image_text import learn_tokenizer
from torchstone.tasks.vision.stream import image_batches


@pytest.fixture(scope="module")
def shapes():
    data = load_image_texts("shapes", size=32)
    return data, learn_tokenizer(data, 400)


def stream(shapes, **drops):
    data, tokenizer = shapes
    recipe = SimpleNamespace(batch_size=200, augment="none", seed=3)
    batches = ImageTextBatches(
        image_batches(recipe, data.train, data.metadata), data, tokenizer, max_length=8
    )
    return UnclipBatches(batches, 1000, (5,), encode_texts(tokenizer, [""], 8)[0], **drops)


def test_each_is_dropped_as_often_as_asked_and_independently(shapes):
    batches = stream(shapes, text_drop_prob=0.5, embedding_drop_prob=0.1)
    parts = [next(batches) for _ in range(10)]
    no_text = torch.cat([(each.tokens == batches.empty).all(1) for each in parts])
    no_embedding = ~torch.cat([each.keeps_embedding for each in parts])
    both = (no_text & no_embedding).double().mean()
    print(
        f"no text {no_text.double().mean():.3f}, no embedding {no_embedding.double().mean():.3f}, both {both:.3f}"
    )
    assert no_text.double().mean() == pytest.approx(0.5, abs=0.04)
    assert no_embedding.double().mean() == pytest.approx(0.1, abs=0.025)
    assert both == pytest.approx(0.05, abs=0.02)


def test_timesteps_are_spread_and_noise_is_standard(shapes):
    batches = stream(shapes)
    parts = [next(batches) for _ in range(10)]
    t, epsilon = (torch.cat([getattr(each, name) for each in parts]) for name in ("t", "epsilon"))
    assert epsilon.shape == (2000, 5)
    assert t.min() < 10
    assert t.max() > 989
    assert t.double().mean() == pytest.approx(499.5, abs=25)
    assert epsilon.std() == pytest.approx(1, abs=0.03)
    assert not any((each.tokens == batches.empty).all(1).any() for each in parts)
    assert all(each.keeps_embedding.all() for each in parts)


def test_a_stream_goes_on_where_it_was(shapes):
    first = stream(shapes, text_drop_prob=0.3)
    next(first)
    state, wanted = first.state_dict(), next(first)
    second = stream(shapes, text_drop_prob=0.3)
    second.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(wanted, next(second), strict=True))
