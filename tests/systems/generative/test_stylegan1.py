"""StyleGAN with progressive growing: levels of detail, what has gradients at each, its loss, and resuming."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch

from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.references import randomize_weights
from torchstone.references.stylegan1 import ReferenceDiscriminator
from torchstone.systems.generative import stylegan1
from torchstone.systems.generative.stylegan1 import (
    Discriminator,
    DiscriminatorOnBoth,
    Generator,
    adaptive_instance_norm,
    discriminator_loss,
    fade_images,
    is_new_phase,
    level_of_detail,
)

NARROW = {"size": 16, "channels": 2, "channel_base": 64, "channel_max": 4}


def networks():
    torch.manual_seed(0)
    generator = randomize_weights(Generator(latent_dim=3, style_dim=3, mapping_layers=2, **NARROW), 1.0)
    return generator.double(), randomize_weights(Discriminator(**NARROW), 1.0).double()


def test_level_of_detail_gives_each_resolution_and_each_fade_as_many_images():
    lods = [level_of_detail(100 * i, 32, 8, 400) for i in range(21)]
    expected = [2, 2, 2, 2, 2, 1.75, 1.5, 1.25, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]
    assert lods == pytest.approx(expected)


def test_moments_are_forgotten_where_a_fade_begins_and_ends():
    lods = [2.0, 2.0, 1.9, 1.5, 1.1, 1.0, 1.0, 0.9, 0.1, 0.0, 0.0]
    changes = [is_new_phase(a, b) for a, b in itertools.pairwise(lods)]
    assert [i for i, is_new in enumerate(changes) if is_new] == [1, 4, 6, 8]


def test_fades_join_the_levels_without_a_jump():
    generator, discriminator = networks()
    z, noise = torch.randn(4, 3).double(), torch.randn(4, generator.noise_size).double()
    images = torch.randn(4, 2, 16, 16).double()
    for lod in (0.0, 1.0):
        for function in (
            lambda level: generator(z, None, noise, level),
            lambda level: discriminator(images, level),
            lambda level: fade_images(images, level),
        ):
            here, above, below = (function(lod + step) for step in (0, 1e-9, 1 - 1e-9))
            assert torch.allclose(here, above, atol=1e-6)
            assert torch.allclose(below, function(lod + 1), atol=1e-6)
            assert float((here - function(lod + 1)).abs().max()) > 1e-2


def test_images_of_a_level_have_no_finer_detail():
    generator, discriminator = networks()
    z, images = torch.randn(4, 3).double(), torch.randn(4, 2, 16, 16).double()
    for level in (1, 2):
        side = 16 >> level
        for each in (generator(z, lod=level), fade_images(images, level)):
            assert each.shape == (4, 2, 16, 16)
            blocks = each.unflatten(3, (side, -1)).unflatten(2, (side, -1))
            assert torch.equal(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
        # and the discriminator looks at means
        assert torch.allclose(
            discriminator(images, level), discriminator(fade_images(images, level), level), atol=1e-9
        )


def in_use(number: int, lod: float) -> set[int]:
    """The to- and from-color layers of a level."""
    finest = number - 1 - math.floor(lod)
    return {finest} if lod == int(lod) else {finest, finest - 1}


@pytest.mark.parametrize("lod", [2.0, 1.0, 1.4, 0.3, 0.0])
def test_only_layers_in_use_have_gradients(lod):
    generator, discriminator = networks()
    z, noise = torch.randn(4, 3).double(), torch.randn(4, generator.noise_size).double()
    discriminator(generator(z, None, noise, lod), lod).square().sum().backward()
    colors, finest = in_use(3, lod), 2 - math.floor(lod)

    def is_used(name: str) -> bool:
        room, _, rest = name.partition(".")
        number = (
            int(rest.partition(".")[0]) if room in ("layers", "to_colors", "from_colors", "blocks") else 0
        )
        if room in ("to_colors", "from_colors"):
            return number in colors
        return number < {"layers": 2 * finest + 2, "blocks": finest}.get(room, 1)

    for net in (generator, discriminator):
        used = {name for name, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}
        touched = {name for name, p in net.named_parameters() if p.grad is not None}
        assert used == touched == {name for name, _ in net.named_parameters() if is_used(name)}


def test_adaptive_instance_norm_gives_mean_and_deviation():
    x = 3 + 5 * torch.randn(2, 3, 8, 8).double()
    scale, offset = torch.rand(2, 3).double() + 0.5, torch.randn(2, 3).double()
    y = adaptive_instance_norm(x, scale, offset)
    assert torch.allclose(y.mean((2, 3)), offset)
    assert torch.allclose(y.std((2, 3), correction=0), scale)


@pytest.mark.parametrize("lod", [0.0, pytest.param(0.6, marks=pytest.mark.sweep)])
def test_loss_with_r1_equals_the_formula(lod):
    _, discriminator = networks()
    theirs = ReferenceDiscriminator(discriminator)
    real, fake = torch.randn(2, 4, 2, 16, 16).double().unbind(0)
    loss = discriminator_loss(DiscriminatorOnBoth(discriminator)(real, fake, lod), 10.0)
    loss.backward()
    x = real.clone().requires_grad_()
    logits = theirs(x, lod)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    expected = torch.log1p(theirs(fake, lod).exp()).mean() + torch.log1p((-logits).exp()).mean()
    expected = expected + 5 * gradient.square().sum((1, 2, 3)).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for (name, a), b in zip(discriminator.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None or not b.grad.any()), name
        if a.grad is not None:
            assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-10), name


def test_truncation_is_of_the_first_layers():
    torch.manual_seed(0)
    model = Generator(size=64, latent_dim=3, style_dim=3, mapping_layers=1, channel_base=64, channel_max=2)
    model.mapping.average.fill_(2.0)
    z = torch.randn(2, 3)
    full, half = model.styles(z), model.styles(z, truncation=0.5)
    assert torch.allclose(half[:, :8], (full[:, :8] + 2) / 2)
    assert torch.equal(half[:, 8:], full[:, 8:])
    assert half.shape == (2, 10, 3)


def test_first_moments_and_resolution_follow_the_images():
    """Adam forgets at the two ends of a fade; the network keeps the level of detail it has grown to."""
    fields = {"device": "cpu", "steps": 6, "level_images": 32, "eval_samples": 20}
    run = next(stylegan1.build(replace_fields(stylegan1.RECIPES["smoke"], fields)))
    finest, coarse = run.state["discriminator"].from_colors[1], run.state["discriminator"].conv
    steps, lods = [], []
    for _ in range(6):
        metrics = run.update(next(run.stream))
        moments = run.state["discriminator_optimizer"].state
        steps.append([int(moments[p.weight]["step"]) if p.weight in moments else 0 for p in (finest, coarse)])
        lods.append(metrics["lod"])
        assert float(run.state["model"].lod) == float(run.state["ema"].module.lod) == metrics["lod"]
    assert lods == [1, 1, 1, 0.5, 0, 0]
    assert steps == [[0, 1], [0, 2], [0, 3], [1, 1], [1, 1], [2, 2]]


def test_resumed_within_a_fade():
    """A state from the middle of a transition goes on to the bit."""
    fields = {"device": "cpu", "steps": 12, "level_images": 64, "eval_samples": 20}
    recipe = replace_fields(stylegan1.RECIPES["smoke"], fields)
    whole, again = (next(stylegan1.build(recipe)) for _ in range(2))
    for _ in range(6):
        metrics = whole.update(next(whole.stream))
    assert 0 < metrics["lod"] < 1
    for name, item in whole.state.items():
        again.state[name].load_state_dict(copy.deepcopy(item.state_dict()))
    for _ in range(4):
        a, b = (run.update(next(run.stream)) for run in (whole, again))
        assert {k: float(v) for k, v in a.items()} == {k: float(v) for k, v in b.items()}
    for name in ("model", "discriminator", "ema"):
        pairs = zip(
            whole.state[name].state_dict().values(), again.state[name].state_dict().values(), strict=True
        )
        assert all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial_size": 6}, "4, 8; not 6"),
        ({"initial_size": 16}, "4, 8; not 16"),
        ({"style_mixing": 1.5}, "probability"),
        ({"r1_weight": -1.0}, "at least 0"),
        ({"level_images": 0}, "at least 1"),
    ],
)
def test_stylegan1_rejects(fields, message):
    recipe = dataclasses.replace(stylegan1.RECIPES["smoke"], device="cpu", **fields)
    with pytest.raises(BadInput, match=message):
        next(stylegan1.build(recipe))


def test_too_few_steps_are_reported(capfd):
    stylegan1.check(dataclasses.replace(stylegan1.RECIPES["smoke"], steps=5), 8)
    assert "give more --steps" in capfd.readouterr().err
    stylegan1.check(stylegan1.RECIPES["smoke"], 8)
    assert capfd.readouterr().err == ""
