"""Training an ensemble of probabilistic networks by batched products, beside a loop over separate networks.

    python benchmarks/ensemble.py [--members 7] [--hidden 64,64,64] [--batch 64] [--pairs 9] [--steps 20]

Both take the same steps of Adam on the same rows with the same loss, in one process, in turn, so that what else
the machine does falls on each alike: ours one optimizer over all members, theirs networks of `nn.Linear` with an
optimizer each, and no bounds' term. The figures are CPU seconds, and the median of the ratios, pair by pair.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.parts.rl.probabilistic_ensemble import ProbabilisticEnsemble, bound_log_variance, gaussian_nll
from torchstone.systems.planning.mbpo import model_loss

Step = Callable[[Tensor, Tensor], None]


def make_batched(members: int, inputs: int, outputs: int, hidden: list[int]) -> Step:
    ensemble = ProbabilisticEnsemble(inputs, outputs, hidden=hidden, members=members, num_elites=1)
    step = FlatGradientUpdate(
        lambda batch: model_loss(ensemble, *batch, 0.0),
        ensemble,
        partial(torch.optim.Adam, lr=1e-3, fused=True),
    )

    def train(x: Tensor, y: Tensor) -> None:
        step((x, y))

    return train


def make_loop(members: int, inputs: int, outputs: int, hidden: list[int]) -> Step:
    networks, optimizers = [], []
    for _ in range(members):
        layers: list[nn.Module] = []
        for a, b in zip([inputs, *hidden[:-1]], hidden, strict=True):
            layers += [nn.Linear(a, b), nn.SiLU()]
        networks.append(nn.Sequential(*layers, nn.Linear(hidden[-1], 2 * outputs)))
        optimizers.append(torch.optim.Adam(networks[-1].parameters(), lr=1e-3, fused=True))
    low, high = torch.full((outputs,), -10.0), torch.full((outputs,), 0.5)

    def train(x: Tensor, y: Tensor) -> None:
        for network, optimizer, rows, targets in zip(networks, optimizers, x, y, strict=True):
            mean, log_variance = network(rows).split(outputs, -1)
            optimizer.zero_grad()
            gaussian_nll(mean, bound_log_variance(log_variance, low, high), targets).mean().backward()
            optimizer.step()

    return train


def cpu_seconds(step: Step, x: Tensor, y: Tensor, steps: int) -> float:
    began = time.process_time()
    for _ in range(steps):
        step(x, y)
    return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=7)
    parser.add_argument("--inputs", type=int, default=4)
    parser.add_argument("--outputs", type=int, default=4)
    parser.add_argument("--hidden", type=lambda text: [int(n) for n in text.split(",")], default=[64, 64, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.members, args.batch, args.inputs)
    y = torch.randn(args.members, args.batch, args.outputs)
    sizes = (args.members, args.inputs, args.outputs, args.hidden)
    ours, theirs = make_batched(*sizes), make_loop(*sizes)
    for step in (ours, theirs):
        cpu_seconds(step, x, y, args.steps)  # the first steps allocate
    pairs = [[cpu_seconds(step, x, y, args.steps) for step in (ours, theirs)] for _ in range(args.pairs)]
    batched, loop = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    print(f"batched {1e3 * batched:.2f} ms of CPU a step, loop {1e3 * loop:.2f} ms")
    print(f"ratio: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
