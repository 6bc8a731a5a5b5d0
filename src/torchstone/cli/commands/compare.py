"""`torchstone compare`."""

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--out", metavar="FILE.png", default="compare.png", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import compare

    rows = compare(args.runs, out=args.out)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    from torchstone.cli.summary import table_console

    table = Table(box=None, header_style="bold")  # a column per run: names of metrics may be long
    table.add_column("run")
    for row in rows:
        table.add_column(str(row["run"]), justify="right", overflow="fold")
    for name in dict.fromkeys(key for row in rows for key in row if key != "run"):
        table.add_row(name, *(_short(row.get(name)) for row in rows))
    table_console().print(table)
    print(f"picture: {args.out}")


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
