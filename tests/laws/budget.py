"""Law 16: evaluation during training takes about a tenth of the work by default.

Of every stage of a recipe, and of recipes that differ from it in their length alone: its run says what an
evaluation costs, and all of them together are at most `MOST` of the work of the updates, or a single one, at the
end. Agents' cost is that of their episodes, which is known after them only.
"""

import dataclasses
from typing import Any

from recipes_at_hand import LENGTHS, whole

from torchstone.engine.run import Intervals

# a tenth, and the evaluation of the untrained network beside the last of few
MOST = 0.15

Length = tuple[str, int]  # a recipe's name and its number of updates


def kept(entry: Any, recipe: Any) -> None:
    if not hasattr(recipe, "steps"):
        print(f"{entry.name}: learns from experience")
        return
    wrong = []
    stages = whole(entry, recipe)
    for number, run in enumerate(stages, 1):
        last = number == len(stages)
        for name, steps in same_but_for_length(entry, recipe) if last else [("", run.steps)]:
            due = Intervals().resolve(steps, run.examples)
            where = f"{entry.name}/{name}".rstrip("/") + f", stage {number}" * (len(stages) > 1)
            print(
                f"{where}: every {due.evaluate} of {steps} steps, {due.share:.1%} of the work; {run.examples}"
            )
            if not due.share:
                wrong.append(f"{where} does not say what an evaluation costs")
            elif due.share > MOST and due.evaluate < steps:
                wrong.append(f"{where}: evaluation takes {due.share:.0%} of the work")
    assert not wrong, "; ".join(wrong)


def same_but_for_length(entry: Any, recipe: Any) -> list[Length]:
    def shape(each: Any) -> Any:
        return dataclasses.replace(each, **{field: 1 for field in LENGTHS if hasattr(each, field)})

    found = [(n, each.steps) for n, each in entry.module().RECIPES.items() if shape(each) == shape(recipe)]
    return found or [("", recipe.steps)]
