"""DCGAN: published counts and beginnings, the published networks written out, and what its norms hold."""

import dataclasses

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.facts import count_parameters
from torchstone.parts.gan.spectral_norm import Spectral
from torchstone.systems.generative import dcgan
from torchstone.systems.generative.dcgan import Critic, Generator, grids


def test_published_counts():
    assert count_parameters(Generator()) == 3_576_704
    assert count_parameters(Critic()) == 2_765_568


def up(wide, narrow, side=4, stride=2, pad=1):
    return nn.ConvTranspose2d(wide, narrow, side, stride, pad, bias=False)


def down(narrow, wide, side=4, stride=2, pad=1):
    return nn.Conv2d(narrow, wide, side, stride, pad, bias=False)


def test_networks_are_the_published_ones_layer_by_layer():
    n = 4  # 64 in the paper's code
    made = nn.Sequential(
        up(10, 8 * n, 4, 1, 0), nn.BatchNorm2d(8 * n), nn.ReLU(),
        up(8 * n, 4 * n), nn.BatchNorm2d(4 * n), nn.ReLU(),
        up(4 * n, 2 * n), nn.BatchNorm2d(2 * n), nn.ReLU(),
        up(2 * n, n), nn.BatchNorm2d(n), nn.ReLU(),
        up(n, 3), nn.Tanh(),
    )  # fmt: skip
    told = nn.Sequential(
        down(3, n), nn.LeakyReLU(0.2),
        down(n, 2 * n), nn.BatchNorm2d(2 * n), nn.LeakyReLU(0.2),
        down(2 * n, 4 * n), nn.BatchNorm2d(4 * n), nn.LeakyReLU(0.2),
        down(4 * n, 8 * n), nn.BatchNorm2d(8 * n), nn.LeakyReLU(0.2),
        down(8 * n, 1, 4, 1, 0),
    )  # fmt: skip
    ours, critic = Generator(10, n), Critic(n)
    for theirs, net in ((made, ours), (told, critic)):
        weights = zip(net.state_dict().items(), theirs.state_dict().values(), strict=True)
        theirs.load_state_dict({k: a for k, (a, _) in zip(theirs.state_dict(), zip(
            net.state_dict().values(), theirs.state_dict().values(), strict=True), strict=True)})  # fmt: skip
        assert all(a[1].shape == b.shape for a, b in weights)
    z = torch.randn(5, 10)
    pictures = ours(z)
    assert pictures.shape == (5, 3, 64, 64)
    assert torch.allclose(pictures, made(z[:, :, None, None]), atol=1e-6)
    assert torch.allclose(critic(pictures), told(pictures).flatten(), atol=1e-6)


def test_weights_begin_as_in_the_paper():
    torch.manual_seed(0)
    for net in (Generator(100, 16), Critic(16)):
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
def test_grids_double(size, sides):
    assert grids(size) == sides
    made = Generator(3, 2, 1, size)(torch.randn(2, 3))
    assert made.shape == (2, 1, size, size)
    assert Critic(2, 1, size)(made).shape == (2,)


@pytest.mark.parametrize("size", [7, 30, 36, 2, 0])
def test_a_side_that_cannot_be_reached_by_doubling_is_refused(size):
    with pytest.raises(BadInput, match="try 28, 32 or 64"):
        Generator(size=size)


def test_what_is_no_network_is_refused():
    with pytest.raises(BadInput, match="did you mean batch"):
        Critic(norm="bach")
    with pytest.raises(BadInput, match="at least 1"):
        Generator(width=0)


@pytest.mark.parametrize(("norm", "kinds"), [("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm)])
def test_norms_are_everywhere_but_at_the_first_and_last_layer(norm, kinds):
    net = Critic(4, norm=norm)
    assert sum(isinstance(m, kinds) for m in net.modules()) == 3
    assert not isinstance(net.layers[1], kinds)
    plain = Critic(4, norm="none")
    assert all(m.bias is not None for m in plain.modules() if isinstance(m, nn.Conv2d))


def largest(layer: nn.Module) -> float:
    return float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0])


def test_a_trained_critic_s_layers_have_a_largest_singular_value_of_1():
    """By its own steps of power iteration, one a pass: nearly while the weights move, exactly after."""
    recipe = dataclasses.replace(
        dcgan.RECIPES["smoke"], variant="dcgan_mnist", width=4, critic_norm="spectral", loss="hinge",
        lr=1e-4, batch_size=4, device="cpu",
    )  # fmt: skip
    run = next(dcgan.build(recipe))
    critic = run.state["critic"]
    weights = [p for p in critic.parameters() if p.ndim > 1]
    before = [p.detach().clone() for p in weights]
    for _ in range(20):
        run.update(next(run.stream))
    moved = [not torch.equal(a, b) for a, b in zip(before, weights, strict=True)]
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    critic.eval()
    moving = [largest(layer) for layer in layers]
    critic.train()
    for _ in range(40):
        critic(torch.randn(1, 1, 28, 28))
    critic.eval()
    resting = [largest(layer) for layer in layers]
    print(moving, resting)
    assert all(moved)
    assert len(layers) == sum(isinstance(m, Spectral) for m in critic.modules()) == 3
    assert moving == pytest.approx([1] * 3, abs=0.02)
    assert resting == pytest.approx([1] * 3, abs=1e-3)


def test_noise_far_apart_makes_pictures_that_differ_and_each_by_itself():
    torch.manual_seed(0)
    model = Generator(6, 4, 1, 28).eval()
    z = torch.randn(5, 6)
    whole = model(z).detach()
    assert torch.allclose(whole[2:3], model(z[2:3]), atol=1e-6)
    assert float((whole[0] - whole[1]).abs().max()) > 1e-6
    assert float(whole.abs().max()) <= 1
