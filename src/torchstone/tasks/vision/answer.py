"""Visual question answering: training as a `Run`, evaluation, and answers about image files."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.text.tokenizers import from_metadata, to_metadata
from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.data.vision.question_batches import (
    END_ID,
    IMAGE_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    Conversations,
    QuestionBatches,
    check_prompt,
)
from torchstone.data.vision.questions import Question, QuestionData, QuestionSplit, load_questions
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.plots.answers import plot_answers
from torchstone.tasks.inference import list_files
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.generate import generate

BLANK = 255  # value of the pixels of a blank image: paper
BATCH = 256  # questions that are evaluated at once
SHOWN = 24  # answers in the picture of the report


def longest_conversation(data: QuestionData, tokenizer: Tokenizer) -> int:
    """Tokens of the longest conversation about an image, those of the image left out."""
    conversations, longest = Conversations(tokenizer, 0), 0
    for split in (data.train, data.val, data.test):
        lengths: Counter[int] = Counter()
        for question in split.questions:
            lengths[question.image] += len(conversations.turn(question)[0])
        longest = max(longest, *lengths.values())
    return longest


def train_to_answer(
    model: Any,
    recipe: Any,
    data: QuestionData,
    tokenizer: Tokenizer,
    loss: Callable[[Any, Any], dict[str, Tensor]],
    *,
    parameters: list[dict[str, Any]],
    model_config: dict[str, Any],
) -> Run:
    """A Run that trains `model` on conversations about images.

    The recipe states variant, batch_size (images), steps, seed, augment and `optim`. The metrics are those of
    `measure`; at the end also those of a blank image, and of the most frequent answer.

    Args:
        model: (images, tokens) -> logits, with `encode` and `read`.
        loss: (network, `QuestionBatch`) -> mean cross-entropy of the answers' tokens.
        parameters: groups for the optimizer.
        model_config: constructor arguments of `model`, saved with the weights.
    """
    conversations = Conversations(tokenizer, model.image_tokens)
    update, state, eval_model = gradient_update(
        model, recipe.optim, loss, steps=recipe.steps, parameters=parameters
    )
    stream = QuestionBatches(
        data.train,
        recipe.batch_size,
        conversations,
        seed=recipe.seed,
        metadata=data.metadata,
        augment=make_augmentation(recipe.augment),
        **parallel.share(),
    )

    def test() -> dict[str, float]:
        metrics = measure(eval_model, data.test, conversations, data.metadata)
        return metrics | {"majority_accuracy": majority_accuracy(data.train, data.test)}

    metadata = {
        "task": "answer",
        "variant": recipe.variant,
        "model_config": model_config,
        "picture": data.metadata,
        "tokenizer": to_metadata(tokenizer),
        "prompt": data.test.questions[0].question,
        "answer_tokens": 1 + max(len(tokenizer.encode(each.answer).ids) for each in data.train.questions),
        "data": data.description,
    }
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure(eval_model, data.val, conversations, data.metadata, with_blank=False),
        best_metric="accuracy",
        examples=Examples(recipe.batch_size, len(data.train.pixels), len(data.val), "images"),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(eval_model, metadata, data.test, folder),
        metadata=metadata,
    )


def measure(
    model: Any, split: QuestionSplit, conversations: Conversations, metadata: dict, *, with_blank: bool = True
) -> dict[str, float]:
    """Share of right answers, in all and for each kind of question, and the loss (nats per token).

    An answer is right if the greedy one has the same tokens. Each question is asked alone.

    Args:
        with_blank: measure the same questions with a blank image too, as `blank_…`.
    """
    is_right, loss = score(model, split, conversations, metadata)
    metrics = {"loss": loss, **shares(split, is_right)}
    if with_blank:
        blank = torch.full_like(split.pixels, BLANK)
        is_right, _ = score(model, QuestionSplit(blank, split.questions), conversations, metadata)
        metrics |= {f"blank_{name}": share for name, share in shares(split, is_right).items()}
    return metrics


def shares(split: QuestionSplit, is_right: Bool[Tensor, " questions"]) -> dict[str, float]:
    """Accuracy in all, and of each kind of question, where they have kinds."""
    of_kind: dict[str, list[bool]] = defaultdict(list)
    for question, right in zip(split.questions, is_right.tolist(), strict=True):
        of_kind[question.kind].append(right)
    found = {"accuracy": float(is_right.double().mean())}
    return found | {f"{kind}_accuracy": sum(rights) / len(rights) for kind, rights in of_kind.items() if kind}


@torch.no_grad()
def score(
    model: Any, split: QuestionSplit, conversations: Conversations, metadata: dict
) -> tuple[Bool[Tensor, " questions"], float]:
    """Whether the greedy answer to each question is right, and the mean loss of the answers' tokens.

    With the right tokens before it, each token of a right answer is the likeliest: no answer is generated.
    """
    device, total, count = split.pixels.device, 0.0, 0
    rights = []
    with eval_mode(model):
        for begin in range(0, len(split), BATCH):
            questions = split.questions[begin : begin + BATCH]
            rows = torch.tensor([each.image for each in questions], device=device)
            shown, index = rows.unique(return_inverse=True)
            patches = model.encode(normalize(split.pixels[shown], metadata))[index]
            tokens, targets = conversations.batch([conversations.turn(each)] for each in questions)
            targets = targets.to(device)
            logits = model.read(tokens.to(device), patches)  # (B, T, V)
            is_answer = targets != PAD_ID
            rights.append(((logits.argmax(2) == targets) | ~is_answer).all(1).cpu())
            flat = logits.flatten(0, 1), targets.flatten()
            total += F.cross_entropy(*flat, ignore_index=PAD_ID, reduction="sum").item()
            count += int(is_answer.sum())
    return torch.cat(rights), total / count


def majority_accuracy(train: QuestionSplit, test: QuestionSplit) -> float:
    """Accuracy of the answer that is most frequent in training to questions of the same kind."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for each in train.questions:
        answers[_kind(each)][each.answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in answers.items()}
    return sum(best.get(_kind(each)) == each.answer for each in test.questions) / len(test)


def _kind(question: Question) -> str:
    return question.kind or question.question


class Reader(nn.Module):
    """A model that has been shown images, for `generate`: (tokens) -> logits."""

    def __init__(self, model: Any, patches: Float[Tensor, "batch patches width"]):
        super().__init__()
        self.model, self.patches = model, patches
        self.context, self.vocab_size = model.context, model.vocab_size

    def make_cache(self) -> list[Any]:
        return self.model.make_cache()

    def forward(
        self, tokens: Tensor, cache: list[Any] | None = None, last_only: bool = False
    ) -> Float[Tensor, "batch positions vocab"]:
        is_begin = not cache or not cache[0].length
        return self.model.read(tokens, self.patches if is_begin else None, cache, last_only)


@torch.no_grad()
def answer(
    model: Any,
    images: Float[Tensor, "batch channel height width"],
    conversations: Conversations,
    question: str,
    most: int,
) -> list[str]:
    """The greedy answer to one question about each image, of at most `most` tokens."""
    prompt = [IMAGE_ID] * conversations.image_tokens + conversations.prompt(question)
    with eval_mode(model):
        reader = Reader(model, model.encode(images))
        tokens = torch.tensor([prompt], device=images.device).expand(len(images), -1)
        rows = generate(reader, tokens, most, greedy=True, eos=END_ID)[:, len(prompt) :]
    texts = []
    for row in rows.tolist():
        ids = [token for token in row[: [*row, END_ID].index(END_ID)] if token >= len(SPECIAL_TOKENS)]
        texts.append(conversations.tokenizer.decode(ids).replace(" ' ", "'"))
    return texts


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Accuracy by kind of question and loss on `spec`, with its images and with blank ones: its test split if
    `held_out`, else all of it."""
    size, device = metadata["picture"]["size"], next(model.parameters()).device
    data = load_questions(spec, size=size, device=device)
    conversations = _conversations(model, metadata)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    metrics = measure(model, join(splits), conversations, metadata["picture"])
    return metrics | {"questions": sum(map(len, splits))}


def join(splits: Sequence[QuestionSplit]) -> QuestionSplit:
    """Several splits as one."""
    questions, first = [], 0
    for split in splits:
        questions += [each._replace(image=each.image + first) for each in split.questions]
        first += len(split.pixels)
    return QuestionSplit(torch.cat([split.pixels for split in splits]), tuple(questions))


def _conversations(model: Any, metadata: dict) -> Conversations:
    return Conversations(from_metadata(metadata["tokenizer"]), model.image_tokens)


def predict(
    model: Any, metadata: dict, inputs: Sequence[Path | str], *, prompt: str | None = None
) -> list[dict]:
    """The answer to a question (`prompt`) about each image file; a folder stands for the images in it.

    Raises:
        BadInput: a file is missing, or is no image; the question has a word that no question had, or is
            longer than the context.
    """
    prompt = metadata["prompt"] if prompt is None else prompt
    conversations, most = _conversations(model, metadata), metadata["answer_tokens"]
    room = model.context - model.image_tokens - 2 - most  # [USER], [ASSISTANT] and the answer
    check_prompt(conversations.tokenizer, prompt, room)
    device, answers = next(model.parameters()).device, []
    for file in list_files(inputs):
        image = normalize(preprocess(file, metadata["picture"]).to(device), metadata["picture"])
        (text,) = answer(model, image, conversations, prompt, most)
        answers.append({"input": str(file), "prompt": prompt, "text": text})
    return answers


def report(model: Any, metadata: dict, split: QuestionSplit, folder: Path) -> None:
    """Answers under held-out images, of each kind of question in turn."""
    conversations, shown = _conversations(model, metadata), list(_in_turn(split.questions))[:SHOWN]
    texts = []
    for each in shown:
        image = normalize(split.pixels[each.image : each.image + 1], metadata["picture"])
        texts += answer(model, image, conversations, each.question, metadata["answer_tokens"])
    images = split.pixels[torch.tensor([each.image for each in shown])].cpu()
    right = [conversations.tokenizer.encode(each.answer).ids for each in shown]
    is_right = [conversations.tokenizer.encode(t).ids == ids for t, ids in zip(texts, right, strict=True)]
    plot_answers(images, [each.question for each in shown], texts, is_right, folder / "answers.png")


def _in_turn(questions: Sequence[Question]) -> Iterator[Question]:
    """Evenly spaced questions of each kind, the kinds in turn."""
    kinds: dict[str, list[Question]] = defaultdict(list)
    for each in questions:
        kinds[each.kind].append(each)
    each_kind = -(-SHOWN // len(kinds))
    chosen = [
        [rows[i] for i in evenly_spaced(len(rows), min(each_kind, len(rows))).tolist()]
        for rows in kinds.values()
    ]
    for number in range(max(map(len, chosen))):
        for rows in chosen:
            if number < len(rows):
                yield rows[number]
