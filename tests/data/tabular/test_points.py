"""Points: reproducible, in three splits, and batches that can be resumed."""

import pytest
import torch

from torchstone.data.tabular.points import SHAPES, SPLIT_SIZES, PointBatches, is_points, load_points
from torchstone.errors import BadInput


@pytest.mark.parametrize("name", SHAPES)
def test_load_points_is_reproducible_without_split_overlap(name):
    points, again = load_points(name), load_points(name)
    splits = [points.train, points.val, points.test]
    assert [len(split) for split in splits] == list(SPLIT_SIZES.values())
    assert torch.equal(points.test, again.test)
    rows = {tuple(row) for split in splits for row in split.tolist()}
    assert len(rows) == sum(SPLIT_SIZES.values())
    difference = (points.train.mean(0) - points.test.mean(0)).abs() / points.train.std(0)
    print(f"{name}: {points.description}; train and test {difference.tolist()} deviations apart")
    assert float(difference.max()) < 0.06, "splits of one and the same density"
    assert points.mean == points.train.mean(0).tolist()
    assert points.std == points.train.std(0).tolist()


def test_load_points_two_moons_geometry():
    """Half circles of radius 1 around (0, 0) and (1, ½), one turned over."""
    rows = load_points("moons").train
    upper = (rows.norm(dim=1) - 1).abs()
    lower = ((rows - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    off = torch.minimum(upper, lower)
    print(f"off the moons by {off.mean():.3f} on average")
    assert float(off.mean()) == pytest.approx(0.1 * (2 / torch.pi) ** 0.5, abs=0.01)


def test_load_points_from_table_drops_label(tmp_path):
    file = tmp_path / "sizes.csv"
    lines = [f"{i},{i * i % 17},{'ab'[i % 2]}" for i in range(60)]
    file.write_text("\n".join(["length,width,kind", *lines]) + "\n")
    points = load_points(str(file))
    assert points.features == ("length", "width")
    assert sum(len(getattr(points, split)) for split in SPLIT_SIZES) == 60
    assert points.train.dtype == torch.float32


def test_load_points_rejects_constant_and_single_features(tmp_path):
    file = tmp_path / "flat.csv"
    file.write_text("\n".join(["a,b,kind", *(f"{i},7,{'xy'[i % 2]}" for i in range(40))]) + "\n")
    with pytest.raises(BadInput, match="'b' is always the same"):
        load_points(str(file))
    file.write_text("\n".join(["a,kind", *(f"{i},{'xy'[i % 2]}" for i in range(40))]) + "\n")
    with pytest.raises(BadInput, match="needs two features"):
        load_points(str(file))
    with pytest.raises(BadInput, match="did you mean moons"):
        load_points("moon")
    assert not is_points("digits")
    assert is_points("circles")


def test_point_batches_are_permutations_and_resume():
    points = torch.arange(20.0).view(10, 2)
    batches = PointBatches(points, 5, seed=1)
    epoch = torch.cat([next(batches), next(batches)])
    assert sorted(epoch[:, 0].tolist()) == points[:, 0].tolist()
    assert not torch.equal(epoch, points)
    state, expected = batches.state_dict(), next(batches)
    other = PointBatches(points, 5, seed=1)
    other.load_state_dict(state)
    assert torch.equal(next(other), expected)


def test_point_batches_shared_by_two_processes():
    points = torch.arange(24.0).view(12, 2)
    one, parts = (
        PointBatches(points, 4, seed=2),
        [PointBatches(points, 4, seed=2, rank=r, world_size=2) for r in (0, 1)],
    )
    for _ in range(5):
        assert torch.equal(torch.cat([next(part) for part in parts]), next(one))
    with pytest.raises(BadInput, match="cannot be shared"):
        PointBatches(points, 3, seed=0, world_size=2)
