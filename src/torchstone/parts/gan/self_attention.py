"""Self-attention over the positions of a feature map, as GANs use it.

Zhang, Goodfellow, Metaxas and Odena 2018 (arXiv:1805.08318), section 3, with the keys and values max-pooled
as in their code and in BigGAN's. For each position i, over positions j of the pooled grid:

    y = x + γ · W_o Σ_j softmax_j(θ_i · φ_j) g_j          γ starts at 0, so that the layer is the identity
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SelfAttention2d(nn.Module):
    """Attention with a query of channels / 8 numbers at each position, and values of channels / 2.

    Args:
        make_conv: (inputs, outputs) -> a 1 × 1 convolution without bias; by default torch's.
    """

    def __init__(self, channels: int, make_conv: Callable[[int, int], nn.Module] | None = None):
        super().__init__()
        make = make_conv or (lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1, bias=False))
        self.query, self.key = make(channels, channels // 8), make(channels, channels // 8)
        self.value, self.output = make(channels, channels // 2), make(channels // 2, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        query = self.query(x).flatten(2)
        key, value = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.key, self.value))
        weights = (query.mT @ key).softmax(-1)  # (b, positions, pooled positions); not scaled
        attended = (value @ weights.mT).unflatten(2, x.shape[2:])
        return x + self.gamma * self.output(attended)
