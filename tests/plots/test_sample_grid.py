"""Image grids pixel by pixel, the animation of a run's grids, and those of a run that was killed."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data.vision.dataset import normalize
from torchstone.engine.run import Intervals, Run, fit
from torchstone.errors import BadInput, NotSaved
from torchstone.plots.sample_grid import (
    image_grid,
    log_samples,
    save_animation,
    save_final_samples,
    save_image_grid,
    symmetric_range,
    to_uint8,
    unit_range,
)

METADATA = {"channels": 3, "size": 4}


def random_images(count: int, channels: int = 1, side: int = 50) -> torch.Tensor:
    return torch.randint(256, (count, channels, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_places_every_pixel(channels, tmp_path):
    images = random_images(5, channels)
    with Image.open(save_image_grid(images, tmp_path / "deep" / "a.png", columns=3)) as image:
        array = np.asarray(image).reshape(image.height, image.width, channels)
    assert array.shape[:2] == (2 * 52 + 2, 3 * 52 + 2)
    values = np.zeros(array.shape[:2], bool)
    for number, picture in enumerate(images.numpy()):
        top, left = 2 + number // 3 * 52, 2 + number % 3 * 52
        there = array[top : top + 50, left : left + 50]
        assert (there == picture.transpose(1, 2, 0)).all(), number
        values[top : top + 50, left : left + 50] = True
    assert len(np.unique(array[~values])) == 1


def test_image_grid_enlarges_by_integer_factor():
    images = random_images(2, side=28)
    image = np.asarray(image_grid(images))
    assert image.shape == (60, 118)
    assert (image[2:58, 2:58] == images[0, 0].numpy().repeat(2, 0).repeat(2, 1)).all()


@pytest.mark.parametrize(("count", "size"), [(64, (8, 8)), (10, (4, 3)), (1, (1, 1)), (3, (2, 2))])
def test_image_grid_default_columns(count, size):
    assert image_grid(random_images(count)).size == tuple(52 * n + 2 for n in size)


def test_save_image_grid_rejects_invalid_input(tmp_path):
    for images in (random_images(0), random_images(2, 2)):
        with pytest.raises(BadInput, match="1 or 3 channels"):
            save_image_grid(images, tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"ends in \.png, not .a\.jpg."):
        save_image_grid(random_images(2), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("normalize_range", [symmetric_range, unit_range])
def test_to_uint8_inverts_normalization(normalize_range):
    metadata, full = (
        normalize_range(METADATA),
        torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1),
    )
    x = normalize(full, metadata)
    print(float(x.min()), float(x.max()))
    assert (float(x.min()), float(x.max())) == ((-1, 1) if normalize_range is symmetric_range else (0, 1))
    assert torch.equal(to_uint8(x, metadata), full)
    assert to_uint8(torch.full((1, 3, 1, 1), 7.0), metadata).unique().tolist() == [255]
    assert to_uint8(torch.full((1, 3, 1, 1), -7.0), metadata).unique().tolist() == [0]


def test_save_animation_frames_in_order(tmp_path):
    folder = tmp_path / "samples"
    levels = {20: 60, 100: 250, 3: 0}
    for step, level in levels.items():
        save_image_grid(torch.full((1, 1, 50, 50), level, dtype=torch.uint8), folder / f"{step:06d}.png")
    save_animation(folder, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as images:
        values, times = [], []
        for frame in range(images.n_frames):
            images.seek(frame)
            values.append(int(np.asarray(images.convert("L"))[25, 25]))
            times.append(images.info["duration"])
    assert values == [0, 60, 250]
    assert times == [250, 250, 2500]
    save_animation(tmp_path / "nothing", tmp_path / "b.gif")
    assert not (tmp_path / "b.gif").exists()


def test_save_animation_subsamples_many_frames(tmp_path):
    for step in range(130):
        save_image_grid(torch.full((1, 1, 50, 50), step, dtype=torch.uint8), tmp_path / f"{step:06d}.png")
    save_animation(tmp_path, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as images:
        values = []
        for frame in range(images.n_frames):
            images.seek(frame)
            values.append(int(np.asarray(images.convert("L"))[25, 25]))
    assert len(values) == 60
    assert (values[0], values[-1]) == (0, 129)
    assert set(np.diff(values)) == {2, 3}


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

    run = Run(iter(int, 1), update, lambda: {"x": 1.0}, {"lr_schedule": counter}, steps)

    def sample() -> torch.Tensor:
        return torch.full((1, 1, 50, 50), counter.last_epoch, dtype=torch.uint8)

    run.report = lambda folder: save_final_samples(sample(), folder)
    return log_samples(run, sample)


def gray_level(file) -> int:
    with Image.open(file) as image:
        return int(np.asarray(image)[25, 25])


def test_log_samples_writes_grids_and_animation(tmp_path):
    run = counting(9)
    fit(run, tmp_path, intervals=Intervals(evaluate=4), quiet=True)
    names = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert names == ["000000.png", "000004.png", "000008.png", "000009.png"]
    assert [gray_level(tmp_path / "samples" / name) for name in names] == [0, 4, 8, 9]
    (tmp_path / "pictures").mkdir()
    run.report(tmp_path / "pictures")
    assert gray_level(tmp_path / "pictures" / "samples.png") == 9
    with Image.open(tmp_path / "pictures" / "samples.gif") as images:
        assert images.n_frames == 4


def test_log_samples_without_folder():
    run = counting(3)
    fit(run, quiet=True)
    assert run.results["val/x"] == 1.0


def test_log_samples_rewrites_after_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(counting(12, stop=9), tmp_path, intervals=Intervals(evaluate=2, save=6), quiet=True)
    late = tmp_path / "samples" / "000008.png"
    assert gray_level(late) == 8
    late.write_bytes(late.read_bytes()[:40])  # it was killed while it drew
    fit(counting(12), tmp_path, intervals=Intervals(evaluate=2, save=6), quiet=True)
    names = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert [gray_level(tmp_path / "samples" / name) for name in names] == [0, 2, 4, 6, 8, 10, 12]


def test_log_samples_write_error_stops_run(tmp_path):
    (tmp_path / "samples").write_text("not a folder")
    with pytest.raises(NotSaved, match="torchstone resume"):
        fit(counting(4), tmp_path, intervals=Intervals(evaluate=2), quiet=True)
