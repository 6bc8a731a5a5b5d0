"""A Performer written out: features without a stabilizer, and the weights of all pairs of tokens."""

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AllPairs(nn.Module):
    """The network of the same weights and features. For small inputs: nothing keeps exp from overflow."""

    def __init__(self, model: Any, config: dict[str, Any]):
        super().__init__()
        self.model, self.config = copy.deepcopy(model), config

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        model = self.model
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        h = torch.stack([model.token_embedding.weight[i] for i in tokens.flatten()]).view(*tokens.shape, -1)
        h = h + model.position_embedding.weight[: tokens.shape[1]]
        for block in model.blocks:
            h = h + self.attention(self.norm(h, block.norm1), block.attention, mask)
            inner = F.gelu(F.linear(self.norm(h, block.norm2), block.mlp.up.weight, block.mlp.up.bias))
            h = h + F.linear(inner, block.mlp.down.weight, block.mlp.down.bias)
        return self.norm(h, model.final_norm) @ model.token_embedding.weight.T

    def norm(self, x: Tensor, layer: Any) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        y = centered / (centered.square().mean(-1, keepdim=True) + self.config["eps"]).sqrt() * layer.weight
        return y if layer.bias is None else y + layer.bias

    def attention(self, x: Tensor, layer: Any, mask: Tensor) -> Tensor:
        """Text by text and head by head."""
        width, heads, w = self.config["width"], self.config["heads"], layer.features.matrix
        d, length = width // heads, x.shape[1]

        def phi(x: Tensor) -> Tensor:
            x = x / d**0.25
            return torch.exp(x @ w.T - x.square().sum(-1, keepdim=True) / 2)

        texts = []
        for row, is_token in zip(F.linear(x, layer.qkv.weight, layer.qkv.bias), mask, strict=True):
            columns = []
            for head in range(heads):
                q, k, v = (row[:, n * width + head * d :][:, :d] for n in range(3))
                weights = phi(q) @ phi(k).T * (is_token[:, None] & is_token)
                if self.config["causal"]:
                    weights = weights * torch.ones(length, length, dtype=torch.bool).tril()
                columns.append(weights / weights.sum(1, keepdim=True).clamp(min=1e-30) @ v)
            texts.append(torch.cat(columns, 1))
        return F.linear(torch.stack(texts), layer.out.weight, layer.out.bias)


def random_configs(seed: int = 2020) -> Iterator[tuple[dict[str, Any], tuple[Tensor, ...], torch.dtype]]:
    """(config, inputs, type) of causal networks and encoders.

    Texts are padded in every other one, and some are longer than a chunk of causal attention.
    """
    rng = Random(seed)
    for number in range(8):
        heads, length = rng.choice((1, 2, 3)), (5, 12, 70, 33)[number % 4]
        config = {
            "width": heads * rng.choice((4, 6)),
            "depth": rng.randint(1, 3),
            "heads": heads,
            "vocab_size": rng.randint(10, 30),
            "context": length + number % 2,
            "features": rng.choice((7, 16)),
            "d_ff": rng.randint(8, 30),
            "bias": rng.random() < 0.5,
            "causal": number % 4 != 3,
            "eps": rng.choice((1e-5, 1e-3)),
            "features_seed": number,
        }
        torch.manual_seed(rng.randrange(2**31))
        inputs: tuple[Tensor, ...] = (torch.randint(config["vocab_size"], (3, length)),)
        if number % 2:
            lengths = torch.tensor([[length], [length - 1], [rng.randint(2, length)]])
            inputs = (*inputs, torch.arange(length) < lengths)
        yield config, inputs, torch.float64 if number < 5 else torch.float32
