"""From a recipe and a cell to the network that a use of the recurrent chapter trains."""

from typing import Any

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel, init_recurrent

# fields of a recipe that are arguments of the network
FIELDS = ("embedding", "hidden", "layers", "bidirectional", "combine", "dropout", "projection")
FIELDS += ("tied", "path")


def build_network(recipe: Any, cell: Cell, **others: Any) -> tuple[SequenceModel, dict[str, Any]]:
    """The network on its device, its weights drawn from the recipe's seed, and its arguments for the metadata.

    Args:
        others: what the data decide: `inputs`, `outputs`, `tokens`, `pool`.

    Raises:
        BadInput: what does not go together.
    """
    given = {name: getattr(recipe, name) for name in FIELDS}
    model_config = {name: value for name, value in given.items() if value is not None} | others
    device = select_device(recipe.device)
    rng.seed(recipe.seed)
    model = SequenceModel(cell, **model_config)
    init_recurrent(model.recurrent, recipe.start, forget=recipe.forget, moments=recipe.length)
    return model.to(device), model_config
