"""What the players of a game are given: fresh pictures each turn, noise that nothing but the seed decides."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.gan_batches import Rounds

CARD = {"mean": [0.0], "std": [1.0], "channels": 1, "size": 2}
COUNT = 24
PICTURES = ImageSplit(
    torch.arange(COUNT),
    torch.arange(COUNT, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
)  # each is as light as its label


def rounds(turns: int = 2, seed: int = 3, batch: int = 6, rank: int = 0, world: int = 1) -> Rounds:
    batches = ImageBatches(PICTURES, batch, seed=seed, metadata=CARD, rank=rank, world_size=world)
    return Rounds(batches, 5, turns=turns)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True))


def test_each_turn_has_pictures_of_its_own_with_their_labels():
    stream, seen = rounds(), []
    for _ in range(2):
        both = next(stream)
        assert len(both.turns) == 2
        for turn in both.turns:
            assert torch.equal((turn.real[:, 0, 0, 0] * 255).round().long(), turn.labels)
            assert turn.z.shape == (6, 5)
            assert turn.between.shape == (6,)
            seen += turn.labels.tolist()
        assert torch.equal(both.wish.labels, both.turns[-1].labels)
        assert both.wish.z.shape == (6, 5)
    assert sorted(seen) == list(range(COUNT)), "an epoch is every picture once"


def test_no_noise_comes_twice_and_it_is_what_it_should_be():
    stream, noise, places = rounds(batch=24), [], []
    for _ in range(200):
        both = next(stream)
        noise += [*(turn.z for turn in both.turns), both.wish.z]
        places += [turn.between for turn in both.turns]
    assert len({tuple(z.flatten().tolist()) for z in noise}) == len(noise) == 600
    z, between = torch.stack(noise), torch.stack(places)
    print(z.mean(), z.std(), between.mean(), between.std(), between.min(), between.max())
    assert abs(float(z.mean())) < 0.02
    assert float(z.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((z[0::3] * z[2::3]).mean())) < 0.02, "the generator's noise is fresh"
    assert float(between.mean()) == pytest.approx(0.5, abs=0.02)
    assert 0 <= float(between.min()) < 0.01
    assert 0.99 < float(between.max()) < 1


def test_it_goes_on_where_it_was_and_the_global_generator_has_no_part():
    stream = rounds()
    next(stream)
    state = stream.state_dict()
    rest = [next(stream) for _ in range(3)]
    torch.manual_seed(99)
    again = rounds()
    again.load_state_dict(state)
    assert all(same(next(again), each) for each in rest)
    assert not same(next(rounds()), next(rounds(seed=4)))
    assert not torch.equal(next(rounds()).wish.z, next(rounds(seed=4)).wish.z)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_share_what_one_would_have(world):
    whole = rounds()
    shares = [rounds(rank=rank, world_size=world) for rank in range(world)]
    for _ in range(3):
        wanted = tree_leaves(next(whole))
        parts = zip(*(tree_leaves(next(each)) for each in shares), strict=True)
        for one, each in zip(wanted, parts, strict=True):
            assert torch.equal(one, torch.cat(each))
    assert whole.state_dict() == shares[0].state_dict() == {"position": 36}
