"""Sheets pixel by pixel, the film of a run's sheets, and what a run that was killed draws again."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data.vision.dataset import normalise
from torchstone.engine.run import Intervals, Run, fit
from torchstone.errors import BadInput, NotSaved
from torchstone.plots.sample_grid import centred, film, laid, pixels, sheet, unit, watched

CARD = {"channels": 3, "size": 4}


def pictures(count: int, channels: int = 1, side: int = 50) -> torch.Tensor:
    return torch.randint(256, (count, channels, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_at_its_place(channels, tmp_path):
    made = pictures(5, channels)
    with Image.open(sheet(made, tmp_path / "deep" / "a.png", columns=3)) as image:
        array = np.asarray(image).reshape(image.height, image.width, channels)
    assert array.shape[:2] == (2 * 52 + 2, 3 * 52 + 2)
    seen = np.zeros(array.shape[:2], bool)
    for number, picture in enumerate(made.numpy()):
        top, left = 2 + number // 3 * 52, 2 + number % 3 * 52
        there = array[top : top + 50, left : left + 50]
        assert (there == picture.transpose(1, 2, 0)).all(), number
        seen[top : top + 50, left : left + 50] = True
    assert len(np.unique(array[~seen])) == 1


def test_small_pictures_are_enlarged_by_a_whole_factor():
    made = pictures(2, side=28)
    image = np.asarray(laid(made))
    assert image.shape == (60, 118)
    assert (image[2:58, 2:58] == made[0, 0].numpy().repeat(2, 0).repeat(2, 1)).all()


@pytest.mark.parametrize(("count", "size"), [(64, (8, 8)), (10, (4, 3)), (1, (1, 1)), (3, (2, 2))])
def test_a_sheet_is_square_or_a_little_wider(count, size):
    assert laid(pictures(count)).size == tuple(52 * n + 2 for n in size)


def test_what_is_no_sheet_is_refused(tmp_path):
    for made in (pictures(0), pictures(2, 2)):
        with pytest.raises(BadInput, match="1 or 3 channels"):
            sheet(made, tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"ends in \.png, not .a\.jpg."):
        sheet(pictures(2), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [centred, unit])
def test_values_go_back_to_the_pixels_they_came_from(scale):
    metadata, whole = (
        scale(CARD),
        torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1),
    )
    x = normalise(whole, metadata)
    print(float(x.min()), float(x.max()))
    assert (float(x.min()), float(x.max())) == ((-1, 1) if scale is centred else (0, 1))
    assert torch.equal(pixels(x, metadata), whole)
    assert pixels(torch.full((1, 3, 1, 1), 7.0), metadata).unique().tolist() == [255]
    assert pixels(torch.full((1, 3, 1, 1), -7.0), metadata).unique().tolist() == [0]


def test_a_film_has_a_frame_for_each_sheet_in_their_order(tmp_path):
    folder = tmp_path / "samples"
    levels = {20: 60, 100: 250, 3: 0}
    for step, level in levels.items():
        sheet(torch.full((1, 1, 50, 50), level, dtype=torch.uint8), folder / f"{step:06d}.png")
    film(folder, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as made:
        seen, times = [], []
        for frame in range(made.n_frames):
            made.seek(frame)
            seen.append(int(np.asarray(made.convert("L"))[25, 25]))
            times.append(made.info["duration"])
    assert seen == [0, 60, 250]
    assert times == [250, 250, 2500]
    film(tmp_path / "nothing", tmp_path / "b.gif")
    assert not (tmp_path / "b.gif").exists()


def test_of_very_many_sheets_a_film_has_the_first_the_last_and_some_between(tmp_path):
    for step in range(130):
        sheet(torch.full((1, 1, 50, 50), step, dtype=torch.uint8), tmp_path / f"{step:06d}.png")
    film(tmp_path, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as made:
        seen = []
        for frame in range(made.n_frames):
            made.seek(frame)
            seen.append(int(np.asarray(made.convert("L"))[25, 25]))
    assert len(seen) == 60
    assert (seen[0], seen[-1]) == (0, 129)
    assert set(np.diff(seen)) == {2, 3}


class Counter:
    """A state that is the step, as a schedule's is."""

    def __init__(self):
        self.last_epoch = 0

    def state_dict(self):
        return {"step": self.last_epoch}

    def load_state_dict(self, state):
        self.last_epoch = state["step"]


def counting(steps: int, stop: int | None = None) -> Run:
    """A run whose sheets are as light as its step."""
    counter = Counter()

    def update(_):
        if counter.last_epoch == stop:
            raise KeyboardInterrupt
        counter.last_epoch += 1
        return {"loss": torch.zeros(())}

    run = Run(iter(int, 1), update, lambda: {"x": 1.0}, {"schedule": counter}, steps)
    return watched(run, lambda: torch.full((1, 1, 50, 50), counter.last_epoch, dtype=torch.uint8))


def light(file) -> int:
    with Image.open(file) as image:
        return int(np.asarray(image)[25, 25])


def test_a_run_draws_a_sheet_each_time_it_is_evaluated_and_a_film_at_its_end(tmp_path):
    run = counting(9)
    fit(run, tmp_path, intervals=Intervals(evaluate=4), quiet=True)
    names = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert names == ["000000.png", "000004.png", "000008.png", "000009.png"]
    assert [light(tmp_path / "samples" / name) for name in names] == [0, 4, 8, 9]
    (tmp_path / "pictures").mkdir()
    run.report(tmp_path / "pictures")
    assert light(tmp_path / "pictures" / "samples.png") == 9
    with Image.open(tmp_path / "pictures" / "samples.gif") as made:
        assert made.n_frames == 4


def test_a_run_without_a_folder_draws_none():
    run = counting(3)
    fit(run, quiet=True)
    assert run.results["val/x"] == 1.0


def test_a_run_that_was_killed_draws_again_what_its_checkpoint_does_not_have(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(counting(12, stop=9), tmp_path, intervals=Intervals(evaluate=2, save=6), quiet=True)
    late = tmp_path / "samples" / "000008.png"
    assert light(late) == 8
    late.write_bytes(late.read_bytes()[:40])  # it was killed while it drew
    fit(counting(12), tmp_path, intervals=Intervals(evaluate=2, save=6), quiet=True)
    names = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert [light(tmp_path / "samples" / name) for name in names] == [0, 2, 4, 6, 8, 10, 12]


def test_a_disk_that_takes_no_sheet_stops_the_run_with_where_to_go_on(tmp_path):
    (tmp_path / "samples").write_text("not a folder")
    with pytest.raises(NotSaved, match="torchstone resume"):
        fit(counting(4), tmp_path, intervals=Intervals(evaluate=2), quiet=True)
