"""Noised batches: what is drawn, the same after resuming and with more processes, and kept silent."""

import torch

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.diffusion_batches import Noising

CARD = {"size": 4, "channels": 1, "mean": [0.5], "std": [0.5]}


def stream(*, batch=8, rank=0, world=1, seed=3, count=40, **how):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    pictures = ImageSplit(torch.arange(count), images.contiguous())
    batches = ImageBatches(pictures, batch, seed=seed, metadata=CARD, rank=rank, world_size=world)
    return Noising(batches, 10, **how)


def leaves(batch):
    return [each for each in batch if each is not None]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def tell(labels, silent):
    return torch.where(silent, 100, labels)


def test_levels_noise_and_silence_are_drawn_as_said():
    made = stream(batch=40, tell=tell, drop=0.25)
    batches = [next(made) for _ in range(60)]
    t = torch.cat([each.t for each in batches])
    shares = torch.bincount(t, minlength=10) / len(t)
    print(shares)
    assert ((shares - 0.1).abs() < 0.02).all()
    noise = torch.stack([each.epsilon for each in batches])
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    rows = [each.unique(dim=0) for each in noise]
    assert all(len(each) == 40 for each in rows), "two pictures have the same noise"
    context = torch.stack([each.context for each in batches])
    silent = (context == 100).double().mean()
    print(float(silent))
    assert abs(float(silent) - 0.25) < 0.03
    for each in batches[:3]:  # the others are told of their own picture
        number = ((each.x[:, 0, 0, 0] + 1) * 127.5).round().long()
        heard = each.context != 100
        assert torch.equal(each.context[heard], number[heard])
    assert next(stream()).context is None


def test_resumed_it_goes_on_as_it_would_have():
    whole = stream(tell=tell, drop=0.5)
    for _ in range(7):
        next(whole)
    state, wanted = whole.state_dict(), [next(whole) for _ in range(4)]
    again = stream(tell=tell, drop=0.5)
    again.load_state_dict(state)
    assert all(same(next(again), each) for each in wanted)
    assert not same(next(stream(seed=4, tell=tell)), next(stream(tell=tell)))


def test_two_processes_share_what_one_would_have():
    whole = stream(tell=tell, drop=0.5)
    parts = [stream(rank=rank, world_size=2, tell=tell, drop=0.5) for rank in range(2)]
    for _ in range(6):
        both = zip(*map(next, parts), strict=True)
        assert same([torch.cat(each) for each in both], next(whole))
