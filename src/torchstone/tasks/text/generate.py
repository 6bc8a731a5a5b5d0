"""Text, token after token, from a model that tells the next one."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.parts.decoding.sampling import filter_logits, sample_token
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
    """The prompt and what follows it, each token drawn from what the model says of all before it.

    Where a text outgrows the context, its oldest `slide` tokens go, and the rest is read again at its
    new places: every token follows on at least `context - slide` tokens. The cache of keys and values
    changes nothing but the time.

    Args:
        model: (tokens, past=, last=True) -> logits (batch, 1, vocabulary), with `context`,
            `vocabulary` and `past()`, which makes an empty cache.
        greedy: take the likeliest token instead of drawing one; of equals the first.
        temperature, top_k, top_p: see `parts.sampling.shaped`.
        end: a token that ends a text; it is repeated until all texts have ended.
        generator: what is drawn from, on the model's device; the global one if there is none.
        cached: False computes everything anew for every token.
        slide: by default half the context; 1 is slowest and sees most.

    Raises:
        BadInput: the prompt is empty, longer than the context, or has an id outside of the vocabulary.
    """
    context, vocabulary = model.context, model.vocab_size
    slide = max(1, context // 2) if slide is None else slide
    length = prompt.shape[1]
    if not prompt.numel():
        raise BadInput("the prompt is empty: give at least one token")
    if length > context:
        raise BadInput(f"the prompt has {length} tokens, the model's context {context}: shorten it")
    low, high = int(prompt.min()), int(prompt.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise BadInput(f"token id {wrong} is outside of the vocabulary, 0 to {vocabulary - 1}")
    if max_new_tokens < 0:
        raise BadInput(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    if not 1 <= slide <= context:
        raise BadInput(f"slide must be 1 to the context, {context}, not {slide}")
    if not greedy:  # refuses what it does not take before anything is computed
        filter_logits(torch.zeros(1, 1), temperature=temperature, top_k=top_k, top_p=top_p)

    plain = temperature == 1 and top_k is None and top_p is None

    def choose(logits: Tensor) -> Tensor:
        if greedy:
            return logits.argmax(-1)
        if not plain:
            logits = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        return sample_token(logits, generator)

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), column_major_weights(model, len(prompt)):
            out = _follow(model, prompt, max_new_tokens, choose, eos, use_cache, slide)
    finally:
        model.train(was_training)
    return out.clone()  # outside of inference mode: a tensor like any other


def _follow(
    model: Any,
    prompt: Tensor,
    new: int,
    choose: Callable[[Tensor], Tensor],
    end: int | None,
    cached: bool,
    slide: int,
) -> Tensor:
    batch, length = prompt.shape
    tokens = prompt.new_empty(batch, length + new)
    tokens[:, :length] = prompt
    ended = torch.zeros(batch, dtype=torch.bool, device=prompt.device)
    past, first, read = (model.make_cache() if cached else None), 0, 0
    for place in range(length, length + new):
        if place - first > model.context:
            first, read = first + slide, first + slide
            past = model.make_cache() if cached else None
        logits = model(tokens[:, read:place], cache=past, last_only=True)[:, 0]
        read = place if cached else first
        tokens[:, place] = choose(logits)
        if end is not None:
            tokens[ended, place] = end
            ended |= tokens[:, place] == end
            if bool(ended.all()):
                tokens[:, place + 1 :] = end
                break
    return tokens
