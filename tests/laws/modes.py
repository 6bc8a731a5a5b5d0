"""Law 9: modes are put back.

Evaluating, testing, reporting, predicting, sampling and playing run no layer in training mode, and leave the
model as it was: modes, parameters, buffers, and what is trained. Dropout is in the mode of its module. None of
it grows a graph, but what draws gradients; nor does what acts for the next batch. And no network that nothing
trains, such as a target network or an average, takes part in a graph.
"""

import contextlib
import inspect
import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import predict_inputs
import torch
from laws import bits_equal
from recipes_at_hand import data_read_once, fresh
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_leaves

from torchstone.engine.run import Run
from torchstone.errors import BadInput

# how often each layer is called, about, until a use is cut short: one that goes on has shown what it does
ENOUGH = 2

# how a use is refused that a kind of model does not have, or not before an evaluation that went to its end
NOT_OF_USE = ("nothing to", "no validation scores")

# uses that are made of gradients, and problems that are measured by them, through time
OF_GRADIENTS = ("explain",)
MEASURED_BY_GRADIENTS = ("synthetic",)
PROJECTIONS = dict.fromkeys(
    (("stylegan", "predict"), ("stylegan1", "predict")), "gradients of the style that is looked for"
)

# networks that grow a graph though nothing trains them directly
INDIRECT = {("a2c", "copies"): "each actor's own network, whose gradients train the one that they share"}


class Enough(BaseException):
    """A use of the model has gone on long enough."""


def put_back(entry: Any, recipe: Any, folder: Path, *, whole: bool = False) -> None:
    """Of a fresh run and its first batch.

    Args:
        whole: let every use go on to its end.
    """
    run = fresh(entry, recipe)
    run.folder = folder
    row = {"step": 1, "time": 0.1, "steps_per_second": 1.0, "split": "train", "loss": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")  # which some reports draw
    with graphs_watched(run) as with_graph:
        batch = next(run.stream)
    wrong = [f"stream: {what}" for what in with_graph]
    with dropout_watched() as wrong_dropout:
        wrong += graphs_of_untrained(entry.name, run, lambda: run.update(batch))
    wrong += [f"update: {what}" for what in wrong_dropout]
    done = []
    for name, use in uses(entry.module(), run, recipe, folder):
        done.append(name)
        has_graph = name in OF_GRADIENTS or recipe.data in MEASURED_BY_GRADIENTS
        has_graph = has_graph or (entry.name, name) in PROJECTIONS
        with dropout_watched() as wrong_dropout:
            wrong += [f"{name}: {what}" for what in left_by(run, use, whole=whole, graphs=has_graph)]
        wrong += [f"{name}: {what}" for what in wrong_dropout]
    print(f"{entry.name}: after {', '.join(done)} all is as it was")
    assert not wrong, f"{entry.name}: {'; '.join(wrong)}"


@contextlib.contextmanager
def graphs_watched(run: Run) -> Generator[list[str], None, None]:
    """Layers that act, or make a batch, where a graph grows that nobody goes back through."""
    names = {
        id(m): f"{root}.{name}".rstrip(".")
        for root, net in modules_of(run).items()
        for name, m in net.named_modules()
    }
    grown: dict[str, None] = {}

    def look(module: nn.Module, _: Any) -> None:
        if id(module) in names and torch.is_grad_enabled():
            grown[names[id(module)]] = None

    handle = hooks.register_module_forward_pre_hook(look)
    found: list[str] = []
    try:
        yield found
    finally:
        handle.remove()
        if grown:
            found.append(f"grows a graph: {', '.join(list(grown)[:3])} ({len(grown)} layers)")


@contextlib.contextmanager
def dropout_watched() -> Generator[list[str], None, None]:
    """Calls of dropout whose mode is not that of the module that calls it, whatever the rate."""
    running: list[nn.Module] = []
    wrong: dict[str, None] = {}
    plain = nn.functional.dropout

    def enter(module: nn.Module, _: Any) -> None:
        running.append(module)

    def leave(*_: Any) -> None:
        running.pop()

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if running and training != running[-1].training:
            modes = [("evaluation", "training")[mode] for mode in (training, running[-1].training)]
            kind = type(running[-1]).__name__
            wrong[f"dropout of {kind} is in {modes[0]} mode where the module is in {modes[1]} mode"] = None
        return plain(input, p, training, inplace)

    handles = [
        hooks.register_module_forward_pre_hook(enter),
        hooks.register_module_forward_hook(leave, always_call=True),
    ]
    nn.functional.dropout = dropout
    found: list[str] = []
    try:
        yield found
    finally:
        nn.functional.dropout = plain
        for handle in handles:
            handle.remove()
        found += wrong


def modules_of(run: Run) -> dict[str, nn.Module]:
    return {name: item for name, item in run.state.items() if isinstance(item, nn.Module)}


def uses(module: Any, run: Run, recipe: Any, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everything that is done with a model but training it."""
    yield "evaluate", run.evaluate
    if run.test is not None:
        yield "test", run.test
    if run.report is not None:
        report, pictures = run.report, folder / "report"
        pictures.mkdir()
        yield "report", lambda: report(pictures)
    model, metadata = run.state["model"], run.metadata
    # a model that is being pretrained is not yet of use on the recipe's own data
    is_pretrained = metadata["task"] == "masked" and getattr(recipe, "task", None) == "classify"
    if hasattr(module, "evaluate") and not is_pretrained:
        yield "eval", lambda: module.evaluate(model, metadata, recipe.data, held_out=True)
    if hasattr(module, "predict"):
        given, options = predict_inputs.for_predict(metadata, folder)
        yield "predict", lambda: module.predict(model, metadata, given, **options)
        if hasattr(module, "explain"):
            yield "explain", lambda: module.explain(model, metadata, given, folder / "explained.png")
    for verb, settings in (("sample", {"num_samples": 2}), ("play", {"episodes": 1})):
        function = getattr(module, verb, None)
        if function is not None:
            known = inspect.signature(function).parameters
            takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
            length = {"max_new_tokens": 8} if "max_new_tokens" in known or takes_all else {}
            yield verb, lambda f=function, s={**settings, **length}: f(model, metadata, **s)


def left_by(run: Run, use: Callable[[], Any], *, whole: bool = False, graphs: bool = False) -> list[str]:
    """What is wrong while the model is used, and after.

    Args:
        graphs: whether the use is one of gradients.
    """
    models, wrong = modules_of(run), []
    names = {
        id(m): f"{root}.{name}".rstrip(".") for root, net in models.items() for name, m in net.named_modules()
    }
    mix(models)
    before = state_of(models)
    in_training: dict[str, None] = {}
    with_graph: dict[str, None] = {}
    calls, most = 0, None if whole else ENOUGH * len(names)

    def look(module: nn.Module, _: Any) -> None:
        nonlocal calls
        if id(module) in names:
            calls += 1
            if module.training:
                in_training[names[id(module)]] = None
            if torch.is_grad_enabled() and not graphs:
                with_graph[names[id(module)]] = None
            if most is not None and calls > most:
                raise Enough

    handle = hooks.register_module_forward_pre_hook(look)
    try:
        with data_read_once(), contextlib.suppress(Enough):
            use()
    except BadInput as error:
        if not any(message in str(error) for message in NOT_OF_USE):
            raise
    finally:
        handle.remove()
    after = state_of(models)
    if in_training:
        wrong.append(f"in training mode: {', '.join(list(in_training)[:3])} ({len(in_training)} layers)")
    if with_graph:
        wrong.append(f"grows a graph: {', '.join(list(with_graph)[:3])} ({len(with_graph)} layers)")
    for name, value in before.items():
        if isinstance(value, Tensor) and not bits_equal(value, after[name]):
            wrong.append(f"{name} is another afterwards")
        elif not isinstance(value, Tensor) and value != after[name]:
            wrong.append(f"{name} was {value} and is {after[name]}")
    return wrong if len(wrong) < 6 else [*wrong[:5], f"and {len(wrong) - 5} more"]


def mix(models: dict[str, nn.Module]) -> None:
    """Training mode, but for one layer of each that is not, and one weight that is not trained."""
    for model in models.values():
        model.train()
        *_, last = model.modules()
        last.eval()
        for p in list(model.parameters())[-1:]:
            p.requires_grad_(False)


def state_of(models: dict[str, nn.Module]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for root, model in models.items():
        for name, module in model.named_modules():
            found[f"{root}.{name}.training".replace("..", ".")] = module.training
        for name, p in model.named_parameters():
            found[f"{root}.{name}"] = p.detach().clone()
            found[f"{root}.{name}.requires_grad"] = p.requires_grad
        for name, buffer in model.named_buffers():
            found[f"{root}.{name}"] = buffer.clone()
    return found


def graphs_of_untrained(system: str, run: Run, update: Callable[[], Any]) -> list[str]:
    """Networks that grew a graph in an update, and of whose parameters none was given a gradient."""
    roots = {id(m): (name, net) for name, net in modules_of(run).items() for m in net.modules()}
    grown: dict[int, tuple[str, nn.Module]] = {}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        own = any(p.requires_grad for p in module.parameters(recurse=False))
        if own and any(isinstance(x, Tensor) and x.grad_fn is not None for x in tree_leaves(output)):
            name, net = roots.get(id(module), (f"a {type(module).__name__}", module))
            grown[id(net)] = (name, net)

    handle = hooks.register_module_forward_hook(look)
    try:
        update()
    finally:
        handle.remove()
    return [
        f"update: {name} grows a graph, and nothing trains it"
        for name, net in grown.values()
        if all(p.grad is None for p in net.parameters()) and (system, name) not in INDIRECT
    ]
