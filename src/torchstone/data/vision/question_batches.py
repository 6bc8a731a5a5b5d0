"""Conversations about images, as tokens: what a vision-language model is trained on.

An image's N tokens stand before the first question; each question and its answer follow as
`[USER] what is it ? [ASSISTANT] a flag [END]`. Only an answer and its end are predicted in training.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.data.vision.captioned import PAD, UNKNOWN, split_words, word_tokenizer
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.questions import Question, QuestionSplit
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.seeding import SeedStream, derive_generator

IMAGE, USER, ASSISTANT, END = "[IMAGE]", "[USER]", "[ASSISTANT]", "[END]"
SPECIAL_TOKENS = (PAD, UNKNOWN, IMAGE, USER, ASSISTANT, END)
PAD_ID, _, IMAGE_ID, USER_ID, ASSISTANT_ID, END_ID = range(len(SPECIAL_TOKENS))


class QuestionBatch(NamedTuple):
    """One batch: images, the tokens of a conversation about each, and at every position the next token if
    it is of an answer, else padding, 0."""

    images: Float[Tensor, "batch channel height width"]
    tokens: Int64[Tensor, "batch time"]
    targets: Int64[Tensor, "batch time"]


class Conversations:
    """Questions and answers to tokens.

    Args:
        image_tokens: N, tokens that stand for an image.
    """

    def __init__(self, tokenizer: Tokenizer, image_tokens: int):
        self.tokenizer, self.image_tokens = tokenizer, image_tokens

    def prompt(self, question: str) -> list[int]:
        """The tokens before the answer to a question, those of the image left out."""
        return [USER_ID, *self.tokenizer.encode(question).ids, ASSISTANT_ID]

    def turn(self, question: Question) -> tuple[list[int], list[int]]:
        """Tokens of question and answer, and the target at each: none at the last."""
        prompt, answer = self.prompt(question.question), [*self.tokenizer.encode(question.answer).ids, END_ID]
        return [*prompt, *answer], [*[PAD_ID] * (len(prompt) - 1), *answer, PAD_ID]

    def batch(self, rows: Iterable[Sequence[tuple[list[int], list[int]]]]) -> tuple[Tensor, Tensor]:
        """Tokens and targets, (rows, time), of turns about one image each, padded to the longest."""
        image = [IMAGE_ID] * self.image_tokens
        lines = [[list(chain.from_iterable(part)) for part in zip(*turns, strict=True)] for turns in rows]
        # what follows the last token is predicted by none
        longest = max(len(tokens) for tokens, _ in lines) - 1
        tokens = torch.full((len(lines), self.image_tokens + longest), PAD_ID)
        targets = torch.full_like(tokens, PAD_ID)
        for row, (ids, next_ids) in enumerate(lines):
            end = self.image_tokens + len(ids) - 1
            tokens[row, :end] = torch.tensor([*image, *ids[:-1]])
            targets[row, self.image_tokens : end] = torch.tensor(next_ids[:-1])
        return tokens, targets


def question_tokenizer(questions: Iterable[Question]) -> Tokenizer:
    """Words and punctuation marks of questions and answers, and the tokens of a conversation."""
    texts = [text for each in questions for text in (each.question, each.answer)]
    return word_tokenizer(texts, SPECIAL_TOKENS)


def check_prompt(tokenizer: Tokenizer, prompt: str, most: int) -> None:
    """Refuse a question that the network cannot read.

    Args:
        most: words that it reads.

    Raises:
        BadInput: no words, a word that no question or answer had, or too many.
    """
    words, vocab = split_words(tokenizer, prompt), tokenizer.get_vocab()
    if not words:
        raise BadInput("the question is empty: ask something, such as --prompt 'what is it?'")
    if len(words) > most:
        raise BadInput(
            f"a question has at most {most} words, the context's rest beside the image, not {len(words)}"
        )
    if unknown := [word for word in words if word not in vocab]:
        plain = sorted(set(vocab) - set(SPECIAL_TOKENS))
        raise BadInput(f"no question had the word {unknown[0]!r}: {did_you_mean(unknown[0], plain)}")


class QuestionBatches:
    """Endless `QuestionBatch`es of images, with all questions about each as turns of one conversation.

    The order of the turns is random; it and the images are those of `ImageBatches`, by seed and position.

    Args:
        options: of `ImageBatches`.
    """

    def __init__(
        self,
        split: QuestionSplit,
        batch_size: int,
        conversations: Conversations,
        *,
        seed: int,
        metadata: dict,
        **options,
    ):
        turns: list[list[tuple[list[int], list[int]]]] = [[] for _ in split.pixels]
        for question in split.questions:
            turns[question.image].append(conversations.turn(question))
        self.turns, self.conversations, self.seed = turns, conversations, seed
        self.most = max(map(len, turns))
        rows = torch.arange(len(turns), device=split.pixels.device)
        images = ImageSplit(rows, split.pixels)
        self.batches = ImageBatches(images, batch_size, seed=seed, metadata=metadata, **options)

    def __next__(self) -> QuestionBatch:
        generator = derive_generator(self.seed, SeedStream.QUESTION_ORDER, self.batches.position)
        keys = self.batches.share_noise(torch.rand, generator, self.most).tolist()
        images, rows = next(self.batches)
        ordered = []
        for row, key in zip(rows.tolist(), keys, strict=True):
            turns = self.turns[row]
            ordered.append([turns[i] for i in sorted(range(len(turns)), key=key.__getitem__)])
        tokens, targets = self.conversations.batch(ordered)
        return QuestionBatch(images, tokens.to(images.device), targets.to(images.device))

    __iter__ = itself
    state_dict = inner_state
    load_state_dict = load_inner
