"""CBAM: cost of the module, the authors' names, and planted faults."""

from typing import Any

import pytest
import torch

from torchstone.parts.facts import count_parameters, macs
from torchstone.references.resnet import NaiveResNet, randomize_norms
from torchstone.systems.convolutional import resnet, senet
from torchstone.systems.convolutional.cbam import CBAM, VARIANTS, cbam_by_definition, published
from torchstone.verify import relative_error


def meta(make):
    with torch.device("meta"):
        return make()


def test_cbam_adds_100_parameters_per_block_to_senet():
    for n in (18, 34, 50, 101):
        ours, theirs = (meta(VARIANTS[f"cbam_resnet{n}"].make), meta(senet.VARIANTS[f"seresnet{n}"].make))
        blocks = sum(isinstance(m, CBAM) for m in ours.modules())
        print(n, blocks, count_parameters(ours) - count_parameters(theirs))
        assert (
            count_parameters(ours) - count_parameters(theirs) == 100 * blocks == 100 * sum(resnet.DEPTHS[n])
        )


@pytest.mark.sweep
def test_macs_equal_equations():
    """Twice through the shared MLP, and 2·7² for each place of each block."""
    for n in (18, 34, 50, 101):
        wide = 4 if n >= 50 else 1
        added = sum(
            depth * (4 * (wide * width) ** 2 // 16 + 98 * side**2)
            for depth, width, side in zip(resnet.DEPTHS[n], (64, 128, 256, 512), (56, 28, 14, 7), strict=True)
        )
        shape = (1, 3, 224, 224)
        ours = macs(meta(VARIANTS[f"cbam_resnet{n}"].make), shape)
        theirs = macs(meta(resnet.VARIANTS[f"resnet{n}"].make), shape)
        print(n, ours, added)
        assert ours - theirs == added


def test_published_renames_authors_weights():
    model = VARIANTS["cbam_resnet50"]
    ours = meta(model.make).state_dict()
    names = {
        "cbam.channel.fc1": "cbam.ChannelGate.mlp.1",
        "cbam.channel.fc2": "cbam.ChannelGate.mlp.3",
        "cbam.spatial.conv": "cbam.SpatialGate.spatial.conv",
        "cbam.spatial.bn": "cbam.SpatialGate.spatial.bn",
    }
    theirs = {}
    for key, value in ours.items():
        for name, theirs_name in names.items():
            key = key.replace(name, theirs_name)
        theirs[key] = value
    assert "layer1.0.cbam.ChannelGate.mlp.1.weight" in theirs
    assert published("cbam_resnet50", theirs).keys() == ours.keys()


def test_naive_resnet_detects_swapped_gates():
    """Planted fault: places before channels."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16).double()
    ours = randomize_norms(VARIANTS["cbam_resnet20_cifar"].make().double(), images).eval()
    slow = NaiveResNet(ours, cbam_by_definition)(images)
    right = relative_error(ours(images), slow)
    modules: list[Any] = [m for m in ours.modules() if isinstance(m, CBAM)]
    for module in modules:
        module.channel, module.spatial = module.spatial, module.channel
    wrong = relative_error(ours(images), slow)
    print("channels first, places first:", right, wrong)
    assert right < 1e-10 < 1e-4 < wrong


def test_spatial_gate_starts_uniform():
    model = VARIANTS["cbam_resnet20_cifar"].make()
    gate, x = model.layer1[0].cbam.spatial, torch.randn(2, 16, 8, 8)
    assert torch.equal(gate(x), x * 0.5)
