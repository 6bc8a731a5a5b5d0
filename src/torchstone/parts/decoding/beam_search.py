"""Greedy search and beam search over a next-token function."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

Step = Callable[[Tensor, Tensor | None], Tensor]


def search(
    step: Step,
    prompt: Int64[Tensor, "batch prompt"],
    *,
    beam_size: int,
    eos: int,
    max_new_tokens: int,
    length_penalty: float = 0.0,
) -> Int64[Tensor, "batch length"]:
    """What follows the prompt, by `greedy_search` with one beam, else by `beam_search`."""
    if beam_size == 1:
        tokens = greedy_search(step, prompt, eos=eos, max_new_tokens=max_new_tokens)
    else:
        options = {"beam_size": beam_size, "max_new_tokens": max_new_tokens, "length_penalty": length_penalty}
        tokens, _ = beam_search(step, prompt, eos=eos, **options)
    return tokens[:, prompt.shape[1] :]


def greedy_search(
    step: Step, prompt: Int64[Tensor, "batch prompt"], *, eos: int, max_new_tokens: int
) -> Int64[Tensor, "batch length"]:
    """The most likely token at each step, until every sequence has ended; padded with `eos`.

    `step`, `prompt` and `max_new_tokens` are those of `beam_search`; scores of any monotonic scale will do.
    """
    tokens = prompt
    is_done = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for _ in range(max_new_tokens):
        best = step(tokens, None).argmax(1).masked_fill(is_done, eos)
        tokens = torch.cat([tokens, best[:, None]], 1)
        is_done |= best == eos
        if bool(is_done.all()):
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
    """The best sequences and their scores, log-probability / ((5 + length) / 6)^length_penalty.

    Length counts the new tokens including `eos`; the penalty is that of Wu et al. 2016
    (arXiv:1609.08144), equation 14, without coverage. With as many beams as there are prefixes the
    search is exhaustive. Sequences are padded with `eos`.

    Args:
        step: (tokens (batch·beams, so far), rows) -> log-probabilities of the next token
            (batch·beams, vocab). `rows` gives, for each row, the row of the last call that it continues
            (None in the first call), so that caches can be reordered.
        prompt: what every sequence begins with; only its continuation is scored.
    """
    batch, prompt_length = prompt.shape
    device = prompt.device
    tokens = prompt.repeat_interleave(beam_size, 0)
    total = torch.full((batch, beam_size), -torch.inf, device=device)
    total[:, 0] = 0  # all beams begin alike: only one of them counts
    finished = torch.full((batch, prompt_length + max_new_tokens), eos, device=device)
    finished[:, :prompt_length] = prompt
    best = torch.full((batch,), -torch.inf, device=device)
    offset = torch.arange(batch, device=device)[:, None] * beam_size
    rows = None
    for length in range(1, max_new_tokens + 1):
        log_probs = step(tokens, rows)  # (B·beams, V)
        vocab = log_probs.shape[1]
        score = total[:, :, None] + log_probs.view(batch, beam_size, vocab)  # (B, beams, V)
        # the best sequence that ends here is stored if it beats the best so far; at the last step all end
        norm = ((5 + length) / 6) ** length_penalty
        ending = score[:, :, eos] if length < max_new_tokens else score.flatten(1)
        top, index = (ending / norm).max(1)
        if length < max_new_tokens:
            prefix = tokens[offset[:, 0] + index]
            last = torch.full_like(index, eos)
        else:
            prefix = tokens[offset[:, 0] + index // vocab]
            last = index % vocab
        better = top > best
        candidate = torch.cat([prefix, last[:, None]], 1)
        finished[better] = eos
        finished[better, : candidate.shape[1]] = candidate[better]
        best = torch.where(better, top, best)
        if length == max_new_tokens:
            break
        score[:, :, eos] = -torch.inf
        total, index = score.flatten(1).topk(min(beam_size, beam_size * vocab), 1)
        rows = (offset + index // vocab).flatten()
        tokens = torch.cat([tokens[rows], (index % vocab).view(-1, 1)], 1)
        # log-probabilities only fall: stop when no unfinished beam can still beat the best
        bound = total[:, 0] / ((5 + max_new_tokens) / 6) ** max(length_penalty, 0.0)
        if bool((bound <= best).all()):
            break
    return finished, best
