"""T5's denoising objective: endless batches of span corruption."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from torchstone.data.sampler import EpochSampler, itself, load_position, position_state, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


def span_counts(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """The number of noise tokens, and of spans, in a text of `length` tokens: the same in all texts.

    Raises:
        BadInput: a density outside of (0, 1), a mean span below 1, or a text too short for a span.
    """
    if not 0 < noise_density < 1 or mean_span_length < 1:
        raise BadInput(
            "noise_density must be above 0 and below 1, and mean_span_length at least 1; "
            f"not {noise_density} and {mean_span_length}"
        )
    if length < 2:
        raise BadInput(f"a text of {length} tokens is too short to have a span: at least 2")
    noise = min(max(round(length * noise_density), 1), length - 1)
    return noise, min(max(round(noise / mean_span_length), 1), noise, length - noise)


def random_spans(
    rows: int, length: int, noise: int, spans: int, generator: torch.Generator
) -> tuple[Bool[Tensor, "rows length"], Int64[Tensor, "rows length"]]:
    """The noise mask, and for each position the number of spans that have begun up to there.

    Text and spans alternate, text first. The noise tokens are split into `spans` parts of at least one
    token, and so are the others; all splits are equally likely (Raffel et al. 2019, arXiv:1910.10683,
    section 3.1.4, and their code).
    """

    def split(total: int) -> Int64[Tensor, "rows spans"]:
        order = torch.rand(rows, total - 1, generator=generator).argsort(1)
        cuts = order[:, : spans - 1].sort(1).values + 1
        ends = torch.cat([cuts, torch.full((rows, 1), total)], 1)
        return ends.diff(dim=1, prepend=torch.zeros(rows, 1, dtype=torch.int64))

    lengths = torch.stack([split(length - noise), split(noise)], 2).flatten(1)
    ends = lengths.cumsum(1)
    positions = torch.arange(length).expand(rows, length).contiguous()
    segment = torch.searchsorted(ends, positions, right=True)
    return segment % 2 == 1, (segment + 1) // 2


def corrupt(
    texts: Int64[Tensor, "rows length"],
    noise: Bool[Tensor, "rows length"],
    number: Int64[Tensor, "rows length"],
    sentinels: Int64[Tensor, " sentinels"],
    end: int,
) -> tuple[Int64[Tensor, "rows source"], Int64[Tensor, "rows target"]]:
    """Source: the text with a sentinel for each span, `end`. Target: each sentinel followed by the
    tokens of its span, one more sentinel, `end` (figure 2).

    Args:
        noise, number: those of `random_spans`.
    """
    rows, length = texts.shape
    num_noise, spans = int(noise[0].sum()), int(number[0, -1])
    first = noise.clone()
    first[:, 1:] &= ~noise[:, :-1]
    marked = torch.where(first, sentinels[(number - 1).clamp(min=0)], texts)
    closing = torch.full((rows, 1), end, dtype=texts.dtype, device=texts.device)
    source = torch.cat([marked[~noise | first].view(rows, -1), closing], 1)
    # before a noise token the target holds all earlier noise tokens, and as many sentinels as spans began
    target = torch.empty(rows, num_noise + spans, dtype=texts.dtype, device=texts.device)
    position = noise.cumsum(1) - 1 + number
    row = torch.arange(rows, device=texts.device)[:, None].expand(rows, length)
    target[row[noise], position[noise]] = texts[noise]
    target[row[first], position[first] - 1] = sentinels[number[first] - 1]
    last = sentinels[spans].expand(rows, 1)
    return source, torch.cat([target, last, closing], 1)


class SpanCorruptionBatches:
    """Endless (source, target), int64: corrupted texts, and the spans that were removed.

    Which texts come, and where their spans are, depends on `seed` and position alone: neither resuming nor
    the number of processes changes it. `batch_size` counts the texts of all processes together.

    Args:
        texts: one a row, all of one length; windows of a long text may be a view of it.
        sentinels: token ids that stand for spans, in this order; one more than there are spans.
        noise_density: share of the tokens in spans.
        mean_span_length: mean number of tokens in a span.

    Raises:
        BadInput: too few sentinels or texts, or numbers that make no spans.
    """

    def __init__(
        self,
        texts: Int64[Tensor, "count length"],
        batch_size: int,
        *,
        sentinels: Int64[Tensor, " sentinels"],
        end: int,
        noise_density: float = 0.15,
        mean_span_length: float = 3.0,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        self.texts, self.batch_size, self.seed, self.end = texts, batch_size, seed, end
        self.device = texts.device
        self.sentinels = sentinels.to(self.device)
        self.noise, self.spans = span_counts(texts.shape[1], noise_density, mean_span_length)
        if self.spans + 1 > len(sentinels):
            raise BadInput(
                f"{self.spans} spans need {self.spans + 1} sentinels, there are {len(sentinels)}: "
                "take shorter texts, or a larger mean_span_length"
            )
        self.share = slice(first, first + share)
        self.order = EpochSampler(len(texts), [(0, batch_size)], seed, self.device)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Int64[Tensor, "share source"], Int64[Tensor, "share target"]]:
        texts = self.texts[self.order.index(self.position)[self.share]]
        generator = derive_generator(self.seed, SeedStream.SPAN_GAPS, self.position)
        spans = random_spans(self.batch_size, texts.shape[1], self.noise, self.spans, generator)
        noise, number = (each[self.share].to(self.device) for each in spans)
        self.position += self.batch_size
        return corrupt(texts, noise, number, self.sentinels, self.end)
