"""Receptive fields against published figures and the extent of the gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchstone as ts
from torchstone.cli.show import layers
from torchstone.interpret.receptive_field import ReceptiveFieldTracker
from torchstone.parts.conv.branches import Branches
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.shortcut import PadShortcut
from torchstone.systems import find
from torchstone.systems.convolutional.deeplab import ASPP


def fields(variant):
    """Receptive field of every layer of a network, by name, without its weights in memory."""
    make, shape = find(variant)[0].module().VARIANTS[variant]
    seen = {}
    with torch.device("meta"):
        model, images = make().eval(), torch.zeros(1, *shape)
    sight = ReceptiveFieldTracker(images)
    for name, module in model.named_modules():

        def note(module, inputs, output, name=name):
            seen[name] = sight.of(output)

        module.register_forward_hook(note)
    with torch.no_grad(), sight:
        model(images)
    return seen


@pytest.mark.parametrize(
    ("variant", "layer", "pixels"),
    [
        # Araujo et al. 2019, the table of section 4; their residual networks stride as the paper's do
        ("alexnet", "features.12", 195),
        ("vgg16", "features.30", 212),
        ("resnet50_paper", "layer4", 483),
        ("seresnet101_paper", "layer4", 1027),
        ("seresnet152_paper", "layer4", 1507),
        ("mobilenet_v1", "features", 315),
        # by hand: 7 + 4·1 (stem), then 2·jump for each 3×3, of jump 4, 8, 16, 32
        ("resnet50", "layer4", 11 + 3 * 8 + (8 + 3 * 16) + (16 + 5 * 32) + (32 + 2 * 64)),
        ("vgg16", "features.28", 196),
        ("resnet20_cifar", "layer3", 3 + 6 * 2 + (2 + 5 * 4) + (4 + 5 * 8)),
    ],
)
def test_receptive_field_published_figures(variant, layer, pixels):
    seen = fields(variant)
    print(f"{variant} {layer}: {seen[layer]}, expected {pixels}")
    assert seen[layer] == pixels
    assert seen[""] == "all"


def conv(kernel, **settings):
    return nn.Conv2d(2, 2, kernel, **settings)


class Residual(nn.Module):
    """Two ends that see different pixels: the 4×4 is not centred."""

    def __init__(self, stride):
        super().__init__()
        self.inner = nn.Sequential(conv(4, stride=stride, padding=1), conv(3, padding=1))
        self.outer = PadShortcut(2, 2, stride)

    def forward(self, x):
        inner = self.inner(x)
        return inner + self.outer(x)[..., : inner.shape[-2], : inner.shape[-1]]


class Shifted(nn.Module):
    """Each place is the sum of places that are 5 rows and 4 columns apart."""

    def forward(self, x):
        padded = F.pad(x, (4, 0, 2, 0))
        return padded[:, :, 7:-4:2, :-8:2] + x[:, :, :-9:2, -x.shape[3] : -4 : 2]


NETWORKS = {
    "convolutions": nn.Sequential(conv(5, stride=2, padding=2), conv(3, dilation=3), conv(4)),
    "axes": nn.Sequential(conv((1, 7)), conv((5, 1), stride=(1, 2)), conv(3)),
    "pools": nn.Sequential(conv(3), nn.AvgPool2d(3, 2, padding=1), conv(3), nn.AvgPool2d(2)),
    "branches": nn.Sequential(
        conv(3, stride=2),
        Branches(a=nn.Conv2d(2, 1, 1), b=nn.Conv2d(2, 1, 5, padding=2), c=nn.AvgPool2d(3, 1, padding=1)),
        nn.Conv2d(4, 2, 3),
    ),
    "residual": nn.Sequential(conv(3), Residual(2), nn.ReLU(inplace=True), Residual(1)),
    "shifted": nn.Sequential(conv(3), Shifted(), conv(3)),
    "transposed": nn.Sequential(conv(3, stride=2), nn.ConvTranspose2d(2, 2, 2, 2), conv(3)),
    "adaptive": nn.Sequential(conv(3, padding=1), nn.AdaptiveAvgPool2d(16), conv(3)),
    "response": nn.Sequential(conv(3, stride=2), nn.LocalResponseNorm(3), conv(3)),
}


def extent(model, images):
    """Longest side of the pixels that a place in the middle depends on, by the gradient."""
    pixels = images.clone().requires_grad_()
    output = model(pixels)
    middle = [side // 2 for side in output.shape[-2:]]
    output[0, :, middle[0], middle[1]].sum().backward()
    touched = pixels.grad[0].abs().sum(0) > 0
    sides = [touched.any(axis).nonzero().flatten() for axis in (1, 0)]
    assert all(side[0] > 0 for side in sides), "the picture is too small to tell"
    return max(int(side[-1] - side[0]) + 1 for side in sides)


def seen_by(model, images):
    sight = ReceptiveFieldTracker(images)
    with torch.no_grad(), sight:
        return sight.of(model(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_equals_gradient_extent(name):
    model = copy.deepcopy(NETWORKS[name]).double().eval()
    with torch.no_grad():
        for p in model.parameters():  # no weight cancels another, no unit is cut off
            p.uniform_(0.5, 1)
    images = torch.rand(1, 2, 64, 64, dtype=torch.float64)
    found, true = seen_by(model, images), extent(model, images)
    print(f"{name}: {found} pixels, gradient {true}")
    assert found == true


def test_receptive_field_max_pool_equals_avg_pool():
    images = torch.rand(1, 2, 40, 40)
    for settings in ({"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2}):
        pools = [kind(**settings) for kind in (nn.MaxPool2d, nn.AvgPool2d)]
        a, b = (seen_by(nn.Sequential(conv(3), pool, conv(3)), images) for pool in pools)
        print(f"{settings}: {a} and {b}")
        assert a == b
    dilated = nn.Sequential(nn.MaxPool2d(3, 1, dilation=2), conv(3))
    assert seen_by(dilated, images) == 7


def test_receptive_field_ignores_gates_and_pooled_branches():
    images = torch.rand(1, 8, 20, 20)
    gated = nn.Sequential(nn.Conv2d(8, 8, 3), SqueezeExcitation(8, 2), nn.Conv2d(8, 8, 3)).eval()
    assert seen_by(gated, images) == 5
    assert seen_by(gated[1].fc1, images) == 1
    assert seen_by(nn.Sequential(nn.AdaptiveAvgPool2d(1), gated[1].fc1), images) == "all"
    assert seen_by(ASPP(8, (1, 3), 4).eval(), images) == 7
    assert seen_by(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten()), images) == "all"


def test_receptive_field_none_if_independent_of_image():
    sight = ReceptiveFieldTracker(torch.rand(1, 1, 4, 4))
    with sight:
        assert sight.of(torch.ones(2) + 1) is None


def test_receptive_field_in_layer_table():
    rows = {row.name: row for row in layers(ts.create("lenet5"), (1, 32, 32))}
    found = [rows[name].receptive for name in ("c1", "s2", "c3", "s4", "c5", "f6")]
    assert found == [5, 6, 14, 16, 32, "all"]
    assert rows["c1"].macs == 117_600
    plain = layers(nn.Sequential(nn.Linear(3, 2)), (3,))
    assert plain[0].receptive is None
