"""`TracedGradient`: the gradient of a loss of small networks, traced once and then run as NumPy calls."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchstone.parts.numpy_graph import as_tensor, checked_trace


class TracedGradient:
    """The gradient of a loss and its metrics, traced once for each form of a batch.

    A form is the shapes and types of a batch's tensors. At the first batch of a form the gradient is compared
    with autograd's, and what cannot be traced is left to autograd. A resumed run traces what it did before,
    so it has the same bits.

    Args:
        loss: batch -> metrics with `loss`, scalars, and a tensor or None; of the batch's tensors alone, and
            of weights. A batch is tuples of tensors, None, and tuples.
        parameters: what to differentiate by.
        gradients: where to put the gradient of each, on the CPU.
    """

    def __init__(
        self, loss: Callable[[Any], tuple[dict, Any]], parameters: Sequence[Tensor], gradients: list[Tensor]
    ):
        self.loss, self.parameters, self.gradients = loss, parameters, gradients
        self.arrays = [gradient.numpy() for gradient in gradients]
        self.programs: dict[tuple, Any] = {}  # of each form; None where it is left to autograd
        self.names: list[str] = []  # of the metrics

    def __call__(self, batch: Any) -> tuple[dict[str, Tensor], Any]:
        items = list(_leaves(batch))
        form = tuple(None if item is None else (item.shape, item.dtype) for item in items)
        leaves = [item for item in items if item is not None]
        if form not in self.programs:
            self.programs[form] = self._trace(batch, leaves)
        program = self.programs[form]
        if program is None:
            gradients, numbers = self._compute(batch)
            torch._foreach_copy_(self.gradients, list(gradients))
            return self._named(numbers)
        results = program(*[leaf.numpy() for leaf in leaves])
        for array, result in zip(self.arrays, results, strict=False):
            array[...] = result
        return self._named([as_tensor(result) for result in results[len(self.arrays) :]])

    def _named(self, numbers: Sequence[Tensor]) -> tuple[dict[str, Tensor], Any]:
        metrics = dict(zip(self.names, numbers, strict=False))
        return metrics, numbers[len(metrics)] if len(numbers) > len(metrics) else None

    def _compute(self, batch: Any) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Gradients, and the metrics with what comes beside them."""
        metrics, aux = self.loss(batch)
        self.names = list(metrics)
        found = torch.autograd.grad(
            metrics["loss"], self.parameters, allow_unused=True, materialize_grads=True
        )
        return found, [value.detach() for value in (*metrics.values(), *([] if aux is None else [aux]))]

    def _trace(self, batch: Any, leaves: list[Tensor]) -> Any:
        def function(*tensors: Tensor) -> list[Tensor]:
            found, numbers = self._compute(_rebuild(batch, iter(tensors)))
            return [*found, *numbers]

        return checked_trace(function, leaves)


def _leaves(batch: Any) -> Any:
    if batch is None or isinstance(batch, Tensor):
        yield batch
    else:
        for item in batch:
            yield from _leaves(item)


def _rebuild(batch: Any, leaves: Any) -> Any:
    if isinstance(batch, Tensor):
        return next(leaves)
    if batch is None:
        return None
    items = [_rebuild(item, leaves) for item in batch]
    return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
