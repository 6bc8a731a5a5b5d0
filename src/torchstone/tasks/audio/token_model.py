"""Language models of audio tokens: vocabularies of several kinds of codes, training, and sampling."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.audio.codec_batches import IGNORED, TokenBatch, TokenBatches, collate
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.decoding.sampling import filter_logits
from torchstone.parts.modes import eval_mode
from torchstone.tasks.optimization import gradient_update, train_only

Rows = Sequence[tuple[Tensor, Tensor]]  # tokens, and for each the next one
CHUNK_SIZE = 32  # rows at a time


class TokenLayout:
    """Sections of a vocabulary, one after another: `tokens` adds a section's offset, `ids` takes it away.

    Args:
        sizes: of each section, by name, in their order.
    """

    def __init__(self, **sizes: int):
        self.sizes, self.offsets, self.size = sizes, {}, 0
        for name, size in sizes.items():
            self.offsets[name] = self.size
            self.size += size

    def tokens(self, section: str, ids: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """The tokens of numbers within a section.

        Raises:
            BadInput: a number that the section does not have.
        """
        return self._checked(ids, section, "number", 0) + self.offsets[section]

    def ids(self, section: str, tokens: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """`tokens` undone.

        Raises:
            BadInput: a token of another section.
        """
        return self._checked(tokens, section, "token", self.offsets[section]) - self.offsets[section]

    def token(self, section: str, number: int = 0) -> int:
        """One of them."""
        return int(self.tokens(section, torch.tensor(number)))

    def span(self, section: str) -> tuple[int, int]:
        """The first token of a section, and the one after its last."""
        return self.offsets[section], self.offsets[section] + self.sizes[section]

    def sections(self) -> Int64[Tensor, " size"]:
        """The number of each token's section."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor([*self.sizes.values()]))

    def _checked(self, x: Tensor, section: str, kind: str, first: int) -> Tensor:
        size = self.sizes[section]
        if x.numel() and not first <= int(x.min()) <= int(x.max()) < first + size:
            wrong = int(x.min()) if int(x.min()) < first else int(x.max())
            raise BadInput(f"{section} has the {kind}s {first} to {first + size - 1}, not {wrong}")
        return x


def interleave(
    layout: TokenLayout, section: str, codes: Int64[Tensor, "books frames"]
) -> Int64[Tensor, " books_times_frames"]:
    """Codes as tokens, frame by frame, within a frame book by book; the section of book q is `section`q."""
    rows = [layout.tokens(f"{section}{q}", row) for q, row in enumerate(codes)]
    return torch.stack(rows, 1).flatten()


def deinterleave(
    layout: TokenLayout, section: str, tokens: Int64[Tensor, " books_times_frames"], books: int
) -> Int64[Tensor, "books frames"]:
    """`interleave` undone.

    Raises:
        BadInput: a token of another book than its position is of; a frame that is not whole.
    """
    if len(tokens) % books:
        raise BadInput(f"{len(tokens)} tokens are no whole frames of {books}")
    columns = tokens.view(-1, books).unbind(1)
    return torch.stack([layout.ids(f"{section}{q}", column) for q, column in enumerate(columns)])


def token_loss(net: Any, batch: TokenBatch) -> dict[str, Tensor]:
    """−log p of the next token in nats, the mean over those with a loss."""
    logits = net(batch.tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    return {"loss": loss, "weight": (batch.targets != IGNORED).sum()}


def train_tokens(
    model: Any,
    lm: Any,
    stream: TokenBatches,
    recipe: Any,
    *,
    steps: int,
    evaluate: Callable[[], Mapping[str, float]],
    val: int,
    metadata: dict[str, Any],
) -> Run:
    """A Run that trains `lm`, one of the networks in `model`; the metric is `loss`, nats a token.

    Args:
        val: rows of an evaluation.
    """
    train_only(model, lm)
    optim = dataclasses.replace(recipe.optim, lr=recipe.lm_lr, ema_decay=0.0)
    update, state, _ = gradient_update(
        model, optim, token_loss, steps=steps, parameters=list(lm.parameters()), forward_module=lm
    )
    state["stream"] = stream
    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric=None,  # the networks of all stages are used together: the last ones
        examples=Examples(stream.batch_size, len(stream.speakers), val, "rows"),
        state=state,
        steps=steps,
        metadata=metadata,
    )


def make_stream(
    speakers: Sequence[str], build_row: Any, recipe: Any, device: torch.device, pair_probability: float
) -> TokenBatches:
    return TokenBatches(
        speakers,
        build_row,
        recipe.lm_batch_size,
        pair_probability=pair_probability,
        seed=recipe.seed,
        device=device,
        **parallel.share(),
    )


@torch.no_grad()
def nats(lm: Any, rows: Rows) -> Float[Tensor, " rows"]:
    """Σ −log p of the tokens with a loss, of each row; on the CPU, in float64."""
    device = next(lm.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    out = torch.zeros(len(rows), dtype=torch.float64)
    with eval_mode(lm):
        for first in range(0, len(order), CHUNK_SIZE):
            index = order[first : first + CHUNK_SIZE]
            batch = collate([rows[i] for i in index], device)
            logits = lm(batch.tokens).float().transpose(1, 2)
            losses = F.cross_entropy(logits, batch.targets, ignore_index=IGNORED, reduction="none")
            out[index] = losses.double().sum(1).cpu()
    return out


def count_targets(rows: Rows) -> int:
    return sum(int((targets != IGNORED).sum()) for _, targets in rows)


def unigram_nats(layout: TokenLayout, train: Rows, rows: Rows, sections: Sequence[int]) -> float:
    """−log p of a token of `rows` if only its section and how often it came in `train` are known.

    Args:
        sections: of the layout, of each token a number; those with the same one are told apart.
    """
    group = torch.tensor(sections)
    counts = torch.ones(layout.size, dtype=torch.float64)  # none is impossible
    for _, targets in train:
        counts += torch.bincount(targets[targets != IGNORED], minlength=layout.size)
    totals = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add_(0, group, counts)
    log_prob = (counts / totals[group]).log()
    own = torch.cat([targets[targets != IGNORED] for _, targets in rows])
    return float(-log_prob[own].mean())


def continue_tokens(
    lm: Any,
    tokens: Int64[Tensor, "batch time"],
    known: Int64[Tensor, "batch new"],
    allowed: Callable[[int], list[tuple[int, int]]],
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = None,
) -> Int64[Tensor, "batch new"]:
    """The tokens after `tokens`, each sampled given all before it.

    Args:
        known: those that are given already, −1 where they are to be sampled.
        allowed: spans of the tokens that may stand at a new position.
        stop: a token after which a row is over; it is repeated to the end.
    """
    batch, count = known.shape
    out, cache, new = known.clone(), lm.make_cache(), tokens
    is_over = torch.zeros(batch, dtype=torch.bool, device=tokens.device)
    with eval_mode(lm), torch.inference_mode():
        for t in range(count):
            logits = lm(new, cache=cache, last_only=True)[:, 0].float()
            barred = torch.ones_like(logits, dtype=torch.bool)
            for first, last in allowed(t):
                barred[:, first:last] = False
            chosen = filter_logits(
                logits.masked_fill(barred, -torch.inf), temperature=temperature, top_k=top_k
            )
            # drawn on the CPU: the same numbers on every device
            u = torch.rand(batch, 1, generator=generator, dtype=torch.float64)
            steps = chosen.softmax(1).double().cpu().cumsum(1)
            picked = torch.searchsorted(steps, u * steps[:, -1:], right=True)[:, 0].clamp(
                max=lm.vocab_size - 1
            )
            out[:, t] = torch.where(out[:, t] < 0, picked.to(out.device), out[:, t])
            if stop is not None:
                out[is_over, t] = stop
                is_over |= out[:, t] == stop
                if bool(is_over.all()):
                    out[:, t + 1 :] = stop
                    break
            new = out[:, t : t + 1]
    return out.clone()
