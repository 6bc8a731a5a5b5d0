"""Attention against the double loop, torch's own module, and itself with a past."""

import math

import pytest
import torch
from torch import nn

from torchstone.parts.transformer.attention import KVCache, MultiHeadAttention, attention, attention_weights


def looped(q, k, v, mask=None, bias=None, causal=False, scale=None):
    """A query at a time, a key at a time; no softmax of torch's."""
    batch, heads, queries, width = q.shape
    keys, scale = k.shape[2], scale or 1 / math.sqrt(width)
    out = torch.zeros(batch, heads, queries, v.shape[3], dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                seen = [
                    j
                    for j in range(keys)
                    if not (causal and j > i + keys - queries)
                    and (mask is None or mask.expand(batch, heads, queries, keys)[b, h, i, j])
                ]
                scores = [scale * (q[b, h, i] * k[b, h, j]).sum() for j in seen]
                if bias is not None:
                    full = bias.expand(batch, heads, queries, keys)
                    scores = [s + full[b, h, i, j] for s, j in zip(scores, seen, strict=True)]
                total = sum(s.exp() for s in scores)
                for s, j in zip(scores, seen, strict=True):
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
def test_equals_the_double_loop(queries, keys, causal, masked, biased):
    q, k = numbers(2, 3, queries, 4), numbers(2, 3, keys, 4, seed=1)
    v = numbers(2, 3, keys, 6, seed=2).requires_grad_()
    mask = None
    if masked == "padding":
        mask = torch.ones(2, 1, 1, keys, dtype=torch.bool)
        mask[1, ..., keys // 2 :] = False
    elif masked == "full":
        mask = numbers(2, 3, queries, keys, seed=3) > 0
        mask[0, 1, 0] = False  # may look nowhere
    bias = numbers(1, 3, queries, keys, seed=4) if biased else None
    said = {"mask": mask, "bias": bias, "causal": causal}
    for scale in (None, 1.0):
        ours = attention(q, k, v, scale=scale, **said)
        truth = looped(q, k, v, scale=scale, **said)
        written = attention_weights(q, k, scale=scale, **said) @ v
        apart = max(float((x - truth).detach().abs().max()) for x in (ours, written))
        (gradient,) = torch.autograd.grad(ours.square().sum(), v)
        (slow,) = torch.autograd.grad(truth.square().sum(), v)
        print(f"output {apart:.1e}, gradient {float((gradient - slow).abs().max()):.1e} apart")
        assert apart < 1e-12
        assert float((gradient - slow).abs().max()) < 1e-11


def test_a_row_without_keys_is_zero_and_sends_no_gradient():
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
def test_bfloat16_is_trained_by_the_same_attention(queries, keys, causal, masked, biased, monkeypatch):
    """On a CPU training takes another way than the fused kernels, in bfloat16: it is no other attention."""
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
        mask[0, 1, 0] = False  # may look nowhere
    exact, low = [], []
    for into, dtype in ((exact, torch.float64), (low, torch.bfloat16)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        added = None if bias is None else bias.to(dtype)
        with monkeypatch.context() as patched:
            if dtype == torch.bfloat16:  # the fused kernel is not asked
                patched.setattr("torch.nn.functional.scaled_dot_product_attention", None)
            y = attention(*inputs, mask=mask, bias=added, causal=causal)
        y.sum(-1).square().sum().backward()
        into += [y.detach(), *(x.grad for x in inputs)]
    far = [float((a - b).norm() / a.norm().clamp(min=1)) for a, b in zip(exact, low, strict=True)]
    print("output and gradients apart, of their norm:", far)
    assert max(far) < 0.03


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("cross", [False, True])
def test_equals_torchs_module(bias, heads, cross):
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
        got = ours(x, memory, mask=~padding[:, None, None])
        expected = theirs(x, memory, memory, key_padding_mask=padding, need_weights=False)[0]
    else:
        ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
        got, expected = ours(x, causal=True), theirs(x, x, x, attn_mask=ahead)[0]
    apart = float((got - expected).detach().abs().max())
    print(f"{apart:.1e} apart")
    assert apart < 1e-12


@pytest.mark.parametrize("pieces", [(1,) * 6, (4, 1, 1), (2, 3, 1)])
def test_a_past_changes_nothing(pieces):
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(12, 3, head_dim=5).double(), numbers(2, 6, 12)
    whole, past = layer(x, causal=True), KVCache(6)
    parts = [layer(piece, causal=True, cache=past) for piece in x.split(pieces, 1)]
    assert float((torch.cat(parts, 1) - whole).detach().abs().max()) < 1e-12
    with pytest.raises(ValueError, match="7 places, but room for 6"):
        layer(x[:, :1], causal=True, cache=past)


def test_a_past_of_the_memory_is_kept_and_follows_the_beams():
    torch.manual_seed(0)
    layer, x, memory = MultiHeadAttention(8, 2).double(), numbers(3, 1, 8), numbers(3, 4, 8, seed=1)
    past = KVCache(4)
    first = layer(x, memory, cache=past)
    assert torch.equal(layer(x, memory * 0, cache=past), first)  # not looked at again
    rows = torch.tensor([2, 0, 0])
    past.reorder(rows)
    expected = layer(x, memory[rows])
    assert float((layer(x, memory, cache=past) - expected).abs().max()) < 1e-12


def test_dropout_is_of_the_weights_and_only_in_training():
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(8, 2, dropout=0.5), torch.randn(1, 4, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
