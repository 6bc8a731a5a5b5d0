"""`torchstone augment`."""

import argparse
import json
from typing import Any

from torchstone.cli.main import LAST_HELP, positive

EPILOG = (
    "The folder holds the run's images at the generator's size, in train, val and test, and beside them in "
    "train those generated: torchstone train lenet5 --data FOLDER takes it as it is. labels.csv lists them "
    "all. With --measure a classifier is trained here too, on generated and on repeated images."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="run of a class-conditional generator, such as cgan or ddpm")
    add(
        "--per-class", metavar="N", type=positive, required=True, help="training images each class is to have"
    )
    add("--out", metavar="FOLDER", required=True, help="folder of training images, new or empty")
    add("--data", metavar="SPEC", help="images to balance, of the same classes (default: the run's own)")
    add(
        "--measure",
        metavar="SEEDS",
        type=positive,
        help="train a small classifier with and without the new images, so many times; compare recall",
    )
    add("--seed", metavar="N", type=int, default=0, help="random seed of the images (default: 0)")
    add("--last", action="store_true", help=LAST_HELP)
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import augment

    options = {name: value for name, value in vars(args).items() if name not in ("run", "json")}
    summary = augment(args.run, **options)
    if args.json:
        print(json.dumps(summary, indent=1))
        return
    from rich.table import Table

    from torchstone.cli.summary import table_console

    table = Table(box=None, header_style="bold")
    names = {"class": "class", "real": "real", "generated": "generated"}
    if args.measure:
        names |= {"recall_repeated": "recall, repeated", "recall_generated": "recall, generated"}
        names |= {"gain": "gain (95 % interval)"}
    for header in names.values():
        table.add_column(header, justify="left" if header == "class" else "right")
    for row in summary["classes"]:
        table.add_row(*(_cell(row, name) for name in names))
    table_console().print(table)
    if args.measure:
        accuracy = [summary[f"accuracy_{name}"] for name in ("repeated", "generated")]
        print(f"test accuracy: {accuracy[0]:.4f} with repeated images, {accuracy[1]:.4f} with generated ones")
    print(f"images: {summary['folder']}")


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if name == "gain":
        margin = row["gain_margin"]
        return f"{value:+.3f}" + ("" if margin is None else f" ± {margin:.3f}")
    return f"{value:.3f}" if isinstance(value, float) else str(value)
