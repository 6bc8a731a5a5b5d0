"""Beam search against brute force, and one beam against greedy search."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.parts.decoding.beam_search import beam_search, greedy_search, search


def language(vocab_size: int, seed: int):
    """Log-probabilities that depend on the last two tokens."""
    generator = torch.Generator().manual_seed(seed)
    table = (2 * torch.randn(vocab_size, vocab_size, vocab_size, generator=generator)).log_softmax(-1)
    return lambda tokens: table[tokens[:, -2], tokens[:, -1]]


def brute_force(step, prompt, vocab_size, eos, max_new_tokens, length_penalty):
    """The best of all sequences that end, or reach the limit."""
    best, sequence = -math.inf, None
    for length in range(1, max_new_tokens + 1):
        for words in itertools.product(range(vocab_size), repeat=length):
            if eos in words[:-1] or (length < max_new_tokens and words[-1] != eos):
                continue
            tokens, total = list(prompt), 0.0
            for word in words:
                total += float(step(torch.tensor([tokens]))[0, word])
                tokens.append(word)
            total /= ((5 + length) / 6) ** length_penalty
            if total > best:
                best, sequence = total, tokens
    return sequence, best


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_beam_search_wide_enough_equals_brute_force(seed, length_penalty):
    vocab_size, eos, max_new_tokens, step = 4, 0, 4, language(4, seed)
    prompts = torch.tensor([[1, 2], [3, 1]])
    histories = []  # what a cache would hold: each row's own history, reordered by `rows`

    def checked_step(tokens, rows):
        nonlocal histories
        histories = [[*histories[i]] for i in rows.tolist()] if rows is not None else [[] for _ in tokens]
        for history, row in zip(histories, tokens.tolist(), strict=True):
            history.append(row[-1])
            assert row[-len(history) :] == history
        return step(tokens)

    sequences, scores = beam_search(
        checked_step,
        prompts,
        beam_size=vocab_size**3,
        eos=eos,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
    )
    for row, score, prompt in zip(sequences.tolist(), scores.tolist(), prompts.tolist(), strict=True):
        expected, best = brute_force(step, prompt, vocab_size, eos, max_new_tokens, length_penalty)
        print(row, round(score, 4), expected, round(best, 4))
        assert score == pytest.approx(best, abs=1e-5)
        assert row == expected + [eos] * (len(row) - len(expected))


def test_beam_search_with_one_beam_is_greedy():
    step, tokens = language(5, 9), torch.tensor([[1, 2]])
    sequences, _ = beam_search(lambda t, rows: step(t), tokens, beam_size=1, eos=0, max_new_tokens=6)
    for _ in range(6):
        tokens = torch.cat([tokens, step(tokens).argmax(1, keepdim=True)], 1)
        if tokens[0, -1] == 0:
            break
    tokens = F.pad(tokens, (0, sequences.shape[1] - tokens.shape[1]))
    print(sequences.tolist(), tokens.tolist())
    assert torch.equal(sequences, tokens)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_search_is_what_follows_the_prompt(beam_size):
    step, prompt = language(5, 1), torch.tensor([[1, 2], [3, 1], [4, 4]])
    options = {"eos": 0, "max_new_tokens": 6}
    found = search(
        lambda tokens, rows: step(tokens), prompt, beam_size=beam_size, length_penalty=1.0, **options
    )
    if beam_size == 1:
        tokens = greedy_search(lambda tokens, rows: step(tokens), prompt, **options)
    else:
        tokens, _ = beam_search(
            lambda tokens, rows: step(tokens), prompt, beam_size=beam_size, length_penalty=1.0, **options
        )
    print(f"{beam_size} beams: {found.tolist()}")
    assert found.equal(tokens[:, 2:])
