"""The perceptron beside the loop that anyone would write, its bound, and what it reaches."""

import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.data.tabular.dataset import load_table
from torchstone.errors import BadInput
from torchstone.systems.fundamentals import perceptron
from torchstone.systems.fundamentals.perceptron import (
    Perceptron,
    Rule,
    bound,
    learn,
    margin,
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
def test_equals_the_plain_loop(data):
    x, y = data()
    rule, counts = learn(x, y, epochs=4)
    w, mean, mistakes = plainly(x, y, epochs=4)
    apart = np.abs(rule.weights(average=True)[0] - mean.numpy()).max() / mean.abs().max()
    print(f"{mistakes} mistakes, {counts} by epoch; averages {apart:.1e} apart")
    assert np.array_equal(rule.w[0], w.numpy())
    assert apart < 1e-13
    assert sum(counts) == rule.mistakes == mistakes


def test_an_example_on_the_boundary_is_a_mistake():
    rule = Rule(1, 2)
    counts = rule(np.array([[2.0, 0.0, 1.0]]), np.array([[-1]]))
    assert counts.tolist() == [1]
    assert rule.w.tolist() == [[-2.0, 0.0, -1.0]]


def test_several_units_learn_each_as_if_alone():
    table = load_table("wine")
    together, _ = learn(table.x, table.y, 3)
    for unit in range(3):
        alone, _ = learn(table.x, (table.y == unit).long(), 3)
        assert np.array_equal(together.w[unit], alone.w[0])
        assert np.array_equal(together.weights(True)[unit], alone.weights(True)[0])


def test_novikoffs_bound_on_iris_with_the_margin_of_a_support_vector_machine():
    from sklearn.svm import LinearSVC

    x, y = setosa()
    z, sign = perceptron.extended(x), 2 * y.numpy() - 1
    machine = LinearSVC(fit_intercept=False, loss="hinge", C=1e4, max_iter=10**6, tol=1e-10)
    w = machine.fit(z, sign).coef_[0]
    theirs = (sign * (z @ w)).min() / np.linalg.norm(w)
    rule, counts = learn(x, y, 20)
    print(f"γ {margin(x, y):.6f}, theirs {theirs:.6f}; {rule.mistakes} ≤ {bound(x, y):.1f}; {counts}")
    assert margin(x, y) == pytest.approx(theirs, rel=1e-6)
    assert rule.mistakes == 5 <= bound(x, y)
    assert counts[3:] == [0] * 17  # clean from the fourth epoch on


@pytest.mark.parametrize("seed", range(5))
def test_novikoffs_bound_on_separable_points(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0.3).long()
    rule, counts = learn(x, y, 2000)
    print(f"{rule.mistakes} mistakes, bound {bound(x, y):.0f}, last epoch {counts[-1]}")
    assert counts[-1] == 0
    assert 0 < rule.mistakes <= bound(x, y)


def test_exclusive_or_is_never_learned():
    counts = perceptron.exclusive_or()
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
        rule, _ = learn(torch.from_numpy(train), torch.from_numpy(labels).long(), epochs)
        scores = perceptron.extended(torch.from_numpy(held)) @ rule.weights(average=True).T
        reached.append(float((scores.argmax(1) == truth).mean()))
    return reached


def test_digits_over_ten_splits():
    reached = ten_splits()
    print(f"accuracy {np.mean(reached):.4f} ± {np.std(reached, ddof=1):.4f}, target 0.92")
    assert np.mean(reached) >= 0.92


def test_the_run_makes_the_published_mistakes(tmp_path):
    run = ts.train("perceptron", out=tmp_path / "run", quiet=True)
    from torchstone.engine.meter import read_rows

    rows = [r for r in read_rows(tmp_path / "run" / "metrics.jsonl") if r["split"] == "train"]
    print([row["mistakes"] for row in rows])
    assert [row["mistakes"] for row in rows] == [2, 2, 1, 0, 0, 0]
    assert run.results["test/accuracy"] == 1.0
    said = ts.predict(tmp_path / "run", ["5.1,3.5,1.4,0.2", "6.7,3.0,5.2,2.3"])
    assert [answer["label"] for answer in said] == ["setosa", "rest"]


def test_weights_on_raw_rows_are_those_on_standardised_ones():
    table = load_table("breast_cancer")
    x, y = table.rows_of("train")
    mean, std = x.mean(0), x.std(0)
    model = Perceptron(2, 30).double()
    recipe = perceptron.Recipe(average=True)
    rule, update = perceptron.learner(model, recipe, mean, std)
    update((x, y))
    theirs = perceptron.extended((x - mean) / std) @ rule.weights(True)[0]
    with torch.no_grad():
        ours = model(x)[:, 1].numpy()
    print(f"{np.abs(ours - theirs).max():.1e} apart")
    assert np.allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("recipe", ["smoke", "breast_cancer"])
def test_all_that_is_remembered_is_in_the_state(recipe):
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


def test_bad_input():
    for fields in ({"data": "iris:tulip"}, {"data": "nosuch"}, {"data": "nosuch.csv"}):
        with pytest.raises(BadInput) as caught:
            next(perceptron.build(perceptron.Recipe(**fields)))
        print(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["iris", "smoke"])
def test_evaluation_says_again_what_the_run_said(tmp_path, recipe):
    run = ts.train(f"perceptron/{recipe}", out=tmp_path / "run", quiet=True)
    again = ts.evaluate(tmp_path / "run")
    print(run.results, again)
    assert again["accuracy"] == run.results["test/accuracy"]
