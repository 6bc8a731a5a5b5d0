"""Judges of the generative chapter's claims, and of those of batches and restarts: numbers for which a claim
holds, and numbers whose arms are exchanged."""

import pytest
import torch

from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.experiments import generators, ring
from torchstone.experiments.claims import (
    beta_trade,
    diffusion_stable,
    flow_exact,
    gan_collapse,
    gan_memorize,
    guidance_trade,
    sgd_noise_escapes,
    vae_blurry,
    warm_restarts,
)

JITTER = (-1.0, 0.0, 1.0)  # of three seeds


def seeds_of(make):
    return [make(by) for by in JITTER]


def test_vae_blurry_wants_the_gan_sharp_and_near():
    def rows(vae, gan, vae_distance=300.0):
        def make(by):
            row = {
                name: {"sharpness": 1.0 + 0.01 * by, "frechet": 100.0 + by} for name in vae_blurry.FAMILIES
            }
            row["VAE"] = {"sharpness": vae, "frechet": vae_distance}
            row["GAN"] = {"sharpness": gan + 0.01 * by, "frechet": 200.0 + by}
            blurred = {"sharpness": 0.2, "frechet": 1000.0}
            return row | {"blurred test": blurred, "training": {"sharpness": 1.0, "frechet": 8.0}}

        return seeds_of(make)

    assert vae_blurry.judge(rows(0.5, 1.1)).outcome == "holds"
    assert vae_blurry.judge(rows(0.5, 1.1, vae_distance=50.0)).outcome == "holds only when"
    assert vae_blurry.judge(rows(1.1, 0.5)).outcome == "not seen here"


def test_beta_trade_wants_both_ends_worse_than_the_middle():
    def rows(reconstruction, codes, samples):
        def make(by):
            return {
                "reconstruction": [x * (1 + 0.01 * by * i) for i, x in enumerate(reconstruction)],
                "codes": [x * (1 + 0.01 * by) for x in codes],
                "samples": [x + by * i for i, x in enumerate(samples)],
                "active": [8, 8, 8, 8, 4, 0, 0],
            }

        return seeds_of(make)

    up, down = [8.0, 9, 10, 14, 24, 25, 25], [30.0, 2, 0.4, 0.1, 0.2, 0.2, 0.2]
    middle = [600.0, 300, 250, 400, 2000, 2300, 2300]
    assert beta_trade.judge(rows(up, down, middle)).outcome == "holds only when"
    assert beta_trade.judge(rows(up, down, sorted(middle, reverse=True))).outcome == "holds"
    assert beta_trade.judge(rows(up[::-1], down, middle)).outcome == "not seen here"


def shares(count):
    return [1 / count] * count + [0.0] * (ring.MODES - count)


def test_gan_collapse_wants_fewer_modes_and_a_later_loss_that_has_all():
    def rows(minimax, non_saturating, later, many=1):
        def make(by):
            def turning(count):
                at = [shares(count) if i % 2 else shares(count)[::-1] for i in range(12)]
                return [*at[:-1], shares(max(1, count - 1) if by > 0 else count)]

            row = {"minimax": turning(minimax), "non-saturating": turning(non_saturating)}
            row |= {"WGAN-GP": [shares(later)] * 12, "spectral norm": [shares(1)] * 12}
            return row | {gan_collapse.MANY: [shares(many)] * 12}

        return seeds_of(make)

    assert gan_collapse.judge(rows(2, 3, 8)).outcome == "holds"
    assert "no more steps" in gan_collapse.judge(rows(2, 3, 8, many=8)).finding
    one = gan_collapse.judge(rows(8, 2, 8))
    assert one.outcome == "holds only when"
    assert "the loss is non-saturating" in one.finding
    assert gan_collapse.judge(rows(8, 8, 8)).outcome == "not seen here"
    small = gan_collapse.judge(rows(2, 2, 3))  # the control: networks that cannot have all
    assert small.outcome == "not seen here"
    assert "no loss ends on the ring" in small.finding


def test_gan_collapse_counts_what_moved():
    row = {"minimax": [[1.0, *[0.0] * 7], [0.5, 0.5, *[0.0] * 6], [0.5, 0.5, *[0.0] * 6]]}
    assert gan_collapse.moved(row, "minimax") == [0.5, 0.0]
    assert gan_collapse.covered(row, "minimax") == [1, 2, 2]


def test_gan_memorize_depends_on_the_number_of_images():
    def rows(*ratios):
        return seeds_of(lambda by: {"samples": [r + 0.01 * by for r in ratios], "test": [1.0, 1.0, 1.0]})

    assert gan_memorize.judge(rows(0.3, 0.6, 0.98)).outcome == "holds only when"
    assert "at most 100" in gan_memorize.judge(rows(0.3, 0.6, 0.98)).finding
    assert gan_memorize.judge(rows(0.3, 0.3, 0.5)).outcome == "holds"
    assert gan_memorize.judge(rows(1.0, 1.1, 1.0)).outcome == "not seen here"


def test_gan_memorize_ratio_is_0_for_copies_and_large_for_the_others():
    own, others = (
        torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    )
    assert gan_memorize.distance_ratio(own.byte(), own.byte(), others.byte()) == 0
    assert gan_memorize.distance_ratio(
        (own + others).div(2).byte(), own.byte(), others.byte()
    ) == pytest.approx(1, abs=0.05)


def test_diffusion_stable_wants_more_rates_and_a_grid_that_tells():
    count = len(diffusion_stable.RATES)

    def rows(diffusion, gan, wgan):
        def make(by):
            def arm(good):
                good = min(count, max(0, good + (by > 0)))
                return {"modes": [8] * good + [3] * (count - good), "near": [0.9] * count}

            return dict(
                zip(
                    diffusion_stable.MODELS, (arm(diffusion), arm(gan - 2 * (by > 0)), arm(wgan)), strict=True
                )
            )

        return seeds_of(make)

    assert diffusion_stable.judge(rows(4, 1, 4)).outcome == "holds only when"
    assert diffusion_stable.judge(rows(1, 4, 4)).outcome == "not seen here"
    assert "can not tell" in diffusion_stable.judge(rows(count, 1, 1)).finding


def test_guidance_trade_wants_fidelity_gained_and_variety_lost():
    def rows(agreement, precision, recall):
        def make(by):
            row = {key: [0.5] * len(guidance_trade.SCALES) for key in guidance_trade.KEYS}
            row["label_accuracy"] = [x + 0.001 * by * (i == 1) for i, x in enumerate(agreement)]
            row["precision"] = [x + 0.001 * by * (i == 1) for i, x in enumerate(precision)]
            row["recall"] = [x + 0.01 * by * (i == 1) for i, x in enumerate(recall)]
            return row

        return seeds_of(make)

    gains, loses = [0.1, 0.8, 0.9, 0.97, 0.99, 1.0], [0.9, 0.8, 0.7, 0.6, 0.3, 0.1]
    assert guidance_trade.judge(rows(gains, gains, loses)).outcome == "holds"
    beyond = guidance_trade.judge(rows(gains, [0.5, 0.8, 0.95, 0.8, 0.7, 0.7], loses))
    assert beyond.outcome == "holds only when"
    assert "beyond 2 precision" in beyond.finding
    assert guidance_trade.judge(rows(gains, loses, loses)).outcome == "not seen here"
    assert guidance_trade.judge(rows(gains, gains, [0.5] * 6)).outcome == "not seen here"
    without = guidance_trade.judge(rows([0.9, *gains[1:]], gains, loses))  # the control
    assert without.outcome == "not seen here"


def test_flow_exact_wants_the_jacobian_and_a_bound_below():
    def rows(error, one, fifty, seconds):
        def make(by):
            return {
                "det_error": error,
                "bits": {"flow": 0.4, "VAE, 1": one + 0.001 * by, "VAE, 50": fifty},
                "training": {"flow": seconds * (1 + 0.01 * by), "VAE": 2.0},
                "likelihoods": {"flow": 1.0, "VAE": 0.5},
                "confident": {"flow": 0.5, "VAE": 0.8 + 0.01 * by},
                "others": {"digits": 0.4, "blank": 0.1, "upside down": 0.8 + 0.01 * by},
            }

        return seeds_of(make)

    assert flow_exact.judge(rows(1e-12, 0.45, 0.42, 20.0)).outcome == "holds"
    assert flow_exact.judge(rows(1e-12, 0.45, 0.42, 1.0)).outcome == "holds only when"
    assert flow_exact.judge(rows(1e-2, 0.45, 0.42, 20.0)).outcome == "not seen here"
    assert flow_exact.judge(rows(1e-12, 0.42, 0.45, 20.0)).outcome == "not seen here"


def test_sgd_noise_escapes_names_equal_epochs():
    def rows(small, large, longer, sharp=30.0):
        def make(by):
            def arm(test, sharpness):
                return {"test": test, "sharpness": sharpness, "loss": 0.01, "rate": 0.1}

            return {
                "10": arm(small + 0.001 * by, 5.0),
                "50": arm(small, 5.0),
                "500": arm(large, sharp * (1 + 0.01 * by)),
                "500, longer": arm(longer, sharp),
            }

        return seeds_of(make)

    assert sgd_noise_escapes.judge(rows(0.95, 0.9, 0.92)).outcome == "holds"
    assert sgd_noise_escapes.judge(rows(0.95, 0.9, 0.95)).outcome == "holds only when"
    assert sgd_noise_escapes.judge(rows(0.9, 0.95, 0.95)).outcome == "not seen here"
    assert "not flatter" in sgd_noise_escapes.judge(rows(0.95, 0.9, 0.9, sharp=1.0)).finding


def test_sharpness_of_logistic_regression_is_that_of_its_hessian():
    images = torch.tensor([[0, 128], [255, 0], [64, 64], [200, 30]], dtype=torch.uint8).view(4, 1, 1, 2)
    split = ImageSplit(torch.tensor([0, 1, 0, 1]), images)
    metadata = {"mean": [0.5], "std": [0.5], "channels": 1, "size": 2}
    data = ImageDataset("four", ("a", "b"), split, split, split, metadata, "four images")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
    _, sharpness = sgd_noise_escapes.loss_and_sharpness(model, data, 0)
    x = sgd_noise_escapes.normalize(data.train.take(torch.arange(4)), data.metadata)

    def loss(flat):
        logits = x.flatten(1) @ flat[:4].view(2, 2).T + flat[4:]
        return torch.nn.functional.cross_entropy(logits, data.train.labels)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    largest = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1].item()
    assert sharpness == pytest.approx(largest, rel=0.02)


def test_warm_restarts_wants_another_basin():
    def rows(disagreement, barrier, accuracy=0.95):
        def make(by):
            def arm(d, b, a=0.94):
                return {
                    "disagreement": d + 0.001 * by,
                    "barrier": b * (1 + 0.01 * by),
                    "accuracy": a + 0.0001 * by,
                }

            return {
                "cosine": 0.93,
                "restarts": 0.93,
                "snapshots": arm(disagreement, barrier, accuracy),
                "independent": arm(0.06, 1.0),
                "no restart": {"disagreement": 0.001, "barrier": 0.0, "accuracy": 0.93},
            }

        return seeds_of(make)

    assert warm_restarts.judge(rows(0.05, 0.5)).outcome == "holds"
    assert "basin" in warm_restarts.judge(rows(0.05, 0.01)).finding
    assert "not better ones" in warm_restarts.judge(rows(0.05, 0.5, accuracy=0.92)).finding
    assert warm_restarts.judge(rows(0.001, 0.0)).outcome == "not seen here"


def test_ring_coverage_counts_gaussians_and_the_samples_near_one():
    points = ring.ring_points(2000, torch.Generator().manual_seed(0))
    modes, near = ring.coverage(points)
    assert modes == ring.MODES
    assert near > 0.98
    assert ring.coverage(torch.zeros(100, 2)) == (0, 0.0)
    first = points[ring.mode_of(points)[0] == 0]
    assert ring.coverage(first)[0] == 1
    assert ring.mode_shares(first) == [1.0, *[0.0] * 7]


def test_ring_training_measures_each_evaluation_and_obeys_its_seed():
    found = ring.train_gan("WGAN-GP", 1e-3, 0, 4, 2)
    assert len(found) == 2
    options = {"measured": ring.mode_shares}
    first, again, other = (ring.train_gan("minimax", 1e-3, seed, 4, 1, **options) for seed in (0, 0, 1))
    assert first == again != other
    assert len(ring.train_diffusion(1e-3, 0, 4, 2)) == 2
    diverged = ring.train_diffusion(1e12, 0, 20, 2)  # the loss becomes infinite: no Gaussian is covered
    assert diverged[-1][0] == 0


def test_gradient_energy_falls_by_blurring():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    images[:, :, ::2] = 255  # rows in turn: down 1, across 0
    assert generators.gradient_energy(images) == pytest.approx(0.5)
    blurred = torch.nn.functional.avg_pool2d(images.float(), 3, stride=1, padding=1)
    assert generators.gradient_energy(blurred) < 0.15
