"""Positions, feed-forward networks, sampling and beams against formulas and brute force."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.decoding.beam_search import beam_search
from torchstone.parts.decoding.sampling import filter_logits, sample_token
from torchstone.parts.transformer.feed_forward import ACTIVATIONS, FeedForward
from torchstone.parts.transformer.positions import (
    apply_rotary,
    relative_position_buckets,
    sinusoidal_positions,
)
from torchstone.references import transformers


def test_sinusoids_by_their_formula():
    table = sinusoidal_positions(7, 10)
    for place in range(7):
        for i in range(5):
            angle = place / 10_000 ** (2 * i / 10)
            assert table[place, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (16, 40), (8, 20)])
def test_buckets_equal_the_published_ones(both_ways, buckets, furthest):
    transformers()
    from transformers.models.t5.modeling_t5 import T5Attention

    ours = relative_position_buckets(
        300, 300, bidirectional=both_ways, num_buckets=buckets, max_distance=furthest
    )
    distance = torch.arange(300)[None] - torch.arange(300)[:, None]
    theirs = T5Attention._relative_position_bucket(distance, both_ways, buckets, furthest)
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() == buckets - both_ways  # no later key is 0 away
    last = relative_position_buckets(
        3, 300, bidirectional=both_ways, num_buckets=buckets, max_distance=furthest
    )
    assert torch.equal(last, ours[-3:])


def test_rotary_products_depend_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    products = {
        (i, j): float((apply_rotary(q, first=i) * apply_rotary(k, first=j)).sum())
        for i in range(6)
        for j in range(6)
    }
    for (i, j), product in products.items():
        same = products[i - min(i, j), j - min(i, j)]
        assert product == pytest.approx(same, abs=1e-5)
    assert abs(products[0, 5] - products[0, 0]) > 1e-3
    # a turn of each pair as of a complex number
    x = torch.randn(1, 1, 5, 8, dtype=torch.float64)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    rates = 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turned = pairs * torch.polar(torch.ones(5, 4).double(), torch.arange(5)[:, None] * rates)
    expected = torch.cat([turned.real, turned.imag], -1)
    assert float((apply_rotary(x) - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_feed_forward_by_its_formula(name, gated):
    transformers()
    from transformers.activations import ACT2FN

    torch.manual_seed(0)
    net = FeedForward(6, 10, name, gated=gated).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    f = ACT2FN[name]
    inner = f(net.gate(x)) * net.up(x) if gated else f(net.up(x))
    assert float((net(x) - (inner @ net.down.weight.T + net.down.bias)).abs().max()) < 1e-12


def test_norms_by_their_formulas():
    """Parts that torch has: held here against what the papers write."""
    x = torch.randn(4, 7, dtype=torch.float64)
    layer, rms = nn.LayerNorm(7).double(), nn.RMSNorm(7, eps=1e-6).double()
    with torch.no_grad():
        for weight in (layer.weight, layer.bias, rms.weight):
            weight.normal_()
    spread = (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True)
    written = (x - x.mean(1, keepdim=True)) / (spread + 1e-5).sqrt() * layer.weight + layer.bias
    assert float((layer(x) - written).abs().max()) < 1e-12
    written = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * rms.weight
    assert float((rms(x) - written).abs().max()) < 1e-12


def test_top_k_and_top_p_keep_what_they_say():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.1, 0.15, 0.25, 0.5]]).log()
    for k in range(1, 5):
        kept = filter_logits(logits, top_k=k).isfinite()
        assert kept.sum(1).tolist() == [k, k]
        assert kept[0, :k].all()
    for p, count in ((0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.95, 4), (1.0, 4)):
        kept = filter_logits(logits.double(), top_p=p - 1e-9).isfinite()
        assert kept.sum(1).tolist() == [count, count], p
    cold = filter_logits(logits, temperature=0.5).softmax(1)
    assert torch.allclose(cold[0], torch.tensor([0.25, 0.0625, 0.0225, 0.01]) / 0.345)
    for wrong in ({"temperature": 0.0}, {"top_k": 0}, {"top_p": 1.5}):
        with pytest.raises(BadInput):
            filter_logits(logits, **wrong)


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.6, 0.3, 0.1, 0.0]).log().repeat(20_000, 1)
    drawn = sample_token(logits, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    print(shares.tolist())
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1, 0.0]), atol=0.012)
    again = sample_token(logits, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def language(size: int, seed: int):
    """Log-probabilities that depend on the last two tokens."""
    generator = torch.Generator().manual_seed(seed)
    table = (2 * torch.randn(size, size, size, generator=generator)).log_softmax(-1)
    return lambda tokens: table[tokens[:, -2], tokens[:, -1]]


def every(step, start, size, end, most, penalty):
    """The best of all sequences that end, or reach the limit."""
    best, found = -math.inf, None
    for length in range(1, most + 1):
        for words in itertools.product(range(size), repeat=length):
            if end in words[:-1] or (length < most and words[-1] != end):
                continue
            tokens, total = list(start), 0.0
            for word in words:
                total += float(step(torch.tensor([tokens]))[0, word])
                tokens.append(word)
            total /= ((5 + length) / 6) ** penalty
            if total > best:
                best, found = total, tokens
    return found, best


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_wide_beams_find_what_brute_force_finds(seed, penalty):
    size, end, most, step = 4, 0, 4, language(4, seed)
    start = torch.tensor([[1, 2], [3, 1]])
    pasts = []  # what a cache would hold: each row's own history, by the rows it is told

    def watched(tokens, rows):
        nonlocal pasts
        pasts = [[*pasts[i]] for i in rows.tolist()] if rows is not None else [[] for _ in tokens]
        for past, row in zip(pasts, tokens.tolist(), strict=True):
            past.append(row[-1])
            assert row[-len(past) :] == past
        return step(tokens)

    found, scores = beam_search(
        watched, start, beam_size=size**3, eos=end, max_new_tokens=most, length_penalty=penalty
    )
    for row, score, prompt in zip(found.tolist(), scores.tolist(), start.tolist(), strict=True):
        truth, best = every(step, prompt, size, end, most, penalty)
        print(row, round(score, 4), truth, round(best, 4))
        assert score == pytest.approx(best, abs=1e-5)
        assert row == truth + [end] * (len(row) - len(truth))


def test_one_beam_is_greedy():
    step, tokens = language(5, 9), torch.tensor([[1, 2]])
    found, _ = beam_search(lambda t, rows: step(t), tokens, beam_size=1, eos=0, max_new_tokens=6)
    for _ in range(6):
        tokens = torch.cat([tokens, step(tokens).argmax(1, keepdim=True)], 1)
        if tokens[0, -1] == 0:
            break
    tokens = F.pad(tokens, (0, found.shape[1] - tokens.shape[1]))
    print(found.tolist(), tokens.tolist())
    assert torch.equal(found, tokens)
