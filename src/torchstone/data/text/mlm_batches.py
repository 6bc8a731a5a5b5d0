"""What BERT learns from: text with some words hidden, and pairs of spans that may not belong together.

Devlin et al. 2018 (arXiv:1810.04805), section 3.1 and appendix A.1.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import share_of_batch
from torchstone.data.text.sentence_batches import IGNORE_INDEX, LengthGrouped, Rows, SpecialTokens, collate
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed


class MLMBatch(NamedTuple):
    """Rows with words hidden, where they were, and what they are.

    `share` weighs each so that the mean over rows is the mean over the hidden words of the whole
    batch, into however many parts it is divided. `stray` is 0 where the second span follows the
    first in the text, 1 where it is from elsewhere: the classes of the published head.
    """

    rows: Rows
    places: Int64[Tensor, "batch hidden"]
    targets: Int64[Tensor, "batch hidden"]
    share: Float[Tensor, "batch hidden"]
    stray: Int64[Tensor, " batch"]


class MLMBatches:
    """Endless `Masked` batches out of documents; the whole state is how many rows were consumed.

    A row is a span of a document, as long as a row may be; with `pairs` a span in two, whose second
    part is in half of the rows taken from anywhere. 15 % of its tokens are to be told: of these 80 %
    are replaced by [MASK], 10 % by any token, 10 % stay.

    Args:
        documents: token ids without any frame.
        vocabulary: how many ids there are.
        hidden: share of tokens to be told.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        batch: int,
        frame: SpecialTokens,
        vocabulary: int,
        *,
        seed: int,
        pairs: bool = True,
        hidden: float = 0.15,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch, rank, world_size)
        if not 0 < hidden < 1:
            raise BadInput(f"the share of hidden words must lie between 0 and 1, not {hidden}")
        self.documents = [document for document in documents if len(document) > 1]
        self.room = frame.length - (3 if pairs else 2)
        self.spans = [
            (number, begin)
            for number, document in enumerate(self.documents)
            for begin in range(0, len(document) - 1, self.room)
        ]
        if not self.spans:
            raise BadInput("the text has no two tokens in a row: nothing to learn from")
        ordinary = [i for i in range(vocabulary) if i not in frame.special]
        self.ordinary = torch.tensor(ordinary)
        self.special = torch.tensor(sorted(frame.special))
        self.batch, self.frame, self.seed, self.pairs = batch, frame, seed, pairs
        self.hidden, self.device, self.rank, self.world_size = hidden, device, rank, world_size
        lengths = [min(self.room, len(self.documents[n]) - begin) for n, begin in self.spans]
        self.alike = LengthGrouped(torch.tensor(lengths), batch, seed)
        self.position = 0

    def __iter__(self) -> "MaskedText":
        return self

    def __next__(self) -> MLMBatch:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.MLM_MASKS, self.position))
        whole = self.make(self.alike.index(self.position).tolist(), generator)
        self.position += self.batch
        share = self.batch // self.world_size
        own = slice(self.rank * share, (self.rank + 1) * share)
        parts = Rows(*(part[own].to(self.device) for part in whole.rows))
        return MLMBatch(parts, *(part[own].to(self.device) for part in whole[1:]))

    def once(self, batch: int = 64, most: int = 512) -> Iterator[MLMBatch]:
        """The first `most` spans, with the same words hidden every time: to measure by."""
        count = min(most, len(self.spans))
        for start in range(0, count, batch):
            generator = torch.Generator().manual_seed(derive_seed(0, SeedStream.MLM_MASKS, start))
            made = self.make(list(range(start, min(start + batch, count))), generator)
            rows = Rows(*(part.to(self.device) for part in made.rows))
            yield MLMBatch(rows, *(part.to(self.device) for part in made[1:]))

    def make(self, index: Sequence[int], generator: torch.Generator) -> MLMBatch:
        """Rows of these spans, drawn with `generator`."""
        draws = torch.rand(len(index), 4, generator=generator).tolist()
        made = [self._row(self.spans[i], draw) for i, draw in zip(index, draws, strict=True)]
        rows = collate([row for row, _ in made], self.frame)
        stray = torch.tensor([other for _, other in made])
        return MLMBatch(*self._hide(rows, generator), stray)

    def _row(self, span: tuple[int, int], draw: list[float]) -> tuple[tuple[list[int], int], int]:
        document, begin = self.documents[span[0]], span[1]
        last = max(0, len(document) - self.room)
        # the spans of a long document do not always begin at the same places
        begin = min(last, int(begin + draw[0] * self.room)) if last else begin
        tokens = document[begin : begin + self.room]
        if not self.pairs:
            return self.frame.row(tokens, None), 0
        cut = 1 + int(draw[1] * (len(tokens) - 1))
        second, other = tokens[cut:], int(draw[2] < 0.5)
        if other:
            number, begin = self.spans[int(draw[3] * len(self.spans))]
            away = self.documents[number]
            begin = min(begin + 1, len(away) - 1)
            second = away[begin : begin + self.room - cut]
        return self.frame.row(tokens[:cut], second), other

    def _hide(self, rows: Rows, generator: torch.Generator):
        tokens = rows.tokens
        can = rows.mask & ~torch.isin(tokens, self.special)
        counts = (can.sum(1) * self.hidden).round().long().clamp(min=1).minimum(can.sum(1))
        noise = torch.rand(tokens.shape, generator=generator).masked_fill(~can, 2.0)
        places = noise.argsort(1)[:, : int(counts.max())]
        chosen = torch.arange(places.shape[1]) < counts[:, None]
        targets = tokens.gather(1, places).masked_fill(~chosen, IGNORE_INDEX)
        fate = torch.rand(places.shape, generator=generator)
        any_ = torch.randint(len(self.ordinary), places.shape, generator=generator)
        before = tokens.gather(1, places)
        now = torch.where(fate < 0.9, self.ordinary[any_], before)
        now = torch.where(fate < 0.8, self.frame.hidden, now)
        tokens = tokens.scatter(1, places, torch.where(chosen, now, before))
        share = chosen.float() * (len(tokens) / chosen.sum().clamp(min=1))
        return rows._replace(tokens=tokens), places, targets, share

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
