"""`torchstone eval`."""

import argparse
import json
from pathlib import Path

from torchstone.cli.main import LAST_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--data", metavar="SPEC", help="a bundled set, a folder, hf:NAME, or an environment")
    parser.add_argument(
        "--inception",
        metavar="FILE.pth",
        help="of image generators: Inception weights, for FID, precision and recall",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--last", action="store_true", help=LAST_HELP)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> None:
    from torchstone.runs.evaluate import evaluate

    options = {} if args.inception is None else {"inception": args.inception}
    metrics, evaluated_on = evaluate(Path(args.run), args.data, args.device, options, last=args.last)
    if args.json:
        print(json.dumps(metrics | {"data": evaluated_on._asdict()}))
        return
    print(evaluated_on.line())
    width = max(16, *map(len, metrics)) if metrics else 16
    for name, value in metrics.items():
        print(f"{name:<{width}} {value:.4f}" if isinstance(value, float) else f"{name:<{width}} {value}")
