"""Language modelling: from a model that tells the next token, a recipe and a text to a Run, and its use."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.corpus import Text, read_text
from torchstone.data.text.lm_batches import LMBatches
from torchstone.data.text.parallel_files import read_columns
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.transformer.token_loss import unigram_loss
from torchstone.tasks.optimization import decay_matrices_only, gradient_update
from torchstone.tasks.text.generate import generate

TRAINABLE = ("characters", "bpe")
VAL_TOKENS = 2**14  # tokens of the validation split that are looked at before the last step
MAX_LOGITS = 2**24  # numbers at most that are made at a time when a text is measured


def make_tokenizer(recipe: Any, text: Text) -> Tokenizer:
    """The tokenizer that a recipe names: learnt from the text, or a published one.

    Characters are all those of the text, its held-out parts too, as there is nothing else to write
    them with; pieces of words are learnt from the part for training alone.
    """
    kind = recipe.tokenizer
    if kind in TRAINABLE:
        parts = [text.train, text.val, text.test] if kind == "characters" else [text.train]
        return tokenizers.train(kind, parts, vocab_size=recipe.vocab_size)
    if not Path(kind).exists():
        raise BadInput(f"no tokenizer {kind!r}: {', '.join(TRAINABLE)}, or a published tokenizer.json")
    return tokenizers.load(kind)


def train_language_model(
    model: Any, recipe: Any, text: Text, tokenizer: Tokenizer, *, model_config: dict[str, Any]
) -> Run:
    """A Run that trains `model` to tell the next token of `text`.

    The recipe states variant, batch (windows of the model's context), steps, seed, optimiser, lr,
    momentum, weight_decay, schedule, warmup, clip, accumulate, precision, compile. `loss` is the
    cross-entropy a token in nats (`measure`). After the last step it is that of every token of the
    validation and test splits; on the way there, of `GLANCE` validation tokens, always the same.

    Args:
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
    """
    device = next(model.parameters()).device
    train, val, test = (
        tokenizers.encode(tokenizer, part).to(device) if part else None
        for part in (text.train, text.val, text.test)
    )
    assert train is not None  # a text without it is none
    # `unigram` is the loss of telling the judged text's tokens by their frequency
    last = val if test is None else test
    assert last is not None

    def loss(net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(net(x).flatten(0, 1), y.flatten())

    groups = decay_matrices_only(model, recipe.optim)
    update, state, _ = gradient_update(model, recipe.optim, loss, steps=recipe.steps, parameters=groups)
    stream = LMBatches(
        train,
        model.context,
        recipe.batch_size,
        seed=recipe.seed,
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )

    def judge(ids: Tensor | None, part: str, max_tokens: int | None = None) -> dict[str, float]:
        return {} if ids is None else measure(model, ids, len(part), max_tokens=max_tokens)

    def validate() -> dict[str, float]:
        ended = stream.position >= recipe.steps * recipe.batch_size
        return judge(val, text.val, None if ended else VAL_TOKENS)

    return Run(
        stream=stream,
        update=update,
        evaluate=validate,
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=lambda: judge(test, text.test) | {"unigram": unigram_loss(train, last, model.vocab_size)},
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
    """Mean loss over every token of a text but its first, and bits a character.

    The text is read in windows of the model's context, one after another: nothing is drawn, so the
    same text always gives the same number, and a window's first tokens are told from few others.
    With `most`, about so many tokens are read, in windows spread evenly over the text.
    """
    if len(ids) < 2:
        raise BadInput(f"a text of {len(ids)} tokens cannot be measured: at least 2 are needed")
    was_training, context = model.training, model.context
    model.eval()
    count = len(ids) - 1
    pairs, whole = (ids[:-1], ids[1:]), count // context * context
    x, y = (each[:whole].view(-1, context) for each in pairs)
    if max_tokens is not None and max_tokens < whole:
        rows = torch.linspace(0, len(x) - 1, max(1, max_tokens // context), dtype=torch.float64)
        x, y = (each[rows.round().long().to(ids.device)] for each in (x, y))
        whole = count  # nothing is left over
    rows = max(1, MAX_LOGITS // (context * model.vocab_size))
    parts = list(zip(x.split(rows), y.split(rows), strict=True)) if len(x) else []
    if whole < count:
        parts.append((pairs[0][None, whole:], pairs[1][None, whole:]))
    total, seen = 0.0, sum(y.numel() for _, y in parts)
    for x, y in parts:
        logits = model(x).flatten(0, 1).float()
        total += F.cross_entropy(logits, y.flatten(), reduction="sum").item()
    model.train(was_training)
    loss = total / seen
    return {"loss": loss, "bits_per_character": loss / math.log(2) * len(ids) / characters}


def report(model: nn.Module, tokenizer: Tokenizer, text: Text, folder: Path) -> None:
    """The tokenizer as a file, and what the model writes."""
    tokenizers.save_tokenizer(tokenizers.to_metadata(tokenizer), folder)
    drawn = generate_texts(model, tokenizer, text.train[:1], count=1, seed=0, length=500)
    (folder / "sample.txt").write_text(drawn[0] + "\n", encoding="utf-8")


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool, measure: Any = measure) -> dict:
    """Loss and perplexity a token, and bits and perplexity a character, of a text: of its test split
    (or its validation split, if it has no other) where `held_out`, else of all of it."""
    text = read_text(spec)
    part = (text.test or text.val) if held_out else text.train + text.val + text.test
    ids = tokenizers.encode(tokenizers.from_metadata(metadata["tokenizer"]), part)
    measured = measure(model, ids.to(next(model.parameters()).device), len(part))
    return {
        **measured,
        "perplexity": math.exp(measured["loss"]),
        "perplexity_per_character": 2 ** measured["bits_per_character"],
        "tokens": len(ids),
        "characters": len(part),
    }


def generate_texts(
    model: Any, tokenizer: Tokenizer, prompt: str, *, count: int, seed: int, length: int, **how: Any
) -> list[str]:
    """`count` texts that begin with `prompt` and go on for `length` tokens."""
    device = next(model.parameters()).device
    ids = tokenizers.encode(tokenizer, prompt).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    rows = generate(model, ids.expand(count, -1), length, generator=generator, **how)
    return [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in rows]


def sample(
    model: nn.Module, metadata: dict, *, prompt: str | None = None, count: int = 1, seed: int = 0,
    length: int = 500, **how: Any,
) -> list[str]:  # fmt: skip
    """Texts that the model writes; without a `prompt` they begin on a new line."""
    if count < 1:
        raise BadInput(f"give a number of texts of at least 1, not {count}")
    if unknown := how.keys() - {"temperature", "top_k", "top_p", "greedy"}:
        raise BadInput(f"texts are sampled without {min(unknown)!r}")
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    prompt = "\n" if prompt is None else prompt
    return generate_texts(model, tokenizer, prompt, count=count, seed=seed, length=length, **how)


def predict(
    model: nn.Module,
    metadata: dict,
    inputs: Sequence[str],
    *,
    examples: str | Path | None = None,
    length: int = 100,
) -> list[dict]:
    """The likeliest continuation of each text, token by token.

    With `examples`, a file of tab-separated inputs and outputs, these are put before each text, and
    the answer is the line that follows: learning in context (Brown et al. 2020, section 2).

    Raises:
        BadInput: the text, its examples included, is longer than the context.
    """
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    shown = ""
    if examples is not None:
        pairs, _ = read_columns(Path(examples), "", "")
        shown = "".join(f"{question}\n{answer}\n\n" for question, answer in pairs)
    answers = []
    for text in map(str, inputs):
        prompt = f"{shown}{text}\n" if shown else text
        (whole,) = generate_texts(model, tokenizer, prompt, count=1, seed=0, length=length, greedy=True)
        said = whole[len(prompt) :] if whole.startswith(prompt) else whole
        answer = {"input": text, "text": said.split("\n")[0] if shown else text + said}
        answers.append(answer)
    return answers
