"""The README's results are those of the records, and the commands of README and guides exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from torchstone import systems
from torchstone.runs.records import FOLDER, read
from torchstone.tools import docs

ROOT = Path(__file__).resolve().parents[2]


def test_readme_headline_results_are_not_stale():
    page = (ROOT / "README.md").read_text()
    assert docs.START in page
    assert docs.END in page
    assert docs.with_headlines(page, read()) == page, "run: make docs"


def test_readme_headline_results_change_with_a_record():
    page, records = (ROOT / "README.md").read_text(), read()
    shown = next(r for r in records if f"{r.system}/{r.recipe}" in docs.HEADLINES)
    shown.values[0] += 0.01
    assert docs.with_headlines(page, records) != page


def test_results_page_has_every_record():
    page = docs.results()
    for record in read():
        assert f"`{record.system}/{record.recipe}`" in page
        assert record.figure() in page


def test_records_every_plan_reaches_its_target():
    import json

    plans = json.loads((FOLDER / "plans.json").read_text())
    found = {f"{r.system}/{r.recipe}": r for r in read()}
    measured = {name: plan for name, plan in plans.items() if "unmeasured" not in plan}
    assert found.keys() == measured.keys()
    for name, plan in measured.items():
        record = found[name]
        print(record.line())
        assert record.seeds == plan["seeds"]
        assert len(record.values) == len(record.seeds)
        assert plan.get("target") == record.target
        if record.target is not None:
            reached = (record.mean, record.target)
            assert sorted(reached, reverse=not record.falls) == [*reached]


def test_records_every_recipe_has_a_plan():
    import json

    plans = json.loads((FOLDER / "plans.json").read_text())
    recipes = {f"{e.name}/{r}" for e in systems.CATALOGUE for r in e.recipes if r != "smoke"}
    assert set(plans) == recipes


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md")), ROOT / "docs" / "data.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_parse(page):
    """Each `torchstone …` line names a command, a system and options that exist."""
    from torchstone.api import recipe_of
    from torchstone.cli.main import COMMANDS, Parser
    from torchstone.engine.recipe_fields import field_paths

    text = re.sub(r" *\\\n *", " ", page.read_text())  # lines that go on
    lines = re.findall(r"^(?:\$ )?(torchstone .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert lines, f"{page} has no command"
    for line in lines:
        _, command, *words = shlex.split(line)
        if command.startswith("-"):
            continue
        assert command in COMMANDS, line
        module = importlib.import_module(f"torchstone.cli.commands.{command}")
        parser = Parser(add_help=command != "train", allow_abbrev=False)
        module.add_arguments(parser)
        known = {o.lstrip("-").replace("-", "_") for a in parser._actions for o in a.option_strings}
        if command == "train" and words[0] != "--config":
            known |= set(field_paths(recipe_of(words[0], {})[2]))
        options = {w.lstrip("-").partition("=")[0].replace("-", "_") for w in words if w.startswith("-")}
        assert options <= known, line
