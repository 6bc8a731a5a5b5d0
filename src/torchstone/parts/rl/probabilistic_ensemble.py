"""Ensembles of probabilistic networks: each member gives a Gaussian, and together they say what they know.

Chua, Calandra, McAllister and Levine 2018, arXiv:1805.12114 ("PETS"). A member's variance is the noise of the
world, which no amount of data removes (aleatoric); where members disagree data are missing (epistemic). All
members are computed by one batched product a layer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchstone.parts.rl.networks import EnsembleLinear

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -10.0, 0.5  # where the learned bounds begin, as in the authors' code


def init_truncated_normal_(weight: Float[Tensor, "members in_features out_features"]) -> Tensor:
    """Fill `weight` in place with normal numbers of deviation 1 / (2 √in_features), none of them farther than
    two deviations from 0."""
    std = 1 / (2 * math.sqrt(weight.shape[1]))
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def bound_log_variance(
    log_variance: Float[Tensor, "*batch out"],
    low: Float[Tensor, "*#batch out"],
    high: Float[Tensor, "*#batch out"],
) -> Float[Tensor, "*batch out"]:
    """log σ² softly within `low` and `high`, whose gradient stays alive beyond both (appendix A.1)."""
    log_variance = high - softplus(high - log_variance)
    return low + softplus(log_variance - low)


class Uncertainty(NamedTuple):
    """Variances of what an ensemble predicts. Their sum is the mixture's (law of total variance)."""

    aleatoric: Float[Tensor, "batch out"]  # mean of the members' variances
    epistemic: Float[Tensor, "batch out"]  # variance of the members' means


def decompose_variance(
    mean: Float[Tensor, "members batch out"], log_variance: Float[Tensor, "members batch out"]
) -> Uncertainty:
    """Var y = E_k σ_k² + Var_k μ_k, for members that are equally likely."""
    return Uncertainty(log_variance.exp().mean(0), mean.var(0, correction=0))


def gaussian_nll(
    mean: Float[Tensor, "*batch out"],
    log_variance: Float[Tensor, "*batch out"],
    target: Float[Tensor, "*batch out"],
) -> Float[Tensor, "*batch out"]:
    """(y - μ)² / σ² + log σ²: twice the negative log-likelihood, without its constant."""
    return (mean - target).square() * (-log_variance).exp() + log_variance


class ProbabilisticEnsemble(nn.Module):
    """`members` networks from an input to a Gaussian of the output: hidden layers with SiLU, mean and log σ².

    Inputs and outputs are standardized by `fit_scales`; `forward` and `sample` are given them as they are.
    The log-variances are softly bounded by two learned vectors, which the members share. `elites` are the
    members that predict best; `sample` asks no others.

    Args:
        hidden: widths of the hidden layers.
        num_elites: at most `members`.

    Raises:
        ValueError: more elites than members.
    """

    input_mean: Tensor
    input_std: Tensor
    output_mean: Tensor
    output_std: Tensor
    elites: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int],
        members: int = 7,
        num_elites: int = 5,
    ):
        super().__init__()
        if not 1 <= num_elites <= members:
            raise ValueError(f"{num_elites} elites of {members} members")
        self.members, self.out_features = members, out_features
        layers: list[nn.Module] = []
        width = in_features
        for each in hidden:
            layers += [EnsembleLinear(members, width, each), nn.SiLU()]
            width = each
        self.network = nn.Sequential(*layers, EnsembleLinear(members, width, 2 * out_features))
        for layer in self.linear_layers():
            init_truncated_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.min_log_variance = nn.Parameter(torch.full((out_features,), MIN_LOG_VARIANCE))
        self.max_log_variance = nn.Parameter(torch.full((out_features,), MAX_LOG_VARIANCE))
        self.register_buffer("input_mean", torch.zeros(in_features))
        self.register_buffer("input_std", torch.ones(in_features))
        self.register_buffer("output_mean", torch.zeros(out_features))
        self.register_buffer("output_std", torch.ones(out_features))
        self.register_buffer("elites", torch.arange(num_elites))

    def linear_layers(self) -> list[EnsembleLinear]:
        return [layer for layer in self.network if isinstance(layer, EnsembleLinear)]

    @torch.no_grad()
    def fit_scales(self, x: Float[Tensor, "rows in"], y: Float[Tensor, "rows out"]) -> None:
        """Standardize by these rows, those that are trained on. What never varies is not scaled."""
        for name, rows in (("input", x), ("output", y)):
            std = rows.std(0, correction=0)
            getattr(self, f"{name}_mean").copy_(rows.mean(0))
            getattr(self, f"{name}_std").copy_(torch.where(std < 1e-8, 1.0, std))

    def standardize_output(self, y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        return (y - self.output_mean) / self.output_std

    def predict_standardized(
        self, x: Float[Tensor, "#members batch in"]
    ) -> tuple[Float[Tensor, "members batch out"], Float[Tensor, "members batch out"]]:
        """Mean and log σ² of each member, of standardized outputs: what the loss is about."""
        return self._split(self.network((x - self.input_mean) / self.input_std))

    def _split(self, raw: Float[Tensor, "*batch twice"]) -> tuple[Tensor, Tensor]:
        mean, log_variance = raw.split(self.out_features, -1)
        return mean, bound_log_variance(log_variance, self.min_log_variance, self.max_log_variance)

    def forward(
        self, x: Float[Tensor, "#members batch in"]
    ) -> tuple[Float[Tensor, "members batch out"], Float[Tensor, "members batch out"]]:
        """Mean and log σ² of each member."""
        mean, log_variance = self.predict_standardized(x)
        return mean * self.output_std + self.output_mean, log_variance + 2 * self.output_std.log()

    @torch.no_grad()
    def squared_errors(
        self, x: Float[Tensor, "batch in"], y: Float[Tensor, "batch out"]
    ) -> Float[Tensor, " members"]:
        """Mean squared error of each member's mean, of standardized outputs."""
        mean, _ = self.predict_standardized(x[None])
        return (mean - self.standardize_output(y)).square().mean((1, 2))

    def set_elites(self, errors: Float[Tensor, " members"]) -> None:
        """The members with the smallest errors."""
        self.elites.copy_(errors.argsort()[: len(self.elites)])

    @torch.no_grad()
    def sample(
        self, x: Float[Tensor, "batch in"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch out"], Int64[Tensor, " batch"]]:
        """An output of each row, and the elite whose Gaussian it is drawn from: another one for each row.

        The rows are dealt out to the elites at random, in equal shares: each is asked for its own rows only.
        """
        count, elites = len(x), self.elites
        share = -(-count // len(elites))
        # where the shares are not whole the first rows are dealt once more, and that is not used
        order = torch.randperm(count, generator=generator).to(x.device)
        dealt = order.repeat(-(-share * len(elites) // max(count, 1)))[: share * len(elites)].view(-1, share)
        noise = torch.randn(len(elites), share, self.out_features, generator=generator).to(x.device)
        h = (x[dealt] - self.input_mean) / self.input_std
        for layer in self.network:
            if isinstance(layer, EnsembleLinear):
                h = torch.baddbmm(layer.bias[elites], h, layer.weight[elites])
            else:
                h = layer(h)
        mean, log_variance = self._split(h)
        y = (mean + (log_variance / 2).exp() * noise) * self.output_std + self.output_mean
        row_of = torch.empty(count, dtype=torch.int64, device=x.device)
        row_of[order] = torch.arange(count, device=x.device)
        return y.flatten(0, 1)[row_of], elites[row_of // share]

    @torch.no_grad()
    def uncertainty(self, x: Float[Tensor, "batch in"]) -> Uncertainty:
        """Aleatoric and epistemic variance of the elites' prediction."""
        mean, log_variance = self(x[None])
        return decompose_variance(mean[self.elites], log_variance[self.elites])


def split_holdout(
    rows: int, ratio: float, largest: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " holdout"]]:
    """Two sets of rows that share none: to train on, and to validate with. The second are `ratio` of all, at
    least 1 and at most `largest`."""
    order = torch.randperm(rows, generator=generator)
    count = min(max(int(rows * ratio), 1), largest)
    return order[count:], order[:count]


def bootstrap_indices(rows: int, members: int, generator: torch.Generator) -> Int64[Tensor, "members rows"]:
    """For each member as many rows as there are, drawn with replacement (Efron 1979). They are drawn once for
    a whole training: drawn anew in each batch, all members would see the same distribution."""
    return torch.randint(rows, (members, rows), generator=generator)


def shuffle_rows(
    index: Int64[Tensor, "members rows"], generator: torch.Generator
) -> Int64[Tensor, "members rows"]:
    """Each member's rows in another order; they stay the same rows."""
    order = torch.rand(index.shape, generator=generator).argsort(1)
    return index.gather(1, order)


class BestMembers:
    """Early stopping by validation: the weights of each member where its error was least, and how long ago
    any member improved.

    Args:
        tolerance: an improvement counts from this share of the best error on.
    """

    def __init__(self, ensemble: ProbabilisticEnsemble, tolerance: float = 0.01):
        self.ensemble, self.tolerance = ensemble, tolerance
        self.errors = torch.full((ensemble.members,), math.inf)
        self.weights = [p.detach().clone() for p in self._stacked()]
        self.epochs_since = 0

    def _stacked(self) -> list[nn.Parameter]:
        """The parameters whose first dimension is the members."""
        return [p for layer in self.ensemble.linear_layers() for p in (layer.weight, layer.bias)]

    @torch.no_grad()
    def record(self, errors: Float[Tensor, " members"]) -> Bool[Tensor, " members"]:
        """Note the errors after an epoch; which members improved."""
        errors = errors.cpu()
        improved = errors < (1 - self.tolerance) * self.errors
        self.errors = torch.where(improved, errors, self.errors)
        for best, p in zip(self.weights, self._stacked(), strict=True):
            mask = improved.to(p.device)
            best[mask] = p[mask]
        self.epochs_since = 0 if improved.any() else self.epochs_since + 1
        return improved

    @torch.no_grad()
    def restore(self) -> Float[Tensor, " members"]:
        """Give each member its best weights; the errors that it had with them."""
        for best, p in zip(self.weights, self._stacked(), strict=True):
            p.copy_(best)
        return self.errors
