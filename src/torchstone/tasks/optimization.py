"""From an `OptimConfig` and a loss to an update: optimizer, learning-rate schedule, EMA, replication."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from torchstone.engine import parallel
from torchstone.engine.update import GradientUpdate, OptimConfig
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.ema import make_ema, make_swa
from torchstone.parts.metrics.direction import is_lower_better
from torchstone.parts.optim import schedules
from torchstone.parts.optim.adagrad import Adagrad
from torchstone.parts.optim.adam import Adam, AdamW
from torchstone.parts.optim.combined import CombinedOptimizer
from torchstone.parts.optim.lion import Lion
from torchstone.parts.optim.muon import Muon
from torchstone.parts.optim.rmsprop import RMSprop
from torchstone.parts.optim.sgd import SGD


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
    measures_batch_norm: bool = False,
) -> GradientUpdateParts:
    """The update that minimizes `loss`.

    Args:
        loss: (network, batch) -> what `GradientUpdate` takes for a loss.
        steps: over how many updates the learning rate is scheduled.
        parameters: to be trained, or groups of them; by default all that are not frozen.
        forward_module: the network that `loss` calls, if it is a module around `model`.
        measures_batch_norm: whether the caller measures the statistics of batch normalization anew before
            it evaluates, which the mean of stochastic weight averaging needs.

    Raises:
        BadInput: options that do not go together.
    """
    state: dict[str, Any] = {"model": model}
    ema, eval_model = None, model
    if optim.swa_start is not None:
        if optim.ema_decay:
            raise BadInput("swa_start and ema_decay are two averages of the weights: set ema_decay to 0")
        if has_batch_norm(model) and not measures_batch_norm:
            raise BadInput(
                "swa_start needs the statistics of batch normalization measured anew, which only image "
                "classifiers do: use ema_decay here"
            )
        state["ema"] = averaged = make_swa(model, round(optim.swa_start * steps))
        ema, eval_model = (averaged, model), averaged.module
    elif optim.ema_decay:
        state["ema"] = averaged = make_ema(model, optim.ema_decay)
        ema, eval_model = (averaged, model), averaged.module
    net = parallel.replicate(model if forward_module is None else forward_module)
    if parameters is None:
        parameters = [p for p in model.parameters() if p.requires_grad]
    state["optimizer"] = optimizer = make_optimizer(
        parameters, optim, outer_weights(model) if optim.optimizer == "muon" else ()
    )
    state["lr_schedule"] = lr_scheduler = make_lr_scheduler(optimizer, optim, steps)
    state["update"] = update = GradientUpdate(
        lambda batch: loss(net, batch),
        optimizer,
        lr_scheduler=lr_scheduler,
        grad_accum_steps=optim.grad_accum_steps,
        max_grad_norm=optim.max_grad_norm,
        max_grad_value=optim.max_grad_value,
        l1_decay=optim.l1_decay,
        grad_noise=optim.grad_noise,
        precision=optim.precision,
        ema=ema,
        replica=net,
        compile=optim.compile,
    )
    return GradientUpdateParts(update, state, eval_model)


def train_only(model: nn.Module, *parts: nn.Module) -> None:
    """Freeze all parameters of a network but those of `parts`, as a stage that trains these wants it."""
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def make_optimizer(
    parameters: Iterable[nn.Parameter | dict[str, Any]],
    optim: OptimConfig,
    outer: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimizer that `optim` names: torch's, in its fused form where it has one, or, with
    `optimizer_implementation="reference"`, the one that `parts/optim` writes as equations.

    `sgd` is Nesterov's if there is momentum; `rmsprop` has the decay 0.9 and ε 1e-3 that MobileNet and
    EfficientNet are trained with. `lion`, which torch has not, is ours in both. `muon` orthogonalizes the
    momentum of matrices and filters and leaves the others, and `outer`, to AdamW: the steps of both are of
    the same size, so that one learning rate does. With torch's implementation it casts to bfloat16.

    Args:
        outer: matrices that Muon is not for: see `outer_weights`.

    Raises:
        BadInput: an unknown optimizer, a learning rate that is not positive, or Muon without a matrix.
    """
    lr, decay, momentum = optim.lr, optim.weight_decay, optim.momentum
    if not 0 < lr < math.inf:
        raise BadInput(f"lr must be a positive number, not {lr}")
    if optim.optimizer == "nesterov" and not momentum:
        raise BadInput("nesterov needs a momentum above 0: use sgd without one")
    parameters = list(parameters)
    if optim.optimizer == "muon":
        return muon_with_adamw(parameters, optim, outer)
    is_ours = optim.optimizer_implementation == "reference"
    fused = {} if is_ours else {"fused": True}
    betas, eps, shared = (optim.beta1, optim.beta2), optim.eps, {"lr": lr, "weight_decay": decay}
    sgd = partial(SGD if is_ours else torch.optim.SGD, momentum=momentum, **shared, **fused)
    adam = {"betas": betas, "eps": eps, **shared, **fused}
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": partial(sgd, nesterov=momentum > 0),
        "momentum": partial(sgd, nesterov=False),
        "nesterov": partial(sgd, nesterov=True),
        "adagrad": partial(Adagrad if is_ours else torch.optim.Adagrad, **shared),
        "rmsprop": partial(
            RMSprop if is_ours else torch.optim.RMSprop, alpha=0.9, eps=1e-3, momentum=momentum, **shared
        ),
        "adam": partial(Adam if is_ours else torch.optim.Adam, **adam),
        "adamw": partial(AdamW if is_ours else torch.optim.AdamW, **adam),
        "lion": partial(Lion, betas=betas, **shared),
    }
    if optim.optimizer not in makers:
        raise BadInput(
            f"unknown optimizer {optim.optimizer!r}: {did_you_mean(optim.optimizer, [*makers, 'muon'])}"
        )
    return makers[optim.optimizer](parameters)


VectorOptimizer = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion"]


def vector_optimizer(
    name: str, lr: float, weight_decay: float = 0.0, **settings: dict[str, Any]
) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """The optimizer of a network whose weights are one vector, as agents' are: see `FlatGradientUpdate`.

    Their rules go element by element; Muon's, which is for matrices, does not. `momentum` and `nesterov` have
    a momentum of 0.9. All else is as torch has it by default.

    Args:
        name: one of `VectorOptimizer`.
        settings: an optimizer's name to the settings that the paper has for it, such as `adam={"eps": 1e-5}`.

    Raises:
        BadInput: an unknown optimizer, or Muon.
    """
    sgd = partial(torch.optim.SGD, momentum=0.9)
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "momentum": sgd,
        "nesterov": partial(sgd, nesterov=True),
        "adagrad": torch.optim.Adagrad,
        "rmsprop": torch.optim.RMSprop,
        "adam": partial(torch.optim.Adam, fused=True),
        "adamw": partial(torch.optim.AdamW, fused=True),
        "lion": Lion,
    }
    if name not in makers:
        raise BadInput(f"unknown optimizer {name!r} of a vector: {did_you_mean(name, list(makers))}")
    return partial(makers[name], lr=lr, weight_decay=weight_decay, **settings.get(name, {}))


def muon_with_adamw(
    parameters: Iterable[nn.Parameter | dict[str, Any]], optim: OptimConfig, outer: Collection[nn.Parameter]
) -> CombinedOptimizer:
    """Muon for matrices and filters, AdamW for the rest; see `make_optimizer`."""
    is_ours = optim.optimizer_implementation == "reference"
    groups = [p if isinstance(p, Mapping) else {"params": [p]} for p in parameters]
    outside = {id(p) for p in outer}
    kinds: dict[str, list[dict[str, Any]]] = {"matrices": [], "filters": [], "others": []}
    for group in groups:
        parts: dict[str, list[nn.Parameter]] = {kind: [] for kind in kinds}
        for p in group["params"]:
            is_matrix = p.ndim == 2 or is_ours
            is_other = p.ndim < 2 or id(p) in outside
            parts["others" if is_other else "matrices" if is_matrix else "filters"].append(p)
        for kind, members in parts.items():
            if members:
                kinds[kind].append({**group, "params": members})
    if not kinds["matrices"] and not kinds["filters"]:
        raise BadInput("muon is for matrices between input and output, and here are none: use adamw")
    shared = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    muon = {"momentum": optim.momentum, "adjust_lr_fn": "match_rms_adamw", **shared}
    adamw = dataclasses.replace(optim, optimizer="adamw")
    makers = {
        "matrices": partial(Muon if is_ours else torch.optim.Muon, **muon),
        "filters": partial(Muon, dtype=torch.bfloat16, **muon),  # torch's takes matrices only
        "others": partial(make_optimizer, optim=adamw),
    }
    return CombinedOptimizer({kind: makers[kind](members) for kind, members in kinds.items() if members})


def outer_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of a network's embeddings and of its last linear layer, the output as networks are written:
    each row there stands for one token or class, so that Muon leaves them to AdamW (Jordan et al. 2024)."""
    # weights that are computed from others, as spectral norm does, are no parameters
    kinds = {kind: [m for m in model.modules() if isinstance(m, kind)] for kind in (nn.Embedding, nn.Linear)}
    layers = kinds[nn.Embedding] + kinds[nn.Linear][-1:]
    return [p for layer in layers if (p := layer._parameters.get("weight")) is not None]


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network has running statistics of batch normalization."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def decay_matrices_only(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameter groups for `make_optimizer`: weight decay for matrices, none for biases and norms."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
    ]


# fields of a schedule to the schedules that read them
SCHEDULE_FIELDS = {
    "lr_period": ("step", "exponential", "warm_restarts"),
    "lr_period_mult": ("warm_restarts",),
    "lr_decay": ("step", "exponential", "plateau"),
    "lr_patience": ("plateau",),
}


def make_lr_scheduler(optimizer: torch.optim.Optimizer, optim: OptimConfig, steps: int) -> LambdaLR:
    """`constant`; `cosine`, `linear` or `poly` decay to `min_lr_ratio` over the steps, after linear warm-up,
    or `constant_linear` over the second half of them; `inverse_root`, the warm-up and decay of Vaswani et al.
    2017 (arXiv:1706.03762), equation 3, whose factor makes the peak `lr`.

    `step` falls to `lr_decay` of it every `lr_period` steps, by default at one half of the steps and again at
    three quarters; `exponential` is the same without stairs, by default twice as well. `warm_restarts` has
    cycles of `lr_period` steps, each `lr_period_mult` times as long as the last; by default three cycles fill
    the run. `one_cycle` rises over `warmup_ratio` of the steps (0.3 unless given) and falls to nearly 0.
    Meanwhile the momentum, of Adam β₁, falls by 0.1 and comes back, as Smith 2018 (arXiv:1803.09820) has it.
    `plateau` falls whenever `lr_patience` evaluations in a row were no better than the best.

    Raises:
        BadInput: an unknown schedule, or one that is longer than the run.
    """
    floor = optim.min_lr_ratio
    warm = round(optim.warmup_ratio * steps)
    rest = max(1, steps - warm)
    period, decay, name = optim.lr_period, optim.lr_decay, optim.lr_schedule
    if name not in SHAPES:
        raise BadInput(f"unknown lr_schedule {name!r}: {did_you_mean(name, SHAPES)}")
    for field, readers in SCHEDULE_FIELDS.items():
        default = OptimConfig.__dataclass_fields__[field].default
        if getattr(optim, field) != default and name not in readers:
            raise BadInput(f"{field} is of {' and '.join(readers)}; {name} has none")
    if period is not None and period > rest:
        after = f" after {warm:,} of warm-up" if warm else ""
        raise BadInput(
            f"lr_period is {period:,} steps, longer than the run, which has {rest:,}{after}: give a smaller "
            "one, or more steps"
        )
    if name == "one_cycle":
        final = {"final": floor} if floor else {}
        shape_of_cycle = {"steps": max(2, steps), "rise": optim.warmup_ratio or 0.3}
        cycle = partial(schedules.one_cycle, **shape_of_cycle, **final)
        share = partial(schedules.one_cycle, **shape_of_cycle, initial=0.0, final=0.0)
        return Schedule(
            optimizer, lambda step: cycle(step), momentum_change=lambda step: -MOMENTUM_FALL * share(step)
        )
    plateau = schedules.Plateau(decay, optim.lr_patience) if name == "plateau" else None
    cycles = 1 + optim.lr_period_mult + optim.lr_period_mult**2
    in_steps: dict[str, Callable[[int], float]] = {
        "exponential": lambda t: schedules.exponential_decay(t, period or max(1, rest // 2), decay),
        "warm_restarts": lambda t: schedules.warm_restarts(
            t, period or math.ceil(rest / cycles), optim.lr_period_mult
        ),
        "plateau": lambda t: 1.0 if plateau is None else plateau.factor,
    }
    if name == "step" and period is not None:
        in_steps["step"] = lambda t: schedules.step_decay(t, period, decay)
    shape = SHAPES[name]
    if name == "step":  # He et al. 2015, arXiv:1512.03385, section 4.2: at 32k and 48k of 64k updates
        shape = lambda done: decay ** sum(done >= milestone for milestone in (0.5, 0.75))  # noqa: E731

    def factor(step: int) -> float:
        if name == "inverse_root":
            t, w = step + 1, max(1, warm)
            return min((w / t) ** 0.5, t / w)
        if step < warm:
            return schedules.linear_warmup(step, warm)
        if name in in_steps:
            return floor + (1 - floor) * in_steps[name](step - warm)
        return floor + (1 - floor) * shape(min(1.0, (step - warm) / rest))

    return Schedule(optimizer, factor, plateau)


# factor by the share of the steps that is done, after warm-up; None where it is in steps
SHAPES: dict[str, Any] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: schedules.cosine_decay(done, 1.0),
    "linear": lambda done: 1 - done,
    # Zhu et al. 2017, arXiv:1703.10593, section 4: constant for the first half
    "constant_linear": lambda done: min(1.0, 2 * (1 - done)),
    # Chen et al. 2016, arXiv:1606.00915, section 4.1.1
    "poly": lambda done: (1 - done) ** 0.9,
    **dict.fromkeys(("step", "inverse_root", "exponential", "warm_restarts", "one_cycle", "plateau")),
}


MOMENTUM_FALL = 0.1  # of one_cycle's momentum: from 0.95 to 0.85 with `momentum` 0.95, as torch has it


class Schedule(LambdaLR):
    """A schedule by the step alone, and by validation where it has a plateau: a run that goes on with more
    steps follows the new one at once.

    Args:
        momentum_change: step -> what is added to each group's momentum, or β₁, if it has one above 0.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        factor: Callable[[int], float],
        plateau: schedules.Plateau | None = None,
        momentum_change: Callable[[int], float] | None = None,
    ):
        self.plateau, self.momentum_change = plateau, momentum_change
        self.base_momentums = [
            group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
            for group in optimizer.param_groups
        ]
        super().__init__(optimizer, factor)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self._change_momentum()

    @property
    def needs_validation(self) -> bool:
        return self.plateau is not None

    def on_validation(self, metrics: Mapping[str, float], metric: str) -> None:
        """Follow `metric` of an evaluation; called by `fit`."""
        if self.plateau is not None:
            self.plateau.observe(metrics[metric], is_lower_better=is_lower_better(metric))
            self._follow()

    def state_dict(self) -> dict[str, Any]:
        state = {name: value for name, value in super().state_dict().items() if name not in NOT_STATE}
        return state | ({"plateau": self.plateau.state_dict()} if self.plateau is not None else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        saved = state.pop("plateau", None)
        super().load_state_dict(state)
        if self.plateau is not None and saved is not None:
            self.plateau.load_state_dict(saved)
        self._follow()

    def _follow(self) -> None:
        rates = [base * of(self.last_epoch) for base, of in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = rates
        self._change_momentum()

    def _change_momentum(self) -> None:
        if self.momentum_change is None:
            return
        change = self.momentum_change(self.last_epoch)
        for group, base in zip(self.optimizer.param_groups, self.base_momentums, strict=True):
            if base <= 0:
                continue
            if "betas" in group:
                group["betas"] = (max(0.0, base + change), *group["betas"][1:])
            else:
                group["momentum"] = max(0.0, base + change)


NOT_STATE = ("plateau", "momentum_change", "base_momentums")  # the first is saved as its own state
