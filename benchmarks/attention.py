"""Attention that scales beside torch's fused dense attention: time, memory, growth, and where it begins to pay.

    python benchmarks/attention.py [--json] [--lengths 256 512 ...] [--rounds 5] [--out runs/attention]

Attention alone, forward and backward pass: batch 1, 4 heads of 32, window 64 to each side, blocks of 64 with 3
random ones, k = m = 128, float32, one thread. Seconds are those of the processor (`time.process_time`), so
that other load on the machine counts less. In each round every contender runs once, the first another one
each time; a ratio is the median over the rounds of dense to other in the same round. Causal ones are compared
with causal dense attention. Peak memory is what one forward and backward pass allocates beyond its inputs,
outputs and gradients included, by torch's own record of its allocations.

With --layers it measures one attention layer with its projections, and a whole encoder layer, of Longformer and
BigBird beside those of transformers: batch 1, 4,096 tokens, 256 and 768 wide, heads of 64, windows and blocks as
published, the first token of Longformer global, the same weights, in training without dropout. Their outputs are
compared first. Gradients of the weights are taken too. BigBird is timed with the random blocks that it stores.

It prints a table, or with --json all figures, and writes attention.json, attention.md and attention.png.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.hub import bigbird as bigbird_hub
from torchstone.hub import longformer as longformer_hub
from torchstone.parts.transformer.block_sparse_attention import RandomBlocks, block_sparse_attention
from torchstone.parts.transformer.global_tokens import find_global_tokens
from torchstone.parts.transformer.kernel_attention import RandomFeatures, kernel_attention
from torchstone.parts.transformer.low_rank_attention import low_rank_attention
from torchstone.parts.transformer.sliding_window_attention import sliding_window_attention
from torchstone.plots import canvas
from torchstone.references.bert import unobtrusive
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer import bigbird, longformer

HEADS, WIDTH, WINDOW, BLOCK, RANDOM, PROJECTED, FEATURES = 4, 32, 64, 64, 3, 128, 128
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
GROWTH = (1024, 16384)  # lengths between which the exponent is fitted
DENSE = {False: "dense", True: "dense, causal"}
# (contender, length, at least): the figures
TARGETS = (("window", 4096, 10), ("window", 8192, 18), ("low rank", 4096, 6), ("kernel", 4096, 6))
EXPONENTS = {"window": 1.15, "block sparse": 1.15, "low rank": 1.25, "kernel": 1.25}

LAYER_LENGTH, LAYER_WIDTHS, HEAD_WIDTH = 4096, (256, 768), 64
LAYER_TARGETS = {"ratio": 3, "memory_ratio": 2}  # of one attention layer, at least

COLORS = dict(zip(("window", "block sparse", "low rank", "kernel"), canvas.PALETTE, strict=False))
COLORS["dense"] = "black"

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def contenders(length: int) -> dict[str, Attention]:
    generator = torch.Generator().manual_seed(0)
    e = (torch.randn(PROJECTED, length, generator=generator) / PROJECTED**0.5).requires_grad_()
    blocks = -(-length // BLOCK)
    random_blocks = RandomBlocks(HEADS, blocks, RANDOM, seed=0)
    ends, features = torch.tensor([[0, blocks - 1]]), RandomFeatures(FEATURES, WIDTH, seed=0)
    first = torch.arange(length)[None] < 1

    def block_sparse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        listed = random_blocks(ends, blocks)
        return block_sparse_attention(q, k, v, block_size=BLOCK, random_blocks=listed)

    return {
        "dense": F.scaled_dot_product_attention,
        "dense, causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "window": lambda q, k, v: sliding_window_attention(q, k, v, window=WINDOW),
        "window, 1 global": lambda q, k, v: sliding_window_attention(
            q, k, v, window=WINDOW, global_mask=first
        ),
        "window, causal": lambda q, k, v: sliding_window_attention(q, k, v, window=WINDOW, causal=True),
        "block sparse": block_sparse,
        "low rank": lambda q, k, v: low_rank_attention(q, k, v, e),
        "kernel": lambda q, k, v: kernel_attention(q, k, v, features()),
        "kernel, causal": lambda q, k, v: kernel_attention(q, k, v, features(), causal=True),
    }


def step(attend: Attention, length: int) -> Callable[[], None]:
    """One forward and backward pass, with new gradients each time."""
    generator = torch.Generator().manual_seed(1)
    *inputs, weight = (torch.randn(1, HEADS, length, WIDTH, generator=generator) for _ in range(4))
    leaves = [x.requires_grad_() for x in inputs]

    def run() -> None:
        for x in leaves:
            x.grad = None
        attend(*leaves).backward(weight)

    return run


def peak_memory(run: Callable[[], None]) -> float:
    """MiB that a call allocates at most at one time, by the profiler's record of each allocation."""
    run()  # what is allocated once and kept is not counted
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = [e for e in json.loads(file.read_text())["traceEvents"] if e["name"] == "[memory]"]
    events.sort(key=lambda e: e["ts"])
    totals = [e["args"]["Total Allocated"] for e in events]
    before = totals[0] - events[0]["args"]["Bytes"]
    # the last call's gradients, which are freed first, belong to a call as these do
    freed = sum(-e["args"]["Bytes"] for e in events[:3] if e["args"]["Bytes"] < 0)
    return (max(totals) - before + freed) / 2**20


def measure(length: int, rounds: int) -> dict[str, dict]:
    steps = {name: step(attend, length) for name, attend in contenders(length).items()}
    memory = {name: peak_memory(run) for name, run in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - start)
    rows = {}
    for name, own in times.items():
        dense = times[DENSE["causal" in name]]
        ratios = sorted(d / o for d, o in zip(dense, own, strict=True))
        rows[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "peak_mib": memory[name],
        }
    return rows


class Layer(NamedTuple):
    """A layer as a function of its input, and the module whose weights get gradients."""

    call: Callable[[Tensor], Tensor]
    module: nn.Module


def longformer_layers(width: int) -> dict[str, tuple[Layer, Layer]]:
    """(ours, theirs): the attention with its residual and norm; the encoder layer."""
    library = import_transformers()
    theirs = library.LongformerModel(library.LongformerConfig(**layer_sizes(width), attention_window=512))
    config = {**theirs.config.to_dict(), "architectures": ["LongformerModel"]}
    ours = longformer.make_longformer(**longformer_hub.from_config(config)[1])
    ours.load_state_dict(longformer_hub.published("", theirs.state_dict()))
    own, other = ours.train().layers[0], theirs.train().encoder.layer[0]
    is_global = torch.arange(LAYER_LENGTH)[None] < 1
    found = find_global_tokens(is_global)
    masks = {
        "attention_mask": torch.zeros(1, LAYER_LENGTH).masked_fill(is_global, 1.0),
        "is_index_masked": torch.zeros_like(is_global),
        "is_index_global_attn": is_global,
        "is_global_attn": True,
    }
    return {
        "attention": (
            Layer(lambda x: own.norm1(x + own.attention(x, None, found)), own),
            Layer(lambda x: other.attention(x, **masks)[0], other),
        ),
        "encoder layer": (
            Layer(lambda x: own(x, None, found), own),
            Layer(lambda x: other(x, **masks)[0], other),
        ),
    }


def bigbird_layers(width: int, pattern: str) -> dict[str, tuple[Layer, Layer]]:
    """The same of BigBird, with the random blocks of `pattern`."""
    library = import_transformers()
    theirs = library.BigBirdModel(library.BigBirdConfig(**layer_sizes(width)))
    config = {**theirs.config.to_dict(), "architectures": ["BigBirdModel"], "random_pattern": pattern}
    ours = bigbird.make_bigbird(**bigbird_hub.from_config(config)[1])
    ours.load_state_dict(bigbird_hub.published("", theirs.state_dict()), strict=pattern != "stored")
    own, other = ours.train().layers[0], theirs.train().encoder.layer[0]
    tokens = torch.ones(1, LAYER_LENGTH, dtype=torch.int64)
    layout = ours.lay_out(tokens, None, None)
    blocked, band, queries, keys = theirs.create_masks_for_block_sparse_attn(
        tokens.float(), config["block_size"]
    )
    masks = {"band_mask": band, "from_mask": queries, "to_mask": keys}
    of_attention = {**masks, "from_blocked_mask": blocked, "to_blocked_mask": blocked}
    return {
        "attention": (
            Layer(lambda x: own.norm1(x + own.attention(x, layout)), own),
            Layer(lambda x: other.attention(x, **of_attention)[0], other),
        ),
        "encoder layer": (
            Layer(lambda x: own(x, layout), own),
            Layer(lambda x: other(x, **masks, blocked_encoder_mask=blocked), other),
        ),
    }


def layer_sizes(width: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 1, "vocab_size": 100}
    sizes |= {"num_attention_heads": width // HEAD_WIDTH, "max_position_embeddings": LAYER_LENGTH + 2}
    return {**sizes, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def layer_step(layer: Layer, x: Tensor, weight: Tensor) -> Callable[[], None]:
    """One forward and backward pass, with new gradients of the input and the weights each time."""
    leaf = x.clone().requires_grad_()

    def run() -> None:
        leaf.grad = None
        layer.module.zero_grad()
        layer.call(leaf).backward(weight)

    return run


def measure_layer(pair: tuple[Layer, Layer], x: Tensor, weight: Tensor, rounds: int) -> dict:
    ours, theirs = (layer_step(layer, x, weight) for layer in pair)
    memory, other_memory = peak_memory(ours), peak_memory(theirs)
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        own: dict[Callable, float] = {}
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.process_time()
            run()
            own[run] = time.process_time() - start
        times.append((own[ours], own[theirs]))
    ratios = sorted(b / a for a, b in times)
    return {
        "seconds": statistics.median(a for a, _ in times),
        "their_seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "peak_mib": memory,
        "their_peak_mib": other_memory,
        "memory_ratio": other_memory / memory,
    }


@unobtrusive()
def measure_layers(rounds: int) -> list[dict]:
    rows = []
    generator = torch.Generator().manual_seed(2)
    for width in LAYER_WIDTHS:
        x, weight = torch.randn(2, 1, LAYER_LENGTH, width, generator=generator)
        for system in ("longformer", "bigbird"):
            torch.manual_seed(0)
            same = (
                longformer_layers(width) if system == "longformer" else bigbird_layers(width, "transformers")
            )
            pairs = same if system == "longformer" else bigbird_layers(width, "stored")
            for what, pair in pairs.items():
                with torch.no_grad():
                    a, b = (layer.call(x) for layer in same[what])
                apart = float((a - b).abs().max() / b.abs().max())
                assert apart < 1e-4, f"{system}, {what}: {apart:.1e} apart"
                row = {"system": system, "what": what, "width": width, "length": LAYER_LENGTH, "apart": apart}
                rows.append({**row, **measure_layer(pair, x, weight, rounds)})
                print(layer_table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def layer_table(rows: list[dict]) -> str:
    lines = [["layer", "width", "ms", "transformers", "times as fast", "MiB", "transformers", "times less"]]
    lines.append(["---"] + ["--:"] * 7)
    for row in rows:
        low, high = row["ratio_range"]
        lines.append(
            [
                f"{row['system']}, {row['what']}",
                str(row["width"]),
                f"{1e3 * row['seconds']:.0f}",
                f"{1e3 * row['their_seconds']:.0f}",
                f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})",
                f"{row['peak_mib']:.0f}",
                f"{row['their_peak_mib']:.0f}",
                f"{row['memory_ratio']:.1f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report_layers(args: argparse.Namespace) -> None:
    rows = measure_layers(args.rounds)
    args.out.mkdir(parents=True, exist_ok=True)
    targets = [
        {"what": f"{row['system']}, {row['width']} wide: {key}", key: row[key], "least": least}
        | {"met": row[key] >= least}
        for row in rows
        if row["what"] == "attention"
        for key, least in LAYER_TARGETS.items()
    ]
    found = {"layers": rows, "targets": targets, "torch": torch.__version__, "rounds": args.rounds}
    (args.out / "layers.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "layers.md").write_text(layer_table(rows) + "\n")
    print(json.dumps(found, indent=1) if args.json else layer_table(rows))


def exponent(lengths: list[int], values: list[float]) -> float:
    """Slope of the least-squares line through log(value) over log(length)."""
    x, y = [math.log(n) for n in lengths], [math.log(v) for v in values]
    return statistics.linear_regression(x, y).slope


def crossover(lengths: list[int], ratios: list[float]) -> str:
    """The length from which on the ratio stays above 1, interpolated between those measured."""
    below = [i for i, ratio in enumerate(ratios) if ratio <= 1]
    if not below:
        return f"below {lengths[0]}"
    last = below[-1]
    if last == len(lengths) - 1:
        return f"beyond {lengths[-1]}"
    a, b = (math.log(r) for r in ratios[last : last + 2])
    share = -a / (b - a)
    return str(round(math.exp((1 - share) * math.log(lengths[last]) + share * math.log(lengths[last + 1]))))


def summarize(rows: dict[int, dict[str, dict]]) -> dict:
    lengths = sorted(rows)
    fitted = [n for n in lengths if GROWTH[0] <= n <= GROWTH[1]]
    found: dict = {"lengths": {str(n): rows[n] for n in lengths}, "contenders": {}, "targets": []}
    for name in rows[lengths[0]]:
        one: dict = {}
        if len(fitted) > 1:
            one["time_exponent"] = exponent(fitted, [rows[n][name]["seconds"] for n in fitted])
            one["memory_exponent"] = exponent(fitted, [rows[n][name]["peak_mib"] for n in fitted])
        if name not in DENSE.values():
            one["crossover"] = crossover(lengths, [rows[n][name]["ratio"] for n in lengths])
        found["contenders"][name] = one
    for name, length, least in TARGETS:
        if length in rows:
            ratio = rows[length][name]["ratio"]
            found["targets"].append(
                {"what": f"{name} at {length}", "ratio": ratio, "least": least, "met": ratio >= least}
            )
    for name, most in EXPONENTS.items():
        slope = found["contenders"][name].get("time_exponent")
        if slope is not None:
            target = {"what": f"time exponent of {name}", "exponent": slope, "most": most}
            found["targets"].append({**target, "met": slope <= most})
    return found


def table(found: dict) -> str:
    lengths = list(found["lengths"])
    head = ["attention", *(f"{n}: ms (× dense)" for n in lengths), "time ~ n^", "MiB at " + lengths[-1]]
    head += ["memory ~ n^", "pays from"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name, one in found["contenders"].items():
        cells = []
        for n in lengths:
            row = found["lengths"][n][name]
            ratio = "" if name in DENSE.values() else f" ({row['ratio']:.1f})"
            cells.append(f"{1e3 * row['seconds']:.1f}{ratio}")
        slopes = [f"{one[key]:.2f}" if key in one else "" for key in ("time_exponent", "memory_exponent")]
        memory = f"{found['lengths'][lengths[-1]][name]['peak_mib']:.1f}"
        lines.append([name, *cells, slopes[0], memory, slopes[1], one.get("crossover", "")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(found: dict, file: Path) -> None:
    lengths = [int(n) for n in found["lengths"]]
    figure = canvas.canvas(11, 4)
    panels = figure.subplots(1, 3)
    kinds = (("seconds", "CPU seconds"), ("ratio", "times as fast as dense"), ("peak_mib", "peak MiB"))
    for axes, (key, label) in zip(panels, kinds, strict=True):
        for name in found["contenders"]:
            if key == "ratio" and name in DENSE.values():
                continue
            values = [found["lengths"][str(n)][name][key] for n in lengths]
            line = "--" if "causal" in name else ":" if "global" in name else "-"
            color = COLORS[name.split(",")[0]]
            axes.plot(lengths, values, line, marker="o", markersize=3, color=color, label=name)
        axes.set(xscale="log", yscale="log", xlabel="length", title=label)
        axes.set_xticks(lengths, [str(n) for n in lengths], rotation=60, fontsize=7)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[1].axhline(1, color="black", linewidth=0.8)
    panels[0].legend(**canvas.LEGEND)
    figure.suptitle("Attention alone, forward and backward, one thread")
    canvas.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--json", action="store_true", help="print all figures as JSON, in place of the table"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (3 at most beyond 8192)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/attention"), help="folder of picture and table"
    )
    parser.add_argument(
        "--layers", action="store_true", help="layers of Longformer and BigBird beside transformers'"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.layers:
        report_layers(args)
        return
    rows = {
        n: measure(n, args.rounds if n <= 8192 else min(3, args.rounds)) for n in sorted(set(args.lengths))
    }
    found = summarize(rows)
    found["setting"] = {
        "batch": 1,
        **{"heads": HEADS, "head_dim": WIDTH, "window": WINDOW, "block": BLOCK, "random_blocks": RANDOM},
        **{"projected": PROJECTED, "features": FEATURES, "threads": 1, "rounds": args.rounds},
        "clock": "seconds of the processor, median of interleaved rounds",
        "torch": torch.__version__,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "attention.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "attention.md").write_text(table(found) + "\n")
    picture(found, args.out / "attention.png")
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print(table(found))
    for target in found["targets"]:
        value = target.get("ratio", target.get("exponent"))
        limit = f"at least {target['least']}" if "least" in target else f"at most {target['most']}"
        print(f"{target['what']}: {value:.2f} ({limit}){'' if target['met'] else '  NOT MET'}")
    print(f"figures, table and picture: {args.out}")


if __name__ == "__main__":
    main()
