"""Pictures with one caption of each, drawn anew in every batch: what a contrastive model is trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.data.vision.image_texts import ImageTexts
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

KEYWORD_CAPTIONS = 24  # of each picture that has keywords
MAX_KEYWORDS = 3  # of one caption
OLD_END_ID = 2  # of configs that mean the largest id
START, END = "<|startoftext|>", "<|endoftext|>"  # the names of CLIP's tokenizer; the end pads too


class ImageTextBatch(NamedTuple):
    """One batch: images (share, channel, height, width), tokens (share, time), and which picture and which
    text each is, by number (share,): pairs with a number in common belong to each other."""

    images: Float[Tensor, "share channel height width"]
    tokens: Int64[Tensor, "share time"]
    pictures: Int64[Tensor, " share"]
    texts: Int64[Tensor, " share"]


class ImageTextBatches:
    """Endless `ImageTextBatch`es out of `ImageBatches`, whose labels are rows of `data.texts`.

    Captions are drawn for the joint batch from seed and position, on the CPU: neither resuming nor more
    processes nor another device change any.

    Args:
        tokenizer: of captions, which knows `START` and `END`.
        translation_prob: probability of a caption in another language, where there is one.
        keyword_prob: probability of one to three keywords as the caption, where there are some.
    """

    def __init__(
        self,
        batches: ImageBatches,
        data: ImageTexts,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        translation_prob: float = 0.5,
        keyword_prob: float = 0.0,
    ):
        self.batches = batches
        self.translation_prob, self.keyword_prob = translation_prob, keyword_prob
        device = batches.device
        keywords = keyword_captions(data.keywords, batches.seed)
        groups = [
            group for triple in zip(data.texts, data.translations, keywords, strict=True) for group in triple
        ]
        captions = [text for group in groups for text in group]
        self.tokens = encode_texts(tokenizer, captions, max_length).to(device)
        # texts that are cut off at the same tokens are one to the network
        self.text_number = torch.unique(self.tokens, dim=0, return_inverse=True)[1]
        counts = torch.tensor([len(group) for group in groups], device=device)
        # (pictures, 3): texts, translations, captions of keywords
        self.first = (counts.cumsum(0) - counts).unflatten(0, (-1, 3))
        self.count = counts.unflatten(0, (-1, 3))

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> ImageTextBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.CAPTIONS, source.position)
        images, pictures = next(source)
        rows = slice(source.first, source.first + source.share)
        chance = torch.rand(source.batch_size, 2, generator=generator)[rows].to(source.device)
        kind = self._kinds(chance[:, 0], pictures)
        count = self.count[pictures, kind]
        which = torch.minimum((chance[:, 1] * count).long(), count - 1)
        caption = self.first[pictures, kind] + which
        return ImageTextBatch(images, self.tokens[caption], pictures, self.text_number[caption])

    def _kinds(
        self, chance: Float[Tensor, " share"], pictures: Int64[Tensor, " share"]
    ) -> Int64[Tensor, " share"]:
        """By a number from 0 to 1: 1 for a translation, else 2 for keywords, 0 for a text of its own."""
        has_translation, has_keywords = (self.count[pictures, 1:] > 0).unbind(1)
        is_translated = has_translation & (chance < self.translation_prob)
        # what is left of the number, from 0 to 1 again
        left = (chance - self.translation_prob) / max(1 - self.translation_prob, 1e-9)
        left = torch.where(has_translation, left, chance)
        by_keywords = has_keywords & ~is_translated & (left < self.keyword_prob)
        return is_translated.long() + 2 * by_keywords.long()


def keyword_captions(keywords: Sequence[Sequence[str]], seed: int) -> list[list[str]]:
    """Captions of one to three keywords in any order, of each picture that has some."""
    generator = derive_generator(seed, SeedStream.KEYWORD_CAPTIONS, 0)
    captions: list[list[str]] = []
    for words in keywords:
        counts = torch.randint(1, MAX_KEYWORDS + 1, (KEYWORD_CAPTIONS if words else 0,), generator=generator)
        orders = [torch.randperm(len(words), generator=generator)[:count] for count in counts.tolist()]
        captions.append([" ".join(words[i] for i in order.tolist()) for order in orders])
    return captions


def positive_pairs(
    pictures: tuple[Int64[Tensor, " rows"], Int64[Tensor, " columns"]],
    texts: tuple[Int64[Tensor, " rows"], Int64[Tensor, " columns"]],
) -> Bool[Tensor, "rows columns"]:
    """True where two pairs have the picture or the text in common."""
    return (pictures[0][:, None] == pictures[1]) | (texts[0][:, None] == texts[1])


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int, end_id: int, where: str) -> None:
    """Refuse a tokenizer that does not belong to a network.

    Args:
        end_id: token that the network reads; 2 stands for the largest id.

    Raises:
        BadInput: it lacks `START` or `END`, has more tokens than the network knows, or ends texts otherwise.
    """
    if missing := [name for name in (START, END) if tokenizer.token_to_id(name) is None]:
        raise BadInput(f"the tokenizer of {where} has no {missing[0]}")
    largest, end = max(tokenizer.get_vocab().values()), tokenizer.token_to_id(END)
    if largest >= vocab_size:
        raise BadInput(
            f"the tokenizer of {where} has ids up to {largest}, but the network knows {vocab_size}"
        )
    if end != end_id and not (end_id == OLD_END_ID and end == largest):
        raise BadInput(
            f"the tokenizer of {where} ends texts with token {end}, but the network reads token {end_id}"
        )


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int
) -> Int64[Tensor, "texts {max_length}"]:
    """Tokens between `START` and `END`, cut off so that the end is kept, and padded with `END`.

    Raises:
        BadInput: the tokenizer does not know these two.
    """
    start, end = (tokenizer.token_to_id(name) for name in (START, END))
    if start is None or end is None:
        raise BadInput(f"the tokenizer has no {START if start is None else END}")
    rows = torch.full((len(texts), max_length), end)
    rows[:, 0] = start
    for row, encoding in zip(
        rows, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True
    ):
        ids = encoding.ids[: max_length - 2]
        row[1 : 1 + len(ids)] = torch.tensor(ids)
    return rows
