"""BigGAN and BigGAN-deep written plainly by the papers' equations, with the names of published files.

BigGAN has the names of the authors' PyTorch code, whose spectral norm stores one vector; BigGAN-deep those of
Hugging Face's port. So a comparison covers how files are read, too.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase

Tensors = dict[str, Tensor]
CASES = 12


def biggan_cases(
    generator: Callable[..., Any],
    discriminator: Callable[..., Any],
    deep_generator: Callable[..., Any],
    published: Callable[[str, Tensors], Tensors],
) -> Iterator[ParityCase]:
    """Networks of random configurations with a fixed seed, in both modes.

    Args:
        generator, discriminator, deep_generator: ours, with their arguments.
        published: from the names in published files to ours, of generators.
    """
    choice = random.Random(0)
    for number in range(CASES):
        torch.manual_seed(number)
        kind, is_training = number % 4, number // 4 != 1
        classes, channels, unit = choice.randint(2, 5), choice.choice((1, 3)), choice.choice((8, 16))
        config: dict[str, Any] = {"base_channels": unit, "channels": channels, "num_classes": classes}
        blocks = choice.randint(1, 2)
        config["widths"] = tuple(choice.randint(1, 2) for _ in range(blocks + 1))
        config["attention_block"] = choice.choice((None, *range(blocks)))
        options: tuple = ()
        ours: Any
        if kind in (0, 1):  # with and without hierarchical latents
            config |= {"chunk_dim": choice.randint(2, 4), "shared_dim": choice.randint(1, 3) * (1 - kind)}
            ours, theirs = generator(**config), PlainGenerator(**config)
            convert = lambda tensors: published("", tensors)  # noqa: E731
        elif kind == 2:
            config["downsamples"] = choice.randint(1, blocks + 1)
            ours, theirs, convert = discriminator(**config), PlainDiscriminator(**config), discriminator_names
        else:
            config["widths"] = sorted(config["widths"], reverse=True)  # skips drop channels
            config["attention_block"] = choice.choice((None, *range(1, 2 * blocks)))
            config |= {"latent_dim": choice.randint(2, 4), "tables": choice.randint(2, 6)}
            ours, theirs = deep_generator(**config), PlainDeepGenerator(**config)
            convert = lambda tensors: published("", tensors)  # noqa: E731
            options = () if is_training else (choice.random(),)
        dtype = torch.float64 if number < CASES - 2 else torch.float32
        ours, theirs = (net.to(dtype) for net in (ours, theirs))
        randomize(theirs, is_training)
        ours.load_state_dict(convert(theirs.state_dict()))
        side = 4 * 2**blocks
        shape: Any = (channels, side, side) if kind == 2 else (ours.latent_dim,)
        x, labels = torch.randn((4, *shape), dtype=dtype), torch.randint(classes, (4,))
        ours, theirs = (net.train(is_training) for net in (ours, theirs))
        if is_training and kind != 2:
            freeze_shifts(ours, theirs)
        label = ", ".join(
            [f"{name} {value}" for name, value in config.items()] + ["eval"] * (not is_training)
        )
        # in evaluation the vectors of spectral norm stay: after a step theirs is not that of ours
        optimizer = torch.optim.AdamW if is_training else None
        buffers = dict(theirs.named_buffers())
        names = lambda grads, c=convert, b=buffers: c(b | grads)  # noqa: E731
        yield ParityCase(ours, theirs, (x, labels, *options), names, optimizer, label)


def freeze_shifts(*generators: nn.Module) -> None:
    """Freeze the biases of the blocks' convolutions: a batch's normalization takes them away again, and their
    gradient is rounding alone. In evaluation mode it is not."""
    for generator in generators:
        for name, weight in generator.named_parameters():
            if re.search(r"(blocks|layers)\..*\.(conv\w*|convs\.\d|skip)\.bias$", name):
                weight.requires_grad_(False)


@torch.no_grad()
def randomize(network: nn.Module, is_settled: bool) -> None:
    """Parameters so that each matters; statistics as of a batch; spectral norm's vectors.

    Args:
        is_settled: they are those of the largest singular value, which power iteration does not move; else
            those of an early step.
    """
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, 0.0, weight[0].numel() ** -0.5)
        else:
            nn.init.normal_(weight, 0.5, 0.5)
    for name, buffer in network.named_buffers():
        if "mean" in name:
            buffer.normal_(0, 0.3)
        elif "var" in name:
            buffer.uniform_(0.5, 2)
    for module in network.modules():
        if isinstance(module, SpectralLayer):
            left, _, right = torch.linalg.svd(module.matrix().double(), full_matrices=False)
            u, v = left[:, 0], right[0]
            if not is_settled:
                u = F.normalize(torch.rand(len(u), dtype=u.dtype), dim=0)
                v = F.normalize(u @ module.matrix().double(), dim=0)
            # only the direction of a single vector counts
            module.vectors(u if module.is_port else 3 * u, v)


class SpectralLayer(nn.Module):
    """y = W x / σ + b, or the convolution. Miyato et al. 2018, algorithm 1."""

    def __init__(self, *shape: int, bias: bool = True, is_port: bool = False):
        super().__init__()
        self.is_port = is_port
        self.name = "weight_orig" if is_port else "weight"
        self.register_parameter(self.name, nn.Parameter(torch.empty(shape)))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        if is_port:
            self.register_buffer("weight_u", torch.empty(shape[0]))
            self.register_buffer("weight_v", torch.empty(self.matrix().shape[1]))
        else:
            self.register_buffer("u0", torch.empty(1, shape[0]))
            self.register_buffer("sv0", torch.ones(1))

    def matrix(self) -> Tensor:
        return getattr(self, self.name).flatten(1)

    def vectors(self, u: Tensor, v: Tensor) -> None:
        """Store them: the port both, the authors' code the first."""
        own: Any = self
        if self.is_port:
            own.weight_u.copy_(u)
            own.weight_v.copy_(v)
        else:
            own.u0.copy_(u[None])

    def normalized(self) -> Tensor:
        own: Any = self
        matrix = self.matrix()
        with torch.no_grad():
            if self.is_port and not self.training:
                u, v = own.weight_u, own.weight_v
            else:
                u = own.weight_u if self.is_port else own.u0[0]
                v = u @ matrix
                v = v / v.norm()
                u = matrix @ v
                u = u / u.norm()
                if self.training:
                    self.vectors(u, v)
        sigma = (u.clone()[:, None] * matrix * v.clone()).sum()
        return getattr(self, self.name) / sigma

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normalized()
        if weight.ndim == 2:
            y = x @ weight.T
        else:  # every patch is a row
            side = weight.shape[-1]
            patches = F.unfold(x, side, padding=side // 2)
            y = (weight.flatten(1) @ patches).unflatten(2, x.shape[2:])
        if self.bias is None:
            return y
        return y + self.bias.view(1, -1, *[1] * (y.ndim - 2))


class Table(nn.Module):
    """Rows by class."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))

    def forward(self, labels: Tensor) -> Tensor:
        return torch.stack([self.weight[int(label)] for label in labels])


def standardized(x: Tensor, mean: Tensor, var: Tensor, eps: float, is_training: bool) -> Tensor:
    if is_training:
        mean = x.mean((0, 2, 3))
        var = (x - mean[:, None, None]).square().mean((0, 2, 3))
    return (x - mean[:, None, None]) / (var + eps).sqrt()[:, None, None]


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def pooled(x: Tensor) -> Tensor:
    """The largest of each 2 × 2 positions."""
    return torch.stack([x[..., i::2, j::2] for i in range(2) for j in range(2)]).amax(0)


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0 * x)


class ClassNorm(nn.Module):
    def __init__(self, width: int, make: Callable[[int], nn.Module]):
        super().__init__()
        self.gain, self.bias = make(width), make(width)
        self.register_buffer("stored_mean", torch.empty(width))
        self.register_buffer("stored_var", torch.empty(width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        own: Any = self
        normal = standardized(x, own.stored_mean, own.stored_var, 1e-5, self.training)
        return normal * (1 + self.gain(condition))[:, :, None, None] + self.bias(condition)[:, :, None, None]


class OutputNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.register_buffer("stored_mean", torch.empty(width))
        self.register_buffer("stored_var", torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        normal = standardized(x, own.stored_mean, own.stored_var, 1e-5, self.training)
        return normal * self.gain[:, None, None] + self.bias[:, None, None]


class PlainAttention(nn.Module):
    """Position by position."""

    def __init__(self, width: int, names: Sequence[str], gate: tuple[int, ...] = (), **layout: Any):
        super().__init__()
        self.names, self.gamma = tuple(names), nn.Parameter(torch.empty(gate))
        shapes = ((width // 8, width), (width // 8, width), (width // 2, width), (width, width // 2))
        for name, shape in zip(names, shapes, strict=True):
            self.add_module(name, SpectralLayer(*shape, 1, 1, bias=False, **layout))

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g, output = (getattr(self, name) for name in self.names)
        query, key, value = theta(x).flatten(2), pooled(phi(x)).flatten(2), pooled(g(x)).flatten(2)
        rows = []
        for position in range(query.shape[2]):
            scores = (query[:, :, position, None] * key).sum(1).exp()
            rows.append((value * (scores / scores.sum(1, keepdim=True))[:, None]).sum(2))
        attended = torch.stack(rows, 2).unflatten(2, x.shape[2:])
        return x + self.gamma * output(attended)


AUTHORS_ATTENTION = ("theta", "phi", "g", "o")
PORT_ATTENTION = tuple(f"snconv1x1_{name}" for name in ("theta", "phi", "g", "o_conv"))


class PlainGeneratorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, make: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = SpectralLayer(outputs, inputs, 3, 3)
        self.conv2 = SpectralLayer(outputs, outputs, 3, 3)
        self.conv_sc = SpectralLayer(outputs, inputs, 1, 1)
        self.bn1, self.bn2 = ClassNorm(inputs, make), ClassNorm(outputs, make)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(doubled(relu(self.bn1(x, condition))))
        return self.conv2(relu(self.bn2(h, condition))) + self.conv_sc(doubled(x))


class PlainGenerator(nn.Module):
    """Appendix B, figure 15."""

    def __init__(
        self,
        widths: Sequence[int],
        base_channels: int,
        channels: int,
        num_classes: int,
        chunk_dim: int,
        shared_dim: int,
        attention_block: int | None,
    ):
        super().__init__()
        width = [base_channels * each for each in widths]
        self.chunk_dim, self.is_shared = chunk_dim, shared_dim > 0
        if self.is_shared:
            self.shared = Table(num_classes, shared_dim)
        make = lambda outputs: (  # noqa: E731
            SpectralLayer(outputs, shared_dim + chunk_dim, bias=False)
            if shared_dim
            else Table(num_classes, outputs)
        )
        self.linear = SpectralLayer(width[0] * 16, chunk_dim)
        self.blocks: Any = nn.ModuleList()
        for index in range(len(width) - 1):
            self.blocks.append(nn.ModuleList([PlainGeneratorBlock(width[index], width[index + 1], make)]))
            if index == attention_block:
                self.blocks[-1].append(PlainAttention(width[index + 1], AUTHORS_ATTENTION))
        self.output_layer = nn.Sequential(
            OutputNorm(width[-1]), nn.ReLU(), SpectralLayer(channels, width[-1], 3, 3)
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.linear(z[:, : self.chunk_dim]).view(len(z), -1, 4, 4)
        for index, (block, *attention) in enumerate(self.blocks, 1):
            condition = labels
            if self.is_shared:
                chunk = z[:, index * self.chunk_dim : (index + 1) * self.chunk_dim]
                condition = torch.cat([self.shared(labels), chunk], 1)
            h = block(h, condition)
            for layer in attention:
                h = layer(h)
        h = self.output_layer(h)
        return (h.exp() - (-h).exp()) / (h.exp() + (-h).exp())


class PlainDiscriminatorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, is_halved: bool, is_first: bool):
        super().__init__()
        self.is_halved, self.is_first = is_halved, is_first
        self.conv1 = SpectralLayer(outputs, inputs, 3, 3)
        self.conv2 = SpectralLayer(outputs, outputs, 3, 3)
        if is_halved or inputs != outputs:
            self.conv_sc = SpectralLayer(outputs, inputs, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(relu(self.conv1(x if self.is_first else relu(x))))
        skip = self.conv_sc(x) if hasattr(self, "conv_sc") else x
        return halved(h) + halved(skip) if self.is_halved else h + skip


class PlainDiscriminator(nn.Module):
    """Figure 15c; the projection of Miyato and Koyama 2018, equation 5."""

    def __init__(
        self,
        widths: Sequence[int],
        base_channels: int,
        channels: int,
        num_classes: int,
        downsamples: int,
        attention_block: int | None,
    ):
        super().__init__()
        width = [channels, *(base_channels * each for each in widths)]
        self.blocks: Any = nn.ModuleList()
        for index in range(len(widths)):
            block = PlainDiscriminatorBlock(
                width[index], width[index + 1], index < downsamples, is_first=index == 0
            )
            self.blocks.append(nn.ModuleList([block]))
            if index == attention_block:
                self.blocks[-1].append(PlainAttention(width[index + 1], AUTHORS_ATTENTION))
        self.linear, self.embed = (
            SpectralLayer(1, width[-1]),
            SpectralLayer(num_classes, width[-1], bias=False),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = images
        for layers in self.blocks:
            for layer in layers:
                h = layer(h)
        features = relu(h).sum((2, 3))
        rows = self.embed.normalized()[labels]
        return self.linear(features).flatten() + (rows * features).sum(1)


def discriminator_names(tensors: Tensors) -> Tensors:
    """From a `PlainDiscriminator`'s names to ours. Its class embedding is a table, ours a linear map."""
    from torchstone.hub.biggan import from_authors

    renamed = {}
    for name, tensor in from_authors(tensors).items():
        name = name.replace("first.", "output.").replace("embed.", "embedding.")
        is_table = name.startswith("embedding.") and tensor.ndim == 2
        renamed[name] = tensor.mT if is_table else tensor
    return renamed


class TruncationNorm(nn.Module):
    """Statistics by truncation, interpolated."""

    def __init__(self, width: int, tables: int, condition: int | None):
        super().__init__()
        self.is_conditional = condition is not None
        self.register_buffer("running_means", torch.empty(tables, width))
        self.register_buffer("running_vars", torch.empty(tables, width))
        if condition is None:
            self.weight, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        else:
            self.scale, self.offset = (
                SpectralLayer(width, condition, bias=False, is_port=True) for _ in range(2)
            )

    def forward(self, x: Tensor, condition: Tensor, truncation: float) -> Tensor:
        own: Any = self
        tables = len(own.running_means)
        shares = [
            max(0.0, 1 - abs(row - truncation * (tables - 1))) for row in range(tables)
        ]  # hat functions
        weights = torch.tensor(shares, dtype=x.dtype)[:, None]
        mean, var = ((table * weights).sum(0) for table in (own.running_means, own.running_vars))
        normal = standardized(x, mean, var, 1e-4, self.training)
        if not self.is_conditional:
            return normal * own.weight[:, None, None] + own.bias[:, None, None]
        scale, offset = (layer(condition)[:, :, None, None] for layer in (self.scale, self.offset))
        return normal * (1 + scale) + offset


class PlainDeepBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, is_doubled: bool, tables: int, condition: int):
        super().__init__()
        self.outputs, self.is_doubled, inner = outputs, is_doubled, inputs // 4
        for index, width in enumerate((inputs, inner, inner, inner)):
            self.add_module(f"bn_{index}", TruncationNorm(width, tables, condition))
        shapes = ((inner, inputs, 1), (inner, inner, 3), (inner, inner, 3), (outputs, inner, 1))
        for index, (a, b, side) in enumerate(shapes):
            self.add_module(f"conv_{index}", SpectralLayer(a, b, side, side, is_port=True))

    def forward(self, x: Tensor, condition: Tensor, truncation: float) -> Tensor:
        own: Any = self
        h = own.conv_0(relu(own.bn_0(x, condition, truncation)))
        h = relu(own.bn_1(h, condition, truncation))
        h = own.conv_1(doubled(h) if self.is_doubled else h)
        h = own.conv_2(relu(own.bn_2(h, condition, truncation)))
        h = own.conv_3(relu(own.bn_3(h, condition, truncation)))
        skip = x[:, : self.outputs]
        return h + (doubled(skip) if self.is_doubled else skip)


class PlainDeep(nn.Module):
    """Figure 16, behind the class embedding: what the port calls `generator`."""

    def __init__(self, width: Sequence[int], latent_dim: int, attention_block: int | None, tables: int):
        super().__init__()
        self.gen_z = SpectralLayer(16 * width[0], 2 * latent_dim, is_port=True)
        self.layers = nn.ModuleList()
        for index in range(2 * (len(width) - 1)):
            inputs, outputs = width[index // 2], width[index // 2 + index % 2]
            if index == attention_block:
                self.layers.append(PlainAttention(inputs, PORT_ATTENTION, (1,), is_port=True))
            self.layers.append(PlainDeepBlock(inputs, outputs, index % 2 == 1, tables, 2 * latent_dim))
        self.bn = TruncationNorm(width[-1], tables, None)
        self.conv_to_rgb = SpectralLayer(width[-1], width[-1], 3, 3, is_port=True)

    def forward(self, condition: Tensor, truncation: float) -> Tensor:
        h = self.gen_z(condition).view(len(condition), 4, 4, -1).permute(0, 3, 1, 2)
        for layer in self.layers:
            h = layer(h) if isinstance(layer, PlainAttention) else layer(h, condition, truncation)
        return self.conv_to_rgb(relu(self.bn(h, condition, truncation)))


class PlainDeepGenerator(nn.Module):
    """Appendix B, figure 16."""

    def __init__(
        self,
        widths: Sequence[int],
        base_channels: int,
        channels: int,
        num_classes: int,
        latent_dim: int,
        attention_block: int | None,
        tables: int,
    ):
        super().__init__()
        self.channels = channels
        self.embeddings = nn.Linear(num_classes, latent_dim, bias=False)
        width = [base_channels * each for each in widths]
        self.generator = PlainDeep(width, latent_dim, attention_block, tables)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        embedded = torch.stack([self.embeddings.weight[:, int(label)] for label in labels])
        h = self.generator(torch.cat([z, embedded], 1), truncation)[:, : self.channels]
        return (h.exp() - (-h).exp()) / (h.exp() + (-h).exp())
