"""The U-Net's pieces, each against diffusers' or torch's own, and the reader of captions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.parts.diffusion.text_encoder import PAD, START, CoarseImageHead, TextEncoder, masked_mean
from torchstone.parts.diffusion.unet_blocks import (
    AttentionBlock,
    Downsample,
    ResnetBlock,
    Upsample,
    timestep_embedding,
)
from torchstone.references import diffusers


def lively(net: nn.Module) -> nn.Module:
    """Weights that hide nothing: what starts at zero does not, and norms scale and shift."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.double()


@pytest.mark.parametrize("width", [2, 8, 9])
@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("cosine_first", [True, False])
def test_waves_are_the_published_ones(width, shift, cosine_first):
    diffusers()
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 17, 999])
    wanted = get_timestep_embedding(t, width, flip_sin_to_cos=cosine_first, downscale_freq_shift=shift)
    said = timestep_embedding(t, width, shift=shift, cosine_first=cosine_first)
    print((said - wanted).abs().max())
    assert torch.allclose(said, wanted, atol=1e-6)


@pytest.mark.parametrize("resize", [None, "halve", "double"])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("outputs", [8, 12])
def test_a_block_is_the_published_one(outputs, scale_shift, resize):
    diffusers()
    from diffusers.models.resnet import ResnetBlock2D

    theirs = ResnetBlock2D(
        in_channels=8, out_channels=outputs, temb_channels=5, groups=4, eps=1e-4,
        time_embedding_norm="scale_shift" if scale_shift else "default", output_scale_factor=1.5,
        up=resize == "double", down=resize == "halve",
    )  # fmt: skip
    for part in (theirs.downsample, theirs.upsample):
        if part is not None:
            assert not list(part.parameters())
    ours = ResnetBlock(8, outputs, 5, groups=4, eps=1e-4, scale_shift=scale_shift, resize=resize, divisor=1.5)
    lively(theirs)
    names = {"time_emb_proj": "time", "conv_shortcut": "carry"}
    state = {}
    for name, weight in theirs.state_dict().items():
        first, _, rest = name.partition(".")
        state[f"{names.get(first, first)}.{rest}"] = weight
    ours.double().load_state_dict(state)
    x = torch.randn(3, 8, 6, 4, dtype=torch.float64)
    told = torch.randn(3, 5, dtype=torch.float64)
    # their block applies the activation to what it is told; ours is told it with that done
    wanted, said = theirs(x, told), ours(x, F.silu(told))
    print((said - wanted).abs().max())
    assert torch.allclose(said, wanted, atol=1e-10)
    assert said.shape == (3, outputs, *{None: (6, 4), "halve": (3, 2), "double": (12, 8)}[resize])


def test_grids_are_halved_and_doubled():
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    halve, double = lively(Downsample(2)), lively(Upsample(2))
    weight, bias = halve.conv.weight, halve.conv.bias
    wanted = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    wide = F.pad(x, (0, 1, 0, 1))
    for i in range(3):
        for j in range(4):
            patch = wide[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            wanted[0, :, i, j] = (weight * patch).sum((1, 2, 3)) + bias
    assert torch.allclose(halve(x), wanted)
    assert halve(x).shape == Downsample(2, 1).double()(x).shape
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = F.conv2d(large, double.conv.weight, double.conv.bias, padding=1)
    assert torch.allclose(double(x), wanted)


def test_attention_mixes_places_and_reads_only_what_is_written():
    net = lively(AttentionBlock(8, head_width=4, groups=2, eps=1e-3, divisor=2.0, context=6))
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    text = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2]])

    def written(query, key, attention, seen=None):
        """Attention in plain loops over pictures and heads."""
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        q, k, v = map(F.linear, (query, key, key), weights, biases)
        out = torch.zeros_like(q)
        for b in range(len(q)):
            for head in range(0, 8, 4):
                cut = slice(head, head + 4)
                scores = q[b, :, cut] @ k[b, :, cut].T / 2
                if seen is not None:
                    scores[:, ~seen[b]] = -torch.inf
                out[b, :, cut] = scores.softmax(1) @ v[b, :, cut]
        return attention.out(out)

    places = net.norm(x).flatten(2).mT
    h = x.flatten(2).mT + written(places, places, net.attention)
    h = h + written(net.text_norm(h), net.widen(text), net.text, mask)
    wanted = h.mT.unflatten(2, (3, 2)) / 2
    said = net(x, text, mask)
    print((said - wanted).abs().max())
    assert torch.allclose(said, wanted, atol=1e-10)
    changed = torch.where(mask[..., None], text, torch.randn_like(text))
    assert torch.equal(net(x, changed, mask), said)
    assert not torch.allclose(net(x, text.flip(0), mask), said)
    with pytest.raises(ValueError, match="8 channels hold no head of 16"):
        AttentionBlock(8, head_width=16)


def test_the_reader_is_torchs_encoder():
    torch.manual_seed(0)
    net = lively(TextEncoder(11, 6, 8, 2, 2)).eval()
    ids = torch.tensor([[START, 5, 9, 3, 2, 4], [START, 7, PAD, PAD, PAD, PAD]])
    hidden, mask = net(ids)
    assert torch.equal(mask, ids != PAD)
    layer = nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, F.gelu, batch_first=True, norm_first=True, dtype=torch.float64
    )
    h = net.tokens(ids) + net.places.weight
    for ours in net.layers:
        layer.self_attn.in_proj_weight.data = ours.attention.qkv.weight.data
        layer.self_attn.in_proj_bias.data = ours.attention.qkv.bias.data
        layer.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
        layer.linear1.load_state_dict(ours.feed.up.state_dict())
        layer.linear2.load_state_dict(ours.feed.down.state_dict())
        layer.norm1.load_state_dict(ours.norm1.state_dict())
        layer.norm2.load_state_dict(ours.norm2.state_dict())
        h = layer.train()(h, src_key_padding_mask=~mask)
    wanted = net.norm(h)
    print((hidden - wanted)[mask].abs().max())
    assert torch.allclose(hidden[mask], wanted[mask], atol=1e-10)
    empty = net.empty(2, torch.device("cpu"))
    assert empty.tolist() == [[START, *[PAD] * 5]] * 2


def test_a_sketch_is_of_the_mean_of_the_words_and_of_no_padding():
    torch.manual_seed(0)
    text, mask = torch.randn(2, 4, 3, dtype=torch.float64), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 2:] = False
    said = masked_mean(text, mask)
    wanted = torch.stack([text[0].mean(0), (text[1, 0] + text[1, 1]) / 2])
    net = lively(CoarseImageHead(3, 5, (2, 4, 6)))
    picture = net(said)
    h = wanted @ net.hidden.weight.T + net.hidden.bias
    exact = (h * h.sigmoid()) @ net.out.weight.T + net.out.bias
    print((said - wanted).abs().max(), (picture.flatten(1) - exact).abs().max())
    assert torch.allclose(said, wanted, atol=1e-12)
    assert picture.shape == (2, 2, 4, 6)
    assert torch.allclose(picture.flatten(1), exact, atol=1e-12)
