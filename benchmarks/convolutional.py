"""A training step of the published networks, against torchvision's classes.

The same weights, batch, optimizer and threads: forward, backward and a step of SGD with momentum,
in turn, in one process; the median of the pairs' ratios (theirs / ours: above 1 ours is faster). On a
CPU both use channels first and, in the second row, ours channels last; on a GPU both use channels last
and bfloat16. Then the memory of a resnet50 step, batch size 32, 224 x 224.

    python benchmarks/convolutional.py [NETWORK …] [--pairs 7] [--batch-size 8]
"""

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import torchstone as ts
from torchstone.parts.optional_imports import import_torchvision

NETWORKS = ("resnet18", "resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0", "googlenet")
AUXILIARY_WEIGHT = 0.3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_networks(name: str) -> tuple[nn.Module, nn.Module]:
    kwargs = {"init_weights": False} if name in ("vgg16", "googlenet") else {}
    theirs = getattr(import_torchvision().models, name)(weights=None, **kwargs)
    ours = ts.create(name)
    module = next(s for s in ts.list_systems() if name in s.variants).module()
    state = theirs.state_dict()
    ours.load_state_dict(module.published(name, state) if hasattr(module, "published") else state)
    return ours.to(DEVICE).train(), theirs.to(DEVICE).train()


class TimedStep:
    """One network and its optimizer; a call is a training step and returns its seconds."""

    def __init__(self, model: nn.Module, images, labels, channels_last: bool):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=layout)
        self.images, self.labels = images.contiguous(memory_format=layout), labels
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def __call__(self) -> float:
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            output = self.model(self.images)
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = F.cross_entropy(logits, self.labels)
        for aux in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(aux, self.labels)
        loss.backward()
        self.optimizer.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def compare(name: str, batch_size: int, pairs: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, 224, 224, device=DEVICE)
    labels = torch.randint(1000, (batch_size,), device=DEVICE)
    for channels_last in (True,) if DEVICE.type == "cuda" else (False, True):
        ours, theirs = make_networks(name)
        a = TimedStep(ours, images, labels, channels_last)
        b = TimedStep(theirs, images, labels, channels_last and DEVICE.type == "cuda")
        a(), b()  # warm-up: buffers, and the choice of kernels
        times = []
        for i in range(pairs):
            order = (a, b) if i % 2 else (b, a)
            seconds = {each: each() for each in order}
            times.append((seconds[a], seconds[b]))
        ratio = statistics.median(theirs / ours for ours, theirs in times)
        ours_ms, theirs_ms = (1000 * statistics.median(t) for t in zip(*times, strict=True))
        layout = "channels last" if channels_last else "channels first"
        print(
            f"{name:<16} {layout:<15} {ours_ms:8.0f} ms   torchvision {theirs_ms:8.0f} ms   ratio {ratio:.3f}",
            flush=True,
        )
        del ours, theirs, a, b
        gc.collect()


def peak_memory(which: str) -> float:
    """Peak of one resnet50 step in a fresh process (MiB): resident on a CPU, allocated on a GPU."""
    ours, theirs = make_networks("resnet50")
    model = ours if which == "ours" else theirs
    del ours, theirs
    images = torch.randn(32, 3, 224, 224, device=DEVICE)
    step = TimedStep(model, images, torch.randint(1000, (32,), device=DEVICE), channels_last=False)
    step()
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8 if DEVICE.type == "cpu" else 128)
    parser.add_argument("--memory", choices=("ours", "theirs"), help="one measurement, in MiB")
    args = parser.parse_args()
    if args.memory:
        print(peak_memory(args.memory))
        return
    print(f"{DEVICE}, {torch.get_num_threads()} threads, batch {args.batch_size}, {args.pairs} pairs")
    for name in args.networks:
        compare(name, args.batch_size, args.pairs)
    peaks = {
        which: float(
            subprocess.run(
                [sys.executable, __file__, "--memory", which], capture_output=True, text=True, check=True
            ).stdout
        )
        for which in ("ours", "theirs")
    }
    print(
        f"resnet50 step, batch 32: {peaks['ours']:.0f} MiB, torchvision {peaks['theirs']:.0f} MiB, "
        f"ratio {peaks['ours'] / peaks['theirs']:.3f}"
    )


if __name__ == "__main__":
    main()
