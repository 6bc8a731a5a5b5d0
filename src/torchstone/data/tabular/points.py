"""Unlabeled points: 2-D toy distributions or the features of a table, and endless batches of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.identity import identified
from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.tabular.dataset import (
    SHARES,
    SPLIT_SEED,
    Table,
    is_table,
    load_table,
    to_numbers,
    without_row_numbers,
)
from torchstone.data.tabular.files import LABELS, read_columns, to_number
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import SKIP, refuse_skip

SPLIT_SIZES = {"train": 10_000, "val": 2_500, "test": 5_000}
SEED = 0
MIN_ROWS = 10  # of a table without labels
# scikit-learn generator, its arguments, and the two columns that are used
SHAPES = {
    "moons": ("make_moons", {"noise": 0.1}, (0, 1)),
    "circles": ("make_circles", {"noise": 0.06, "factor": 0.5}, (0, 1)),
    "blobs": ("make_blobs", {"centers": 5, "cluster_std": 0.8, "center_box": (-6, 6)}, (0, 1)),
    "swiss_roll": ("make_swiss_roll", {"noise": 0.6}, (0, 2)),
    "s_curve": ("make_s_curve", {"noise": 0.1}, (0, 2)),
}


@dataclass(frozen=True, eq=False)
class Points:
    """One data set in three splits; `mean` and `std` of each feature are those of the train split."""

    name: str
    features: tuple[str, ...]
    train: Float[Tensor, "count numbers"]
    val: Float[Tensor, "some numbers"]
    test: Float[Tensor, "others numbers"]
    mean: list[float]
    std: list[float]
    description: str


def is_points(spec: str | Path) -> bool:
    """Whether `spec` names points, not images."""
    return str(spec).removeprefix(SKIP) in SHAPES or is_table(spec)


@identified(unit="points")
def load_points(spec: str | Path, device: torch.device | str = "cpu", features: Sequence[str] = ()) -> Points:
    """`moons`, `circles`, `blobs`, `swiss_roll` or `s_curve`, sampled by scikit-learn with a fixed seed.

    Or a table of numbers, all of its columns but labels: a column that is named so, or a last one of words.

    Args:
        features: those of a model, in its order; by default all.

    Raises:
        BadInput: none of these; a table with one feature, or with a constant one.
    """
    refuse_skip(spec)
    if str(spec) in SHAPES:
        return _to_device(_generate(str(spec)), device)
    if not is_table(spec):
        raise BadInput(f"no points {str(spec)!r}: {did_you_mean(str(spec), SHAPES)}, or a table")
    table = load_unlabeled(spec)
    if features:
        table = table.select(features)
    splits = {name: table.rows_of(name)[0].float() for name in SPLIT_SIZES}
    if len(table.features) < 2:
        raise BadInput(f"{table.name} has one feature: a coupling needs two features or more")
    return _to_device(_with_stats(table.name, table.features, splits, table.description), device)


def load_unlabeled(spec: str | Path) -> Table:
    """The table without its labels, if it has any; of a class where `TABLE:CLASS` names one.

    A column is a label if it is named so, or if it is the last one and holds words: a last column of
    numbers is a feature like the others, since density estimation predicts none of them.
    """
    path = Path(str(spec)).expanduser()
    if not path.is_file():
        table = load_table(spec)
        return dataclasses.replace(table, description=f"{table.description}, labels unused")
    columns = read_columns(path)
    names, cells = columns.named(), columns.cells
    labels = [i for i, name in enumerate(names) if name.lower() in LABELS]
    if not labels and not any(to_number(cell) is not None for cell in cells[-1]):
        labels = [len(names) - 1]
    if labels:
        table = load_table(spec)
        description = f"{table.description}, the label {names[labels[0]]!r} unused"
        return dataclasses.replace(table, description=description)
    names, cells, notes = without_row_numbers(names, cells)
    x = to_numbers(path, names, cells)
    count = len(x)
    if count < MIN_ROWS:
        raise BadInput(f"{path} has {count} rows: give at least {MIN_ROWS}, better hundreds")
    order = np.random.RandomState(SPLIT_SEED).permutation(count)
    first, second = round(SHARES[0] * count), round((SHARES[0] + SHARES[1]) * count)
    splits = {
        name: torch.from_numpy(np.sort(rows))
        for name, rows in zip(SPLIT_SIZES, np.split(order, [first, second]), strict=True)
    }
    sizes = " / ".join(f"{len(index)} {split}" for split, index in splits.items())
    description = (
        f"{', '.join((path.name, *columns.notes, *notes))}; {len(names)} features, no label, {sizes}"
    )
    y = torch.zeros(count, dtype=torch.int64)
    return Table(str(path), names, ("row",), torch.from_numpy(x), y, splits, description)


def _generate(name: str) -> Points:
    from sklearn import datasets

    generator, kwargs, columns = SHAPES[name]
    rows, _ = getattr(datasets, generator)(sum(SPLIT_SIZES.values()), random_state=SEED, **kwargs)
    order = np.random.default_rng(SEED).permutation(len(rows))
    points = torch.from_numpy(rows[order][:, columns]).float()
    splits = dict(zip(SPLIT_SIZES, points.split(list(SPLIT_SIZES.values())), strict=True))
    description = f"{name}: {len(points):,} points in the plane, drawn by scikit-learn"
    return _with_stats(name, ("x", "y"), splits, description)


def _with_stats(name: str, features: tuple[str, ...], splits: dict[str, Tensor], description: str) -> Points:
    std = splits["train"].std(0)
    for feature, deviation in zip(features, std.tolist(), strict=True):
        if not deviation > 0:
            raise BadInput(f"{name}: {feature!r} is always the same: it has no density; leave it out")
    mean = splits["train"].mean(0).tolist()
    return Points(name, features, **splits, mean=mean, std=std.tolist(), description=description)


def _to_device(points: Points, device: torch.device | str) -> Points:
    splits = {name: getattr(points, name).to(device) for name in SPLIT_SIZES}
    return dataclasses.replace(points, **splits)


class PointBatches:
    """Endless batches of `points`: a permutation an epoch, joined end to end; its state is the position.

    Process `rank` of `world_size` takes its share of each batch.
    """

    def __init__(
        self,
        points: Float[Tensor, "count numbers"],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        self.points, self.batch_size, self.position = points, batch_size, 0
        self.sampler = EpochSampler(len(points), [(first, share)], seed, points.device)

    def __iter__(self) -> "PointBatches":
        return self

    def __next__(self) -> Float[Tensor, "share numbers"]:
        index = self.sampler.index(self.position)
        self.position += self.batch_size
        return self.points.index_select(0, index)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
