"""Points: the same every time, in three splits, and batches that can be gone on from."""

import pytest
import torch

from torchstone.data.tabular.points import SHAPES, SPLIT_SIZES, PointBatches, is_points, load_points
from torchstone.errors import BadInput


@pytest.mark.parametrize("name", SHAPES)
def test_known_shapes_are_drawn_alike_and_split_without_overlap(name):
    points, again = load_points(name), load_points(name)
    splits = [points.train, points.val, points.test]
    assert [len(split) for split in splits] == list(SPLIT_SIZES.values())
    assert torch.equal(points.test, again.test)
    rows = {tuple(row) for split in splits for row in split.tolist()}
    assert len(rows) == sum(SPLIT_SIZES.values())
    apart = (points.train.mean(0) - points.test.mean(0)).abs() / points.train.std(0)
    print(f"{name}: {points.description}; train and test {apart.tolist()} deviations apart")
    assert float(apart.max()) < 0.06, "splits of one and the same density"
    assert points.mean == points.train.mean(0).tolist()
    assert points.std == points.train.std(0).tolist()


def test_two_moons_lie_where_they_should():
    """Half circles of radius 1 around (0, 0) and (1, ½), one turned over."""
    rows = load_points("moons").train
    upper = (rows.norm(dim=1) - 1).abs()
    lower = ((rows - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    off = torch.minimum(upper, lower)
    print(f"off the moons by {off.mean():.3f} on average")
    assert float(off.mean()) == pytest.approx(0.1 * (2 / torch.pi) ** 0.5, abs=0.01)


def test_a_table_without_its_label(tmp_path):
    file = tmp_path / "sizes.csv"
    lines = [f"{i},{i * i % 17},{'ab'[i % 2]}" for i in range(60)]
    file.write_text("\n".join(["length,width,kind", *lines]) + "\n")
    points = load_points(str(file))
    assert points.features == ("length", "width")
    assert sum(len(getattr(points, split)) for split in SPLIT_SIZES) == 60
    assert points.train.dtype == torch.float32


def test_what_has_no_density_is_refused(tmp_path):
    file = tmp_path / "flat.csv"
    file.write_text("\n".join(["a,b,kind", *(f"{i},7,{'xy'[i % 2]}" for i in range(40))]) + "\n")
    with pytest.raises(BadInput, match="'b' is always the same"):
        load_points(str(file))
    file.write_text("\n".join(["a,kind", *(f"{i},{'xy'[i % 2]}" for i in range(40))]) + "\n")
    with pytest.raises(BadInput, match="needs two features"):
        load_points(str(file))
    file.write_text("\n".join(["a,b,kind", *(f"{i},{i}e38,{'xy'[i % 2]}" for i in range(40))]) + "\n")
    with pytest.raises(BadInput, match="'2e38', which is no finite number up to"):
        load_points(str(file))
    with pytest.raises(BadInput, match="did you mean moons"):
        load_points("moon")
    assert not is_points("digits")
    assert is_points("circles")


def test_batches_are_permutations_and_can_be_gone_on_from():
    points = torch.arange(20.0).view(10, 2)
    draws = PointBatches(points, 5, seed=1)
    epoch = torch.cat([next(draws), next(draws)])
    assert sorted(epoch[:, 0].tolist()) == points[:, 0].tolist()
    assert not torch.equal(epoch, points)
    state, expected = draws.state_dict(), next(draws)
    other = PointBatches(points, 5, seed=1)
    other.load_state_dict(state)
    assert torch.equal(next(other), expected)


def test_two_processes_share_a_batch():
    points = torch.arange(24.0).view(12, 2)
    one, parts = (
        PointBatches(points, 4, seed=2),
        [PointBatches(points, 4, seed=2, rank=r, world_size=2) for r in (0, 1)],
    )
    for _ in range(5):
        assert torch.equal(torch.cat([next(part) for part in parts]), next(one))
    with pytest.raises(BadInput, match="cannot be shared"):
        PointBatches(points, 3, seed=0, world_size=2)


@pytest.mark.parametrize("header", ["a,b,c\n", ""])
def test_last_column_of_numbers_is_a_feature(tmp_path, header):
    file = tmp_path / "measured.csv"
    file.write_text(header + "".join(f"{i},{i * i % 17},{i % 3}\n" for i in range(60)))
    points = load_points(str(file))
    print(points.description)
    assert points.features == (("a", "b", "c") if header else ("column 1", "column 2", "column 3"))
    rows = torch.cat([getattr(points, split) for split in SPLIT_SIZES])
    assert [len(getattr(points, split)) for split in SPLIT_SIZES] == [36, 12, 12]
    assert sorted(rows[:, 0].tolist()) == list(range(60))
    assert torch.equal(rows[:, 2], rows[:, 0] % 3)
    assert "no label" in points.description


def test_label_by_name_is_left_out_and_said(tmp_path):
    file = tmp_path / "measured.csv"
    file.write_text("a,target,c\n" + "".join(f"{i},{i % 2},{i % 7}\n" for i in range(60)))
    points = load_points(str(file))
    print(points.description)
    assert points.features == ("a", "c")
    assert "the label 'target' unused" in points.description
    assert load_points(str(file), features=("c", "a")).features == ("c", "a")
    with pytest.raises(BadInput, match="no column 'b'"):
        load_points(str(file), features=("a", "b"))
