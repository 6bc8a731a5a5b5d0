"""Noise beside pictures: whole numbers stay whole, and neither resuming nor sharing changes any number."""

import pytest
import torch

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.dequantized_batches import Chances, whole


def chances(batch: int = 6, shape=(2, 3), seed: int = 3, channels: int = 1, **shares) -> Chances:
    images = torch.arange(256, dtype=torch.uint8).repeat(2 * channels).view(32, channels, 4, 4)
    pictures = ImageSplit(torch.zeros(32, dtype=torch.int64), images)
    return Chances(ImageBatches(pictures, batch, seed=seed, metadata=whole(channels), **shares), shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_of_a_pixel_arrives_as_that_whole_number(channels):
    batch = next(chances(32, channels=channels))
    seen = batch.pictures.flatten().unique().tolist()
    assert seen == list(range(256))


def test_noise_is_uniform_within_a_pixel_and_normal_in_the_code():
    stream = chances(32, shape=(40, 5))
    batches = [next(stream) for _ in range(40)]
    u = torch.cat([each.u.flatten() for each in batches])
    epsilon = torch.cat([each.epsilon.flatten() for each in batches if each.epsilon is not None])
    print(f"u {u.mean():.4f} ± {u.std():.4f}, ε {epsilon.mean():.4f} ± {epsilon.std():.4f}")
    assert 0 <= float(u.min()) < 0.001
    assert 0.999 < float(u.max()) < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(epsilon.mean()) == pytest.approx(0, abs=0.01)
    assert float(epsilon.std()) == pytest.approx(1, abs=0.01)
    assert epsilon.numel() == 40 * 32 * 40 * 5
    assert not torch.equal(batches[0].u, batches[1].u)
    assert not torch.equal(batches[0].u, next(chances(32, shape=(40, 5), seed=4)).u)


def test_without_a_shape_there_is_no_code():
    assert next(chances(shape=None)).epsilon is None


def test_it_goes_on_from_its_state_to_the_bit():
    stream = chances()
    for _ in range(7):
        next(stream)
    state, expected = stream.state_dict(), next(stream)
    other = chances()
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(expected, next(other), strict=True))


def test_two_processes_get_the_halves_of_one():
    one, parts = chances(), [chances(rank=rank, world_size=2) for rank in range(2)]
    for _ in range(3):
        joint = next(one)
        halves = [next(part) for part in parts]
        for name in ("pictures", "u", "epsilon"):
            both = torch.cat([getattr(half, name) for half in halves])
            assert torch.equal(both, getattr(joint, name)), name
