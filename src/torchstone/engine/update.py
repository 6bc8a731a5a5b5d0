"""`descend`: from a loss to an update. One gradient step, with what a step may need around it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchstone.engine import parallel
from torchstone.engine.device import autocast, settled
from torchstone.errors import BadInput, NotFinite

Loss = Callable[[Any], Tensor | Mapping[str, Tensor]]


class descend:
    """An update that follows a loss downhill: `metrics = descend(loss, optimiser)(batch)`.

    `loss(batch)` returns a scalar, or a mapping with `loss` and further scalars to be logged. It is
    a mean over the batch; where it is a mean over something else (tokens that are not padding), the
    mapping says over how many in `weight`, and micro-batches and processes count in proportion.

    Only the optimiser's own parameters receive gradients, so two players never fill each other's.

    Args:
        schedule: a torch learning-rate scheduler, stepped once an update.
        accumulate: split the batch along its first dimension into so many micro-batches; the
            gradient is that of the whole batch, however uneven the last one is.
        clip: largest norm of the whole gradient; the norm before clipping is logged.
        precision: `fp32`, `bf16`, or `fp16` (then put the update into the run's `state`: it holds
            the loss scale); `auto` is bf16 where the device has it, else fp32.
        ema: `(average, model)`: the average takes in the model after each step.
        replica: what `parallel.replicate` returned, if the loss calls it.
        compile: compile the loss with `torch.compile`.

    Raises:
        NotFinite: a loss is NaN or infinite. On the CPU before the step is taken; on other devices
            the engine finds it when it next reads the metrics, since to look costs a synchronisation.
    """

    def __init__(
        self,
        loss: Loss,
        optimiser: torch.optim.Optimizer,
        *,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        precision: str = "fp32",
        ema: tuple[AveragedModel, nn.Module] | None = None,
        replica: nn.Module | None = None,
        compile: bool = False,
    ):
        if accumulate < 1:
            raise BadInput(f"accumulate must be at least 1, not {accumulate}")
        self.loss = torch.compile(loss) if compile else loss
        self.optimiser, self.schedule, self.ema = optimiser, schedule, ema
        self.accumulate, self.clip = accumulate, clip
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        precision = settled(precision, self.device)
        self.autocast = autocast(precision, self.device)
        # losses are weighted by rows on the way back, so the scale starts lower than torch's 2¹⁶
        self.scaler = None
        if precision == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**10)
        self.replica = replica if isinstance(replica, DistributedDataParallel) else None
        self.plain = accumulate == 1 and self.replica is None and precision == "fp32"

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        self.optimiser.zero_grad(set_to_none=True)
        metrics = self._whole(batch) if self.plain else self._parts(batch)
        if self.clip is not None:
            if self.scaler:
                self.scaler.unscale_(self.optimiser)
            metrics["gradient_norm"] = clip_grad_norm_(self.parameters, self.clip)
        if self.scaler:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            self.optimiser.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.ema is not None:
            average, model = self.ema
            average.update_parameters(model)
        return metrics

    def _whole(self, batch: Any) -> dict[str, Tensor]:
        """The common case: one batch, one process, full precision."""
        result = self.loss(batch)
        metrics = {"loss": result} if isinstance(result, Tensor) else dict(result)
        metrics.pop("weight", None)
        loss = metrics["loss"]
        loss.backward(inputs=self.parameters)
        self._check(loss)
        return {name: value.detach() for name, value in metrics.items()}

    def _parts(self, batch: Any) -> dict[str, Tensor]:
        """Σ w·∇L / Σ w over micro-batches and processes, w being what each mean is over."""
        micros = _split(batch, self.accumulate)
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
            everyone = everyone / parallel.world()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_div_(gradients, everyone)
        return {name: value / weights for name, value in sums.items()}

    def _check(self, loss: Tensor) -> None:
        # free on the CPU, a synchronisation elsewhere
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NotFinite(f"the loss is {loss.item()}; {self.diagnosis()}")

    def diagnosis(self) -> str:
        """Learning rate and the gradient norms of this moment, largest first."""
        rates = {f"{group['lr']:.3g}" for group in self.optimiser.param_groups if "lr" in group}
        norms = [float(p.grad.norm()) for p in self.parameters if p.grad is not None]
        bad = sum(not math.isfinite(n) for n in norms)
        finite = sorted((n for n in norms if math.isfinite(n)), reverse=True)[:3]
        said = ", ".join(f"{n:.3g}" for n in finite) or "none"
        return (
            f"learning rate {', '.join(sorted(rates))}; gradient norms not finite in {bad} of "
            f"{len(norms)} parameters, largest finite: {said}"
        )

    def state_dict(self) -> dict:
        """The loss scale of `fp16`; nothing else needs keeping."""
        return {"scaler": self.scaler.state_dict()} if self.scaler else {}

    def load_state_dict(self, state: dict) -> None:
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])


def _split(batch: Any, parts: int) -> list:
    """`batch` cut along its tensors' first dimension; nested tuples and dictionaries keep their form."""
    if parts == 1:
        return [batch]
    leaves, form = tree_flatten(batch)
    columns = [leaf.chunk(parts) if isinstance(leaf, Tensor) else None for leaf in leaves]
    count = max(len(c) for c in columns if c is not None)
    return [
        tree_unflatten(
            [leaf if c is None else c[i] for leaf, c in zip(leaves, columns, strict=True)],
            form,
        )
        for i in range(count)
    ]


def _rows(batch: Any) -> int:
    return next(leaf.shape[0] for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor))
