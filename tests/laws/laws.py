"""Laws 1 to 6 of the catalogue. Each takes an entry (or a thing of its shape) and raises AssertionError.

They train the entry's `smoke` recipe on the CPU, and look into no system. The other laws have files of
their own: `import_rules.py` (7), `catalogue.py` (8), `modes.py` (9), `seeds.py` (10), `sources.py` (11),
`names.py` (12), `module_tests.py` (13), `durations_law.py` (14), `legends.py` (15).
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import parity
import torch
from blocks import blocks, cover
from fork_server import run_forked
from safetensors.torch import load_file
from smoke_runs import cut_at, margin, observe, parameters, smoke, updates, words
from torch import Tensor

from torchstone.engine.recipe_fields import field_paths
from torchstone.engine.run import Intervals, fit
from torchstone.parts.facts import Fact, example
from torchstone.verify import Check, relative_error

verification: Any = import_module("torchstone.verify")  # the package's own `verify` is a function

CHILD = Path(__file__).with_name("subprocess_entry.py")

OF_A_KIND = 3  # published figures of a system that make test measures

SHARES = ("accuracy", "clip_fraction")  # metrics of training that are shares

# float32, relative to a tensor's largest value: sums in another order
COMPILED = 1e-4


def trained(entry, *, steps: int, evaluated: bool = True, stages: int | None = None, **fields) -> list[dict]:
    """Train the smoke recipe for so many steps of each stage; the metrics of every step as numbers.

    Args:
        stages: how many of them; by default all.
    """
    disturb()
    rows = []
    for run in itertools.islice(entry.module().build(smoke(entry, **fields)), stages):
        inner = run.update

        def update(batch, inner=inner):
            metrics = inner(batch)
            held = [name for name, value in metrics.items() if getattr(value, "requires_grad", False)]
            assert not held, f"{entry.name}: the metrics {held} of an update hold its graph"
            rows.append({name: float(value) for name, value in metrics.items()})
            return metrics

        run.update, run.steps = update, min(run.steps, steps)
        if not evaluated:
            run.evaluate, run.evaluate_all, run.test, run.best_metric = dict, None, None, None
        fit(run, intervals=Intervals(evaluate=math.ceil(run.steps / 2)), quiet=True)
    return rows


def disturb() -> None:
    """Take the global generators to a place that nobody can count on."""
    torch.manual_seed(int.from_bytes(os.urandom(4)))
    np.random.seed(int.from_bytes(os.urandom(4)))
    random.seed()


def same_seed_same_losses(
    entry, record: dict | None = None, *, steps: int = 30, other_steps: int = 3
) -> None:
    """Law 1: every metric of so many steps again from the same seed, and not from another one.

    Metrics are numbers: shares are shares, and none keeps the graph of its update alive.

    The first run is evaluated before, midway and after, and the second one is not: evaluation changes
    nothing. To their end runs are compared by law 2.

    Args:
        record: of the cached smoke training, which is evaluated before: the first run, then, of its first
            stage. Without it both are trained here, all stages of them.
    """
    if record is None:
        seed, stages = {"seed": 3}, None
        first = trained(entry, steps=steps, **seed)
    else:
        seed, stages = {}, 1
        first = record["stages"][0]["rows"]
        steps = len(first)
    again = trained(entry, steps=steps, evaluated=False, stages=stages, **seed)
    other = trained(entry, seed=4, steps=other_steps, evaluated=False, stages=stages)
    number = seed.get("seed", smoke(entry).seed)
    wrong = [i for i, (a, b) in enumerate(zip(first, again, strict=True), 1) if a != b]
    assert not wrong, (
        f"{entry.name}: seed {number} twice, and step {wrong[0]} differs: "
        f"{first[wrong[0] - 1]} and {again[wrong[0] - 1]}"
    )
    beyond = [
        f"{name} {value}"
        for row in first
        for name, value in row.items()
        if name.endswith(SHARES) and not 0 <= value <= 1
    ]
    assert not beyond, f"{entry.name}: shares beyond 0 and 1: {', '.join(beyond[:3])}"
    assert first[: len(other)] != other, (
        f"{entry.name}: seeds {number} and 4 give the same {len(other)} steps"
    )
    print(f"{entry.name}: {len(first)} steps twice the same, last {first[-1]}; seed 4 {other[-1]}")


def cut_and_resumed(entry, smoke_run: Path, folder: Path) -> None:
    """Law 2: the run folder as it was at a random step, resumed in a fresh process, ends with the same bits."""
    cut = shutil.copytree(smoke_run / "cut", folder / "cut")
    resumed(entry, smoke_run / "whole", cut)


def killed_and_resumed(entry, smoke_run: Path, folder: Path) -> None:
    """Law 2 with a real SIGKILL, in a process that is not watched."""
    steps = updates(entry)
    every, kill = cut_at(entry.name, steps)
    cut = folder / "cut"
    done = run_child("killed", "-", cut, kill, entry.name, *words(steps, every))
    assert done.returncode == -9, f"{entry.name} was to be killed at {kill}: {done.stderr[-2000:]}"
    resumed(entry, smoke_run / "whole", cut)


def faulty_and_resumed(entry, folder: Path, *, steps: int, fault: str) -> None:
    """Law 2 of a shorter run, with one of `faults.py` planted in both processes."""
    every, kill = cut_at(entry.name, steps)
    done = run_child("observed", fault, folder, kill, entry.name, "--steps", steps, *words(steps, every))
    assert done.returncode == 0, done.stderr[-2000:]
    resumed(entry, folder / "whole", folder / "cut", fault)


def resumed(entry, whole: Path, cut: Path, fault: str = "-") -> None:
    assert (whole / "result.json").exists()
    assert not (cut / "result.json").exists()
    meta = json.loads((cut / "checkpoint" / "meta.json").read_text())
    # not in this process: run-time checks of shapes draw from Python's generator
    done = run_child("resumed", fault, cut)
    assert done.returncode == 0, f"{entry.name} could not be resumed: {done.stderr[-2000:]}"
    count = identical(whole, cut)
    print(
        f"{entry.name}: resumed from step {meta['step']} of stage {meta['stage']}; "
        f"{count} tensors and numbers the same to the bit"
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
    messages = [
        f"{n} ({relative_error(a[n].double(), b[n].double()):.2g} apart)"
        if isinstance(a[n], Tensor)
        else f"{n} ({a[n]}, not {b[n]})"
        for n in wrong[:8]
    ]
    assert not wrong, f"{len(wrong)} of {len(a)} differ: {', '.join(messages)}"
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


def run_child(*words, forked: bool = True) -> subprocess.CompletedProcess:
    """`subprocess_entry.py` in a fresh process: forked from an interpreter that has only imported what it needs,
    or an interpreter of its own."""
    line = list(map(str, words))
    if forked:
        done = run_forked("resumes" if line[0] == "resumed" else "trains", line)
    else:
        command = [sys.executable, str(CHILD), *line]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    return done


def learns(entry, record: dict | None = None) -> None:
    """Law 3: the smoke recipe beats the untrained network on held-out splits by a margin."""
    metric, rise = margin(entry)
    last = (record or observe(entry))["stages"][-1]
    # the validation split's, where it has the metric; then the test split's is held against it too
    before = next(
        last["untrained"][f"{s}/{metric}"] for s in ("val", "test") if f"{s}/{metric}" in last["untrained"]
    )
    after = {name: value for name, value in last["trained"].items() if name.split("/")[1] == metric}
    assert after, f"{entry.name}: {metric} was not measured"
    for name, value in after.items():
        message = f"{entry.name}: {name} {before:.4f} untrained, {value:.4f} after {last['steps']} steps"
        print(f"{message}; margin {rise}")
        enough = value - before >= rise if rise > 0 else value - before <= rise
        assert enough, f"{message}, short of the margin {rise}"


def verified(entry, *, sweep: bool = False, only: str | None = None) -> None:
    """Law 4: published figures, and parity with the reference.

    Args:
        sweep: every figure, and every case of the reference; else the first `OF_A_KIND` figures of a kind, and no
            large network all of whose blocks a smaller one has.
        only: `facts` or `reference`, one half of the law.
    """
    if only == "facts":
        entry = with_names(entry, reference=lambda: iter(()))
    elif only == "reference":
        entry = with_names(entry, FACTS=[])
    if not sweep and (facts := entry.module().FACTS):
        chosen = first_of_each_kind(facts)
        print(f"{entry.name}: {len(facts) - len(chosen)} facts are left to make test-all")
        entry = with_names(entry, FACTS=chosen)
    checks = verification.verify(entry) if sweep or only == "facts" else representative_checks(entry)
    for c in checks:
        print(f"{'ok' if c.passed else 'FAILED'} {c.name}: {c.measured}, expected {c.expected}")
    failed = [f"{c.name}: {c.measured}, not {c.expected}" for c in checks if not c.passed]
    assert checks, f"{entry.name} has no checks"
    assert not failed, f"{entry.name}: {'; '.join(failed)}"


def first_of_each_kind(facts: list[Fact]) -> list[Fact]:
    """Figures are named `VARIANT what`; those of the same `what` are measured by the same code."""
    kinds: collections.Counter[str] = collections.Counter()
    chosen = []
    for fact in facts:
        kind = fact.name.partition(" ")[2] or fact.name
        kinds[kind] += 1
        if kinds[kind] <= OF_A_KIND:
            chosen.append(fact)
    return chosen


def representative_checks(entry) -> list[Check]:
    swept = parity.table().get(entry.name)
    if swept is not None:
        print(f"{entry.name}: cases {[number + 1 for number in swept.swept]} are left to make test-all")
    module = entry.module()
    return verification.verify(with_names(entry, reference=lambda: parity.chosen(module, swept)))


def with_names(entry, **names):
    """An entry in whose file those names mean something else."""
    held = SimpleNamespace(**{**vars(entry.module()), **names})
    copy = dataclasses.replace(entry)
    object.__setattr__(copy, "module", lambda: held)  # it is frozen
    return copy


def compiles(entry) -> bool:
    return "compile" in field_paths(smoke(entry))


def compiled_representatives(entries: list, done: set[str]) -> list:
    """So few of the systems that, with those that are `done`, each kind of layer is in the network of one of
    their smoke recipes."""

    def layers(entry) -> set:
        run = next(iter(entry.module().build(smoke(entry))))
        modules = [
            m for item in run.state.values() if isinstance(item, torch.nn.Module) for m in item.modules()
        ]
        sizes[entry.name] = sum(p.numel() for _, p in parameters(run))
        return {type(module) for module in modules if not list(module.children())}

    sizes: dict[str, int] = {}
    kinds = {entry.name: layers(entry) for entry in entries}
    covered = set().union(*(kinds[name] for name in done))
    others = [entry for entry in entries if entry.name not in done]
    return cover(others, lambda entry: kinds[entry.name] - covered, lambda entry: sizes[entry.name])


def eager_is_compiled(entry, *, backend: str = "inductor", steps: int = 3) -> None:
    """Law 5: the update as the recipe compiles it, in one graph, gives the eager losses and gradients.

    Run it where no import hook has wrapped the functions.
    """
    results = []
    fields = {"dropout": 0.0} if entry.name in DROPPED_BY_BLOCKS else {}
    for compiled in (False, True):
        with one_graph(backend):
            run = next(iter(entry.module().build(smoke(entry, compile=compiled, **fields))))
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


# eager attention draws dropout block by block, and compiled code in one fused call: other numbers, as likely
DROPPED_BY_BLOCKS = ("longformer", "bigbird")

LARGEST = 3 * 32 * 32  # numbers in a picture; the others are made of the same blocks, and take minutes

LARGEST_ROWS = 5_000_000  # weights of a network that is given rows, of words or numbers


def every_parameter_learns(entry, record: dict | None = None) -> None:
    """Law 6: in smoke training each trainable parameter receives a gradient that is not all zero; in a
    module that receives none at all (a rule of its own, an average), each parameter changes."""
    for stage in (record or observe(entry))["stages"]:
        own = stage["parameters"] - stage["reached"]
        print(
            f"{entry.name}: {stage['parameters']} parameters reached in {stage['steps']} steps, "
            f"{stage['reached']} by gradient, {own} by a rule of their own"
        )
        assert stage["parameters"], f"{entry.name} has nothing to train"
        assert not stage["idle"], f"{entry.name}: nothing reaches {', '.join(stage['idle'])}"


def small_variants(entry) -> list[str]:
    """The variants for small images, and those that take rows of words or numbers, unless they are huge."""
    return [
        variant
        for variant, (make, shape) in entry.module().VARIANTS.items()
        if math.prod(shape) <= LARGEST and (len(shape) > 1 or size(without_numbers(make)) <= LARGEST_ROWS)
    ]


def without_numbers(make) -> torch.nn.Module:
    """A network on the meta device, unless it looks at its numbers in the making."""
    try:
        with torch.device("meta"):
            return make()
    except RuntimeError:
        return make()


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def representative_variants(entry) -> list[str]:
    """So few of them that each block is in one."""
    variants = entry.module().VARIANTS
    models = {name: without_numbers(variants[name].make) for name in small_variants(entry)}
    return cover(models, lambda name: blocks(models[name]), lambda name: size(models[name]))


def every_variant_learns(entry, *, sweep: bool = False) -> None:
    """Law 6 of the variants: three steps of descent on noise reach each parameter.

    Args:
        sweep: every variant for small inputs; else no one all of whose blocks smaller ones have.
    """
    for variant in small_variants(entry) if sweep else representative_variants(entry):
        make, shape = entry.module().VARIANTS[variant]
        torch.manual_seed(0)
        model = make()
        # words of any vocabulary, numbers for the others
        inputs = tuple(
            torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 2)
            for x in example(model, shape, 2)
        )
        wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        reached: set[str] = set()
        for _ in range(3):  # a branch that starts at zero passes nothing on at the first
            model.zero_grad()
            # each level of a network that grows has layers of its own
            for level in getattr(model, "lods", (None,)):
                options = {} if level is None else {"lod": level}
                # what a head makes of hidden states, where the network itself gives those
                uneven(getattr(model, "logits", model)(*inputs, **options)).backward()
            reached |= {n for n, p in wanted.items() if p.grad is not None and bool(p.grad.any())}
            with torch.no_grad():
                for p in wanted.values():
                    if p.grad is not None:
                        p -= 1e-3 * p.grad
        print(f"{variant}: {len(reached)} of {len(wanted)} parameters reached on noise")
        assert reached == wanted.keys(), f"{variant}: no gradient for {sorted(wanted.keys() - reached)}"


def uneven(output) -> Tensor:
    """A scalar whose slope in each output differs, and is not zero where the outputs are."""
    if not isinstance(output, Tensor):
        return sum(uneven(each) for each in output if isinstance(each, Tensor))
    flat = output.flatten()
    return (flat * torch.linspace(0.5, 1.5, len(flat)) + flat.square() / 2).mean()
