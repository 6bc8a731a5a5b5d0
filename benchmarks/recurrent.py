"""Recurrent layers beside torch's own: the training step of a language model, state carried on.

    python benchmarks/recurrent.py [--cell lstm|gru|rnn] [--size small|characters|treebank] [--rounds N] [--no-compile]

`plain` is the loop that most people write: nn.Embedding, nn.LSTM and nn.Linear, windows cut from a
tensor, the state detached and carried, Adam, clipped, the loss read. `plain, fused` is that with torch's
fused Adam, which ours has too. Ours is the recipe's own stream and update: `fast` on the same kernels,
`written` by the equations, eagerly and with each moment's step compiled, or the loss as a whole.
Rounds are interleaved and begin with another contender each time; ratios are medians of each round's.
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

# symbols, units, layers, lanes, tokens a window
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
    place = {"at": 0, "state": None}

    def step():
        at = place["at"]
        if at + length + 1 > rows.shape[1]:
            at, place["state"] = 0, None
        x, y = rows[:, at : at + length], rows[:, at + 1 : at + length + 1]
        optimizer.zero_grad()
        logits, state = model(x, place["state"])
        loss = F.cross_entropy(logits.reshape(-1, symbols), y.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        detached = tuple(e.detach() for e in state) if isinstance(state, tuple) else state.detach()
        place.update(at=at + length, state=detached)
        return loss.item()

    return step


def ours(cell: Cell, size, ids, device, **how):
    symbols, units, layers, lanes, length = size
    path = how.pop("path")
    if how.pop("step_compiled", False):
        cell = cell._replace(step=torch.compile(cell.step))
    torch.manual_seed(0)
    network = SequenceModel(cell, symbols, symbols, tokens=True, hidden=units, layers=layers, path=path).to(
        device
    )
    recipe = replace(Recipe(lr=2e-3, clip=1.0, schedule="constant"), **how)
    update, stream = StatefulUpdate(network, recipe), BPTTBatches(ids, length, lanes, seed=0)
    return lambda: float(update(next(stream))["loss"])


def measured(contenders, rounds, inner, device, clock):
    """Seconds a step, a list a contender with one number a round."""
    names, taken = list(contenders), {name: [] for name in contenders}
    for name in names:
        began = time.perf_counter()
        losses = [contenders[name]() for _ in range(3)]
        print(f"  {name:<28} first 3 losses {losses[0]:.4f} {losses[-1]:.4f}, "
              f"{time.perf_counter() - began:.1f} s to begin")  # fmt: skip
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = clock()
            for _ in range(inner):
                contenders[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken[name].append((clock() - began) / inner)
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cell", choices=CELLS, nargs="+", default=["lstm"])
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["small", "characters"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--inner", type=int, default=4, help="steps a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--processor-time", action="store_true",
        help="count the process's own seconds: for one thread on a busy machine",
    )  # fmt: skip
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
                "fast": ours(cell, size, ids, device, path="fast"),
                "plain": plain(make, size, ids, device, fused=False),
                "plain, fused Adam": plain(make, size, ids, device, fused=True),
                "written": ours(cell, size, ids, device, path="written"),
            }
            if not args.no_compile:
                how = {"path": "written"}
                contenders["written, steps compiled"] = ours(
                    cell, size, ids, device, **how, step_compiled=True
                )
                contenders["written, compiled whole"] = ours(cell, size, ids, device, **how, compile=True)
            taken = measured(contenders, args.rounds, args.inner, device, clock)
            own = taken["fast"]
            print(f"  fast: {statistics.median(own) * 1e3:.2f} ms a step")
            for other, times in taken.items():
                if other != "fast":
                    ratio = statistics.median(t / o for t, o in zip(times, own, strict=True))
                    middle = statistics.median(times) * 1e3
                    print(f"  {other:<28} {middle:.2f} ms, {ratio:.2f} times that of fast")


if __name__ == "__main__":
    main()
