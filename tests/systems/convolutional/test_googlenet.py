"""GoogLeNet: table 1, the auxiliary classifiers, torchvision's names, and planted faults."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.facts import count_parameters, macs, on_meta
from torchstone.parts.optional_imports import import_torchvision
from torchstone.systems.convolutional.googlenet import (
    AUXILIARY,
    HEAD,
    PAPER,
    PUBLISHED,
    RECIPES,
    TABLE,
    VARIANTS,
    GoogLeNet,
    NaiveGoogLeNet,
    build,
    loss,
)
from torchstone.verify import relative_error

# the paper's column "output size": side and maps, and its column "params", in thousands
OUTPUTS = {
    "conv1": (112, 64), "maxpool1": (56, 64), "conv3": (56, 192), "maxpool2": (28, 192),
    "inception3a": (28, 256), "inception3b": (28, 480), "maxpool3": (14, 480),
    "inception4a": (14, 512), "inception4b": (14, 512), "inception4c": (14, 512),
    "inception4d": (14, 528), "inception4e": (14, 832), "maxpool4": (7, 832),
    "inception5a": (7, 832), "inception5b": (7, 1024), "avgpool": (1, 1024),
}  # fmt: skip
THOUSANDS = (159, 380, 364, 437, 463, 580, 840, 1072, 1388)


@pytest.mark.parametrize("variant", ["googlenet", "googlenet_paper"])
def test_googlenet_map_shapes_match_table_1(variant):
    model, seen = on_meta(VARIANTS[variant].make).eval(), {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, y, n=name: seen.update({n: y.shape}))
    model(torch.zeros(1, 3, 224, 224, device="meta"))
    found = {name: (seen[name][3], seen[name][1]) for name in OUTPUTS}
    print(found)
    assert found == OUTPUTS


def test_inception_parameters_near_paper():
    """The column is rounded, and off by up to 8 % from what the table's own widths give."""
    model = on_meta(VARIANTS["googlenet_paper"].make)
    names = [name for name, row in TABLE.items() if row is not None]
    for name, thousands in zip(names, THOUSANDS, strict=True):
        count = count_parameters(model.get_submodule(name)) / 1024
        print(name, round(count, 1), thousands)
        assert count == pytest.approx(thousands, rel=0.08)


def test_macs_of_5x5_filters():
    """25 − 9 more places in each, over the published network's products."""
    more = 0
    for name, row in TABLE.items():
        if row is not None:
            more += 16 * OUTPUTS[name][0] ** 2 * row[3] * row[4]
    published, paper = (
        macs(on_meta(VARIANTS[v].make), (1, 3, 224, 224)) for v in ("googlenet", "googlenet_paper")
    )
    print(published, more, paper)
    assert published + more == paper


def test_googlenet_state_dict_matches_torchvision():
    with torch.device("meta"):
        theirs: Any = import_torchvision().models.GoogLeNet(init_weights=False)
    for ours, published in (
        (on_meta(VARIANTS["googlenet"].make).state_dict(), theirs.state_dict()),
        (dict(on_meta(VARIANTS["googlenet"].make).named_parameters()), dict(theirs.named_parameters())),
    ):
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in published.items()}
        assert list(ours) == list(published)
    heads = {k for k in theirs.state_dict() if k.startswith(HEAD)}
    assert heads == {f"{n}.{k}" for n in ("fc", "aux1.fc2", "aux2.fc2") for k in ("weight", "bias")}


def test_auxiliary_classifiers_only_in_training_and_at_right_modules():
    torch.manual_seed(0)
    model = GoogLeNet(PUBLISHED, 7, 1)
    x = torch.randn(2, 1, 64, 64)
    output = model(x)
    assert isinstance(output, tuple)
    assert [tuple(each.shape) for each in output] == [(2, 7)] * 3
    assert tuple(model.eval()(x).shape) == (2, 7)
    # what a head's loss reaches: everything up to its module, nothing above
    model.train()
    for number, (place, (head, _)) in enumerate(AUXILIARY.items(), 1):
        model.zero_grad(set_to_none=True)
        answers = model(x)
        answers[number].square().sum().backward()
        reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
        modules = [name for name, row in TABLE.items() if row is not None]
        below = set(modules[: modules.index(place) + 1])
        print(head, sorted(reached))
        assert reached == {"conv1", "conv2", "conv3", head} | below


def test_loss_weights_auxiliary_by_0_3():
    logits, aux1, aux2 = torch.randn(3, 5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    apiece = [float(F.cross_entropy(each, labels)) for each in (logits, aux1, aux2)]
    expected = apiece[0] + 0.3 * (apiece[1] + apiece[2])
    print(float(loss((logits, aux1, aux2), labels)), expected)
    assert float(loss((logits, aux1, aux2), labels)) == pytest.approx(expected, rel=1e-6)
    assert float(loss(logits, labels)) == pytest.approx(apiece[0])


@pytest.mark.parametrize("fault", ["3x3 for 5x5", "alpha", "heads change places", "dropout"])
def test_naive_googlenet_detects_fault(fault):
    torch.manual_seed(0)
    model: Any = GoogLeNet(PAPER, 5).double()
    x = 10 * torch.randn(1, 3, 224, 224, dtype=torch.float64)

    def run(net: nn.Module):
        torch.manual_seed(1)
        with torch.no_grad():
            return net(x)

    right = run(NaiveGoogLeNet(model))
    good = relative_error(run(model), right)
    if fault == "3x3 for 5x5":
        with torch.no_grad():
            wide = model.inception4b.branch3[1].conv.weight
            wide[:, :, [0, 4]] = 0
            wide[:, :, :, [0, 4]] = 0
    elif fault == "alpha":
        model.norm1 = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    elif fault == "dropout":
        model.aux1.dropout.p = 0.5
    else:
        logits, aux1, aux2 = run(model)
        model.forward = lambda _: (logits, aux2, aux1)
    bad = relative_error(run(model), right)
    print(f"{fault}: right {good:.1e}, with the fault {bad:.1e}")
    assert good < 1e-10 < 1e-6 < bad


def test_macs_detect_misplaced_stride():
    with torch.device("meta"):
        model: Any = GoogLeNet(PUBLISHED)
    model.conv1.conv.stride, model.conv3.conv.stride = (1, 1), (2, 2)
    count = macs(model, (1, 3, 224, 224))
    print(count, count_parameters(model))
    assert count_parameters(model) == 13_004_888
    assert count != 1_498_376_192


def test_build_rejects_unsupported_sizes():
    for variant, size in (("googlenet", 14), ("googlenet_paper", 222), ("googlenet_paper", 227)):
        recipe = dataclasses.replace(RECIPES["smoke"], variant=variant, size=size)
        with pytest.raises(BadInput, match=f"needs a size of .* not {size}"):
            next(build(recipe))
    assert GoogLeNet(PUBLISHED, 3).eval()(torch.randn(1, 3, 15, 15)).shape == (1, 3)
    with torch.device("meta"):
        model = GoogLeNet(PAPER, 3)
        for size in (223, 226):
            assert len(model(torch.zeros(1, 3, size, size))) == 3
