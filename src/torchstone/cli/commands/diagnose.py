"""`torchstone diagnose`: a run's loss landscape, gradients and activations by layer, gradient noise scale."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from torchstone.cli.main import positive

    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", metavar="DIR", help="a folder for the pictures (default: RUN/diagnostics)")
    parser.add_argument(
        "--batches", metavar="N", type=positive, default=16, help="batches of the noise scale (default: 16)"
    )


def run(args: argparse.Namespace) -> int:
    from torchstone.api import diagnose

    found = diagnose(args.run, out=None if args.out is None else Path(args.out), batches=args.batches)
    scale = found["noise_scale"]
    print(f"{'loss':<20} {found['loss']:.4f} of a training batch, in evaluation mode")
    shown = f"{scale:.3g} rows" if scale else "too noisy for so few batches (--batches takes more)"
    print(f"{'gradient noise scale':<20} {shown}; the run's batch has {found['batch']}")
    for picture in found["pictures"]:
        print(f"{'picture':<20} {picture}")
    return 0
