"""Perceptron: a unit that learns from its mistakes.

Paper: Frank Rosenblatt, "The perceptron: a probabilistic model for information storage and
organization in the brain", Psychological Review 65(6), 1958. The bound: Albert Novikoff, "On
convergence proofs on perceptrons", 1962. The average: Yoav Freund and Robert Schapire, "Large margin
classification using the perceptron algorithm", Machine Learning 37, 1999.

The idea. A unit outputs the sign of a weighted sum of its inputs. Where it is right nothing changes;
where it is wrong, the example itself is added to the weights, or subtracted. If the two classes are
linearly separable, this finds separating weights after finitely many mistakes; if they are not (exclusive
or), it never stops making mistakes.

The rule, one example after another, with y = ±1 and a constant input 1 for the threshold:

    if y·(w·x) ≤ 0:   w ← w + y·x                                  from w = 0
    mistakes ≤ (R/γ)²,   R = max ‖x‖,   γ = max over ‖w‖ = 1 of min y·(w·x)       (Novikoff)
    averaged:   w̄ = (1/T) Σ w_t over the weights after each of the first T examples

What differs from the paper. Its α-system (the 1958 reinforcement of active units) is replaced by the rule
as taught since the 1960s, and its random projections from a retina are left out: the features are the
inputs. With several classes each has a unit of its own, trained one-versus-rest by the same rule; the
largest score wins. The average is of 1999.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchstone.data.tabular.dataset import Table, is_table, load_table
from torchstone.data.vision.dataset import load_images
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.interpret import grad_cam
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.systems import Variant
from torchstone.tasks.tabular import rows as tabular
from torchstone.tasks.vision import classify

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "iris:setosa"  # data set: a table (NAME, FILE.csv, TABLE:CLASS for one-vs-rest), or images
    variant: str = "perceptron"  # network variant: perceptron
    steps: int = 6  # number of training steps
    batch_size: int = 1000  # batch size, processed one example at a time (a smaller table: all of it)
    average: bool = False  # averaged perceptron: evaluate the mean of the weights over all examples
    standardize: bool = False  # standardize each feature to mean 0 and std 1 (tables)
    shuffle: bool = False  # shuffle each epoch (tables; images always are)
    size: int = 8  # image side length in pixels
    augment: str = "none"  # augmentation of images: none, or steps such as shift2 or affine
    seed: int = 0  # random seed of the data order
    device: str = "auto"  # device for computing scores; the learning rule runs on the CPU


RECIPES = {
    # torchstone train perceptron                1 s on 2 cores   test accuracy 1.00, 5 mistakes
    "iris": Recipe(),
    # torchstone train perceptron/digits         1 s on 2 cores   test accuracy 0.950
    "digits": Recipe(data="digits", steps=200, batch_size=128, average=True),
    # torchstone train perceptron/breast_cancer  1 s on 2 cores   test accuracy 0.956
    "breast_cancer": Recipe(data="breast_cancer", steps=50, average=True, standardize=True, shuffle=True),
    # torchstone train perceptron/xor            1 s on 2 cores   not separable: test accuracy 0.5
    "xor": Recipe(data="xor", steps=1000),
    # for tests: a second
    "smoke": Recipe(data="digits", steps=30, batch_size=32, average=True),
}


class Perceptron(nn.Module):
    """One unit for two classes, else one per class; `forward` returns scores, (batch, classes)."""

    def __init__(self, num_classes: int = 10, features: int = 64):
        super().__init__()
        self.units = nn.Linear(features, 1 if num_classes == 2 else num_classes)
        nn.init.zeros_(self.units.weight)
        nn.init.zeros_(self.units.bias)

    def forward(self, x: Float[Tensor, "batch *features"]) -> Float[Tensor, "batch classes"]:
        scores = self.units(x.flatten(1).to(self.units.weight.dtype))
        return torch.cat([-scores, scores], 1) if scores.shape[1] == 1 else scores


VARIANTS = {"perceptron": Variant(Perceptron, (1, 8, 8))}


class PerceptronRule:
    """The learning rule for several units in parallel, in double precision on the CPU.

    `w` are the weights, the threshold last, (units, features + 1). The average is computed as
    w̄ = w − u/t, so that an example that changes nothing costs nothing.
    """

    def __init__(self, units: int, features: int):
        self.w, self.u = np.zeros((units, features + 1)), np.zeros((units, features + 1))
        self.examples = self.mistakes = 0

    def __call__(
        self, x: Float[np.ndarray, "batch inputs"], y: Int[np.ndarray, "batch units"]
    ) -> Int[np.ndarray, " batch"]:
        """Learn from the rows in order; returns how many units were mistaken about each."""
        counts = np.zeros(len(x), dtype=np.int64)
        w = self.w
        for row in range(len(x)):
            example, sign = x[row], y[row]
            # y·(w·x) ≤ 0
            wrong = sign * w.dot(example) <= 0
            if wrong.any():
                # w ← w + y·x
                change = np.outer(wrong * sign, example)
                w += change
                self.u += self.examples * change
                counts[row] = wrong.sum()
            self.examples += 1
        self.mistakes += int(counts.sum())
        return counts

    def weights(self, average: bool) -> Float[np.ndarray, "units inputs"]:
        return self.w - self.u / max(self.examples, 1) if average else self.w

    def state_dict(self) -> dict:
        tensors = {"w": torch.from_numpy(self.w.copy()), "u": torch.from_numpy(self.u.copy())}
        return {**tensors, "examples": self.examples, "mistakes": self.mistakes}

    def load_state_dict(self, state: dict) -> None:
        self.w, self.u = state["w"].numpy().copy(), state["u"].numpy().copy()
        # checkpoints of earlier versions say "seen"
        self.examples = state["examples"] if "examples" in state else state["seen"]
        self.mistakes = state["mistakes"]


def with_bias_input(x: Float[Tensor, "batch *features"]) -> Float[np.ndarray, "batch inputs"]:
    """Flattened, in double precision, with the constant 1 appended."""
    flat = x.flatten(1).cpu().double().numpy()
    return np.concatenate([flat, np.ones((len(flat), 1))], 1)


def signs(labels: Int[Tensor, " batch"], units: int) -> Int[np.ndarray, "batch units"]:
    """+1 for the class of a unit, else −1; a single unit stands for class 1."""
    own = np.arange(units) if units > 1 else np.array([1])
    return np.where(labels.cpu().numpy()[:, None] == own, 1, -1)


def fit_rows(
    x: Float[Tensor, "rows features"], y: Int[Tensor, " rows"], epochs: int
) -> tuple[PerceptronRule, list[int]]:
    """Rows in order, `epochs` times: the rule, and the mistakes of each epoch."""
    units = int(y.max()) + 1 if y.max() > 1 else 1
    rule = PerceptronRule(units, x.shape[1])
    rows, targets = with_bias_input(x), signs(y, units)
    return rule, [int(rule(rows, targets).sum()) for _ in range(epochs)]


def make_update(model: Perceptron, recipe: Recipe, mean: Tensor | float = 0, std: Tensor | float = 1):
    """(the rule, the update that applies it to standardized rows and copies its weights into `model`)."""
    rule = PerceptronRule(model.units.out_features, model.units.in_features)

    def update(batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        x, labels = batch
        counts = rule(with_bias_input((x - mean) / std), signs(labels, len(rule.w)))
        w = torch.from_numpy(rule.weights(recipe.average))
        # w·(x − m)/s + b  =  (w/s)·x + (b − w·m/s)
        weight = w[:, :-1] / std
        with torch.no_grad():
            model.units.weight.copy_(weight)
            model.units.bias.copy_(w[:, -1] - (weight * mean).sum(1))
        return {
            "mistakes": float(counts.sum()),
            "total_mistakes": float(rule.mistakes),
            "accuracy": float((counts == 0).mean()),
        }

    return rule, update


def criterion(scores: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The negative margins' share of the total absolute margin over the best other class: 0 if all are right.

    The rule is scale-free (w and 2w predict the same), and so is this loss; 1 at w = 0.
    """
    true = scores.gather(1, labels[:, None])
    deficit = scores.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True) - true
    total = deficit.abs().sum()
    return torch.where(total > 0, deficit.clamp(min=0).sum() / total, 1.0)


def build(recipe: Recipe) -> Iterator[Run]:
    if parallel.world_size() > 1:
        raise BadInput("the perceptron learns example by example: run it in one process")
    device = select_device(recipe.device)
    mean, std = 0.0, 1.0
    if is_table(recipe.data):
        data = load_table(recipe.data)
        features = len(data.features)
        if recipe.standardize:
            x, _ = data.rows_of("train")
            mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-12)
    else:
        data = load_images(recipe.data, size=recipe.size, channels=1, device=device)
        features = recipe.size**2
    model_config = {"num_classes": len(data.classes), "features": features}
    rng.seed(recipe.seed)
    model = Perceptron(**model_config).to(device)
    rule, update = make_update(model, recipe, mean, std)
    kwargs: dict[str, Any] = {"model_config": model_config, "loss": criterion, "update": update}
    if isinstance(data, Table):
        run = tabular.classify_table(model, recipe, data, **kwargs)
    else:
        run = classify.classify(model, recipe, data, **kwargs)
    run.state["rule"] = rule
    yield run


def evaluate(model: Perceptron, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Accuracy and loss on the test split of `spec`, or on all of it."""
    if metadata["task"] == "tabular":
        is_one_vs_rest, positive = metadata["classes"][0] == "rest", metadata["classes"][-1]
        names_class = spec.endswith(f":{positive}")
        table = load_table(f"{spec}:{positive}" if is_one_vs_rest and not names_class else spec)
        return tabular.evaluate(model, metadata, table, held_out=held_out, loss=criterion)
    return classify.evaluate_by(criterion, model, metadata, spec, held_out=held_out)


@torch.no_grad()
def predict(model: Perceptron, metadata: dict, inputs: list) -> list[dict]:
    """Label of image files, or of table rows: table files, or comma-separated numbers.

    A perceptron has no probabilities; `probability` is the softmax of the scores over the weights' mean
    norm, which ranks predictions by their distance from the boundary.
    """
    model, norm = copy.deepcopy(model), model.units.weight.norm(dim=1).mean().clamp(min=1e-12)
    for p in model.parameters():
        p /= norm
    task = tabular if metadata["task"] == "tabular" else classify
    return task.predict(model, metadata, inputs)


def explain(model: Perceptron, metadata: dict, inputs: list, file: Path | str) -> None:
    """Plot each image with its saliency for the predicted class.

    Raises:
        BadInput: the model takes table rows; an input is missing, or is no image.
    """
    if metadata["task"] == "tabular":
        raise BadInput("this is no model of images: there is nothing to explain by a plot")
    grad_cam.explain(model, metadata, predict(model, metadata, inputs), file)


def setosa() -> tuple[Tensor, Tensor]:
    """All 150 rows of Iris in file order, setosa against the rest."""
    table = load_table("iris:setosa")
    return table.x, table.y


def margin(x: Float[Tensor, "rows features"], y: Int[Tensor, " rows"]) -> float:
    """γ: the distance from the origin to the convex hull of all y·x, by non-negative least squares."""
    from scipy.optimize import nnls

    z = with_bias_input(x) * signs(y, 1)
    # the λ ≥ 0 that minimize ‖Σ λ y x‖² + (Σ λ − 1)² are those of the nearest point, up to scale
    share, _ = nnls(np.concatenate([z.T, np.ones((1, len(z)))]), np.append(np.zeros(z.shape[1]), 1))
    return float(np.linalg.norm(z.T @ (share / share.sum())))


def novikoff_bound(x: Tensor, y: Tensor) -> float:
    """(R/γ)²"""
    return (np.linalg.norm(with_bias_input(x), axis=1).max() / margin(x, y)) ** 2


def xor_mistakes() -> list[int]:
    """Mistakes in each of 1,000 epochs on exclusive or."""
    return fit_rows(*load_table("xor").rows_of("train"), epochs=1000)[1]


FACTS = [
    Fact("parameters, 10 classes of 8×8 images", lambda: count_parameters(Perceptron()), 650),
    Fact("iris, setosa or not: mistakes of each epoch", lambda: fit_rows(*setosa(), 5)[1], [2, 2, 1, 0, 0]),
    Fact(
        "iris: R, the longest row",
        lambda: np.linalg.norm(with_bias_input(setosa()[0]), axis=1).max(),
        11.156,
        5e-4,
    ),
    Fact(
        "iris: mistakes ≤ (R/γ)²",
        lambda: fit_rows(*setosa(), 9)[0].mistakes <= novikoff_bound(*setosa()),
        True,
    ),
    Fact("exclusive or: epochs of 1,000 without a mistake", lambda: xor_mistakes().count(0), 0),
]


def reference():
    """The weights, and their average, against scikit-learn's SGD after the same number of epochs."""
    from sklearn.datasets import load_digits

    iris, (digits, target) = load_table("iris"), load_digits(return_X_y=True)
    data = [setosa(), (iris.x, iris.y), (torch.from_numpy(digits / 16), torch.from_numpy(target).long())]
    for epochs, (x, y) in zip((2, 7, 3), data, strict=True):
        for average in (False, True):
            yield ParityCase(ours(epochs, average), theirs(epochs, average), (x, y))


def ours(epochs: int, average: bool):
    def rosenblatt(x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(fit_rows(x, y, epochs)[0].weights(average))

    return rosenblatt


def theirs(epochs: int, average: bool):
    def scikit_learn(x: Tensor, y: Tensor) -> Tensor:
        from sklearn.linear_model import SGDClassifier

        # what sklearn.linear_model.Perceptron consists of; that class has no average
        kwargs = {"loss": "perceptron", "penalty": None, "learning_rate": "constant", "eta0": 1}
        model = SGDClassifier(**kwargs, shuffle=False, tol=None, max_iter=epochs, average=average).fit(
            x.numpy(), y.numpy()
        )
        return torch.from_numpy(np.column_stack([model.coef_, model.intercept_]))

    return scikit_learn
