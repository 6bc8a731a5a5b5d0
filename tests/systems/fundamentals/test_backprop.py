"""Both passes against automatic differentiation, finite differences and torch's SGD."""

import pytest
import torch

import torchstone as ts
from torchstone.systems.fundamentals import backprop
from torchstone.systems.fundamentals.backprop import COMBINATIONS, Backprop, BackpropUpdate, Recipe
from torchstone.verify import relative_error


@pytest.mark.parametrize("each", COMBINATIONS, ids="-".join)
def test_gradients_equal_autograd(each):
    model, images, labels = backprop.example(each[0])
    ours = backprop.manual_gradients(model, each)(images, labels)
    theirs = backprop.autograd_gradients(model, each)(images, labels)
    worst = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
    print(f"{', '.join(each)}: {worst:.1e} apart, {len(ours)} gradients")
    assert worst < 1e-10
    assert all(float(g.abs().max()) > 1e-6 for g in ours)  # nothing is compared with nothing


@pytest.mark.parametrize("each", COMBINATIONS[::3], ids="-".join)
def test_gradients_equal_finite_differences(each):
    worst = backprop.finite_differences(*each)
    print(f"{', '.join(each)}: {worst:.1e} apart")
    assert worst < 1e-8


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_update_equals_torch_sgd(momentum):
    model, images, labels = backprop.example("sigmoid")
    theirs = backprop.example("sigmoid")[0]
    learner = BackpropUpdate(model, Recipe(lr=0.2, momentum=momentum))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.2, momentum=momentum)
    for _ in range(20):
        loss = learner((images, labels))["loss"]
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(images), labels)
        expected.backward()
        optimizer.step()
        assert float(loss) == pytest.approx(expected.item(), abs=1e-12)
    worst = max(relative_error(a, b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))
    print(f"momentum {momentum}: {worst:.1e} apart after 20 steps")
    assert worst < 1e-12


def test_update_builds_no_graph():
    model, images, labels = backprop.example("tanh")
    metrics = BackpropUpdate(model, Recipe())((images, labels))
    assert not any(value.requires_grad for value in metrics.values())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("widths", "published"), [((30,), 23_860), ((100,), 79_510), ((256, 256), 269_322)])
def test_parameter_counts(widths, published):
    assert sum(p.numel() for p in Backprop(widths=widths).parameters()) == published


def test_state_resumes_exactly():
    def run():
        return next(backprop.build(backprop.RECIPES["smoke"]))

    whole, half, rest = run(), run(), run()
    for each, steps in ((whole, 20), (half, 9)):
        for _ in range(steps):
            each.update(next(each.stream))
    for name, item in rest.state.items():
        item.load_state_dict(half.state[name].state_dict())
    for _ in range(11):
        rest.update(next(rest.stream))
    pairs = zip(whole.state["model"].parameters(), rest.state["model"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_backprop_learns_digits(tmp_path):
    run = ts.train("backprop/smoke", out=tmp_path / "run", quiet=True)
    print(run.results)
    assert run.results["test/accuracy"] >= 0.93
    assert ts.load(tmp_path / "run")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
