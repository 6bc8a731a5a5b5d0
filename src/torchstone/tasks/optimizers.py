"""The optimisers and learning-rate schedules that recipes name, all torch's own."""

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from torchstone.errors import BadInput, nearest


@runtime_checkable
class Settings(Protocol):
    """What a recipe says about descent."""

    @property
    def optimiser(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> float: ...
    @property
    def steps(self) -> int: ...


def optimiser(
    parameters: Iterable[nn.Parameter | dict[str, Any]], recipe: Settings
) -> torch.optim.Optimizer:
    """`sgd` (Nesterov where there is momentum), `adam`, `adamw`, in torch's fused form, or `rmsprop`,
    with the decay 0.9 and the floor 1e-3 that MobileNet and EfficientNet are trained with.

    Adam's β2 and ε are 0.999 and 1e-8, or what a recipe says in fields `beta2` and `eps`.
    """
    lr, decay = recipe.lr, recipe.weight_decay
    if not 0 < lr < math.inf:
        raise BadInput(f"lr must be a positive number, not {lr}")
    momentum = recipe.momentum
    betas, eps = (momentum, getattr(recipe, "beta2", 0.999)), getattr(recipe, "eps", 1e-8)
    makers = {
        "sgd": lambda p: torch.optim.SGD(
            p, lr, momentum=momentum, weight_decay=decay, nesterov=momentum > 0, fused=True
        ),
        "adam": lambda p: torch.optim.Adam(p, lr, betas, eps, weight_decay=decay, fused=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr, betas, eps, weight_decay=decay, fused=True),
        "rmsprop": lambda p: torch.optim.RMSprop(
            p, lr, 0.9, 1e-3, weight_decay=decay, momentum=momentum
        ),
    }
    if recipe.optimiser not in makers:
        raise BadInput(
            f"unknown optimiser {recipe.optimiser!r}: {nearest(recipe.optimiser, makers)}"
        )
    return makers[recipe.optimiser](list(parameters))


def matrices_decay(model: nn.Module, recipe: Settings) -> list[dict[str, Any]]:
    """The parameters for `optimiser`: weight decay for matrices alone, not for biases and norms."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
    ]


def schedule(optimiser: torch.optim.Optimizer, recipe: Settings) -> LambdaLR:
    """`constant`; `cosine`, `linear` or `poly` decay to zero over the steps, after a linear warm-up;
    `step`, a tenth at one half of the steps and again at three quarters; or `inverse_root`, the warm-up and
    decay of Vaswani et al. 2017 (arXiv:1706.03762), equation 3, whose factor makes the peak `lr`.

    `warmup` is the share of the steps that the rate takes to rise to its full height. What falls,
    falls to the share `floor` of it, if a recipe has such a field, else to nothing.
    """
    floor = getattr(recipe, "floor", 0.0)
    warm = round(recipe.warmup * recipe.steps)
    shapes = {
        "constant": lambda done: 1.0,
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "linear": lambda done: 1 - done,
        # Chen et al. 2016, arXiv:1606.00915, section 4.1.1
        "poly": lambda done: (1 - done) ** 0.9,
        # He et al. 2015, arXiv:1512.03385, section 4.2: at 32k and 48k of 64k updates
        "step": lambda done: 0.1 ** sum(done >= milestone for milestone in (0.5, 0.75)),
        "inverse_root": None,  # in steps, not in shares of them
    }
    if recipe.schedule not in shapes:
        raise BadInput(f"unknown schedule {recipe.schedule!r}: {nearest(recipe.schedule, shapes)}")
    shape = shapes[recipe.schedule]

    def factor(step: int) -> float:
        if shape is None:
            t, w = step + 1, max(1, warm)
            return min((w / t) ** 0.5, t / w)
        if step < warm:
            return (step + 1) / (warm + 1)
        return floor + (1 - floor) * shape(min(1.0, (step - warm) / max(1, recipe.steps - warm)))

    return LambdaLR(optimiser, factor)
