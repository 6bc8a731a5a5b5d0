"""pix2pix: updates against the authors' equations, and gradients that stay their own."""

import pytest
import torch

from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.references import randomize_weights
from torchstone.references.image_translation import Patches, UNet, train_pix2pix
from torchstone.systems.generative import pix2pix
from torchstone.systems.generative.pix2pix import ConditionalDiscriminator, Pix2Pix, pix2pix_update, published

WIDTH = 3


def recipe_of(**fields):
    return replace_fields(pix2pix.RECIPES["smoke"], {"device": "cpu", **fields})


def networks(depth: int, layers: int) -> tuple[Pix2Pix, ConditionalDiscriminator, dict]:
    theirs = {"G": randomize_weights(UNet(WIDTH, depth)).double(), "D": Patches(6, WIDTH, layers, "batch")}
    randomize_weights(theirs["D"].double())
    model, discriminator = Pix2Pix(depth, WIDTH).double(), ConditionalDiscriminator(WIDTH, layers).double()
    model.load_state_dict(published("", theirs["G"].state_dict()))
    own = theirs["D"].state_dict().values()
    discriminator.load_state_dict(dict(zip(discriminator.state_dict(), own, strict=True)))
    return model, discriminator, theirs


@pytest.mark.parametrize(
    ("fields", "depth", "layers", "batch"),
    [
        ({"l1_weight": 100.0}, 4, 1, 2),
        pytest.param({"l1_weight": 10.0, "lr": 1e-3}, 3, 1, 4, marks=pytest.mark.sweep),
        pytest.param({"l1_weight": 0.0}, 6, 2, 2, marks=pytest.mark.sweep),
        pytest.param({"l1_weight": 1.0}, 5, 2, 3, marks=pytest.mark.sweep),
    ],
)
def test_updates_are_those_of_the_plain_equations(fields, depth, layers, batch):
    """Dropout too, which draws the same numbers: it is called once an update."""
    generator = torch.Generator().manual_seed(depth)
    side = max(2**depth, 16)
    stream = [
        pix2pix.PairedBatch(
            *(torch.rand(batch, 3, side, side, generator=generator).double() * 2 - 1 for _ in range(2))
        )
        for _ in range(4)
    ]
    recipe = recipe_of(steps=4, **fields)
    model, discriminator, theirs = networks(depth, layers)
    update, *_ = pix2pix_update(model, discriminator, recipe)
    torch.manual_seed(1)
    rows = [update(each) for each in stream]
    torch.manual_seed(1)
    expected = train_pix2pix(theirs, stream, steps=4, recipe=recipe)
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in wanted.items():
            assert abs(float(row[name]) - value) <= 1e-9 * max(1, abs(value)), name
    found = published("", theirs["G"].state_dict())
    for name, value in model.state_dict().items():
        assert torch.allclose(value, found[name], rtol=0, atol=1e-9), name
    for a, b in zip(discriminator.state_dict().values(), theirs["D"].state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)


def test_every_player_s_gradient_stays_its_own():
    """When one player steps, the other has the gradients that it had before."""
    model, discriminator, _ = networks(4, 1)
    update, state, _ = pix2pix_update(model, discriminator, recipe_of(steps=2))
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    held, seen = [], []
    own = list(discriminator.parameters())
    state["discriminator_optimizer"].register_step_pre_hook(
        lambda *_: seen.append(all(bool((p.grad == 7).all()) for p in model.parameters()))
    )
    state["discriminator_optimizer"].register_step_post_hook(
        lambda *_: held.extend(p.grad.clone() for p in own)
    )
    state["optimizer"].register_step_pre_hook(
        lambda *_: seen.append(all(torch.equal(a, p.grad) for a, p in zip(held, own, strict=True)))
    )
    update(pix2pix.PairedBatch(*(torch.rand(2, 3, 16, 16).double() for _ in range(2))))
    assert seen == [True, True]
    assert all(bool(grad.any()) for grad in held)


def test_bad_input_is_one_line():
    with pytest.raises(BadInput, match="sides that 32 divides, not 48"):
        next(pix2pix.build(recipe_of(size=48)))
    with pytest.raises(BadInput, match="images of at least 48 pixels, not 32"):
        next(pix2pix.build(recipe_of(discriminator_layers=4)))
    model, discriminator, _ = networks(3, 1)
    with pytest.raises(BadInput, match="leave grad_accum_steps at 1"):
        pix2pix_update(model, discriminator, recipe_of(grad_accum_steps=2))
