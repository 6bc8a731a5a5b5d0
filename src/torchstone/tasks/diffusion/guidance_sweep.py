"""What a diffusion's settings of drawing do to its pictures: guidance by its scale, few steps beside all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from torchstone.metrics.classifier_features import ClassifierFeatures, FeatureClassifier, sample_metrics
from torchstone.plots import canvas

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)  # s of guidance
FEW = 50  # steps of DDIM that are held against all of DDPM
FIGURES = ("label_accuracy", "confident_rate", "recall", "precision", "frechet_distance")
Draw = Callable[..., UInt8[Tensor, "count channel height width"]]


def survey(
    draw: Draw,
    judging: FeatureClassifier,
    real: tuple[ClassifierFeatures, Tensor],
    count: int,
    asked: Int64[Tensor, " count"] | None,
    levels: int,
) -> dict[str, float]:
    """`guided_S_FIGURE` for every scale S, if there are labels to be `asked`; then `ddim_FIGURE`, of
    50 steps, and `ddpm_FIGURE`, of all `levels`, without guidance; all of the same noise.

    The figures are `quality.compared`'s, and `diversity`: how far samples of a label lie apart, by how
    far pictures of one do. (All together lie the further apart the better labels are kept.)

    Args:
        draw: (count, guidance=, sampler=, steps=) -> pictures.
        real: what the judge sees in real pictures, and their labels.
    """
    found: dict[str, float] = {}

    def look(name: str, **how: Any) -> None:
        made = judging.extract(draw(count, **how))
        figures = sample_metrics(made, *real, target_labels=asked)
        found.update({f"{name}_{each}": figures[each] for each in FIGURES if each in figures})
        if asked is not None:
            share = within(made.features, asked) / within(real[0].features, real[1])
            found[f"{name}_diversity"] = float(share)

    few = min(FEW, levels)
    for scale in SCALES if asked is not None else ():
        look(f"guided_{scale:g}", guidance=scale, sampler="ddim", steps=few // 2)
    look("ddim", guidance=1.0, sampler="ddim", steps=few)
    look("ddpm", guidance=1.0, sampler="ddpm", steps=levels)
    return found


def within(features: Float[Tensor, "count features"], labels: Int64[Tensor, " count"]) -> Float[Tensor, ""]:
    """The variance within a class: the mean over classes with two pictures or more."""
    groups = [features[labels == each].double() for each in labels.unique()]
    return torch.stack([each.var(0).sum() for each in groups if len(each) > 1]).mean()


def plot(results: Mapping[str, float], file: Path) -> None:
    """Label agreement and what is lost for it, against the scale; nothing where it was not surveyed."""
    kept = {
        figure: [results.get(f"test/guided_{scale:g}_{figure}") for scale in SCALES]
        for figure in ("label_accuracy", "confident_rate", "diversity", "recall")
    }
    if None in kept["label_accuracy"]:
        return
    figure = canvas.canvas(6, 3.6)
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(kept.items()):
        style = {"color": canvas.PALETTE[number], "marker": "o", "markersize": 4}
        axes.plot(SCALES, values, label=name, linestyle="-" if number < 2 else "--", **style)
    canvas.frame(axes, "guidance")
    axes.set_xlabel("scale s (0: told nothing, 1: the label alone)", fontsize=9)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=4, **canvas.LEGEND)
    canvas.save(figure, file)
