"""The input pipeline for 32×32 images against torchvision's transforms in a DataLoader.

Both start from the same uint8 array in memory and end with normalized float batches of 128 on the
CPU, with the same augmentation: crop with 4 pixels of padding, flip, and in the second row RandAugment
with two operations of magnitude 9. torchvision's runs image by image on PIL images (as in its own CIFAR10
data set) in 2 worker processes; ours on whole batches in this process, in one thread.
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
from torchstone.parts.optional_imports import import_torchvision

COUNT, BATCH_SIZE, PAIRS, WORKERS = 10_000, 128, 7, 2
TARGETS = {"crop4+flip": 3.0, "crop4+flip+randaugment2-9": 1.5}
METADATA = {"mean": [0.491, 0.482, 0.447], "std": [0.247, 0.243, 0.262]}


class PILDataset(Dataset):
    """An array's images as PIL images, transformed one by one."""

    def __init__(self, array: np.ndarray, labels: np.ndarray, transform):
        self.array, self.labels, self.transform = array, labels, transform

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.array[i])), int(self.labels[i])


def torchvision_loader(array: np.ndarray, labels: np.ndarray, name: str):
    import_torchvision()
    transforms = importlib.import_module("torchvision.transforms")
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if "randaugment" in name:
        steps.append(transforms.RandAugment(2, 9))
    steps += [transforms.ToTensor(), transforms.Normalize(METADATA["mean"], METADATA["std"])]
    dataset = PILDataset(array, labels, transforms.Compose(steps))
    # persistent workers: starting them is not measured
    return DataLoader(
        dataset, BATCH_SIZE, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )


def images_per_second(batches, count: int) -> float:
    """Images per second, after the first batches."""
    source = iter(batches)
    for _ in range(4):
        next(source)
    began, total = time.perf_counter(), 0
    for _ in range(count):
        images, _ = next(source)
        total += len(images)
    rate = total / (time.perf_counter() - began)
    for _ in source if isinstance(batches, DataLoader) else ():
        pass  # or prefetched batches would count in the next round
    return rate


def main() -> None:
    torch.set_num_threads(1)
    numbers = np.random.default_rng(0)
    # smooth like photographs: noise alone would have all levels in every image
    coarse = torch.from_numpy(numbers.integers(0, 256, (COUNT, 3, 6, 6))).float()
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 255).byte()
    labels = numbers.integers(0, 10, COUNT)
    array = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    split = ImageSplit(torch.from_numpy(labels), images)
    count = COUNT // BATCH_SIZE - 6
    print(f"{'augmentation':<28}{'ours':>10}{'torchvision':>13}{'ratio':>8}{'range':>14}{'target':>8}")
    for name, target in TARGETS.items():
        ours = ImageBatches(split, BATCH_SIZE, seed=0, metadata=METADATA, augment=parse_augmentation(name)[0])
        loader = torchvision_loader(array, labels, name)
        pairs = []
        for number in range(PAIRS):
            both = [(0, ours), (1, loader)]
            rates = {key: images_per_second(each, count) for key, each in both[:: 1 - 2 * (number % 2)]}
            pairs.append((rates[0], rates[1]))
        ratios = sorted(a / b for a, b in pairs)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(
            f"{name:<28}{medians[0]:>8.0f}/s{medians[1]:>11.0f}/s{statistics.median(ratios):>8.2f}"
            f"{ratios[0]:>7.2f} –{ratios[-1]:>5.2f}{target:>8.1f}"
        )


if __name__ == "__main__":
    main()
