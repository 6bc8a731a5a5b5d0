"""DCGAN: published counts and initial weights, the published networks, and normalization."""

import pytest
import torch
from torch import nn

from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.parts.facts import count_parameters
from torchstone.parts.gan.spectral_norm import SpectralNorm
from torchstone.systems.generative import dcgan
from torchstone.systems.generative.dcgan import Discriminator, Generator, grid_sizes


def test_dcgan_published_parameter_counts():
    assert count_parameters(Generator()) == 3_576_704
    assert count_parameters(Discriminator()) == 2_765_568


def up(wide, narrow, side=4, stride=2, pad=1):
    return nn.ConvTranspose2d(wide, narrow, side, stride, pad, bias=False)


def down(narrow, wide, side=4, stride=2, pad=1):
    return nn.Conv2d(narrow, wide, side, stride, pad, bias=False)


def test_dcgan_layers_match_published_code():
    n = 4  # 64 in the paper's code
    expected_generator = nn.Sequential(
        up(10, 8 * n, 4, 1, 0), nn.BatchNorm2d(8 * n), nn.ReLU(),
        up(8 * n, 4 * n), nn.BatchNorm2d(4 * n), nn.ReLU(),
        up(4 * n, 2 * n), nn.BatchNorm2d(2 * n), nn.ReLU(),
        up(2 * n, n), nn.BatchNorm2d(n), nn.ReLU(),
        up(n, 3), nn.Tanh(),
    )  # fmt: skip
    expected_discriminator = nn.Sequential(
        down(3, n), nn.LeakyReLU(0.2),
        down(n, 2 * n), nn.BatchNorm2d(2 * n), nn.LeakyReLU(0.2),
        down(2 * n, 4 * n), nn.BatchNorm2d(4 * n), nn.LeakyReLU(0.2),
        down(4 * n, 8 * n), nn.BatchNorm2d(8 * n), nn.LeakyReLU(0.2),
        down(8 * n, 1, 4, 1, 0),
    )  # fmt: skip
    ours, discriminator = Generator(10, n), Discriminator(n)
    for theirs, net in ((expected_generator, ours), (expected_discriminator, discriminator)):
        weights = zip(net.state_dict().items(), theirs.state_dict().values(), strict=True)
        theirs.load_state_dict({k: a for k, (a, _) in zip(theirs.state_dict(), zip(
            net.state_dict().values(), theirs.state_dict().values(), strict=True), strict=True)})  # fmt: skip
        assert all(a[1].shape == b.shape for a, b in weights)
    z = torch.randn(5, 10)
    images = ours(z)
    assert images.shape == (5, 3, 64, 64)
    assert torch.allclose(images, expected_generator(z[:, :, None, None]), atol=1e-6)
    assert torch.allclose(discriminator(images), expected_discriminator(images).flatten(), atol=1e-6)


def test_dcgan_initial_weights():
    torch.manual_seed(0)
    for net in (Generator(100, 16), Discriminator(16)):
        for name, p in net.named_parameters():
            values = p.detach()
            if values.ndim == 4 and values.numel() > 1000:
                assert float(values.std()) == pytest.approx(0.02, rel=0.1), name
                assert abs(float(values.mean())) < 0.003, name
            elif name.endswith("weight") and values.ndim == 1:
                assert float(values.mean()) == pytest.approx(1, abs=0.02), name
                assert 0.005 < float(values.std()) < 0.04, name
            elif name.endswith("bias"):
                assert not values.any(), name


@pytest.mark.parametrize(
    ("size", "sides"),
    [(64, [4, 8, 16, 32, 64]), (28, [7, 14, 28]), (32, [4, 8, 16, 32]), (8, [4, 8]), (40, [5, 10, 20, 40])],
)  # fmt: skip
def test_grid_sizes_double(size, sides):
    assert grid_sizes(size) == sides
    expected_generator = Generator(3, 2, 1, size)(torch.randn(2, 3))
    assert expected_generator.shape == (2, 1, size, size)
    assert Discriminator(2, 1, size)(expected_generator).shape == (2,)


@pytest.mark.parametrize("size", [7, 30, 36, 2, 0])
def test_dcgan_rejects_unreachable_size(size):
    with pytest.raises(BadInput, match="try 28, 32 or 64"):
        Generator(size=size)


def test_dcgan_rejects_invalid_arguments():
    with pytest.raises(BadInput, match="did you mean batch"):
        Discriminator(norm="bach")
    with pytest.raises(BadInput, match="at least 1"):
        Generator(base_channels=0)


@pytest.mark.parametrize(("norm", "kinds"), [("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm)])
def test_dcgan_discriminator_norm_placement(norm, kinds):
    net = Discriminator(4, norm=norm)
    assert sum(isinstance(m, kinds) for m in net.modules()) == 3
    assert not isinstance(net.layers[1], kinds)
    plain = Discriminator(4, norm="none")
    assert all(m.bias is not None for m in plain.modules() if isinstance(m, nn.Conv2d))


def largest(layer: nn.Module) -> float:
    return float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0])


@pytest.mark.sweep
def test_dcgan_spectral_norm_after_training():
    """By its own steps of power iteration, one a pass: nearly while the weights move, exactly after."""
    fields = {"variant": "dcgan_mnist", "base_channels": 4, "discriminator_norm": "spectral"}
    fields |= {"loss": "hinge", "lr": 1e-4, "batch_size": 4, "device": "cpu"}
    recipe = replace_fields(dcgan.RECIPES["smoke"], fields)
    run = next(dcgan.build(recipe))
    discriminator = run.state["discriminator"]
    weights = [p for p in discriminator.parameters() if p.ndim > 1]
    before = [p.detach().clone() for p in weights]
    for _ in range(20):
        run.update(next(run.stream))
    moved = [not torch.equal(a, b) for a, b in zip(before, weights, strict=True)]
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    discriminator.eval()
    moving = [largest(layer) for layer in layers]
    discriminator.train()
    for _ in range(40):
        discriminator(torch.randn(1, 1, 28, 28))
    discriminator.eval()
    resting = [largest(layer) for layer in layers]
    print(moving, resting)
    assert all(moved)
    assert len(layers) == sum(isinstance(m, SpectralNorm) for m in discriminator.modules()) == 3
    assert moving == pytest.approx([1] * 3, abs=0.02)
    assert resting == pytest.approx([1] * 3, abs=1e-3)


def test_dcgan_samples_depend_on_own_noise():
    torch.manual_seed(0)
    model = Generator(6, 4, 1, 28).eval()
    z = torch.randn(5, 6)
    together = model(z).detach()
    assert torch.allclose(together[2:3], model(z[2:3]), atol=1e-6)
    assert float((together[0] - together[1]).abs().max()) > 1e-6
    assert float(together.abs().max()) <= 1
