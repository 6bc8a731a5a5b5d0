"""The transformer of latent diffusion: against diffusers' class, in slices, and what it attends to."""

import pytest
import torch

from torchstone.hub.stable_diffusion import published_unet
from torchstone.parts.diffusion.spatial_transformer import SpatialTransformer
from torchstone.references import randomize_weights
from torchstone.references.diffusers import import_diffusers


def transformer(linear, **settings):
    return SpatialTransformer(8, 2, 6, groups=4, linear=linear, **settings).double()


@pytest.mark.parametrize("linear", [False, True])
def test_equal_to_diffusers(linear):
    theirs = (
        import_diffusers()
        .Transformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=8,
            num_layers=2,
            norm_num_groups=4,
            cross_attention_dim=6,
            use_linear_projection=linear,
        )
        .double()
    )
    randomize_weights(theirs, 0.4)
    ours = transformer(linear, depth=2)
    inside = published_unet({f"part.{name}": each for name, each in theirs.state_dict().items()})
    ours.load_state_dict({name.removeprefix("part."): each for name, each in inside.items()})
    x, text = torch.randn(2, 8, 3, 5).double(), torch.randn(2, 4, 6).double()
    error = float((ours(x, text) - theirs(x, text).sample).abs().max())
    print(f"largest difference {error:.1e}")
    assert error < 1e-12


@pytest.mark.parametrize("slices", [2, 3, 5])
def test_slices_give_the_same_numbers(slices):
    layer = randomize_weights(SpatialTransformer(20, 5, 6, groups=4), 0.4).double()
    x, text = torch.randn(2, 20, 4, 4).double(), torch.randn(2, 3, 6).double()
    whole = layer(x, text)
    layer.blocks[0].attention_slices = slices
    assert torch.allclose(layer(x, text), whole, atol=1e-12)


def test_every_location_sees_every_word():
    layer = randomize_weights(transformer(False), 0.4)
    x, text = torch.randn(1, 8, 3, 3).double(), torch.randn(1, 4, 6).double().requires_grad_()
    for row in range(3):
        (gradient,) = torch.autograd.grad(layer(x, text)[0, :, row, 0].sum(), text)
        assert (gradient.abs().sum(2) > 1e-8).all()
