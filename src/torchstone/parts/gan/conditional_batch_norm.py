"""Batch normalization of generators: scaled by a condition, and with statistics that suit what is sampled.

    y = (x − μ) / √(σ² + ε) · (1 + s(c)) + b(c)         s and b linear in the condition c

De Vries et al. 2017 (arXiv:1707.00683); Brock, Donahue and Simonyan 2018 (arXiv:1809.11096), appendices B
and C. μ and σ² are the batch's in training mode, else stored ones. Activations of latents from a truncated
distribution have other statistics, so that published generators store a table of them: row i of n is of the
truncation i / (n − 1), and between two rows statistics are interpolated.
"""

import contextlib
from collections.abc import Generator, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.parts.modes import eval_mode

MOMENTUM = 0.1  # of running statistics in training


class TableBatchNorm(nn.Module):
    """(x − μ) / √(σ² + ε), without parameters.

    Args:
        tables: rows of running statistics, each of a truncation; in training mode the nearest is updated.
    """

    running_mean: Float[Tensor, "tables channels"]
    running_var: Float[Tensor, "tables channels"]

    def __init__(self, channels: int, tables: int = 1, eps: float = 1e-5):
        super().__init__()
        self.tables, self.eps = tables, eps
        self.pass_weight: float | None = None  # of this pass in the statistics that are measured, if they are
        self.register_buffer("running_mean", torch.zeros(tables, channels))
        self.register_buffer("running_var", torch.ones(tables, channels))

    def statistics(self, truncation: float) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Stored mean and variance at a truncation from 0 to 1, linear between two rows."""
        if self.tables == 1:
            return self.running_mean[0], self.running_var[0]
        position = truncation * (self.tables - 1)
        row = min(int(position), self.tables - 2)
        mean, var = (
            torch.lerp(table[row], table[row + 1], position - row)
            for table in (self.running_mean, self.running_var)
        )
        return mean, var

    def forward(self, x: Float[Tensor, "b c h w"], truncation: float = 1.0) -> Float[Tensor, "b c h w"]:
        uses_batch = self.training or self.pass_weight is not None
        if uses_batch:
            row = round(truncation * (self.tables - 1))
            mean, var = self.running_mean[row], self.running_var[row]
        else:
            mean, var = self.statistics(truncation)
        momentum = MOMENTUM if self.pass_weight is None else self.pass_weight
        return F.batch_norm(x, mean, var, None, None, uses_batch, momentum, self.eps)


class ConditionalBatchNorm(nn.Module):
    """`TableBatchNorm`, then scale 1 + `scale`(condition) and shift `shift`(condition) of each channel.

    Args:
        scale, shift: from the condition (b, numbers) to (b, channels).
    """

    def __init__(self, channels: int, scale: nn.Module, shift: nn.Module, tables: int = 1, eps: float = 1e-5):
        super().__init__()
        self.norm = TableBatchNorm(channels, tables, eps)
        self.scale, self.shift = scale, shift

    def forward(
        self, x: Float[Tensor, "b c h w"], condition: Float[Tensor, "b numbers"], truncation: float = 1.0
    ) -> Float[Tensor, "b c h w"]:
        scale, shift = (each(condition)[:, :, None, None] for each in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(x, truncation), 1 + scale)


class AffineBatchNorm(nn.Module):
    """`TableBatchNorm`, then a learned scale and shift of each channel."""

    def __init__(self, channels: int, tables: int = 1, eps: float = 1e-5):
        super().__init__()
        self.norm = TableBatchNorm(channels, tables, eps)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"], truncation: float = 1.0) -> Float[Tensor, "b c h w"]:
        scale, shift = self.weight[:, None, None], self.bias[:, None, None]
        return torch.addcmul(shift, self.norm(x, truncation), scale)


@contextlib.contextmanager
def standing_statistics(model: nn.Module, batches: Iterable[tuple]) -> Generator[None]:
    """Within, the running statistics of `model` are averages over its forward passes on `batches`.

    Those of training lag behind the weights, and are not of averaged weights at all ("standing statistics",
    appendix C of Brock et al.). All else is in evaluation mode in these passes.

    Args:
        batches: inputs of `model`, all of one truncation.
    """
    norms = [module for module in model.modules() if isinstance(module, TableBatchNorm)]
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    try:
        try:
            with torch.no_grad(), eval_mode(model):
                for count, inputs in enumerate(batches, 1):
                    for norm in norms:
                        norm.pass_weight = 1 / count  # the average of all passes so far
                    model(*inputs)
        finally:
            for norm in norms:
                norm.pass_weight = None
        yield
    finally:
        for norm, (mean, var) in zip(norms, before, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
