"""Seeds out of seeds, and their streams."""

import torch

from torchstone.parts.seeding import derive_generator, derive_seed


def test_derive_seed_differs_in_every_argument():
    seeds = {derive_seed(s, stream, i) for s in range(5) for stream in range(5) for i in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    # of the first version: runs of today draw what theirs drew
    assert (derive_seed(0, 0, 0), derive_seed(1, 2, 3)) == (1279368494785126216, 3851293329796251419)


def test_derive_generator_draws_from_the_derived_seed():
    drawn = torch.rand(5, generator=derive_generator(1, 2, 3))
    print(drawn.tolist())
    assert drawn.equal(torch.rand(5, generator=torch.Generator().manual_seed(derive_seed(1, 2, 3))))
    assert not drawn.equal(torch.rand(5, generator=derive_generator(1, 2, 4)))
