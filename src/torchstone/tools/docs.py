"""The documentation: a page a system and their index, made from the catalogue and the records.

python -m torchstone.tools.docs            write docs/systems/NAME.md and docs/index.md
python -m torchstone.tools.docs --check    say which are stale; exit 1 if any is
"""

import argparse
import dataclasses
import inspect
import itertools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchstone.parts.facts import count_parameters
from torchstone.runs.recipes import comments
from torchstone.runs.records import CURVES, Record, of_system
from torchstone.systems import CATALOGUE, System

FOLDER = Path(__file__).resolve().parents[3] / "docs"


def pages() -> dict[str, str]:
    """Every page by its path inside the folder."""
    return {"index.md": index(), **{f"systems/{e.name}.md": page(e) for e in CATALOGUE}}


def index() -> str:
    """All systems, by chapter, in the catalogue's order."""
    lines = [
        "# Systems",
        "",
        "Made by `make docs`. A system is one file; its page is what stands in that file.",
    ]
    for chapter, entries in itertools.groupby(CATALOGUE, lambda entry: entry.chapter):
        lines += ["", f"## {chapter.capitalize()}", ""]
        for e in entries:
            variants = ", ".join(f"`{variant}`" for variant in e.variants)
            lines.append(f"- [{e.title}](systems/{e.name}.md) ({e.paper}, {e.year}): {variants}")
    lines += ["", "## About the library", ""]
    lines += ["- [What was decided, and why](decisions.md)"]
    lines += ["- [What was tried and did not work](LOG.md)", ""]
    return "\n".join(lines)


def page(entry: System) -> str:
    """A system's page."""
    module = entry.module()
    title, _, text = inspect.cleandoc(module.__doc__ or "").partition("\n")
    name, first = entry.name, next(iter(module.RECIPES))
    source = f"../../src/torchstone/systems/{entry.chapter}/{name}.py"
    parts = [
        f"# {entry.title}",
        f"{markdown(title)} {entry.paper}, {entry.year}. [Source]({source}).",
        markdown(text),
        "## Networks",
        table(["name", "trainable parameters", "input"], variants(module), "l" + "rr"),
        "## Recipes",
        f"Any field is an option: `torchstone train {name} --{changeable(module.RECIPES[first])} …`."
        " A later column shows what differs from the first.",
        table(*recipes(module.RECIPES)),
        "## Commands",
        "```sh\n" + "\n".join(commands(module, name)) + "\n```",
        "## Published figures",
        f"Checked by `torchstone verify {name}`, and with them the reference in the source.",
        table(["figure", "published", "tolerance"], facts(module), "lrr"),
    ]
    measured = list(of_system(name))
    if measured:
        columns = ["command", "data", "metric", "reached", "target"]
        parts += ["## Measured", table(columns, [row(r) for r in measured], "lllrr")]
        for record in measured:
            file = f"{record.system}-{record.recipe}.png"
            if (CURVES / file).exists():
                alt = f"learning curves of {record.system}/{record.recipe}"
                parts.append(f"![{alt}](../images/curves/{file})")
    return "\n\n".join(parts) + "\n"


def markdown(text: str) -> str:
    """A docstring's paragraphs a line each, its indented blocks (equations, tables) as code."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if block.startswith(" "):
            code = inspect.cleandoc("\n" + block)
            if blocks and blocks[-1].endswith("```"):  # one block with empty lines in it
                blocks[-1] = f"{blocks[-1][:-4]}\n\n{code}\n```"
            else:
                blocks.append(f"```text\n{code}\n```")
        else:
            # what stands between backticks is left as it is
            pieces = re.split(r"(`[^`]*`)", " ".join(block.split()))
            blocks.append("".join(p if p[:1] == "`" else escaped(p) for p in pieces))
    return "\n\n".join(blocks)


def escaped(text: str) -> str:
    return re.sub(r"([*<\[\]])", r"\\\1", text)


def variants(module: Any) -> list[list[str]]:
    rows = []
    for name, (make, shape) in module.VARIANTS.items():
        made = len(shape) == 3 and shape[-1] <= 64  # some cannot be counted unmade
        with torch.device("cpu" if made else "meta"):
            rows.append([f"`{name}`", f"{count_parameters(make()):,}", "×".join(map(str, shape))])
    return rows


def recipes(presets: dict[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Fields downwards, presets across; a preset shows only what it changes."""
    (_, first), *others = presets.items()
    said, rows = comments(type(first)), []
    for field in dataclasses.fields(first):
        own = getattr(first, field.name)
        values = [getattr(recipe, field.name) for _, recipe in others]
        shown = ["" if value == own else f"`{plain(value)}`" for value in values]
        rows.append([f"`{field.name}`", said.get(field.name, ""), f"`{plain(own)}`", *shown])
    return ["field", "meaning", *presets], rows, "ll" + "l" * len(presets)


def changeable(recipe: Any) -> str:
    """A field and value to show an option by."""
    return f"steps {recipe.steps * 2}" if hasattr(recipe, "steps") else "seed 1"


def commands(module: Any, name: str) -> list[str]:
    trains = [f"torchstone train {name}/{recipe}" for recipe in module.RECIPES]
    folder = f"runs/{name}-{next(iter(module.RECIPES))}"
    uses = {
        "predict": f"torchstone predict {folder} INPUT",
        "evaluate": f"torchstone eval {folder}",
        "sample": f"torchstone sample {folder}",
    }
    return [
        *trains,
        f"torchstone resume {folder}",
        *(line for use, line in uses.items() if hasattr(module, use)),
        f"torchstone show {name}",
        f"torchstone verify {name}",
    ]


def facts(module: Any) -> list[list[str]]:
    return [
        [f.name, figure(f.published), f"{f.tolerance:g}" if f.tolerance else "exact"] for f in module.FACTS
    ]


def figure(value: Any) -> str:
    """A number as people write it; six digits, so that no machine's rounding shows."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {figure(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(figure, value))
    return str(value)


def plain(value: Any) -> str:
    """A field's value as it is typed; a long run of one value is shortened."""
    if isinstance(value, tuple):
        if len(value) > 4 and len(set(value)) == 1:
            return f"{value[0]} × {len(value)}"
        return ",".join(map(plain, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def row(r: Record) -> list[str]:
    """A record without its times, which are another machine's."""
    return [f"`{r.command}`", r.data, r.metric, r.reached(), r.aim()]


def table(columns: list[str], rows: list[list[str]], sides: str) -> str:
    """A markdown table; `sides` has `l` or `r` for each column."""
    marks = ["--:" if side == "r" else "---" for side in sides]
    lines = [" | ".join(cell.replace("|", "\\|") or " " for cell in each) for each in (columns, *rows)]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join(marks), *lines[1:]))


def stale(folder: Path = FOLDER) -> list[str]:
    """Pages that are missing, differ from what would be written, or are of no system."""
    return _stale(folder, pages())


def _stale(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    there = {f"systems/{file.name}" for file in (folder / "systems").glob("*.md")}
    old = [
        path
        for path, text in wanted.items()
        if not (folder / path).exists() or (folder / path).read_text() != text
    ]
    return sorted(old + list(there - wanted.keys()))


def write(folder: Path = FOLDER) -> None:
    """Write what is stale, and let go of pages of systems that are gone."""
    wanted = pages()
    (folder / "systems").mkdir(parents=True, exist_ok=True)
    for path in _stale(folder, wanted):
        if path in wanted:
            (folder / path).write_text(wanted[path])
        else:
            (folder / path).unlink()
        print(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torchstone.tools.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        old = stale()
        print("\n".join(f"stale: {path}" for path in old) or "every page is fresh")
        return int(bool(old))
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
