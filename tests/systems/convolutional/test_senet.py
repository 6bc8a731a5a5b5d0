"""SENet: the formula of its gates, published names, and planted faults."""

from functools import partial
from typing import Any

import pytest
import torch

from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.facts import count_parameters, macs
from torchstone.references.resnet import randomize_norms
from torchstone.references.vision import import_timm
from torchstone.systems.convolutional import resnet
from torchstone.systems.convolutional.senet import VARIANTS, gate_parameters, published
from torchstone.verify import relative_error


def meta(make):
    with torch.device("meta"):
        return make()


@pytest.mark.sweep
def test_gate_parameters_and_macs_equal_formula():
    for variant, (make, shape) in VARIANTS.items():
        plain = variant.removeprefix("se").replace("101_paper", "101").replace("152_paper", "152")
        with_gates, without = meta(make), meta(resnet.VARIANTS[plain].make)
        added = count_parameters(with_gates) - count_parameters(without)
        counted = sum(count_parameters(m) for m in with_gates.modules() if isinstance(m, SqueezeExcitation))
        print(variant, added)
        assert added == gate_parameters(with_gates) == counted
        if "101_paper" in variant or "152_paper" in variant:
            continue  # no ResNet of ours has that stride
        products = macs(with_gates, (1, *shape)) - macs(without, (1, *shape))
        sizes = [m.fc1.weight.numel() for m in with_gates.modules() if isinstance(m, SqueezeExcitation)]
        assert products == 2 * sum(sizes)


def test_senet_gate_in_every_block_squeezes_to_a_sixteenth():
    model = meta(VARIANTS["seresnet50"].make)
    widths = [
        (m.fc1.in_channels, m.fc1.out_channels) for m in model.modules() if isinstance(m, SqueezeExcitation)
    ]
    print(widths)
    assert widths == [(256, 16)] * 3 + [(512, 32)] * 4 + [(1024, 64)] * 6 + [(2048, 128)] * 3


def test_published_renames_both_timm_formats():
    for variant, name in {
        "seresnet50": "seresnet50",
        "seresnet50_paper": "legacy_seresnet50",
        "seresnet18": "legacy_seresnet18",
    }.items():
        with torch.device("meta"):
            theirs = import_timm().create_model(name).state_dict()
        ours = meta(VARIANTS[variant].make).state_dict()
        renamed = published(variant, theirs)
        print(variant, len(ours))
        assert renamed.keys() == ours.keys()
        assert all(renamed[k].shape == ours[k].shape for k in ours)


def test_parity_detects_missing_relu_and_padded_pooling():
    """Planted faults: the details that tell the published networks of 18 layers from the obvious one."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 40, 40).double()
    theirs = import_timm().create_model("legacy_seresnet18", num_classes=10, drop_rate=0.0).double()
    theirs = randomize_norms(theirs, images).eval()
    ours = VARIANTS["seresnet18"].make(num_classes=10).double().eval()
    ours.load_state_dict(published("seresnet18", theirs.state_dict()))
    wanted = theirs(images)
    differences = [relative_error(ours(images), wanted)]
    ours.layer1[0].relu_before_gate = False
    differences.append(relative_error(ours(images), wanted))
    ours.layer1[0].relu_before_gate = True
    ours.maxpool = torch.nn.MaxPool2d(3, 2, 1)
    differences.append(relative_error(ours(images), wanted))
    print("as published, one ReLU less, edged pooling:", differences)
    assert differences[0] < 1e-10 < 1e-4 < min(differences[1:])


def test_senet_with_open_gates_equals_resnet():
    """With every gate open the network is the ResNet of the same weights."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16).double()
    ours = randomize_norms(VARIANTS["seresnet20_cifar"].make().double(), images).eval()
    opened: list[Any] = [m for m in ours.modules() if isinstance(m, SqueezeExcitation)]
    for gate in opened:
        torch.nn.init.zeros_(gate.fc2.weight)
        torch.nn.init.constant_(gate.fc2.bias, 50.0)
    plain = resnet.VARIANTS["resnet20_cifar"].make().double().eval()
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if ".se." not in k})
    print("open gates", relative_error(ours(images), plain(images)))
    assert relative_error(ours(images), plain(images)) < 1e-12


def test_senet_other_classes_and_channels():
    make = partial(VARIANTS["seresnet20_cifar"].make, num_classes=7, channels=1)
    assert make()(torch.randn(2, 1, 20, 20)).shape == (2, 7)
