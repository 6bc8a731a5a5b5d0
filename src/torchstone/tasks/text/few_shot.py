"""Few-shot evaluation of causal language models: examples stand in the context, no weight is changed.

    score(y) = log p(y | x₁ y₁ … x_k y_k x) = Σ_t log p(y_t | x₁ y₁ … x_k y_k x, y_<t)
    ŷ = argmax_y score(y)

The labels' words y are compared by their likelihood (Brown et al. 2020, arXiv:2005.14165, section 2.4), in
three ways, none of which takes another labelled example:

- `accuracy`: by the sum over the word's tokens (`acc` of the Language Model Evaluation Harness)
- `normalized_accuracy`: by the sum over the number of the word's characters, so that short words are not
  preferred (its `acc_norm`)
- `calibrated_accuracy`: by the score minus that of the same word after an empty text in the same context
  (contextual calibration, Zhao et al. 2021, arXiv:2102.09690: W = diag(p)⁻¹, b = 0)

A draw is a choice of examples in an order, uniform and without regard to their labels. In a draw the examples
of k shots are the first k of those of more. Metrics are means over draws, and standard deviations.

The format is that of `predict --examples`: text, line break, label, empty line. Of the episodes of
`data/synthetic/in_context.py`, each of which has examples of its own, it is theirs.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data import identity
from torchstone.data.synthetic import in_context
from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledDataset, LabeledTexts, read_labeled
from torchstone.errors import BadInput
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import SeedStream, derive_generator

DRAWS, MAX_EXAMPLES = 5, 200  # choices of examples, and texts that each is asked about
MAX_LOGITS = 2**23  # computed at a time

Tokens = Int64[Tensor, " _"]  # each has a length of its own


class Questions(NamedTuple):
    """What a model is asked in one draw with so many shots: the label of each text."""

    prompts: list[Tokens]  # examples and text
    answers: list[int]  # the label of each, by its index
    empty_prompt: Tokens | None  # the same examples and an empty text, for calibration


@torch.no_grad()
def label_log_likelihoods(
    model: Any, prompts: Sequence[Tokens], labels: Sequence[Tokens], *, max_logits: int = MAX_LOGITS
) -> Float64[Tensor, "prompts labels"]:
    """log p(label | prompt) in nats, the sum over the label's tokens.

    Sequences of similar lengths share a batch. They are padded at their ends, which no causal model looks at.
    Labels that differ in their last token alone, such as those of one token, share a forward pass.

    Args:
        model: (tokens) -> logits (batch, time, vocab), with `vocab_size`.
        max_logits: largest number of logits that are computed at a time.
    """
    device = next(model.parameters()).device
    prefixes = {tuple(label[:-1].tolist()): label[:-1] for label in labels}
    rows = [(number, prefix) for number in range(len(prompts)) for prefix in prefixes]
    rows.sort(key=lambda row: len(prompts[row[0]]) + len(row[1]))
    scores = torch.empty(len(prompts), len(labels), dtype=torch.float64)
    with eval_mode(model):
        for batch in _batches(rows, prompts, max_logits // model.vocab_size):
            tokens = [torch.cat([prompts[number], prefixes[prefix]]) for number, prefix in batch]
            padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (B, T)
            logits = model(padded.to(device))  # (B, T, V)
            for row, (number, prefix) in enumerate(batch):
                first = len(prompts[number]) - 1  # what the prompt's last token predicts is the label's first
                positions = slice(first, first + len(prefix) + 1)
                log_p = logits[row, positions].double().log_softmax(-1).cpu()  # (label's tokens, V)
                for index, label in enumerate(labels):
                    if tuple(label[:-1].tolist()) == prefix:
                        scores[number, index] = log_p.gather(1, label[:, None]).sum()
    return scores


def _batches(rows: list[Any], prompts: Sequence[Tokens], most: int) -> Iterator[list[Any]]:
    """Consecutive rows, which grow longer, as many as have at most `most` tokens after padding."""
    batch: list[Any] = []
    for row in rows:
        if batch and (len(batch) + 1) * (len(prompts[row[0]]) + len(row[1])) > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def few_shot(
    model: Any,
    metadata: dict,
    spec: str,
    *,
    shots: Sequence[int],
    label_words: Sequence[str] | None = None,
    draws: int = DRAWS,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy with so many examples in the context, `accuracy/K`, and its deviation over draws.

    Args:
        spec: `in_context` or `in_context:SYMBOLS`, else labelled text as `read_labeled` takes it: examples
            are of its training split, texts asked about of its test split.
        shots: numbers of examples, rising.
        label_words: what stands for each label, in the order of the classes; by default their names.
        draws: number of choices of examples.
        max_examples: texts asked about in a draw, evenly spaced over the test split.

    Raises:
        BadInput: shots that are negative or do not rise; a context that is too short; words that do not
            fit the labels; no text that the model's vocabulary can write.
    """
    _check_counts(shots, draws, max_examples)
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    if in_context.is_in_context(spec):
        if label_words is not None:
            raise BadInput("the labels of these episodes are digits: leave out label_words")
        symbols = in_context.symbols_per_episode(spec)
        identity.record(spec)
        words: Sequence[str] = in_context.LABELS
        labels = [tokenizers.encode(tokenizer, word) for word in words]
        ask = episodes(tokenizer, symbols, max(shots), max_examples, seed)
        metrics = {f"optimal_accuracy/{k}": in_context.optimal_accuracy(k, symbols) for k in shots}
    else:
        dataset = read_labeled(spec)
        words = _words(dataset, label_words)
        labels = [tokenizers.encode(tokenizer, word) for word in words]  # refused before examples are
        ask = labeled_texts(tokenizer, dataset, words, max(shots), max_examples, seed)
        answers = torch.tensor(ask(0, 0).answers)
        left_out = min(max_examples, len(dataset.test)) - len(answers)
        metrics = {"majority_accuracy": answers.bincount().max().item() / len(answers), "left_out": left_out}
    longest = max(map(len, labels)) - 1  # a label's last token is predicted, not read
    for k in shots:
        _check_context(model.context, [ask(draw, k) for draw in range(draws if k else 1)], longest, k)
    characters = torch.tensor([len(word) for word in words])
    for k in shots:
        accuracies: list[dict[str, float]] = []
        for draw in range(draws):
            if k or not draw or in_context.is_in_context(spec):  # without examples all draws are the same
                accuracies.append(_accuracies(model, ask(draw, k), labels, characters))
        for name in accuracies[0]:
            values = [each[name] for each in accuracies]
            metrics[f"{name}/{k}"] = statistics.mean(values)
            metrics[f"{name}_std/{k}"] = statistics.stdev(values) if len(values) > 1 else 0.0
    texts = len(ask(0, 0).answers)
    return {**metrics, "chance": 1 / len(words), "texts": texts, "draws": draws}


def _accuracies(
    model: Any, questions: Questions, labels: Sequence[Tokens], characters: Int64[Tensor, " labels"]
) -> dict[str, float]:
    """The share of right answers in one draw, for each way of comparing labels."""
    empty = [] if questions.empty_prompt is None else [questions.empty_prompt]
    scores = label_log_likelihoods(model, [*questions.prompts, *empty], labels)
    answers = torch.tensor(questions.answers)

    def accuracy(compared: Float[Tensor, "prompts labels"]) -> float:
        return (compared.argmax(1) == answers).double().mean().item()

    if not empty:
        return {"accuracy": accuracy(scores)}
    scores, without_text = scores[:-1], scores[-1]
    return {
        "accuracy": accuracy(scores),
        "normalized_accuracy": accuracy(scores / characters),
        "calibrated_accuracy": accuracy(scores - without_text),
    }


def _check_counts(shots: Sequence[int], draws: int, max_examples: int) -> None:
    rise = all(a < b for a, b in itertools.pairwise(shots))
    if not shots or min(shots) < 0 or not rise:
        wrong = ",".join(map(str, shots)) or "none"
        raise BadInput(f"shots are whole numbers from 0 on that rise, such as 0,1,4,16, not {wrong}")
    for name, value, least in (("draws", draws, 2), ("max_examples", max_examples, 1)):
        if value < least:
            raise BadInput(f"{name} must be at least {least}, not {value}")


def _check_context(context: int, asked_about: list[Questions], longest: int, shots: int) -> None:
    """Refuse what does not fit before anything is computed: a cut context would lack examples."""
    tokens = max(len(prompt) for each in asked_about for prompt in each.prompts) + longest
    if tokens > context:
        what = f"{shots} examples, a text and its label" if shots else "a text and its label"
        advice = "fewer shots, or a" if shots else "shorter texts, or a"
        raise BadInput(
            f"{what} take up to {tokens} tokens, but the context holds {context}: give {advice} model with a "
            "longer context"
        )


def episodes(
    tokenizer: Tokenizer, symbols: int, most_shots: int, count: int, seed: int
) -> Callable[[int, int], Questions]:
    """(draw, shots) -> `count` episodes of a draw: their first examples, and the symbol asked for."""

    def ask(draw: int, shots: int) -> Questions:
        generator = derive_generator(seed, SeedStream.FEW_SHOT_EXAMPLES, draw)
        batch = in_context.draw_episodes(count, most_shots + 1, symbols=symbols, generator=generator)
        texts = [text[: 2 * shots] + text[-2] for text in batch.texts()]
        prompts = [tokenizers.encode(tokenizer, text) for text in texts]
        return Questions(prompts, batch.labels[:, -1].tolist(), None)

    return ask


def labeled_texts(
    tokenizer: Tokenizer,
    dataset: LabeledDataset,
    words: Sequence[str],
    most_shots: int,
    count: int,
    seed: int,
) -> Callable[[int, int], Questions]:
    """(draw, shots) -> texts of the test split, each after the same examples of the training split.

    Texts with a character that the model does not know are left out, examples too.
    """
    chosen = dataset.test.select(evenly_spaced(len(dataset.test), count).tolist())
    encoded = [_encode_known(tokenizer, _text(chosen, i) + "\n") for i in range(len(chosen))]
    known = [(tokens, chosen.labels[i]) for i, tokens in enumerate(encoded) if tokens is not None]
    if not known:
        raise BadInput(f"each text of {dataset.name} has characters that the model does not know")
    texts, answers = zip(*known, strict=True)

    def draw_examples(draw: int) -> list[Tokens]:
        generator = derive_generator(seed, SeedStream.FEW_SHOT_EXAMPLES, draw)
        examples: list[Tokens] = []
        for index in torch.randperm(len(dataset.train), generator=generator).tolist():
            if len(examples) == most_shots:
                break
            text, word = _text(dataset.train, index), words[dataset.train.labels[index]]
            if (tokens := _encode_known(tokenizer, f"{text}\n{word}\n\n")) is not None:
                examples.append(tokens)
        if len(examples) < most_shots:
            raise BadInput(
                f"{most_shots} shots, but the training split of {dataset.name} has {len(examples)} examples "
                "that the model can read"
            )
        return examples

    memory: dict[int, list[Tokens]] = {}

    def ask(draw: int, shots: int) -> Questions:
        if draw not in memory:
            memory[draw] = draw_examples(draw)
        examples, nothing = memory[draw][:shots], tokenizers.encode(tokenizer, "\n")
        prompts = [torch.cat([*examples, text]) for text in texts]
        return Questions(prompts, list(answers), torch.cat([*examples, nothing]))

    return ask


def _encode_known(tokenizer: Tokenizer, text: str) -> Tokens | None:
    """The tokens of a text; None where the vocabulary lacks one of its characters."""
    try:
        return tokenizers.encode(tokenizer, text)
    except BadInput:
        return None


def _text(texts: LabeledTexts, index: int) -> str:
    """A text, or a pair of them on two lines."""
    second = [] if texts.second is None else [texts.second[index]]
    return "\n".join([texts.first[index], *second])


def _words(dataset: LabeledDataset, label_words: Sequence[str] | None) -> Sequence[str]:
    """The words for the classes.

    Raises:
        BadInput: their number is another, two are the same or one is empty; words have labels, not texts.
    """
    if dataset.has_word_labels:
        raise BadInput(f"{dataset.name} labels each word of a text: give texts with one label each")
    if label_words is None:
        return dataset.classes
    if len(label_words) != len(dataset.classes) or len({*label_words}) < len(label_words):
        raise BadInput(
            f"{dataset.name} has the labels {', '.join(dataset.classes)}: give {len(dataset.classes)} "
            f"different words for them, in this order, not {', '.join(label_words)}"
        )
    if not all(label_words):
        raise BadInput("a label's word is empty: give one for each label")
    return label_words
