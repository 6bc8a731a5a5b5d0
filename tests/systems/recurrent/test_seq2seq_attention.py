"""Scores of Bahdanau and Luong against loops over every word, with padding; and what is refused."""

import math

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.systems.recurrent.seq2seq import (
    AdditiveAttention,
    MultiplicativeAttention,
    attend,
    make_score,
)

LENGTHS = (5, 3, 1)


def drawn(kind, query=6, read=6, hidden=4, bias=False, seed=0):
    torch.manual_seed(seed)
    made = make_score(kind, query, read, hidden, bias=bias).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    s = torch.randn(3, 2, query, dtype=torch.float64)
    h = torch.randn(3, max(LENGTHS), read, dtype=torch.float64)
    return made, s, h


def fit(kind, made, s, h) -> float:
    """One score from its equation, number by number."""
    if kind == "dot":
        return sum(float(a) * float(b) for a, b in zip(s, h, strict=True))
    if kind == "general":
        W = made.W.weight
        return sum(float(s[i]) * float(W[i, j]) * float(h[j]) for i in range(len(s)) for j in range(len(h)))
    W = torch.cat([made.W.weight, made.U.weight], 1)  # Luong's one matrix for [s; h]
    both, total = torch.cat([s, h]), 0.0
    for unit in range(len(W)):
        inner = sum(float(w) * float(x) for w, x in zip(W[unit], both, strict=True))
        inner += float(made.W.bias[unit]) if made.W.bias is not None else 0.0
        total += float(made.v[unit]) * math.tanh(inner)
    return total


CASES = [
    (kind, query, read, bias)
    for kind in ("additive", "concat", "general", "dot")
    for query, read in ((6, 6), (6, 9))
    for bias in (False, True)
    if kind == "additive" or (not bias and (kind != "dot" or query == read))
]


@pytest.mark.parametrize(("kind", "query", "read", "bias"), CASES)
def test_attention_equals_loop_over_words(kind, query, read, bias):
    made, s, h = drawn(kind, query, read, bias=bias)
    made.requires_grad_(False)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    contexts, shares = attend(made(s, made.keys(h)), h, mask)
    worst = 0.0
    for row, length in enumerate(LENGTHS):
        for place in range(2):
            scores = [fit(kind, made, s[row, place], h[row, j]) for j in range(length)]
            total = sum(math.exp(x) for x in scores)
            alpha = [math.exp(x) / total for x in scores] + [0.0] * (max(LENGTHS) - length)
            worst = max(worst, *(abs(a - float(b)) for a, b in zip(alpha, shares[row, place], strict=True)))  # fmt: skip
            context = sum(a * h[row, j] for j, a in enumerate(alpha))
            worst = max(worst, float((context - contexts[row, place]).abs().max()))
    print(f"{kind}, {query} and {read} wide: furthest apart {worst:.2g}")
    assert worst < 1e-12


@pytest.mark.parametrize("kind", ["additive", "concat", "general"])
def test_attention_gradients_match_finite_differences(kind):
    made, s, h = drawn(kind, 6, 9, bias=kind == "additive")
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    inputs = (s.requires_grad_(), h.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, h: attend(made(s, made.keys(h)), h, mask), inputs)


def test_attention_ignores_padding():
    for kind in ("additive", "concat", "general", "dot"):
        made, s, h = drawn(kind)
        mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
        before = attend(made(s, made.keys(h)), h, mask)
        h[~mask] = 1e6
        after = attend(made(s, made.keys(h)), h, mask)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), kind


def test_attention_over_no_words_is_zero():
    made, s, h = drawn("additive")
    mask = torch.zeros(3, max(LENGTHS), dtype=torch.bool)
    mask[0] = True
    contexts, shares = attend(made(s, made.keys(h)), h, mask)
    contexts.sum().backward()
    assert not contexts[1:].any()
    assert not shares[1:].any()
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_attention_scores_queries_independently():
    for kind in ("additive", "concat", "general", "dot"):
        made, s, h = drawn(kind)
        keys = made.keys(h)
        apart = [made(s[:, i : i + 1], keys) for i in range(2)]
        assert torch.allclose(torch.cat(apart, 1), made(s, keys), atol=1e-14), kind


def test_attention_parameter_counts():
    """Bahdanau's W (hidden, query), U (hidden, read), v; a bias where one is asked for."""
    counts = {
        kind: sum(p.numel() for p in make_score(kind, 6, 8, 5, bias=True).parameters())
        for kind in ("additive", "concat", "general")
    }
    assert counts == {"additive": 5 * 6 + 5 * 8 + 5 + 5, "concat": 5 * 6 + 5 * 8 + 5, "general": 48}
    assert not list(make_score("dot", 6, 6).parameters())
    assert isinstance(make_score("concat", 6, 8), AdditiveAttention)
    assert isinstance(make_score("dot", 6, 6), MultiplicativeAttention)


def test_make_score_rejects_unknown_kinds():
    with pytest.raises(BadInput, match="unknown score 'cosine': additive, concat, general, dot"):
        make_score("cosine", 6, 6)
    with pytest.raises(BadInput, match="dot needs states of one width, not of 6 and 8"):
        make_score("dot", 6, 8)
