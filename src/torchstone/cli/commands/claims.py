"""`torchstone claims`."""

import argparse
import importlib
from pathlib import Path

EPILOG = """examples:
  torchstone claims                           the claims, and what was found of each
  torchstone claims show relu-cures           experiment, control, source, verdict
  torchstone claims run relu-cures            measure it; figure and numbers in runs/claims/relu-cures
  torchstone claims run relu-cures --seeds 0 1 2 3 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("action", nargs="?", default="list", choices=("list", "show", "run"), help="default: %(default)s")
    add("names", metavar="NAME", nargs="*", help="claims to show or run")
    add(
        "--seeds",
        metavar="N",
        type=int,
        nargs="+",
        help="random seeds, one training each (default: the claim's)",
    )
    add(
        "--out",
        metavar="FOLDER",
        default="runs/claims",
        help="folder of the folders of claims (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from torchstone.errors import BadInput

    if args.action != "list" and not args.names:
        raise BadInput(f"claims {args.action} wants a claim's name: torchstone claims lists them")
    if args.action == "list" and args.names:
        raise BadInput(f"claims list takes no name: did you mean claims show {args.names[0]}?")
    # a room beside this one, started by its name
    reports = importlib.import_module("torchstone.experiments.reports")
    catalogue = importlib.import_module("torchstone.experiments.catalogue")
    for name in args.names:
        catalogue.read_claim(name)  # all are known before the first is run
    if args.action == "list":
        reports.print_list()
    for name in args.names:
        if args.action == "show":
            reports.print_claim(name)
        else:
            reports.run_and_report(name, Path(args.out) / name, args.seeds)
    return 0
