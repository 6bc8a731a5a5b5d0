"""Performer beside the GPT of its size: time and memory of generation over the length, and of a training step.

    python benchmarks/performer.py [--variant performer_char_cpu] [--tokens 4096] [--rounds 3] [--json]

Generation: one text of random tokens, one at a time, by GPT with its cache of keys and values and by Performer
with its state, both through `forward` as `generate` calls it. They take turns of 256 tokens. Training: forward
and backward pass of one window of each context length. Seconds are those of the processor
(`time.process_time`), one thread, so that other load on the machine counts less; of each stretch the median
over the rounds. Memory of generation is that of the tensors that are kept for the tokens read so far.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F

from torchstone.parts.transformer.weight_layout import column_major_weights
from torchstone.systems.transformer.gpt import GPT
from torchstone.systems.transformer.performer import VARIANTS

STRETCH = 256  # tokens of a turn
CONTEXTS = (256, 1024, 4096)


def models(variant: str, context: int):
    """Both with the same weights."""
    torch.manual_seed(0)
    performer = VARIANTS[variant].make(context=context)
    sizes = {
        name: VARIANTS[variant].make.keywords[name] for name in ("width", "depth", "heads", "vocab_size")
    }
    gpt = GPT.from_kwargs(**sizes, context=context, bias=False, activation="gelu")
    gpt.load_state_dict(performer.state_dict(), strict=False)
    return {"gpt": gpt.eval(), "performer": performer.eval()}


def kept(name: str, cache) -> int:
    """Bytes of what is kept of the tokens so far, without what is allocated for later ones."""
    if name == "gpt":
        return sum(4 * x[:, :, : layer.length].numel() for layer in cache for x in (layer.keys, layer.values))
    return sum(4 * x.numel() for layer in cache for x in layer.kernel)


@torch.inference_mode()
def generation(variant: str, tokens: int, rounds: int) -> list[dict]:
    nets = models(variant, tokens)
    ids = torch.randint(nets["gpt"].vocab_size, (1, tokens))
    times = {name: [[] for _ in range(0, tokens, STRETCH)] for name in nets}
    memory = {name: [0] * len(times[name]) for name in nets}
    for number in range(rounds):
        caches = {name: net.make_cache() for name, net in nets.items()}
        for turn, begin in enumerate(range(0, tokens, STRETCH)):
            for name in sorted(nets, reverse=bool((turn + number) % 2)):
                end = min(begin + STRETCH, tokens)
                with column_major_weights(nets[name], 1):
                    start = time.process_time()
                    for t in range(begin, end):
                        nets[name](ids[:, t : t + 1], cache=caches[name], last_only=True)
                    times[name][turn].append((time.process_time() - start) / (end - begin))
                memory[name][turn] = kept(name, caches[name])
    return [
        {
            "tokens": min((turn + 1) * STRETCH, tokens),
            **{f"{name}_ms": statistics.median(times[name][turn]) * 1e3 for name in nets},
            **{f"{name}_bytes": memory[name][turn] for name in nets},
        }
        for turn in range(len(times["gpt"]))
    ]


def training(variant: str, rounds: int) -> list[dict]:
    rows = []
    for context in CONTEXTS:
        nets, times = models(variant, context), {"gpt": [], "performer": []}
        x, y = torch.randint(nets["gpt"].vocab_size, (2, 1, context))
        for number in range(rounds + 1):  # the first is not counted
            for name in sorted(nets, reverse=bool(number % 2)):
                nets[name].zero_grad()
                start = time.process_time()
                F.cross_entropy(nets[name](x).flatten(0, 1), y.flatten()).backward()
                times[name].append(time.process_time() - start)
        medians = {f"{name}_tokens_per_second": context / statistics.median(times[name][1:]) for name in nets}
        ratio = statistics.median(g / p for g, p in zip(*(times[n][1:] for n in nets), strict=True))
        rows.append({"context": context, **medians, "performer_speed": ratio})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", choices=VARIANTS, default="performer_char_cpu")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = generation(args.variant, args.tokens, args.rounds)
    # the first stretch from which on no stretch is faster with the cache
    slower = [row["tokens"] for row in steps if row["gpt_ms"] < row["performer_ms"]]
    crossover = max(slower, default=0)
    windows = training(args.variant, args.rounds)
    if args.json:
        result = {"generation": steps, "crossover": crossover, "training": windows}
        print(json.dumps(result, indent=1))
        return
    print(f"{args.variant}, one text: ms a token up to each length, and MB kept then")
    for row in steps:
        print(
            f"{row['tokens']:>7}  gpt {row['gpt_ms']:.3f} ms {row['gpt_bytes'] / 1e6:.2f} MB"
            f"  performer {row['performer_ms']:.3f} ms {row['performer_bytes'] / 1e6:.2f} MB"
        )
    for name in ("gpt", "performer"):
        total = sum(row[f"{name}_ms"] for row in steps) / len(steps) * args.tokens / 1e3
        print(f"{name}: {total:.1f} s for {args.tokens} tokens")
    print(
        "performer is the faster one",
        f"after {crossover} tokens" if crossover < args.tokens else "at no length here",
    )
    print("training step, one window: tokens a second")
    for row in windows:
        print(
            f"{row['context']:>7}  gpt {row['gpt_tokens_per_second']:.0f}"
            f"  performer {row['performer_tokens_per_second']:.0f}, {row['performer_speed']:.2f} times"
        )


if __name__ == "__main__":
    main()
