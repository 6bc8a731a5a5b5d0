"""`torchstone show`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", metavar="SYSTEM", help="a system, or one of its variants")


def run(args: argparse.Namespace) -> None:
    from torchstone.cli.show import show

    show(args.system)
