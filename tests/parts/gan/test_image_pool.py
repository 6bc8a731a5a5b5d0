"""The pool against a list, by the rule in words."""

import pytest
import torch

from torchstone.parts.gan.image_pool import ImagePool
from torchstone.references.image_translation import Pool

SHAPE = (3, 2, 2)


def queries(seed: int, count: int = 12, batch: int = 4):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield (torch.randn(batch, *SHAPE, generator=generator), torch.rand(batch, 2, generator=generator))


@pytest.mark.parametrize("size", [0, 1, 5, 50])
def test_is_a_list_of_images(size):
    ours, theirs = ImagePool(size), Pool(size)
    stored = 0
    for images, chance in queries(size):
        answers = ours.query(images, chance)
        assert torch.equal(answers, theirs.query(images, chance))
        stored += int((answers != images).flatten(1).any(1).sum())
    assert (stored > 0) == (0 < size < 48)


def test_a_stored_image_is_returned_and_the_new_one_takes_its_slot():
    pool, image = ImagePool(1), torch.full((1, *SHAPE), 1.0)
    stored, kept = torch.tensor([[0.6, 0.0]]), torch.tensor([[0.4, 0.0]])
    assert torch.equal(pool.query(image, stored), image)  # it is not full: kept and returned
    assert torch.equal(pool.query(2 * image, kept), 2 * image)  # the coin is low: it passes by
    assert torch.equal(pool.query(3 * image, stored), image)
    assert torch.equal(pool.query(4 * image, stored), 3 * image)


def test_half_of_the_images_are_stored_ones():
    pool, generator = ImagePool(10), torch.Generator().manual_seed(0)
    for _ in range(3):
        pool.query(torch.randn(10, 1, generator=generator)[..., None, None], torch.rand(10, 2))
    images = torch.arange(2000.0).view(-1, 1, 1, 1) + 100
    answers = pool.query(images, torch.rand(2000, 2, generator=generator))
    share = float((answers != images).float().mean())
    assert abs(share - 0.5) < 0.04, share


def test_what_it_returns_has_no_graph_and_no_memory_in_common():
    pool = ImagePool(4)
    images = torch.randn(2, *SHAPE, requires_grad=True)
    answers = pool.query(2 * images, torch.rand(2, 2))
    assert not answers.requires_grad
    before = pool.images.clone()
    answers.zero_()
    assert torch.equal(pool.images, before)


@pytest.mark.parametrize("queried", [0, 1, 20])
def test_goes_on_from_its_state(queried):
    pool, again = ImagePool(5), ImagePool(5)
    for images, chance in queries(1, queried):
        pool.query(images, chance)
    state = pool.state_dict()
    again.load_state_dict(state)
    for images, chance in queries(2):
        assert torch.equal(pool.query(images, chance), again.query(images, chance))
