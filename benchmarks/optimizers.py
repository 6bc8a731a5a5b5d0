"""The written optimizers beside torch's fused ones, over ResNet-20's 59 tensors of 269,722 weights.

Three forms of ours: over each tensor (as `--optimizer-implementation reference` has it), over one vector
(`parts/optim/flat.py`, with the gathering of gradients in the time), and over one vector with the rule compiled; the
last column has the seconds on the clock of its first two steps, compiling included. Steps in turn, CPU time of one thread,
median of the ratios over pairs. RMSprop's and Muon's of torch are not fused, Muon's are the network's filters
as matrices; Lion, which torch has not, stands beside fused AdamW.

    python benchmarks/optimizers.py
"""

import statistics
import time
from functools import partial

import torch
from torch import nn

from torchstone.parts.optim.adagrad import Adagrad
from torchstone.parts.optim.adam import Adam, AdamW
from torchstone.parts.optim.flat import flat_optimizer
from torchstone.parts.optim.lion import Lion
from torchstone.parts.optim.muon import Muon
from torchstone.parts.optim.rmsprop import RMSprop
from torchstone.parts.optim.sgd import SGD
from torchstone.systems.convolutional.resnet import VARIANTS

STEPS, PAIRS = 40, 15
DECAY = {"weight_decay": 1e-4}
CASES = {
    "sgd, momentum": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, **DECAY}, {"fused": True}),
    "sgd, no decay": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"fused": True}),
    "sgd, nesterov": (
        SGD,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, **DECAY},
        {"fused": True},
    ),
    "adagrad": (Adagrad, torch.optim.Adagrad, {"lr": 0.01, **DECAY}, {"fused": True}),
    "rmsprop": (RMSprop, torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, **DECAY}, {}),
    "adam": (Adam, torch.optim.Adam, {"lr": 1e-3, **DECAY}, {"fused": True}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 1e-3}, {"fused": True}),
    "lion": (Lion, torch.optim.AdamW, {"lr": 1e-4}, {"fused": True}),
}


def parameters(matrices: bool = False) -> list[nn.Parameter]:
    torch.manual_seed(0)
    weights = [p.detach() for p in VARIANTS["resnet20_cifar"].make(num_classes=10, channels=3).parameters()]
    if matrices:
        weights = [w.flatten(1) for w in weights if w.ndim > 1]
    found = [nn.Parameter(w.clone()) for w in weights]
    for p in found:
        p.grad = 1e-3 * torch.randn_like(p)
    return found


def seconds(step) -> float:
    began = time.process_time()
    for _ in range(STEPS):
        step()
    return time.process_time() - began


def compare(ours, theirs) -> tuple[float, list[float], float]:
    """Median ratio theirs / ours (above 1: ours is faster), all ratios, and ours in µs a step."""
    for step in (ours, theirs):
        seconds(step)
    pairs = []
    for number in range(PAIRS):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        first = {step: seconds(step) for step in order}
        pairs.append((first[theirs], first[ours]))
    ratios = sorted(a / b for a, b in pairs)
    return statistics.median(ratios), ratios, 1e6 * statistics.median(b for _, b in pairs) / STEPS


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"{sum(p.numel() for p in parameters()):,} weights in {len(parameters())} tensors, torch {torch.__version__}"
    )
    print(f"{'optimizer':<15} {'form':<9} {'ratio':>6} {'from':>6} {'to':>6} {'ours, µs':>9} {'first, s':>8}")
    for name, (ours, theirs, options, fused) in CASES.items():
        reference = partial(theirs, **options, **fused)
        forms = {
            "tensors": ours(parameters(), **options).step,
            "vector": flat_optimizer(ours, parameters(), **options).step,
            "compiled": flat_optimizer(ours, parameters(), compiled=True, **options).step,
        }
        for form, step in forms.items():
            began = time.perf_counter()
            step(), step()
            first = time.perf_counter() - began
            ratio, all_of, cost = compare(step, reference(parameters()).step)
            print(
                f"{name:<15} {form:<9} {ratio:6.2f} {all_of[0]:6.2f} {all_of[-1]:6.2f} {cost:9.0f} {first:8.2f}",
                flush=True,
            )
    for form, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        mine = Muon(parameters(matrices=True), lr=0.02, dtype=dtype)
        ratio, all_of, cost = compare(mine.step, torch.optim.Muon(parameters(matrices=True), lr=0.02).step)
        print(
            f"{'muon':<15} {form:<9} {ratio:6.2f} {all_of[0]:6.2f} {all_of[-1]:6.2f} {cost:9.0f}", flush=True
        )


if __name__ == "__main__":
    main()
