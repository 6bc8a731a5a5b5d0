"""Without positions attention reads a bag of words; a causal mask gives some of the order back."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.sequences import IGNORED, train_on
from torchstone.systems.transformer.bert import make_bert
from torchstone.systems.transformer.gpt import GPT

CLAIM = Claim(
    "positions-needed",
    "Without positions attention does not know the order of its tokens.",
    "Vaswani et al. 2017; Haviv et al. 2022",
    "Eight symbols of eight kinds, 700 updates of AdamW: each is answered by the one at its mirror "
    "position. An encoder that attends to all tokens, with position embeddings and without; and a causal "
    "transformer that writes the mirrored text after it. Share of right symbols; chance is 1/8.",
    "Naming the most frequent symbol needs no order, and must be learned without positions too. A causal "
    "mask alone may tell positions: how many tokens one sees.",
    minutes=2,
)
SYMBOLS, LENGTH = 8, 8
GO = SYMBOLS  # the token after which a causal network writes
CHANCE = 1 / SYMBOLS
MIRROR, FREQUENT, CAUSAL = "mirrored text", "most frequent symbol", "mirrored text, causal"


def draw_mirrored(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randint(SYMBOLS, (count, LENGTH), generator=generator)
    return x, x.flip(1)


def draw_frequent(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the tokens are one symbol, the others differ; each position is to name it."""
    kinds = torch.rand(count, SYMBOLS, generator=generator).argsort(1)
    half = LENGTH // 2
    x = torch.cat([kinds[:, :1].expand(-1, half), kinds[:, 1 : half + 1]], 1)
    order = torch.rand(count, LENGTH, generator=generator).argsort(1)
    return x.gather(1, order), kinds[:, :1].expand(-1, LENGTH).contiguous()


def draw_causal(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The text, GO and the mirrored text but its last symbol; targets from GO on."""
    x, y = draw_mirrored(count, generator)
    tokens = torch.cat([x, torch.full((count, 1), GO), y[:, :-1]], 1)
    return tokens, torch.cat([torch.full((count, LENGTH), IGNORED), y], 1)


@torch.no_grad()
def without_positions(position_embedding: Any) -> None:
    position_embedding.weight.zero_()
    position_embedding.weight.requires_grad_(False)


class Encoder(nn.Module):
    """BERT's encoder with a class for each token."""

    def __init__(self, has_positions: bool):
        super().__init__()
        sizes: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "d_ff": 64, "max_length": LENGTH}
        options: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "pad_id": None}
        self.net = make_bert(
            vocab_size=SYMBOLS, head="tokens", num_classes=SYMBOLS, use_pooler=False, **sizes, **options
        )
        if not has_positions:
            without_positions(self.net.position_embedding)

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Tensor:
        return self.net.logits(tokens)


def decoder(has_positions: bool) -> GPT:
    sizes: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "d_ff": 64, "context": 2 * LENGTH}
    model = GPT.from_kwargs(vocab_size=SYMBOLS + 1, init_std=0.1, **sizes)
    if not has_positions:
        without_positions(model.position_embedding)
    return model


TASKS: dict[str, tuple[Any, Any]] = {
    MIRROR: (Encoder, draw_mirrored),
    FREQUENT: (Encoder, draw_frequent),
    CAUSAL: (decoder, draw_causal),
}


def measure(seed: int) -> Row:
    """Share of right symbols in each task, with positions and without."""
    optim = OptimConfig(optimizer="adamw", lr=3e-3, warmup_ratio=0.1, max_grad_norm=1.0)
    row: Row = {}
    for task, (make, draw_task) in TASKS.items():
        row[task] = {
            name: train_on(
                partial(make, has), draw_task, seed=seed, steps=700, batch_size=64, optim=optim
            ).metrics["test/accuracy"]
            for name, has in (("with", True), ("without", False))
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(task: str, name: str) -> list[float]:
        return [row[task][name] for row in rows]

    def mean(task: str, name: str) -> float:
        return sum(column(task, name)) / len(rows)

    lost = paired(f"{MIRROR}, with − without positions", column(MIRROR, "with"), column(MIRROR, "without"))
    causal = paired(
        "without positions, causal − all tokens", column(CAUSAL, "without"), column(MIRROR, "without")
    )
    finding = "; ".join(
        f"{task} {mean(task, 'with'):.2f} with and {mean(task, 'without'):.2f} without" for task in TASKS
    )
    tests = [lost, causal]
    knows_order = mean(MIRROR, "without") > 2 * CHANCE
    if mean(FREQUENT, "without") < 0.9 or mean(MIRROR, "with") < 0.9:
        return Verdict("not seen here", f"the controls fail: {finding}", tests)
    if knows_order or not lost.is_above_zero:
        return Verdict("not seen here", finding, tests)
    if causal.is_above_zero and mean(CAUSAL, "without") > 2 * CHANCE:
        return Verdict("holds only when", f"all tokens are seen; a causal mask tells order: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    panels = {
        f"{task}: share right": {
            f"{name} positions": [row[task][name] for row in rows] for name in ("with", "without")
        }
        for task in TASKS
    }
    return bars(panels, ylim=(0, 1.05))
