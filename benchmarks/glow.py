"""A training step and sampling of Glow beside nflows' blocks put together to the same map, with the same weights.

    python benchmarks/glow.py [--side 8] [--channels 1] [--width 64] [--depth 8] [--scales 2] [--batch 64] [--pairs 7]

One process, in turn; seconds of CPU. The result is the median of the ratios, pair by pair (theirs / ours: above 1
we are faster). A step is −log p, its gradient, and AdamW. Outputs are compared first. nflows 0.14 calls functions
that torch has removed in the inverse of its 1 × 1 convolutions, so of sampling there is only our own figure.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from torchstone.parts.flow.coupling import standard_normal_log_prob
from torchstone.references import randomize_weights
from torchstone.references.glow import nflows_glow
from torchstone.systems.generative.glow import Glow
from torchstone.verify import relative_error


def step_of(flow: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in flow.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        z, log_det = flow(x)
        (-(standard_normal_log_prob(z) + log_det).mean()).backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"side": 8, "channels": 1, "width": 64, "depth": 8, "scales": 2, "batch": 64, "pairs": 7}
    for name, number in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Glow((args.channels, args.side, args.side), args.width, args.depth, args.scales)
    model = randomize_weights(model, 0.01, add=True)
    theirs, _ = nflows_glow(model)
    x = torch.randn(args.batch, *model.shape)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, outputs", end=" ")
    with torch.no_grad():
        print(f"{relative_error(model(x), theirs(x)):.1e} apart")
    ours_step, their_step = step_of(model, x), step_of(theirs, x)
    for work in (ours_step, their_step):
        work()
    times = []
    for pair in range(args.pairs):
        order = (ours_step, their_step) if pair % 2 else (their_step, ours_step)
        elapsed = {work: seconds(work) for work in order}
        times.append((elapsed[ours_step], elapsed[their_step]))
    ratios = sorted(other / mine for mine, other in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"training step: {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"ours {1e3 * mine:.0f} ms, nflows {1e3 * other:.0f} ms"
    )
    samples = [seconds(lambda: model.sample(args.batch)) for _ in range(args.pairs)]
    print(f"{args.batch} samples: ours {1e3 * statistics.median(samples):.0f} ms")


if __name__ == "__main__":
    main()
