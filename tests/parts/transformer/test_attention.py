"""Attention against a double loop, torch's own module, and itself with a cache."""

import math

import pytest
import torch
from torch import nn

from torchstone.parts.transformer.attention import KVCache, MultiHeadAttention, attention, attention_weights


def loop_attention(q, k, v, mask=None, bias=None, causal=False, scale=None):
    """One query and one key at a time, without torch's softmax."""
    batch, heads, queries, width = q.shape
    keys, scale = k.shape[2], scale or 1 / math.sqrt(width)
    out = torch.zeros(batch, heads, queries, v.shape[3], dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                visible = [
                    j
                    for j in range(keys)
                    if not (causal and j > i + keys - queries)
                    and (mask is None or mask.expand(batch, heads, queries, keys)[b, h, i, j])
                ]
                scores = [scale * (q[b, h, i] * k[b, h, j]).sum() for j in visible]
                if bias is not None:
                    full = bias.expand(batch, heads, queries, keys)
                    scores = [s + full[b, h, i, j] for s, j in zip(scores, visible, strict=True)]
                total = sum(s.exp() for s in scores)
                for s, j in zip(scores, visible, strict=True):
                    out[b, h, i] += s.exp() / total * v[b, h, j]
    return out


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


CASES = [
    (queries, keys, causal, masked, biased)
    for queries, keys in ((5, 5), (2, 5), (1, 4))
    for causal in (False, True)
    for masked in ("none", "padding", "full")
    for biased in (False, True)
]


@pytest.mark.parametrize(("queries", "keys", "causal", "masked", "biased"), CASES)
def test_attention_equals_double_loop(queries, keys, causal, masked, biased):
    q, k = numbers(2, 3, queries, 4), numbers(2, 3, keys, 4, seed=1)
    v = numbers(2, 3, keys, 6, seed=2).requires_grad_()
    mask = None
    if masked == "padding":
        mask = torch.ones(2, 1, 1, keys, dtype=torch.bool)
        mask[1, ..., keys // 2 :] = False
    elif masked == "full":
        mask = numbers(2, 3, queries, keys, seed=3) > 0
        mask[0, 1, 0] = False  # no key to attend to
    bias = numbers(1, 3, queries, keys, seed=4) if biased else None
    settings = {"mask": mask, "bias": bias, "causal": causal}
    for scale in (None, 1.0):
        ours = attention(q, k, v, scale=scale, **settings)
        truth = loop_attention(q, k, v, scale=scale, **settings)
        explicit = attention_weights(q, k, scale=scale, **settings) @ v
        error = max(float((x - truth).detach().abs().max()) for x in (ours, explicit))
        (gradient,) = torch.autograd.grad(ours.square().sum(), v)
        (slow,) = torch.autograd.grad(truth.square().sum(), v)
        print(f"error of the output {error:.1e}, of the gradient {float((gradient - slow).abs().max()):.1e}")
        assert error < 1e-12
        assert float((gradient - slow).abs().max()) < 1e-11


def test_attention_without_keys_is_zero_with_zero_gradient():
    q, k, v = (numbers(1, 2, 3, 4, seed=s).float().requires_grad_() for s in range(3))
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 1, :] = True
    out = attention(q, k, v, mask=mask)
    out.sum().backward()
    assert torch.equal(out[:, :, [0, 2]], torch.zeros(1, 2, 2, 4))
    assert all(bool(x.grad.isfinite().all()) for x in (q, k, v))
    assert torch.equal(q.grad[:, :, [0, 2]], torch.zeros(1, 2, 2, 4))
    assert float(v.grad.abs().sum()) > 0


@pytest.mark.parametrize(("queries", "keys", "causal", "masked", "biased"), CASES)
def test_attention_bfloat16_training_equals_float64(queries, keys, causal, masked, biased, monkeypatch):
    """On a CPU, training in bfloat16 does not use the fused kernels: the result must be the same."""
    q, k = numbers(2, 3, queries, 4), numbers(2, 3, keys, 4, seed=1)
    v, bias = numbers(2, 3, keys, 6, seed=2), None
    if biased:
        bias = numbers(1, 3, queries, keys, seed=4)
    mask = {
        "padding": (torch.arange(keys) < 3).expand(1, 1, 1, -1),
        "full": numbers(2, 3, queries, keys, seed=3) > 0,
    }
    mask = mask.get(masked)
    if masked == "full":
        mask[0, 1, 0] = False  # no key to attend to
    exact, low = [], []
    for into, dtype in ((exact, torch.float64), (low, torch.bfloat16)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        added = None if bias is None else bias.to(dtype)
        with monkeypatch.context() as patched:
            if dtype == torch.bfloat16:  # the fused kernel is not called
                patched.setattr("torch.nn.functional.scaled_dot_product_attention", None)
            y = attention(*inputs, mask=mask, bias=added, causal=causal)
        y.sum(-1).square().sum().backward()
        into += [y.detach(), *(x.grad for x in inputs)]
    errors = [float((a - b).norm() / a.norm().clamp(min=1)) for a, b in zip(exact, low, strict=True)]
    print("relative errors of output and gradients:", errors)
    assert max(errors) < 0.03


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("cross", [False, True])
def test_multi_head_attention_equals_torch(bias, heads, cross):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, heads, bias=bias, batch_first=True).double()
    ours = MultiHeadAttention(12, heads, bias=bias).double()
    names = {"in_proj_": "qkv.", "out_proj.": "out."}
    state = {}
    for key, value in theirs.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    ours.load_state_dict(state)
    x, memory = numbers(2, 5, 12), numbers(2, 4, 12, seed=1)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    if cross:
        output = ours(x, memory, mask=~padding[:, None, None])
        expected = theirs(x, memory, memory, key_padding_mask=padding, need_weights=False)[0]
    else:
        future = torch.ones(5, 5, dtype=torch.bool).triu(1)
        output, expected = ours(x, causal=True), theirs(x, x, x, attn_mask=future)[0]
    error = float((output - expected).detach().abs().max())
    print(f"error {error:.1e}")
    assert error < 1e-12


@pytest.mark.parametrize("pieces", [(1,) * 6, (4, 1, 1), (2, 3, 1)])
def test_kv_cache_does_not_change_attention(pieces):
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(12, 3, head_dim=5).double(), numbers(2, 6, 12)
    full, cache = layer(x, causal=True), KVCache(6)
    parts = [layer(piece, causal=True, cache=cache) for piece in x.split(pieces, 1)]
    assert float((torch.cat(parts, 1) - full).detach().abs().max()) < 1e-12
    with pytest.raises(ValueError, match="7 positions, but the cache holds 6"):
        layer(x[:, :1], causal=True, cache=cache)


def test_kv_cache_of_memory_is_reused_and_reordered():
    torch.manual_seed(0)
    layer, x, memory = MultiHeadAttention(8, 2).double(), numbers(3, 1, 8), numbers(3, 4, 8, seed=1)
    cache = KVCache(4)
    first = layer(x, memory, cache=cache)
    assert torch.equal(layer(x, memory * 0, cache=cache), first)  # the memory is not read again
    rows = torch.tensor([2, 0, 0])
    cache.reorder(rows)
    expected = layer(x, memory[rows])
    assert float((layer(x, memory, cache=cache) - expected).abs().max()) < 1e-12


def test_multi_head_attention_dropout_only_in_training():
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(8, 2, dropout=0.5), torch.randn(1, 4, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
