"""Problems of memory: does what was seen long ago still tell, and does its gradient come back that far?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.synthetic.memory_problems import (
    ADDING_BASELINE,
    HELD_OUT,
    COPIED,
    SYMBOLS,
    MemoryProblems,
    copy_sequence,
    memoryless_loss,
)
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.plots.compare_runs import compare
from torchstone.tasks.build_network import build_network
from torchstone.tasks.optimization import gradient_update

EVAL_PROBLEMS, EVAL_BATCH = 1000, 250  # held-out problems, the same for every run
SHAPES = {
    "adding": {"inputs": 2, "outputs": 1, "tokens": False, "pool": "last"},
    "copy": {"inputs": SYMBOLS + 2, "outputs": SYMBOLS + 1, "tokens": False, "pool": "each"},
}
MIN_GRADIENT = 1e-12  # a share of a gradient that is as good as none
SYNTHETIC = "drawn"  # what `data` is, or `drawn:LENGTH`


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network on the adding problem or on copying, over `recipe.length` moments.

    `loss` is the mean squared error of the sum, or the cross-entropy in nats a moment; `recalled` is
    the share of the symbols that come back.
    `gradient/K` is the norm of the last answer's gradient by the state K moments before, relative to
    its norm one moment before.

    Raises:
        BadInput: a network that reads from the end as well; other data than `drawn`.
    """
    if recipe.bidirectional:
        raise BadInput("who reads from both ends has half as far to remember: not bidirectional")
    kind, length = recipe.use, _length(recipe.data, recipe.length)
    model, model_config = build_network(recipe, cell, **SHAPES[kind])
    device = next(model.parameters()).device
    who = {"rank": parallel.rank(), "world_size": parallel.world_size()}
    stream = MemoryProblems(kind, length, recipe.batch_size, seed=recipe.seed, device=device, **who)

    def objective(net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return problem_loss(net(x), y)

    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    held = {split: _held_out(kind, length, split, device) for split in HELD_OUT}

    def validate() -> dict[str, float]:
        return {**measure(judged, held["val"]), **gradient_profile(judged, held["val"])}

    return Run(
        stream=stream,
        update=update,
        evaluate=validate,
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=lambda: measure(judged, held["test"]),
        report=_drawn,
        metadata={
            "task": kind,
            "variant": recipe.variant,
            "model_config": model_config,
            "length": length,
            "data": f"{kind} over {length} moments, drawn without end",
        },
    )


def _drawn(folder: Path) -> None:
    """Error curve and gradient through time; of several runs, `torchstone compare` draws the same."""
    compare([folder.parent], folder / "memory.png")


def _length(spec: str, usual: int) -> int:
    """How many moments `drawn:LENGTH` asks for."""
    word, _, number = spec.partition(":")
    if word != SYNTHETIC or not (number.isdigit() or not number):
        raise BadInput(f"these problems are drawn: give data {SYNTHETIC} or {SYNTHETIC}:LENGTH, not {spec}")
    return int(number or usual)


def _held_out(kind: str, length: int, split: str, device: torch.device) -> list[tuple]:
    stream = MemoryProblems(kind, length, EVAL_BATCH, seed=HELD_OUT[split], device=device)
    return [next(stream) for _ in range(EVAL_PROBLEMS // EVAL_BATCH)]


def problem_loss(answers: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of numbers, cross-entropy (nats a moment) of symbols."""
    if y.is_floating_point():
        return F.mse_loss(answers, y)
    return F.cross_entropy(answers.flatten(0, 1), y.flatten())


@torch.no_grad()
def measure(model: nn.Module, problems: list[tuple]) -> dict[str, float]:
    """Loss on `problems`, and of copying the share of symbols that come back."""
    was_training = model.training
    model.eval()
    losses, right = [], []
    for x, y in problems:
        answers = model(x).float()
        losses.append(problem_loss(answers, y).item())
        if not y.is_floating_point():
            told = answers[:, -COPIED:].argmax(-1) == y[:, -COPIED:]
            right.append(told.float().mean().item())
    model.train(was_training)
    found = {"loss": sum(losses) / len(losses)}
    if right:
        return {**found, "recalled": sum(right) / len(right)}
    return found


def state_gradient_norms(model: SequenceModel, x: Tensor, y: Tensor) -> Float[Tensor, " time"]:
    """‖∂L/∂sₜ‖ for each moment's state sₜ (all layers, cells included), L being the last answer's loss.

    The mean over problems of the norm. Read one moment at a time, on whichever path the network has.
    """
    was_training = model.training
    model.eval()
    state, states = model.recurrent.empty(x), []
    with torch.enable_grad():
        for t in range(x.shape[1]):
            state = tuple(each.detach().requires_grad_() if t == 0 else each for each in state)
            states.append(state)
            h, state = model.hidden(x[:, t : t + 1], state=state)
        answer = model.head(h[:, -1])
        loss = problem_loss(answer, y) if y.is_floating_point() else F.cross_entropy(answer, y[:, -1])
        flat = [each for state in states for each in state]
        slopes = torch.autograd.grad(loss * len(x), flat)
    model.train(was_training)
    size = len(states[0])
    return torch.stack(
        [
            torch.cat([s.transpose(0, 1).flatten(1) for s in slopes[i : i + size]], 1).norm(dim=1).mean()
            for i in range(0, len(slopes), size)
        ]
    )


def gradient_profile(model: SequenceModel, problems: list[tuple]) -> dict[str, float]:
    """`gradient/K`: how much of the gradient of one moment back is left K moments back."""
    x, y = problems[0]
    norms = state_gradient_norms(model, x[:50], y[:50]).flip(0)
    back = [k for power in range(5) for k in (10**power, 2 * 10**power, 5 * 10**power)]
    left = norms / norms[0].clamp(min=MIN_GRADIENT)
    return {f"gradient/{k}": max(float(left[k - 1]), MIN_GRADIENT) for k in back if k <= len(left)}


def evaluate(model: SequenceModel, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Loss on 1,000 held-out problems, and the share of symbols that come back; beside it `forgetful`,
    the loss of the best without a memory. `drawn:LENGTH` asks over another time than it was trained on."""
    length = _length(spec, metadata["length"])
    device = next(model.parameters()).device
    found = measure(model, _held_out(metadata["task"], length, "test", device))
    guess = ADDING_BASELINE if metadata["task"] == "adding" else memoryless_loss(length)
    return {**found, "forgetful": guess, "problems": EVAL_PROBLEMS, "moments": length}


@torch.no_grad()
def predict(model: SequenceModel, metadata: dict, inputs: Sequence[str | Path]) -> list[dict]:
    """The sum of the two marked numbers (`0.31 0.5* 0.2 0.77*`), or ten symbols of 1 to 8
    (`3141582671`) repeated after as many blanks as the model was trained with.

    Raises:
        BadInput: not two marked numbers of 0 to 1; not ten symbols of 1 to 8.
    """
    device, answers = next(model.parameters()).device, []
    model.eval()
    for text in map(str, inputs):
        if metadata["task"] == "adding":
            y = model(_numbers(text).to(device))
            answers.append({"input": text, "text": f"{float(y):.4f}", "sum": float(y)})
            continue
        x = _symbols(text, metadata["length"]).to(device)
        told = model(x)[0, -COPIED:].argmax(-1).tolist()
        answers.append({"input": text, "text": "".join(map(str, told)), "symbols": told})
    return answers


def _numbers(text: str) -> Float[Tensor, "1 time 2"]:
    words = text.replace(",", " ").split()
    try:
        numbers = [float(word.rstrip("*")) for word in words]
    except ValueError:
        numbers = []
    marks = [float(word.endswith("*")) for word in words]
    if sum(marks) != 2 or not all(0 <= number <= 1 for number in numbers) or not numbers:
        raise BadInput(f"give numbers of 0 to 1, two of them marked (0.31 0.5* 0.2 0.77*), not {text!r}")
    return torch.tensor([numbers, marks]).T[None]


def _symbols(text: str, length: int) -> Float[Tensor, "1 time 10"]:
    digits = text.replace(" ", "")
    if len(digits) != COPIED or set(digits) - set("12345678"):
        raise BadInput(f"give {COPIED} symbols of 1 to {SYMBOLS} (3141582671), not {text!r}")
    symbols = torch.tensor([[int(digit) for digit in digits]])
    return copy_sequence(symbols, length)
