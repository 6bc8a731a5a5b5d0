"""From an `OptimConfig` and a loss to an update: optimizer, learning-rate schedule, EMA, replication."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from torchstone.engine import parallel
from torchstone.engine.update import GradientUpdate, OptimConfig
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.ema import make_ema


class GradientUpdateParts(NamedTuple):
    """An update, what a checkpoint must hold of it, and the network to evaluate: the EMA, if there is one."""

    update: GradientUpdate
    state: dict[str, Any]
    eval_model: Any


def gradient_update(
    model: nn.Module,
    optim: OptimConfig,
    loss: Callable[[Any, Any], Tensor | dict[str, Tensor]],
    *,
    steps: int,
    parameters: Iterable[nn.Parameter | dict[str, Any]] | None = None,
    forward_module: nn.Module | None = None,
) -> GradientUpdateParts:
    """The update that minimizes `loss`.

    Args:
        loss: (network, batch) -> what `GradientUpdate` takes for a loss.
        steps: over how many updates the learning rate is scheduled.
        parameters: to be trained, or groups of them; by default all that are not frozen.
        forward_module: the network that `loss` calls, if it is a module around `model`.
    """
    state: dict[str, Any] = {"model": model}
    ema, eval_model = None, model
    if optim.ema_decay:
        state["ema"] = averaged = make_ema(model, optim.ema_decay)
        ema, eval_model = (averaged, model), averaged.module
    net = parallel.replicate(model if forward_module is None else forward_module)
    if parameters is None:
        parameters = [p for p in model.parameters() if p.requires_grad]
    state["optimizer"] = optimizer = make_optimizer(parameters, optim)
    state["lr_schedule"] = lr_scheduler = make_lr_scheduler(optimizer, optim, steps)
    state["update"] = update = GradientUpdate(
        lambda batch: loss(net, batch),
        optimizer,
        lr_scheduler=lr_scheduler,
        grad_accum_steps=optim.grad_accum_steps,
        max_grad_norm=optim.max_grad_norm,
        precision=optim.precision,
        ema=ema,
        replica=net,
        compile=optim.compile,
    )
    return GradientUpdateParts(update, state, eval_model)


def make_optimizer(
    parameters: Iterable[nn.Parameter | dict[str, Any]], optim: OptimConfig
) -> torch.optim.Optimizer:
    """`sgd` (Nesterov if there is momentum), `adam`, `adamw`, in torch's fused form, or `rmsprop` with
    the decay 0.9 and ε 1e-3 that MobileNet and EfficientNet are trained with.

    Raises:
        BadInput: an unknown optimizer, or a learning rate that is not positive.
    """
    lr, decay, momentum = optim.lr, optim.weight_decay, optim.momentum
    if not 0 < lr < math.inf:
        raise BadInput(f"lr must be a positive number, not {lr}")
    betas, eps = (optim.beta1, optim.beta2), optim.eps
    makers = {
        "sgd": lambda p: torch.optim.SGD(
            p, lr, momentum=momentum, weight_decay=decay, nesterov=momentum > 0, fused=True
        ),
        "adam": lambda p: torch.optim.Adam(p, lr, betas, eps, weight_decay=decay, fused=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr, betas, eps, weight_decay=decay, fused=True),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr, 0.9, 1e-3, weight_decay=decay, momentum=momentum),
    }
    if optim.optimizer not in makers:
        raise BadInput(f"unknown optimizer {optim.optimizer!r}: {did_you_mean(optim.optimizer, makers)}")
    return makers[optim.optimizer](list(parameters))


def decay_matrices_only(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameter groups for `make_optimizer`: weight decay for matrices, none for biases and norms."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
    ]


def make_lr_scheduler(optimizer: torch.optim.Optimizer, optim: OptimConfig, steps: int) -> LambdaLR:
    """`constant`; `cosine`, `linear` or `poly` decay to `min_lr_ratio` over the steps, after linear warm-up,
    or `constant_linear` over the second half of them; `step`, a tenth at one half of the steps and again at
    three quarters; or `inverse_root`, the warm-up and decay of Vaswani et al. 2017 (arXiv:1706.03762),
    equation 3, whose factor makes the peak `lr`.

    Raises:
        BadInput: an unknown schedule.
    """
    floor = optim.min_lr_ratio
    warm = round(optim.warmup_ratio * steps)
    shapes = {
        "constant": lambda done: 1.0,
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "linear": lambda done: 1 - done,
        # Zhu et al. 2017, arXiv:1703.10593, section 4: constant for the first half
        "constant_linear": lambda done: min(1.0, 2 * (1 - done)),
        # Chen et al. 2016, arXiv:1606.00915, section 4.1.1
        "poly": lambda done: (1 - done) ** 0.9,
        # He et al. 2015, arXiv:1512.03385, section 4.2: at 32k and 48k of 64k updates
        "step": lambda done: 0.1 ** sum(done >= milestone for milestone in (0.5, 0.75)),
        "inverse_root": None,  # in steps, not in fractions of them
    }
    if optim.lr_schedule not in shapes:
        raise BadInput(
            f"unknown lr_schedule {optim.lr_schedule!r}: {did_you_mean(optim.lr_schedule, shapes)}"
        )
    shape = shapes[optim.lr_schedule]

    def factor(step: int) -> float:
        if shape is None:
            t, w = step + 1, max(1, warm)
            return min((w / t) ** 0.5, t / w)
        if step < warm:
            return (step + 1) / (warm + 1)
        return floor + (1 - floor) * shape(min(1.0, (step - warm) / max(1, steps - warm)))

    return Schedule(optimizer, factor)


class Schedule(LambdaLR):
    """A schedule by the step alone: a run that goes on with more steps follows the new one at once."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        rates = [base * of(self.last_epoch) for base, of in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = rates
