"""The shortcut of a residual block, where its two ends differ in shape, and where they do not.

y = F(x) + S(x). S is the identity wherever it can be. Where the block halves the resolution and widens
the channels, He et al. (2015, arXiv:1512.03385, section 4.1) name the two options that are here.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from torchstone.errors import BadInput


class PadShortcut(nn.Module):
    """Option A: every `stride`-th location, and zeros for the new channels. No parameters.

    The zeros go on both sides of the old channels, half of them first, as in the implementation whose
    weights are public; for a network from scratch it is the same up to the order of the channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        if outputs < inputs:
            raise BadInput(f"padding cannot narrow {inputs} channels to {outputs}: project them")
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height2 width2"]:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Option B: a 1x1 convolution with `stride`, and batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def shortcut(inputs: int, outputs: int, stride: int, option: Literal["A", "B"] = "B") -> nn.Module:
    """The identity where the shape is preserved; else padding (A) or a projection (B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return (PadShortcut if option == "A" else projection)(inputs, outputs, stride)
