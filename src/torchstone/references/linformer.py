"""A Linformer written out: each text by itself, without its padding, head by head."""

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.references.bert import NUM_CLASSES, make_labels

HEADS = ("none", "masked", "sentence", "tokens")
SHARINGS = ("none", "headwise", "key_value", "layerwise")


class TextByText(nn.Module):
    """The network of the same weights: its loss, and its logits, or hidden states."""

    def __init__(self, model: Any):
        super().__init__()
        self.model, self.config = copy.deepcopy(model), model.config

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, ...]:
        rows = [self.encode(*each) for each in zip(tokens, mask, segments, strict=True)]
        hidden, model, labels = torch.stack(rows), self.model, make_labels(tokens, mask)
        if self.config.head == "none":
            if model.pooler is None:
                return (hidden,)
            return hidden, self.linear(hidden[:, 0], model.pooler).tanh()
        if self.config.head == "masked":
            inner = self.norm(F.gelu(self.linear(hidden, model.transform)), model.transform_norm)
            logits, own = self.linear(inner, model.decoder), labels["masked"]
        elif self.config.head == "sentence":
            first = self.linear(hidden[:, 0], model.pre_classifier).tanh()
            logits, own = self.linear(first, model.classifier), labels["sentence"]
        else:
            logits, own = self.linear(hidden, model.classifier), labels["tokens"]
        rows = logits.flatten(0, -2)
        losses = [rows[i].logsumexp(0) - rows[i, k] for i, k in enumerate(own.flatten().tolist()) if k >= 0]
        return torch.stack(losses).mean(), logits

    def encode(self, tokens: Tensor, is_token: Tensor, segments: Tensor) -> Tensor:
        """One text (time): its hidden states (time, width)."""
        model = self.model
        x = model.token_embedding.weight[tokens]
        is_pad = tokens == self.config.pad_id  # whose embedding is not trained
        x = torch.where(is_pad[:, None], x.detach(), x) + model.position_embedding.weight[: len(tokens)]
        x = x + model.segment_embedding.weight[segments if self.config.num_segments > 1 else 0]
        x = self.norm(x, model.norm)
        for number, layer in enumerate(model.layers):
            h = self.norm(x + self.attention(x, is_token, number), layer.norm1)
            inner = F.gelu(self.linear(h, layer.feed_forward.up))
            x = self.norm(h + self.linear(inner, layer.feed_forward.down), layer.norm2)
        return x

    def attention(self, x: Tensor, is_token: Tensor, number: int) -> Tensor:
        model, config = self.model, self.config
        layer, d = model.layers[number].attention, config.width // config.heads
        positions = [i for i, is_here in enumerate(is_token.tolist()) if is_here]
        weight, bias = layer.qkv.weight, layer.qkv.bias
        columns = []
        for head in range(config.heads):
            q, k, v = (
                x[positions] @ weight[begin : begin + d].T + bias[begin : begin + d]
                for begin in range(head * d, 3 * config.width, config.width)
            )
            e, f = self.projections(number, head)
            keys = torch.stack([sum(row[i] * k[j] for j, i in enumerate(positions)) for row in e])
            values = torch.stack([sum(row[i] * v[j] for j, i in enumerate(positions)) for row in f])
            scores = (q @ keys.T / d**0.5).exp()
            columns.append(scores / scores.sum(1, keepdim=True) @ values)
        found = x.new_zeros(len(x), config.width).index_copy(
            0, torch.tensor(positions), torch.cat(columns, 1)
        )
        return self.linear(found, layer.out)

    def projections(self, layer: int, head: int) -> tuple[Tensor, Tensor]:
        e, f = self.model.projections.e, self.model.projections.f
        match self.config.sharing:
            case "none":
                return e[layer][head], f[layer][head]
            case "headwise":
                return e[layer], f[layer]
            case "key_value":
                return e[layer], e[layer]
            case _:
                return e[0], e[0]

    def linear(self, x: Tensor, layer: Any) -> Tensor:
        return x @ layer.weight.T + layer.bias

    def norm(self, x: Tensor, layer: Any) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.square().mean(-1, keepdim=True)
        return centered / (variance + self.config.eps).sqrt() * layer.weight + layer.bias


def random_linformers(seed: int = 2020) -> Iterator[tuple[dict[str, Any], tuple[Tensor, ...], torch.dtype]]:
    """(config, inputs, type): every way of sharing with every head, in one of the precisions each.

    Inputs are tokens, mask and segments of rows of different lengths, one of which has padding inside; some
    networks are for longer texts than these.
    """
    rng = Random(seed)
    for number, (sharing, head) in enumerate((s, h) for s in SHARINGS for h in HEADS):
        heads, time, vocab_size = rng.choice((1, 2, 3)), rng.randint(7, 13), rng.randint(20, 40)
        config: dict[str, Any] = {
            "vocab_size": vocab_size,
            "width": heads * rng.choice((4, 6)),
            "layers": rng.randint(1, 3),
            "heads": heads,
            "d_ff": rng.randint(8, 30),
            "projected": rng.randint(2, 9),
            "sharing": sharing,
            "max_length": time + rng.choice((0, 5)),
            "num_segments": rng.randint(1, 2),
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "eps": rng.choice((1e-12, 1e-5)),
            "tie_weights": rng.random() < 0.6,
            "use_pooler": head == "none" and rng.random() < 0.7,
            "head": head,
            "num_classes": NUM_CLASSES,
        }
        torch.manual_seed(rng.randrange(2**31))
        tokens = torch.randint(2, vocab_size, (3, time))
        mask = torch.arange(time) < torch.tensor([[time], [time - 1], [rng.randint(4, time - 1)]])
        mask[1, 3] = False
        segments = torch.randint(config["num_segments"], (3, time))
        inputs = (tokens.masked_fill(~mask, 1), mask, segments)
        yield config, inputs, (torch.float64, torch.float32)[(number + number // 4) % 2]
