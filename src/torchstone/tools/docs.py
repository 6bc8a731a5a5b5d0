"""The documentation that is generated from the catalogue and the records.

python -m torchstone.tools.docs            write docs/systems/NAME.md, docs/index.md, docs/results.md,
                                           docs/claims.md and the README's headline results
python -m torchstone.tools.docs --check    list stale pages; exit 1 if there are any
"""

import argparse
import functools
import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torchstone.engine.recipe_fields import field_paths, get_field, short_name
from torchstone.parts.facts import count_on_meta, count_parameters
from torchstone.runs.recipes import comments
from torchstone.runs.records import CURVES, Record, of_system, read
from torchstone.systems import CATALOGUE, System
from torchstone.systems.metric_names import legends_of

FOLDER = Path(__file__).resolve().parents[3] / "docs"

# what a chapter's systems learn from; of single systems where it is something else
MODALITIES = {
    "fundamentals": "images, tables",
    "convolutional": "images",
    "recurrent": "text, audio, music, time series",
    "transformer": "text",
    "generative": "images",
    "reinforcement": "environments",
    "planning": "games",
    "multiagent": "games with hidden cards",
    "muzero": "environments",
    "world_models": "environments",
    "mbpo": "environments",
    "l2d": "job shops",
    "ctc": "audio",
    "seq2seq": "text",
    "vit": "images",
    "vlm": "images, text",
    "dalle2": "images, text",
}
# one result per chapter, for the README
HEADLINES = (
    "perceptron/digits",
    "mlp/mnist5k",
    "lenet5/mnist",
    "resnet/cifar20_cpu",
    "lstm/jsb",
    "transformer/multi30k_cpu",
    "ddpm/mnist5k",
    "ppo/lunarlander",
    "alphazero/connect4",
    "deep_cfr/leduc",
)
START, END = "<!-- results -->", "<!-- end of results -->"


def pages(folder: Path = FOLDER) -> dict[str, str]:
    """Every generated page by its path inside the folder; the README beside it as `../README.md`."""
    wanted = {f"systems/{e.name}.md": page(e) for e in CATALOGUE}
    readme = folder.parent / "README.md"
    if readme.exists():
        wanted["../README.md"] = with_headlines(readme.read_text(), read())
    claims = importlib.import_module("torchstone.experiments.page")  # a room beside this one, by its name
    return {"index.md": index(), "results.md": results(), "claims.md": claims.page(), **wanted}


def index() -> str:
    """The start page: where to read on, and all systems in the catalogue's order."""
    lines = [
        "# Torchstone",
        "",
        "The milestone systems of deep learning: one readable file each, checked against the originals,",
        "trained on real data, resumable to the bit.",
        "",
        "- [Get started](../README.md): install, train, resume, use",
        "- Guides: [images](guide/vision.md), [text](guide/text.md), [sequences](guide/sequences.md),",
        "  [generation](guide/generation.md), [agents](guide/agents.md), [games](guide/games.md),",
        "  [games with hidden cards](guide/poker.md), [teams of agents](guide/teams.md),",
        "  [treatment](guide/treatment.md), [job shops](guide/job-shop.md),",
        "  [training methods](guide/training.md),",
        "  [in Python](guide/python.md)",
        "- [Your own data](data.md): every accepted format",
        "- [Results](results.md): what was measured, with seeds and spread",
        "- [Claims](claims.md): what the field says of its methods, put to the test",
        "- [Architecture](architecture.md): the tree, and where a new file goes",
        "- [Adding a system](adding-a-system.md)",
        "- [Glossary](glossary.md): recipe, stream, run, record, variant",
        "- [Decisions](decisions.md) and [what was tried and did not work](LOG.md)",
        "",
        "## Systems",
        "",
        "`torchstone list --variants` prints their networks; each page has them too. This page is written by",
        "`make docs`.",
    ]
    records = list(read())
    for chapter, entries in itertools.groupby(CATALOGUE, lambda entry: entry.chapter):
        rows = []
        for e in entries:
            best = next((r for r in records if r.system == e.name), None)
            reached = (
                "" if best is None else f"{best.recipe}: {best.metric.removeprefix('test/')} {best.figure()}"
            )
            link = f"[{e.title}](systems/{e.name}.md)"
            modality = MODALITIES.get(e.name, MODALITIES[chapter])
            rows.append([link, str(e.year), modality, f"`torchstone train {e.name}`", reached])
        columns = ["system", "year", "data", "command", "a result"]
        lines += ["", f"### {chapter.capitalize()}", "", table(columns, rows, "lrlll")]
    return "\n".join(lines) + "\n"


def results() -> str:
    """Every record, grouped by chapter."""
    lines = [
        "# Results",
        "",
        "Each line can be measured again: `make records` (with `DATA=DIR` for the sets too large to bundle).",
        "Test metrics are on held-out data; ± is the standard deviation over seeds. Time is training alone,",
        "on one or two cores that were busy with other things too: an upper bound. Command, commit, versions",
        "and hardware stand in [records/](../records). This page is written by `make docs`.",
        "",
        "Records of before December 2026 are of the weights of the last step, which `eval RUN --last`",
        "measures; a run now reports the ones that are best by validation.",
    ]
    records = list(read())
    for chapter, entries in itertools.groupby(CATALOGUE, lambda entry: entry.chapter):
        names = [entry.name for entry in entries]
        rows = [result_row(record) for record in records if record.system in names]
        if rows:
            lines += ["", f"## {chapter.capitalize()}", "", table(RESULT_COLUMNS, rows, "lllrrlr")]
    return "\n".join(lines) + "\n"


RESULT_COLUMNS = ["recipe", "data", "metric", "reached", "target", "reference", "time"]


def result_row(record: Record) -> list[str]:
    """A record with its baselines and its cost."""
    baselines = ", ".join(f"{k.removeprefix('test/')} {v:.3g}" for k, v in record.baselines.items())
    return [
        f"`{record.system}/{record.recipe}`",
        record.data.split(";")[0],
        record.metric.removeprefix("test/"),
        record.figure(),
        record.aim(),
        baselines,
        record.cost(),
    ]


def with_headlines(readme: str, records: Iterable[Record]) -> str:
    """The README with the table between its two marks written anew."""
    known = {f"{r.system}/{r.recipe}": r for r in records}
    rows = [
        [
            f"`torchstone train {name}`",
            r.data.split(";")[0].split(":")[0],
            r.metric.removeprefix("test/"),
            r.figure(),
            r.cost(),
        ]
        for name in HEADLINES
        if (r := known.get(name)) is not None
    ]
    text = table(["command", "data", "metric", "reached", "time"], rows, "lllrr")
    pattern = re.compile(f"{START}.*?{END}", re.DOTALL)
    return pattern.sub(lambda _: f"{START}\n{text}\n{END}", readme)


def page(entry: System) -> str:
    """The page of a system."""
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
        "## Metrics",
        table(["name", "meaning", "unit", "better", "chance"], metrics(name), "lllll"),
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
    """A docstring's paragraphs as one line each, its indented blocks (equations, tables) as code."""
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


@functools.cache
def variants(module: Any) -> list[list[str]]:
    """Name, parameters and input of each network."""
    rows = []
    for name, (make, shape) in module.VARIANTS.items():
        try:
            count = count_on_meta(make)
        except RuntimeError:  # some look at their numbers in the making
            count = count_parameters(make())
        rows.append([f"`{name}`", f"{count:,}", "×".join(map(str, shape))])
    return rows


def recipes(presets: dict[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Fields downwards, presets across; a preset shows only what it changes."""
    (_, first), *others = presets.items()
    rows = []
    for path in dict.fromkeys(field_paths(first).values()):
        own = get_field(first, path)
        values = [get_field(recipe, path) for _, recipe in others]
        shown = ["" if value == own else f"`{plain(value)}`" for value in values]
        help_text = comments(type(get_field(first, path[:-1]))).get(path[-1], "")
        rows.append([f"`{short_name(first, path)}`", help_text, f"`{plain(own)}`", *shown])
    return ["field", "meaning", *presets], rows, "ll" + "l" * len(presets)


def metrics(system: str) -> list[list[str]]:
    """Name and legend of each metric that a system writes."""
    return [[f"`{name}`", escaped(m.title), m.unit, m.better, m.chance] for name, m in legends_of(system)]


def changeable(recipe: Any) -> str:
    """A field and value to show an option by."""
    for name in ("steps", "total_timesteps", "total_episodes"):
        if hasattr(recipe, name):
            return f"{name.replace('_', '-')} {getattr(recipe, name) * 2}"
    return "seed 1"


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
    return _stale(folder, pages(folder))


def _stale(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    existing = {f"systems/{file.name}" for file in (folder / "systems").glob("*.md")}
    old = [
        path
        for path, text in wanted.items()
        if not (folder / path).exists() or (folder / path).read_text() != text
    ]
    return sorted(old + list(existing - wanted.keys()))


def write(folder: Path = FOLDER) -> None:
    """Write what is stale, and let go of pages of systems that are gone."""
    wanted = pages(folder)
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
