"""DiffusionBatches: distribution of timesteps, noise and dropped conditions; resuming; several processes."""

import torch

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.diffusion_batches import DiffusionBatches

METADATA = {"size": 4, "channels": 1, "mean": [0.5], "std": [0.5]}


def stream(*, batch_size=8, rank=0, world_size=1, seed=3, count=40, **kwargs):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    split = ImageSplit(torch.arange(count), images.contiguous())
    batches = ImageBatches(split, batch_size, seed=seed, metadata=METADATA, rank=rank, world_size=world_size)
    return DiffusionBatches(batches, 10, **kwargs)


def tensors(batch):
    return [each for each in batch if each is not None]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def make_context(labels, dropped):
    return torch.where(dropped, 100, labels)


def test_diffusion_batches_have_uniform_timesteps_normal_noise_and_dropped_conditions():
    source = stream(batch_size=40, make_context=make_context, cond_drop_prob=0.25)
    batches = [next(source) for _ in range(60)]
    t = torch.cat([each.t for each in batches])
    frequencies = torch.bincount(t, minlength=10) / len(t)
    print(frequencies)
    assert ((frequencies - 0.1).abs() < 0.02).all()
    noise = torch.stack([each.epsilon for each in batches])
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    rows = [each.unique(dim=0) for each in noise]
    assert all(len(each) == 40 for each in rows), "two images have the same noise"
    context = torch.stack([each.context for each in batches])
    dropped = (context == 100).double().mean()
    print(float(dropped))
    assert abs(float(dropped) - 0.25) < 0.03
    for each in batches[:3]:  # the others have their own image's label
        number = ((each.x[:, 0, 0, 0] + 1) * 127.5).round().long()
        conditioned = each.context != 100
        assert torch.equal(each.context[conditioned], number[conditioned])
    assert next(stream()).context is None


def test_diffusion_batches_resume():
    source = stream(make_context=make_context, cond_drop_prob=0.5)
    for _ in range(7):
        next(source)
    state, expected = source.state_dict(), [next(source) for _ in range(4)]
    resumed = stream(make_context=make_context, cond_drop_prob=0.5)
    resumed.load_state_dict(state)
    assert all(equal(next(resumed), each) for each in expected)
    assert not equal(next(stream(seed=4, make_context=make_context)), next(stream(make_context=make_context)))


def test_diffusion_batches_of_two_processes_are_the_joint_batch():
    single = stream(make_context=make_context, cond_drop_prob=0.5)
    shares = [
        stream(rank=rank, world_size=2, make_context=make_context, cond_drop_prob=0.5) for rank in range(2)
    ]
    for _ in range(6):
        pairs = zip(*map(next, shares), strict=True)
        assert equal([torch.cat(pair) for pair in pairs], next(single))
