"""The input pipeline for 32×32 pictures beside torchvision's transforms in a DataLoader.

Both start from the same uint8 array in memory and end with normalised float batches of 128 on the
CPU, augmented alike: crop of 4 padded pixels, flip, and in the second row RandAugment of two
operations of magnitude 9. torchvision's runs picture by picture on PIL images (as its own CIFAR10
data set makes them) in 2 worker processes; ours on whole batches in this process, in one thread.
Pairs in turn, median of the ratios.

    python benchmarks/pipeline.py
"""

import importlib
import statistics
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from torchstone.data.vision.augment import parse_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.references import torchvision

COUNT, BATCH, PAIRS, WORKERS = 10_000, 128, 7, 2
TARGETS = {"crop4+flip": 3.0, "crop4+flip+randaugment2-9": 1.5}
CARD = {"mean": [0.491, 0.482, 0.447], "std": [0.247, 0.243, 0.262]}


class Pictured(Dataset):
    """An array's pictures, changed one by one."""

    def __init__(self, array: np.ndarray, labels: np.ndarray, change):
        self.array, self.labels, self.change = array, labels, change

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int):
        return self.change(Image.fromarray(self.array[i])), int(self.labels[i])


def theirs(array: np.ndarray, labels: np.ndarray, name: str):
    torchvision()
    transforms = importlib.import_module("torchvision.transforms")
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if "randaugment" in name:
        steps.append(transforms.RandAugment(2, 9))
    steps += [transforms.ToTensor(), transforms.Normalize(CARD["mean"], CARD["std"])]
    pictured = Pictured(array, labels, transforms.Compose(steps))
    # the workers stay: starting them is not what is measured
    return DataLoader(
        pictured, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )


def rate(batches, count: int) -> float:
    """Pictures a second, after the first batches."""
    source = iter(batches)
    for _ in range(4):
        next(source)
    began, seen = time.perf_counter(), 0
    for _ in range(count):
        images, _ = next(source)
        seen += len(images)
    rate = seen / (time.perf_counter() - began)
    for _ in source if isinstance(batches, DataLoader) else ():
        pass  # or what the workers have decoded ahead would count in the next round
    return rate


def main() -> None:
    torch.set_num_threads(1)
    numbers = np.random.default_rng(0)
    # smooth, as photographs are: noise alone would be all levels in every picture
    coarse = torch.from_numpy(numbers.integers(0, 256, (COUNT, 3, 6, 6))).float()
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 255).byte()
    labels = numbers.integers(0, 10, COUNT)
    array = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    pictures = ImageSplit(torch.from_numpy(labels), images)
    count = COUNT // BATCH - 6
    print(f"{'augmentation':<28}{'ours':>10}{'torchvision':>13}{'ratio':>8}{'range':>14}{'target':>8}")
    for name, target in TARGETS.items():
        ours = ImageBatches(pictures, BATCH, seed=0, metadata=CARD, augment=parse_augmentation(name)[0])
        loader = theirs(array, labels, name)
        pairs = []
        for number in range(PAIRS):
            both = [(0, ours), (1, loader)]
            rates = {key: rate(each, count) for key, each in both[:: 1 - 2 * (number % 2)]}
            pairs.append((rates[0], rates[1]))
        ratios = sorted(a / b for a, b in pairs)
        middle = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(
            f"{name:<28}{middle[0]:>8.0f}/s{middle[1]:>11.0f}/s{statistics.median(ratios):>8.2f}"
            f"{ratios[0]:>7.2f} –{ratios[-1]:>5.2f}{target:>8.1f}"
        )


if __name__ == "__main__":
    main()
