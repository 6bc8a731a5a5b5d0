"""ResNet: map sizes, strides, shortcuts, names of published weights, and planted faults."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from torchstone.parts.facts import count_parameters, macs
from torchstone.parts.optional_imports import import_torchvision
from torchstone.references.resnet import NaiveResNet, randomize_norms
from torchstone.runs.recipes import recipe_of
from torchstone.systems.convolutional.resnet import (
    CIFAR_LAYERS,
    DEPTHS,
    VARIANTS,
    BasicBlock,
    Bottleneck,
    ResNet,
    cifar_resnet,
    published,
)
from torchstone.verify import relative_error


def meta(make, **arguments) -> Any:
    with torch.device("meta"):
        return make(**arguments)


def grids(model: ResNet, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    seen = []
    for name in model.stages:
        getattr(model, name).register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[1:])))
    model(torch.zeros(1, *shape, device="meta"))
    return seen


def test_resnet_stage_shapes_match_paper():
    cases = {
        "resnet34": [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)],
        "resnet50": [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)],
        "resnet50_paper": [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)],
        "resnet20_cifar": [(16, 32, 32), (32, 16, 16), (64, 8, 8)],
        "resnet18_cifar": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
    }
    for variant, wanted in cases.items():
        make, shape = VARIANTS[variant]
        said = grids(meta(make), shape)
        print(variant, said)
        assert said == wanted


def test_resnet_names_count_layers():
    for variant, (make, _) in VARIANTS.items():
        layers = [
            name
            for name, m in meta(make).named_modules()
            if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in name
        ]
        number = int(variant.removeprefix("resnet").split("_")[0])
        print(variant, len(layers))
        assert len(layers) == number


@pytest.mark.sweep
def test_shortcut_option_b_costs_two_projections():
    for n in CIFAR_LAYERS:
        a, b = (VARIANTS[f"resnet{n}_cifar{end}"] for end in ("", "_b"))
        weights = count_parameters(meta(b.make)) - count_parameters(meta(a.make))
        products = macs(meta(b.make), (1, 3, 32, 32)) - macs(meta(a.make), (1, 3, 32, 32))
        print(n, weights, products)
        assert weights == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        assert products == 16 * 32 * 16 * 16 + 32 * 64 * 8 * 8


def test_macs_detect_misplaced_stride():
    published_, paper = meta(VARIANTS["resnet50"].make), meta(VARIANTS["resnet50_paper"].make)
    costs = [macs(model, (1, 3, 224, 224)) for model in (published_, paper)]
    print(costs, costs[0] - costs[1])
    assert count_parameters(published_) == count_parameters(paper)
    # three blocks: 1×1 to w at four times the places, and the 3×3 not
    assert costs[0] - costs[1] == sum(
        3 * side**2 * inputs * width
        for side, inputs, width in ((28, 256, 128), (14, 512, 256), (7, 1024, 512))
    )


def test_parity_detects_misplaced_stride_and_shifted_padding():
    """Planted faults."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 40, 40).double()
    theirs = randomize_norms(import_torchvision().models.resnet50(num_classes=10).double(), images).eval()
    differences = []
    for strided_conv in (2, 1):
        deep = (
            ResNet(partial(Bottleneck, strided_conv=strided_conv), DEPTHS[50], num_classes=10).double().eval()
        )
        deep.load_state_dict(published("resnet50", theirs.state_dict()))
        differences.append(relative_error(deep(images), theirs(images)))
    print("stride in the 3×3, in the 1×1:", differences)
    assert differences[0] < 1e-10 < 1e-3 < differences[1]
    tiny = images[..., :16, :16]
    ours: Any = randomize_norms(cifar_resnet(20, partial(BasicBlock, option="A"))().double(), tiny).eval()
    right = relative_error(ours(tiny), NaiveResNet(ours)(tiny))
    ours.layer2[0].downsample.before, ours.layer2[0].downsample.after = 0, 16
    wrong = relative_error(ours(tiny), NaiveResNet(ours)(tiny))
    print("zeros on both sides, on one:", right, wrong)
    assert right < 1e-10 < 1e-4 < wrong


@pytest.mark.parametrize("variant", ["resnet18", "resnet50", "resnet110_cifar"])
def test_zero_init_makes_blocks_identity(variant):
    model = VARIANTS[variant].make(zero_init=True)
    block = model.layer1[1]
    x = torch.rand(2, block.outputs, 8, 8)
    assert torch.equal(block(x), x)
    plain = VARIANTS[variant].make().layer1[1]
    print(variant, relative_error(plain(x), x))
    assert relative_error(plain(x), x) > 0.1


def test_initialize_he_fan_out_variance():
    model = VARIANTS["resnet18"].make()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            ratio = float(layer.weight.detach().var()) * fan_out / 2
            print(name, round(ratio, 3))
            assert ratio == pytest.approx(1, abs=0.06)


def test_published_renames_public_cifar_weights():
    """`linear` and `shortcut`."""
    model = VARIANTS["resnet18_cifar"].make()
    theirs = {
        k.replace("downsample", "shortcut").replace("fc.", "linear."): v
        for k, v in model.state_dict().items()
    }
    assert "linear.weight" in theirs
    assert "layer2.0.shortcut.0.weight" in theirs
    assert published("resnet18_cifar", theirs).keys() == model.state_dict().keys()


def test_resnet_state_dict_matches_torchvision():
    for n in DEPTHS:
        with torch.device("meta"):
            theirs = getattr(import_torchvision().models, f"resnet{n}")().state_dict()
        ours = meta(VARIANTS[f"resnet{n}"].make).state_dict()
        assert list(ours) == list(theirs)
        assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]


def test_lr_schedule_step_matches_paper():
    """0.1, from 32k on 0.01, from 48k on 0.001."""
    from torchstone.systems.convolutional.resnet import RECIPES
    from torchstone.tasks.optimization import make_lr_scheduler, make_optimizer

    recipe = RECIPES["cifar20"]
    weight = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer([weight], recipe.optim)
    factor = make_lr_scheduler(optimizer, recipe.optim, recipe.steps).lr_lambdas[0]
    rates = {step: recipe.optim.lr * factor(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    print(rates)
    assert list(rates.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert recipe.steps == 64_000


def kept_for_backward(model: nn.Module) -> int:
    """Bytes of activations that a training step holds, each storage once; weights are not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = (storage.nbytes(), storage)  # held: no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(torch.randn(2, 3, 64, 64))
    return sum(size for size, _ in sizes.values())


def test_activation_memory_at_most_torchvision():
    ours = kept_for_backward(VARIANTS["resnet50"].make())
    theirs = kept_for_backward(import_torchvision().models.resnet50())
    print(f"{ours:,} and {theirs:,} bytes")
    assert 1_000_000 < ours <= theirs


@pytest.mark.parametrize("system", ["resnet", "senet", "cbam"])
def test_drop_block_ramps_with_the_stream_and_drops_in_training_alone(system):
    """More zeros of the last two stages' blocks at the last update; a run that is resumed there has them too."""
    runs = {}
    for share in (0.0, 0.4):
        fields = {"drop_block": share, "drop_block_size": 2, "device": "cpu"}
        entry, _, recipe = recipe_of(f"{system}/smoke", fields)
        runs[share] = next(iter(entry.module().build(recipe)))
    run, plain = runs[0.4], runs[0.0].state["model"]
    model: Any = run.state["model"]
    zeros: dict[str, float] = {}
    for stage in model.stages:  # these hooks come after DropBlock's; without it the ReLU's zeros
        block = getattr(model, stage)[0]
        block.register_forward_hook(
            lambda _, __, y, stage=stage: zeros.update({stage: (y == 0).double().mean().item()})
        )
    stream: Any = run.state["stream"]
    found = []
    for update in (0, recipe.steps - 1):
        stream.load_state_dict({"position": update * recipe.batch_size})
        images, labels = next(run.stream)
        run.update((images, labels))
        found.append(dict(zeros))
    print(found)
    first, *last = model.stages
    assert min(found[1][stage] - found[0][stage] for stage in last) > 0.1
    assert abs(found[1][first] - found[0][first]) < 0.1
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(images), model.eval()(images))
