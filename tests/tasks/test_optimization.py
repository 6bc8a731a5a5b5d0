"""Optimizers and learning-rate schedules against their equations."""

import copy
import dataclasses
from typing import get_args

import pytest
import torch
from torch import nn

from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.systems import CATALOGUE
from torchstone.systems.convolutional import deeplab
from torchstone.tasks import optimization


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_equals_mobilenet_recursion(momentum):
    """v ← 0.9·v + 0.1·g², b ← m·b + g/(√v + 1e-3), p ← p − lr·b, with g = ∇L + decay·p."""
    weight = nn.Parameter(torch.randn(5, dtype=torch.float64))
    ours = weight.detach().clone()
    v, b, lr, decay = torch.zeros_like(ours), torch.zeros_like(ours), 0.045, 4e-5
    optim = OptimConfig(optimizer="rmsprop", lr=lr, momentum=momentum, weight_decay=decay)
    optimizer = optimization.make_optimizer([weight], optim)
    for step in range(20):
        weight.grad = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        g = weight.grad + decay * ours
        v = 0.9 * v + 0.1 * g.square()
        b = momentum * b + g / (v.sqrt() + 1e-3)
        ours = ours - lr * b
        optimizer.step()
    gap = float((weight.detach() - ours).abs().max())
    print(gap)
    assert gap <= 1e-12


def test_lr_schedule_poly_power():
    """lr · (1 − step / steps)^0.9, of Chen et al. 2016, arXiv:1606.00915, section 4.1.1."""
    recipe = dataclasses.replace(deeplab.RECIPES["voc"], steps=50)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = optimization.make_optimizer([weight], recipe.optim)
    schedule = optimization.make_lr_scheduler(optimizer, recipe.optim, recipe.steps)
    rates = []
    for _ in range(recipe.steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    wanted = [0.007 * (1 - step / 50) ** 0.9 for step in range(50)]
    print(rates[0], rates[25], rates[-1])
    assert rates == pytest.approx(wanted, rel=1e-12)


def test_lr_schedule_min_lr_ratio():
    """Cosine decay ends at `min_lr_ratio` of the peak, after a linear warm-up."""
    optim = OptimConfig(lr=2.0, warmup_ratio=0.1, min_lr_ratio=0.25)
    optimizer = optimization.make_optimizer([nn.Parameter(torch.zeros(1))], optim)
    factor = optimization.make_lr_scheduler(optimizer, optim, 100).lr_lambdas[0]
    print([factor(step) for step in (0, 9, 10, 55, 100)])
    assert [factor(0), factor(9)] == pytest.approx([1 / 11, 10 / 11])
    assert [factor(10), factor(55), factor(100)] == pytest.approx([1.0, 0.625, 0.25])


def test_decay_matrices_only_spares_biases_and_norms():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    matrices, others = optimization.decay_matrices_only(model, OptimConfig(weight_decay=0.3))
    assert ([p.dim() for p in matrices["params"]], matrices["weight_decay"]) == ([2], 0.3)
    assert ([p.dim() for p in others["params"]], others["weight_decay"]) == ([1, 1, 1], 0.0)


def test_constant_then_linear_is_zero_at_the_end():
    """The authors' 100 epochs and 100 more: the first half as it is, then a straight line to zero."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optim = OptimConfig(lr=0.2, lr_schedule="constant_linear")
    optimizer = optimization.make_optimizer([weight], optim)
    scheduler = optimization.make_lr_scheduler(optimizer, optim, 10)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.2] * 6 + [0.16, 0.12, 0.08, 0.04, 0.0]
    assert all(abs(a - b) < 1e-12 for a, b in zip(rates, expected, strict=True)), rates


NAMES = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion", "muon"]


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4)
    )


def trained(optim, steps=10, stop=None, **options):
    """Weights after training on noise; with `stop`, all of the state goes through a copy there."""
    model = small_network().double()
    parts = optimization.gradient_update(model, optim, squares, steps=steps, **options)
    for step in range(steps):
        if step == stop:
            saved = copy.deepcopy({name: item.state_dict() for name, item in parts.state.items()})
            model = small_network().double()
            parts = optimization.gradient_update(model, optim, squares, steps=steps, **options)
            for name, item in parts.state.items():
                item.load_state_dict(saved[name])
        torch.manual_seed(step)  # noise in the gradient is of the global generator, which `fit` keeps
        parts.update(torch.randn(6, 1, 4, 4, dtype=torch.float64))
    return model, parts


def squares(net, batch):
    return net(batch).square().mean()


def gap_of(a, b):
    return max(float((p - q).abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_reference_implementation_trains_as_torch_does(name):
    optim = OptimConfig(optimizer=name, weight_decay=0.1, lr=0.01)
    first, _ = trained(optim)
    second, parts = trained(dataclasses.replace(optim, optimizer_implementation="reference"))
    print(name, gap_of(first, second), type(parts.state["optimizer"]).__module__)
    assert "torchstone" in type(parts.state["optimizer"]).__module__
    # Muon of torch iterates in bfloat16
    assert gap_of(first, second) <= (2e-3 if name == "muon" else 1e-12)
    assert gap_of(first, small_network()) > 1e-3


@pytest.mark.parametrize("implementation", ["torch", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_resumes_to_the_bit(name, implementation):
    optim = OptimConfig(
        optimizer=name, optimizer_implementation=implementation, weight_decay=0.1, lr=0.01, grad_noise=0.01
    )
    assert gap_of(trained(optim)[0], trained(optim, stop=4)[0]) == 0.0


def test_muon_is_for_hidden_matrices():
    """Filters and the hidden matrix; biases, norms and the output layer are AdamW's."""
    for implementation, kinds in (
        ("torch", {"matrices": 1, "filters": 1, "others": 6}),
        ("reference", {"matrices": 2, "others": 6}),
    ):
        optim = OptimConfig(optimizer="muon", optimizer_implementation=implementation)
        optimizer = trained(optim, steps=1)[1].state["optimizer"]
        found = {k: sum(len(g["params"]) for g in o.param_groups) for k, o in optimizer.optimizers.items()}
        print(implementation, found, {k: type(o).__module__ for k, o in optimizer.optimizers.items()})
        assert found == kinds
        assert sum(found.values()) == len(list(small_network().parameters()))


def test_muon_keeps_groups_without_decay():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 7))
    optim = OptimConfig(optimizer="muon", weight_decay=0.3)
    groups = optimization.decay_matrices_only(model, optim)
    optimizer = optimization.make_optimizer(groups, optim, optimization.outer_weights(model))
    shapes = [(g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in optimizer.param_groups]
    print(shapes)
    assert shapes == [(0.3, [(6, 4)]), (0.3, [(7, 4), (7, 6)]), (0.0, [(6,), (6,), (6,), (7,)])]


def test_schedule_reaches_every_group_of_muon():
    optim = OptimConfig(optimizer="muon", lr=0.1, lr_schedule="linear")
    _, parts = trained(optim, steps=4, stop=2)
    assert {group["lr"] for group in parts.state["optimizer"].param_groups} == {0.0}


@pytest.mark.parametrize("name", get_args(optimization.VectorOptimizer))
def test_vector_optimizer_steps_as_over_separate_parameters(name):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    make = optimization.vector_optimizer(name, 0.01, 0.1, rmsprop={"alpha": 0.5})
    separate = make(list(nets[0].parameters()))
    update = FlatGradientUpdate(lambda x: {"loss": nets[1](x).square().mean()}, nets[1], make)
    group = separate.param_groups[0]
    assert (group["lr"], group["weight_decay"], group.get("alpha", 0.5)) == (0.01, 0.1, 0.5)
    for _ in range(5):
        x = torch.randn(8, 3, dtype=torch.float64)
        separate.zero_grad()
        nets[0](x).square().mean().backward()
        separate.step()
        update(x)
    gaps = [
        float((a - b).detach().abs().max())
        for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    ]
    print(name, gaps)
    assert max(gaps) <= 1e-14


def test_vector_optimizer_refuses_muon_and_the_unknown():
    for name, word in (("muon", "unknown optimizer .muon."), ("adamm", "did you mean adam")):
        with pytest.raises(BadInput, match=word):
            optimization.vector_optimizer(name, 0.01)


WITHOUT = {  # systems whose learning rule is the system
    "perceptron": "Rosenblatt's rule",
    "backprop": "gradient descent by hand",
    "lola": "exact gradients of the game",
}


def test_every_recipe_takes_an_optimizer_by_name():
    """`--optimizer rmsprop` wherever weights follow a gradient (issue: usable in every recipe by name)."""
    missing = []
    for entry in CATALOGUE:
        fields = {field.name for field in dataclasses.fields(entry.module().Recipe)}
        if not fields & {"optim", "optimizer"}:
            missing.append(entry.name)
    assert sorted(missing) == sorted(WITHOUT), missing


def test_optimizers_that_cannot_be_are_refused():
    weight = nn.Parameter(torch.zeros(3))
    for fields, message in (
        ({"optimizer": "muon"}, "muon is for matrices"),
        ({"optimizer": "nesterov", "momentum": 0.0}, "nesterov needs a momentum above 0"),
    ):
        with pytest.raises(BadInput, match=message):
            optimization.make_optimizer([weight], OptimConfig(**fields))


def test_swa_is_the_mean_of_the_last_weights():
    """From half of ten steps on; before it, the average is the network itself. Also over a resumption."""
    optim = OptimConfig(optimizer="sgd", lr=0.05, lr_schedule="constant", swa_start=0.5)
    history = []
    model = small_network().double()
    parts = optimization.gradient_update(model, optim, squares, steps=10, measures_batch_norm=True)
    for step in range(10):
        torch.manual_seed(step)
        parts.update(torch.randn(6, 1, 4, 4, dtype=torch.float64))
        history.append([p.detach().clone() for p in model.parameters()])
        start = 5 if step >= 5 else step
        means = [torch.stack(each).mean(0) for each in zip(*history[start : step + 1], strict=True)]
        gap = max(
            float((a - b).abs().max()) for a, b in zip(parts.eval_model.parameters(), means, strict=True)
        )
        assert gap <= 1e-14, (step, gap)
    resumed = trained(optim, stop=7, measures_batch_norm=True)[1].eval_model
    assert gap_of(resumed, parts.eval_model) == 0.0


def test_averages_that_cannot_be_are_refused():
    for fields, message in (
        ({"swa_start": 0.5, "ema_decay": 0.9}, "two averages"),
        ({"swa_start": 0.5}, "statistics of batch normalization"),
    ):
        with pytest.raises(BadInput, match=message):
            optimization.gradient_update(small_network(), OptimConfig(**fields), squares, steps=4)


def test_l1_penalty_noise_and_clipping_are_their_formulas():
    """g + λ·sign(w) of matrices, then elements within ±c, then noise of variance η/(1+t)^0.55."""
    weight, bias = nn.Parameter(torch.tensor([[2.0, -3.0]])), nn.Parameter(torch.tensor([1.0]))
    optim = OptimConfig(
        optimizer="sgd", momentum=0.0, lr=1.0, lr_schedule="constant", l1_decay=0.5, max_grad_value=0.6
    )
    module = nn.ParameterList([weight, bias])
    parts = optimization.gradient_update(
        module, optim, lambda net, batch: 0.2 * net[0].sum() + 2 * net[1].sum(), steps=2
    )
    parts.update(torch.zeros(1))
    torch.testing.assert_close(weight.detach(), torch.tensor([[2.0 - 0.6, -3.0 + 0.3]]))
    torch.testing.assert_close(bias.detach(), torch.tensor([1.0 - 0.6]))

    weight = nn.Parameter(torch.zeros(200, 200))
    optim = OptimConfig(optimizer="sgd", momentum=0.0, lr=1.0, lr_schedule="constant", grad_noise=0.3)
    update = optimization.gradient_update(
        nn.ParameterList([weight]), optim, lambda net, batch: 0.0 * net[0].sum(), steps=9
    ).update
    for t in range(3):
        before = weight.detach().clone()
        update(torch.zeros(1))
        deviation = float((weight.detach() - before).std())
        print(t, deviation, (0.3 / (1 + t) ** 0.55) ** 0.5)
        assert deviation == pytest.approx((0.3 / (1 + t) ** 0.55) ** 0.5, rel=0.02)
