"""Law 10: each source of chance obeys the seed.

Of a fresh run and its first batch: the same seed gives the same parameters and numbers, and another seed gives
another value to every parameter that is drawn and to every part of the batch; every generator that is seeded
for the batch is seeded otherwise. What is sampled, and where episodes begin, obeys its own seed.
"""

import contextlib
import importlib
import inspect
import pkgutil
import random
import sys
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from laws import bits_equal, disturb
from recipes_at_hand import fresh
from smoke_runs import observe
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from torchstone import data, tasks
from torchstone.engine.run import Run
from torchstone.errors import BadInput

SEEDS = (3, 1_000_003)

# while seeds are noted `torch.Generator` is another class, which no annotation shall be made of
for package in (data, tasks):
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(each.name)

# parameters with fewer values than this are constants, whole or in parts, such as biases of gates
DRAWN = 4

# what is the same whatever the seed, and may be: by system/recipe or * and the end of its name
FIXED_TENSORS = {
    ("vae", "decoder.2.bias"): "begins at the mean of the data",
    ("vae", "decoder.4.bias"): "begins at the mean of the data",
    ("lstm", "head.bias"): "of music begins at the frequency of each key in the data",
    ("perceptron", "batch[0]"): "four rows of XOR, all there are, in their order",
    ("perceptron", "batch[1]"): "four rows of XOR, all there are, in their order",
    ("ppo", "truncated"): "a clock cuts all episodes of Pendulum at the same step",
    **dict.fromkeys(
        ((system, "truncated") for system in ("qmix", "mappo", "maddpg")),
        "a clock cuts all episodes of mpe2 at the same step",
    ),
    ("qmix", "terminated"): "the two-step game ends after two steps",
    ("trpo", "truncated"): "a clock cuts all episodes of Pendulum at the same step",
}

# generators that are seeded the same for every seed when a run is built, by module and function
FIXED_SEEDS = {
    ("torchstone.data.splits", "cut"): "every run is measured on the same split",
    ("torchstone.data.synthetic.memory_problems", "__next__"): "problems to validate with",
    ("torchstone.data.sampler", "_epoch"): "texts to validate with, in one order",
    ("torchstone.data.text.span_corruption", "__next__"): "spans to validate with",
    ("torchstone.envs.job_shop", "read_shops"): "random shops of the test",
}

Places = dict[tuple[str, str], list[int]]


class Drawn(NamedTuple):
    """What a seed gives: tensors by name, and the numbers that generators are seeded with, by place in the source."""

    run: Run
    parameters: dict[str, Tensor]
    batch: dict[str, Tensor]
    seeds_of_build: Places
    seeds_of_batch: Places


def obeyed(entry: Any, recipe: Any) -> None:
    first, again, other = (drawn(entry, recipe, seed) for seed in (SEEDS[0], *SEEDS))
    wrong = differences(first, again) + ignored(entry.name, first, other)
    wrong += options_ignored(entry.module(), first.run)
    print(
        f"{entry.name}: {len(first.parameters)} parameters, {len(first.batch)} parts of a batch, "
        f"{sum(map(len, first.seeds_of_batch.values()))} generators seeded for it"
    )
    assert not wrong, f"{entry.name}: {'; '.join(wrong)}"


def evaluation_repeats(entry: Any, record: dict[str, Any] | None = None) -> None:
    """Law 10 of evaluation: it draws from generators of its own, so that twice it gives the same numbers."""
    stages = (record or observe(entry))["stages"]
    wrong = [each for stage in stages for each in stage["not_repeated"]]
    print(f"{entry.name}: {[stage['untrained'] for stage in stages]}")
    assert all(stage["untrained"] for stage in stages)
    assert not wrong, f"{entry.name}: evaluated twice, {'; '.join(wrong)}"


def drawn(entry: Any, recipe: Any, seed: int) -> Drawn:
    disturb()
    with seeds_noted() as building:
        run = fresh(entry, recipe, seed=seed)
    parameters = {
        f"{name}.{key}": value.detach().clone()
        for name, item in run.state.items()
        if isinstance(item, nn.Module)
        for key, value in item.named_parameters()
    }
    with seeds_noted() as drawing:
        batch = next(run.stream)
    leaves = {
        "batch" + "".join(str(step) for step in path): torch.as_tensor(leaf)
        for path, leaf in tree_flatten_with_path(batch)[0]
        if isinstance(leaf, Tensor | np.ndarray)
    }
    assert parameters, f"{entry.name} has no parameters"
    assert leaves, f"{entry.name} has no batch"
    return Drawn(run, parameters, leaves, building, drawing)


def differences(first: Drawn, again: Drawn) -> list[str]:
    """What the same seed does not give again."""
    wrong = []
    for a, b in ((first.parameters, again.parameters), (first.batch, again.batch)):
        assert a.keys() == b.keys()
        wrong += [f"{name} differs with the same seed" for name in a if not bits_equal(a[name], b[name])]
    return wrong


def ignored(name: str, first: Drawn, other: Drawn) -> list[str]:
    """What another seed leaves as it was."""
    fixed = [ending for system, ending in FIXED_TENSORS if system == name]

    def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], least: int) -> list[str]:
        return [
            f"{key} is the same with another seed"
            for key, value in a.items()
            if key in b
            and not key.endswith(tuple(fixed))
            and bits_equal(value, b[key])
            and len(value.unique()) >= least
        ]

    wrong = same(first.parameters, other.parameters, DRAWN) + same(first.batch, other.batch, 2)
    for place, numbers in first.seeds_of_batch.items():
        if repeated := set(numbers) & set(other.seeds_of_batch.get(place, ())):
            wrong.append(f"{'.'.join(place)} seeds with {min(repeated)} whatever the seed")
    # what is built for evaluation is the same for all; what is seeded in no other way has to be known here
    for place, numbers in first.seeds_of_build.items():
        if numbers == other.seeds_of_build.get(place) and place not in FIXED_SEEDS:
            wrong.append(f"{'.'.join(place)} seeds with {min(numbers)} whatever the seed")
    return wrong


def options_ignored(module: Any, run: Run) -> list[str]:
    """`sample --seed` and `play --seed`: two seeds differ, one seed repeats."""
    wrong = []
    for verb, options in (("play", {"episodes": 4}), ("sample", {"num_samples": 2})):
        if not hasattr(module, verb):
            continue
        try:
            a, b, c = (used(getattr(module, verb), run, seed, options) for seed in (SEEDS[0], *SEEDS))
        except BadInput as error:
            if "nothing to sample" not in str(error):
                raise
            continue
        if a[0] != b[0]:
            wrong.append(f"{verb} differs with the same seed")
        # returns may be those of episodes that all went the same way
        if a[0] == c[0] and (verb == "sample" or a[1] == c[1]) and not is_without_chance(run):
            wrong.append(f"{verb} is the same with another seed")
    return wrong


def is_without_chance(run: Run) -> bool:
    """A matrix game under greedy agents: every play of it goes the same way."""
    return run.metadata.get("team", {}).get("spec", "").startswith("matrix:")


def used(function: Any, run: Run, seed: int, options: dict[str, Any]) -> tuple[list, Places]:
    """What a use of the model gives, as plain lists, and what it seeds."""
    disturb()
    known = inspect.signature(function).parameters
    if "max_new_tokens" in known or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        options = {**options, "max_new_tokens": 8}
    model: Any = run.state["model"]
    with seeds_noted() as seeds:
        found = function(model.eval(), run.metadata, seed=seed, **options)
    return [x.tolist() if isinstance(x, Tensor | np.ndarray) else x for x in found], seeds


def _is_ours(module: str) -> bool:
    is_helper = module == "torchstone.parts.seeding"  # whoever calls it is meant
    return (module.startswith("torchstone") and not is_helper) or "test_planted_faults" in module


@contextlib.contextmanager
def seeds_noted() -> Generator[Places, None, None]:
    """Numbers that generators are seeded with, by the module and function of ours that does it."""
    found: Places = {}

    def note(seed: Any) -> None:
        frame = sys._getframe(2)
        while frame is not None and not _is_ours(frame.f_globals.get("__name__", "")):
            frame = frame.f_back
        if frame is not None and isinstance(seed, int | np.integer):
            place = (frame.f_globals["__name__"], frame.f_code.co_name)
            found.setdefault(place, []).append(int(seed))

    class TorchGenerator(torch.Generator):
        def manual_seed(self, seed: int) -> Any:
            note(seed)
            return super().manual_seed(seed)

    def noted_class(plain: Any) -> Any:
        def init(self: Any, seed: Any = None, *args: Any, **kwargs: Any) -> None:
            note(seed)
            plain.__init__(self, seed, *args, **kwargs)

        return type(plain.__name__, (plain,), {"__init__": init})

    def noted(function: Any) -> Any:
        def call(seed: Any = None, *args: Any, **kwargs: Any) -> Any:
            note(seed)
            return function(seed, *args, **kwargs)

        return call

    patches = [
        (torch, "Generator", TorchGenerator),
        (torch, "manual_seed", noted(torch.manual_seed)),
        (np.random, "default_rng", noted(np.random.default_rng)),
        (np.random, "RandomState", noted_class(np.random.RandomState)),
        (np.random, "SeedSequence", noted_class(np.random.SeedSequence)),
        (random, "Random", noted_class(random.Random)),
    ]
    plain = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, new in patches:
        setattr(owner, name, new)
    try:
        yield found
    finally:
        for owner, name, old in plain:
            setattr(owner, name, old)
