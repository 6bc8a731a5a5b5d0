"""The U-Net's building blocks against diffusers' own, or plain loops."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.parts.diffusion.unet_blocks import (
    AttentionBlock,
    Downsample,
    ResnetBlock,
    Stage,
    Upsample,
    timestep_embedding,
)
from torchstone.references.diffusers import import_diffusers


def randomize(net: nn.Module) -> nn.Module:
    """Weights that hide nothing: none is zero, and norms scale and shift."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.double()


@pytest.mark.parametrize("width", [2, 8, 9])
@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("flip", [True, False])
def test_timestep_embedding_matches_diffusers(width, shift, flip):
    import_diffusers()
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 17, 999])
    expected = get_timestep_embedding(t, width, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    output = timestep_embedding(t, width, freq_shift=shift, flip_sin_to_cos=flip)
    print((output - expected).abs().max())
    assert torch.allclose(output, expected, atol=1e-6)


@pytest.mark.parametrize("resample", [None, "down", "up"])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("outputs", [8, 12])
def test_resnet_block_matches_diffusers(outputs, scale_shift, resample):
    import_diffusers()
    from diffusers.models.resnet import ResnetBlock2D

    theirs = ResnetBlock2D(
        in_channels=8,
        out_channels=outputs,
        temb_channels=5,
        groups=4,
        eps=1e-4,
        time_embedding_norm="scale_shift" if scale_shift else "default",
        output_scale_factor=1.5,
        up=resample == "up",
        down=resample == "down",
    )
    for part in (theirs.downsample, theirs.upsample):
        if part is not None:
            assert not list(part.parameters())
    ours = ResnetBlock(
        8, outputs, 5, groups=4, eps=1e-4, scale_shift=scale_shift, resample=resample, divisor=1.5
    )
    randomize(theirs)
    names = {"time_emb_proj": "time", "conv_shortcut": "carry"}
    state = {}
    for name, weight in theirs.state_dict().items():
        first, _, rest = name.partition(".")
        state[f"{names.get(first, first)}.{rest}"] = weight
    ours.double().load_state_dict(state)
    x = torch.randn(3, 8, 6, 4, dtype=torch.float64)
    embedding = torch.randn(3, 5, dtype=torch.float64)
    # their block applies the activation to the embedding; ours gets it with that done
    expected, output = theirs(x, embedding), ours(x, F.silu(embedding))
    print((output - expected).abs().max())
    assert torch.allclose(output, expected, atol=1e-10)
    assert output.shape == (3, outputs, *{None: (6, 4), "down": (3, 2), "up": (12, 8)}[resample])


def test_downsample_and_upsample_are_plain_loops():
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    down, up = randomize(Downsample(2)), randomize(Upsample(2))
    weight, bias = down.conv.weight, down.conv.bias
    expected = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    padded = F.pad(x, (0, 1, 0, 1))
    for i in range(3):
        for j in range(4):
            patch = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[0, :, i, j] = (weight * patch).sum((1, 2, 3)) + bias
    assert torch.allclose(down(x), expected)
    assert down(x).shape == Downsample(2, 1).double()(x).shape
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = F.conv2d(large, up.conv.weight, up.conv.bias, padding=1)
    assert torch.allclose(up(x), expected)


def test_attention_block_is_plain_loops_and_ignores_padding():
    net = randomize(AttentionBlock(8, head_width=4, groups=2, eps=1e-3, divisor=2.0, context=6))
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    text = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2]])

    def loops(query, key, attention, mask=None):
        """Attention in plain loops over images and heads."""
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        q, k, v = map(F.linear, (query, key, key), weights, biases)
        out = torch.zeros_like(q)
        for b in range(len(q)):
            for head in range(0, 8, 4):
                cut = slice(head, head + 4)
                scores = q[b, :, cut] @ k[b, :, cut].T / 2
                if mask is not None:
                    scores[:, ~mask[b]] = -torch.inf
                out[b, :, cut] = scores.softmax(1) @ v[b, :, cut]
        return attention.out(out)

    locations = net.norm(x).flatten(2).mT
    h = x.flatten(2).mT + loops(locations, locations, net.attention)
    h = h + loops(net.text_norm(h), net.widen(text), net.text, mask)
    expected = h.mT.unflatten(2, (3, 2)) / 2
    output = net(x, text, mask)
    print((output - expected).abs().max())
    assert torch.allclose(output, expected, atol=1e-10)
    changed = torch.where(mask[..., None], text, torch.randn_like(text))
    assert torch.equal(net(x, changed, mask), output)
    assert not torch.allclose(net(x, text.flip(0), mask), output)
    with pytest.raises(ValueError, match="8 channels are too few for a head of 16"):
        AttentionBlock(8, head_width=16)


def test_a_stage_on_the_way_up_does_not_hold_what_it_has_joined():
    """While a block works, of its input and a skip connection only their concatenation is in memory."""
    outputs, skips = [], [torch.ones(1, 2, 4, 4) for _ in range(3)]
    joined = [weakref.ref(each) for each in reversed(skips)]

    class Watched(ResnetBlock):
        def forward(self, x, e=None):
            number = len(outputs)
            assert x.shape == (1, 5, 4, 4)
            assert joined[number]() is None, "the skip connection"
            assert all(each() is None for each in outputs), "the block's output before"
            output = x[:, :3] + 1
            outputs.append(weakref.ref(output))
            return output

    stage = Stage([Watched(5, 3, None, groups=1) for _ in range(3)], [], None, is_up=True)
    assert float(stage(torch.zeros(1, 3, 4, 4), torch.ones(1, 1), skips).mean()) == 3
