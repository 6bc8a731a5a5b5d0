"""Memory problems: training on the adding problem or the copying task, and the gradient through time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data import identity
from torchstone.data.synthetic.memory_problems import (
    ADDING_BASELINE,
    COPIED,
    HELD_OUT,
    SYMBOLS,
    MemoryProblems,
    copy_sequence,
    memoryless_loss,
)
from torchstone.engine import parallel
from torchstone.engine.run import FORWARDS, Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.plots.compare_runs import compare
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.recurrent import build_network

EVAL_PROBLEMS, EVAL_BATCH = 1000, 250  # held-out problems, the same for every run
GRADIENT_PROBLEMS = 50  # of them, for the gradient through time
SHAPES = {
    "adding": {"inputs": 2, "outputs": 1, "tokens": False, "pool": "last"},
    "copy": {"inputs": SYMBOLS + 2, "outputs": SYMBOLS + 1, "tokens": False, "pool": "each"},
}
MIN_GRADIENT = 1e-12  # relative norm that counts as a vanished gradient
SYNTHETIC = ("synthetic", "drawn")  # what `data` is, alone or with `:LENGTH`; the second is its old name


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network on the adding problem or on copying, over `recipe.seq_len` time steps.

    `loss` is the mean squared error of the sum, or the cross-entropy in nats per time step;
    `symbol_accuracy` is the share of symbols that are copied. `gradient/K` is the norm of the gradient of
    the last output's loss by the state K time steps before, relative to its norm one time step before.

    Raises:
        BadInput: a bidirectional network; other data than `synthetic`.
    """
    if recipe.network.bidirectional:
        raise BadInput("a bidirectional network has only half the distance to remember: not bidirectional")
    kind, length = recipe.task, _length(recipe.data, recipe.seq_len)
    identity.record(f"{kind} over {length} time steps")
    model, model_config = build_network(recipe, cell, **SHAPES[kind])
    device = next(model.parameters()).device
    stream = MemoryProblems(
        kind, length, recipe.batch_size, seed=recipe.seed, device=device, **parallel.share()
    )

    def objective(net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return problem_loss(net(x), y)

    update, state, eval_model = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    held_out = {split: _held_out(kind, length, split, device) for split in HELD_OUT}

    def validate() -> dict[str, float]:
        return {**measure(eval_model, held_out["val"]), **gradient_profile(eval_model, held_out["val"])}

    return Run(
        stream=stream,
        update=update,
        evaluate=validate,
        best_metric="loss",
        examples=Examples(
            recipe.batch_size,
            None,
            EVAL_PROBLEMS,
            "problems",
            evaluation=EVAL_PROBLEMS + FORWARDS * GRADIENT_PROBLEMS,
        ),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=lambda: measure(eval_model, held_out["test"]),
        report=_report,
        metadata={
            "task": kind,
            "variant": recipe.variant,
            "model_config": model_config,
            "length": length,
            "data": f"{kind} over {length} time steps, generated without end",
        },
    )


def _report(folder: Path) -> None:
    """Learning curve and gradient through time; of several runs, `torchstone compare` draws the same."""
    compare([folder.parent], folder / "memory.png")


def _length(spec: str, default: int) -> int:
    """The number of time steps that `synthetic:LENGTH` asks for."""
    word, _, number = spec.partition(":")
    if word not in SYNTHETIC or not (number.isdigit() or not number):
        raise BadInput(
            f"these problems are generated: give data {SYNTHETIC[0]} or {SYNTHETIC[0]}:LENGTH, not {spec}"
        )
    return int(number or default)


def _held_out(kind: str, length: int, split: str, device: torch.device) -> list[tuple]:
    stream = MemoryProblems(kind, length, EVAL_BATCH, seed=HELD_OUT[split], device=device)
    return [next(stream) for _ in range(EVAL_PROBLEMS // EVAL_BATCH)]


def problem_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of numbers, cross-entropy (nats per time step) of symbols."""
    if y.is_floating_point():
        return F.mse_loss(outputs, y)
    return F.cross_entropy(outputs.flatten(0, 1), y.flatten())


@torch.no_grad()
def measure(model: nn.Module, problems: list[tuple]) -> dict[str, float]:
    """Loss on `problems`, and in copying the accuracy of the copied symbols."""
    losses, accuracies = [], []
    with eval_mode(model):
        for x, y in problems:
            outputs = model(x).float()
            losses.append(problem_loss(outputs, y).item())
            if not y.is_floating_point():
                correct = outputs[:, -COPIED:].argmax(-1) == y[:, -COPIED:]
                accuracies.append(correct.float().mean().item())
    metrics = {"loss": sum(losses) / len(losses)}
    if accuracies:
        metrics["symbol_accuracy"] = sum(accuracies) / len(accuracies)
    return metrics


def state_gradient_norms(model: SequenceModel, x: Tensor, y: Tensor) -> Float[Tensor, " time"]:
    """‖∂L/∂sₜ‖ of the state sₜ before each time step (all layers, cells included), with L the loss of the
    last output.

    The mean over problems of the norm. Time steps are computed one by one, in either implementation.
    """
    state, states = model.recurrent.empty(x), []
    with eval_mode(model), torch.enable_grad():
        for t in range(x.shape[1]):
            state = tuple(each.detach().requires_grad_() if t == 0 else each for each in state)
            states.append(state)
            h, state = model.features(x[:, t : t + 1], state=state)
        output = model.head(h[:, -1])
        loss = problem_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y[:, -1])
        flat = [each for state in states for each in state]
        gradients = torch.autograd.grad(loss * len(x), flat)
    size = len(states[0])
    return torch.stack(
        [
            torch.cat([g.transpose(0, 1).flatten(1) for g in gradients[i : i + size]], 1).norm(dim=1).mean()
            for i in range(0, len(gradients), size)
        ]
    )


def gradient_profile(model: SequenceModel, problems: list[tuple]) -> dict[str, float]:
    """`gradient/K`: the gradient's norm K time steps back, relative to that one time step back."""
    x, y = problems[0]
    norms = state_gradient_norms(model, x[:GRADIENT_PROBLEMS], y[:GRADIENT_PROBLEMS]).flip(0)
    distances = [k for power in range(5) for k in (10**power, 2 * 10**power, 5 * 10**power)]
    relative = norms / norms[0].clamp(min=MIN_GRADIENT)
    return {
        f"gradient/{k}": max(float(relative[k - 1]), MIN_GRADIENT) for k in distances if k <= len(relative)
    }


def evaluate(model: SequenceModel, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Loss on 1,000 held-out problems, and `memoryless_loss`, the best loss without memory.
    `synthetic:LENGTH` evaluates over another length than that of training."""
    length = _length(spec, metadata["length"])
    identity.record(f"{metadata['task']} over {length} time steps")
    device = next(model.parameters()).device
    metrics = measure(model, _held_out(metadata["task"], length, "test", device))
    baseline = ADDING_BASELINE if metadata["task"] == "adding" else memoryless_loss(length)
    return {**metrics, "memoryless_loss": baseline, "problems": EVAL_PROBLEMS, "time_steps": length}


@torch.no_grad()
def predict(model: SequenceModel, metadata: dict, inputs: Sequence[str | Path]) -> list[dict]:
    """The sum of the two marked numbers (`0.31 0.5* 0.2 0.77*`), or ten symbols of 1 to 8
    (`3141582671`) repeated after as many blanks as in training.

    Raises:
        BadInput: not two marked numbers of 0 to 1; not ten symbols of 1 to 8.
    """
    device, answers = next(model.parameters()).device, []
    with eval_mode(model):
        for text in map(str, inputs):
            if metadata["task"] == "adding":
                y = model(_numbers(text).to(device))
                answers.append({"input": text, "text": f"{float(y):.4f}", "sum": float(y)})
                continue
            x = _symbols(text, metadata["length"]).to(device)
            symbols = model(x)[0, -COPIED:].argmax(-1).tolist()
            answers.append({"input": text, "text": "".join(map(str, symbols)), "symbols": symbols})
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
