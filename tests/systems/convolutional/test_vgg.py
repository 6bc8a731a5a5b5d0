"""VGG: table 1, torchvision's names, and faults that the counts detect."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.facts import count_parameters, macs, on_meta
from torchstone.parts.optional_imports import import_torchvision
from torchstone.systems.convolutional.vgg import (
    COUNTS,
    HEAD,
    LAYERS,
    RECIPES,
    VARIANTS,
    VGG,
    NaiveVGG,
    build,
    cifar_vgg,
    conv_stack,
    imagenet_vgg,
)
from torchstone.verify import relative_error


def test_vgg_names_count_layers():
    for row, words in LAYERS.items():
        convolutions = [word for word in words.split() if word != "pool"]
        assert row == f"vgg{len(convolutions) + 3}"
        assert words.split().count("pool") == 5
        assert words.split()[-1] == "pool"


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "vgg16_bn_cifar"])
def test_vgg_state_dict_matches_torchvision(variant):
    with torch.device("meta"):
        theirs = getattr(import_torchvision().models, variant)().state_dict()
    ours = on_meta(VARIANTS[variant].make).state_dict()
    print(variant, len(ours), "tensors")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert {k for k in ours if k.startswith(HEAD)} == {"classifier.6.weight", "classifier.6.bias"}


def test_vgg_cifar_has_one_linear_layer_on_512_maps():
    model: Any = on_meta(VARIANTS["vgg16_bn_cifar"].make)
    seen = []
    model.avgpool.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape)))
    model(torch.zeros(2, 3, 32, 32, device="meta"))
    assert seen == [(2, 512, 1, 1)]
    assert {k for k in model.state_dict() if k.startswith(HEAD)} == {"classifier.weight", "classifier.bias"}
    assert cifar_vgg(7, 1)(torch.randn(2, 1, 48, 48)).shape == (2, 7)


def test_macs_by_hand():
    """Σ side² · 9 · inputs · outputs over the table, and the full layers."""
    for row, words in LAYERS.items():
        side, inputs, count = 224, 3, 25_088 * 4096 + 4096**2 + 4096 * 1000
        for word in words.split():
            if word == "pool":
                side //= 2
            else:
                count += side**2 * 9 * inputs * int(word)
                inputs = int(word)
        print(row, count)
        assert count == COUNTS[row][1] == COUNTS[f"{row}_bn"][1]


def test_conv_stack_receptive_field():
    """Section 2.3: the second 3×3 sees 5×5, the third 7×7, whatever the weights."""
    for depth, reach in ((1, 3), (2, 5), (3, 7)):
        net = conv_stack("4 " * depth, 1, norm=False)
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 1.0)
        x = torch.ones(1, 1, 15, 15, requires_grad=True)
        net(x)[0, 0, 7, 7].backward()
        assert x.grad is not None
        seen = int((x.grad != 0).sum())
        print(depth, seen)
        assert seen == reach**2


@pytest.mark.parametrize("fault", ["epsilon", "statistics", "pooling"])
@pytest.mark.parametrize("training", [True, False])
def test_naive_vgg_detects_fault(fault, training):
    torch.manual_seed(0)
    model = cifar_vgg().double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    model(x)
    model.train(training)
    slow = NaiveVGG(model).train(training)
    good = relative_error(model(x), slow(x))
    features = model.features
    assert isinstance(features, nn.Sequential)
    if fault == "epsilon":
        for module in features:
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(lambda m, _: setattr(m, "eps", 1e-2))
                module.register_forward_hook(lambda m, *_: setattr(m, "eps", 1e-5))
    elif fault == "statistics":
        model.train(not training)
        slow.training = training
    else:
        features[6] = nn.AvgPool2d(2)
    bad = relative_error(model(x), slow(x))
    print(f"{fault}: right {good:.1e}, with the fault {bad:.1e}")
    assert good < 1e-10 < 1e-6 < bad


def test_macs_detect_misplaced_pooling():
    with torch.device("meta"):
        moved = LAYERS["vgg16"].replace("128 128 pool", "128 pool 128", 1)
        good = on_meta(VARIANTS["vgg16"].make)
        assert isinstance(good.classifier, nn.Module)
        bad = VGG(conv_stack(moved, 3, norm=False), 7, good.classifier)
    assert count_parameters(bad) == COUNTS["vgg16"][0]
    count = macs(bad, (1, 3, 224, 224))
    print(count, COUNTS["vgg16"][1])
    assert count < COUNTS["vgg16"][1]


def test_vgg_accepts_sizes_from_32():
    model = imagenet_vgg("vgg11", False, num_classes=4, channels=1, hidden=8).eval()
    for size in (32, 50):
        assert model(torch.randn(1, 1, size, size)).shape == (1, 4)
    with pytest.raises(BadInput, match="needs a size of 32 or more, not 31"):
        next(build(dataclasses.replace(RECIPES["smoke"], size=31)))
