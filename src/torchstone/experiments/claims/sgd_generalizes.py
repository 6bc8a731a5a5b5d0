"""Tuned SGD generalizes as well as Adam, or better."""

from typing import Any

from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.claims.adam_faster import LEVELS, RATES, measure
from torchstone.experiments.figures import curves

__all__ = ["CLAIM", "draw", "judge", "measure"]

CLAIM = Claim(
    "sgd-generalizes",
    "Tuned SGD ends as good as Adam on the test set, or better.",
    "Wilson et al. 2017; Choi et al. 2019",
    "The trainings of `adam-faster`: LeNet-5 and a small vision transformer, SGD with momentum and "
    "Adam at six "
    "rates each; test accuracy of the rate that is best by validation.",
    "As good: the interval of the difference lies above −1 point. A transformer is known to want Adam.",
    minutes=8,
)
TOLERANCE = 0.01


def judge(rows: list[Row]) -> Verdict:
    differences, texts, fine = [], [], []
    for network in LEVELS:
        best = {name: [chosen(row[network][name]) for row in rows] for name in RATES}
        mean = {name: sum(values) / len(rows) for name, values in best.items()}
        d = paired(f"test accuracy of {network}, SGD − Adam", best["sgd"], best["adam"])
        differences.append(d)
        fine.append(d.margin is not None and d.mean - d.margin > -TOLERANCE)
        texts.append(f"{network} {mean['sgd']:.3f} with SGD, {mean['adam']:.3f} with Adam")
    finding = "test accuracy: " + "; ".join(texts)
    if all(fine):
        return Verdict("holds", finding, differences)
    if any(fine):
        network = next(name for name, is_fine in zip(LEVELS, fine, strict=True) if is_fine)
        return Verdict("holds only when", f"the network is {network}: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def chosen(table: dict[str, list[float]]) -> float:
    """Test accuracy of the rate that is best by validation."""
    return table["test"][table["val"].index(max(table["val"]))]


def draw(rows: list[Row]) -> Any:
    panels = {
        f"{network}: test accuracy": {name: [row[network][name]["test"] for row in rows] for name in RATES}
        for network in LEVELS
    }
    return curves(panels, range(6), "rate, lowest to highest of six", ylim=(0, 1.02))
