"""Greedy and beam search: the likeliest token each time, or the best of several continuations."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

Step = Callable[[Tensor, Tensor | None], Tensor]


def greedy_search(
    step: Step, prompt: Int64[Tensor, "batch prompt"], *, eos: int, max_new_tokens: int
) -> Int64[Tensor, "batch length"]:
    """The likeliest token each time, until every sequence has ended; filled up with `end`.

    `step`, `start` and `most` are those of `beam_search`; any scores in their order will do.
    """
    tokens = prompt
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for _ in range(max_new_tokens):
        best = step(tokens, None).argmax(1).masked_fill(ended, eos)
        tokens = torch.cat([tokens, best[:, None]], 1)
        ended |= best == eos
        if bool(ended.all()):
            break
    return tokens


def beam_search(
    step: Step,
    prompt: Int64[Tensor, "batch prompt"],
    *,
    beam_size: int,
    eos: int,
    max_new_tokens: int,
    length_penalty: float = 0.0,
) -> tuple[Int64[Tensor, "batch length"], Tensor]:
    """The best sequences found and their scores, log-probability / ((5 + length) / 6)^penalty.

    Length counts the new tokens, `end` among them; the penalty is that of Wu et al. 2016
    (arXiv:1609.08144), equation 14, without coverage. With as many beams as there are prefixes the
    search is exhaustive. Sequences are filled up with `end`.

    Args:
        step: (tokens (batch·beams, so far), rows) -> log-probabilities of the next token
            (batch·beams, vocabulary). `rows` says which row of the last call each row goes on from
            (None at first), for caches to follow.
        start: what every sequence begins with; only its continuation is scored.
        most: new tokens at most.
    """
    batch, prompt = prompt.shape
    device = prompt.device
    tokens = prompt.repeat_interleave(beam_size, 0)
    total = torch.full((batch, beam_size), -torch.inf, device=device)
    total[:, 0] = 0  # all beams begin alike: only one of them counts
    found = torch.full((batch, prompt + max_new_tokens), eos, device=device)
    found[:, :prompt] = prompt
    best = torch.full((batch,), -torch.inf, device=device)
    offset = torch.arange(batch, device=device)[:, None] * beam_size
    rows = None
    for length in range(1, max_new_tokens + 1):
        logs = step(tokens, rows)
        size = logs.shape[1]
        score = total[:, :, None] + logs.view(batch, beam_size, size)
        # one that ends is set aside, if it is the best so far; at the last step all end
        weight = ((5 + length) / 6) ** length_penalty
        ended = score[:, :, eos] if length < max_new_tokens else score.flatten(1)
        top, place = (ended / weight).max(1)
        if length < max_new_tokens:
            whole = tokens[offset[:, 0] + place]
            last = torch.full_like(place, eos)
        else:
            whole = tokens[offset[:, 0] + place // size]
            last = place % size
        better = top > best
        candidate = torch.cat([whole, last[:, None]], 1)
        found[better] = eos
        found[better, : candidate.shape[1]] = candidate[better]
        best = torch.where(better, top, best)
        if length == max_new_tokens:
            break
        score[:, :, eos] = -torch.inf
        total, place = score.flatten(1).topk(min(beam_size, beam_size * size), 1)
        rows = (offset + place // size).flatten()
        tokens = torch.cat([tokens[rows], (place % size).view(-1, 1)], 1)
        # nothing that goes on can do better: log-probabilities only fall
        hope = total[:, 0] / ((5 + max_new_tokens) / 6) ** max(length_penalty, 0.0)
        if bool((hope <= best).all()):
            break
    return found, best
