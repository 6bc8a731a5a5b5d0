"""A student keeps most of its teacher's gain with fewer layers, and gains more than it does alone."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.claims.sharing_albert import OPTIM, Tagger, bert, gain
from torchstone.experiments.figures import bars
from torchstone.experiments.letters import draw_windows, word_ends
from torchstone.experiments.sequences import target_loss, train_on
from torchstone.parts.facts import count_parameters
from torchstone.systems.transformer.distilbert import soft_target_loss, teacher_layers

CLAIM = Claim(
    "distilled",
    "A distilled student keeps most of its teacher's quality with fewer layers.",
    "Hinton, Vinyals and Dean 2015; Sanh et al. 2019",
    "Shakespeare's letters without spaces: after which does a word end? A teacher of three layers of 48, "
    "300 updates of AdamW; students of two, 100 updates: with the teacher's first and last layer and its "
    "soft targets, with the layers alone, and with neither. Nats a letter gained over the share of word "
    "ends alone, on plays that were not trained on.",
    "The student alone must gain less, or it needs no teacher; with the layers but hard targets it shows "
    "which of the two helps.",
    minutes=2,
)
TEACHER, DISTILLED, LAYERS, ALONE = "teacher", "distilled", "layers alone", "student alone"
ARMS = (TEACHER, DISTILLED, LAYERS, ALONE)
TEMPERATURE = 2.0
TEACHER_STEPS, STEPS = 300, 100


def student_of(teacher: Tagger) -> Tagger:
    """Two layers, which begin as the teacher's first and last one, and all that is around them."""
    chosen = teacher_layers(len(teacher.net.layers))
    student = bert(len(chosen))
    tensors = {}
    for name, tensor in teacher.state_dict().items():
        prefix, _, rest = name.partition("net.layers.")
        if prefix:
            tensors[name] = tensor
            continue
        number, _, inner = rest.partition(".")
        if int(number) in chosen:
            tensors[f"net.layers.{chosen.index(int(number))}.{inner}"] = tensor
    student.load_state_dict(tensors)
    return student


def distillation(teacher: Tagger, net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Soft targets for three quarters, labels for one."""
    x, y = batch
    logits = net(x)
    with torch.no_grad():
        targets = teacher(x)
    weights = torch.full(y.shape, 1 / y.shape[1])
    soft = soft_target_loss(logits, targets, weights, TEMPERATURE)
    return 0.75 * soft + 0.25 * target_loss(logits, y)


def measure(seed: int) -> Row:
    """Nats gained and parameters of the teacher and of each student."""
    ends = draw_windows(word_ends("train"))
    teacher: Any = train_on(partial(bert, 3), ends, seed=seed, steps=TEACHER_STEPS, optim=OPTIM).model
    teacher.eval()
    begin = partial(student_of, teacher)
    shared: dict[str, Any] = {"seed": seed + 100, "steps": STEPS, "optim": OPTIM}
    models = {
        TEACHER: teacher,
        DISTILLED: train_on(begin, ends, objective=partial(distillation, teacher), **shared).model,
        LAYERS: train_on(begin, ends, **shared).model,
        ALONE: train_on(partial(bert, 2), ends, **shared).model,
    }
    return {
        name: {"gain": gain(model), "parameters": count_parameters(model)} for name, model in models.items()
    }


def judge(rows: list[Row]) -> Verdict:
    def column(name: str) -> list[float]:
        return [row[name]["gain"] for row in rows]

    mean = {name: sum(column(name)) / len(rows) for name in ARMS}
    ratios = [row[DISTILLED]["gain"] / row[TEACHER]["gain"] for row in rows]
    share = paired("share of the gain that is kept, less 0.9", ratios, [0.9] * len(rows))
    control = paired("gain, distilled − alone", column(DISTILLED), column(ALONE))
    targets = paired("gain, distilled − layers alone", column(DISTILLED), column(LAYERS))
    finding = "nats a letter gained: " + ", ".join(
        f"{name} {mean[name]:.3f} ({rows[0][name]['parameters']:,} parameters)" for name in ARMS
    )
    tests = [share, control, targets]
    if not share.is_above_zero or not control.is_above_zero:
        return Verdict("not seen here", finding, tests)
    if targets.is_above_zero:
        return Verdict("holds", finding, tests)
    condition = f"the student begins with the teacher's layers, whose targets add nothing: {finding}"
    return Verdict("holds only when", condition, tests)


def draw(rows: list[Row]) -> Any:
    return bars(
        {
            "nats a letter gained": {
                name.replace(" ", "\n"): [r[name]["gain"] for r in rows] for name in ARMS
            },
            "parameters": {name.replace(" ", "\n"): [r[name]["parameters"] for r in rows] for name in ARMS},
        }
    )
