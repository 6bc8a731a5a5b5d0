"""Networks on tables: training, metrics, baselines on the same rows, and the use from files."""

import json
import math

import numpy as np
import pytest
import torch
from cli_helpers import run_cli

import torchstone as ts
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.systems.fundamentals import mlp
from torchstone.systems.fundamentals.mlp import TableMLP
from torchstone.tasks.tabular.train import classification_metrics, regression_metrics

FAST = {"steps": 200, "batch_size": 64, "widths": (32,), "ema_decay": 0.0, "lr": 1e-2, "weight_decay": 0.1}


def write(folder, rows=400, target="label", name="t.csv"):
    """A target that depends on a category, a number with gaps, and a month."""
    random = np.random.default_rng(0)
    lines = [f"size,color,when,{target}"]
    for _ in range(rows):
        size, color, month = random.normal(), random.integers(3), random.integers(1, 13)
        value = 2 * (color == 1) + (abs(size) if color else -size) + (month > 6)
        shown = "" if random.random() < 0.1 else f"{size:.3f}"
        cell = "yes" if value > 1.5 else "no"
        lines.append(f"{shown},{['red', 'green', 'blue'][color]},2024-{month:02}-15,")
        lines[-1] += cell if target == "label" else f"{100 + 10 * value:.2f}"
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def test_metrics_are_their_definitions():
    predicted, y = torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 1, 0, 1, 1])
    found = classification_metrics(predicted, y)
    print(found)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # a class that does not occur is in no mean
    assert classification_metrics(torch.tensor([2, 2]), torch.tensor([2, 2]))["balanced_accuracy"] == 1
    found = regression_metrics(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0]))
    print(found)
    assert found["rmse"] == pytest.approx(math.sqrt(2 / 3))
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["r2"] == pytest.approx(1 - 2 / 8)
    assert regression_metrics(torch.tensor([1.0]), torch.tensor([2.0]))["r2"] == 0


def test_table_mlp_encodes_each_column():
    columns = [
        {"mean": 2.0, "std": 4.0, "median": 3.0, "edges": [0.0, 2.0, 6.0], "has_missing": True},
        {"categories": 2},
        {"mean": 0.0, "std": 1.0, "median": 0.0, "edges": [0.0], "has_missing": False},
    ]
    net = TableMLP(columns, 2, {"widths": (4,)})
    rows = torch.tensor([[4.0, 1.0, 0.5], [math.nan, 0.0, 1e9]])
    found = net.encode(rows).tolist()
    print(found)
    # standardized numbers, bins of the first one, whether it is missing, and one of three categories
    assert found[0] == pytest.approx([0.5, 0.5, 1.0, 0.5, 0, 0, 1, 0])
    assert found[1] == pytest.approx([0.25, mlp.LARGEST, 1.0, 0.25, 1, 1, 0, 0])
    assert net(rows).shape == (2, 2)
    only_words = TableMLP([{"categories": 2}], 1, {"widths": (4,)})
    assert torch.isfinite(only_words(torch.tensor([[2.0]]))).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    ts.train("mlp", data=str(write(folder)), out=folder / "classes", quiet=True, **FAST)
    file = write(folder, target="price", name="p.csv")
    ts.train("mlp", data=str(file), target="price", out=folder / "numbers", quiet=True, **FAST)
    return folder


@pytest.mark.sweep
def test_train_classes_beside_scikit_learn(trained):
    result = json.loads((trained / "classes" / "result.json").read_text())
    metrics = result["metrics"]
    print(result["data"], {name: round(value, 3) for name, value in metrics.items()})
    assert "label" in result["data"]
    for name in ("", "logistic_", "boosting_"):
        assert 0.7 < metrics[f"test/{name}accuracy"] <= 1
        assert f"test/{name}balanced_accuracy" in metrics
    assert metrics["test/accuracy"] > metrics["test/boosting_accuracy"] - 0.1
    assert json.loads((trained / "classes" / "recipe.json").read_text())["recipe"] == "table"
    assert (trained / "classes" / "pictures" / "confusion.png").exists()


@pytest.mark.sweep
def test_train_numbers_beside_scikit_learn(trained):
    metrics = json.loads((trained / "numbers" / "result.json").read_text())["metrics"]
    print({name: round(value, 3) for name, value in metrics.items()})
    for name in ("", "ridge_", "boosting_"):
        assert {f"test/{name}{metric}" for metric in ("rmse", "mae", "r2")} <= metrics.keys()
    assert metrics["test/rmse"] < 11  # of numbers that spread by 15
    assert metrics["test/r2"] > 0.5
    assert (trained / "numbers" / "pictures" / "predictions.png").exists()


@pytest.mark.parametrize("run", ["classes", "numbers"])
def test_evaluate_is_the_test(trained, run):
    metrics = json.loads((trained / run / "result.json").read_text())["metrics"]
    measured = ts.evaluate(trained / run)
    for name in ("accuracy", "loss") if run == "classes" else ("rmse", "r2"):
        print(name, measured[name], metrics[f"test/{name}"])
        assert measured[name] == pytest.approx(metrics[f"test/{name}"], rel=1e-5)


def test_predict_by_name_in_any_order(trained, tmp_path, capsys):
    new = tmp_path / "new.csv"
    new.write_text("when,size,color\n2024-12-15,2.5,green\n2024-01-15,,red\n")
    answers = ts.predict(trained / "classes", [new, "2.5,green,2024-12-15"])
    print(answers)
    assert answers[0]["label"] == "yes"
    assert answers[0]["probabilities"] == pytest.approx(answers[2]["probabilities"])
    code, out, _ = run_cli(capsys, "predict", trained / "numbers", new)
    print(out)
    assert code == 0
    assert "row 1: price 1" in out
    (tmp_path / "bad.csv").write_text("when,size,colour\n2024-12-15,2.5,green\n")
    code, out, err = run_cli(capsys, "predict", trained / "classes", tmp_path / "bad.csv")
    assert (code, out) == (2, "")
    assert "no column 'color': it has when, size, colour" in err


def test_class_weights_balance_the_recalls(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        (x, "rare" if random.random() < 0.05 + 0.35 * (x > 0) else "usual") for x in random.normal(size=1500)
    ]
    file = tmp_path / "rare.csv"
    file.write_text("x,label\n" + "".join(f"{x:.4f},{label}\n" for x, label in rows))
    recalls = {}
    for weights in ("none", "balanced"):
        recipe = replace_fields(mlp.RECIPES["table"], {"data": str(file), "class_weights": weights, **FAST})
        run = next(iter(mlp.build(recipe)))
        for _ in range(60):
            run.update(next(run.stream))
        recalls[weights] = run.test()
    print(recalls)
    for name in ("balanced_accuracy", "logistic_balanced_accuracy"):
        assert recalls["balanced"][name] > recalls["none"][name] + 0.05
    assert recalls["none"]["accuracy"] > recalls["balanced"]["accuracy"]


def test_table_loss_weighs_micro_batches(tmp_path):
    """A batch in two pieces has the gradient of the whole, though their class weights differ."""
    fields = {"data": str(write(tmp_path)), "class_weights": "balanced", "dropout": 0.0, **FAST}
    gradients = []
    for pieces in (1, 3):
        recipe = replace_fields(mlp.RECIPES["table"], {**fields, "grad_accum_steps": pieces})
        run = next(iter(mlp.build(recipe)))
        run.update(next(run.stream))
        gradients.append([p.grad.clone() for p in run.state["model"].parameters()])
    worst = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    print(f"{worst:.1e} apart")
    assert worst < 1e-6


def test_explain_and_augment_are_of_images(trained, tmp_path):
    with pytest.raises(BadInput, match="no model of images"):
        ts.predict(trained / "classes", ["1,red,2024-01-01"], explain=tmp_path / "e.png")
    with pytest.raises(BadInput, match="leave --augment out"):
        ts.train("mlp", data="iris", augment="affine", out=tmp_path / "r", quiet=True)


def test_table_keeps_the_best_weights_and_knows_epochs(tmp_path):
    """What every other trained network does: rows count as examples, and validation chooses the weights."""
    options = {"target": "label", "out": tmp_path / "run", "quiet": True, "epochs": 2}
    run = ts.train("mlp", data=str(write(tmp_path)), intervals={"evaluate": 3}, **options)
    print(run.steps, run.examples, run.best.metric, run.best.step, run.best.value)
    assert run.steps == run.examples.steps(2)
    assert run.examples.unit == "rows"
    assert run.best.metric == "accuracy"
    assert run.results["val/accuracy"] == run.best.value
    model = ts.load(tmp_path / "run")
    rows = model.preprocess(str(tmp_path / "t.csv"))
    assert model(rows).shape == (400, len(model.classes))
