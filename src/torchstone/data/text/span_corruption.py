"""Texts with gaps, and what stood there: span corruption, without end."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed


def span_counts(length: int, density: float, span: float) -> tuple[int, int]:
    """Tokens in gaps, and gaps, in a text of `length` tokens: the same in all texts.

    Raises:
        BadInput: a share that is none, a mean span below 1, or a text too short for a gap.
    """
    if not 0 < density < 1 or span < 1:
        raise BadInput(f"density is above 0 and below 1, span at least 1; not {density} and {span}")
    if length < 2:
        raise BadInput(f"a text of {length} tokens is too short to have a gap: at least 2")
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / span), 1), noise, length - noise)


def random_spans(
    rows: int, length: int, noise: int, spans: int, generator: torch.Generator
) -> tuple[Bool[Tensor, "rows length"], Int64[Tensor, "rows length"]]:
    """Where the gaps are, and each place's number of gaps that have begun before it or there.

    Text and gaps take turns, text first. The noise is cut into `spans` parts of at least one token,
    and so is the text; all ways to cut are equally likely (Raffel et al. 2019, arXiv:1910.10683,
    section 3.1.4, and their code).
    """

    def parts(total: int) -> Int64[Tensor, "rows spans"]:
        order = torch.rand(rows, total - 1, generator=generator).argsort(1)
        cuts = order[:, : spans - 1].sort(1).values + 1
        ends = torch.cat([cuts, torch.full((rows, 1), total)], 1)
        return ends.diff(dim=1, prepend=torch.zeros(rows, 1, dtype=torch.int64))

    lengths = torch.stack([parts(length - noise), parts(noise)], 2).flatten(1)
    ends = lengths.cumsum(1)
    places = torch.arange(length).expand(rows, length).contiguous()
    piece = torch.searchsorted(ends, places, right=True)
    return piece % 2 == 1, (piece + 1) // 2


def corrupt(
    texts: Int64[Tensor, "rows length"],
    noise: Bool[Tensor, "rows length"],
    number: Int64[Tensor, "rows length"],
    sentinels: Int64[Tensor, " sentinels"],
    end: int,
) -> tuple[Int64[Tensor, "rows source"], Int64[Tensor, "rows target"]]:
    """Source: the text, a sentinel for each gap, `end`. Target: each sentinel and what stood in its
    gap, one sentinel more, `end` (figure 2)."""
    rows, length = texts.shape
    hidden, spans = int(noise[0].sum()), int(number[0, -1])
    first = noise.clone()
    first[:, 1:] &= ~noise[:, :-1]
    marked = torch.where(first, sentinels[(number - 1).clamp(min=0)], texts)
    closing = torch.full((rows, 1), end, dtype=texts.dtype, device=texts.device)
    source = torch.cat([marked[~noise | first].view(rows, -1), closing], 1)
    # a gap's tokens stand after as many tokens of gaps as came before, and as many sentinels
    target = torch.empty(rows, hidden + spans, dtype=texts.dtype, device=texts.device)
    place = noise.cumsum(1) - 1 + number
    row = torch.arange(rows, device=texts.device)[:, None].expand(rows, length)
    target[row[noise], place[noise]] = texts[noise]
    target[row[first], place[first] - 1] = sentinels[number[first] - 1]
    last = sentinels[spans].expand(rows, 1)
    return source, torch.cat([target, last, closing], 1)


class SpanCorruptionBatches:
    """Endless (source, target), int64: texts with gaps, and what stood there.

    Which texts, and where their gaps are, is drawn by `seed` and position alone: neither resuming nor
    more processes change any of them. `batch` counts the texts of all `world` processes together.

    Args:
        texts: one a row, all of one length; windows of a long text may be a view of it.
        sentinels: token ids that stand for gaps, in this order; one more than there are gaps.
        density, span: share of the tokens in gaps, and mean tokens of a gap.

    Raises:
        BadInput: too few sentinels or texts, or numbers that make no gaps.
    """

    def __init__(
        self,
        texts: Int64[Tensor, "count length"],
        batch: int,
        *,
        sentinels: Int64[Tensor, " sentinels"],
        end: int,
        density: float = 0.15,
        span: float = 3.0,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch, rank, world_size)
        self.texts, self.batch, self.seed, self.end = texts, batch, seed, end
        self.device = texts.device
        self.sentinels = sentinels.to(self.device)
        self.noise, self.spans = span_counts(texts.shape[1], density, span)
        if self.spans + 1 > len(sentinels):
            raise BadInput(
                f"{self.spans} gaps need {self.spans + 1} sentinels, there are {len(sentinels)}: "
                "take shorter texts, or a larger span"
            )
        self.share = slice(first, first + share)
        self.order = EpochSampler(len(texts), [(0, batch)], seed, self.device)
        self.position = 0

    def __iter__(self) -> "Spans":
        return self

    def __next__(self) -> tuple[Int64[Tensor, "share source"], Int64[Tensor, "share target"]]:
        texts = self.texts[self.order.index(self.position)[self.share]]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.SPAN_GAPS, self.position))
        drawn = random_spans(self.batch, texts.shape[1], self.noise, self.spans, generator)
        noise, number = (each[self.share].to(self.device) for each in drawn)
        self.position += self.batch
        return corrupt(texts, noise, number, self.sentinels, self.end)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
