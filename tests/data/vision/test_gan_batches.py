"""GAN batches: fresh images in each step, and noise that depends on the seed alone."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.gan_batches import GanBatches

METADATA = {"mean": [0.0], "std": [1.0], "channels": 1, "size": 2}
COUNT = 24
IMAGES = ImageSplit(
    torch.arange(COUNT), torch.arange(COUNT, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
)  # each is as light as its label


def gan_batches(
    steps: int = 2, seed: int = 3, batch: int = 6, rank: int = 0, world_size: int = 1
) -> GanBatches:
    batches = ImageBatches(IMAGES, batch, seed=seed, metadata=METADATA, rank=rank, world_size=world_size)
    return GanBatches(batches, 5, discriminator_steps=steps)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True))


def test_gan_batches_have_distinct_images_and_labels():
    stream, labels = gan_batches(), []
    for _ in range(2):
        batch_ = next(stream)
        assert len(batch_.discriminator_batches) == 2
        for step in batch_.discriminator_batches:
            assert torch.equal((step.real[:, 0, 0, 0] * 255).round().long(), step.labels)
            assert step.z.shape == (6, 5)
            assert step.interpolation.shape == (6,)
            labels += step.labels.tolist()
        assert torch.equal(batch_.generator_batch.labels, batch_.discriminator_batches[-1].labels)
        assert batch_.generator_batch.z.shape == (6, 5)
    assert sorted(labels) == list(range(COUNT)), "an epoch is every image once"


def test_gan_batches_noise_is_fresh_and_normal():
    stream, noise, weights = gan_batches(batch=24), [], []
    for _ in range(200):
        batch_ = next(stream)
        noise += [*(step.z for step in batch_.discriminator_batches), batch_.generator_batch.z]
        weights += [step.interpolation for step in batch_.discriminator_batches]
    assert len({tuple(z.flatten().tolist()) for z in noise}) == len(noise) == 600
    z, interpolation = torch.stack(noise), torch.stack(weights)
    print(
        z.mean(), z.std(), interpolation.mean(), interpolation.std(), interpolation.min(), interpolation.max()
    )
    assert abs(float(z.mean())) < 0.02
    assert float(z.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((z[0::3] * z[2::3]).mean())) < 0.02, "the generator's noise is fresh"
    assert float(interpolation.mean()) == pytest.approx(0.5, abs=0.02)
    assert 0 <= float(interpolation.min()) < 0.01
    assert 0.99 < float(interpolation.max()) < 1


def test_gan_batches_resume_independent_of_global_rng():
    stream = gan_batches()
    next(stream)
    state = stream.state_dict()
    rest = [next(stream) for _ in range(3)]
    torch.manual_seed(99)
    again = gan_batches()
    again.load_state_dict(state)
    assert all(same(next(again), each) for each in rest)
    assert not same(next(gan_batches()), next(gan_batches(seed=4)))
    assert not torch.equal(next(gan_batches()).generator_batch.z, next(gan_batches(seed=4)).generator_batch.z)


@pytest.mark.parametrize("world_size", [2, 3])
def test_gan_batches_shared_by_processes(world_size):
    single = gan_batches()
    shares = [gan_batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(3):
        wanted = tree_leaves(next(single))
        parts = zip(*(tree_leaves(next(each)) for each in shares), strict=True)
        for one, each in zip(wanted, parts, strict=True):
            assert torch.equal(one, torch.cat(each))
    assert single.state_dict() == shares[0].state_dict() == {"position": 36}
