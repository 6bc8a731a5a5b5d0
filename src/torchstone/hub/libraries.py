"""Importing other libraries, which are optional."""

import importlib
from types import ModuleType

import torch

from torchstone.errors import BadInput


def import_library(name: str) -> ModuleType:
    """An optional package.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"this check needs {error.name}: pip install -c constraints.txt 'torchstone[test]'"
        ) from None


def torchvision() -> ModuleType:
    """torchvision, also where its wheel was built for another torch than this one.

    Importing it registers shapes for two of its compiled operators; where those could not be loaded
    they are declared (not implemented) first. The networks need neither.
    """
    try:
        torch.ops.torchvision.nms  # noqa: B018  there, if torchvision was imported before
    except (AttributeError, RuntimeError):
        try:
            return import_library("torchvision")
        except RuntimeError:  # operator torchvision::nms does not exist
            torch.library.define("torchvision::nms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
            torch.library.define("torchvision::qnms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
    return import_library("torchvision")
