"""`GradientUpdate`: one optimizer step from a loss, with accumulation, clipping, precision and EMA."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchstone.engine import parallel
from torchstone.engine.device import autocast, resolve_precision
from torchstone.errors import BadInput, NotFinite

Loss = Callable[[Any], Tensor | Mapping[str, Tensor]]


@dataclass(frozen=True)
class OptimConfig:
    """How a loss is minimized: the fields that every recipe with an optimizer shares, as `recipe.optim`."""

    optimizer: Literal[
        "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion", "muon"
    ] = "adam"  # optimizer; sgd is with Nesterov's momentum unless momentum is 0
    optimizer_implementation: Literal["torch", "reference"] = "torch"  # torch's, or as its equations
    lr: float = 1e-3  # peak learning rate
    momentum: float = 0.9  # momentum of SGD, RMSprop and Muon
    beta1: float = 0.9  # Adam β1 (first-moment decay), Lion's too
    beta2: float = 0.999  # Adam β2 (second-moment decay), Lion's too
    eps: float = 1e-8  # Adam ε, added to the denominator
    weight_decay: float = 0.0  # weight decay: L2 penalty of the loss, decoupled in adamw, lion and muon
    l1_decay: float = 0.0  # L1 penalty of the weights that weight decay is for
    lr_schedule: Literal[
        "constant",
        "cosine",
        "linear",
        "constant_linear",
        "poly",
        "step",
        "inverse_root",
        "exponential",
        "warm_restarts",
        "one_cycle",
        "plateau",
    ] = "cosine"  # learning-rate schedule after warm-up
    lr_period: int | None = None  # steps between falls of step, exponential; of warm_restarts' first cycle
    lr_period_mult: int = 2  # warm_restarts: how much longer each cycle is than the one before
    lr_decay: float = 0.1  # factor of a fall of step, exponential and plateau
    lr_patience: int = 3  # plateau: evaluations without a better one before the rate falls
    warmup_ratio: float = 0.0  # fraction of steps of linear warm-up
    min_lr_ratio: float = 0.0  # final learning rate as a fraction of the peak
    max_grad_norm: float | None = None  # gradient clipping: largest norm, none for no limit
    max_grad_value: float | None = None  # gradient clipping: largest value of an element, none for no limit
    grad_noise: float = 0.0  # gradient noise: η of its variance η/(1+t)^0.55, 0 for none
    grad_accum_steps: int = 1  # gradient accumulation: micro-batches per update
    ema_decay: float = 0.0  # EMA decay of the weights that are evaluated, 0 for no average
    swa_start: float | None = None  # stochastic weight averaging: from which share of the steps on
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"  # mixed precision of the forward pass
    compile: bool = False  # torch.compile the loss


class GradientUpdate:
    """One optimizer step on a loss: `metrics = GradientUpdate(loss, optimizer)(batch)`.

    `loss(batch)` returns a scalar, or a mapping with `loss` and further scalars to be logged. It is
    a mean over the batch; where it is a mean over something else (tokens that are not padding), the
    mapping says over how many in `weight`, and micro-batches and processes count in proportion.

    Only the optimizer's own parameters receive gradients, so two networks never fill each other's.

    Args:
        lr_scheduler: a torch learning-rate scheduler, stepped once per update.
        grad_accum_steps: split the batch along its first dimension into so many micro-batches; the
            gradient is that of the whole batch, however uneven the last one is.
        max_grad_norm: largest norm of the whole gradient; the norm before clipping is logged.
        max_grad_value: largest absolute value of an element of the gradient, before the norm is clipped.
        l1_decay: λ of the penalty λ·Σ|w| of matrices and filters, whose gradient is added; `loss` is
            logged without it.
        grad_noise: η of the Gaussian noise of variance η/(1 + t)^0.55 that is added to the clipped gradient
            of update t = 0, 1, … (Neelakantan et al. 2015, arXiv:1511.06807, equation 1). Then put the
            update into the run's `state`: it holds t.
        precision: `fp32`, `bf16`, or `fp16` (then put the update into the run's `state`: it holds
            the loss scale); `auto` is bf16 where the device has it, else fp32.
        ema: `(average, model)`: the average is updated from the model after each step.
        replica: what `parallel.replicate` returned, if the loss calls it.
        compile: compile the loss with `torch.compile`.

    Raises:
        NotFinite: a loss is NaN or infinite. On the CPU before the step is taken; on other devices
            the engine finds it when it next reads the metrics, since looking costs a synchronization.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        grad_accum_steps: int = 1,
        max_grad_norm: float | None = None,
        max_grad_value: float | None = None,
        l1_decay: float = 0.0,
        grad_noise: float = 0.0,
        precision: str = "fp32",
        ema: tuple[AveragedModel, nn.Module] | None = None,
        replica: nn.Module | None = None,
        compile: bool = False,
    ):
        if grad_accum_steps < 1:
            raise BadInput(f"grad_accum_steps must be at least 1, not {grad_accum_steps}")
        self.loss = torch.compile(loss) if compile else loss
        self.optimizer, self.lr_scheduler, self.ema = optimizer, lr_scheduler, ema
        self.grad_accum_steps, self.max_grad_norm = grad_accum_steps, max_grad_norm
        self.max_grad_value, self.l1_decay, self.grad_noise = max_grad_value, l1_decay, grad_noise
        self.changes_gradient = bool(max_grad_norm or max_grad_value or l1_decay or grad_noise)
        self.count = 0  # of updates, for the noise
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        precision = resolve_precision(precision, self.device)
        self.autocast = autocast(precision, self.device)
        # losses are weighted by rows on the way back, so the scale starts lower than torch's 2¹⁶
        self.scaler = None
        if precision == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**10)
        self.replica = replica if isinstance(replica, DistributedDataParallel) else None
        self.is_plain = grad_accum_steps == 1 and self.replica is None and precision == "fp32"

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        metrics = self._single_batch(batch) if self.is_plain else self._micro_batches(batch)
        if self.changes_gradient:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)
            metrics |= self._change_gradient()
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        if self.ema is not None:
            average, model = self.ema
            average.update_parameters(model)
        return metrics

    @torch.no_grad()
    def _change_gradient(self) -> dict[str, Tensor]:
        """L1 penalty, clipping, noise, in this order; the norm that clipping finds."""
        metrics = {}
        if self.l1_decay:
            for p in self.parameters:
                if p.ndim > 1 and p.grad is not None:
                    p.grad.add_(p.sign(), alpha=self.l1_decay)
        if self.max_grad_value is not None:
            clip_grad_value_(self.parameters, self.max_grad_value)
        if self.max_grad_norm is not None:
            metrics["gradient_norm"] = clip_grad_norm_(self.parameters, self.max_grad_norm)
        if self.grad_noise:
            deviation = math.sqrt(self.grad_noise / (1 + self.count) ** 0.55)
            for p in self.parameters:
                if p.grad is not None:
                    p.grad.add_(torch.randn_like(p.grad), alpha=deviation)
            self.count += 1
        return metrics

    def _single_batch(self, batch: Any) -> dict[str, Tensor]:
        """The common case: one batch, one process, full precision."""
        result = self.loss(batch)
        metrics = {"loss": result} if isinstance(result, Tensor) else dict(result)
        metrics.pop("weight", None)
        loss = metrics["loss"]
        loss.backward(inputs=self.parameters)
        self._check(loss)
        return {name: value.detach() for name, value in metrics.items()}

    def _micro_batches(self, batch: Any) -> dict[str, Tensor]:
        """Σ w·∇L / Σ w over micro-batches and processes, w being what each mean is over."""
        micros = _split(batch, self.grad_accum_steps)
        sums: dict[str, Tensor] = {}
        weights: Tensor | float = 0.0
        for index, micro in enumerate(micros):
            if self.replica is not None:  # what DDP.no_sync() sets
                self.replica.require_backward_grad_sync = index == len(micros) - 1
            with self.autocast:
                result = self.loss(micro)
            metrics = {"loss": result} if isinstance(result, Tensor) else dict(result)
            weight = metrics.pop("weight", _rows(micro))
            total = metrics["loss"] * weight
            (self.scaler.scale(total) if self.scaler else total).backward(inputs=self.parameters)
            self._check(metrics["loss"])
            weights = weights + weight
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0) + value.detach() * weight
        everyone = weights
        if self.replica is not None:  # DDP has already divided by the number of processes
            everyone = torch.as_tensor(weights, dtype=self.parameters[0].dtype, device=self.device)
            torch.distributed.all_reduce(everyone := everyone.clone())
            everyone = everyone / parallel.world_size()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_div_(gradients, everyone)
        return {name: value / weights for name, value in sums.items()}

    def _check(self, loss: Tensor) -> None:
        # free on the CPU, a synchronisation elsewhere
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NotFinite(f"the loss is {loss.item()}; {self.diagnosis()}")

    def diagnosis(self) -> str:
        """Learning rate and the gradient norms of this moment, largest first."""
        rates = {f"{group['lr']:.3g}" for group in self.optimizer.param_groups if "lr" in group}
        norms = [float(p.grad.norm()) for p in self.parameters if p.grad is not None]
        bad = sum(not math.isfinite(n) for n in norms)
        finite = sorted((n for n in norms if math.isfinite(n)), reverse=True)[:3]
        shown = ", ".join(f"{n:.3g}" for n in finite) or "none"
        return (
            f"learning rate {', '.join(sorted(rates))}; gradient norms not finite in {bad} of "
            f"{len(norms)} parameters, largest finite: {shown}"
        )

    def state_dict(self) -> dict:
        """The loss scale of `fp16`, and how many updates have had noise; nothing else needs keeping."""
        state: dict[str, Any] = {"scaler": self.scaler.state_dict()} if self.scaler else {}
        return state | ({"count": self.count} if self.grad_noise else {})

    def load_state_dict(self, state: dict) -> None:
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        self.count = state.get("count", 0)


def _split(batch: Any, parts: int) -> list:
    """`batch` cut along its tensors' first dimension; nested tuples and dictionaries keep their form."""
    if parts == 1:
        return [batch]
    leaves, form = tree_flatten(batch)
    columns = [leaf.chunk(parts) if isinstance(leaf, Tensor) else None for leaf in leaves]
    count = max(len(c) for c in columns if c is not None)
    return [
        tree_unflatten([leaf if c is None else c[i] for leaf, c in zip(leaves, columns, strict=True)], form)
        for i in range(count)
    ]


def _rows(batch: Any) -> int:
    return next(leaf.shape[0] for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor))
