"""The written optimizers against torch's: 100 steps with every option, two groups, missing gradients, a schedule."""

import itertools
from functools import partial

import pytest
import torch
from parts.optim.trajectories import exchanged_gap, gap, resumed_gap, set_gradients, weights
from torch import nn

from torchstone.parts.optim.adagrad import Adagrad
from torchstone.parts.optim.adam import Adam, AdamW
from torchstone.parts.optim.flat import flat_optimizer
from torchstone.parts.optim.lion import Lion
from torchstone.parts.optim.muon import Muon
from torchstone.parts.optim.rmsprop import RMSprop
from torchstone.parts.optim.sgd import SGD

SPACES = {  # options, each to the values that are tried with all others
    "sgd": (SGD, torch.optim.SGD, {"momentum": (0.0, 0.9), "dampening": (0.0, 0.3), "weight_decay": (0.0, 0.1), "maximize": (False, True)}),
    "nesterov": (SGD, torch.optim.SGD, {"momentum": (0.5, 0.9), "nesterov": (True,), "weight_decay": (0.0, 0.1), "maximize": (False, True)}),
    "adagrad": (Adagrad, torch.optim.Adagrad, {"lr_decay": (0.0, 0.01), "initial_accumulator_value": (0.0, 0.1), "eps": (1e-10, 1e-3), "weight_decay": (0.0, 0.1), "maximize": (False, True)}),
    "rmsprop": (RMSprop, torch.optim.RMSprop, {"alpha": (0.9, 0.99), "eps": (1e-3,), "momentum": (0.0, 0.9), "centered": (False, True), "weight_decay": (0.0, 0.1), "maximize": (False, True)}),
    "adam": (Adam, torch.optim.Adam, {"betas": ((0.9, 0.999), (0.0, 0.5)), "amsgrad": (False, True), "weight_decay": (0.0, 0.1), "maximize": (False, True), "decoupled_weight_decay": (False, True)}),
    "adamw": (AdamW, torch.optim.AdamW, {"betas": ((0.9, 0.999), (0.5, 0.9)), "eps": (1e-8, 1e-3), "amsgrad": (False, True), "maximize": (False, True)}),
}  # fmt: skip


def cases(name):
    """Every combination."""
    _, _, space = SPACES[name]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def representatives(name):
    """The first value of every option, the last of every option, and each option's last alone."""
    _, _, space = SPACES[name]
    first, last = {k: v[0] for k, v in space.items()}, {k: v[-1] for k, v in space.items()}
    return [first, last, *(first | {k: last[k]} for k in space if len(space[k]) > 1)]


def gaps(name, combinations, steps=100):
    ours, theirs, _ = SPACES[name]
    found = [
        gap(partial(ours, lr=0.01, **c), partial(theirs, lr=0.01, foreach=False, **c), steps=steps)
        for c in combinations
    ]
    print(f"{name}: {len(found)} combinations, at most {max(found):.1e}")
    return found


@pytest.mark.parametrize("name", SPACES)
def test_equals_torch_over_100_steps_float64(name):
    assert max(gaps(name, representatives(name))) <= 1e-12


@pytest.mark.sweep
@pytest.mark.parametrize("name", SPACES)
def test_equals_torch_with_every_combination(name):
    assert max(gaps(name, cases(name), steps=50)) <= 1e-12


@pytest.mark.parametrize("name", SPACES)
def test_equals_torch_over_100_steps_float32(name):
    """Against the form that recipes use, fused where there is one."""
    ours, theirs, _ = SPACES[name]
    fused = {} if name == "rmsprop" else {"fused": True}
    options = cases(name)[-1] | {"maximize": False}
    worst = gap(
        partial(ours, lr=0.01, **options), partial(theirs, lr=0.01, **fused, **options), dtype=torch.float32
    )
    print(name, options, worst)
    assert worst <= 1e-6


def test_defaults_are_those_of_torch():
    for ours, theirs, _ in SPACES.values():
        mine, other = ours(weights()), theirs(weights())
        differing = {k: (v, other.defaults[k]) for k, v in mine.defaults.items() if v != other.defaults[k]}
        assert not differing, (ours, differing)


ALL = {
    "sgd": (partial(SGD, lr=0.01, momentum=0.9), partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
    "adagrad": (Adagrad, torch.optim.Adagrad),
    "rmsprop": (
        partial(RMSprop, momentum=0.9, centered=True),
        partial(torch.optim.RMSprop, momentum=0.9, centered=True),
    ),
    "adam": (partial(Adam, amsgrad=True), partial(torch.optim.Adam, amsgrad=True)),
    "adamw": (AdamW, torch.optim.AdamW),
    "lion": (Lion, None),
}


@pytest.mark.parametrize("name", ALL)
def test_state_dict_resumes_to_the_bit(name):
    assert resumed_gap(ALL[name][0]) == 0.0


def test_muon_resumes_to_the_bit():
    assert resumed_gap(Muon, shapes=((4, 3), (5, 2), (2, 3, 2, 2), (3, 3))) == 0.0


@pytest.mark.parametrize("name", [name for name, pair in ALL.items() if pair[1]])
def test_state_dicts_are_exchanged_with_torch(name):
    """A run may go on with the other implementation."""
    ours, theirs = ALL[name]
    gaps = exchanged_gap(ours, theirs), exchanged_gap(theirs, ours)
    print(name, gaps)
    assert max(gaps) <= 1e-12


@pytest.mark.parametrize("name", ALL)
def test_flat_form_equals_separate_parameters(name):
    make, _ = ALL[name]
    separate, flat = weights(), weights()
    optimizers = make(separate), flat_optimizer(make, flat)
    for step in range(20):
        for parameters, optimizer in zip((separate, flat), optimizers, strict=True):
            set_gradients(parameters, 4 * step)  # every weight has a gradient
            optimizer.step()
    gaps = [float((a.detach() - b.detach()).abs().max()) for a, b in zip(separate, flat, strict=True)]
    assert max(gaps) <= 1e-14, gaps


@pytest.mark.sweep
@pytest.mark.parametrize(
    "make", [SGD, partial(SGD, momentum=0.9, nesterov=True), Adagrad, RMSprop, Adam, AdamW, Lion]
)
def test_compiled_update_serves_every_step_and_rate(make):
    """A rate and a correction are numbers of the compiled function: after the first steps none is compiled anew."""
    torch._dynamo.reset()
    compiled, plain = weights(), weights()
    optimizers = flat_optimizer(make, compiled, compiled=True), flat_optimizer(make, plain)
    for step in range(12):
        for parameters, optimizer in zip((compiled, plain), optimizers, strict=True):
            set_gradients(parameters, 4 * step)
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            with torch._dynamo.config.patch(error_on_recompile=step > 3):
                optimizer.step()
    gaps = [float((a.detach() - b.detach()).abs().max()) for a, b in zip(compiled, plain, strict=True)]
    assert max(gaps) <= 1e-12, gaps


def test_muon_has_no_elementwise_update_to_compile():
    with pytest.raises(ValueError, match="Muon"):
        flat_optimizer(Muon, [nn.Parameter(torch.zeros(2, 3))], compiled=True)


def test_closure_has_gradients_enabled():
    for make in (SGD, Adagrad, RMSprop, Adam, Lion):
        weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        optimizer = make([weight], lr=0.1)

        def closure(weight=weight, optimizer=optimizer):
            optimizer.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == 25.0
        assert float(weight.detach().square().sum()) < 25.0


def test_nesterov_needs_momentum_as_in_torch():
    for make in (SGD, torch.optim.SGD):
        with pytest.raises(ValueError, match="Nesterov"):
            make(weights(), lr=0.1, nesterov=True)
