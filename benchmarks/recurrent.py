"""Recurrent layers compared with torch's own: the training step of a language model, state carried over.

    python benchmarks/recurrent.py [--cell lstm|gru|rnn] [--size small|characters|treebank] [--rounds N] [--no-compile]

`plain` is the loop that most people write: nn.Embedding, nn.LSTM and nn.Linear, windows cut from a
tensor, the state detached and carried over, Adam, gradient clipping, the loss read. `plain, fused Adam` is
that with torch's fused Adam, which ours has too. Ours is the recipe's own stream and update: `fused` on the
same kernels, `reference` by the equations, eagerly and with each time step compiled, or the full loss.
Rounds are interleaved and begin with another contender each time; ratios are medians over the rounds.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.data.text.bptt_batches import BPTTBatches
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems.recurrent import gru, lstm, rnn
from torchstone.tasks.recurrent import Recipe
from torchstone.tasks.text.rnn_language_model import StatefulUpdate

# symbols, units, layers, lanes, tokens per window
SIZES = {
    "small": (97, 32, 1, 8, 32),
    "characters": (65, 256, 1, 32, 64),
    "treebank": (10_000, 200, 2, 20, 20),
}
CELLS = {"rnn": (rnn.CELL, nn.RNN), "lstm": (lstm.CELL, nn.LSTM), "gru": (gru.CELL, nn.GRU)}


class Plain(nn.Module):
    def __init__(self, make, symbols, units, layers):
        super().__init__()
        self.embedding = nn.Embedding(symbols, units)
        self.layers = make(units, units, layers, batch_first=True)
        self.head = nn.Linear(units, symbols)

    def forward(self, x, state=None):
        y, state = self.layers(self.embedding(x), state)
        return self.head(y), state


def plain(make, size, ids, device, fused):
    symbols, units, layers, lanes, length = size
    torch.manual_seed(0)
    model = Plain(make, symbols, units, layers).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, fused=True if fused else None)
    rows = ids[: len(ids) // lanes * lanes].view(lanes, -1)
    position = {"first": 0, "state": None}

    def step():
        first = position["first"]
        if first + length + 1 > rows.shape[1]:
            first, position["state"] = 0, None
        x, y = rows[:, first : first + length], rows[:, first + 1 : first + length + 1]
        optimizer.zero_grad()
        logits, state = model(x, position["state"])
        loss = F.cross_entropy(logits.reshape(-1, symbols), y.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        detached = tuple(e.detach() for e in state) if isinstance(state, tuple) else state.detach()
        position.update(first=first + length, state=detached)
        return loss.item()

    return step


def ours(cell: Cell, size, ids, device, implementation, compile_step=False, **optim):
    symbols, units, layers, lanes, length = size
    if compile_step:
        cell = cell._replace(step=torch.compile(cell.step))
    torch.manual_seed(0)
    options = {"hidden": units, "layers": layers, "implementation": implementation}
    network = SequenceModel(cell, symbols, symbols, tokens=True, **options).to(device)
    config = replace(Recipe.optim, lr=2e-3, max_grad_norm=1.0, lr_schedule="constant", **optim)
    update = StatefulUpdate(network, Recipe(optim=config))
    stream = BPTTBatches(ids, length, lanes, seed=0)
    return lambda: float(update(next(stream))["loss"])


def measure(contenders, rounds, inner, device, clock):
    """Seconds per step: a list per contender with one number per round."""
    names, times = list(contenders), {name: [] for name in contenders}
    for name in names:
        start = time.perf_counter()
        losses = [contenders[name]() for _ in range(3)]
        print(
            f"  {name:<28} first 3 losses {losses[0]:.4f} {losses[-1]:.4f}, "
            f"{time.perf_counter() - start:.1f} s to start"
        )
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            for _ in range(inner):
                contenders[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append((clock() - start) / inner)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cell", choices=CELLS, nargs="+", default=["lstm"])
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["small", "characters"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--inner", type=int, default=4, help="steps per round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count the process's own seconds: for one thread on a busy machine",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clock = time.process_time if args.processor_time else time.perf_counter
    for name in args.cell:
        cell, make = CELLS[name]
        for label in args.size:
            size = SIZES[label]
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(size[0], (size[3] * size[4] * 200,), generator=generator).to(device)
            print(f"{name}, {label}: symbols, units, layers, lanes, length {size}")
            contenders = {
                "fused": ours(cell, size, ids, device, "fused"),
                "plain": plain(make, size, ids, device, fused=False),
                "plain, fused Adam": plain(make, size, ids, device, fused=True),
                "reference": ours(cell, size, ids, device, "reference"),
            }
            if not args.no_compile:
                contenders["reference, steps compiled"] = ours(
                    cell, size, ids, device, "reference", compile_step=True
                )
                contenders["reference, loss compiled"] = ours(
                    cell, size, ids, device, "reference", compile=True
                )
            times = measure(contenders, args.rounds, args.inner, device, clock)
            own = times["fused"]
            print(f"  fused: {statistics.median(own) * 1e3:.2f} ms per step")
            for other, each in times.items():
                if other != "fused":
                    ratio = statistics.median(t / o for t, o in zip(each, own, strict=True))
                    print(
                        f"  {other:<28} {statistics.median(each) * 1e3:.2f} ms, {ratio:.2f} times that of fused"
                    )


if __name__ == "__main__":
    main()
