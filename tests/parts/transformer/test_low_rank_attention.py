"""Low-rank attention against dense attention, its limit, and against its formula."""

import pytest
import torch
from dense_attention import assert_linear_memory, compare, dense, inputs, numbers
from torch import nn

from torchstone.parts.transformer.low_rank_attention import low_rank_attention

BATCH, HEADS, LENGTH = 2, 3, 19


def padding_mask(length=LENGTH):
    mask = torch.ones(BATCH, length, dtype=torch.bool)
    mask[0, length - length // 3 :] = False
    mask[1, 4] = False
    return mask


@pytest.mark.parametrize("max_length", [LENGTH, LENGTH + 6])
def test_low_rank_with_the_identity_equals_dense_attention(max_length):
    identity = torch.eye(LENGTH, max_length, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        q, k, v = inputs(BATCH, HEADS, LENGTH, 4, dtype, values=6)
        e = identity.to(dtype)
        compare(
            lambda q=q, k=k, v=v, e=e: low_rank_attention(q, k, v, e),
            lambda q=q, k=k, v=v: dense(q, k, v, None),
            (q, k, v),
            dtype,
        )


@pytest.mark.parametrize("own", ["shared", "heads"])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_low_rank_equals_its_formula_with_every_way_of_sharing(own, separate, padded):
    mask = padding_mask() if padded else None
    for dtype in (torch.float64, torch.float32):
        leaves = inputs(BATCH, HEADS, LENGTH, 4, dtype, values=6)
        shape = (5, LENGTH + 6) if own == "shared" else (HEADS, 5, LENGTH + 6)
        e = numbers(*shape, seed=5, dtype=dtype).requires_grad_()
        f = numbers(*shape, seed=6, dtype=dtype).requires_grad_() if separate else e

        def oracle(leaves=leaves, e=e, f=f):
            q, k, v = leaves
            text = [torch.arange(LENGTH) if mask is None else mask[b].nonzero()[:, 0] for b in range(BATCH)]
            out = torch.zeros(v.shape, dtype=v.dtype)
            for b in range(BATCH):
                for h in range(HEADS):
                    at = text[b]  # the text without its padding, at its positions
                    keys, values = (
                        (x if own == "shared" else x[h])[:, at] @ y[b, h, at] for x, y in ((e, k), (f, v))
                    )
                    out[b, h, at] = (0.9 * q[b, h, at] @ keys.T).softmax(1) @ values
            return out

        compare(
            lambda leaves=leaves, e=e, f=f: low_rank_attention(
                *leaves, e, f if separate else None, mask=mask, scale=0.9
            ),
            oracle,
            [*leaves, e, f] if separate else [*leaves, e],
            dtype,
        )


@pytest.mark.parametrize("own", ["shared", "heads"])
def test_low_rank_padding_changes_nothing_and_gives_zeros(own):
    texts = inputs(1, HEADS, LENGTH, 4, torch.float32)
    e = numbers(*(() if own == "shared" else (HEADS,)), 5, 80, seed=5, dtype=torch.float32)
    alone = low_rank_attention(*texts, e)
    for padding in (1, 7, 60):
        longer = [
            torch.cat(
                [
                    torch.cat([x, x.new_full((1, HEADS, padding, 4), 50.0)], 2),
                    numbers(1, HEADS, LENGTH + padding, 4, dtype=x.dtype),
                ]
            )
            for x in texts
        ]
        mask = torch.ones(2, LENGTH + padding, dtype=torch.bool)
        mask[0, LENGTH:] = False
        out = low_rank_attention(*longer, e, mask=mask)
        difference = float((out[:1, :, :LENGTH] - alone).detach().abs().max())
        print(f"{padding} of padding: {difference:.1e} apart")
        assert difference < 1e-5
        assert not out[0, :, LENGTH:].any()


def test_low_rank_padding_reaches_no_token_by_its_gradient():
    leaves, mask = inputs(BATCH, HEADS, LENGTH, 4), padding_mask()
    e = numbers(5, LENGTH, seed=5).requires_grad_()
    out = low_rank_attention(*leaves, e, mask=mask)
    *gradients, of_e = torch.autograd.grad(out.square().sum(), [*leaves, e])
    hidden = ~mask[:, None, :, None]
    assert not any((g * hidden).any() for g in gradients)
    alone = torch.autograd.grad(low_rank_attention(*(x[:1] for x in leaves), e, mask=mask[:1]).sum(), e)[0]
    assert not alone[:, ~mask[0]].any()
    assert of_e.any()


def test_low_rank_text_of_padding_alone_gives_zeros_with_zero_gradient():
    leaves, mask = inputs(BATCH, HEADS, LENGTH, 4, torch.float32), padding_mask()
    mask[1] = False
    e = numbers(5, LENGTH, seed=5, dtype=torch.float32)
    out = low_rank_attention(*leaves, e, mask=mask)
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert not out[1].any()
    assert all(bool(g.isfinite().all()) and not g[1].any() for g in gradients)


def test_low_rank_projection_shared_by_layers_gets_the_sum_of_their_gradients():
    e = nn.Parameter(numbers(5, LENGTH, seed=5))
    first, second = inputs(BATCH, HEADS, LENGTH, 4), inputs(BATCH, HEADS, LENGTH, 4, seed=9)
    outs = [low_rank_attention(*leaves, e).square().sum() for leaves in (first, second)]
    together = torch.autograd.grad(sum(outs), e, retain_graph=True)[0]
    each = [torch.autograd.grad(out, e)[0] for out in outs]
    assert float((together - sum(each)).abs().max()) < 1e-12


def test_low_rank_needs_memory_linear_in_length():
    e = numbers(8, 1024, dtype=torch.float32).requires_grad_()
    assert_linear_memory(lambda q, k, v: low_rank_attention(q, k, v, e))


def test_low_rank_refuses_a_text_beyond_its_projection():
    with pytest.raises(ValueError, match="19 positions, but the projection is for 18 at most"):
        low_rank_attention(*inputs(BATCH, HEADS, LENGTH, 4), numbers(5, 18))
