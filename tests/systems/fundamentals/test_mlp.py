"""The multi-layer perceptron: initialization, scale, dropout, batch norm, and its accuracy."""

import math

import pytest
import torch

import torchstone as ts
from torchstone.parts.init import init_
from torchstone.systems.fundamentals import backprop, mlp
from torchstone.systems.fundamentals.mlp import MLP
from torchstone.verify import relative_error


@pytest.mark.parametrize(("init", "variance"), [("he", 2 / 800), ("xavier", 2 / 1000), ("fan_in", 1 / 800)])
def test_initialize_variance(init, variance):
    weight = MLP(200, 800, (), init=init).layers[0].weight.detach()
    print(f"{init}: {weight.var():.6f}, published {variance:.6f}")
    assert float(weight.mean()) == pytest.approx(0, abs=4 * math.sqrt(variance / weight.numel()))
    assert float(weight.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / weight.numel()))


def test_init_fans_match_torch():
    weight = torch.empty(64, 48, 5, 3)
    theirs = torch.nn.init.kaiming_normal_(torch.empty_like(weight), nonlinearity="relu")
    assert float(init_(weight, "he").std()) == pytest.approx(float(theirs.std()), rel=0.02)
    theirs = torch.nn.init.xavier_normal_(torch.empty_like(weight))
    assert float(init_(weight, "xavier").std()) == pytest.approx(float(theirs.std()), rel=0.02)


def test_he_init_preserves_scale_over_30_layers():
    he, xavier, fan_in = (mlp.activation_growth(init) for init in ("he", "xavier", "fan_in"))
    print(f"he {he:.3f}, xavier {xavier:.2e}, fan_in {fan_in:.2e} (2^-14.5 = {2**-14.5:.2e})")
    assert 0.5 <= he <= 2
    assert fan_in < 1e-3
    assert xavier == pytest.approx(fan_in, rel=1e-3)  # square layers: 2/(n + n) = 1/n


def test_gradients_equal_backprop_by_hand():
    torch.manual_seed(0)
    ours = MLP(4, 6, (5, 5), "tanh").double()
    theirs, images, labels = backprop.example("tanh")
    for layer, weight, bias in zip(ours.layers, theirs.weights, theirs.biases, strict=True):
        layer.weight.data.copy_(weight.data)
        layer.bias.data.copy_(bias.data)
    torch.nn.functional.cross_entropy(ours(images), labels).backward()
    _, by_weight, by_bias = backprop.gradients(theirs, images, labels, "softmax", "cross_entropy")
    worst = max(
        max(relative_error(layer.weight.grad, w), relative_error(layer.bias.grad, b))
        for layer, w, b in zip(ours.layers, by_weight, by_bias, strict=True)
    )
    print(f"{worst:.1e} apart")
    assert worst < 1e-12


def test_dropout_inverted_and_inactive_in_eval():
    model = MLP(10, 64, (4000,), dropout=0.25, dropout_input=0.5)
    x = torch.ones(64, 4000)
    after = model.dropout(x)
    assert after.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(after.mean()) == pytest.approx(1, abs=0.01)
    pictures = torch.rand(3, 1, 8, 8)
    assert not torch.equal(model(pictures), model(pictures))
    model.eval()
    assert torch.equal(model(pictures), model(pictures))
    with torch.no_grad():
        model.dropout.p = model.dropout_input.p = 0.0
        without = model(pictures)
    assert torch.equal(model(pictures), without)


def test_batch_norm_running_variance_is_unbiased():
    model = MLP(4, 6, (5,), batch_norm=True).double()
    images = torch.randn(9, 6, dtype=torch.float64)
    z = images @ model.layers[0].weight.T
    model(images)
    mean, variance = 0.1 * z.mean(0), 0.9 + 0.1 * z.var(0, correction=1)
    assert torch.allclose(model.norms[0].running_mean, mean, rtol=1e-12)
    assert torch.allclose(model.norms[0].running_var, variance, rtol=1e-12)
    model.eval()
    folded = (z - mean) / (variance + 1e-5).sqrt()
    expected = model.layers[1](folded.clamp(min=0))
    assert relative_error(model(images), expected) < 1e-12


def test_gradient_norms_metric(tmp_path):
    run = next(mlp.build(mlp.Recipe(widths=(16, 16), steps=5)))
    metrics = run.update(next(run.stream))
    expected = [float(layer.weight.grad.norm()) for layer in run.state["model"].layers]
    logged = [float(metrics[f"gradient/{number:02d}"]) for number in (1, 2, 3)]
    print(logged)
    assert logged == pytest.approx(expected, rel=1e-6)
    assert min(logged) > 0
    assert "gradient norms" in run.update.diagnosis()


def test_gradients_vanish_with_sigmoid_not_relu():
    ratios = {}
    for activation, init in (("sigmoid", "fan_in"), ("relu", "he")):
        recipe = mlp.Recipe(widths=(64,) * 12, activation=activation, init=init)
        run = next(mlp.build(recipe))
        metrics = run.update(next(run.stream))
        ratios[activation] = float(metrics["gradient/01"] / metrics["gradient/12"])
    print("first layer's gradient over the twelfth's:", ratios)
    assert ratios["sigmoid"] < 1e-4
    assert ratios["relu"] > 0.1


@pytest.mark.parametrize("batch_norm", [False, True])
def test_state_resumes_exactly(batch_norm):
    def run():
        return next(mlp.build(mlp.Recipe(steps=30, batch_norm=batch_norm)))

    whole, half, rest = run(), run(), run()
    for each, steps in ((whole, 20), (half, 9)):
        for _ in range(steps):
            each.update(next(each.stream))
    for name, item in rest.state.items():
        item.load_state_dict(half.state[name].state_dict())
    for _ in range(11):
        rest.update(next(rest.stream))
    mine, theirs = whole.state["model"].state_dict(), rest.state["model"].state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.sweep
def test_mlp_reaches_target_on_digits(tmp_path):
    run = ts.train("mlp", out=tmp_path / "run", quiet=True)
    print(run.results)
    assert run.results["test/accuracy"] >= 0.96
    assert sum(p.numel() for p in ts.load(tmp_path / "run").parameters()) == 64 * 65 + 10 * 65
