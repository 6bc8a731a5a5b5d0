"""A step of the latent U-Net and 20-step sampling beside diffusers, with the same weights; and beside pixels.

    python benchmarks/latent_diffusion.py [step sample pixels memory compiled] [--batch 8] [--pairs 5]
    python benchmarks/latent_diffusion.py quality --runs LDM_RUN DDPM_RUN [--count 89] [--judge CLIP_RUN]
    python benchmarks/latent_diffusion.py sd1

One process, in turn; seconds of CPU. The result is the median of the ratios, pair by pair (theirs / ours: above 1
we are faster). The U-Net is that of `ldm_emoji`. `step` is a training step: squared error, gradient, AdamW.
`sample` is 20 steps of DPM-Solver++ with guidance, theirs the bare loop of scheduler and U-Net. `pixels` compares
the images a second of `ldm_emoji`, decoded, with those of `ddpm_emoji64`, by 25 guided steps of DDIM each.
`memory` is what a training step and the sampling add to a fresh process's peak. `compiled` is our compiled step
beside their eager one. `quality` compares two trained runs by samples of the test split's captions: the Fréchet
distance in the features of a random convolutional network of a fixed seed (Frechet features need no training to
rank two sets of drawings), of the autoencoder's reconstructions too, and captions matched as `ddpm` measures it;
with a `--judge` the same by embeddings of a trained CLIP. `sd1` is the peak memory of Stable Diffusion 1 in
bfloat16 (random weights; of a guided step and of decoding, 512 × 512).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import torchstone as ts
from torchstone.data.text.tokenizers import from_metadata
from torchstone.data.vision.captioned import load_captioned, token_ids
from torchstone.hub.stable_diffusion import published_unet
from torchstone.metrics.memorization import caption_match
from torchstone.parts.diffusion.solvers import Solver
from torchstone.parts.metrics.fidelity_diversity import frechet_distance
from torchstone.parts.metrics.retrieval import recall_at, retrieval_ranks
from torchstone.plots.sample_grid import save_image_grid, symmetric_range, to_uint8
from torchstone.references import randomize_weights
from torchstone.references.diffusers import import_diffusers
from torchstone.systems.generative import ddpm, ldm
from torchstone.tasks.diffusion.sampler import SamplingConfig, sample_images
from torchstone.tasks.vision import image_text
from torchstone.verify import relative_error

STEPS, SCALE, WORDS = 20, 3.0, 10
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def make_ours() -> Any:
    torch.manual_seed(0)
    return ldm.VARIANTS["ldm_emoji"].make()


def make_theirs() -> Any:
    torch.manual_seed(0)
    return import_diffusers().UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=128,
    )


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, 4, 16, 16, generator=generator)
    text = torch.randn(batch, WORDS, 128, generator=generator)
    return z, torch.randint(1000, (batch,), generator=generator), text


def step_of(call: Callable[..., torch.Tensor], network: nn.Module, batch: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    z, t, text = inputs(batch)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(call(z, t, text), z).backward()
        optimizer.step()

    return step


def our_sampling(model: Any, batch: int) -> Callable[[], torch.Tensor]:
    z, _, text = inputs(batch)

    def sample() -> torch.Tensor:
        solver = Solver(model.process, "dpm_solver++", STEPS)
        (x,) = deque(ldm.generate(model, solver, z, text, torch.zeros_like(text), SCALE), maxlen=1)
        return x  # the last latents alone are kept, as theirs are

    return sample


def their_sampling(network: Any, batch: int) -> Callable[[], torch.Tensor]:
    z, _, text = inputs(batch)
    both = torch.cat([torch.zeros_like(text), text])

    @torch.no_grad()
    def sample() -> torch.Tensor:
        scheduler = import_diffusers().DPMSolverMultistepScheduler(
            **BETAS, prediction_type="v_prediction", timestep_spacing="leading"
        )
        scheduler.set_timesteps(STEPS)
        x = z
        for t in scheduler.timesteps:
            empty, conditional = network(torch.cat([x, x]), t, both).sample.chunk(2)
            x = scheduler.step(empty + SCALE * (conditional - empty), t, x).prev_sample
        return x

    return sample


def output_of(network: Any, *given: torch.Tensor) -> torch.Tensor:
    return network(*given).sample


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> None:
    for work in (ours, theirs):
        work()
    times = []
    for pair in range(pairs):
        order = (ours, theirs) if pair % 2 else (theirs, ours)
        elapsed = {work: seconds(work) for work in order}
        times.append((elapsed[ours], elapsed[theirs]))
    ratios = sorted(other / mine for mine, other in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name}: {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f} of {pairs} pairs), "
        f"ours {1e3 * mine:.0f} ms, theirs {1e3 * other:.0f} ms",
        flush=True,
    )


def same_weights() -> tuple[Any, Any]:
    theirs = randomize_weights(make_theirs(), 0.02, add=True)
    ours = make_ours()
    ours.unet.load_state_dict(published_unet(theirs.state_dict()))
    z, t, text = inputs(4)
    with torch.no_grad():
        error = relative_error(ours.unet(z, t, text), theirs(z, t, text).sample)
    count = sum(each.numel() for each in theirs.parameters())
    print(f"{count:,} parameters, outputs {error:.1e} apart", flush=True)
    return ours, theirs


def pixels(batch: int, pairs: int) -> None:
    latent = make_ours().eval()
    latent.autoencoder.latent_scale.fill_(1.0)
    plain = ddpm.VARIANTS["ddpm_emoji64"].make().eval()
    config = SamplingConfig(25, "ddim", guidance_scale=2.0)
    tokens = torch.ones(batch, WORDS, dtype=torch.int64)

    def draw(model: Any) -> Callable[[], torch.Tensor]:
        return lambda: sample_images(ddpm.p_sample, model, batch, config, context=tokens, progress=False)

    compare(f"{batch} images of 64 × 64, latent beside pixels", draw(latent), draw(plain), pairs)


def memory(batch: int) -> None:
    for work in ("step", "sample"):
        peaks = []
        for side in ("ours", "theirs"):
            words = [sys.executable, __file__, f"peak-{side}-{work}", "--batch", str(batch)]
            peaks.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
        print(f"peak memory of a {work}: ours {peaks[0]:.0f} MB, theirs {peaks[1]:.0f} MB", flush=True)


def peak(side: str, work: str, batch: int) -> None:
    both = {"ours": make_ours(), "theirs": make_theirs()}  # what imports leave behind is there on both sides
    model = both[side]
    network = model.unet if side == "ours" else model
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = megabytes("VmRSS")
    if work == "step":
        call = network if side == "ours" else lambda *given: network(*given).sample
        use: Callable[[], object] = step_of(call, network, batch)
    else:
        use = our_sampling(model, batch) if side == "ours" else their_sampling(network, batch)
    for _ in range(2):
        use()
    print(megabytes("VmHWM") - before)


def megabytes(name: str) -> float:
    """Memory of this process by Linux's name for it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def compiled(ours: Any, theirs: Any, batch: int, pairs: int) -> None:
    network = torch.compile(ours.unet)
    step = step_of(network, ours.unet, batch)
    print(f"compiled in {seconds(step):.0f} s of this process", flush=True)
    compare(
        "training step, ours compiled",
        step,
        step_of(lambda *given: theirs(*given).sample, theirs, batch),
        pairs,
    )


def quality(runs: list[str], count: int, steps: int, judge: str | None) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, width in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.ReLU()]
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = load_captioned("openmoji", size=64)
    images = {
        "data": data.train.take(torch.arange(len(data.train))),
        "test": data.test.take(torch.arange(count)),
    }
    captions = [data.captions[i] for i in data.test.labels[:count].tolist()]
    for run in runs:
        model: Any = ts.load(run)
        if hasattr(model, "autoencoder"):
            x = images["test"].float() / 127.5 - 1
            with torch.no_grad():
                rebuilt = torch.cat([model.autoencoder(each)[0] for each in x.split(32)])
            images[f"{run}, reconstructions"] = to_uint8(rebuilt, symmetric_range({"channels": 3}))
        context = token_ids(from_metadata(model.metadata["tokenizer"]), captions, WORDS)
        config = SamplingConfig(steps, "ddim", guidance_scale=2.0)
        began = time.process_time()
        images[run] = sample_images(ddpm.p_sample, model, count, config, context=context, progress=False)
        print(f"{run}: {count / (time.process_time() - began):.2f} images a second of CPU", flush=True)
        save_image_grid(images[run], Path(run) / "quality.png", columns=16)
    with torch.no_grad():
        found = {
            name: torch.cat([features(each.float() / 127.5 - 1) for each in x.split(64)])
            for name, x in images.items()
        }
    for name, x in images.items():
        distance = float(frechet_distance(found[name].double(), found["data"].double()))
        match = caption_match(x, images["test"]) if name != "data" else float("nan")
        print(f"{name}: Fréchet distance {distance:.5f}, match {match:.3f}", flush=True)
    if judge is not None:
        clip_quality(judge, images, captions)


def clip_quality(judge: str, images: dict[str, torch.Tensor], captions: list[str]) -> None:
    """The Fréchet distance of a run of clip's embeddings, and at what rate the caption is among its ten nearest."""
    model: Any = ts.load(judge)
    texts = image_text.embed_texts(model, captions, ts.load_tokenizer(judge))
    relevant, found = image_text.same_caption(captions), {}
    for name, x in images.items():
        small = F.avg_pool2d(x.float(), 2).round().byte()
        found[name] = image_text.embed_images(model, small, model.metadata["picture"]).detach()
    for name, embedding in found.items():
        distance = float(frechet_distance(embedding.double(), found["data"].double()))
        rate = float("nan")
        if name != "data":
            rate = recall_at(retrieval_ranks(embedding @ texts.T, relevant), 10)
        print(f"{name}: by CLIP, Fréchet distance {distance:.5f}, recall at 10 {rate:.3f}", flush=True)


def sd1() -> None:
    """The peak memory of Stable Diffusion 1 in bfloat16 with random weights, at 512 × 512 pixels."""
    with torch.device("meta"):
        model: Any = ldm.VARIANTS["sd1"].make()
    model = model.to_empty(device="cpu")
    began = time.process_time()
    for each in (*model.parameters(), *model.buffers()):
        if each.is_floating_point():
            each.data = torch.empty_like(each, dtype=torch.bfloat16).uniform_(-0.02, 0.02)
        else:
            each.data = torch.zeros_like(each)
    model.eval()
    print(f"weights {megabytes('VmRSS'):.0f} MB resident, {seconds_since(began)}", flush=True)
    z, t = torch.randn(1, 4, 64, 64), torch.full((2,), 500)
    text = torch.randn(1, 77, 768).bfloat16()
    with torch.no_grad():
        began = time.process_time()
        ldm.guided_output(model.unet, z.bfloat16(), t[:1], text, torch.zeros_like(text), 7.5)
        print(f"guided step: peak {megabytes('VmHWM'):.0f} MB, {seconds_since(began)}", flush=True)
        began = time.process_time()
        model.autoencoder.decode(z.bfloat16())
        print(f"and decoded: peak {megabytes('VmHWM'):.0f} MB, {seconds_since(began)}", flush=True)


def seconds_since(began: float) -> str:
    return f"{time.process_time() - began:.0f} s of CPU"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["step", "sample", "pixels", "memory"])
    parser.add_argument("--runs", nargs=2)
    parser.add_argument("--judge", help="a run of clip, of 32 × 32 pixels")
    for name, number in {"batch": 8, "pairs": 5, "count": 89, "steps": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    for part in args.parts:
        if part.startswith("peak-"):
            peak(*part.split("-")[1:], args.batch)
        elif part == "pixels":
            pixels(args.batch, args.pairs)
        elif part == "memory":
            memory(args.batch)
        elif part == "quality":
            quality(args.runs, args.count, args.steps, args.judge)
        elif part == "sd1":
            sd1()
        else:
            ours, theirs = same_weights()
            if part == "sample":
                ours.eval(), theirs.eval()
                a, b = our_sampling(ours, args.batch), their_sampling(theirs, args.batch)
                print(f"sampled latents {relative_error(a(), b()):.1e} apart")
                compare("20-step sampling", a, b, args.pairs)
            elif part == "compiled":
                compiled(ours, theirs, args.batch, args.pairs)
            else:
                a = step_of(ours.unet, ours.unet, args.batch)
                b = step_of(partial(output_of, theirs), theirs, args.batch)
                compare("training step", a, b, args.pairs)


if __name__ == "__main__":
    main()
