"""`torchstone predict`."""

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

from torchstone.cli.main import LAST_HELP, positive
from torchstone.errors import BadInput

OLD_OPTIONS = {"--beams": "--beam-size"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="files, folders of them, or texts")
    parser.add_argument("--examples", metavar="FILE", help="few-shot: inputs and outputs before each text")
    parser.add_argument(
        "--fill",
        metavar="TEXT",
        nargs="?",
        const="",
        help="masked language model: fill each [MASK] of TEXT, or of the inputs",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="visual question answering: the question")
    parser.add_argument(
        "--labels",
        metavar="TEXTS",
        help="pictures and texts (clip): which of these, separated by commas, fits each picture best",
    )
    parser.add_argument(
        "--search",
        metavar="TEXT",
        help="pictures and texts (clip): the pictures from the one that TEXT fits best on",
    )
    parser.add_argument("--beam-size", metavar="N", type=positive, help="beam search width; 1 is greedy")
    parser.add_argument("--to", metavar="DOMAIN", help="translation of pictures: the domain, a or b")
    parser.add_argument("--horizon", metavar="N", type=positive, help="forecast horizon in time steps")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="forecasts: a plot (.png) or the numbers (.csv), by default NAME-forecast.png; --search: the "
        "pictures found, by default search.png; translation: the picture, by default NAME-DOMAIN.png",
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
    for name in ("prompt", "examples", "labels", "search", "beam_size", "to", "horizon", "out"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    inputs = [*args.inputs, *([args.fill] if args.fill else [])]
    if not inputs:
        raise BadInput("predict what? Give files, or texts")
    options |= {"last": args.last, "explain": args.explain}
    answers = predict(args.run, inputs, device=args.device, keep_going=True, **options)
    refused = sum("error" in answer for answer in answers)
    if args.json:
        print(json.dumps(answers, indent=1))
    else:
        for answer in answers:
            for line in lines(answer, is_named=len(answers) > 1):
                print(line)
        explained = [args.explain] * bool(args.explain and refused < len(answers))
        for file in [answer["file"] for answer in answers if "file" in answer] + explained:
            print(f"{'picture' if file.endswith('.png') else 'file'}: {file}")
    if refused:
        raise BadInput(f"{refused} of {len(answers)} inputs without an answer")


def lines(answer: Mapping[str, Any], *, is_named: bool = False) -> list[str]:
    """What is printed of an answer; of one of several files (`is_named`) with its name."""
    from torchstone.plots.canvas import percent

    if "error" in answer:
        named = answer["input"] in answer["error"]
        return ["no answer: " + ("" if named else f"{answer['input']}: ") + answer["error"]]
    if "text" in answer:
        gaps = answer.get("candidates", ())
        words = [
            ", ".join(f"{each['word']} ({percent(each['probability'])})" for each in gap) for gap in gaps
        ]
        # of a text the answer is what follows it, or stands in its place
        name = f"{answer['input']}: " if is_named and os.path.isfile(answer["input"]) else ""
        return [name + answer["text"], *(f"  {line}" for line in words)]
    if "domain" in answer:
        return [f"{answer['input']}: translated to {answer['domain']}"]
    if "similarity" in answer:
        return [f"{answer['input']}: {answer['similarity']:.2f}"]
    figure = ""
    if "validation_rank" in answer:
        figure = f"likelier than {percent(answer['validation_rank'])} of the validation data"
    elif "share" in answer:
        probability = percent(answer["mean_probability"])
        figure = f"{percent(answer['share'])} of the pixels, with a mean probability of {probability}"
    else:
        figure = percent(answer["probability"])
    return [f"{answer['input']}: {answer['label']} ({figure})"]
