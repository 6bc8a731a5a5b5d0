"""The order of image batches; resuming, sharing and prefetching do not change it."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data.vision import augment, dataset
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit, load_images
from torchstone.errors import BadInput
from torchstone.parts.seeding import derive_seed

CARD = {"mean": [0.0], "std": [1 / 255]}  # normalising changes nothing


def numbered(count):
    """Pictures that show their own number, everywhere alike; so do the labels."""
    values = torch.arange(count)
    return ImageSplit(values, values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous())


def drawn(pictures, count, **options):
    batches = ImageBatches(pictures, 8, seed=3, metadata=CARD, **options)
    return [next(batches) for _ in range(count)]


def same(ones, others):
    pairs = list(zip(ones, others, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize("count", [3, 8, 21, 50])
def test_batches_full_and_each_sample_once_per_epoch(count):
    found = drawn(numbered(count), count)  # 8 epochs
    labels = torch.cat([y for _, y in found])
    assert all(len(y) == 8 for _, y in found)
    assert all(torch.equal(x[:, 0, 0, 0].round().long(), y) for x, y in found)
    epochs = labels.view(8, count)
    assert torch.equal(epochs.sort(1).values, torch.arange(count).expand(8, -1))
    print("distinct orders:", len({tuple(e.tolist()) for e in epochs}), "of 8 epochs of", count)
    if count > 8:
        assert len({tuple(e.tolist()) for e in epochs}) == 8


def test_derive_seed_has_no_collisions():
    seeds = {derive_seed(a, b, c) for a in range(20) for b in range(2) for c in range(50)}
    assert len(seeds) == 2000
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize("augmentation", ["none", "shift2", "affine"])
def test_batches_resume_exactly(augmentation):
    options = {"augment": augment.make_augmentation(augmentation)}
    whole = drawn(numbered(21), 30, **options)
    for done in random.Random(0).sample(range(30), 6):
        first = ImageBatches(numbered(21), 8, seed=3, metadata=CARD, **options)
        for _ in range(done):
            next(first)
        second = ImageBatches(numbered(21), 8, seed=3, metadata=CARD, **options)
        second.load_state_dict(first.state_dict())
        assert first.state_dict() == {"position": 8 * done}
        assert same([next(second) for _ in range(30 - done)], whole[done:])


def test_batches_augmentation_differs_each_step():
    drawn_numbers = []

    def watch(pictures, draw):
        drawn_numbers.append(draw(2))
        return pictures

    drawn(numbered(8), 20, augment=watch)
    rows = torch.cat(drawn_numbers)
    print("distinct draws:", len(rows.unique(dim=0)), "of", len(rows))
    assert len(rows.unique(dim=0)) == len(rows) == 160


@pytest.mark.parametrize("world", [2, 4])
def test_batches_ranks_form_joint_batch(world):
    options = {"augment": augment.make_augmentation("affine")}
    joint = drawn(numbered(21), 12, **options)
    ranks = [drawn(numbered(21), 12, rank=r, world_size=world, **options) for r in range(world)]
    for step, (x, y) in enumerate(joint):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), x)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), y)
    print("steps compared:", len(joint), "on", world, "ranks")


def test_batches_reject_uneven_and_empty():
    with pytest.raises(BadInput, match="cannot be shared by 3"):
        ImageBatches(numbered(9), 8, seed=0, metadata=CARD, world_size=3)
    with pytest.raises(BadInput, match="no images"):
        ImageBatches(numbered(0), 8, seed=0, metadata=CARD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, numbers = tmp_path_factory.mktemp("photos"), np.random.RandomState(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(15):
            noise = numbers.randint(0, 256, (20, 24 + i, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_disk_equal_memory(folder, monkeypatch, workers):
    memory = load_images(folder, size=16, channels=3)
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)
    disk = load_images(folder, size=16, channels=3)
    assert isinstance(memory.train.images, torch.Tensor)
    assert not isinstance(disk.train.images, torch.Tensor)
    assert disk.metadata == memory.metadata
    assert disk.description == memory.description
    for split in ("train", "val", "test"):
        ours, theirs = getattr(memory, split), getattr(disk, split)
        assert torch.equal(ours.take(torch.arange(len(ours))), theirs.take(torch.arange(len(theirs))))
    options = {"seed": 1, "metadata": memory.metadata, "augment": augment.make_augmentation("flip-crop4")}
    whole = ImageBatches(memory.train, 8, **options)
    whole = [next(whole) for _ in range(12)]
    before = torch.get_rng_state()
    first = ImageBatches(disk.train, 8, workers=workers, **options)
    assert same([next(first) for _ in range(5)], whole[:5])
    second = ImageBatches(disk.train, 8, workers=workers, **options)
    second.load_state_dict(first.state_dict())
    assert first.state_dict() == {"position": 40}
    assert same([next(second) for _ in range(7)], whole[5:])
    first.load_state_dict({"position": 16})  # back, with workers already ahead
    assert same([next(first) for _ in range(3)], whole[2:5])
    assert torch.equal(torch.get_rng_state(), before), "the global generator was disturbed"


def test_batches_name_damaged_file(folder, monkeypatch, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            data = (folder / name / f"{i}.png").read_bytes()
            (tmp_path / name / f"{i}.png").write_bytes(data)
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)
    pictures = load_images(tmp_path, size=16, channels=3)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:300])
    batches = ImageBatches(pictures.train, 2, seed=0, metadata=pictures.metadata, workers=1)
    with pytest.raises(BadInput, match=r"\d\.png is not a readable image") as caught:
        next(batches)
    print(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.sweep
def test_batches_workers_end_with_program(folder):
    program = f"""
import multiprocessing
from torchstone.data.vision import dataset as images
from torchstone.data.vision.batches import ImageBatches
images.MEMORY_LIMIT = 0
data = images.load_images({str(folder)!r}, size=16, channels=3)
batches = ImageBatches(data.train, 4, seed=0, metadata=data.metadata, workers=2)
next(batches)
print(len(multiprocessing.active_children()))
batches.close()
print(len(multiprocessing.active_children()))
next(batches)
del batches
print(len(multiprocessing.active_children()))
batches = ImageBatches(data.train, 4, seed=0, metadata=data.metadata, workers=2)
next(batches)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.split() == ["2", "0", "0"]
