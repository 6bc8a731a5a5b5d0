"""The core of block attention: both of its ways, dropout, precision, and blocks that are listed twice."""

import pytest
import torch
from dense_attention import compare, inputs, numbers

from torchstone.parts.transformer import block_attention as module
from torchstone.parts.transformer.attention import attention
from torchstone.parts.transformer.block_attention import ExtraKeys, block_attention

BATCH, HEADS, BLOCKS, SIZE = 2, 3, 5, 4
TABLE = torch.tensor([[0, 1, -1], [2, 2, 0], [1, 4, 3], [-1, -1, 2], [0, 3, 4]])


def tables(per_head):
    """One list for all texts and heads, or one for each."""
    if not per_head:
        return TABLE[None, None]
    return torch.stack([TABLE.roll(i, 1) for i in range(BATCH * HEADS)]).view(BATCH, HEADS, BLOCKS, 3)


def written_out(q, k, v, table, band=None, key_mask=None, extra=None, scale=None):
    """Each block by itself, its keys side by side."""
    rows = []
    for b in range(BATCH):
        for h in range(HEADS):
            for block, listed in enumerate(table.expand(BATCH, HEADS, -1, -1)[b, h].tolist()):
                keys, values, visible = [], [], []
                for place, other in enumerate(listed):
                    if other < 0:
                        continue
                    part = slice(other * SIZE, (other + 1) * SIZE)
                    keys.append(k[b, h, part])
                    values.append(v[b, h, part])
                    seen = (
                        torch.ones(SIZE, SIZE, dtype=torch.bool)
                        if band is None
                        else band[:, place * SIZE : (place + 1) * SIZE]
                    )
                    visible.append(seen if key_mask is None else seen & key_mask[b, part])
                if extra is not None:
                    keys.append(extra.k[b, h])
                    values.append(extra.v[b, h])
                    visible.append(extra.mask[b].expand(SIZE, -1))
                query = q[b, h, block * SIZE : (block + 1) * SIZE]
                scores = query @ torch.cat(keys).T * (scale or q.shape[3] ** -0.5)
                scores = scores.masked_fill(~torch.cat(visible, 1), -torch.inf)
                rows.append(scores.softmax(1) @ torch.cat(values))
    return torch.stack(rows).view(BATCH, HEADS, BLOCKS * SIZE, -1)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize("with_extra", [False, True])
@pytest.mark.parametrize("way", ["pieces", "gathered"])
def test_block_attention_equals_blocks_written_out(per_head, banded, with_extra, way, monkeypatch):
    if way == "gathered":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(module, "SCORES", 100)
    table, extra = tables(per_head), None
    band = numbers(SIZE, 3 * SIZE, seed=5) > -0.5 if banded else None
    key_mask = torch.ones(BATCH, BLOCKS * SIZE, dtype=torch.bool)
    key_mask[1, [3, 9, 10]] = False
    for dtype in (torch.float64, torch.float32):
        leaves = inputs(BATCH, HEADS, BLOCKS * SIZE, 5, dtype, values=6)
        q, k, v = leaves
        if with_extra:
            more = [numbers(BATCH, HEADS, 2, w, seed=8, dtype=dtype).requires_grad_() for w in (5, 6)]
            extra = ExtraKeys(*more, torch.tensor([[True, True], [True, False]]))
            leaves = [*leaves, *more]
        settings = {"band": band, "key_mask": key_mask, "extra": extra, "scale": 0.8}
        compare(
            lambda q=q, k=k, v=v, settings=settings: block_attention(q, k, v, table, **settings),
            lambda q=q, k=k, v=v, settings=settings: written_out(q, k, v, table, **settings),
            leaves,
            dtype,
        )


def test_block_attention_gathered_is_one_fused_call(monkeypatch):
    calls = []

    def count(*args, **settings):
        calls.append(args[0].shape)
        return attention(*args, **settings)

    monkeypatch.setattr(module, "attention", count)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    block_attention(*inputs(BATCH, HEADS, BLOCKS * SIZE, 5), tables(True))
    assert calls == [(BATCH * BLOCKS, HEADS, SIZE, 5)]


def test_block_attention_dropout_is_the_same_in_both_passes():
    """The gradient of a value is the weight that it got, so dropout must drop the same in both passes."""
    leaves = q, k, v = inputs(1, 2, 10, 2)
    table, weights = torch.stack([TABLE, TABLE.roll(1, 1)])[None], []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        out = block_attention(*leaves, table, dropout=0.5)
        weights.append((out, torch.autograd.grad(out.sum(), leaves)))
    assert torch.equal(weights[0][0], weights[1][0])
    assert not torch.equal(weights[0][0], weights[2][0])

    def again(q, k, v):
        torch.manual_seed(1)
        return block_attention(q, k, v, table, dropout=0.5)

    assert torch.autograd.gradcheck(again, leaves)
    # the mean over many draws is that without dropout
    mean = torch.stack([block_attention(q, k, v, table, dropout=0.3) for _ in range(400)]).mean(0)
    error = float((mean - block_attention(q, k, v, table)).detach().abs().mean())
    print(f"mean of 400 draws: {error:.3f} from the weights without dropout")
    assert error < 0.05


@pytest.mark.parametrize("autocast", [False, True])
def test_block_attention_bfloat16_equals_float64(autocast):
    """Of the same rounded inputs: only the results are rounded, nothing inside."""
    low = inputs(BATCH, HEADS, BLOCKS * SIZE, 8, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in low]
    weight, results = numbers(BATCH, HEADS, BLOCKS * SIZE, 8, seed=9, dtype=torch.bfloat16), []
    for leaves in (exact, low):
        with torch.autocast("cpu", enabled=autocast and leaves is low):
            out = block_attention(*leaves, tables(True))
        assert out.dtype == leaves[0].dtype
        results.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    errors = [float(((a - b).norm() / a.norm()).detach()) for a, b in zip(*results, strict=True)]
    print("relative errors of output and gradients:", errors)
    assert max(errors) < 0.0025


def test_block_attention_refuses_blocks_of_unequal_size():
    with pytest.raises(ValueError, match="20 cannot be divided into 3 equal blocks"):
        block_attention(*inputs(1, 1, 20, 4), TABLE[None, None, :3])
