"""`torchstone predict`."""

import argparse
import json
from typing import Any

from torchstone.cli.main import LAST_HELP, positive
from torchstone.errors import BadInput

OLD_OPTIONS = {"--beams": "--beam-size"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="files, folders of them, or texts")
    parser.add_argument("--examples", metavar="FILE", help="few-shot: inputs and outputs before each text")
    parser.add_argument("--fill", metavar="TEXT", help="masked language model: fill each [MASK] of TEXT")
    parser.add_argument("--beam-size", metavar="N", type=positive, help="beam search width; 1 is greedy")
    parser.add_argument("--horizon", metavar="N", type=positive, help="forecast horizon in time steps")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="forecasts: a plot (.png) or the numbers (.csv); default: NAME-forecast.png",
    )
    parser.add_argument(
        "--explain", metavar="FILE.png", help="Grad-CAM and saliency over each image (segmentation: the mask)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--last", action="store_true", help=LAST_HELP)
    parser.add_argument("--json", action="store_true", help="as JSON, with all probabilities")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import predict

    options: dict[str, Any] = {} if args.fill is None else {"fill": True}
    for name in ("examples", "beam_size", "horizon", "out"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    inputs = [*args.inputs, *([] if args.fill is None else [args.fill])]
    if not inputs:
        raise BadInput("predict what? Give files, or texts")
    answers = predict(args.run, inputs, device=args.device, last=args.last, explain=args.explain, **options)
    if args.json:
        print(json.dumps(answers, indent=1))
        return
    for answer in answers:
        if "text" in answer:
            print(answer["text"])
            for gap in answer.get("candidates", ()):
                print("  " + ", ".join(f"{c['word']} ({c['probability']:.1%})" for c in gap))
            continue
        print(f"{answer['input']}: {answer['label']} ({answer['probability']:.1%})")
    for file in [a["file"] for a in answers if "file" in a] + [args.explain] * bool(args.explain):
        print(f"{'picture' if file.endswith('.png') else 'file'}: {file}")
