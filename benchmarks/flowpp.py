"""A training step of Flow++ beside the paper's equations written plainly, with the same weights, and sampling.

    python benchmarks/flowpp.py [--variant flowpp_digits] [--batch 64] [--pairs 7]

No trustworthy implementation is there to be installed, so the other side is `torchstone.references.flowpp`:
torch's own operations, a loop over the heads of attention and over the nine shifts of a convolution, derivatives
of the mixture by automatic differentiation. One process, in turn; seconds of CPU. The result is the median of
the ratios, pair by pair (theirs / ours: above 1 we are faster). A step is the bound, its gradient, and AdamW.
Outputs are compared first. Samples are inverse passes, by bisection.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from torchstone.parts.flow.coupling import standard_normal_log_prob
from torchstone.references import randomize_weights
from torchstone.references.flowpp import ReferenceFlowPP
from torchstone.systems.generative.flowpp import VARIANTS
from torchstone.verify import relative_error

DEFAULTS = {"width": 32, "blocks": 2, "components": 8, "heads": 4, "couplings": (4, 2, 3), "levels": 256}
DEFAULTS |= {"dropout": 0.2, "dequantization_couplings": 4, "dequantization_blocks": 2, "context": 32}


def step_of(flow: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        z, log_det = flow(*inputs)
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
    parser.add_argument("--variant", default="flowpp_digits", choices=[*VARIANTS])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    make = VARIANTS[args.variant].make
    model = randomize_weights(make(), 0.01, add=True)
    theirs = ReferenceFlowPP(model.named_parameters(), DEFAULTS | make.keywords)
    images = torch.randint(0, 256, (args.batch, *model.shape)).float()
    inputs = (images, torch.randn_like(images))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, outputs", end=" ")
    outputs = []
    for network in (model.eval(), theirs.eval()):
        with torch.no_grad():
            outputs.append(network(*inputs))
        network.train()
    print(f"{relative_error(*outputs):.1e} apart")
    ours_step, their_step = step_of(model, inputs), step_of(theirs, inputs)
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
        f"ours {1e3 * mine:.0f} ms, equations {1e3 * other:.0f} ms"
    )
    model.eval()
    samples = [seconds(lambda: model.sample(args.batch)) for _ in range(args.pairs)]
    print(f"{args.batch} samples: ours {1e3 * statistics.median(samples):.0f} ms")


if __name__ == "__main__":
    main()
