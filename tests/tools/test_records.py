"""Plans of records name what there is; the pages that show records are tested in `test_docs.py` and `test_readme.py`."""

import json

from torchstone.systems import CATALOGUE
from torchstone.tools import records


def test_plans_name_recipes_of_the_catalogue():
    known = {f"{entry.name}/{recipe}" for entry in CATALOGUE for recipe in entry.recipes}
    plans = json.loads((records.FOLDER / "plans.json").read_text())
    assert plans
    assert plans.keys() <= known
