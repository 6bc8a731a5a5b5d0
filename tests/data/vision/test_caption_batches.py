"""MixedCaptions: the share of synthetic captions, by the run's own seed stream; resuming; several processes."""

import math
from functools import partial

import torch

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.caption_batches import MixedCaptions
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.diffusion_batches import DiffusionBatches
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.systems.generative.dalle3 import draw_captions

METADATA = {"size": 4, "channels": 1, "mean": [0.5], "std": [0.5]}
COUNT = 40


def mixed(ratio, *, batch_size=8, rank=0, world_size=1, seed=3):
    images = torch.arange(COUNT, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    split = ImageSplit(torch.arange(COUNT), images.contiguous())
    batches = ImageBatches(split, batch_size, seed=seed, metadata=METADATA, rank=rank, world_size=world_size)
    return MixedCaptions(batches, partial(draw_captions, count=COUNT, ratio=ratio))


def test_each_draw_is_one_comparison_of_the_streams_own_number():
    """Written out: the numbers of the stream CAPTIONS at each position, without the batches."""
    source = mixed(0.7)
    for position in range(0, 30 * 8, 8):
        generator = torch.Generator().manual_seed(derive_seed(3, SeedStream.CAPTIONS, position))
        numbers = torch.rand(8, generator=generator).tolist()
        images, rows = next(source)
        for image, row, number in zip(images, rows.tolist(), numbers, strict=True):
            own = round((float(image[0, 0, 0]) + 1) * 127.5)
            assert row == (own + COUNT if number < 0.7 else own)


def test_the_share_is_binomial_and_independent_from_draw_to_draw():
    for ratio in (0.0, 0.5, 0.95, 1.0):
        source, draws = mixed(ratio, batch_size=COUNT), 250
        is_synthetic = torch.stack([next(source)[1] >= COUNT for _ in range(draws)]).double()
        total, n = float(is_synthetic.sum()), draws * COUNT
        deviation = math.sqrt(n * ratio * (1 - ratio))
        print(f"{ratio}: {total:.0f} of {n}, expected {n * ratio:.0f} ± {deviation:.0f}")
        assert abs(total - n * ratio) <= 4 * deviation
        # of a batch too the count varies as a binomial's does: it is no fixed share of each batch
        spread = float(is_synthetic.sum(1).var())
        assert abs(spread - COUNT * ratio * (1 - ratio)) <= 0.4 * COUNT * ratio * (1 - ratio) + 1e-9


def test_a_caption_dropped_for_guidance_is_neither_short_nor_synthetic():
    dropped_rows = []

    def make_context(rows, dropped):
        dropped_rows.append((rows >= COUNT, dropped))
        return torch.where(dropped, -1, rows)

    batches = DiffusionBatches(
        mixed(0.5, batch_size=COUNT), 10, make_context=make_context, cond_drop_prob=0.3
    )
    contexts = torch.stack([next(batches).context for _ in range(200)])
    is_synthetic, dropped = (torch.stack(each) for each in zip(*dropped_rows, strict=True))
    kept = contexts[contexts >= 0]
    share = float((kept >= COUNT).double().mean())
    print(f"{share:.3f} of those not dropped; dropped {dropped.double().mean():.3f}")
    assert abs(share - 0.5) < 0.025
    both = float((is_synthetic & dropped).double().mean())
    assert abs(both - 0.5 * 0.3) < 0.015, "which captions are dropped depends on what they are"


def test_it_resumes_and_several_processes_draw_the_same():
    source = mixed(0.5)
    for _ in range(5):
        next(source)
    state, expected = source.state_dict(), [next(source)[1] for _ in range(4)]
    resumed = mixed(0.5)
    resumed.load_state_dict(state)
    assert all(torch.equal(next(resumed)[1], each) for each in expected)
    parts = [mixed(0.5, rank=rank, world_size=2) for rank in range(2)]
    alone = mixed(0.5)
    for _ in range(4):
        assert torch.equal(torch.cat([next(each)[1] for each in parts]), next(alone)[1])
    assert not torch.equal(next(mixed(0.5, seed=4))[1], next(mixed(0.5))[1])
