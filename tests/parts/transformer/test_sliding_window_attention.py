"""Sliding-window attention against dense attention under the band that defines it."""

import pytest
import torch
from dense_attention import assert_linear_memory, compare, dense, inputs, numbers

from torchstone.parts.transformer import block_attention
from torchstone.parts.transformer.attention import attention_weights
from torchstone.parts.transformer.global_tokens import attend_to_projected, find_global_tokens
from torchstone.parts.transformer.sliding_window_attention import sliding_window_attention

BATCH, HEADS = 2, 3


def visible_keys(length, window, dilation=1, causal=False, mask=None, global_mask=None):
    """(batch, 1, queries, keys), by the definition."""
    i, j = torch.arange(length)[:, None], torch.arange(length)
    visible = ((i - j).abs() <= window * dilation) & ((i - j) % dilation == 0) & ((j <= i) | (not causal))
    visible = visible.expand(BATCH, -1, -1)
    if global_mask is not None:
        visible = visible | global_mask[:, :, None] | global_mask[:, None]
    if mask is not None:
        visible = visible & mask[:, :, None] & mask[:, None]
    return visible[:, None]


def padding_mask(length):
    """The first text ends before the batch does, the second has a hole: any mask is obeyed."""
    mask = torch.ones(BATCH, length, dtype=torch.bool)
    mask[0, length - length // 3 :] = False
    mask[1, length // 4] = False
    return mask


def global_tokens_mask(length, counts=(2, 3)):
    """Other positions, and another number of them, in each text."""
    chosen = torch.zeros(BATCH, length, dtype=torch.bool)
    for b, count in enumerate(counts):
        chosen[b, torch.linspace(b, length // 2, count).long()] = True
    return chosen


# length, window, dilation, causal: lengths that no window or block divides, windows of each block size
CASES = [
    *((1, 2, 1, False), (7, 1, 1, False), (7, 20, 1, False), (37, 5, 1, True), (50, 0, 1, False)),
    *((75, 33, 1, False), (61, 3, 2, False), (64, 4, 3, True), (67, 40, 2, False), (150, 129, 1, False)),
]


@pytest.mark.parametrize(("length", "window", "dilation", "causal"), CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_window_equals_dense_attention_under_band(length, window, dilation, causal, padded):
    mask = padding_mask(length) if padded else None
    visible = visible_keys(length, window, dilation, causal, mask)
    settings = {"window": window, "dilation": dilation, "causal": causal, "mask": mask}
    for dtype in (torch.float64, torch.float32):
        q, k, v = inputs(BATCH, HEADS, length, 4, dtype, values=6)
        compare(
            lambda q=q, k=k, v=v: sliding_window_attention(q, k, v, **settings),
            lambda q=q, k=k, v=v: dense(q, k, v, visible),
            (q, k, v),
            dtype,
        )


@pytest.mark.parametrize(("length", "window", "dilation"), [(7, 1, 1), (37, 5, 1), (61, 3, 2), (75, 33, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("counts", [(1, 1), (2, 3), (0, 2)])
def test_window_with_global_tokens_equals_dense_attention(length, window, dilation, padded, counts):
    mask, chosen = padding_mask(length) if padded else None, global_tokens_mask(length, counts)
    if padded:
        chosen[0, -1] = True  # a global token of padding is none
    visible = visible_keys(length, window, dilation, False, mask, chosen)
    for dtype in (torch.float64, torch.float32):
        q, k, v = inputs(BATCH, HEADS, length, 4, dtype)
        compare(
            lambda q=q, k=k, v=v: sliding_window_attention(
                q, k, v, window=window, dilation=dilation, mask=mask, global_mask=chosen, scale=0.7
            ),
            lambda q=q, k=k, v=v: dense(q, k, v, visible, scale=0.7),
            (q, k, v),
            dtype,
        )


@pytest.mark.parametrize("padded", [False, True])
def test_window_global_tokens_attend_with_projections_of_their_own(padded):
    length = 45
    mask, chosen = padding_mask(length) if padded else None, global_tokens_mask(length)
    tokens = find_global_tokens(chosen if mask is None else chosen & mask)
    q, k, v = inputs(BATCH, HEADS, length, 4)
    own = inputs(BATCH, HEADS, length, 4, seed=7)
    visible = visible_keys(length, 4, 1, False, mask, chosen)

    def ours():
        queries = torch.stack([tokens.gather(own[0][:, h]) for h in range(HEADS)], 1)
        rows = tokens.attend_to_all(queries, *own[1:], mask=mask, scale=None, dropout=0.0)
        settings = {"mask": mask, "global_tokens": tokens, "global_rows": rows}
        return sliding_window_attention(q, k, v, window=4, **settings)

    def oracle():  # local tokens see the local keys of global ones; global tokens see only global keys
        return torch.where(chosen[:, None, :, None], dense(*own, visible), dense(q, k, v, visible))

    compare(ours, oracle, (q, k, v, *own))


@pytest.mark.parametrize("padded", [False, True])
def test_attention_to_projected_tokens_equals_projecting_them(padded):
    x, q = numbers(BATCH, 21, 10), numbers(BATCH, HEADS, 2, 4, seed=1)
    weights = [numbers(HEADS * 4, 10, seed=2), numbers(HEADS * 4, 10, seed=3)]
    biases = [numbers(HEADS * 4, seed=4), numbers(HEADS * 4, seed=5)]
    leaves = [each.requires_grad_() for each in (x, q, *weights, *biases)]
    mask = padding_mask(21) if padded else None
    if padded:
        mask[1] = False  # a text without tokens

    def projected():
        return [
            torch.nn.functional.linear(x, *each).unflatten(2, (HEADS, 4)).transpose(1, 2)
            for each in zip(weights, biases, strict=True)
        ]

    def oracle():
        k, v = projected()
        visible = torch.ones(BATCH, 1, 2, 21, dtype=torch.bool)
        return dense(q, k, v, visible if mask is None else visible & mask[:, None, None])

    pairs = list(zip(weights, biases, strict=True))
    compare(lambda: attend_to_projected(q, x, *pairs, mask=mask), oracle, leaves)
    # dropped weights add up to something else than 1, and so does their part of the bias
    torch.manual_seed(3)
    out = attend_to_projected(q, x, *pairs, dropout=0.4)
    torch.manual_seed(3)
    k, v = projected()
    expected = torch.dropout(attention_weights(q, k), 0.4, train=True) @ v
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", [None, (2,)])
def test_window_of_one_text_with_dilation_equals_dense_attention(counts):
    """Its mask, folded by the dilation, is not contiguous."""
    q, k, v = (x[:1].detach() for x in inputs(BATCH, HEADS, 33, 4, torch.float64))
    mask = torch.arange(33)[None] < 29
    chosen = torch.zeros(1, 33, dtype=torch.bool)
    chosen[0, [3, 11]] = counts is not None
    visible = visible_keys(33, 2, 2, False, mask, chosen)[:1]
    out = sliding_window_attention(q, k, v, window=2, dilation=2, mask=mask, global_mask=chosen)
    difference = (out - dense(q, k, v, visible)).abs().max().item()
    print(f"{difference:.1e} apart")
    assert difference < 1e-12


def test_window_reaches_its_length_to_each_side():
    """Published windows give both sides together: 512 there is 256 here."""
    q, k, v = inputs(1, 1, 90, 4)
    for window in (1, 8, 32, 33):
        out = sliding_window_attention(q, k, v, window=window)
        (gradient,) = torch.autograd.grad(out[0, 0, 45].sum(), v)
        reached = gradient[0, 0].abs().sum(1).nonzero()[:, 0] - 45
        print(f"window {window}: keys {int(reached.min())} to {int(reached.max())}")
        assert reached.tolist() == list(range(-window, window + 1))


def test_window_padding_changes_nothing_and_gives_zeros():
    texts = inputs(1, HEADS, 41, 4, torch.float32)
    chosen = torch.zeros(1, 41, dtype=torch.bool)
    chosen[0, [0, 30]] = True
    alone = sliding_window_attention(*texts, window=6, global_mask=chosen)
    for padding in (1, 23, 90):
        # what stands in the padding is large, and other texts are longer
        longer = [
            torch.cat(
                [
                    torch.cat([x, x.new_full((1, HEADS, padding, 4), 50.0)], 2),
                    numbers(1, HEADS, 41 + padding, 4, dtype=x.dtype),
                ]
            )
            for x in texts
        ]
        mask = torch.ones(2, 41 + padding, dtype=torch.bool)
        mask[0, 41:] = False
        more = torch.zeros(2, 41 + padding, dtype=torch.bool)
        more[0, :41] = chosen
        more[1, ::9] = True
        out = sliding_window_attention(*longer, window=6, mask=mask, global_mask=more)
        difference = float((out[:1, :, :41] - alone).detach().abs().max())
        print(f"{padding} of padding: {difference:.1e} apart")
        assert difference < 1e-6
        assert not out[0, :, 41:].any()


def test_window_text_of_padding_alone_gives_zeros_with_zero_gradient():
    leaves = inputs(BATCH, HEADS, 20, 4, torch.float32)
    mask = torch.ones(BATCH, 20, dtype=torch.bool)
    mask[1] = False
    chosen = torch.ones(BATCH, 20, dtype=torch.bool)
    for extra in (None, chosen):
        out = sliding_window_attention(*leaves, window=3, mask=mask, global_mask=extra)
        gradients = torch.autograd.grad(out.sum(), leaves)
        assert not out[1].any()
        assert out[0].any()
        assert all(bool(g.isfinite().all()) and not g[1].any() for g in gradients)


def test_window_needs_memory_linear_in_length():
    assert_linear_memory(lambda q, k, v: sliding_window_attention(q, k, v, window=16))
    chosen = {n: torch.arange(n)[None] < 3 for n in (512, 1024)}
    assert_linear_memory(
        lambda q, k, v: sliding_window_attention(q, k, v, window=16, global_mask=chosen[q.shape[2]])
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_window_in_pieces_equals_one_piece(dropout, monkeypatch):
    leaves, results = inputs(BATCH, HEADS, 100, 4), []
    chosen = global_tokens_mask(100)
    for scores in (1, 5000, 10**9):
        monkeypatch.setattr(block_attention, "SCORES", scores)
        torch.manual_seed(3)
        out = sliding_window_attention(*leaves, window=9, global_mask=chosen, dropout=dropout)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for other in results[1:]:
        error = max(float((a - b).detach().abs().max()) for a, b in zip(other, results[0], strict=True))
        print(f"{error:.1e} apart")
        assert error < 1e-12


def test_window_refuses_what_has_no_meaning():
    leaves = inputs(BATCH, HEADS, 8, 4)
    chosen = global_tokens_mask(8)
    with pytest.raises(ValueError, match="not with causal"):
        sliding_window_attention(*leaves, window=2, causal=True, global_mask=chosen)
    for settings in ({"window": -1}, {"window": 1, "dilation": 0}):
        with pytest.raises(ValueError, match="at least 0 and 1 are needed"):
            sliding_window_attention(*leaves, **settings)
    nobody = torch.zeros(BATCH, 8, dtype=torch.bool)
    out = sliding_window_attention(*leaves, window=2, causal=True, global_mask=nobody)  # none: as without
    assert torch.equal(out, sliding_window_attention(*leaves, window=2, causal=True))
