"""Sparse and linear attention scale better than dense attention, from some length on."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.parts.transformer.attention import attention, attention_weights
from torchstone.parts.transformer.kernel_attention import kernel_attention
from torchstone.parts.transformer.low_rank_attention import low_rank_attention
from torchstone.parts.transformer.sliding_window_attention import sliding_window_attention

CLAIM = Claim(
    "sparse-linear",
    "Sparse and linear attention cost less than dense attention as texts grow, and keep its quality.",
    "Beltagy, Peters and Cohan 2020; Choromanski et al. 2020; Wang et al. 2020",
    "Four heads of 32 numbers, one text of 256 to 4,096 tokens: CPU time of output and gradient on one "
    "core, the median of three, all in turn, and megabytes kept for the gradient, of dense attention, of "
    "a window of 64 tokens, of 64 random features, and of a projection to 64 keys. And their output's "
    "squared error relative to dense attention's variance, for queries that look for one key near by (at "
    "most 16 tokens away), or anywhere.",
    "On short texts they must lose or the curves are not of the same work; a window must keep what is "
    "near, and lose what is far.",
    minutes=1.5,
)
LENGTHS = (256, 1024, 4096)
HEADS, WIDTH, WINDOW, FEATURES = 4, 32, 32, 64  # the window is on each side
QUALITY_LENGTH = 512
NEAR = 16  # tokens
FAITHFUL = 0.5  # relative squared error up to which an output is kept


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_weights(q, k) @ v


def methods(length: int, generator: torch.Generator) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Ways to compute attention over so many tokens."""
    features = torch.randn(FEATURES, WIDTH, generator=generator)
    projection = torch.randn(FEATURES, length, generator=generator) / length**0.5
    return {
        "dense": attention,
        "dense, written out": written_out,
        "window": partial(sliding_window_attention, window=WINDOW),
        "random features": partial(kernel_attention, features=features),
        "low rank": partial(low_rank_attention, e=projection),
    }


NAMES = ("dense", "dense, written out", "window", "random features", "low rank")
CHEAP = NAMES[2:]


def kept_megabytes(compute: Callable[[], Tensor]) -> float:
    """Of the tensors that the gradient's computation keeps, each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = compute()  # alive until it is counted, so that no storage is another's
        total = sum(storages.values())
        del output
    return total / 2**20


def measure(seed: int) -> Row:
    """Milliseconds (which differ between runs) and megabytes by length, and relative errors."""
    generator = torch.Generator().manual_seed(seed)
    row: Row = {name: {"milliseconds": [], "megabytes": []} for name in NAMES}
    for length in LENGTHS:
        q, k, v = (
            torch.randn(1, HEADS, length, WIDTH, generator=generator, requires_grad=True) for _ in range(3)
        )
        ways = methods(length, generator)
        times: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(4):
            for name, way in ways.items():
                began = time.process_time()
                way(q, k, v).sum().backward()
                times[name].append(1000 * (time.process_time() - began))
        for name, way in ways.items():
            row[name]["milliseconds"].append(sorted(times[name][1:])[1])  # the first one prepares kernels
            row[name]["megabytes"].append(kept_megabytes(partial(way, q, k, v)))
    for kind in ("near", "far"):
        q, k, v = looking(QUALITY_LENGTH, kind == "near", generator)
        exact = attention(q, k, v)
        for name, way in methods(QUALITY_LENGTH, generator).items():
            error = ((way(q, k, v) - exact) ** 2).mean() / exact.var()
            row[name][kind] = error.item()
    return row


def looking(length: int, near: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries each of which is like one key, near by or anywhere, so that attention is sharp."""
    k, v = (torch.randn(1, HEADS, length, WIDTH, generator=generator) for _ in range(2))
    position = torch.arange(length)
    if near:
        target = (position + torch.randint(-NEAR, NEAR + 1, (length,), generator=generator)).clamp(
            0, length - 1
        )
    else:
        target = torch.randint(length, (length,), generator=generator)
    return 1.5 * k[:, :, target], k, v


def judge(rows: list[Row]) -> Verdict:
    def share(name: str, i: int) -> list[float]:
        return [row[name]["milliseconds"][i] / row["dense"]["milliseconds"][i] for row in rows]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    ones = [1.0] * len(rows)
    long = [paired(f"time over dense at {LENGTHS[-1]}, less 1, {n}", share(n, -1), ones) for n in CHEAP]
    short = [paired(f"time over dense at {LENGTHS[0]}, less 1, {n}", share(n, 0), ones) for n in CHEAP]
    error = {n: {kind: mean([row[n][kind] for row in rows]) for kind in ("near", "far")} for n in CHEAP}
    finding = "; ".join(
        f"{n} takes {mean(share(n, 0)):.2g} of dense attention's time at {LENGTHS[0]} tokens and "
        f"{mean(share(n, -1)):.2g} at {LENGTHS[-1]:,}, with an error of {error[n]['near']:.2f} near and "
        f"{error[n]['far']:.2f} anywhere"
        for n in CHEAP
    )
    megabytes = {name: mean([row[name]["megabytes"][-1] for row in rows]) for name in NAMES}
    finding += "; megabytes kept at the longest: " + ", ".join(f"{n} {m:.0f}" for n, m in megabytes.items())
    tests = long + short
    cheaper = [n for n, each in zip(CHEAP, long, strict=True) if each.is_below_zero]
    if not cheaper:
        return Verdict("not seen here", finding, tests)
    conditions = []
    if any(not each.is_below_zero for each in short):
        conditions.append("texts are long")
    if not all(error[n][kind] < FAITHFUL for n in cheaper for kind in ("near", "far")):
        near = [n for n in cheaper if error[n]["near"] < FAITHFUL]
        conditions.append(
            f"what is looked for is near ({', '.join(near)})" if near else "their quality is not asked for"
        )
    if conditions:
        return Verdict("holds only when", f"{' and '.join(conditions)}: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    panels = {
        title: {name: [row[name][key] for row in rows] for name in NAMES}
        for title, key in (
            ("CPU milliseconds, output and gradient", "milliseconds"),
            ("megabytes kept for the gradient", "megabytes"),
        )
    }
    return curves(panels, LENGTHS, "tokens", xscale="log", yscale="log")
