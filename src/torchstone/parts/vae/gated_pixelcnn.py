"""Gated PixelCNN: a distribution over grids of discrete codes, one after the other, row by row.

van den Oord et al. 2016, arXiv:1606.05328. Two stacks of masked convolutions see the codes before one: the
vertical one those of the rows above, the horizontal one those to its left in its own row. Together they have
no blind spot. A layer is tanh ⊙ σ of its two halves, and a class shifts both (equation 4).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput

Codes = Int64[Tensor, "batch height width"]
Hidden = Float[Tensor, "batch hidden height width"]


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2 of the paper).

    Args:
        kernel: side of the convolutions, odd; the vertical stack has the rows above, the horizontal one what
            is to the left.
        is_first: the horizontal stack does not see the code itself (mask A); later layers do (mask B).
    """

    def __init__(self, hidden: int, kernel: int, num_classes: int, *, is_first: bool = False):
        super().__init__()
        self.is_first, self.reach = is_first, kernel // 2
        # what the first layer makes of a place has not seen that place, so that later ones may look there
        taps = self.reach + (not is_first)
        self.vertical = nn.Conv2d(hidden, 2 * hidden, (taps, kernel), padding=(0, self.reach))
        self.horizontal = nn.Conv2d(hidden, 2 * hidden, (1, taps))
        self.across = nn.Conv2d(2 * hidden, 2 * hidden, 1)
        self.out = nn.Conv2d(hidden, hidden, 1)
        self.condition = nn.Embedding(num_classes, 2 * hidden) if num_classes else None

    def forward(self, v: Hidden, h: Hidden, labels: Int64[Tensor, " batch"] | None) -> tuple[Hidden, Hidden]:
        height, width = v.shape[2:]
        above = self.vertical(F.pad(v, (0, 0, self.reach, 0)))[:, :, :height]
        left = self.horizontal(F.pad(h, (self.reach, 0, 0, 0)))[:, :, :, :width]
        shift = 0 if self.condition is None else self.condition(labels)[:, :, None, None]
        gated = self.out(gate(left + self.across(above) + shift))
        return gate(above + shift), gated if self.is_first else gated + h


def gate(x: Float[Tensor, "batch twice height width"]) -> Hidden:
    """tanh of the first half times σ of the second."""
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class GatedPixelCNN(nn.Module):
    """Logits of each code given those before it, and a class if it has classes.

    Args:
        num_codes: possible codes.
        num_classes: 0 for none.
        kernel: side of the first layer's convolutions, odd; later ones have 3.
    """

    def __init__(
        self, num_codes: int, hidden: int = 64, layers: int = 6, num_classes: int = 0, kernel: int = 5
    ):
        super().__init__()
        if min(num_codes, hidden, layers) < 1 or kernel < 3 or kernel % 2 == 0:
            raise BadInput(
                "a prior has at least one code, feature and layer, and an odd kernel of 3 or more, not "
                f"{num_codes}, {hidden}, {layers} and {kernel}"
            )
        self.num_codes, self.num_classes = num_codes, num_classes
        self.embedding = nn.Embedding(num_codes, hidden)
        self.layers = nn.ModuleList(
            GatedLayer(hidden, 3 if i else kernel, num_classes, is_first=not i) for i in range(layers)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU())
        self.output = nn.Conv2d(hidden, num_codes, 1)

    def forward(
        self, codes: Codes, labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch codes height width"]:
        if self.num_classes and labels is None:
            raise BadInput("a prior with classes takes labels")
        v = h = self.embedding(codes).movedim(-1, 1)
        for layer in self.layers:
            v, h = layer(v, h, labels)
        return self.output(self.head(h))

    @torch.no_grad()
    def sample(
        self,
        u: Float[Tensor, "batch height width"],
        labels: Int64[Tensor, " batch"] | None = None,
        temperature: float = 1.0,
    ) -> Codes:
        """Codes one after the other, by inverting the distribution function at `u`, uniform on 0..1."""
        codes = torch.zeros(u.shape, dtype=torch.long, device=u.device)
        for i in range(u.shape[1]):
            for j in range(u.shape[2]):
                logits = self(codes[:, : i + 1], labels)[:, :, i, j]
                cdf = (logits.double() / temperature).softmax(1).cumsum(1)
                codes[:, i, j] = (cdf < u[:, i, j, None]).sum(1).clamp(max=self.num_codes - 1)
        return codes
