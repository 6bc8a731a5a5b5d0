"""`torchstone eval`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone.cli.main import LAST_HELP, positive
from torchstone.errors import BadInput

if TYPE_CHECKING:  # it imports torch
    from torchstone.runs.evaluate import EvaluatedOn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--data", metavar="SPEC", help="a bundled set, a folder, hf:NAME, or an environment")
    parser.add_argument(
        "--inception",
        metavar="FILE.pth",
        help="of image generators: Inception weights, for FID, precision and recall",
    )
    parser.add_argument(
        "--shots",
        metavar="K,K,…",
        type=numbers,
        help="few-shot: accuracy of a language model with so many examples in its context (0,1,4,16)",
    )
    parser.add_argument(
        "--label-words", metavar="WORD,…", help="few-shot: what stands for each label; default: its name"
    )
    parser.add_argument("--draws", metavar="N", type=positive, help="few-shot: draws of examples; default: 5")
    parser.add_argument(
        "--max-examples", metavar="N", type=positive, help="few-shot: texts asked about; default: 200"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="few-shot: seed of the draws; default: 0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--last", action="store_true", help=LAST_HELP)
    parser.add_argument("--json", action="store_true", help="as JSON")


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, for argparse."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        message = f"{text!r} is no list of whole numbers, such as 0,1,4,16"
        raise argparse.ArgumentTypeError(message) from None


def run(args: argparse.Namespace) -> None:
    from torchstone.runs.evaluate import FEW_SHOT, evaluate, evaluate_few_shot

    few_shot = {name: getattr(args, name) for name in FEW_SHOT if getattr(args, name) is not None}
    if args.shots is not None:
        if args.inception is not None:
            raise BadInput("--inception is of image generators, --shots of language models: leave one out")
        if args.label_words is not None:
            few_shot["label_words"] = args.label_words.split(",")
        metrics, evaluated_on, picture = evaluate_few_shot(
            Path(args.run), args.data, args.device, few_shot, last=args.last
        )
        report(metrics, evaluated_on, as_json=args.json)
        if picture is not None and not args.json:
            print(f"picture: {picture}")
        return
    if few_shot:
        raise BadInput(f"--{min(few_shot).replace('_', '-')} belongs to --shots: give both")
    options = {} if args.inception is None else {"inception": args.inception}
    metrics, evaluated_on = evaluate(Path(args.run), args.data, args.device, options, last=args.last)
    report(metrics, evaluated_on, as_json=args.json)


def report(metrics: dict[str, float], evaluated_on: "EvaluatedOn", *, as_json: bool) -> None:
    """Print the metrics of an evaluation."""
    if as_json:
        print(json.dumps(metrics | {"data": evaluated_on._asdict()}))
        return
    print(evaluated_on.line())
    width = max(16, *map(len, metrics)) if metrics else 16
    for name, value in metrics.items():
        print(f"{name:<{width}} {value:.4f}" if isinstance(value, float) else f"{name:<{width}} {value}")
