"""Every recipe whose data are bundled or generated, as laws 9, 10 and 16 go through them: built, and no more."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from torchstone.engine.recipe_fields import field_paths, replace_fields
from torchstone.engine.run import Run
from torchstone.parts.indices import evenly_spaced
from torchstone.systems import CATALOGUE

# what recipes name that is neither bundled nor generated: fetched from a hub, or a folder or file of one's own
ELSEWHERE = ("hf:", "cifar10", "voc", "jsb-chorales", "fsdd", "ETTh1.csv", "adult")
ELSEWHERE += ("emoji_artists", "horse2zebra", "facades", "imagenet")
ELSEWHERE += ("energyplus:", "sumo:", "gymnasium_robotics:", "ICU-Sepsis", "la01-40")

ON_SCREEN = ("Hopper", "HalfCheetah")  # what MuJoCo draws needs one

# over a second each, most of it data being prepared, an environment or a large network's first update; the
# smoke recipes stay whatever they take
SLOW = frozenset(
    {
        *("deeplab/openmoji", "ddpm/emoji_text", "ddpm/half_hour", "ddpm/mnist5k"),
        *(
            "realnvp/mnist5k",
            "glow/mnist5k",
            "flowpp/mnist5k",
            "flowpp/large",
            "flowpp/digits",
            "realnvp/moons",
            "vae/beta",
        ),
        *("rnn/shakespeare", "lstm/shakespeare", "gru/shakespeare", "lstm/chorales", "lstm/sentiment"),
        *("gru/glucose",),
        *("seq2seq/translate", "seq2seq/bible", "seq2seq/multi30k", "seq2seq/multi30k_plain"),
        *("seq2seq/multi30k_cpu", "transformer/translate", "transformer/multi30k_cpu"),
        *(
            "transformer/multi30k",
            "t5/denoise",
            "t5/texts",
            "ddpg/halfcheetah",
            "td3/halfcheetah",
            "sac/halfcheetah",
        ),
        *("gpt/shakespeare", "gpt/shakespeare_nanogpt", "gpt/shakespeare_gpu"),
        *("performer/shakespeare", "performer/sentiment", "performer/masked"),
        *("bert/sentiment", "bert/masked", "bert/paper"),
        *("albert/sentiment", "albert/masked", "albert/paper"),
        *("distilbert/sentiment", "distilbert/masked", "distilbert/paper"),
        *("longformer/sentiment", "longformer/masked", "longformer/paper"),
        *("bigbird/sentiment", "bigbird/masked", "bigbird/paper"),
        *("linformer/sentiment", "linformer/masked", "linformer/paper"),
        *("vlm/openmoji", "cyclegan/openmoji", "pix2pix/openmoji"),
        *("clip/openmoji", "clip/emoji", "clip/languages"),
        *("ppo/pong", "ppo/pong_half_hour", "dqn/pong", "dqn/nature", "vgg/mnist5k"),
        *("gan/mnist5k", "dcgan/mnist5k", "cgan/mnist5k", "cgan/paper", "vae/conv", "googlenet/mnist5k"),
        *("vqvae/mnist5k", "dit/mnist5k", "ldm/emoji_text", "dcgan/emoji32", "stylegan/mnist5k"),
        "biggan/mnist5k",
        "audiolm/characters",
        *("ppo/hopper", "ppo/lunarlander", "ppo/acrobot", "ppo/cartpole_memory", "dqn/acrobot", "ddpg/paper"),
        *("ctc/characters", "seq2seq/reverse", "gru/forecast", "lstm/copy"),
        *(
            "alphazero/tictactoe",
            "alphazero/connect4",
            "alphazero/go5",
            "muzero/tictactoe",
            "muzero/minigrid",
        ),
    }
)

LENGTHS = ("steps", "total_timesteps", "total_episodes")  # fields that say how long is trained

EVALUATED = 64  # images of a split


# three of them at a time, of networks or replay buffers as their papers have them, need tens of gigabytes; the
# first update of the last trains seven networks on 5,000 steps, for minutes
TOO_LARGE = (
    *("dqn/nature", "bert/paper", "albert/paper", "distilbert/paper", "longformer/paper", "bigbird/paper"),
    *("linformer/paper", "clip/paper", "mbpo/hopper"),
    # hundreds of episodes are played before the first batch
    *("world_models/take_cover", "world_models/car_racing"),
)


def is_at_hand(recipe: Any) -> bool:
    return not recipe.data.startswith(ELSEWHERE)


def recipes(*, paths: bool = False) -> Iterator[Any]:
    """(entry, recipe) as pytest takes them; of recipes that differ in their length alone, the first.

    Args:
        paths: leave more to the sweep: of recipes that use a model in the same way, all but the last, which is
            the shortest.
    """
    for entry in CATALOGUE:
        known: list[Any] = []
        last = {path(recipe): name for name, recipe in entry.module().RECIPES.items() if is_at_hand(recipe)}
        for name, recipe in entry.module().RECIPES.items():
            length = {field: 1 for field in LENGTHS if hasattr(recipe, field)}
            if (
                f"{entry.name}/{name}" in TOO_LARGE
                or not is_at_hand(recipe)
                or (alike := dataclasses.replace(recipe, **length)) in known
            ):
                continue
            known.append(alike)
            is_swept = f"{entry.name}/{name}" in SLOW or (paths and last[path(recipe)] != name)
            marks = pytest.mark.sweep if is_swept else ()
            yield pytest.param((entry, recipe), id=f"{entry.name}/{name}", marks=marks)


def path(recipe: Any) -> tuple:
    """What decides the way in which a recipe's model is evaluated and used."""
    images, envs = ("mnist5k", "digits"), hasattr(recipe, "wrappers")
    data = "images" if recipe.data in images else "environment" if envs else recipe.data
    return (
        data,
        recipe.variant,
        *(getattr(recipe, name, None) for name in ("use", "task", "goal", "condition")),
    )


@contextmanager
def data_read_once() -> Generator[None, None, None]:
    """Functions of ours that read data answer as before where they are asked the same again."""
    replaced = []
    modules = [m for name, m in sys.modules.items() if name.startswith("torchstone.")]
    for module in modules:
        for name, function in list(vars(module).items()):
            home = getattr(function, "__module__", None) or ""
            if home.startswith("torchstone.data.") and inspect.isfunction(function) and reads(name):
                replaced.append((module, name, function))
                setattr(module, name, _remembered(function))
    try:
        yield
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


def reads(name: str) -> bool:
    return name in ("read", "_mnist5k") or name.startswith(("read_", "load_", "gather", "learn_"))


_answers: dict[Any, Any] = {}
_chapter: list[str] = []
_splits = ["few"]  # of images, to validate and to test with


def _remembered(function: Any) -> Any:
    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            key = (function.__module__, function.__qualname__, args, tuple(sorted(kwargs.items())))
            hash(key)
        except TypeError:
            return function(*args, **kwargs)
        if key not in _answers:
            data = function(*args, **kwargs)
            # the classifier that judges samples is kept by the data it was trained and measured on
            few = data if _chapter == ["generative"] else with_few_to_evaluate(data)
            _answers[key] = {"all": data, "few": few}
        return _answers[key][_splits[-1]]

    return answer


def with_few_to_evaluate(data: Any) -> Any:
    """Images with validation and test splits of a few; other data as they are."""
    splits = {name: getattr(data, name, None) for name in ("val", "test")}
    if not all(isinstance(getattr(split, "images", None), Tensor) for split in splits.values()):
        return data
    few = {}
    for name, split in splits.items():
        rows = evenly_spaced(len(split), EVALUATED)
        tensors = {f.name: getattr(split, f.name)[rows] for f in dataclasses.fields(split)}
        few[name] = dataclasses.replace(split, **tensors)
    return dataclasses.replace(data, **few)


def forget_other_data(entry: Any) -> None:
    """What other systems' recipes read is let go: some of it is large."""
    _chapter[:] = [entry.chapter]
    if _answers.get("of") != entry.name:
        _answers.clear()
        _answers["of"] = entry.name


def fresh(entry: Any, recipe: Any, **fields: Any) -> Run:
    """The first run that a recipe builds."""
    if recipe.data.startswith(ON_SCREEN):
        fields["record_video"] = False
    if "compile" in field_paths(recipe):  # torch.compile cannot see through a run-time check of shapes
        fields.setdefault("compile", False)
    forget_other_data(entry)
    with data_read_once():
        return next(iter(entry.module().build(replace_fields(recipe, {"device": "cpu", **fields}))))


def whole(entry: Any, recipe: Any) -> list[Run]:
    """All runs that a recipe builds, later ones from untrained networks, on whole splits."""
    forget_other_data(entry)
    fields = {"device": "cpu"} | ({"compile": False} if "compile" in field_paths(recipe) else {})
    _splits.append("all")
    try:
        with data_read_once():
            return list(entry.module().build(replace_fields(recipe, fields)))
    finally:
        _splits.pop()


# the laws of a recipe one after the other: its data are read once
parametrized = pytest.mark.parametrize("at_hand", list(recipes()), scope="module")
parametrized_by_path = pytest.mark.parametrize("at_hand", list(recipes(paths=True)), scope="module")
