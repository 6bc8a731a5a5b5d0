"""A training step and 20-step sampling of DiT against diffusers: the same transformer, weights and schedule.

    python benchmarks/dit.py [--net mnist|s_2] [--batch 8] [--steps 20] [--pairs 9]

Both run in one process, in turn, on one thread; the result is the median of the ratios of CPU time, pair by pair
(theirs / ours: above 1 we are faster). A training step is noising, forward, mean squared error, backward and
AdamW; sampling is DDIM with guidance 4, latents alone. Outputs and samples are compared first. In diffusers each
block embeds timestep and class itself; ours does it once.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.hub.dit import denoiser_config, published_denoiser
from torchstone.parts.diffusion.process import DiffusersCompat, DiffusionProcess
from torchstone.references.diffusers import import_diffusers
from torchstone.systems.generative import dit
from torchstone.tasks.diffusion.sampler import SamplingConfig, generate, guided_denoiser
from torchstone.verify import relative_error

# heads, their width, layers, patch, latents a side, channels
NETS = {"mnist": (5, 32, 4, 1, 7, 4), "s_2": (6, 64, 12, 2, 32, 4)}
GUIDANCE = 4.0


def networks(name: str) -> tuple[Any, Any]:
    """Ours and theirs, with the same weights; one embedder in all blocks."""
    heads, head_width, layers, patch, size, channels = NETS[name]
    theirs = import_diffusers().DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        num_layers=layers,
        patch_size=patch,
        sample_size=size,
        in_channels=channels,
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    first = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    config = dit.DiTConfig(**denoiser_config(theirs.config))
    process = DiffusionProcess(
        clip_sample_range=None, sampler="ddim", compat=DiffusersCompat(fixed_stride=True)
    )
    ours = dit.LatentDiT(config, None, process)
    ours.denoiser.load_state_dict(published_denoiser(theirs.state_dict()))
    return ours.eval(), theirs.eval()  # no labels dropped on either side


def compare(title: str, both: tuple[Callable, Callable], pairs: int) -> None:
    """Print the median of the pairs' ratios, and both medians."""
    for work in both:
        work()
    times = []
    for pair in range(pairs):
        elapsed = {}
        for which in (0, 1) if pair % 2 else (1, 0):
            began = time.process_time()
            both[which]()
            elapsed[which] = time.process_time() - began
        times.append((elapsed[0], elapsed[1]))
    ratios = sorted(theirs / ours for ours, theirs in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{title}: {statistics.median(ratios):.3f}x ({ratios[0]:.3f} to {ratios[-1]:.3f}), "
        f"ours {1e3 * mine:.0f} ms, diffusers {1e3 * other:.0f} ms of CPU time",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", default="mnist", choices=list(NETS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="number of sampling steps")
    parser.add_argument("--pairs", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours, theirs = networks(args.net)
    schedule = ours.process.noise_schedule()
    library = import_diffusers()
    adding, drawing = library.DDPMScheduler(), library.DDIMScheduler(clip_sample=False)
    x, epsilon = torch.randn(2, args.batch, *ours.shape)
    t, labels = torch.randint(1000, (args.batch,)), torch.randint(1000, (args.batch,))
    error = relative_error(ours(x, t, labels), theirs(x, t, labels).sample)
    print(f"{args.net}, batch {args.batch}, relative error of outputs {error:.1e}")
    assert error < 1e-4
    optimizers = [torch.optim.AdamW(net.parameters(), 1e-6) for net in (ours, theirs)]

    def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def our_step() -> None:
        step(optimizers[0], F.mse_loss(ours(schedule.add_noise(x, epsilon, t), t, labels), epsilon))

    def their_step() -> None:
        step(optimizers[1], F.mse_loss(theirs(adding.add_noise(x, epsilon, t), t, labels).sample, epsilon))

    def our_samples() -> torch.Tensor:
        denoise_fn = guided_denoiser(ours, labels, GUIDANCE)
        return generate(dit.p_sample, ours, x, SamplingConfig(args.steps), denoise_fn=denoise_fn)

    @torch.no_grad()
    def their_samples() -> torch.Tensor:
        """What the pipeline does, without decoding."""
        drawing.set_timesteps(args.steps)
        z, both = x, torch.cat([labels, torch.full_like(labels, 1000)])
        for level in drawing.timesteps:
            output = theirs(torch.cat([z, z]), level.expand(2 * len(z)), both).sample
            conditional, unconditional = output.chunk(2)
            guided = unconditional + GUIDANCE * (conditional - unconditional)
            z = drawing.step(guided, level, z).prev_sample
        return z

    error = relative_error(our_samples(), their_samples())
    print(f"relative error of samples {error:.1e}")
    assert error < 1e-3
    compare("training step", (our_step, their_step), args.pairs)
    compare(f"{args.steps} steps of DDIM", (our_samples, their_samples), args.pairs)


if __name__ == "__main__":
    main()
