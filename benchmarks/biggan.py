"""A training step of BigGAN beside the same networks as they are usually written, with the same weights.

    python benchmarks/biggan.py [--batch 32] [--pairs 9]

The peer is in the form of the authors' PyTorch code and of torch-mimicry: torch's own spectral norm, the skip of a
block upsampled before its 1 × 1 convolution (G) and averaged after it (D), scale and shift in two passes, tensors
with channels first. A step is the hinge loss of D on real and generated images, then that of G, both by Adam. One
process, in turn; seconds of CPU. The result is the median of the ratios, pair by pair (theirs / ours: above 1 we are
faster). Outputs are compared first.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from torchstone.parts.gan.losses import hinge_loss
from torchstone.systems.generative.biggan import NETWORKS
from torchstone.verify import relative_error


def conv(inputs: int, outputs: int, side: int = 3, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias))


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Linear(inputs, outputs, bias=bias))


class Norm(nn.Module):
    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = linear(condition, channels, False), linear(condition, channels, False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = (each(condition)[:, :, None, None] for each in (self.scale, self.shift))
        return self.norm(x) * (1 + scale) + shift


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.query, self.key = conv(width, width // 8, 1, False), conv(width, width // 8, 1, False)
        self.value, self.output = conv(width, width // 2, 1, False), conv(width // 2, width, 1, False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        query = self.query(x).view(b, -1, h * w)
        key = F.max_pool2d(self.key(x), 2).view(b, -1, h * w // 4)
        value = F.max_pool2d(self.value(x), 2).view(b, -1, h * w // 4)
        weights = F.softmax(torch.bmm(query.transpose(1, 2), key), -1)
        return x + self.gamma * self.output(torch.bmm(value, weights.transpose(1, 2)).view(b, -1, h, w))


class GeneratorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, condition: int):
        super().__init__()
        self.norm1, self.norm2 = Norm(inputs, condition), Norm(outputs, condition)
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.skip = conv(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        return h + self.skip(F.interpolate(x, scale_factor=2))


class Generator(nn.Module):
    def __init__(self, widths, base_channels, channels, num_classes, chunk_dim, shared_dim, attention_block):
        super().__init__()
        width = [base_channels * each for each in widths]
        self.chunk_dim, self.attention_block = chunk_dim, attention_block
        self.shared = nn.Linear(num_classes, shared_dim, bias=False)
        self.first = linear(chunk_dim, 16 * width[0])
        condition = chunk_dim + shared_dim
        self.blocks = nn.ModuleList(
            GeneratorBlock(a, b, condition)
            for a, b in zip(width, width[1:], strict=False)  # noqa: RUF007
        )
        self.attention = Attention(width[attention_block + 1])
        self.norm, self.to_image = nn.BatchNorm2d(width[-1]), conv(width[-1], channels)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        first, *chunks = z.split(self.chunk_dim, 1)
        y = self.shared.weight.T[labels]
        h = self.first(first).view(len(z), -1, 4, 4)
        for index, (block, chunk) in enumerate(zip(self.blocks, chunks, strict=True)):
            h = block(h, torch.cat([y, chunk], 1))
            h = self.attention(h) if index == self.attention_block else h
        return torch.tanh(self.to_image(F.relu(self.norm(h))))


class DiscriminatorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, is_halved: bool, is_first: bool):
        super().__init__()
        self.is_halved, self.is_first = is_halved, is_first
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.skip = conv(inputs, outputs, 1) if inputs != outputs or is_halved else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.is_first else F.relu(x))))
        skip = self.skip(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(skip, 2) if self.is_halved else h + skip


class Discriminator(nn.Module):
    def __init__(self, widths, base_channels, channels, num_classes, downsamples, attention_block):
        super().__init__()
        width = [channels, *(base_channels * each for each in widths)]
        self.attention_block = attention_block
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(width[i], width[i + 1], i < downsamples, i == 0) for i in range(len(widths))
        )
        self.attention = Attention(width[attention_block + 1])
        self.output, self.embedding = linear(width[-1], 1), linear(num_classes, width[-1], False)
        self.num_classes = num_classes

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = images
        for index, block in enumerate(self.blocks):
            h = block(h)
            h = self.attention(h) if index == self.attention_block else h
        features = F.relu(h).sum((2, 3))
        y = F.one_hot(labels, self.num_classes).to(features.dtype)
        return self.output(features)[:, 0] + (self.embedding(y) * features).sum(1)


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """The same numbers by the peer's names."""
    state = {}
    for name, tensor in ours.state_dict().items():
        if name == "embedding.parametrizations.weight.0.u":
            name = "embedding.parametrizations.weight.0.v"  # of a table by class
        elif name == "embedding.parametrizations.weight.0.v":
            name = "embedding.parametrizations.weight.0.u"
        name = name.replace(".parametrizations.weight.original", ".weight_orig")
        name = name.replace(".parametrizations.weight.0.", ".weight_").replace("norm.norm.", "norm.")
        state[name] = tensor[0] if "running" in name else tensor
    own = theirs.state_dict()
    state = {_peer_name(name, own): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state, strict=False)
    missing = own.keys() - state.keys() - {name for name in own if name.endswith("num_batches_tracked")}
    assert not missing, missing


def _peer_name(name: str, own: dict[str, Tensor]) -> str:
    """With the level of the normalization inside a conditional one, where the peer has it."""
    layer, _, kind = name.rpartition(".")
    return name if name in own else f"{layer}.norm.{kind}"


def step_of(
    generator: Any, discriminator: Any, real: Tensor, labels: Tensor, z: Tensor
) -> Callable[[], None]:
    """One step of both players."""
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=1e-6, betas=(0.0, 0.999), fused=True)
        for net in (generator, discriminator)
    ]
    players = [list(net.parameters()) for net in (generator, discriminator)]

    def step() -> None:
        with torch.no_grad():
            fake = generator(z, labels)
        optimizers[1].zero_grad()
        loss = hinge_loss(discriminator(real, labels), discriminator(fake, labels))
        loss.backward(inputs=players[1])
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-discriminator(generator(z, labels), labels).mean()).backward(inputs=players[0])
        optimizers[0].step()

    return step


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in {"batch": 32, "pairs": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    torch.manual_seed(0)
    networks = NETWORKS["biggan_mnist"]
    ours = (
        networks.generator(**networks.arguments),
        networks.discriminator(**networks.discriminator_arguments),
    )
    theirs = Generator(**networks.arguments), Discriminator(**networks.discriminator_arguments)
    for mine, other in zip(ours, theirs, strict=True):
        copy_weights(mine, other)
    z, labels = torch.randn(args.batch, 64), torch.arange(args.batch) % 10
    real = torch.rand(args.batch, 1, 32, 32) * 2 - 1
    ours = tuple(net.to(memory_format=torch.channels_last) for net in ours)
    with torch.no_grad():
        for name, inputs, pair in zip("GD", (z, real), zip(ours, theirs, strict=True), strict=True):
            mine, other = (net.eval()(inputs, labels) for net in pair)
            print(f"{name}: {sum(p.numel() for p in pair[0].parameters()):,} parameters, "
                  f"outputs {relative_error(mine, other):.1e} apart")  # fmt: skip
            for net in pair:
                net.train()
    works = [step_of(*pair, real, labels, z) for pair in (ours, theirs)]
    for work in works:
        work()
    times = []
    for pair in range(args.pairs):
        order = works if pair % 2 else works[::-1]
        elapsed = {work: seconds(work) for work in order}
        times.append((elapsed[works[0]], elapsed[works[1]]))
    ratios = sorted(other / mine for mine, other in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"training step: {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"ours {1e3 * mine:.0f} ms, the usual form {1e3 * other:.0f} ms"
    )


if __name__ == "__main__":
    main()
