"""Libraries that only tests, benchmarks and single functions need."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from torchstone.errors import BadInput


def import_optional(name: str) -> ModuleType:
    """Import the module `name`.

    Raises:
        BadInput: it is not installed; with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"this check needs {error.name}: pip install -c constraints.txt 'torchstone[test]'"
        ) from None


def package_folder(name: str) -> Path | None:
    """Where an installed package is, for its files alone: it is not imported. None if it is not installed."""
    found = importlib.util.find_spec(name)
    folders = found.submodule_search_locations if found is not None else None
    return Path(next(iter(folders))) if folders else None


def import_torchvision() -> ModuleType:
    """Import torchvision, even if its wheel was built for another version of torch.

    Importing it registers shapes for two of its compiled operators; if those could not be loaded, they
    are declared (not implemented) first. The networks need neither.
    """
    try:
        torch.ops.torchvision.nms  # noqa: B018  exists if torchvision was imported before
    except (AttributeError, RuntimeError):
        try:
            return import_optional("torchvision")
        except RuntimeError:  # operator torchvision::nms does not exist
            torch.library.define("torchvision::nms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
            torch.library.define("torchvision::qnms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
    return import_optional("torchvision")
