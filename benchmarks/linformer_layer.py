"""Linformer's attention layer beside the `linformer` package's, with the same weights: equal? how fast?

    pip install linformer==0.2.3
    python benchmarks/linformer_layer.py [--lengths 512 1024 4096] [--width 256] [--projected 128] [--rounds 9] [--json]

One layer with its projections of queries, keys, values and output, 4 heads, batch 1, float32, one thread, forward and
backward pass. Both have the same weights; ours has biases too, which are zero. "apart" is the largest difference of
the outputs, by the largest output, in float64. Seconds are those of the processor (`time.process_time`), medians over
rounds in which the two take turns; the ratio is the median of the rounds' ratios. Memory is that of both passes, by
torch's own record. The package's layer has no mask, and shares E and F among the heads of a layer only.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from attention import peak_memory
from torch import Tensor

from torchstone.systems.transformer.linformer import LinformerAttention

HEADS = 4


def layers(width: int, length: int, projected: int) -> tuple[Callable[[Tensor], Tensor], Any]:
    """Ours as a function of the hidden states, and theirs."""
    from linformer import LinformerSelfAttention

    torch.manual_seed(0)
    theirs = LinformerSelfAttention(width, length, k=projected, heads=HEADS)
    ours = LinformerAttention(width, HEADS)
    with torch.no_grad():
        weights = [layer.weight for layer in (theirs.to_q, theirs.to_k, theirs.to_v)]
        ours.qkv.weight.copy_(torch.cat(weights))
        ours.qkv.bias.zero_()
        ours.out.load_state_dict(theirs.to_out.state_dict())
    e, f = (p.detach().T.contiguous().requires_grad_() for p in (theirs.proj_k, theirs.proj_v))

    def attend(x: Tensor) -> Tensor:
        return ours.to(x.dtype)(x, e, f)

    return attend, theirs


def measure(width: int, length: int, projected: int, rounds: int) -> dict[str, float]:
    x = torch.randn(1, length, width, dtype=torch.float64)
    ours, theirs = layers(width, length, projected)
    with torch.no_grad():
        found = {}
        for text in (x, x[:, : length // 3]):  # shorter than E too
            expected = theirs.double()(text)
            apart = float((ours(text) - expected).abs().max() / expected.abs().max())
            found["apart"] = max(apart, found.get("apart", 0.0))
    contenders: dict[str, Callable[[Tensor], Tensor]] = {"ours": ours, "theirs": theirs.float()}
    short = x.float().requires_grad_()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):  # the first is not counted
        for name in sorted(contenders, reverse=bool(number % 2)):
            start = time.process_time()
            contenders[name](short).square().mean().backward()
            times[name].append(time.process_time() - start)
    for name, attend in contenders.items():
        found[f"{name}_ms"] = 1e3 * statistics.median(times[name][1:])
        found[f"{name}_mib"] = peak_memory(lambda attend=attend: attend(short).square().mean().backward())
    pairs = zip(times["theirs"][1:], times["ours"][1:], strict=True)
    return {**found, "speed": statistics.median(t / o for t, o in pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 4096])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--projected", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {n: measure(args.width, n, args.projected, args.rounds) for n in args.lengths}
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for length, row in rows.items():
        print(
            f"{length:>6} tokens: {row['apart']:.1e} apart; ours {row['ours_ms']:.1f} ms {row['ours_mib']:.0f} MiB, "
            f"theirs {row['theirs_ms']:.1f} ms {row['theirs_mib']:.0f} MiB; {row['speed']:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
