"""Points: rows of numbers without labels, from known shapes or a table, and endless batches of them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.tabular.dataset import is_table, load_table
from torchstone.errors import BadInput, did_you_mean

COUNTS = {"train": 10_000, "val": 2_500, "test": 5_000}
SEED = 0
# how each is drawn by scikit-learn, and which of its columns are the plane
DRAWN = {
    "moons": ("make_moons", {"noise": 0.1}, (0, 1)),
    "circles": ("make_circles", {"noise": 0.06, "factor": 0.5}, (0, 1)),
    "blobs": ("make_blobs", {"centers": 5, "cluster_std": 0.8, "center_box": (-6, 6)}, (0, 1)),
    "swiss_roll": ("make_swiss_roll", {"noise": 0.6}, (0, 2)),
    "s_curve": ("make_s_curve", {"noise": 0.1}, (0, 2)),
}


@dataclass(frozen=True, eq=False)
class Points:
    """One source in three splits; `mean` and `std` of each number are of the train split."""

    name: str
    features: tuple[str, ...]
    train: Float[Tensor, "count numbers"]
    val: Float[Tensor, "some numbers"]
    test: Float[Tensor, "others numbers"]
    mean: list[float]
    std: list[float]
    description: str


def is_points(spec: str | Path) -> bool:
    """Whether `spec` means points, not pictures."""
    return str(spec) in DRAWN or is_table(spec)


def load_points(spec: str | Path, device: torch.device | str = "cpu") -> Points:
    """`moons`, `circles`, `blobs`, `swiss_roll` or `s_curve`, drawn by scikit-learn, always alike; or the
    features of a table (`tables.load_table`), whose labels are left out.

    Raises:
        BadInput: none of these; a table of one feature, or with one that never changes.
    """
    if str(spec) in DRAWN:
        return _placed(_drawn(str(spec)), device)
    if not is_table(spec):
        raise BadInput(f"no points {str(spec)!r}: {did_you_mean(str(spec), DRAWN)}, or a table")
    table = load_table(spec)
    splits = {name: table.rows_of(name)[0].float() for name in COUNTS}
    if len(table.features) < 2:
        raise BadInput(f"{table.name} has one feature: a coupling needs two numbers or more")
    return _placed(
        _measured(table.name, table.features, splits, f"{table.description}, labels unused"), device
    )


def _drawn(name: str) -> Points:
    from sklearn import datasets

    maker, settings, columns = DRAWN[name]
    rows, _ = getattr(datasets, maker)(sum(COUNTS.values()), random_state=SEED, **settings)
    mixed = np.random.default_rng(SEED).permutation(len(rows))  # whatever order they come in
    points = torch.from_numpy(rows[mixed][:, columns]).float()
    splits = dict(zip(COUNTS, points.split(list(COUNTS.values())), strict=True))
    note = f"{name}: {len(points):,} points in the plane, drawn by scikit-learn"
    return _measured(name, ("x", "y"), splits, note)


def _measured(name: str, features: tuple[str, ...], splits: dict[str, Tensor], note: str) -> Points:
    std = splits["train"].std(0)
    for feature, spread in zip(features, std.tolist(), strict=True):
        if not spread > 0:
            raise BadInput(f"{name}: {feature!r} is always the same: it has no density; leave it out")
    mean = splits["train"].mean(0).tolist()
    return Points(name, features, **splits, mean=mean, std=std.tolist(), description=note)


def _placed(points: Points, device: torch.device | str) -> Points:
    moved = {name: getattr(points, name).to(device) for name in COUNTS}
    return dataclasses.replace(points, **moved)


class Draws:
    """Endless batches of `points`: a permutation an epoch, joined end to end; its state is the position.

    Process `rank` of `world` takes its share of each batch.
    """

    def __init__(
        self,
        points: Float[Tensor, "count numbers"],
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        _, share = share_of_batch(batch, rank, world_size)
        self.points, self.batch, self.position = points, batch, 0
        self.order = EpochSampler(len(points), [(rank * share, share)], seed, points.device)

    def __iter__(self) -> "Draws":
        return self

    def __next__(self) -> Float[Tensor, "share numbers"]:
        index = self.order.index(self.position)
        self.position += self.batch
        return self.points.index_select(0, index)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
