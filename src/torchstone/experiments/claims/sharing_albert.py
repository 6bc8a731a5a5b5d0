"""One layer used again and again keeps most of what layers of their own gain, and takes as long."""

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.letters import HIDDEN, WINDOW, draw_windows, held_out_windows, word_ends
from torchstone.experiments.sequences import target_loss, train_on
from torchstone.parts.facts import count_parameters
from torchstone.parts.modes import eval_mode
from torchstone.systems.transformer.albert import make_albert
from torchstone.systems.transformer.bert import make_bert

CLAIM = Claim(
    "sharing-albert",
    "A transformer that shares one layer's weights keeps most of its quality with far fewer parameters.",
    "Lan et al. 2019",
    "Shakespeare's letters without spaces: after which does a word end? Encoders 48 wide with heads for "
    "each letter, 300 updates of AdamW: three layers (BERT), one layer used three times (ALBERT), one "
    "layer used once. Nats a letter gained over the share of word ends alone, on plays that were not "
    "trained on; parameters; CPU time of an update.",
    "One layer used once has as few parameters: if it gains as much, using it again is for nothing.",
    minutes=2,
)
SIZES: dict[str, Any] = {"vocab_size": HIDDEN + 1, "width": 48, "heads": 4, "d_ff": 96, "max_length": WINDOW}
OPTIONS: dict[str, Any] = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "classifier_dropout": 0.0,
    "use_pooler": False,
    "head": "tokens",
    "pad_id": None,
    "num_classes": 2,
}
OWN, SHARED, ONE = "three layers", "one layer, three times", "one layer"


class Tagger(nn.Module):
    """The head's logits of each letter."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net.logits(tokens)


def bert(layers: int) -> Tagger:
    return Tagger(make_bert(layers=layers, **SIZES, **OPTIONS))


def albert(layers: int) -> Tagger:
    return Tagger(make_albert(layers=layers, embedding_size=SIZES["width"], **SIZES, **OPTIONS))


NETWORKS = {OWN: partial(bert, 3), SHARED: partial(albert, 3), ONE: partial(bert, 1)}
OPTIM = OptimConfig(optimizer="adamw", lr=3e-3, weight_decay=0.01, warmup_ratio=0.1, max_grad_norm=1.0)


def measure(seed: int) -> Row:
    """Nats gained, parameters, and milliseconds of an update (which differ between runs)."""
    row: Row = {}
    for name, make in NETWORKS.items():
        began = time.process_time()
        model = train_on(make, draw_windows(word_ends("train")), seed=seed, steps=300, optim=OPTIM).model
        row[name] = {
            "gain": gain(model),
            "parameters": count_parameters(model),
            "milliseconds": 1000 * (time.process_time() - began) / 300,
        }
    return row


@torch.no_grad()
def gain(model: nn.Module) -> float:
    """Nats a letter by which the loss is below that of the share of word ends."""
    x, y = held_out_windows(word_ends("test"))
    share = y.double().mean()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    with eval_mode(model):
        return entropy.item() - target_loss(model(x), y).item()


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    def mean(name: str, key: str) -> float:
        return sum(column(name, key)) / len(rows)

    ratios = [row[SHARED]["gain"] / row[OWN]["gain"] for row in rows]
    share = paired("share of the gain that is kept, less 0.9", ratios, [0.9] * len(rows))
    control = paired("gain, one layer three times − once", column(SHARED, "gain"), column(ONE, "gain"))
    finding = (
        f"with {mean(SHARED, 'parameters') / mean(OWN, 'parameters'):.0%} of the parameters one layer used "
        f"three times gains {mean(SHARED, 'gain'):.3f} nats a letter, three layers "
        f"{mean(OWN, 'gain'):.3f}, one layer used once {mean(ONE, 'gain'):.3f}; an update takes "
        f"{mean(SHARED, 'milliseconds'):.0f}, {mean(OWN, 'milliseconds'):.0f} and "
        f"{mean(ONE, 'milliseconds'):.0f} ms"
    )
    tests = [share, control]
    if not share.is_above_zero:
        return Verdict("not seen here", finding, tests)
    if control.is_above_zero:
        return Verdict("holds", finding, tests)
    return Verdict("not seen here", f"one layer used once gains as much: {finding}", tests)


def draw(rows: list[Row]) -> Any:
    return bars(
        {
            title: {name.replace(", ", ",\n"): [row[name][key] for row in rows] for name in NETWORKS}
            for title, key in (
                ("nats a letter gained", "gain"),
                ("parameters", "parameters"),
                ("CPU milliseconds of an update", "milliseconds"),
            )
        }
    )
