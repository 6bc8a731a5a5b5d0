"""Observations as networks take them: frames and bytes divided by the bound that their space states."""

import torch
from jaxtyping import Float
from torch import Tensor

BYTE = 255.0  # the bound of pixels that are bytes, and the default of every network


def scale_observations(x: Tensor, scale: float) -> Float[Tensor, "batch *shape"]:
    """`(batch, *shape)` as floats: frames and bytes divided by `scale`, float vectors as they are. Frames are
    in channels-last layout, which CPU kernels prefer."""
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last) / scale
    return x / scale if x.dtype == torch.uint8 else x
