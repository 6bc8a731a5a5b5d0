"""A training step and 50-step sampling of DDPM against diffusers: the same U-Net, weights and schedule.

    python benchmarks/generative.py [--net cifar10|mnist] [--batch 4] [--steps 50] [--pairs 7] [--compile]

Both run in one process, in turn, so that other load on the machine affects both alike. The result is the
median of the ratios, pair by pair (theirs / ours: above 1 we are faster). A training step is noising,
forward, mean squared error, backward and Adam; sampling is 50 steps of DDIM. Outputs and samples are compared
first. Dropout is off on both sides, since it draws other numbers. Each side has its library's own memory
layout: ours is channels last on CUDA, theirs the default; `--last` makes both channels last. With `--compile`
both networks are compiled.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.engine.device import select_device
from torchstone.references.diffusers import import_diffusers
from torchstone.systems.generative import ddpm
from torchstone.tasks.diffusion.sampler import generate
from torchstone.verify import relative_error

KINDS = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
# (side, channels, widths, attention, blocks a grid, groups)
NETS = {
    "cifar10": (32, 3, (128, 256, 256, 256), (False, True, False, False), 2, 32),
    "mnist": (28, 1, (48, 96), (False, True), 1, 8),
}


def networks(name: str) -> tuple[Any, Any]:
    """Ours and theirs, with the same weights."""
    size, channels, widths, attention, depth, groups = NETS[name]
    theirs = import_diffusers().UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=depth,
        block_out_channels=widths, norm_num_groups=groups, attention_head_dim=None, norm_eps=1e-6,
        down_block_types=tuple(KINDS[0][each] for each in attention), downsample_padding=0,
        up_block_types=tuple(KINDS[1][each] for each in attention[::-1]), freq_shift=1,
        flip_sin_to_cos=False,
    )  # fmt: skip
    for parameter in theirs.parameters():
        if parameter.ndim > 1:  # as initialized, but none of them zero
            nn.init.xavier_uniform_(parameter)
    scheduler = {"_class_name": "DDIMScheduler"}
    config = json.loads(theirs.to_json_string()) | {"scheduler": scheduler}
    ours = ddpm.UNet(**ddpm.from_config(config)[1])
    ours.load_state_dict(ddpm.published("", theirs.state_dict()))
    return ours, theirs


def seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(title: str, both: tuple[Callable, Callable], pairs: int, device: torch.device) -> None:
    """Print the median of the pairs' ratios, and both medians."""
    for work in both:
        work()  # buffers, and kernel selection
    times = []
    for pair in range(pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        elapsed = {which: seconds(both[which], device) for which in order}
        times.append((elapsed[0], elapsed[1]))
    ratios = sorted(theirs / ours for ours, theirs in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{title}: {statistics.median(ratios):.3f}x ({ratios[0]:.3f} to {ratios[-1]:.3f}), "
        f"ours {1e3 * mine:.0f} ms, diffusers {1e3 * other:.0f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", default="cifar10", choices=list(NETS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50, help="number of sampling steps")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--last", action="store_true", help="channels last on both sides")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = select_device(args.device)
    torch.manual_seed(0)
    ours, theirs = (net.to(device) for net in networks(args.net))
    if args.last or device.type == "cuda":
        ours = ours.to(memory_format=torch.channels_last)
    if args.last:
        theirs = theirs.to(memory_format=torch.channels_last)
    process, shape = ours.process, (args.batch, *ours.shape)
    own, other = (torch.compile(ours), torch.compile(theirs)) if args.compile else (ours, theirs)
    library = import_diffusers()
    adding, drawing = library.DDPMScheduler(), library.DDIMScheduler()
    noise = process.noise().to(device)
    x, epsilon = torch.rand(2, *shape, device=device) * 2 - 1
    t = torch.randint(1000, (args.batch,), device=device)
    error = relative_error(own(x, t), other(x, t).sample)
    assert error < 1e-3, f"the networks differ by {error}"
    print(
        f"{args.net}, {sum(p.numel() for p in ours.parameters()):,} parameters, batch {args.batch}, "
        f"{torch.get_num_threads()} threads, {device}, {'compiled' if args.compile else 'eager'}; "
        f"relative error of outputs {error:.1e}"
    )
    optimizers = [torch.optim.Adam(net.parameters(), 1e-6) for net in (ours, theirs)]

    def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def our_step() -> None:
        step(optimizers[0], F.mse_loss(own(noise.add(x, epsilon, t), t), epsilon))

    def their_step() -> None:
        noisy = adding.add_noise(x, epsilon, t)
        step(optimizers[1], F.mse_loss(other(noisy, t).sample, epsilon))

    start = torch.randn(shape, device=device)

    def our_samples(net: Any = own, first: torch.Tensor = start) -> torch.Tensor:
        return generate(ours, first, steps=args.steps, says=lambda x, t: net(x, t))

    @torch.no_grad()
    def their_samples(net: Any = other, first: torch.Tensor = start) -> torch.Tensor:
        drawing.set_timesteps(args.steps)
        x = first
        for level in drawing.timesteps:
            x = drawing.step(net(x, level).sample, level, x).prev_sample
        return x

    # a random network amplifies rounding from step to step: so one image, in float64
    exact = [copy.deepcopy(net).double() for net in (ours, theirs)]
    one = start[:1].double()
    error = relative_error(our_samples(exact[0], one), their_samples(exact[1], one))
    assert error < 1e-4, f"the samples differ by {error}"
    print(f"relative error of samples {error:.1e}")
    compare("training step", (our_step, their_step), args.pairs, device)
    compare(f"{args.steps} steps of DDIM", (our_samples, their_samples), args.pairs, device)


if __name__ == "__main__":
    main()
