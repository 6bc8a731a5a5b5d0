"""AlexNet: map sizes, initialization, its two groups, and torchvision's names."""

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.conv.local_response_norm import local_response_norm, local_response_norm_by_definition
from torchstone.parts.facts import count_parameters, macs, on_meta
from torchstone.parts.optional_imports import import_torchvision
from torchstone.systems.convolutional.alexnet import (
    HEAD,
    RECIPES,
    VARIANTS,
    AlexNet,
    AlexNetPaper,
    NaiveAlexNet,
    build,
)
from torchstone.verify import relative_error


def grids(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """(maps, height, width) after every convolution and pooling."""
    seen: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
    model.eval()(torch.zeros(1, *shape, device="meta"))
    return seen


def test_alexnet_paper_map_sizes():
    seen = grids(on_meta(VARIANTS["alexnet_paper"].make), (3, 227, 227))
    print(seen)
    assert seen == [
        (96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13),
        (384, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6), (256, 6, 6),
    ]  # fmt: skip


def test_alexnet_maps_at_224_are_6x6():
    seen = grids(on_meta(VARIANTS["alexnet"].make), (3, 224, 224))
    print(seen)
    assert seen[-2:] == [(256, 6, 6), (256, 6, 6)]


def test_alexnet_state_dict_matches_torchvision():
    with torch.device("meta"):
        theirs = import_torchvision().models.alexnet().state_dict()
    ours = on_meta(VARIANTS["alexnet"].make).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert {k for k in ours if k.startswith(HEAD)} == {"classifier.6.weight", "classifier.6.bias"}
    paper = on_meta(VARIANTS["alexnet_paper"].make).state_dict()
    assert {k for k in paper if k.startswith(HEAD)} == {"fc8.weight", "fc8.bias"}


def test_alexnet_paper_initialization():
    model = AlexNetPaper(10, hidden=64)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, p in model.state_dict().items():
        layer, kind = name.split(".")
        if kind == "weight":
            print(name, float(p.mean()), float(p.std()))
            assert float(p.std()) == pytest.approx(0.01, rel=0.1)
            assert abs(float(p.mean())) < 4 * 0.01 / p.numel() ** 0.5
        else:
            assert p.tolist() == [float(layer in ones)] * len(p), name


def test_alexnet_paper_groups_are_separate():
    """Card by card: in conv2 the first 128 maps hear maps 0..47, the others 48..95."""
    model = AlexNetPaper(10, hidden=16)
    x = torch.randn(1, 96, 7, 7)
    for layer, half in ((model.conv2, 128),):
        without = x.clone()
        without[:, :48] = 0
        changed = (layer(x) != layer(without)).amax((0, 2, 3))
        assert changed.tolist() == [True] * half + [False] * half


def test_local_response_norm_equals_definition():
    a = torch.randn(2, 7, 3, 3, dtype=torch.float64) * 30
    for n, alpha, beta, k in ((5, 1e-4, 0.75, 2.0), (3, 1e-2, 0.5, 1.0), (15, 1e-3, 1.0, 2.0)):
        difference = relative_error(
            local_response_norm(n, alpha, beta, k)(a), local_response_norm_by_definition(a, n, alpha, beta, k)
        )
        print(n, difference)
        assert difference < 1e-14
    # the planted fault: torch's α, which is over the mean
    wrong = relative_error(nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)(a), local_response_norm_by_definition(a))
    print("α not times n:", wrong)
    assert wrong > 1e-3


@pytest.mark.parametrize("fault", ["one group", "alpha", "dropout", "pooling"])
def test_naive_alexnet_detects_fault(fault):
    torch.manual_seed(0)
    model = AlexNetPaper(10, hidden=32).double()
    x = 30 * torch.randn(2, 3, 99, 99, dtype=torch.float64)
    slow = NaiveAlexNet(model)

    def distance() -> float:
        torch.manual_seed(1)
        ours = model(x)
        torch.manual_seed(1)
        return relative_error(ours, slow(x))

    good = distance()
    if fault == "one group":  # the halves change places
        model.conv4.register_forward_pre_hook(lambda _, args: (args[0].roll(192, 1),))
    elif fault == "alpha":
        model.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    elif fault == "dropout":
        model.dropout.p = 0.4
    else:
        model.pool = nn.MaxPool2d(2, 2)
    bad = distance()
    print(f"{fault}: right {good:.1e}, with the fault {bad:.1e}")
    assert good < 1e-12 < 1e-8 < bad


def test_macs_detect_misplaced_stride():
    with torch.device("meta"):
        model = AlexNet()
        model.features[0] = nn.Conv2d(3, 64, 11, 2, 2)
        model.features[3] = nn.Conv2d(64, 192, 5, 2, 2)
    assert count_parameters(model) == 61_100_840
    count = macs(model, (1, 3, 224, 224))
    print(count)
    assert count != 714_188_480


def test_build_rejects_too_small_images():
    import dataclasses

    for variant, size in (("alexnet", 62), ("alexnet_paper", 66)):
        recipe = dataclasses.replace(RECIPES["smoke"], variant=variant, size=size)
        with pytest.raises(BadInput, match=f"{size + 1} or more, not {size}"):
            next(build(recipe))
    assert AlexNet(10, hidden=8)(torch.randn(1, 3, 63, 63)).shape == (1, 10)
    assert AlexNetPaper(10, hidden=8)(torch.randn(1, 3, 67, 67)).shape == (1, 10)
