"""`torchstone data`."""

import argparse
import json

EPILOG = "Your own data are files, folders, hf:NAME or environments: see docs/data.md."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, with all recipes that use a set")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import list_data

    sets = list_data()
    if args.json:
        print(json.dumps(sets, indent=1))
        return
    from rich.table import Table

    from torchstone.cli.summary import table_console

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("name", "kind", "size", "licence", "where", "used by"):
        table.add_column(column, overflow="fold")
    for each in sets:
        systems = list(dict.fromkeys(recipe.partition("/")[0] for recipe in each["used_by"]))
        used = ", ".join(systems) or "–"
        table.add_row(*(each[key] for key in ("name", "kind", "size", "licence", "where")), used)
    table_console().print(table)
