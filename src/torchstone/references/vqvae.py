"""VQ-VAE from its definition: distances one by one, the straight-through gradient by hand, and the prior's
masked convolutions as whole kernels with zeros."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.references import randomize_weights


class PassThrough(torch.autograd.Function):
    """The entries forward; backward their gradient, for the vectors that they stand for."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, entries: Tensor) -> Tensor:
        return entries.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class PlainVQVAE(nn.Module):
    """The losses of both stages with the same parameters as `model`."""

    def __init__(self, model: nn.Module, recipe: Any):
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        net: Any = self.model
        z = x
        for layer in net.encoder:
            z = self.layer(layer, z)
        book = net.quantizer.codebook
        codes = torch.zeros(len(z), *z.shape[2:], dtype=torch.long)
        rows = []
        for b in range(len(z)):
            for i in range(z.shape[2]):
                for j in range(z.shape[3]):
                    vector = z[b, :, i, j]
                    distances = [float((vector - entry).square().sum()) for entry in book]
                    codes[b, i, j] = distances.index(min(distances))
                    rows.append(book[codes[b, i, j]])
        entries = torch.stack(rows).view(len(z), *z.shape[2:], -1).permute(0, 3, 1, 2)
        y = PassThrough.apply(z, entries)
        for layer in net.decoder:
            y = self.layer(layer, y)
        commitment = (z - entries.detach()).square().mean()
        loss = (y - x).square().mean() / 0.3 + self.recipe.commitment_weight * commitment
        if self.recipe.codebook_update == "gradient":
            loss = loss + (entries - z.detach()).square().mean()
        logits = self.prior(net.prior, codes, labels)
        nats = -logits.log_softmax(1).gather(1, codes[:, None]).mean()
        return y, logits, loss, nats

    def layer(self, layer: Any, x: Tensor) -> Tensor:
        if isinstance(layer, nn.ReLU):
            return x.clamp(min=0)
        if hasattr(layer, "blocks"):
            for block in layer.blocks:
                x = x + block[3](block[1](x.clamp(min=0)).clamp(min=0))
            return x.clamp(min=0)
        return layer(x)

    def prior(self, prior: Any, codes: Tensor, labels: Tensor) -> Tensor:
        v = h = prior.embedding.weight[codes].permute(0, 3, 1, 2)
        for number, layer in enumerate(prior.layers):
            above = whole_kernel(v, layer.vertical, layer.reach, is_vertical=True)
            left = whole_kernel(h, layer.horizontal, layer.reach, is_vertical=False)
            shift: Any = 0
            if layer.condition is not None:
                shift = layer.condition.weight[labels][:, :, None, None]
            inner = left + F.conv2d(above, layer.across.weight, layer.across.bias) + shift
            a, b = inner.chunk(2, 1)
            step = F.conv2d(torch.tanh(a) * torch.sigmoid(b), layer.out.weight, layer.out.bias)
            h = step + h if number else step
            a, b = (above + shift).chunk(2, 1)
            v = torch.tanh(a) * torch.sigmoid(b)
        hidden = prior.head[1](h.clamp(min=0)).clamp(min=0)
        return prior.output(hidden)


def whole_kernel(x: Tensor, conv: Any, reach: int, *, is_vertical: bool) -> Tensor:
    """A convolution whose kernel is odd on both sides and zero where it must not look: below or right of the
    place, and in the first layer, which has one tap less, at the place itself."""
    outputs, inputs, rows, columns = conv.weight.shape
    kernel = conv.weight.new_zeros(outputs, inputs, 2 * reach + 1 if is_vertical else 1, 2 * reach + 1)
    kernel[:, :, :rows, :columns] = conv.weight
    return F.conv2d(x, kernel, conv.bias, padding=(reach if is_vertical else 0, reach))


def cases(
    make: Callable[..., nn.Module], losses: Callable[..., nn.Module], recipe: Callable[..., Any]
) -> Iterator[ParityCase]:
    """Random networks with a codebook that is a parameter, and one that is none."""
    torch.manual_seed(0)
    configs: list[dict[str, Any]] = [
        {"size": 8, "halvings": 1, "num_codes": 5, "dim": 3, "num_classes": 3},
        {"size": 8, "halvings": 2, "num_codes": 9, "dim": 2, "channels": 1},
        {"size": 12, "halvings": 1, "num_codes": 4, "dim": 4, "num_classes": 2},
        {"size": 16, "halvings": 2, "num_codes": 16, "dim": 5, "channels": 2},
    ]
    for number, config in enumerate(configs):
        for update in ("ema", "gradient"):
            prior = {"hidden": 4 + number, "layers": 1 + number, "kernel": 3 + 2 * (number % 2)}
            codebook = {"decay": 0.9 if update == "ema" else None}
            model: Any = make(**config, width=6, residual_width=3, prior=prior, codebook=codebook).double()
            randomize_weights(model)
            model.quantizer.codebook.data.normal_()
            x = torch.randn(2, config.get("channels", 3), config["size"], config["size"], dtype=torch.float64)
            labels = torch.tensor([0, 1]) if config.get("num_classes") else torch.zeros(2, dtype=torch.long)
            settings = recipe(codebook_update=update)
            label = f"{config['size']}×{config['size']}, {update}"
            ours, theirs = losses(model, settings), PlainVQVAE(model, settings)
            yield ParityCase(ours, theirs, (x, labels), label=label)
