"""GAN losses against their formulas, and against theory."""

import math

import pytest
import torch
from torch import nn

from torchstone.parts.gan.losses import GAN_LOSSES, LEAST_SQUARES, gradient_penalty, r1_penalty

REAL, FAKE = (torch.tensor([2.0, -0.5, 0.0, 1.5]).double(), torch.tensor([-3.0, 0.2, 1.1, -0.9]).double())


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_d() -> float:
    """−E log D(x) − E log(1 − D(G(z)))."""
    value = mean(-math.log(sigmoid(r)) for r in REAL.tolist())
    return value + mean(-math.log(1 - sigmoid(f)) for f in FAKE.tolist())


FORMULAS = {
    "minimax": (log_d, lambda: mean(math.log(1 - sigmoid(f)) for f in FAKE.tolist())),
    "non_saturating": (log_d, lambda: mean(-math.log(sigmoid(f)) for f in FAKE.tolist())),
    "hinge": (
        lambda: mean(max(0, 1 - r) for r in REAL.tolist()) + mean(max(0, 1 + f) for f in FAKE.tolist()),
        lambda: -mean(FAKE.tolist()),
    ),
    "least_squares": (
        lambda: mean((r - 1) ** 2 for r in REAL.tolist()) + mean(f**2 for f in FAKE.tolist()),
        lambda: mean((f - 1) ** 2 for f in FAKE.tolist()),
    ),
    "wgan_gp": (lambda: mean(FAKE.tolist()) - mean(REAL.tolist()), lambda: -mean(FAKE.tolist())),
}  # fmt: skip


LOSSES = {**GAN_LOSSES, "least_squares": LEAST_SQUARES}


@pytest.mark.parametrize("name", LOSSES)
def test_gan_losses_match_formulas(name):
    loss, (discriminator, generator) = LOSSES[name], FORMULAS[name]
    value = float(loss.discriminator(REAL, FAKE)), float(loss.generator(FAKE))
    print(f"{name}: {value} and {discriminator(), generator()}")
    assert value == pytest.approx((discriminator(), generator()), rel=1e-12)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_gan_losses_are_finite_at_large_logits(name):
    sure = torch.tensor([1e4, -1e4])
    assert torch.isfinite(GAN_LOSSES[name].discriminator(sure, -sure))
    assert torch.isfinite(GAN_LOSSES[name].generator(sure))


def test_bce_loss_optimum_is_density_ratio():
    """Proposition 1: at D = p / (p + q) the gradient is zero, and the loss is 2 log 2 − 2 JSD(p ‖ q)."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    logits = (p / q).log().requires_grad_()
    each = [GAN_LOSSES["minimax"].discriminator(logits[i : i + 1], logits[i : i + 1]) for i in range(3)]
    one_sided = [
        GAN_LOSSES["minimax"].discriminator(torch.full((1,), 50.0).double(), x[None]) for x in logits
    ]
    of_fake = torch.stack(one_sided)  # the real half is nothing there
    loss = (p * (torch.stack(each) - of_fake)).sum() + (q * of_fake).sum()
    loss.backward()
    assert logits.grad.abs().max() < 1e-12
    middle = (p + q) / 2
    jsd = 0.5 * (p * (p / middle).log()).sum() + 0.5 * (q * (q / middle).log()).sum()
    assert float(loss.detach()) == pytest.approx(float(2 * math.log(2) - 2 * jsd), rel=1e-9)


def test_minimax_saturates_and_non_saturating_does_not():
    gradient = {}
    for name in ("minimax", "non_saturating"):
        fake = torch.tensor([-20.0]).requires_grad_()
        GAN_LOSSES[name].generator(fake).backward()
        gradient[name] = abs(float(fake.grad))
    assert gradient["minimax"] < 1e-8
    assert gradient["non_saturating"] == pytest.approx(1)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 1))

    def forward(self, x):
        return self.layers(x)[:, 0]


def test_gradient_penalty_of_linear_discriminator():
    w = torch.randn(12).double()
    x, y = torch.randn(2, 5, 1, 3, 4).double()
    value = gradient_penalty(lambda x: x.flatten(1) @ w, x, y, torch.rand(5).double())
    assert float(value) == pytest.approx((float(w.norm()) - 1) ** 2, rel=1e-12)


def test_gradient_penalty_matches_finite_differences():
    """The gradient at each interpolated image, by finite differences in all its pixels."""
    torch.manual_seed(0)
    discriminator = Discriminator().double()
    x, y = torch.randn(2, 3, 1, 3, 4).double()
    share = torch.tensor([0.2, 0.9, 0.5]).double()
    total, h = 0.0, 1e-5
    for i in range(3):
        between = share[i] * x[i] + (1 - share[i]) * y[i]
        gradient = []
        for pixel in range(12):
            step = torch.zeros(12).double()
            step[pixel] = h
            step = step.view(1, 1, 3, 4)
            gradient.append(float(discriminator(between + step) - discriminator(between - step)) / (2 * h))
        total += (math.sqrt(sum(s * s for s in gradient)) - 1) ** 2
    value = gradient_penalty(discriminator, x, y, share)
    print(f"{float(value)} and {total / 3}")
    assert float(value) == pytest.approx(total / 3, rel=1e-6)
    with torch.no_grad():  # also where nothing else is differentiated
        assert float(gradient_penalty(discriminator, x, y, share)) == pytest.approx(total / 3, rel=1e-6)


def test_gradient_penalty_trains_discriminator_only():
    torch.manual_seed(0)
    discriminator = Discriminator().double()
    fake = torch.randn(3, 1, 3, 4).double().requires_grad_()
    x, share = torch.randn(3, 1, 3, 4).double(), torch.rand(3).double()
    gradient_penalty(discriminator, x, fake, share).backward()
    assert fake.grad is None
    weight = discriminator.layers[1].weight
    got, h = float(weight.grad[2, 3]), 1e-5
    with torch.no_grad():
        weight[2, 3] += h
        up = float(gradient_penalty(discriminator, x, fake, share))
        weight[2, 3] -= 2 * h
        down = float(gradient_penalty(discriminator, x, fake, share))
    assert got == pytest.approx((up - down) / (2 * h), rel=1e-5)
    assert abs(got) > 1e-6


def test_r1_equals_the_gradient_by_hand():
    """D(x) = Σ a·sin x + ½ (Σ x)²: ∇D = a cos x + Σ x."""
    a = torch.randn(2, 3, 3).double()
    x = torch.randn(4, 2, 3, 3).double()
    ours = r1_penalty(lambda x: (a * x.sin()).flatten(1).sum(1) + x.flatten(1).sum(1).square() / 2, x)
    by_hand = (a * x.cos() + x.flatten(1).sum(1)[:, None, None, None]).flatten(1).square().sum(1)
    assert torch.allclose(ours, by_hand, atol=1e-12)
