"""Squeeze-and-excitation improves a network at little cost, if the gate reads the image."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import train_images
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.facts import count_parameters, macs, on_meta
from torchstone.systems.convolutional import resnet, senet

CLAIM = Claim(
    "channel-attention",
    "Squeeze-and-excitation improves a network at little cost.",
    "Hu et al. 2017",
    "A ResNet of three blocks (8, 16, 32 channels) on 4,000 digits of MNIST in 14 × 14, 300 updates of "
    "AdamW: without gates, and with them. Test accuracy and loss, parameters, multiply-accumulates.",
    "Gates that read zeros instead of the image's mean channels have the same parameters and must not help: "
    "else scaling the channels is what counts, not attention.",
    minutes=1.5,
    seeds=(0, 1, 2, 3, 4),
)
SIZE = 14


class BlindGate(nn.Module):
    """A gate of the same parameters that sees nothing of the image: one factor for each channel."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.se = SqueezeExcitation(channels, squeezed)

    def forward(self, x: Tensor) -> Tensor:
        se, z = self.se, x.new_zeros(1, x.shape[1], 1, 1)
        return x * se.gate(se.fc2(se.activation(se.fc1(z))))


def blind_block(*sizes: int) -> nn.Module:
    block: Any = senet.BasicBlock(*sizes, option="A", min_squeezed=4)
    block.se = BlindGate(block.outputs, block.se.fc1.out_channels)
    return block


BLOCKS: dict[str, Any] = {
    "no gate": partial(resnet.BasicBlock, option="A"),
    "gate": partial(senet.BasicBlock, option="A", min_squeezed=4),
    "blind gate": blind_block,
}


def network(block: Any) -> nn.Module:
    return resnet.ResNet(block, (1, 1, 1), widths=(8, 16, 32), stem="cifar", num_classes=10, channels=1)


def measure(seed: int) -> Row:
    """Test accuracy and loss, parameters and multiply-accumulates of each network."""
    data = load_images("mnist5k", size=SIZE, channels=1)
    row: Row = {}
    for name, block in BLOCKS.items():
        outcome = train_images(partial(network, block), data, seed=seed, steps=300)
        row[name] = {
            "accuracy": outcome.metrics["test/accuracy"],
            "loss": outcome.metrics["test/loss"],
            "parameters": count_parameters(outcome.model),
            "macs": macs(on_meta(network, block), (1, 1, SIZE, SIZE)),
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    def compared(first: str, second: str) -> list[Any]:
        return [
            paired(
                f"test accuracy, {first} − {second}", column(first, "accuracy"), column(second, "accuracy")
            ),
            paired(f"test loss, {second} − {first}", column(second, "loss"), column(first, "loss")),
        ]

    gains, controls = compared("gate", "no gate"), compared("gate", "blind gate")
    mean = {name: sum(column(name, "accuracy")) / len(rows) for name in BLOCKS}
    gate, plain = rows[0]["gate"], rows[0]["no gate"]
    finding = (
        f"test accuracy {mean['gate']:.3f} with gates, {mean['no gate']:.3f} without, "
        f"{mean['blind gate']:.3f} with blind ones; {gate['parameters'] / plain['parameters'] - 1:.0%} "
        f"more parameters, {gate['macs'] / plain['macs'] - 1:.1%} more multiply-accumulates"
    )
    tests = gains + controls
    if not any(gain.is_above_zero for gain in gains) or any(gain.is_below_zero for gain in gains):
        return Verdict("not seen here", finding, tests)
    if any(control.is_above_zero for control in controls):
        return Verdict("holds", finding, tests)
    return Verdict("not seen here", f"blind gates do as well: {finding}", tests)


def draw(rows: list[Row]) -> Any:
    accuracy = {name: [row[name]["accuracy"] for row in rows] for name in BLOCKS}
    loss = {name: [row[name]["loss"] for row in rows] for name in BLOCKS}
    figure = bars({"test accuracy": accuracy, "test loss": loss})
    values = [value for seeds in accuracy.values() for value in seeds]
    figure.axes[0].set_ylim(min(values) - 0.01, min(1, max(values) + 0.01))
    return figure
