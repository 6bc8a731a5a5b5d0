"""The README's table is made from the records, and its commands exist."""

import re
import shlex
from pathlib import Path

from torchstone.runs.records import FOLDER, read

from torchstone import systems
from torchstone.tools import records

ROOT = Path(__file__).resolve().parents[2]


def test_the_results_table_is_not_stale():
    page = (ROOT / "README.md").read_text()
    assert records.with_table(page, read()) == page, "run: python -m torchstone.tools.records --table"


def test_a_changed_figure_makes_it_stale():
    page, found = (ROOT / "README.md").read_text(), read()
    found[0].values[0] += 0.01
    assert records.with_table(page, found) != page


def test_every_plan_has_its_record_and_reaches_its_target():
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


def test_every_recipe_but_the_smoke_ones_has_a_plan():
    import json

    plans = json.loads((FOLDER / "plans.json").read_text())
    recipes = {f"{e.name}/{r}" for e in systems.CATALOGUE for r in e.recipes if r != "smoke"}
    assert set(plans) == recipes


def test_the_commands_of_the_readme_parse():
    """Each `torchstone …` line names a command, a system and fields that exist."""
    from torchstone.api import recipe_of

    lines = re.findall(r"^(torchstone .*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        _, command, *words = shlex.split(line)
        if command != "train":
            continue
        _, _, recipe = recipe_of(words[0], {})
        fields = {word[2:] for word in words if word.startswith("--")} - {"out", "help", "seeds"}
        assert fields <= set(recipe.__dataclass_fields__), line
