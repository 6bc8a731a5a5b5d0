"""A forward and backward pass of StyleGAN2's generator beside spandrel's, with the same weights.

    python benchmarks/stylegan.py [--sides 64 128 256] [--channel-base 32768] [--batch 4] [--pairs 5]

One process, in turn; seconds of CPU. The result is the median of the ratios, pair by pair (theirs / ours: above 1
we are faster). Peak memory is that of a pass in a process of its own, above what it took before. Images are
compared first; random styles, random noise, the gradient of all weights of the synthesis network and mapping.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchstone.hub.stylegan import from_port
from torchstone.references import randomize_weights
from torchstone.references.stylegan import spandrel_generator, to_port
from torchstone.systems.generative.stylegan import Generator


def pair_of_generators(side: int, channel_base: int) -> tuple[Generator, nn.Module]:
    torch.manual_seed(0)
    ours = Generator(side, channel_base=channel_base)
    randomize_weights(ours, 0.1, add=True)
    theirs = spandrel_generator(side, 512, 8, channel_base, 512)
    with torch.no_grad():
        own = dict(ours.named_parameters())
        for name, view in from_port(to_port(dict(theirs.named_parameters()))).items():
            view.copy_(own[name])
    return ours.to(memory_format=torch.channels_last), theirs


def passes(ours: Generator, theirs: nn.Module, batch: int) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward of both, on the same latents and noise."""
    z, noise = torch.randn(batch, 512), torch.randn(batch, ours.noise_size)
    maps = [
        part.view(batch, 1, conv.size, conv.size)
        for part, conv in zip(noise.split(ours.noise_sizes, 1), ours.convs, strict=True)
    ]

    def run(network: nn.Module, forward: Callable[[], Tensor]) -> Tensor:
        network.zero_grad()
        images = forward()
        images.square().mean().backward()
        return images.detach()

    return {
        "ours": lambda: run(ours, lambda: ours(z, None, noise)),
        "spandrel": lambda: run(theirs, lambda: theirs([z], noise=maps)[0]),
    }


def peak_mebibytes(make: Callable[[], Callable[[], Tensor]]) -> float:
    """Of a pass in a child process, above what the child had before it."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        work = make()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(write, str((after - before) / 1024).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return float(os.read(read, 100))


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--channel-base", type=int, default=32768)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for side in args.sides:
        memory = {}
        for name in ("ours", "spandrel"):
            memory[name] = peak_mebibytes(
                lambda name=name, side=side: passes(*pair_of_generators(side, args.channel_base), args.batch)[
                    name
                ]
            )
        works = passes(*pair_of_generators(side, args.channel_base), args.batch)
        images = {name: work() for name, work in works.items()}
        apart = (images["ours"] - images["spandrel"]).abs().max() / images["spandrel"].abs().max()
        times = []
        for pair in range(args.pairs):
            order = list(works)[:: 1 if pair % 2 else -1]
            times.append({name: seconds(works[name]) for name in order})
        ratios = sorted(each["spandrel"] / each["ours"] for each in times)
        middle = {name: statistics.median(each[name] for each in times) for name in works}
        print(
            f"{side}x{side}, images {apart:.0e} apart: {statistics.median(ratios):.2f}x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}), ours {middle['ours']:.2f} s, spandrel "
            f"{middle['spandrel']:.2f} s; peak memory {memory['ours'] / memory['spandrel']:.2f}x "
            f"({memory['ours']:.0f} and {memory['spandrel']:.0f} MiB)",
            flush=True,
        )


if __name__ == "__main__":
    main()
