"""MobileNet: map sizes, cost, published names, and planted faults."""

from functools import partial

import pytest
import torch
from torch import nn

from torchstone.parts.conv.convolution import separable_cost
from torchstone.parts.facts import count_parameters, macs, on_meta
from torchstone.parts.optional_imports import import_torchvision
from torchstone.references.vision import import_timm
from torchstone.systems.convolutional import mobilenet
from torchstone.systems.convolutional.mobilenet import COUNTS, V1, V2, VARIANTS, published
from torchstone.verify import relative_error


def grids(model: nn.Module, side: int) -> list[tuple[int, int]]:
    """(channels, side) of the maps after each layer of the features."""
    x, found = torch.zeros(1, 3, side, side, device="meta"), []
    for layer in model.eval().features:
        x = layer(x)
        found.append((x.shape[1], x.shape[2]))
    return found


def test_mobilenet_map_sizes_match_paper_tables():
    first = grids(on_meta(VARIANTS["mobilenet_v1"].make), 224)
    print(first)
    wide = [512, 14]
    assert first == [
        *[(32, 112), (64, 112), (128, 56), (128, 56), (256, 28), (256, 28)],
        *[tuple(wide)] * 6,
        *[(1024, 7), (1024, 7)],
    ]
    second = grids(on_meta(VARIANTS["mobilenet_v2"].make), 224)
    print(second)
    repeats = [(16, 112, 1), (24, 56, 2), (32, 28, 3), (64, 14, 4), (96, 14, 3), (160, 7, 3), (320, 7, 1)]
    assert second == [(32, 112), *[(c, s) for c, s, n in repeats for _ in range(n)], (1280, 7)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_output_stride_for_small_images(variant, stride):
    model = on_meta(VARIANTS[variant].make, output_stride=stride, num_classes=10)
    found = grids(model, 32)
    print(variant, stride, [side for _, side in found])
    assert found[-1][1] == 32 // stride
    # the form usual for CIFAR: neither the first layer nor the second stage halves
    if stride == 8:
        assert [side for _, side in found[:3]] == [32, 32, 32]


def test_macs_equal_paper_formula():
    """Σ D²·k²·M·N·(1/N + 1/k²) over the thirteen layers, and the two ends."""
    side, before = 112, 32
    total = 3 * 3 * 3 * 32 * side**2 + 1024 * 1000
    for outputs, stride in V1:
        side //= stride
        total += round(side**2 * 9 * before * outputs * separable_cost(outputs, 3))
        before = outputs
    print(total)
    assert total == COUNTS["mobilenet_v1"][1]


def test_macs_detect_misplaced_stride(monkeypatch):
    late = list(V1)
    late[1], late[2] = (128, 1), (128, 2)  # the same parameters, the same grid at the end
    monkeypatch.setattr(mobilenet, "V1", tuple(late))
    model = on_meta(VARIANTS["mobilenet_v1"].make)
    print(count_parameters(model), macs(model, (1, 3, 224, 224)))
    assert (count_parameters(model), grids(model, 224)[-1]) == (COUNTS["mobilenet_v1"][0], (1024, 7))
    assert macs(model, (1, 3, 224, 224)) != COUNTS["mobilenet_v1"][1]


def test_reference_detects_activation_after_bottleneck(monkeypatch):
    """Parameters and cost cannot see it."""
    theirs = import_torchvision().models.mobilenet_v2().eval()
    images = torch.randn(2, 3, 64, 64)
    plain = mobilenet.conv_norm_act
    gaps = []
    for fault in (False, True):
        if fault:
            always = lambda *args, **kw: plain(*args, **kw | {"act": mobilenet.relu6})  # noqa: E731
            monkeypatch.setattr(mobilenet, "conv_norm_act", always)
        ours = mobilenet.MobileNetV2().eval()
        wanted = {k.replace(".conv.3.0", ".conv.3"): v for k, v in theirs.state_dict().items()}
        ours.load_state_dict(wanted, strict=not fault)
        gaps.append(relative_error(ours(images), theirs(images)))
    print(gaps)
    assert gaps[0] <= 1e-5 < 1e-2 < gaps[1]


def test_residual_only_where_shapes_agree():
    blocks = [b for b in on_meta(VARIANTS["mobilenet_v2"].make).features if hasattr(b, "is_residual")]
    print([b.is_residual for b in blocks])
    assert sum(b.is_residual for b in blocks) == sum(repeats - 1 for _, _, repeats, _ in V2) == 10
    assert not blocks[0].is_residual


def test_published_renames_timm_and_preserves_unknown_keys():
    with torch.device("meta"):
        theirs = import_timm().create_model("mobilenetv1_100").state_dict()
    ours = on_meta(VARIANTS["mobilenet_v1"].make).state_dict()
    renamed = published("mobilenet_v1", theirs)
    assert list(renamed) == list(ours)
    assert all(renamed[key].shape == ours[key].shape for key in ours)
    assert published("mobilenet_v1", ours) == ours  # a file of our own
    broken = {**theirs, "blocks.3.9.conv_se.weight": torch.zeros(1)}
    del broken["blocks.2.1.conv_pw.weight"]
    renamed = published("mobilenet_v1", broken)
    with pytest.raises(RuntimeError) as caught:
        on_meta(VARIANTS["mobilenet_v1"].make).load_state_dict(renamed)
    print(caught.value)
    assert "features.5.1.0.weight" in str(caught.value)
    assert "blocks.3.9.conv_se.weight" in str(caught.value)


@pytest.mark.parametrize("make", [partial(mobilenet.MobileNetV1, width=0.25), mobilenet.MobileNetV2])
def test_mobilenet_initial_activation_scale(make):
    torch.manual_seed(0)
    maps = make(num_classes=10).features(torch.randn(8, 3, 64, 64)).detach()
    print(float(maps.mean()), float(maps.std()))
    assert 0.1 < float(maps.std()) < 3
