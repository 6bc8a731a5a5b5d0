"""The perceptron against a plain loop, its bound, and its accuracy."""

import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.data.tabular.dataset import load_table
from torchstone.errors import BadInput
from torchstone.systems.fundamentals import perceptron
from torchstone.systems.fundamentals.perceptron import (
    Perceptron,
    PerceptronRule,
    fit_rows,
    margin,
    novikoff_bound,
    setosa,
)


def plainly(x, y, epochs):
    """One unit, one example at a time, and the mean of the weights after each."""
    rows = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    w, total, mistakes, seen = torch.zeros(rows.shape[1], dtype=x.dtype), 0, 0, 0
    for _ in range(epochs):
        for example, label in zip(rows, y, strict=True):
            sign = 1 if label == 1 else -1
            if sign * float(w @ example) <= 0:
                w = w + sign * example
                mistakes += 1
            total, seen = total + w, seen + 1
    return w, total / seen, mistakes


def overlapping():
    table = load_table("breast_cancer")
    x = (table.x - table.x.mean(0)) / table.x.std(0)
    return x, table.y


@pytest.mark.parametrize("data", [setosa, overlapping])
def test_perceptron_rule_equals_plain_loop(data):
    x, y = data()
    rule, counts = fit_rows(x, y, epochs=4)
    w, mean, mistakes = plainly(x, y, epochs=4)
    apart = np.abs(rule.weights(average=True)[0] - mean.numpy()).max() / mean.abs().max()
    print(f"{mistakes} mistakes, {counts} by epoch; averages {apart:.1e} apart")
    assert np.array_equal(rule.w[0], w.numpy())
    assert apart < 1e-13
    assert sum(counts) == rule.mistakes == mistakes


def test_perceptron_rule_boundary_is_mistake():
    rule = PerceptronRule(1, 2)
    counts = rule(np.array([[2.0, 0.0, 1.0]]), np.array([[-1]]))
    assert counts.tolist() == [1]
    assert rule.w.tolist() == [[-2.0, 0.0, -1.0]]


def test_perceptron_rule_units_are_independent():
    table = load_table("wine")
    together, _ = fit_rows(table.x, table.y, 3)
    for unit in range(3):
        alone, _ = fit_rows(table.x, (table.y == unit).long(), 3)
        assert np.array_equal(together.w[unit], alone.w[0])
        assert np.array_equal(together.weights(True)[unit], alone.weights(True)[0])


def test_novikoff_bound_on_iris_with_svm_margin():
    from sklearn.svm import LinearSVC

    x, y = setosa()
    z, sign = perceptron.with_bias_input(x), 2 * y.numpy() - 1
    machine = LinearSVC(fit_intercept=False, loss="hinge", C=1e4, max_iter=10**6, tol=1e-10)
    w = machine.fit(z, sign).coef_[0]
    theirs = (sign * (z @ w)).min() / np.linalg.norm(w)
    rule, counts = fit_rows(x, y, 20)
    print(
        f"γ {margin(x, y):.6f}, theirs {theirs:.6f}; {rule.mistakes} ≤ {novikoff_bound(x, y):.1f}; {counts}"
    )
    assert margin(x, y) == pytest.approx(theirs, rel=1e-6)
    assert rule.mistakes == 5 <= novikoff_bound(x, y)
    assert counts[3:] == [0] * 17  # clean from the fourth epoch on


@pytest.mark.parametrize("seed", range(5))
def test_novikoff_bound_on_separable_points(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0.3).long()
    rule, counts = fit_rows(x, y, 2000)
    print(f"{rule.mistakes} mistakes, novikoff_bound {novikoff_bound(x, y):.0f}, last epoch {counts[-1]}")
    assert counts[-1] == 0
    assert 0 < rule.mistakes <= novikoff_bound(x, y)


def test_xor_is_never_learned():
    counts = perceptron.xor_mistakes()
    print(f"mistakes an epoch: {min(counts)} to {max(counts)} over {len(counts)} epochs")
    assert min(counts) >= 1


def ten_splits(seeds=range(10), epochs=5) -> list[float]:
    """Accuracies of averaged units on a quarter of the digits held out, by class, ten times."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits, target = load_digits(return_X_y=True)
    reached = []
    for seed in seeds:
        train, held, labels, truth = train_test_split(
            digits / 16, target, test_size=0.25, random_state=seed, stratify=target
        )
        rule, _ = fit_rows(torch.from_numpy(train), torch.from_numpy(labels).long(), epochs)
        scores = perceptron.with_bias_input(torch.from_numpy(held)) @ rule.weights(average=True).T
        reached.append(float((scores.argmax(1) == truth).mean()))
    return reached


def test_averaged_perceptron_on_digits():
    reached = ten_splits()
    print(f"accuracy {np.mean(reached):.4f} ± {np.std(reached, ddof=1):.4f}, target 0.92")
    assert np.mean(reached) >= 0.92


def test_run_mistakes_match_published(tmp_path):
    run = ts.train("perceptron", out=tmp_path / "run", quiet=True)
    from torchstone.engine.meter import read_rows

    rows = [r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["split"] == "train"]
    print([row["mistakes"] for row in rows])
    assert [row["mistakes"] for row in rows] == [2, 2, 1, 0, 0, 0]
    assert run.results["test/accuracy"] == 1.0
    said = ts.predict(tmp_path / "run", ["5.1,3.5,1.4,0.2", "6.7,3.0,5.2,2.3"])
    assert [answer["label"] for answer in said] == ["setosa", "rest"]


def test_update_folds_standardization_into_weights():
    table = load_table("breast_cancer")
    x, y = table.rows_of("train")
    mean, std = x.mean(0), x.std(0)
    model = Perceptron(2, 30).double()
    recipe = perceptron.Recipe(average=True)
    rule, update = perceptron.make_update(model, recipe, mean, std)
    update((x, y))
    theirs = perceptron.with_bias_input((x - mean) / std) @ rule.weights(True)[0]
    with torch.no_grad():
        ours = model(x)[:, 1].numpy()
    print(f"{np.abs(ours - theirs).max():.1e} apart")
    assert np.allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("recipe", ["smoke", "breast_cancer"])
def test_state_resumes_exactly(recipe):
    def run():
        module = ts.systems.find("perceptron")[0].module()
        return next(module.build(module.RECIPES[recipe]))

    whole, half, rest = run(), run(), run()
    for each, steps in ((whole, 20), (half, 9)):
        for _ in range(steps):
            each.update(next(each.stream))
    for name, item in rest.state.items():
        item.load_state_dict(half.state[name].state_dict())
    for _ in range(11):
        rest.update(next(rest.stream))
    for a, b in zip(whole.state["model"].parameters(), rest.state["model"].parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.state["rule"].mistakes == rest.state["rule"].mistakes > 0


def test_build_rejects_unknown_data():
    for fields in ({"data": "iris:tulip"}, {"data": "nosuch"}, {"data": "nosuch.csv"}):
        with pytest.raises(BadInput) as caught:
            next(perceptron.build(perceptron.Recipe(**fields)))
        print(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["iris", "smoke"])
def test_evaluate_repeats_run_result(tmp_path, recipe):
    run = ts.train(f"perceptron/{recipe}", out=tmp_path / "run", quiet=True)
    again = ts.evaluate(tmp_path / "run")
    print(run.results, again)
    assert again["accuracy"] == run.results["test/accuracy"]
