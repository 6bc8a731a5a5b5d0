"""`torchstone list`."""

import argparse
import json
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chapter", help="only this chapter")
    parser.add_argument("--variants", action="store_true", help="the networks of each system too")
    parser.add_argument("--json", action="store_true", help="as JSON, variants and recipes included")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import list_systems

    entries = list_systems(args.chapter)
    if args.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1))
        return
    width = max(len(entry.name) for entry in entries)
    chapter = None
    for entry in entries:
        if entry.chapter != chapter:
            print(f"{chr(10) if chapter else ''}{entry.chapter}")
            chapter = entry.chapter
        recipes = ", ".join(name for name in entry.recipes if name != "smoke")
        print(f"  {entry.name:<{width}}  {entry.year}  {entry.title}: {recipes}")
        if args.variants:
            print(f"  {'':<{width}}        {entry.paper}; variants: {', '.join(entry.variants)}")
