"""The eight laws. Each takes a catalogue entry (or a thing of its shape) and raises AssertionError.

Laws 1, 2, 3, 5 and 6 train the entry's `smoke` recipe on the CPU; they look into no system.
"""

import contextlib
import dataclasses
import inspect
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from torchstone.engine.run import Intervals, Run, fit
from torchstone.parts.facts import example
from torchstone.runs.recipes import comments
from torchstone.tools import docs
from torchstone.verify import relative_error, verify

CHILD = Path(__file__).with_name("subprocess_entry.py")

# by how much a metric of the held-out split must rise (fall, if negative) over the untrained network;
# a system that is judged by something else states `MARGIN = (metric, rise)` in its file
MARGIN = ("accuracy", 0.3)

LINES = 330  # of a system's file

# float32, relative to a tensor's largest value: sums in another order
COMPILED = 1e-4


def smoke(entry, **fields):
    return dataclasses.replace(entry.module().RECIPES["smoke"], device="cpu", **fields)


def trained(entry, *, look=lambda run: None, steps: int | None = None, **fields) -> list[dict]:
    """Train the smoke recipe, all its stages; the metrics of every step as numbers."""
    disturb()
    rows = []
    for run in entry.module().build(smoke(entry, **fields)):
        inner = run.update

        def update(batch, run=run, inner=inner):
            metrics = inner(batch)
            rows.append({name: float(value) for name, value in metrics.items()})
            look(run)
            return metrics

        run.update, run.steps = update, min(run.steps, steps or run.steps)
        fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    return rows


def disturb() -> None:
    """Take the global generators to a place that nobody can count on."""
    torch.manual_seed(int.from_bytes(os.urandom(4)))
    np.random.seed(int.from_bytes(os.urandom(4)))
    random.seed()


def same_seed_same_losses(entry, *, steps: int = 30) -> None:
    """Law 1: every metric of so many steps again from the same seed, and not from another one; to their
    end runs are held against each other by law 2."""
    first, again, other = (trained(entry, seed=seed, steps=steps) for seed in (3, 3, 4))
    wrong = [i for i, (a, b) in enumerate(zip(first, again, strict=True), 1) if a != b]
    assert not wrong, (
        f"{entry.name}: seed 3 twice, and step {wrong[0]} differs: "
        f"{first[wrong[0] - 1]} and {again[wrong[0] - 1]}"
    )
    assert first != other, f"{entry.name}: seeds 3 and 4 give the same {len(first)} steps"
    print(f"{entry.name}: {len(first)} steps twice the same, last {first[-1]}; seed 4 {other[-1]}")


def killed_and_resumed(entry, folder: Path, *, steps: int | None = None, fault: str = "-") -> None:
    """Law 2: a run killed at a random step and resumed in a fresh process ends with the same bits.

    One process trains to the end, then begins once more and is killed; another one resumes.

    Args:
        steps: a shorter run; by default the recipe's own.
        fault: one of `faults.py`, planted in both processes.
    """
    name, random_ = f"{entry.name}/smoke", random.Random(entry.name)
    length = [] if steps is None else ["--steps", steps]
    recipe = smoke(entry)
    steps = steps or getattr(recipe, "updates", None) or recipe.steps
    every = random_.randint(2, max(2, steps // 3))
    kill = random_.choice([k for k in range(every + 1, steps) if k % every])
    whole, cut = folder / "whole", folder / "cut"
    # not in this process: run-time checks of shapes draw from Python's generator
    asked = ["--save-every", every, "--device", "cpu", *length]
    first = child("killed", kill, fault, whole, cut, name, *asked)
    assert first.returncode == -9, f"{name} was to be killed at {kill}: {first.stderr[-2000:]}"
    assert (whole / "result.json").exists()
    assert not (cut / "result.json").exists()
    meta = json.loads((cut / "checkpoint" / "meta.json").read_text())
    second = child("resumed", fault, cut)
    assert second.returncode == 0, f"{name} could not be resumed: {second.stderr[-2000:]}"
    count = identical(whole, cut)
    print(
        f"{name}: killed at step {kill} of {steps}, resumed from {meta['step']} of stage "
        f"{meta['stage']}; {count} tensors and numbers the same to the bit"
    )


def identical(whole: Path, cut: Path) -> int:
    """How many leaves the two folders' checkpoints and rows have in common, if all are equal."""
    files = [folder / "checkpoint" / "model.safetensors" for folder in (whole, cut)]
    contents = [
        {
            "model": load_file(files[i]),
            "state": torch.load(files[i].with_name("state.pt"), weights_only=True),
            "rows": [
                {k: v for k, v in json.loads(line).items() if k not in ("time", "steps_per_second")}
                for line in (folder / "metrics.jsonl").read_text().splitlines()
            ],
            "results": json.loads((folder / "result.json").read_text())["metrics"],
        }
        for i, folder in enumerate((whole, cut))
    ]
    a, b = (dict(leaves(content)) for content in contents)
    assert a.keys() == b.keys(), f"only in one: {sorted(a.keys() ^ b.keys())[:8]}"
    wrong = [name for name in a if not bits_equal(a[name], b[name])]
    said = [
        f"{n} ({relative_error(a[n].double(), b[n].double()):.2g} apart)"
        if isinstance(a[n], Tensor)
        else f"{n} ({a[n]}, not {b[n]})"
        for n in wrong[:8]
    ]
    assert not wrong, f"{len(wrong)} of {len(a)} differ: {', '.join(said)}"
    assert all(any(n.startswith(part) for n in a) for part in ("model.", "state.", "rows."))
    return len(a)


def leaves(tree, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def bits_equal(a, b) -> bool:
    if isinstance(a, Tensor):
        raw = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)
    return type(a) is type(b) and a == b


def child(*words) -> subprocess.CompletedProcess:
    """`subprocess_entry.py` in a fresh interpreter."""
    command = [sys.executable, str(CHILD), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    return done


def learns(entry) -> None:
    """Law 3: the smoke recipe beats the untrained network on the held-out split by a margin."""
    metric, rise = getattr(entry.module(), "MARGIN", MARGIN)
    untrained, run = {}, None
    for run in entry.module().build(smoke(entry)):
        untrained = judged(run)
        fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    assert run is not None, f"{entry.name} builds nothing"
    before, after = untrained[metric], judged(run)[metric]
    said = f"{entry.name}: {metric} {before:.4f} untrained, {after:.4f} after {run.steps} steps"
    print(f"{said}; margin {rise}")
    enough = after - before >= rise if rise > 0 else after - before <= rise
    assert enough, f"{said}, short of the margin {rise}"


def judged(run: Run) -> dict[str, float]:
    return {name: float(value) for name, value in (run.test or run.evaluate)().items()}


def verified(entry) -> None:
    """Law 4: published figures, and parity with the reference."""
    checks = verify(entry)
    for c in checks:
        print(f"{'ok' if c.passed else 'FAILED'} {c.name}: {c.measured}, expected {c.expected}")
    failed = [f"{c.name}: {c.measured}, not {c.expected}" for c in checks if not c.passed]
    assert checks, f"{entry.name} has no checks"
    assert not failed, f"{entry.name}: {'; '.join(failed)}"


def compiles(entry) -> bool:
    return hasattr(smoke(entry), "compile")


def eager_is_compiled(entry, *, backend: str = "inductor", steps: int = 3) -> None:
    """Law 5: the update as the recipe compiles it, in one graph, gives the eager losses and gradients.

    Run it where no import hook has wrapped the functions.
    """
    results = []
    for compiled in (False, True):
        with one_graph(backend):
            run = next(iter(entry.module().build(smoke(entry, compile=compiled))))
            losses, gradients = [], {}
            for step in range(steps):
                metrics = run.update(next(run.stream))
                losses.append({name: torch.as_tensor(v).detach() for name, v in metrics.items()})
                if not step:
                    gradients = {n: p.grad.clone() for n, p in parameters(run) if p.grad is not None}
        results.append((losses, gradients))
    torch._dynamo.reset()
    (losses, gradients), (losses_, gradients_) = results
    assert gradients, f"{entry.name}: no gradients"
    assert gradients.keys() == gradients_.keys(), f"{entry.name}: gradients of other parameters"
    worst = {n: relative_error(gradients_[n], g) for n, g in gradients.items()}
    worst |= {
        f"{metric} of step {i}": relative_error(there[metric], value)
        for i, (here, there) in enumerate(zip(losses, losses_, strict=True), 1)
        for metric, value in here.items()
    }
    name = max(worst, key=worst.__getitem__)
    print(f"{entry.name}, {backend}: {len(worst)} compared, furthest apart {name}, {worst[name]:.2g}")
    assert worst[name] <= COMPILED, (
        f"{entry.name}: compiled differs from eager in {name} by {worst[name]:.2g} > {COMPILED:g}"
    )


@contextlib.contextmanager
def one_graph(backend: str):
    """`torch.compile` that raises where the graph would break."""
    plain = torch.compile

    def whole(*args, **settings):
        return plain(*args, **{**settings, "fullgraph": True, "backend": backend})

    torch.compile = whole
    try:
        yield
    finally:
        torch.compile = plain


def parameters(run: Run) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters of every module in a run's state, by name."""
    return [
        (f"{module}.{name}", p)
        for module, item in run.state.items()
        if isinstance(item, nn.Module)
        for name, p in item.named_parameters()
        if p.requires_grad
    ]


LARGEST = 3 * 32 * 32  # numbers in a picture; the others are made of the same blocks, and take minutes

LARGEST_ROWS = 5_000_000  # weights of a network that is given rows, of words or numbers


def every_parameter_learns(entry) -> None:
    """Law 6: in smoke training each trainable parameter receives a gradient that is not all zero; in a
    module that receives none at all (a rule of its own, an average), each parameter changes.

    Every variant for small pictures too: three steps of descent on noise reach each parameter.
    """
    began: dict[str, Tensor] = {}
    ended: dict[str, nn.Parameter] = {}
    reached: set[str] = set()

    def look(run: Run) -> None:
        for name, p in parameters(run):
            ended[name] = p
            if p.grad is not None and name not in reached and bool(p.grad.any()):
                reached.add(name)

    module = entry.module()
    for run in module.build(smoke(entry)):
        names = [name for name, _ in parameters(run)]
        began.update({name: p.detach().clone() for name, p in parameters(run)})
        inner = run.update
        for _ in range(run.steps):
            inner(next(run.stream))
            look(run)
        own = {n.split(".", 1)[0] for n in names} - {n.split(".", 1)[0] for n in reached}
        idle = [
            name
            for name in names
            if (
                torch.equal(began[name], ended[name]) if name.split(".", 1)[0] in own else name not in reached
            )
        ]
        how = f"{len(reached)} by gradient, {len(names) - len(reached)} by a rule of their own"
        print(f"{entry.name}: {len(names)} parameters reached in {run.steps} steps, {how}")
        assert names, f"{entry.name} has nothing to train"
        assert not idle, f"{entry.name}: nothing reaches {', '.join(idle)}"
    for variant, (make, shape) in module.VARIANTS.items():
        if math.prod(shape) > LARGEST:
            continue
        with torch.device("meta"):
            if len(shape) == 1 and sum(p.numel() for p in make().parameters()) > LARGEST_ROWS:
                continue
        torch.manual_seed(0)
        model = make()
        # words of any vocabulary, numbers for the others
        inputs = tuple(
            torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 2)
            for x in example(model, shape, 2)
        )
        wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        seen: set[str] = set()
        for _ in range(3):  # a branch that starts at zero passes nothing on at the first
            model.zero_grad()
            # what a head makes of hidden states, where the network itself gives those
            uneven(getattr(model, "logits", model)(*inputs)).backward()
            seen |= {n for n, p in wanted.items() if p.grad is not None and bool(p.grad.any())}
            with torch.no_grad():
                for p in wanted.values():
                    if p.grad is not None:
                        p -= 1e-3 * p.grad
        print(f"{variant}: {len(seen)} of {len(wanted)} parameters reached on noise")
        assert seen == wanted.keys(), f"{variant}: no gradient for {sorted(wanted.keys() - seen)}"


def uneven(output) -> Tensor:
    """A scalar whose slope in each output differs, and is not zero where the outputs are."""
    if not isinstance(output, Tensor):
        return sum(uneven(each) for each in output if isinstance(each, Tensor))
    flat = output.flatten()
    return (flat * torch.linspace(0.5, 1.5, len(flat)) + flat.square() / 2).mean()


def complete(entry, docs: Path = docs.FOLDER) -> None:
    """Law 8: what a catalogue entry owes."""
    module = entry.module()
    text, missing = inspect.cleandoc(module.__doc__ or ""), []

    def owes(holds: bool, what: str) -> None:
        if not holds:
            missing.append(what)

    owes(
        tuple(module.VARIANTS) == entry.variants,
        f"variants {entry.variants}, the file has {tuple(module.VARIANTS)}",
    )
    owes(
        tuple(module.RECIPES) == entry.recipes,
        f"recipes {entry.recipes}, the file has {tuple(module.RECIPES)}",
    )
    owes("smoke" in module.RECIPES, "no recipe `smoke`")
    recipe = module.Recipe
    frozen = dataclasses.is_dataclass(recipe) and recipe.__dataclass_params__.frozen
    owes(frozen, "Recipe is no frozen dataclass")
    if frozen:
        names = [field.name for field in dataclasses.fields(recipe)]
        bare = [name for name in names if not comments(recipe).get(name)]
        owes(not bare, f"no comment on {bare}")
        lacking = {"data", "variant", "seed", "device"} - set(names)
        if not {"steps", "total_timesteps", "total_episodes"} & set(names):
            lacking.add("steps")
        owes(not lacking, f"no field {sorted(lacking)}")
        for name, preset in module.RECIPES.items():
            owes(isinstance(preset, recipe), f"recipe {name} is no Recipe")
            known = getattr(preset, "variant", None) in module.VARIANTS
            owes(known, f"recipe {name} has an unknown variant")
    authors = entry.paper.partition(",")[0].split(" and ")[0].split()[-1]
    owes("Paper:" in text, "docstring names no `Paper:`")
    owes(authors in text, f"docstring does not name {authors}")
    owes(str(entry.year) in text, f"docstring does not name {entry.year}")
    owes("What differs from the paper" in text, "docstring does not say what differs")
    owes(len(module.FACTS) > 0, "no FACTS")
    owes(next(iter(module.reference()), None) is not None, "reference() yields nothing")
    # what makes pictures out of noise has nothing to predict
    makes = entry.chapter == "generative" and not hasattr(module, "predict")
    main = "sample" if makes else "play" if entry.chapter == "reinforcement" else "predict"
    for use in ("build", main, "evaluate"):
        owes(callable(getattr(module, use, None)), f"no {use}()")
        owes(use in module.__all__, f"{use} is not in __all__")
    lines = len(Path(module.__file__).read_text().splitlines())
    owes(lines <= LINES, f"{lines} lines, more than {LINES}")
    page = docs / "systems" / f"{entry.name}.md"
    fresh = page.exists() and page.read_text() == docs.page(entry)
    owes(fresh, f"docs/systems/{page.name} is {'stale' if page.exists() else 'missing'} (make docs)")
    print(f"{entry.name}: {lines} lines, {len(module.FACTS)} facts, {len(module.RECIPES)} recipes")
    assert not missing, f"{entry.name}: {'; '.join(missing)}"
