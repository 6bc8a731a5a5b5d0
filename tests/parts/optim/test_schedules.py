"""Every schedule against torch's over 10,000 steps, and plateau over random metrics."""

import math
import random

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.optim.schedules import Plateau, warm_restarts
from torchstone.tasks.optimization import make_lr_scheduler, make_optimizer

STEPS = 10_000


def rates(schedule, optimizer, steps=STEPS):
    found = []
    optimizer._opt_called = True  # schedules warn where there was no step, which would cost most of the time
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    return found


def ours(steps=STEPS, **fields):
    optim = OptimConfig(optimizer="sgd", momentum=0.0, lr=0.5, **fields)
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], optim)
    return make_lr_scheduler(optimizer, optim, steps), optimizer


def torchs(make, lr=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr, fused=True)
    return make(optimizer), optimizer


CASES = {
    "step": ({"lr_schedule": "step", "lr_period": 700, "lr_decay": 0.7}, lambda o: theirs.StepLR(o, 700, 0.7)),
    "step by default": ({"lr_schedule": "step"}, lambda o: theirs.MultiStepLR(o, [5000, 7500])),
    "exponential": ({"lr_schedule": "exponential", "lr_period": 3000, "lr_decay": 0.5}, lambda o: theirs.ExponentialLR(o, 0.5 ** (1 / 3000))),
    "cosine": ({"lr_schedule": "cosine", "min_lr_ratio": 0.1}, lambda o: theirs.CosineAnnealingLR(o, STEPS, 0.05)),
    "warm restarts": ({"lr_schedule": "warm_restarts", "lr_period": 300, "min_lr_ratio": 0.02}, lambda o: theirs.CosineAnnealingWarmRestarts(o, 300, 2, 0.01)),
    "equal cycles": ({"lr_schedule": "warm_restarts", "lr_period": 1250, "lr_period_mult": 1}, lambda o: theirs.CosineAnnealingWarmRestarts(o, 1250)),
    "tripled cycles": ({"lr_schedule": "warm_restarts", "lr_period": 7, "lr_period_mult": 3}, lambda o: theirs.CosineAnnealingWarmRestarts(o, 7, 3)),
    "one cycle": ({"lr_schedule": "one_cycle"}, lambda o: theirs.OneCycleLR(o, 0.5, STEPS, cycle_momentum=False)),
    "one short rise": ({"lr_schedule": "one_cycle", "warmup_ratio": 0.1}, lambda o: theirs.OneCycleLR(o, 0.5, STEPS, pct_start=0.1, cycle_momentum=False)),
    "linear": ({"lr_schedule": "linear"}, lambda o: theirs.LinearLR(o, 1.0, 0.0, STEPS)),
    "polynomial": ({"lr_schedule": "poly"}, lambda o: theirs.PolynomialLR(o, STEPS, 0.9)),
    "warm-up and constant": ({"lr_schedule": "constant", "warmup_ratio": 0.2}, lambda o: theirs.LinearLR(o, 1 / 2001, 1.0, 2000)),
    "warm-up and cosine": ({"warmup_ratio": 0.1}, lambda o: theirs.SequentialLR(o, [theirs.LinearLR(o, 1 / 1001, 1.0, 1000), theirs.CosineAnnealingLR(o, 9000)], [1000])),
}  # fmt: skip


def momentums(schedule, optimizer, steps):
    found = []
    optimizer._opt_called = True
    for _ in range(steps):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        schedule.step()
    return found


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_cycle_s_momentum_equals_torch(name):
    """From 0.95 to 0.85 at the peak and back; resumed in the middle as if it had gone through."""
    optim = OptimConfig(optimizer=name, momentum=0.95, beta1=0.95, lr=0.5, lr_schedule="one_cycle")

    def make():
        optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], optim)
        return make_lr_scheduler(optimizer, optim, 2000), optimizer

    _, other = make()
    torchs_ones = momentums(theirs.OneCycleLR(other, 0.5, 2000), other, 2000)
    first = make()
    mine = momentums(*first, 900)
    second = make()
    second[1].load_state_dict(first[1].state_dict())
    second[0].load_state_dict(first[0].state_dict())
    mine += momentums(*second, 1100)
    gaps = [max(abs(a[i] - b[i]) for a, b in zip(mine, torchs_ones, strict=True)) for i in (0, 1)]
    low = min(momentum for _, momentum in mine)
    print(gaps, low)
    assert max(gaps) <= 1e-12
    assert abs(low - 0.85) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_equals_torch_over_10_000_steps(name):
    fields, make = CASES[name]
    mine, other = rates(*ours(**fields)), rates(*torchs(make))
    gap = max(abs(a - b) for a, b in zip(mine, other, strict=True))
    print(f"{name}: {gap:.1e}; {mine[0]:.4g} … {mine[-1]:.4g}, {len(set(mine))} rates")
    assert len(set(mine)) > 1
    assert gap <= 1e-12


@pytest.mark.parametrize("is_lower_better", [True, False])
@pytest.mark.parametrize(("patience", "decay"), [(0, 0.5), (3, 0.1), (10, 0.9)])
def test_plateau_equals_torch(is_lower_better, patience, decay):
    mine = Plateau(decay, patience)
    mode = "min" if is_lower_better else "max"
    other, optimizer = torchs(lambda o: theirs.ReduceLROnPlateau(o, mode, decay, patience, eps=0.0), lr=1.0)
    chance, level, factors = random.Random(patience), 3.0, []
    for _ in range(10_000):
        level *= 0.999 if is_lower_better else 1.001
        value = level * chance.uniform(0.99, 1.01) if chance.random() < 0.5 else level * (1 + 1e-5)
        mine.observe(value, is_lower_better=is_lower_better)
        other.step(value)
        factors.append(mine.factor)
        assert mine.factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=0)
    print(factors[-1], len(set(factors)))
    assert len(set(factors)) > 1


def test_restarts_are_where_the_formula_has_them():
    """T₀·(mᵏ − 1)/(m − 1); torch takes a logarithm, whose rounding can miss one."""
    for period, multiplier in ((1, 2), (7, 3), (10, 2), (243, 3)):
        starts = [t for t in range(20_000) if warm_restarts(t, period, multiplier) == 1.0]
        wanted = [period * (multiplier**k - 1) // (multiplier - 1) for k in range(20)]
        assert starts == [t for t in wanted if t < 20_000]


def test_plateau_goes_on_from_its_state():
    scheduler, optimizer = ours(lr_schedule="plateau", lr_patience=1)
    for value in (1.0, 1.0, 1.0, 1.0):
        scheduler.on_validation({"loss": value}, "loss")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    again, other = ours(lr_schedule="plateau", lr_patience=1)
    again.load_state_dict(scheduler.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(0.05)
    for each in (scheduler, again):
        each.on_validation({"loss": 1.0}, "loss")
    assert again.state_dict() == scheduler.state_dict()
    again.on_validation({"loss": 1.0}, "loss")
    assert other.param_groups[0]["lr"] == pytest.approx(0.005)


def test_plateau_follows_accuracy_upwards():
    scheduler, optimizer = ours(lr_schedule="plateau", lr_patience=0)
    for value in (0.1, 0.2, 0.3):
        scheduler.on_validation({"accuracy": value}, "accuracy")
    assert optimizer.param_groups[0]["lr"] == 0.5
    scheduler.on_validation({"accuracy": 0.3}, "accuracy")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_default_cycles_fill_the_run():
    scheduler, optimizer = ours(steps=700, lr_schedule="warm_restarts")
    found = rates(scheduler, optimizer, 700)
    assert [t for t, rate in enumerate(found) if rate == 0.5] == [0, 100, 300]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr_schedule": "step", "lr_period": 101}, "lr_period is 101 steps, longer than the run, which has 100"),
        ({"lr_schedule": "warm_restarts", "lr_period": 95, "warmup_ratio": 0.1}, "which has 90 after 10 of warm-up"),
        ({"lr_schedule": "cosine", "lr_period": 10}, "lr_period is of step and exponential and warm_restarts; cosine has none"),
        ({"lr_schedule": "step", "lr_patience": 9}, "lr_patience is of plateau; step has none"),
    ],
)  # fmt: skip
def test_what_no_schedule_reads_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        ours(steps=100, **fields)


def test_short_runs_have_finite_rates():
    for name in ("step", "exponential", "warm_restarts", "one_cycle", "plateau", "cosine"):
        for steps in (1, 2, 3, 5):
            found = rates(*ours(steps=steps, lr_schedule=name), steps + 1)
            assert all(math.isfinite(rate) and 0 <= rate <= 0.5 for rate in found), (name, steps, found)
