"""`torchstone sample`."""

import argparse
from pathlib import Path

from torchstone.cli.main import LAST_HELP, positive
from torchstone.errors import BadInput

OLD_OPTIONS = {
    "--guidance": "--guidance-scale",
    "--steer": "--classifier-scale",
    "--steps": "--sampling-steps",
    "--known": "--inpaint-image",
    "--length": "--max-new-tokens",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder; with --weights the name of a network")
    add("--weights", metavar="FILE", help="published weights, in place of a run")
    add("--prompt", metavar="TEXT", help="prompt: the text's beginning, the image's caption, or a sound FILE")
    add(
        "--upsample", metavar="WHEN", help="DALL-E 3: rewrite a short prompt in detail: auto, always or never"
    )
    add("--label", metavar="K", help="class label of the images or sounds (default: all in turn)")
    add("--from-label", metavar="K", help="path in latent space: the class it begins at, with --to-label")
    add("--to-label", metavar="K", help="the class that it ends at, or whose direction it takes")
    add("--image", metavar="FILE", help="the image, or folder of them, that it begins at (default: samples)")
    add(
        "--init-image",
        metavar="FILE",
        help="diffusion: image to begin with, in place of noise; DALL-E 2: alone, its variations",
    )
    add("--to-image", metavar="FILE", help="diffusion: with --init-image, the image that a path leads to")
    add(
        "--from-prompt",
        metavar="TEXT",
        help="diffusion: with --init-image, its caption now, and --prompt then",
    )
    add("--negative-prompt", metavar="TEXT", help="latent diffusion: what guidance leads away from")
    add(
        "--strength",
        metavar="X",
        type=float,
        help="how far an image is taken back to noise, 0 to 1 (default: 0.8; in-painting: 1)",
    )
    add("--inpaint-image", metavar="FILE", help="inpainting: the known image, with --mask")
    add("--mask", metavar="FILE", help="inpainting mask of its size, white where it is to be filled in")
    add("-n", "--num-samples", metavar="N", type=positive, help="number of samples")
    add("--max-new-tokens", metavar="N", type=positive, help="number of generated tokens, or of music frames")
    add(
        "--temperature",
        metavar="X",
        type=float,
        help="sampling temperature (<1 more deterministic, >1 more random)",
    )
    add("--top-k", metavar="N", type=int, help="top-k sampling: only the N most likely tokens")
    add("--top-p", metavar="X", type=float, help="nucleus sampling: the most likely tokens of mass X")
    add("--seed", metavar="N", type=int, help="random seed of the samples (default: 0)")
    add(
        "--guidance-scale",
        metavar="S",
        type=float,
        help="diffusion: classifier-free guidance, 1 for none, 3 is strong",
    )
    add("--classifier-scale", metavar="S", type=float, help="diffusion: scale of classifier guidance")
    add("--sampling-steps", metavar="N", type=positive, help="diffusion: number of sampling steps")
    add("--sampler", metavar="NAME", help="diffusion: ddpm, ddim; latent: ddim, plms, dpm_solver++, euler")
    add("--precision", metavar="P", help="latent diffusion: fp32, or bf16 at half the memory")
    add("--attention-slices", metavar="N", type=positive, help="latent diffusion: attention in N parts")
    add("--eta", metavar="X", type=float, help="DDIM η: 0 deterministic, 1 as stochastic as DDPM")
    add("--truncation", metavar="X", type=float, help="GAN: truncation, 1 for none; less, fewer odd images")
    add(
        "--mix-styles",
        metavar="FIRST-LAST",
        help="StyleGAN: a sheet of images whose layers FIRST to LAST have the styles of others",
    )
    add("--tempo", metavar="X", type=float, help="music: tempo in quarter notes per minute")
    add("--out", metavar="FILE", help="output file: of music .mid, sound .wav, images .png, a film .gif")
    add("--last", action="store_true", help=LAST_HELP)
    add("--device", default="auto", help="auto, cpu, cuda or mps")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import sample
    from torchstone.runs.recipes import read_recipe

    # a file of music or images is written by the system, a text here
    is_written = args.out is not None and args.out.lower().endswith((".mid", ".midi", ".wav", ".png", ".gif"))
    excluded = ("run", *(() if is_written else ("out",)))
    options = {k: v for k, v in vars(args).items() if k not in excluded and v is not None}
    if not is_written and (args.weights or read_recipe(Path(args.run))[0].chapter == "generative"):
        own = {} if args.weights else vars(read_recipe(Path(args.run))[0].module())
        what, file = own.get("SAMPLES", ("images", "FILE.png"))
        raise BadInput(f"{args.run} generates {what}: give the file with --out {file}")
    texts = sample(args.run, **options)
    joined = "\n\n".join(texts)
    if args.out is None or is_written:
        print(joined)
        return
    try:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(joined + "\n")
    except OSError as error:
        raise BadInput(f"cannot write {args.out} ({error.strerror}): choose another --out") from None
    print(args.out)
