"""Dilated convolutions widen the view at no parameters; too wide ones look through a grid."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.data.vision.segmentation import load_segmentation
from torchstone.engine import rng
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import train
from torchstone.parts.conv.dilated import dilate
from torchstone.parts.facts import count_parameters
from torchstone.systems.convolutional import deeplab
from torchstone.systems.convolutional.deeplab import Segmenter, fcn_head, loss, resnet_features
from torchstone.systems.convolutional.resnet import BasicBlock, ResNet
from torchstone.tasks.vision.segment import segment

CLAIM = Claim(
    "dilation-field",
    "Dilated convolutions widen the field of view at no parameters, and segment better for it.",
    "Yu and Koltun 2015; Chen et al. 2017; Wang et al. 2017",
    "Emoji of 32 × 32 to be segmented: a small ResNet of three stages at half resolution, whose last four "
    "convolutions have rate 1, or 2 and 4, or 8 throughout; 200 updates of AdamW. Mean IoU on test images; "
    "pixels that the middle one depends on.",
    "The parameters must be equal to the unit; and one large rate throughout must depend on fewer pixels "
    "than its field is wide (the grid).",
    minutes=2.5,
)
SIZE = 32
RATES = {"rate 1": (1, 1), "rates 2 and 4": (2, 4), "rate 8": (8, 8)}
PLAIN, DILATED, GRID = RATES


def network(rates: tuple[int, int], num_classes: int) -> Segmenter:
    block = partial(BasicBlock, option="A")
    backbone = ResNet(dilate(block, {32: rates}), (1, 1, 2), widths=(8, 16, 32), stem="cifar")
    del backbone.fc
    return Segmenter(backbone, resnet_features, fcn_head(32, num_classes), None)


def seen_pixels(rates: tuple[int, int], side: int = 145) -> tuple[int, int]:
    """How many pixels the middle of the last maps depends on, and how many the square around them has.

    By the gradient with positive weights and without norms, which would connect all pixels.
    """
    backbone: Any = network(rates, 2).backbone
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
    for weight in backbone.parameters():
        weight.data.fill_(1e-3)
    image = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    maps = resnet_features(backbone.double(), image)[1]
    middle = maps.shape[-1] // 2
    (gradient,) = torch.autograd.grad(maps[0, :, middle, middle].sum(), image)
    depends: Tensor = gradient.abs().sum((0, 1)) > 0
    where = [axis.nonzero() for axis in (depends.any(1), depends.any(0))]
    height, width = (int(each.max() - each.min()) + 1 for each in where)
    return int(depends.sum()), height * width


def measure(seed: int) -> Row:
    """Mean IoU, parameters and pixels of each network."""
    data = load_segmentation("openmoji", size=SIZE)
    recipe = replace(deeplab.Recipe(), size=SIZE, steps=200, seed=seed, augment="flip")
    row: Row = {}
    for name, rates in RATES.items():
        rng.seed(seed)
        model = network(rates, len(data.classes))
        outcome = train(segment(model, recipe, data, loss=loss, model_config={}))
        depends, square = seen_pixels(rates)
        row[name] = {
            "miou": outcome.metrics["test/miou"],
            "parameters": count_parameters(model),
            "pixels": depends,
            "square": square,
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    first = rows[0]
    mean = {name: sum(column(name, "miou")) / len(rows) for name in RATES}
    better = paired(f"mean IoU, {DILATED} − {PLAIN}", column(DILATED, "miou"), column(PLAIN, "miou"))
    to_grid = paired(f"mean IoU, {DILATED} − {GRID}", column(DILATED, "miou"), column(GRID, "miou"))
    finding = "mean IoU " + "; ".join(
        f"{name} {mean[name]:.3f} ({first[name]['pixels']:,} of {first[name]['square']:,} pixels of its "
        "field)"
        for name in RATES
    )
    tests = [better, to_grid]
    is_free = len({first[name]["parameters"] for name in RATES}) == 1
    is_wider = first[DILATED]["square"] > first[PLAIN]["square"]
    has_grid = first[GRID]["pixels"] < first[GRID]["square"]
    if not (is_free and is_wider and has_grid):
        return Verdict("not seen here", f"the controls fail: {finding}", tests)
    if not better.is_above_zero:
        return Verdict("not seen here", f"the field is wider, but segments no better: {finding}", tests)
    if to_grid.is_above_zero:
        return Verdict("holds only when", f"rates leave no grid: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    share = {name: [100 * row[name]["pixels"] / row[name]["square"] for row in rows] for name in RATES}
    side = {name: [row[name]["square"] ** 0.5 for row in rows] for name in RATES}
    return bars(
        {
            "mean IoU on test images": {name: [row[name]["miou"] for row in rows] for name in RATES},
            "side of the field, pixels": side,
            "% of the field's pixels that count": share,
        }
    )
