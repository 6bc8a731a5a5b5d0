"""Parity cases with the networks of a library: the same weights, in evaluation and in training mode."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase


def torchvision_cases(
    variant: str,
    make: Callable[[], nn.Module],
    make_theirs: Callable[[], nn.Module],
    images: Tensor,
    *,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    modes: Sequence[bool] = (False, True),
    configure: Callable[[Any, Any, bool], None] | None = None,
    has_steps_in_eval: bool = True,
) -> Iterator[Callable[[], ParityCase]]:
    """Ours with the weights of torchvision's (or timm's) network, in the dtype of `images`.

    Args:
        make_theirs: called after `torch.manual_seed(0)`, and once for each mode.
        convert: from their state dict to ours.
        modes: whether to train, in turn.
        configure: called with both networks and the mode, once they are in it.
        has_steps_in_eval: whether to compare steps of gradient descent in evaluation mode too.
    """

    def case(training: bool) -> ParityCase:
        torch.manual_seed(0)
        theirs = make_theirs().to(images.dtype)
        ours = make().to(images.dtype)
        ours.load_state_dict(convert(theirs.state_dict()))
        ours.train(training)
        theirs.train(training)
        if configure is not None:
            configure(ours, theirs, training)
        label = f"{variant}, {'train' if training else 'eval'}, {images.dtype}"
        case = ParityCase(ours, theirs, images, label=label)
        return case if training or has_steps_in_eval else case._replace(optimizer=None)

    for training in modes:
        yield partial(case, training)
