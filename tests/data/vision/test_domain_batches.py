"""Batches of two domains: orders of their own, or the same for partners; resumed and shared to the bit."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.domain_batches import PairedBatches, UnpairedBatches
from torchstone.data.vision.image_domains import DomainSplit

COUNT = 24


def numbered(count: int, offset: int = 0) -> torch.Tensor:
    """Each is as light as its number, darker to the right."""
    images = torch.arange(offset, offset + count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    return images - torch.arange(8, dtype=torch.uint8)


SPLIT = DomainSplit(
    numbered(COUNT, 100),
    numbered(COUNT, 50),
    torch.stack([torch.arange(COUNT), torch.arange(COUNT).flip(0)], 1),
)
KINDS = [UnpairedBatches, PairedBatches]


def numbers(images: list[torch.Tensor]) -> list[int]:
    return ((torch.cat(images)[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True))


def test_an_epoch_is_every_picture_of_both_domains_in_two_orders():
    stream = UnpairedBatches(SPLIT, 6, seed=3)
    rows = [next(stream) for _ in range(COUNT // 6)]
    a, b = (numbers([getattr(row, d) for row in rows]) for d in "ab")
    assert sorted(a) == list(range(100, 100 + COUNT))
    assert sorted(b) == list(range(50, 50 + COUNT))
    together = sum(x - 100 == COUNT - 1 - (y - 50) for x, y in zip(a, b, strict=True))
    in_order = sum(x - 100 == y - 50 for x, y in zip(a, b, strict=True))
    assert max(together, in_order) < COUNT / 4, "partners come together by chance only"


def test_domains_of_other_sizes_have_epochs_of_their_own():
    split = DomainSplit(numbered(5), numbered(3), torch.zeros(0, 2, dtype=torch.int64))
    stream = UnpairedBatches(split, 1, seed=0)
    rows = [next(stream) for _ in range(15)]
    assert sorted(numbers([row.b for row in rows])) == sorted(5 * [0, 1, 2])
    assert sorted(numbers([row.a for row in rows])) == sorted(3 * [0, 1, 2, 3, 4])


def test_partners_stay_together_and_are_augmented_alike():
    stream = PairedBatches(SPLIT, 6, seed=3, augment=make_augmentation("flip"))
    flips = 0
    for _ in range(8):
        batch = next(stream)
        left = (batch.a[:, 0, 0, 0] > batch.a[:, 0, 0, -1]).tolist()
        assert left == (batch.b[:, 0, 0, 0] > batch.b[:, 0, 0, -1]).tolist()
        flips += sum(left)
        lightest = [((x.amax((1, 2, 3)) + 1) * 127.5).round().long() for x in (batch.a, batch.b)]
        assert torch.equal(lightest[0] - 100, COUNT - 1 - (lightest[1] - 50))
    assert 0 < flips < 48


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_from_its_state(kind):
    whole, cut = kind(SPLIT, 5, seed=1), kind(SPLIT, 5, seed=1)
    for _ in range(7):
        next(whole)
    cut.load_state_dict(whole.state_dict())
    assert all(same(next(whole), next(cut)) for _ in range(7))
    assert not same(next(whole), next(kind(SPLIT, 5, seed=1)))


@pytest.mark.parametrize("kind", KINDS)
def test_processes_share_the_same_batch(kind):
    one = next(kind(SPLIT, 6, seed=2))
    parts = [next(kind(SPLIT, 6, seed=2, rank=rank, world_size=3)) for rank in range(3)]
    for field in one._fields:
        assert torch.equal(getattr(one, field), torch.cat([getattr(part, field) for part in parts]))


def test_each_batch_has_chances_of_its_own():
    stream = UnpairedBatches(SPLIT, 4, seed=2)
    chances = torch.cat([next(stream).chance for _ in range(50)]).flatten()
    assert len(chances.unique()) == len(chances)
    assert 0 <= float(chances.min()) < 0.05 < 0.95 < float(chances.max()) < 1
    assert not torch.equal(next(stream).chance, next(UnpairedBatches(SPLIT, 4, seed=3)).chance)
