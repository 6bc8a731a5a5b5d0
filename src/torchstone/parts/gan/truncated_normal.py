"""The truncation trick: latents from a narrower distribution than in training give typical samples.

Brock, Donahue and Simonyan 2018 (arXiv:1809.11096), section 3.1: numbers that fall outside are drawn again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchstone.errors import BadInput

THRESHOLD = 2.0  # beyond which numbers are drawn again, in standard deviations


def truncated_normal(shape: Sequence[int], truncation: float, generator: torch.Generator) -> Tensor:
    """truncation · z, float32 on the CPU, z standard normal with all beyond ±2 drawn again: the form of the
    generators that the authors published, whose statistics are stored by this number.

    Raises:
        BadInput: a truncation outside 0..1.
    """
    check_truncation(truncation)
    z = torch.randn(*shape, generator=generator)
    while bool((outside := z.abs() > THRESHOLD).any()):
        z[outside] = torch.randn(int(outside.sum()), generator=generator)
    return truncation * z


def check_truncation(truncation: float) -> None:
    """
    Raises:
        BadInput: it is not from 0 to 1.
    """
    if not 0 <= truncation <= 1:  # not a number neither
        raise BadInput(
            f"truncation must be from 0 (all images alike) to 1 (most diverse), not {truncation:g}"
        )
