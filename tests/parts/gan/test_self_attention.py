"""Self-attention of feature maps against loops over positions."""

import torch

from torchstone.parts.gan.self_attention import SelfAttention2d


def test_self_attention_matches_loops_over_positions():
    torch.manual_seed(0)
    layer = SelfAttention2d(16).double()
    with torch.no_grad():
        layer.gamma.fill_(0.6)
    x = torch.randn(2, 16, 4, 6).double()
    query, key, value, output = (
        getattr(layer, name).weight.flatten(1) for name in ("query", "key", "value", "output")
    )
    expected = x.clone()
    for image in range(2):
        keys, values = [], []
        for i in range(0, 4, 2):
            for j in range(0, 6, 2):  # the largest of each 2 × 2 positions
                patch = x[image, :, i : i + 2, j : j + 2].flatten(1)
                keys.append((key @ patch).amax(1))
                values.append((value @ patch).amax(1))
        for i in range(4):
            for j in range(6):
                scores = torch.stack([(query @ x[image, :, i, j]) @ k for k in keys]).exp()
                attended = sum(s * v for s, v in zip(scores / scores.sum(), values, strict=True))
                expected[image, :, i, j] += 0.6 * (output @ attended)
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_self_attention_starts_as_the_identity_and_learns():
    layer, x = SelfAttention2d(8), torch.randn(2, 8, 4, 4)
    out = layer(x)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert layer.gamma.grad is not None
    assert float(layer.gamma.grad.abs()) > 0
