"""The overhead of `fit` and `GradientUpdate` over a training loop written by hand.

The same two-layer network, optimizer, data in memory and batch size of 64; the engine writes its run
folder (metrics, events, checkpoints) as always. Pairs in turn, median of the ratios.

    python benchmarks/overhead.py
"""

import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.engine.run import Run, fit
from torchstone.engine.update import GradientUpdate

STEPS, BATCH_SIZE, PAIRS = 3000, 64, 9


class ShuffledBatches:
    """Shuffled batches of tensors in memory; the loop by hand uses the same class."""

    def __init__(self, x, y):
        self.x, self.y, self.position, self.order = x, y, 0, torch.randperm(len(x))

    def __iter__(self):
        return self

    def __next__(self):
        if self.position + BATCH_SIZE > len(self.x):
            self.position, self.order = 0, torch.randperm(len(self.x))
        index = self.order[self.position : self.position + BATCH_SIZE]
        self.position += BATCH_SIZE
        return self.x[index], self.y[index]

    def state_dict(self):
        return {"position": self.position, "order": self.order}

    def load_state_dict(self, state):
        self.position, self.order = state["position"], state["order"]


def make_parts():
    torch.manual_seed(0)
    x, y = torch.rand(6000, 784), torch.randint(10, (6000,))
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return model, optimizer, ShuffledBatches(x, y)


def by_hand() -> float:
    model, optimizer, stream = make_parts()
    losses = []
    began = time.perf_counter()
    for step in range(STEPS):
        x, y = next(stream)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (STEPS // 200) == 0:
            losses.append(loss.item())
    return time.perf_counter() - began


def by_engine() -> float:
    model, optimizer, stream = make_parts()

    def loss(batch):
        x, y = batch
        return F.cross_entropy(model(x), y)

    run = Run(
        stream=stream,
        update=GradientUpdate(loss, optimizer),
        evaluate=lambda: {"none": 0.0},
        state={"model": model, "optimizer": optimizer, "stream": stream},
        steps=STEPS,
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        fit(run, folder, quiet=True)
        return time.perf_counter() - began


def main() -> None:
    by_hand(), by_engine()
    pairs = []
    for number in range(PAIRS):
        order = (by_hand, by_engine) if number % 2 else (by_engine, by_hand)
        times = {each.__name__: each() for each in order}
        pairs.append((times["by_engine"], times["by_hand"]))
        print(
            f"engine {pairs[-1][0]:.3f} s  by hand {pairs[-1][1]:.3f} s  ratio {pairs[-1][0] / pairs[-1][1]:.3f}"
        )
    ratios = sorted(engine / hand for engine, hand in pairs)
    step = statistics.median(hand for _, hand in pairs) / STEPS * 1e6
    print(
        f"{STEPS} steps of {step:.0f} µs, {torch.get_num_threads()} threads: ratio median "
        f"{statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}, {PAIRS} pairs (target ≤ 1.10)"
    )


if __name__ == "__main__":
    main()
