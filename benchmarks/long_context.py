"""Character language models of long contexts: dense attention, a sliding window, and Performer's kernel attention.

    python benchmarks/long_context.py [--contexts 2048,8192] [--window 128] [--rounds 5] [--json]
    python benchmarks/long_context.py --data FOLDER --steps 300    # their validation losses too, at the first context

All three have the same width, depth and heads. A step is forward pass, backward pass and update (AdamW) of one
window of the context; the models take turns, and of each pair of steps the ratio is taken: medians over the rounds.
Seconds are those of the processor, one thread, so that other load counts less. Peak memory is that of a process of
its own that does two steps, less what it had before them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F

SIZES = {"width": 128, "depth": 4, "heads": 4, "vocab_size": 65}
NAMES = ("dense", "window", "performer")


def make(name: str, context: int, window: int) -> torch.nn.Module:
    from torchstone.systems.transformer.gpt import GPT
    from torchstone.systems.transformer.performer import Performer

    torch.manual_seed(0)
    if name == "performer":
        return Performer.from_kwargs(**SIZES, context=context, features=128)
    options = {} if name == "dense" else {"window": window}
    return GPT.from_kwargs(**SIZES, context=context, bias=False, activation="gelu", **options)


class Steps:
    """Training steps of one model, on random tokens: what they are makes no difference to the time."""

    def __init__(self, name: str, context: int, window: int):
        self.model = make(name, context, window)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.x, self.y = torch.randint(SIZES["vocab_size"], (2, 1, context))

    def seconds(self) -> float:
        start = time.process_time()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x).flatten(0, 1), self.y.flatten()).backward()
        self.optimizer.step()
        return time.process_time() - start


def speed(context: int, window: int, rounds: int) -> dict:
    """Tokens a second of each, and how many times as fast as dense attention."""
    steps = {name: Steps(name, context, window) for name in NAMES}
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(rounds + 1):  # the first is not counted
        for name in NAMES if number % 2 else reversed(NAMES):
            times[name].append(steps[name].seconds())
    row: dict = {"context": context}
    for name in NAMES:
        pairs = zip(times["dense"][1:], times[name][1:], strict=True)
        row[name] = {
            "tokens_per_second": context / statistics.median(times[name][1:]),
            "speed": statistics.median(dense / own for dense, own in pairs),
        }
    return row


def peak_memory(name: str, context: int, window: int) -> int:
    """Bytes that two steps add to the peak of this process."""
    steps = Steps(name, 16, window)
    steps.seconds()  # what libraries allocate once
    before = high_water()
    steps = Steps(name, context, window)
    steps.seconds()
    steps.seconds()
    return high_water() - before


def high_water() -> int:
    """The peak of this process alone: that of `getrusage` begins with what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory(name: str, context: int, window: int) -> int:
    words = [sys.executable, __file__, "--memory", name, "--contexts", str(context), "--window", str(window)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def losses(data: str, context: int, window: int, steps: int) -> dict[str, float]:
    """Validation loss of each after the same steps on the same windows, in nats per character."""
    import torchstone as ts

    found = {}
    for name in NAMES:
        system = "performer" if name == "performer" else "gpt"
        options = {"window": window} if name == "window" else {}
        with tempfile.TemporaryDirectory() as folder:
            run = ts.train(
                f"{system}/shakespeare",
                out=Path(folder) / "run",
                data=data,
                context=context,
                batch_size=1,
                steps=steps,
                quiet=True,
                **options,
            )
        found[name] = run.results["val/loss"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contexts", default="2048,8192")
    parser.add_argument("--window", type=int, default=128, help="tokens before each one that it attends to")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="a text to train on, for the validation losses")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--memory", choices=NAMES, help="only the peak of one model, in bytes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    contexts = [int(each) for each in args.contexts.split(",")]
    if args.memory:
        print(peak_memory(args.memory, contexts[0], args.window))
        return
    rows = [speed(context, args.window, args.rounds) for context in contexts]
    for row in rows:
        for name in NAMES:
            row[name]["bytes"] = memory(name, row["context"], args.window)
    validation = losses(args.data, contexts[0], args.window, args.steps) if args.data else {}
    if args.json:
        print(json.dumps({"window": args.window, "training": rows, "val/loss": validation}, indent=1))
        return
    print(f"training step, one window of the context; sliding window of {args.window} tokens before each")
    for row in rows:
        for name in NAMES:
            own = row[name]
            print(
                f"{row['context']:>7} {name:<10} {own['tokens_per_second']:>8.0f} tokens a second, "
                f"{own['speed']:.2f} times, {own['bytes'] / 2**20:.0f} MiB"
            )
    for name, loss in validation.items():
        print(f"{name:<10} validation loss {loss:.4f} after {args.steps} steps at {contexts[0]}")


if __name__ == "__main__":
    main()
