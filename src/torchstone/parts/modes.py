"""Evaluation mode, for a while."""

import contextlib
from collections.abc import Generator

from torch import nn


@contextlib.contextmanager
def eval_mode(*models: nn.Module) -> Generator[None]:
    """Put modules into evaluation mode, and each submodule back into the mode it was in."""
    was_training = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training
