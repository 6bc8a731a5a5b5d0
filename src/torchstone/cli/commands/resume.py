"""`torchstone resume`."""

import argparse

from torchstone.cli.main import positive

OTHER_OPTIONS = (
    " (a run goes on as it was begun; with other options it is another: "
    "torchstone train --config RUN/recipe.json …)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument(
        "--steps",
        metavar="N",
        type=positive,
        help="train longer: the new total; the learning rate follows the schedule of N steps from here on",
    )
    parser.add_argument(
        "--data", metavar="SPEC", help="go on with these data: the run's at another place, or others"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or mps (default: the recipe's)")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import resume
    from torchstone.cli.summary import print_summary
    from torchstone.engine import lazy_dynamo

    lazy_dynamo.defer()

    print_summary(resume(args.run, steps=args.steps, data=args.data, device=args.device))
