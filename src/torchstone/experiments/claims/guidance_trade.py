"""Classifier-free guidance makes samples agree with their label, and more alike."""

from dataclasses import replace
from typing import Any

import torch

from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.generators import (
    DIFFUSION,
    digit_classifier,
    digits,
    sample_diffusion,
    train_system,
)
from torchstone.metrics.classifier_features import sample_metrics
from torchstone.systems.generative import ddpm

CLAIM = Claim(
    "guidance-trade",
    "Guidance trades the variety of a diffusion model's samples for their fidelity.",
    "Dhariwal and Nichol 2021; Ho and Salimans 2022",
    "A diffusion model of the 8 × 8 digits with labels, a tenth of them dropped; 500 samples at six "
    "guidance scales: how many a classifier assigns to the label they were generated for, recall (the "
    "share of test images on the samples' manifold) and variance over that of the data, in the features "
    "of the classifier.",
    "A scale of 0 has no label: agreement must be by chance, and variety no smaller than at 1.",
    minutes=2,
)
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
COUNT = 500
KEYS = ("label_accuracy", "precision", "recall", "relative_variance", "frechet_distance")


def measure(seed: int) -> Row:
    data = digits()
    classifier = digit_classifier(data)
    real = classifier.extract_split(data.test)
    model = train_system(ddpm.build, replace(DIFFUSION, seed=seed)).model
    labels = torch.arange(COUNT) % len(data.classes)
    row: Row = {key: [] for key in KEYS}
    for scale in SCALES:
        fake = classifier.extract(sample_diffusion(model, COUNT, scale, labels, seed))
        metrics = sample_metrics(fake, *real, target_labels=labels)
        for key in KEYS:
            row[key].append(metrics[key])
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(key: str, scale: float) -> list[float]:
        return [row[key][SCALES.index(scale)] for row in rows]

    def mean(key: str, scale: float) -> float:
        return sum(column(key, scale)) / len(rows)

    guided, largest = SCALES[2:], SCALES[-1]
    best = max(guided, key=lambda scale: mean("precision", scale))
    agreement = paired(
        f"agreement, scale {best:g} − 1", column("label_accuracy", best), column("label_accuracy", 1)
    )
    precision = paired(f"precision, scale {best:g} − 1", column("precision", best), column("precision", 1))
    recall = paired(f"recall, scale 1 − {best:g}", column("recall", 1), column("recall", best))
    beyond = paired(
        f"precision, scale {best:g} − {largest:g}", column("precision", best), column("precision", largest)
    )
    differences = [agreement, precision, recall, beyond]
    finding = "; ".join(
        f"scale {scale:g}: agreement {mean('label_accuracy', scale):.2f}, precision "
        f"{mean('precision', scale):.2f}, recall {mean('recall', scale):.2f}"
        for scale in SCALES
    )
    if mean("label_accuracy", 0) > 0.2:
        return Verdict("not seen here", f"samples without a label agree with it: {finding}", differences)
    if not (agreement.is_above_zero and precision.is_above_zero and recall.is_above_zero):
        return Verdict("not seen here", finding, differences)
    if beyond.is_above_zero:
        small = f"the scale is small: beyond {best:g} precision is lost as well"
        return Verdict("holds only when", f"{small}: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        "fidelity": {
            "agreement with the label": [row["label_accuracy"] for row in rows],
            "precision": [row["precision"] for row in rows],
        },
        "variety": {"recall": [row["recall"] for row in rows]},
    }
    return curves(panels, SCALES, "guidance scale", xscale="symlog", ylim=(0, 1.05))
