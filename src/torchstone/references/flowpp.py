"""Flow++ by the paper's equations, slowly: nothing of ours is called but to copy its weights.

Ho et al. 2019 (arXiv:1902.00275). Convolutions are sums over nine shifts, attention is a loop over heads, the
checkerboard and the squeeze are loops over pixels. The mixture's distribution function is a plain sum, once
from below and once from above, and no derivative is written down: log-determinants come from automatic
differentiation of the element-wise map.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.references import randomize_weights

Tensors = dict[str, Tensor]

CASES = 10


def flowpp_cases(make: Callable[..., Any]) -> Iterator[ParityCase]:
    """Flows of random configurations with a fixed seed, at weights that are not the identity; in both modes,
    where dropout draws the same numbers on either side.

    Args:
        make: `FlowPP`, with its arguments.
    """
    choice = random.Random(0)
    for number in range(CASES):
        heads = choice.choice((1, 2, 3))
        config = {
            "shape": (choice.choice((1, 2, 3)), choice.choice((2, 4)), 4),
            "width": heads * choice.choice((3, 4)),
            "blocks": choice.randint(1, 2),
            "components": choice.randint(1, 4),
            "heads": heads,
            "dropout": choice.choice((0.0, 0.3)),
            "couplings": (*choice.choice(((0, 1), (1, 0), (1, 1), (2, 0))), 1),
            "levels": choice.choice((2, 17, 256)),
            "dequantization_couplings": number % 3,
            "dequantization_blocks": choice.randint(1, 2),
            "context": choice.randint(2, 5),
        }
        torch.manual_seed(number)
        dtype = torch.float64 if number < CASES - 2 else torch.float32
        ours = randomize_weights(make(**config), 0.1, add=True).to(dtype).train(number % 3 > 0)
        images = torch.randint(0, 256, (3, *config["shape"])).to(dtype)
        inputs = (images, torch.randn(3, *config["shape"], dtype=dtype))
        theirs = ReferenceFlowPP(ours.named_parameters(), config).train(ours.training)
        label = ", ".join(f"{name} {value}" for name, value in config.items())
        yield ParityCase(ours, theirs, inputs, rename, torch.optim.AdamW, label)


def rename(tensors: Tensors) -> Tensors:
    """From our own names' counterparts in a `ParameterDict`, where dots are not allowed."""
    return {name.removeprefix("weights.").replace("|", "."): tensor for name, tensor in tensors.items()}


class ReferenceFlowPP(nn.Module):
    """Images and normal noise to (z, log_det), with copies of the weights of ours."""

    def __init__(self, weights: Any, config: dict[str, Any]):
        super().__init__()
        copies = {name.replace(".", "|"): nn.Parameter(weight.detach().clone()) for name, weight in weights}
        self.weights, self.config = nn.ParameterDict(copies), config

    def weight(self, name: str) -> Tensor:
        return self.weights[name.replace(".", "|")]

    def forward(self, images: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        levels, batch = self.config["levels"], len(images)
        k = torch.floor(images.double() * levels / 256).to(images.dtype)
        u, log_q = self.noise(k, epsilon)
        y = (k + u) / levels
        p = 0.05 + 0.9 * y
        x = torch.log(p / (1 - p))
        log_det = torch.log(0.9 / (p * (1 - p))).reshape(batch, -1).sum(1)
        prefix, number = "flow.stages.0.layers", 1
        fine, of_channels, coarse = self.config["couplings"]
        halves = checkerboard(x)
        for _ in range(fine):
            halves, each = self.step(halves, f"{prefix}.", number)
            log_det, number = log_det + each, number + 4
        x, number = squeeze(checkerboard_back(*halves)), number + 2
        halves = (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :])
        for _ in range(of_channels):
            halves, each = self.step(halves, f"{prefix}.", number)
            log_det, number = log_det + each, number + 4
        halves, number = checkerboard(torch.cat(halves, 1)), number + 1
        for _ in range(coarse):
            halves, each = self.step(halves, f"{prefix}.", number)
            log_det, number = log_det + each, number + 4
        return checkerboard_back(*halves).reshape(batch, -1), log_det - log_q

    def noise(self, k: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """u, and log q(u | k)."""
        batch = len(k)
        if not self.config["dequantization_couplings"]:
            return 0.5 * (1 + torch.erf(epsilon / math.sqrt(2))), epsilon.new_zeros(batch)
        c = self.conv(torch.cat(checkerboard(k / self.config["levels"] - 0.5), 1), "dequantization.first")
        for number in range(3):
            c = self.gated_conv(c, f"dequantization.convs.{number}")
        halves = checkerboard(epsilon)
        log_q = (-0.5 * epsilon**2 - 0.5 * math.log(2 * math.pi)).reshape(batch, -1).sum(1)
        for number in range(self.config["dequantization_couplings"]):
            halves, each = self.step(halves, "dequantization.layers.", 4 * number, c)
            log_q = log_q - each
        x = checkerboard_back(*halves)
        u, rest = torch.sigmoid(x), torch.sigmoid(-x)  # 1 − u would round to 0
        return u, log_q - torch.log(u * rest).reshape(batch, -1).sum(1)

    def step(
        self, halves: tuple[Tensor, Tensor], prefix: str, number: int, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Scale and shift of each number, mixing of channels, coupling; the halves change places."""
        scale, shift = (self.weight(f"{prefix}{number}.{name}") for name in ("scale", "shift"))
        channels, height, width = halves[0].shape[1:]
        log_det, mixed = scale.sum(), []
        matrices = self.weight(f"{prefix}{number + 1}.weight")
        for half, matrix, rows in zip(
            halves, matrices, (slice(channels), slice(channels, None)), strict=True
        ):
            mixed.append(torch.einsum("ij,bjhw->bihw", matrix, (half + shift[rows]) * scale[rows].exp()))
            log_det = log_det + height * width * torch.log(torch.abs(torch.det(matrix)))
        a, b = mixed
        z, each = self.coupling(a, b, f"{prefix}{number + 2}.net", context)
        return (z, a), log_det + each

    def coupling(self, a: Tensor, b: Tensor, prefix: str, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mixture, logit and affine map; the derivative by automatic differentiation."""
        count = self.config["components"]
        raw = self.net(a, prefix, context).reshape(len(a), a.shape[1], 2 + 3 * count, *a.shape[2:])
        log_factor, t = torch.tanh(raw[:, :, 0]), raw[:, :, 1]
        pi = torch.softmax(raw[:, :, 2 : 2 + count], 2)
        mean = raw[:, :, 2 + count : 2 + 2 * count]
        scale = torch.exp(torch.clamp(raw[:, :, 2 + 2 * count :], min=-7))
        x = b if b.requires_grad else b.detach().clone().requires_grad_()
        with torch.enable_grad():
            standard = (x[:, :, None] - mean) / scale
            below = (pi * torch.sigmoid(standard)).sum(2)
            above = (pi * torch.sigmoid(-standard)).sum(2)
            z = torch.log(below / above) * torch.exp(log_factor) + t
            slope = torch.autograd.grad(z.sum(), x, create_graph=True)[0]
        return z, torch.log(slope).reshape(len(a), -1).sum(1)

    def net(self, a: Tensor, prefix: str, context: Tensor | None) -> Tensor:
        is_noise = context is not None
        x = self.conv(a, f"{prefix}.first")
        for number in range(self.config["dequantization_blocks" if is_noise else "blocks"]):
            block = f"{prefix}.blocks.{number}"
            x = self.norm(self.gated_conv(x, f"{block}.conv", context), f"{block}.norm1")
            x = x + gate(self.attention(x, prefix, f"{block}.attention"))
            x = self.norm(x, f"{block}.norm2")
        return self.conv(x, f"{prefix}.last")

    def gated_conv(self, x: Tensor, prefix: str, context: Tensor | None = None) -> Tensor:
        h = self.conv(both_signs(x), f"{prefix}.conv1")
        if context is not None:
            h = h + self.matrix(both_signs(context), f"{prefix}.context")
        h = self.drop(both_signs(h))
        has_kernel = self.weight(f"{prefix}.conv2.weight").ndim == 4
        return x + gate((self.conv if has_kernel else self.matrix)(h, f"{prefix}.conv2"))

    def attention(self, x: Tensor, prefix: str, name: str) -> Tensor:
        batch, channels, height, width = x.shape
        positions = self.weight(f"{prefix}.positions").permute(2, 0, 1)
        qkv = self.matrix(x + positions, f"{name}.qkv").reshape(batch, 3, -1, height * width)
        size, heads = channels // self.config["heads"], []
        for head in range(self.config["heads"]):
            q, k, v = qkv[:, :, head * size : (head + 1) * size].unbind(1)
            scores = torch.einsum("bdq,bdk->bqk", q, k) / math.sqrt(size)
            heads.append(torch.einsum("bqk,bdk->bdq", torch.softmax(scores, 2), v))
        h = self.drop(torch.cat(heads, 1).reshape(x.shape))
        return self.matrix(h, f"{name}.out")

    def drop(self, x: Tensor) -> Tensor:
        """Dropout in the order of pixels, then channels, in which ours is drawn."""
        last = x.permute(0, 2, 3, 1).contiguous()
        return F.dropout(last, self.config["dropout"], self.training).permute(0, 3, 1, 2)

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight, (height, width) = self.weight(f"{name}.weight"), x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1))
        y = self.weight(f"{name}.bias")[:, None, None]
        for row in range(3):
            for column in range(3):
                shifted = padded[:, :, row : row + height, column : column + width]
                y = y + torch.einsum("oc,bchw->bohw", weight[:, :, row, column], shifted)
        return y

    def matrix(self, x: Tensor, name: str) -> Tensor:
        y = torch.einsum("oc,bchw->bohw", self.weight(f"{name}.weight"), x)
        return y + self.weight(f"{name}.bias")[:, None, None]

    def norm(self, x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        standard = centered / torch.sqrt((centered**2).mean(1, keepdim=True) + 1e-5)
        weight, bias = (self.weight(f"{name}.{each}")[:, None, None] for each in ("weight", "bias"))
        return standard * weight + bias


def both_signs(x: Tensor) -> Tensor:
    """Concatenated exponential linear units."""
    x = torch.cat([x, -x], 1)
    return torch.where(x > 0, x, torch.exp(torch.clamp(x, max=0)) - 1)


def gate(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return x[:, :half] / (1 + torch.exp(-x[:, half:]))


def checkerboard(x: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels whose row and column add up to an even number, and the others, row by row."""
    _, _, height, width = x.shape
    halves = []
    for parity in (0, 1):
        rows = [
            torch.stack([x[:, :, i, j] for j in range(width) if (i + j) % 2 == parity], 2)
            for i in range(height)
        ]
        halves.append(torch.stack(rows, 2))
    return halves[0], halves[1]


def checkerboard_back(a: Tensor, b: Tensor) -> Tensor:
    _, _, height, half = a.shape
    rows = [
        torch.stack([(b if (i + j) % 2 else a)[:, :, i, j // 2] for j in range(2 * half)], 2)
        for i in range(height)
    ]
    return torch.stack(rows, 2)


def squeeze(x: Tensor) -> Tensor:
    """Of each 2 × 2 pixels one diagonal becomes the first half of the channels, then the other."""
    corners = ((0, 0), (1, 1), (0, 1), (1, 0))
    return torch.cat([x[:, :, i::2, j::2] for i, j in corners], 1)
