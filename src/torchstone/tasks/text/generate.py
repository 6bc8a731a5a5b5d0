"""Autoregressive generation from a language model, with or without a cache of keys and values."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.parts.decoding.sampling import filter_logits, sample_token
from torchstone.parts.modes import eval_mode
from torchstone.parts.transformer.weight_layout import column_major_weights


def generate(
    model: Any,
    prompt: Int64[Tensor, "batch prompt"],
    max_new_tokens: int,
    *,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    slide: int | None = None,
) -> Int64[Tensor, "batch longer"]:
    """The prompt and its continuation, each token sampled given all tokens before it.

    Where a text outgrows the context, its oldest `slide` tokens are dropped and the rest is read again at
    its new positions: every token is conditioned on at least `context - slide` tokens. The cache changes
    only the time, not the result.

    Args:
        model: (tokens, cache=, last_only=True) -> logits (batch, 1, vocab), with `context`,
            `vocab_size` and `make_cache()`, which returns an empty cache.
        greedy: take the most likely token instead of sampling; the first of equals.
        temperature, top_k, top_p: see `parts.decoding.sampling.filter_logits`.
        eos: end-of-sequence token; it is repeated until all texts have ended.
        generator: random generator on the model's device; the global one by default.
        use_cache: False computes everything anew for every token.
        slide: by default half the context; 1 is slowest and conditions on the most tokens.

    Raises:
        BadInput: the prompt is empty, longer than the context, or has a token id outside the vocabulary.
    """
    context, vocab_size = model.context, model.vocab_size
    slide = max(1, context // 2) if slide is None else slide
    length = prompt.shape[1]
    if not prompt.numel():
        raise BadInput("the prompt is empty: give at least one token")
    if length > context:
        raise BadInput(f"the prompt has {length} tokens, the model's context {context}: shorten it")
    low, high = int(prompt.min()), int(prompt.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise BadInput(f"token id {wrong} is outside of the vocabulary, 0 to {vocab_size - 1}")
    if max_new_tokens < 0:
        raise BadInput(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    if not 1 <= slide <= context:
        raise BadInput(f"slide must be 1 to the context, {context}, not {slide}")
    if not greedy:  # refuse bad values before anything is computed
        filter_logits(torch.zeros(1, 1), temperature=temperature, top_k=top_k, top_p=top_p)

    is_plain = temperature == 1 and top_k is None and top_p is None

    def choose(logits: Tensor) -> Tensor:
        if greedy:
            return logits.argmax(-1)
        if not is_plain:
            logits = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        return sample_token(logits, generator)

    with eval_mode(model), torch.inference_mode(), column_major_weights(model, len(prompt)):
        out = _continue(model, prompt, max_new_tokens, choose, eos, use_cache, slide)
    return out.clone()  # outside inference mode: a tensor that autograd accepts


def _continue(
    model: Any,
    prompt: Tensor,
    max_new_tokens: int,
    choose: Callable[[Tensor], Tensor],
    eos: int | None,
    use_cache: bool,
    slide: int,
) -> Tensor:
    batch, length = prompt.shape
    tokens = prompt.new_empty(batch, length + max_new_tokens)  # (B, T)
    tokens[:, :length] = prompt
    is_done = torch.zeros(batch, dtype=torch.bool, device=prompt.device)
    # the context begins at `first`; what is before `start` is in the cache already
    cache, first, start = (model.make_cache() if use_cache else None), 0, 0
    for position in range(length, length + max_new_tokens):
        if position - first > model.context:
            first, start = first + slide, first + slide
            cache = model.make_cache() if use_cache else None
        logits = model(tokens[:, start:position], cache=cache, last_only=True)[:, 0]  # (B, V)
        start = position if use_cache else first
        tokens[:, position] = choose(logits)
        if eos is not None:
            tokens[is_done, position] = eos
            is_done |= tokens[:, position] == eos
            if bool(is_done.all()):
                tokens[:, position + 1 :] = eos
                break
    return tokens
