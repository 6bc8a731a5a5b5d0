"""StyleGAN2: style mixing, the losses and their lazy regularizers by hand, whose gradient is whose, ŵ, bad values."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.gan.path_length import path_lengths
from torchstone.systems.generative import stylegan
from torchstone.systems.generative.stylegan import (
    RECIPES,
    Discriminator,
    Generator,
    Mapping,
    channels_by_size,
    lazy_optimizer,
    mixed_styles,
)


@pytest.fixture(scope="module")
def run():
    recipe = replace_fields(RECIPES["smoke"], {"device": "cpu", "style_mixing": 0.5, "r1_weight": 3.0})
    return next(iter(stylegan.build(recipe)))


@pytest.fixture
def batch(run):
    return next(run.stream)


def test_mixed_styles_change_at_the_crossover(run, batch):
    model = run.state["model"]
    with torch.no_grad():
        styles = mixed_styles(model, batch.generator, None, 0.5)
        first, second = (model.mapping(z) for z in batch.generator.z.unbind(1))
    count = 0
    for i, (chance, position) in enumerate(batch.generator.crossover.tolist()):
        crossover = 1 + int(position * (model.num_styles - 1)) if chance < 0.5 else model.num_styles
        assert 1 <= crossover <= model.num_styles
        count += crossover < model.num_styles
        for layer in range(model.num_styles):
            assert torch.equal(styles[i, layer], (first if layer < crossover else second)[i])
    assert 0 < count < len(styles)


def fakes(run, draws):
    model = run.state["model"]
    return model.synthesize(mixed_styles(model, draws, None, 0.5), draws.noise)


def test_losses_are_those_of_the_paper(run, batch):
    discriminator = run.state["discriminator"]
    assert float(run.state["augment_strength"].p) == 0
    with torch.no_grad():
        g = run.state["update"].loss(batch)
        d = run.state["discriminator_update"].loss(batch)
        expected = -F.logsigmoid(discriminator(fakes(run, batch.generator))).mean()
        assert torch.allclose(g, expected, atol=1e-5)
        fake, real = discriminator(fakes(run, batch.discriminator)), discriminator(batch.real)
        expected = -(F.logsigmoid(real) + torch.log1p(-torch.sigmoid(fake))).mean()
        assert torch.allclose(d["loss"], expected, atol=1e-5)
        assert float(d["sign"]) == pytest.approx(float(real.sign().mean()))


def test_r1_is_scaled_by_half_gamma_and_its_interval(run, batch):
    discriminator = run.state["discriminator"]
    x = batch.real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x)
    by_hand = gradient.square().sum((1, 2, 3)).mean()
    result = run.state["r1_update"].loss(batch)
    assert torch.allclose(result["r1"], by_hand, rtol=1e-4)
    assert torch.allclose(result["loss"], 16 * 3.0 / 2 * by_hand, rtol=1e-4)


def test_path_penalty_is_scaled_by_its_weight_and_interval(run, batch):
    mean, model = run.state["path_length_mean"], run.state["model"]
    before, half = mean.value.clone(), (len(batch.real) + 1) // 2
    result = run.state["path_update"].loss(batch)
    draws = stylegan.first_half(batch).path
    assert len(draws.z) == half
    styles = mixed_styles(model, draws, None, 0.5)
    lengths = path_lengths(model.synthesize(styles, draws.noise), styles, batch.path_noise[:half])
    a = 0.99 * before + 0.01 * lengths.mean()
    assert torch.allclose(mean.value, a, rtol=1e-4)
    assert torch.allclose(result["loss"], 4 * 2 * (lengths - a).square().mean(), rtol=1e-3)


def test_regularizers_come_at_their_intervals_and_no_step_moves_the_other_network(run):
    model, discriminator = run.state["model"], run.state["discriminator"]

    def weights(network):
        return [p.detach().clone() for p in network.parameters()]

    batch = next(run.stream)
    for name, mover, other in (
        ("discriminator_update", discriminator, model),
        ("r1_update", discriminator, model),
        ("update", model, discriminator),
        ("path_update", model, discriminator),
    ):
        before, gradients = (weights(mover), weights(other)), [p.grad for p in other.parameters()]
        run.state[name](batch)
        assert not all(map(torch.equal, weights(mover), before[0])), name
        assert all(map(torch.equal, weights(other), before[1])), name
        assert [p.grad for p in other.parameters()] == gradients or all(
            a is b for a, b in zip(gradients, (p.grad for p in other.parameters()), strict=True)
        )
    first = run.state["lr_schedule"].last_epoch
    for step in range(first, first + 17):
        metrics = run.update(next(run.stream))
        assert ("r1" in metrics) == (step % 16 == 0)
        assert ("path_length" in metrics) == (step % 4 == 0)


def test_lazy_regularization_corrects_adam():
    optim = lazy_optimizer(OptimConfig(lr=0.1, beta1=0.5, beta2=0.99), 16)
    assert (optim.lr, optim.beta1, optim.beta2) == pytest.approx(
        (0.1 * 16 / 17, 0.5 ** (16 / 17), 0.99 ** (16 / 17))
    )
    assert lazy_optimizer(optim, 16, False) is optim


def test_average_style_follows_the_mapping(run):
    mapping = Mapping(4, 3, 2)
    w = torch.randn(5, 3)
    mapping.track_average(w)
    mapping.track_average(w)
    assert torch.allclose(mapping.average, (1 - 0.995**2) * w.mean(0))
    before = run.state["model"].mapping.average.clone()
    run.update(next(run.stream))
    assert not torch.equal(run.state["model"].mapping.average, before)


def test_initial_weights_are_no_samples_noise(run):
    """The first layer of the mapping and z of seed 0 are both N(0, 1): from one generator they would be equal."""
    z = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    naive = Generator(size=8, latent_dim=16, style_dim=16, channel_base=64).mapping.layers[0].weight * 0.01
    built = next(iter(stylegan.build(replace_fields(RECIPES["smoke"], {"device": "cpu"})))).state["model"]
    assert float(torch.cdist(z, naive.detach()).min()) < 1e-4  # the trap is there
    assert float(torch.cdist(z, built.mapping.layers[0].weight.detach() * 0.01).min()) > 1


def test_fixed_noise_makes_an_image_independent_of_its_batch():
    model = Generator(8, 3, 6, 6, 2, 64, 8)
    torch.nn.init.ones_(model.convs[1].noise_strength)
    z = torch.randn(3, 6)
    with torch.no_grad():
        images = model(z)
        assert torch.allclose(images[1:2], model(z[1:2]), atol=1e-5)
        own = torch.cat([conv.noise.flatten() for conv in model.convs]).expand(3, -1)
        assert torch.allclose(model(z, None, own), images, atol=1e-5)
        assert not torch.allclose(model(z, None, torch.randn(3, model.noise_size)), images, atol=1e-2)


def test_labels_change_images_and_logits():
    model, critic = Generator(8, 1, 6, 6, 2, 64, 8, 3), Discriminator(8, 1, 64, 8, 3)
    z = torch.randn(1, 6).expand(3, -1)
    with torch.no_grad():
        images = model(z, torch.arange(3))
        assert float((images[0] - images[1]).abs().max()) > 0.05
        same = images[:1].expand(3, -1, -1, -1)
        assert critic(same, torch.arange(3)).unique().numel() == 3
    assert functional_call(critic, dict(critic.named_parameters()), (same,)).shape == (3,)


def test_channels_are_those_of_the_published_configurations():
    assert channels_by_size(1024, 32768, 512) == {
        4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32
    }  # fmt: skip


@pytest.mark.parametrize("size", [4, 12, 0, 33])
def test_sides_that_are_no_power_of_2_are_one_line(size):
    with pytest.raises(BadInput, match="is not 4 doubled once or more"):
        Generator(size)


@pytest.mark.parametrize("fields", [{"r1_interval": 0}, {"style_mixing": 1.5}, {"path_weight": -1.0}])
def test_recipe_values_out_of_range_are_one_line(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        next(iter(stylegan.build(replace_fields(RECIPES["smoke"], {"device": "cpu", **fields}))))
