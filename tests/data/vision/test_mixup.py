"""Mixup, CutMix, random erasing, and batches that are mixed: what they do to pixels and labels."""

import itertools
import random

import pytest
import torch
from scipy import stats

from torchstone.data.vision import mixup
from torchstone.data.vision.augment import STEPS, make_augmentation, parse_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.geometric_ops import erase, hash_noise
from torchstone.errors import BadInput

CARD = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalising changes nothing


def coloured(count, side=12):
    generator = torch.Generator().manual_seed(1)
    shape = (count, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def draws(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(count, *shape, generator=generator)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_beta_sampler_follows_beta_distribution(alpha):
    shares = mixup.beta_sampler(alpha)(torch.rand(5000, generator=torch.Generator().manual_seed(0)))
    test = stats.kstest(shares.double().numpy(), stats.beta(alpha, alpha).cdf)
    print(f"α {alpha}: Kolmogorov-Smirnov distance {test.statistic:.4f}, p {test.pvalue:.3f}")
    assert test.pvalue > 0.01


def test_mixup_equals_equation():
    images, others = coloured(16), coloured(16).flip(0)
    mixed, share = mixup.mixup(0.4)(images, others, draws(16))
    assert len(share.unique()) > 10
    for i in range(16):
        slow = share[i] * images[i].float() + (1 - share[i]) * others[i].float()
        assert (slow - mixed[i]).abs().max() < 1e-3
    print("shares:", share[:4].tolist())


def test_cutmix_one_rectangle_and_exact_weight():
    images = torch.zeros(3000, 1, 10, 14)
    mixed, share = mixup.cutmix(1.0)(images, images + 1, draws(3000))
    taken = mixed[:, 0]
    assert torch.allclose(1 - taken.mean((1, 2)), share, atol=1e-6)
    rows, columns = taken.amax(2), taken.amax(1)
    assert torch.equal(taken, rows[:, :, None] * columns[:, None])  # a product: a rectangle
    for line in (rows, columns):
        assert ((line.diff(dim=1) != 0).sum(1) <= 2).all()  # in one piece
    print("mean share kept:", share.mean().item())
    # E of the rectangle cut to the picture, by numbers drawn another way
    generator = random.Random(0)
    areas = []
    for _ in range(20_000):
        side, area = (1 - generator.random()) ** 0.5, 1.0
        for pixels in (10, 14):
            middle, half = int(generator.random() * pixels), int(side * pixels) / 2
            area *= (min(pixels, int(middle + half)) - max(0, (middle - half) // 1)) / pixels
        areas.append(area)
    expected = 1 - sum(areas) / len(areas)
    print("expected:", expected)
    assert abs(share.mean().item() - expected) < 0.02


def test_one_of_chooses_per_image():
    images = torch.zeros(2000, 1, 8, 8)
    mixed, share = mixup.one_of(mixup.mixup(1.0), mixup.cutmix(1.0))(images, images + 1, draws(2000))
    cut = ((mixed == 0) | (mixed == 1)).all(dim=3).all(dim=2)[:, 0]
    print("cut:", int(cut.sum()), "of 2000")
    assert 900 < cut.sum() < 1100
    assert torch.allclose(1 - mixed.mean((1, 2, 3)), share, atol=1e-5)


def test_erase_area_ratio_and_frequency():
    images = torch.full((4000, 1, 40, 40), 300.0)  # a level that noise has not
    out = erase(0.25)(images, draws(4000))
    gone = out[:, 0] != 300
    touched = gone.flatten(1).any(1)
    print("share of pictures:", touched.float().mean().item())
    assert abs(touched.float().mean().item() - 0.25) < 0.03
    rows, columns = gone[touched].any(2), gone[touched].any(1)
    tall, wide = rows.sum(1).float(), columns.sum(1).float()
    assert torch.equal(gone[touched], rows[:, :, None] & columns[:, None])
    area, ratio = tall * wide / 1600, tall / wide
    print("areas:", area.min().item(), "to", area.max().item(), "ratios:", ratio.min().item())
    assert 0.01 < area.min() < 0.04
    assert 0.28 < area.max() < 0.36
    assert 0.25 < ratio.min() < 0.4
    assert 2.5 < ratio.max() < 4
    assert abs(ratio.log().mean()) < 0.1  # as often upright as lying
    edges = [rows[:, 0].float().mean(), rows[:, -1].float().mean(), columns[:, 0].float().mean()]
    print("touching an edge:", [round(e.item(), 3) for e in edges])
    assert max(edges) - min(edges) < 0.04
    filled = out[gone[:, None]]
    assert filled.min() == 0
    assert filled.max() == 255
    assert torch.equal(erase(0.0)(images, draws(4000)), images)


def test_hash_noise_uniform_and_uncorrelated():
    images = torch.zeros(8, 3, 40, 40, dtype=torch.uint8)
    values = hash_noise(torch.rand(8, generator=torch.Generator().manual_seed(0)), images)
    counts = torch.bincount(values.flatten().long(), minlength=256).double()
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum().item()
    rows = values.flatten(1).double()
    between = torch.corrcoef(rows).triu(1).abs().max().item()
    along = torch.corrcoef(torch.stack([rows[0, :-1], rows[0, 1:]]))[0, 1].abs().item()
    print(f"chi² {chi2:.0f} of 255, correlations {between:.3f} and {along:.3f}")
    assert 180 < chi2 < 340
    assert between < 0.06
    assert along < 0.06


def split(count=22):
    return ImageSplit(torch.arange(count) % 4, coloured(count))


def mixed_batches(augment, mix, count, **options):
    batches = ImageBatches(
        split(), 8, seed=3, metadata=CARD, augment=augment, mixing=mix, classes=4, **options
    )
    return batches, [next(batches) for _ in range(count)]


@pytest.mark.parametrize("name", ["mixup0.5", "cutmix", "flip+crop4+erase+mixup+cutmix"])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_mixed_batches_ranks_form_joint_batch(name, world):
    augment, mix = parse_augmentation(name)
    _, joint = mixed_batches(augment, mix, 12)
    ranks = [mixed_batches(augment, mix, 12, rank=r, world_size=world)[1] for r in range(world)]
    for step, (x, y) in enumerate(joint):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), x)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), y)
    print("steps compared:", len(joint), "on", world, "processes;", len(set(map(str, joint))))
    assert len(set(map(str, joint))) == 12


@pytest.mark.parametrize("name", [*STEPS, "crop4+flip+randaugment2-9+jitter+erase+cutmix+mixup"])
def test_augmentation_steps_resume_and_share_exactly(name):
    augment, mix = parse_augmentation(name)
    _, whole = mixed_batches(augment, mix, 9)
    _, plain = mixed_batches(None, None, 9)
    assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(whole, plain, strict=True))
    later, _ = mixed_batches(augment, mix, 0)
    later.load_state_dict({"position": 40})
    halves = [mixed_batches(augment, mix, 9, rank=r, world_size=2)[1] for r in (0, 1)]
    for x, y in whole[5:]:
        again = next(later)
        assert torch.equal(x, again[0])
        assert torch.equal(y, again[1])
    for step, (x, _) in enumerate(whole):
        assert torch.equal(torch.cat([halves[0][step][0], halves[1][step][0]]), x)
        assert x.isfinite().all()
        assert x.min() >= -1e-3
        assert x.max() <= 255 + 1e-3
    print(name, "steps compared:", len(whole))


def test_mixed_labels_equal_image_shares():
    """Pictures of one level each; a mixture's level says what it was made of."""
    levels = torch.tensor([0, 100, 200, 40])
    labels = torch.arange(20) % 4
    images = levels[labels].to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 6, 6).contiguous()
    batches = ImageBatches(
        ImageSplit(labels, images), 8, seed=0, metadata=CARD, mixing=mixup.mixup(1.0), classes=4
    )
    partners = 0
    for x, y in itertools.islice(batches, 20):
        assert y.shape == (8, 4)
        assert torch.allclose(y.sum(1), torch.ones(8))
        assert torch.allclose(y @ levels.float(), x.mean((1, 2, 3)), atol=1e-3)
        partners += int((y > 0).sum(1).eq(2).sum())
    print("mixtures of two classes:", partners, "of 160")
    assert 90 < partners < 150  # three of four partners are of another class


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("affin", "did you mean affine"),
        ("flip+crp4", "did you mean crop"),
        ("flip3", "write flip "),
        ("crop4.5", "a whole number"),
        ("erase1.5", "up to 1"),
        ("erase0.2-3", "write erase0.25"),
        ("randaugment2-31", "from 0 to 30"),
        ("mixup0", "above 0"),
        ("flip++crop4", "steps joined by"),
        ("Flip", "unknown augmentation"),
        ("", "unknown augmentation"),
        ("none+flip", "unknown augmentation 'none'"),
        ("crop4-", "write crop4"),
    ],
)
def test_parse_augmentation_error_messages(name, said):
    with pytest.raises(BadInput, match=said) as caught:
        parse_augmentation(name)
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_make_augmentation_rejects_mixing_and_accepts_aliases():
    with pytest.raises(BadInput, match="cannot be mixed"):
        make_augmentation("flip+mixup")
    images = coloured(16)
    for old, new in (("flip-crop4", "flip+crop4"), ("affine", "affine10-0.1-0.06")):
        both = [make_augmentation(name)(images, draws(16)) for name in (old, new)]
        assert torch.equal(*both), old
