"""Language modelling: training a next-token model on a text, evaluation, sampling and prediction."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.synthetic.in_context import is_in_context
from torchstone.data.text import tokenizers
from torchstone.data.text.corpus import Text, read_text
from torchstone.data.text.lm_batches import LMBatches
from torchstone.data.text.parallel_files import read_columns
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.parts.transformer.token_loss import unigram_loss
from torchstone.tasks.inference import refuse_file_names
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text import in_context
from torchstone.tasks.text.generate import generate

TRAINABLE = ("characters", "bpe")
VAL_TOKENS = 2**14  # tokens of the validation split that are read before the last step
MAX_LOGITS = 2**24  # logits computed at a time when a text is measured


def make_tokenizer(recipe: Any, text: Text) -> Tokenizer:
    """The tokenizer that a recipe names: trained on the text, or a published one.

    A character vocabulary holds all characters of the text, its held-out parts included, since no others can
    be encoded. Subwords are learned from the training part alone.
    """
    kind = recipe.tokenizer
    if kind in TRAINABLE:
        parts = [text.train, text.val, text.test] if kind == "characters" else [text.train]
        return tokenizers.train(kind, parts, vocab_size=recipe.vocab_size)
    if not Path(kind).exists():
        raise BadInput(f"no tokenizer {kind!r}: {', '.join(TRAINABLE)}, or a published tokenizer.json")
    return tokenizers.load(kind)


def train_language_model(
    model: Any,
    recipe: Any,
    text: Text,
    tokenizer: Tokenizer,
    *,
    loss: Callable[[Any, tuple[Tensor, Tensor]], Tensor],
    parameters: list[dict[str, Any]],
    model_config: dict[str, Any],
) -> Run:
    """A Run that trains `model` to predict the next token of `text`.

    The recipe states variant, batch_size (windows of the model's context), steps, seed and `optim`.
    The metric `loss` is the cross-entropy per token in nats (`measure`). After the last step it is that
    of every token of the validation and test splits; before, of `VAL_TOKENS` validation tokens, always
    the same. `unigram` is the loss of the token frequencies.

    Args:
        loss: (network, (tokens, next tokens)) -> mean cross-entropy.
        parameters: groups for the optimizer.
        model_config: constructor arguments of `model`, saved with the weights.
    """
    device = next(model.parameters()).device
    train, val, test = (
        tokenizers.encode(tokenizer, part).to(device) if part else None
        for part in (text.train, text.val, text.test)
    )
    assert train is not None  # a text without a training part is refused before
    # `unigram` is measured on the test split, or on the validation split where there is no other
    held_out = val if test is None else test
    assert held_out is not None
    update, state, _ = gradient_update(model, recipe.optim, loss, steps=recipe.steps, parameters=parameters)
    stream = LMBatches(train, model.context, recipe.batch_size, seed=recipe.seed, **parallel.share())

    def measure_part(ids: Tensor | None, part: str, max_tokens: int | None = None) -> dict[str, float]:
        return {} if ids is None else measure(model, ids, len(part), max_tokens=max_tokens)

    def evaluate_test() -> dict[str, float]:
        return measure_part(test, text.test) | {"unigram": unigram_loss(train, held_out, model.vocab_size)}

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure_part(val, text.val, VAL_TOKENS),
        evaluate_all=lambda: measure_part(val, text.val),
        best_metric="loss",
        examples=Examples(
            recipe.batch_size * model.context,
            len(train),
            None if val is None else min(VAL_TOKENS, len(val)),
            "tokens",
        ),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=evaluate_test,
        report=lambda folder: report(model, tokenizer, text, folder),
        metadata={
            "task": "language",
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(tokenizer),
            "data": text.description,
        },
    )


@torch.no_grad()
def measure(
    model: Any, ids: Int64[Tensor, " tokens"], characters: int, *, max_tokens: int | None = None
) -> dict[str, float]:
    """Mean loss over every token of a text but its first, and bits per character.

    The text is read in consecutive windows of the model's context: nothing is random, so the same text
    always gives the same number. The first tokens of a window are predicted from few others. With
    `max_tokens`, about so many tokens are read, in windows evenly spaced over the text.

    Args:
        characters: number of characters of the text.

    Raises:
        BadInput: a text of one token.
    """
    if len(ids) < 2:
        raise BadInput(f"a text of {len(ids)} tokens cannot be measured: at least 2 are needed")
    context, count = model.context, len(ids) - 1
    inputs, targets = ids[:-1], ids[1:]
    full = count // context * context  # tokens in full windows
    x, y = inputs[:full].view(-1, context), targets[:full].view(-1, context)  # (windows, T)
    if max_tokens is not None and max_tokens < full:
        rows = evenly_spaced(len(x), max(1, max_tokens // context)).to(ids.device)
        x, y = x[rows], y[rows]
        full = count  # the rest is not read
    rows_at_once = max(1, MAX_LOGITS // (context * model.vocab_size))
    parts = list(zip(x.split(rows_at_once), y.split(rows_at_once), strict=True)) if len(x) else []
    if full < count:
        parts.append((inputs[None, full:], targets[None, full:]))
    total, tokens = 0.0, sum(y.numel() for _, y in parts)
    with eval_mode(model):
        for x, y in parts:
            logits = model(x).flatten(0, 1).float()
            total += F.cross_entropy(logits, y.flatten(), reduction="sum").item()
    loss = total / tokens
    return {"loss": loss, "bits_per_character": loss / math.log(2) * len(ids) / characters}


def report(model: nn.Module, tokenizer: Tokenizer, text: Text, folder: Path) -> None:
    """Save the tokenizer, and a sample of the model's text."""
    tokenizers.save_tokenizer(tokenizers.to_metadata(tokenizer), folder)
    (sampled,) = generate_texts(model, tokenizer, text.train[:1], count=1, seed=0, length=500)
    (folder / "sample.txt").write_text(sampled + "\n", encoding="utf-8")


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool, measure: Any = measure) -> dict:
    """Loss and perplexity per token, and bits and perplexity per character, of a text: of its test split
    (or its validation split, if it has no other) where `held_out`, else of all of it."""
    if is_in_context(spec):
        return in_context.evaluate(model, metadata, spec, held_out=held_out)
    text = read_text(spec)
    part = (text.test or text.val) if held_out else text.train + text.val + text.test
    ids = tokenizers.encode(tokenizers.from_metadata(metadata["tokenizer"]), part)
    metrics = measure(model, ids.to(next(model.parameters()).device), len(part))
    return {
        **metrics,
        "perplexity": math.exp(metrics["loss"]),
        "perplexity_per_character": 2 ** metrics["bits_per_character"],
        "tokens": len(ids),
        "characters": len(part),
    }


def generate_texts(
    model: Any, tokenizer: Tokenizer, prompt: str, *, count: int, seed: int, length: int, **sampling: Any
) -> list[str]:
    """`count` texts: the prompt, and `length` new tokens."""
    device = next(model.parameters()).device
    ids = tokenizers.encode(tokenizer, prompt).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    rows = generate(model, ids.expand(count, -1), length, generator=generator, **sampling)
    return [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in rows]


def sample(
    model: nn.Module,
    metadata: dict,
    *,
    prompt: str | None = None,
    num_samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = 500,
    **sampling: Any,
) -> list[str]:
    """Texts that the model generates; without a `prompt` they begin on a new line (episodes: with a symbol).

    Args:
        sampling: `temperature`, `top_k`, `top_p` or `greedy`.
    """
    if num_samples < 1:
        raise BadInput(f"give a number of texts of at least 1, not {num_samples}")
    if unknown := sampling.keys() - {"temperature", "top_k", "top_p", "greedy"}:
        raise BadInput(f"texts are sampled without {min(unknown)!r}")
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    prompt = metadata.get("prompt", "\n") if prompt is None else prompt
    return generate_texts(
        model, tokenizer, prompt, count=num_samples, seed=seed, length=max_new_tokens, **sampling
    )


def predict(
    model: nn.Module,
    metadata: dict,
    inputs: Sequence[str],
    *,
    examples: str | Path | None = None,
    max_new_tokens: int = 100,
) -> list[dict]:
    """The greedy continuation of each text.

    With `examples`, a file of tab-separated inputs and outputs, these are put before each text, and the
    answer is the line that follows: in-context learning (Brown et al. 2020, section 2).

    Raises:
        BadInput: the text, its examples included, is longer than the context.
    """
    refuse_file_names(map(str, inputs))
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    shots = ""
    if examples is not None:
        pairs, _ = read_columns(Path(examples), "", "")
        shots = "".join(f"{question}\n{answer}\n\n" for question, answer in pairs)
    answers = []
    for text in map(str, inputs):
        prompt = f"{shots}{text}\n" if shots else text
        (full,) = generate_texts(
            model, tokenizer, prompt, count=1, seed=0, length=max_new_tokens, greedy=True
        )
        continuation = full[len(prompt) :] if full.startswith(prompt) else full
        answer = continuation.split("\n")[0] if shots else text + continuation
        answers.append({"input": text, "text": answer})
    return answers
