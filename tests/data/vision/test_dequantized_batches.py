"""Likelihood batches: integer pixels stay integers, and neither resuming nor sharing changes any number."""

import pytest
import torch

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.dequantized_batches import LikelihoodBatches, identity_stats


def likelihood_batches(
    batch: int = 6, shape=(2, 3), seed: int = 3, channels: int = 1, **shares
) -> LikelihoodBatches:
    images = torch.arange(256, dtype=torch.uint8).repeat(2 * channels).view(32, channels, 4, 4)
    pictures = ImageSplit(torch.zeros(32, dtype=torch.int64), images)
    return LikelihoodBatches(
        ImageBatches(pictures, batch, seed=seed, metadata=identity_stats(channels), **shares), shape
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_likelihood_batches_keep_integer_pixels(channels):
    batch = next(likelihood_batches(32, channels=channels))
    values = batch.images.flatten().unique().tolist()
    assert values == list(range(256))


def test_likelihood_batches_noise_distributions():
    stream = likelihood_batches(32, shape=(40, 5))
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
    assert not torch.equal(batches[0].u, next(likelihood_batches(32, shape=(40, 5), seed=4)).u)


def test_likelihood_batches_without_latent_noise():
    assert next(likelihood_batches(shape=None)).epsilon is None


def test_likelihood_batches_resume_bit_exactly():
    stream = likelihood_batches()
    for _ in range(7):
        next(stream)
    state, expected = stream.state_dict(), next(stream)
    other = likelihood_batches()
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(expected, next(other), strict=True))


def test_likelihood_batches_shared_by_two_processes():
    one, parts = likelihood_batches(), [likelihood_batches(rank=rank, world_size=2) for rank in range(2)]
    for _ in range(3):
        joint = next(one)
        halves = [next(part) for part in parts]
        for name in ("images", "u", "epsilon"):
            both = torch.cat([getattr(half, name) for half in halves])
            assert torch.equal(both, getattr(joint, name)), name
