"""Block-sparse attention against dense attention under the mask that its blocks define."""

import math
import random

import numpy as np
import pytest
import torch
from dense_attention import assert_linear_memory, compare, dense, inputs, numbers

from torchstone.parts.transformer import block_attention
from torchstone.parts.transformer.block_sparse_attention import (
    RandomBlocks,
    block_sparse_attention,
    text_blocks,
)
from torchstone.parts.transformer.global_tokens import find_global_tokens

BATCH, HEADS, SIZE = 2, 3, 4


def visible_keys(length, table, side, mask):
    """One pair of blocks at a time: neighbors, random ones, and the first and last block of each text."""
    blocks = -(-length // SIZE)
    visible = torch.zeros(BATCH, HEADS, blocks * SIZE, blocks * SIZE, dtype=torch.bool)
    for b in range(BATCH):
        tokens = mask[b].nonzero()[:, 0].tolist()
        ends = {tokens[0] // SIZE, tokens[-1] // SIZE}
        for h in range(HEADS):
            for i in range(blocks):
                for j in range(blocks):
                    listed = j in table[b, h, i].tolist() if table is not None else False
                    if abs(i - j) <= side or i in ends or j in ends or listed:
                        visible[b, h, i * SIZE : (i + 1) * SIZE, j * SIZE : (j + 1) * SIZE] = True
    return visible[:, :, :length, :length] & (mask[:, :, None] & mask[:, None])[:, None]


def text_mask(length, kind):
    """None; padding after the first text; besides, a hole in it, and padding before the second."""
    mask = torch.ones(BATCH, length, dtype=torch.bool)
    if kind != "none":
        mask[0, length - length // 3 :] = False
    if kind == "holes":
        mask[0, 2] = mask[1, :SIZE] = False
    return mask


@pytest.mark.parametrize(
    ("length", "side", "count"), [(64, 1, 3), (50, 1, 2), (33, 2, 1), (31, 1, 0), (9, 1, 3), (5, 0, 1)]
)
@pytest.mark.parametrize("kind", ["none", "padding", "holes"])
@pytest.mark.parametrize("way", ["pieces", "gathered"])
def test_block_sparse_equals_dense_attention_under_block_mask(length, side, count, kind, way, monkeypatch):
    if way == "gathered":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    mask = text_mask(length, kind)
    ends, blocks = text_blocks(mask, SIZE), -(-length // SIZE)
    table = RandomBlocks(HEADS, 20, count, seed=0)(ends, blocks, side) if count else None
    visible = visible_keys(length, table, side, mask)
    settings = {"block_size": SIZE, "side_blocks": side, "random_blocks": table}
    settings["mask"] = None if kind == "none" else mask
    for dtype in (torch.float64, torch.float32):
        q, k, v = inputs(BATCH, HEADS, length, 5, dtype, values=6)
        compare(
            lambda q=q, k=k, v=v: block_sparse_attention(q, k, v, **settings),
            lambda q=q, k=k, v=v: dense(q, k, v, visible),
            (q, k, v),
            dtype,
        )


@pytest.mark.parametrize(
    ("first", "last", "blocks"), [(0, 15, 16), (0, 11, 16), (2, 9, 10), (0, 5, 6), (0, 0, 3)]
)
def test_random_blocks_are_others_than_those_listed_and_differ(first, last, blocks):
    ends = torch.tensor([[first, last], [0, blocks - 1]])
    table = RandomBlocks(HEADS, 16, 3, seed=0)(ends, blocks)
    for text, (begin, end) in enumerate(ends.tolist()):
        for row in range(begin, end + 1):
            listed = {begin, end, row - 1, row, row + 1}
            free = set(range(begin, end + 1)) - listed
            for head in range(HEADS):
                drawn = [x for x in table[text, head, row].tolist() if x >= 0]
                assert len(drawn) == len(set(drawn)) == min(3, len(free))
                assert set(drawn) <= free
    if last > 8:
        assert not torch.equal(table[0, 0], table[0, 1])  # each head draws its own


def test_random_blocks_are_uniform():
    ends = torch.tensor([[0, 11]])
    table = RandomBlocks(6000, 12, 2, seed=1)(ends, 12)[0]
    counts = torch.bincount(table[:, 5].flatten(), minlength=12)
    print(f"of 12,000 draws of block 5's: {counts.tolist()}")
    free = [1, 2, 3, 7, 8, 9, 10]
    assert counts.sum() == counts[free].sum() == 12_000
    assert float((counts[free] - 12_000 / 7).abs().max()) < 4 * (12_000 / 7) ** 0.5
    pairs = torch.bincount((table[:, 5, 0] * 12 + table[:, 5, 1]), minlength=144).view(12, 12)
    assert int((pairs > 0).sum()) == 7 * 6  # every ordered pair, none twice the same
    assert float((pairs[pairs > 0] - 6000 / 42).abs().max()) < 4.5 * (6000 / 42) ** 0.5


def test_random_blocks_are_the_same_in_training_and_evaluation_and_leave_other_generators_alone():
    """The most used BigBird turns them into block 0 in evaluation, and seeds NumPy's generator in training."""
    saved = np.random.get_state()
    np.random.seed(17)  # whatever ran before
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    layer, ends = RandomBlocks(HEADS, 16, 3, seed=4), torch.tensor([[0, 15]])
    training, evaluation = layer.train()(ends, 16), layer.eval()(ends, 16)
    assert torch.equal(training, evaluation)
    middle = evaluation[0, :, 3:-3]
    assert int(middle.min()) > 0
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    np.random.set_state(saved)
    assert before[2] == random.getstate()
    assert not torch.equal(RandomBlocks(HEADS, 16, 3, seed=5)(ends, 16), evaluation)
    # what is drawn is in the checkpoint
    other = RandomBlocks(HEADS, 16, 3, seed=6)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(ends, 16), evaluation)
    assert torch.equal(layer.to(torch.bfloat16)(ends, 16), evaluation)


@pytest.mark.parametrize("before", [0, 2])
def test_block_sparse_padding_changes_nothing_and_gives_zeros(before):
    """The last global block is that of the text. `before`: whole blocks of padding before the text."""
    length, random_blocks = 45, RandomBlocks(HEADS, 40, 2, seed=0)
    texts = inputs(1, HEADS, length, 4, torch.float32)
    whole = torch.ones(1, length, dtype=torch.bool)
    table = random_blocks(text_blocks(whole, SIZE), -(-length // SIZE))
    alone = block_sparse_attention(*texts, block_size=SIZE, random_blocks=table)
    for padding in (1, 3, 17, 60):
        total = before * SIZE + length + padding
        longer = []
        for x in texts:
            pads = (x.new_full((1, HEADS, n, 4), 50.0) for n in (before * SIZE, padding))
            first = torch.cat([next(pads), x, next(pads)], 2)
            longer.append(torch.cat([first, numbers(1, HEADS, total, 4, dtype=x.dtype)]))
        mask = torch.ones(2, total, dtype=torch.bool)
        mask[0, : before * SIZE] = mask[0, before * SIZE + length :] = False
        table = random_blocks(text_blocks(mask, SIZE), -(-total // SIZE))
        out = block_sparse_attention(*longer, block_size=SIZE, random_blocks=table, mask=mask)
        difference = float((out[0][:, mask[0]] - alone[0]).detach().abs().max())
        print(f"{padding} of padding: {difference:.1e} apart")
        assert difference < 1e-6
        assert not out[0][:, ~mask[0]].any()


def test_block_sparse_text_of_padding_alone_gives_zeros_with_zero_gradient():
    leaves = inputs(BATCH, HEADS, 30, 4, torch.float32)
    mask = torch.ones(BATCH, 30, dtype=torch.bool)
    mask[1] = False
    table = RandomBlocks(HEADS, 8, 2, seed=0)(text_blocks(mask, SIZE), 8)
    out = block_sparse_attention(*leaves, block_size=SIZE, random_blocks=table, mask=mask)
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert not out[1].any()
    assert all(bool(g.isfinite().all()) and not g[1].any() for g in gradients)


def test_block_sparse_counts_a_block_again_that_is_listed_again():
    """As the published code does in evaluation: all random blocks are block 0, which is global already."""
    q, k, v = inputs(1, 1, 40, 4)
    again = torch.zeros(1, 1, 10, 3, dtype=torch.int64)
    visible = visible_keys(40, None, 1, torch.ones(BATCH, 40, dtype=torch.bool))[:1, :1]
    bias = torch.zeros(40, 40).double()
    bias[SIZE:-SIZE, :SIZE] = math.log(4)

    def oracle():
        scores = (q @ k.transpose(2, 3) / 2 + bias).masked_fill(~visible, -torch.inf)
        return scores.softmax(-1) @ v

    compare(lambda: block_sparse_attention(q, k, v, block_size=SIZE, random_blocks=again), oracle, (q, k, v))


def test_block_sparse_global_blocks_can_be_those_of_the_batch():
    """As the published code has it: the last block is that of the padding."""
    leaves = q, k, v = inputs(1, 2, 40, 4)
    mask, ends = torch.arange(40)[None] < 22, torch.tensor([[0, 9]])
    visible = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    for i in range(10):
        for j in range(10):
            visible[..., i, j] = abs(i - j) <= 1 or i in (0, 9) or j in (0, 9)
    visible = visible.repeat_interleave(4, 2).repeat_interleave(4, 3) & (mask[:, :, None] & mask[:, None])
    compare(
        lambda: block_sparse_attention(*leaves, block_size=4, mask=mask, global_blocks=ends),
        lambda: dense(q, k, v, visible),
        leaves,
    )


@pytest.mark.parametrize("length", [33, 40])
def test_block_sparse_global_tokens_count_once_and_attend_to_all(length):
    """Within their block, beside it, in a random one and in a global one; none in the second text."""
    leaves = q, k, v = inputs(BATCH, HEADS, length, 5, values=6)
    mask, is_global = text_mask(length, "padding"), torch.zeros(BATCH, length, dtype=torch.bool)
    is_global[0, [0, 9, 10, 15]] = True
    table = RandomBlocks(HEADS, 12, 2, seed=0)(text_blocks(mask, SIZE), -(-length // SIZE))
    visible = visible_keys(length, table, 1, mask)
    found = is_global[:, None, :, None] | is_global[:, None, None]
    visible = visible | found & (mask[:, :, None] & mask[:, None])[:, None]
    settings = {"block_size": SIZE, "random_blocks": table, "mask": mask}
    settings["global_tokens"] = find_global_tokens(is_global)
    compare(lambda: block_sparse_attention(*leaves, **settings), lambda: dense(q, k, v, visible), leaves)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_backward_is_the_same_from_weights_that_are_kept_and_computed_again(dropout, monkeypatch):
    leaves = inputs(BATCH, HEADS, 40, 5, torch.float32)
    table, found = RandomBlocks(HEADS, 12, 2, seed=0)(torch.tensor([[0, 9]] * BATCH), 10), []
    for kept in (10**9, 0):
        monkeypatch.setattr(block_attention, "MAX_SAVED", kept)
        monkeypatch.setattr(block_attention, "SCORES", 300)
        torch.manual_seed(0)
        out = block_sparse_attention(*leaves, block_size=SIZE, random_blocks=table, dropout=dropout)
        found.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_block_sparse_needs_memory_linear_in_length():
    layer = RandomBlocks(1, 64, 2, seed=0)

    def attend(q, k, v):
        blocks = q.shape[2] // 16
        table = layer(torch.tensor([[0, blocks - 1]]), blocks)
        return block_sparse_attention(q, k, v, block_size=16, random_blocks=table)

    assert_linear_memory(attend)


def test_random_blocks_refuse_a_text_beyond_the_longest():
    with pytest.raises(ValueError, match="17 blocks, but random blocks were drawn for 16"):
        RandomBlocks(HEADS, 16, 3, seed=0)(torch.tensor([[0, 16]]), 17)


def test_fused_call_of_other_devices_gives_the_same_gradients(monkeypatch):
    """Its backward pass reads its own output, which nothing may have written to."""
    leaves, found = inputs(BATCH, HEADS, 40, 8, torch.float32), []
    table = RandomBlocks(HEADS, 12, 2, seed=0)(torch.tensor([[0, 9]] * BATCH), 10)
    for is_compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=is_compiling: value)
        out = block_sparse_attention(*leaves, block_size=SIZE, random_blocks=table)
        found.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for a, b in zip(*found, strict=True):
        assert float((a - b).detach().abs().max()) < 1e-5
