"""Environments by name, with wrappers by name, and checks that an environment fits a system."""

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from torchstone.errors import BadInput, did_you_mean
from torchstone.files import refuse_skip

KNOWN = ("CartPole-v1", "Acrobot-v1", "LunarLander-v3", "Pendulum-v1", "Hopper-v5", "ALE/Pong-v5", "…")
# environments of this package: id, function, time limit
OWN = (
    ("TakeCover-v0", "torchstone.envs.doom:take_cover", 2100),
    ("Dodge-v0", "torchstone.envs.dodge:dodge", 200),
    ("ICU-Sepsis-v2", "torchstone.envs.icu_sepsis:icu_sepsis", 500),
)
# specifications `PREFIX:REST` of this package: the module whose `make` takes REST
PREFIXES = {"energyplus": "torchstone.envs.energyplus", "sumo": "torchstone.envs.traffic"}
WITH_SPLITS = ("energyplus",)  # `PREFIX:REST:SPLIT`, where other data decide on evaluation
HELD_OUT = ("train", "validation", "test")
SIDE_BY_SIDE = 4  # of environments with a prefix, since each is a simulator of its own
ActionKind = Literal["discrete", "continuous", "any"]
SYSTEMS_BY_ACTIONS = {
    "discrete": ("discrete actions", "dqn, a2c or ppo", "CartPole-v1"),
    "continuous": ("continuous actions", "sac, td3, ddpg or ppo", "Pendulum-v1"),
}


def gym() -> Any:
    """Gymnasium, with our environments and those of its plug-ins registered.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise BadInput("environments need gymnasium: pip install 'torchstone[rl]'") from error
    for name, entry_point, limit in OWN:
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point, max_episode_steps=limit)
    try:
        import ale_py
    except ModuleNotFoundError:
        return gymnasium  # all environments but Atari's
    if "ALE/Pong-v5" not in gymnasium.registry:
        gymnasium.register_envs(ale_py)
    return gymnasium


def make_env(
    spec: str, wrappers: Sequence[str], max_episode_steps: int | None, **kwargs: Any
) -> tuple[Any, int]:
    """One environment under `wrappers`, without Gymnasium's own checks and time limit, and its time limit in
    steps (0 for none).

    Args:
        spec: a Gymnasium id; `module:Id` for one that a module registers when it is imported; or
            `module:name` of a class or function in it that makes one. Modules are found in the current folder
            too. `sumo:NAME` is a traffic light, see `envs.traffic`.
        wrappers: each `Name`, of `gymnasium.wrappers` or of this package, or `module:Class` of another one;
            then `:argument=value` for each argument, the value a Python literal.

    Raises:
        BadInput: no such environment or wrapper, one that cannot be made, or a package that it needs is not
            installed.
    """
    refuse_skip(spec)
    gymnasium = gym()
    module = _module(spec)
    if any(name.startswith("AtariPreprocessing") for name in wrappers):
        kwargs["frameskip"] = 1  # the wrapper skips frames itself
    factory = _factory(spec, module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # older versions of an environment
            if factory is None:
                env = gymnasium.make(spec, disable_env_checker=True, **kwargs)
            else:
                env = factory(**_accepted(factory, kwargs))
    except gymnasium.error.UnregisteredEnv as error:
        classes = [n for n, value in (vars(module) if module else {}).items() if isinstance(value, type)]
        own = [f"{spec.partition(':')[0]}:{name}" for name in classes]
        known = did_you_mean(spec, [*gymnasium.registry, *own], KNOWN)
        raise BadInput(f"no environment {spec!r}: {known}") from error
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise BadInput(f"{spec} needs more: pip install 'torchstone[rl]' ({error})") from error
    except BadInput:
        raise
    except Exception as error:  # a constructor may raise anything
        hint = f"{_newer(spec)}{_older_mujoco(spec)}"
        raise BadInput(f"{spec} cannot be made: {_first_line(error)}{hint}") from error
    _check_env(spec, env)
    known = gymnasium.wrappers
    removed = known.TimeLimit, known.OrderEnforcing, known.PassiveEnvChecker
    default_limit = 0
    while isinstance(env, removed):  # the backend counts the steps of episodes
        default_limit = getattr(env, "_max_episode_steps", default_limit)
        env = env.env
    if wrappers:
        env = _record_returns(env)
    if "action_mask" in (getattr(env.observation_space, "spaces", None) or ()):
        from torchstone.envs.wrappers import action_mask_to_info

        env = action_mask_to_info(env)
    max_episode_steps = default_limit if max_episode_steps is None else max_episode_steps
    if max_episode_steps and any("TimeAware" in name for name in wrappers):
        env = known.TimeLimit(env, max_episode_steps)  # which it asks for the limit
    for name in wrappers:
        env = _wrap(env, name)
    from torchstone.envs.wrappers import as_array

    return as_array(env), max_episode_steps


def _module(spec: str) -> Any:
    """The module that a specification names, imported."""
    prefix = spec.partition(":")[0]
    return import_here(prefix, f"the environment {spec}") if ":" in spec and not is_own(spec) else None


def is_own(spec: str) -> bool:
    """Whether a specification begins with a prefix of this package."""
    return ":" in spec and spec.partition(":")[0] in PREFIXES


def in_split(spec: str, split: str) -> str:
    """The environment that evaluates what was trained in `spec`: in another split, where there are such and
    it names none itself."""
    return f"{spec}:{split}" if has_splits(spec) and spec.rpartition(":")[2] not in HELD_OUT else spec


def has_splits(spec: str) -> bool:
    """Whether an environment has a split that trains and others that evaluate; else seeds set them apart."""
    return spec.partition(":")[0] in WITH_SPLITS


def _factory(spec: str, module: Any) -> Any:
    """The class or function `name` of `module:name`, unless an environment is registered by that name."""
    prefix, _, name = spec.partition(":")
    if is_own(spec):
        return functools.partial(importlib.import_module(PREFIXES[prefix]).make, name)
    factory = getattr(module, name, None) if module is not None and name not in gym().registry else None
    return factory if callable(factory) else None


def is_registered(spec: str) -> bool:
    """Whether `spec` is an id that Gymnasium knows, once its module is imported."""
    return (spec.partition(":")[2] or spec) in gym().registry


def _accepted(factory: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of `kwargs` that a class or function takes."""
    known = inspect.signature(factory).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in known.values())
    return {name: value for name, value in kwargs.items() if takes_all or name in known}


def _check_env(spec: str, env: Any) -> None:
    """Refuse what is no single environment of Gymnasium."""
    gymnasium = gym()
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise BadInput(f"{spec} is a vector of environments: give one of them, and num_envs for how many")
    if not isinstance(env, gymnasium.Env):
        kind = type(env)
        is_old = any(base.__module__.split(".")[0] == "gym" for base in kind.__mro__)
        hint = ", but of the older Gym: derive it from gymnasium.Env" if is_old else ""
        raise BadInput(f"{spec} gives a {kind.__name__}, which is no environment of Gymnasium{hint}")
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gymnasium.spaces.Space):
            raise BadInput(f"{spec} states no {name}: set it to a space of gymnasium.spaces")


def import_here(module: str, purpose: str) -> Any:
    """Import a module, from the current folder too: a program that was installed does not look there."""
    is_added = os.getcwd() not in sys.path and "" not in sys.path
    if is_added:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise BadInput(f"{purpose} needs the module {error.name}, which is not installed") from error
    except Exception as error:  # a module may raise anything
        raise BadInput(f"{purpose}: {module} cannot be imported: {_first_line(error)}") from error
    finally:
        if is_added and os.getcwd() in sys.path:
            sys.path.remove(os.getcwd())


def _newer(spec: str) -> str:
    """A word on the newest version of an environment, if `spec` is an older one."""
    name, separator, version = spec.rpartition("-v")
    versions = [each.version for each in gym().registry.values() if each.id.rpartition("-v")[0] == name]
    newest = max((v for v in versions if v is not None), default=None)
    is_older = separator and newest is not None and str(newest) != version
    return f"; the newest version here is {name}-v{newest}" if is_older else ""


def _older_mujoco(spec: str) -> str:
    """From 3.12 on a joint type is in no tuple of MuJoCo's enum, where gymnasium-robotics looks for it."""
    if not spec.startswith("gymnasium_robotics:"):
        return ""
    try:
        version = importlib.metadata.version("mujoco")
    except importlib.metadata.PackageNotFoundError:
        return "; it needs more: pip install 'torchstone[robotics]'"
    is_new = tuple(map(int, version.split(".")[:2])) >= (3, 12)
    return f"; mujoco {version} may be too new for it: pip install 'torchstone[robotics]'" if is_new else ""


def _first_line(error: Exception) -> str:
    """The kind of an error and what it says first; of an assertion without words, what was asserted."""
    lines = str(error).strip().splitlines()
    if not lines and isinstance(error, AssertionError):
        lines = [line for frame in traceback.extract_tb(error.__traceback__)[-1:] if (line := frame.line)]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _wrap(env: Any, text: str) -> Any:
    name, *arguments = re.split(r":(?=\w+=)", text)
    wrapper = _find_wrapper(name)
    try:
        values = dict(argument.split("=", 1) for argument in arguments)
        return wrapper(env, **{n: _parse(v) for n, v in values.items()})
    except BadInput:
        raise
    except Exception as error:
        form = "write Name:argument=value:…, or module:Class:argument=value:…"
        raise BadInput(f"wrapper {text!r} does not fit: {_first_line(error)}; {form}") from error


def _find_wrapper(name: str) -> Any:
    from torchstone.envs import atari, goals, wrappers

    if ":" in name:
        module_name, _, class_name = name.partition(":")
        module = import_here(module_name, f"the wrapper {name}")
        if not callable(getattr(module, class_name, None)):
            classes = [n for n, value in vars(module).items() if isinstance(value, type)]
            raise BadInput(f"no wrapper {class_name!r} in {module_name}: {did_you_mean(class_name, classes)}")
        return getattr(module, class_name)
    known: dict[str, Any] = {n: w for n, w in vars(gym().wrappers).items() if isinstance(w, type)}
    known |= {**atari.WRAPPERS, **wrappers.WRAPPERS, **goals.WRAPPERS}
    if name not in known:
        hint = did_you_mean(name, known)
        raise BadInput(f"no wrapper {name!r}: {hint}; one of another package is module:Class")
    return known[name]


def _parse(text: str) -> Any:
    """A Python literal: a number, a tuple, True or None, in any case; else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _record_returns(env: Any) -> Any:
    """Innermost wrapper: sums the rewards as the environment gave them."""

    class ReturnRecorder(gym().Wrapper):
        total = 0.0

        def reset(self, **kwargs):
            self.total = 0.0
            return self.env.reset(**kwargs)

        def step(self, action):
            result = self.env.step(action)
            self.total += reward_number(result[1])
            return result

    return ReturnRecorder(env)


def reward_number(reward: Any) -> float:
    """A reward as a number: environments give floats, or arrays and tensors of one.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(reward, float):
        return reward
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise TypeError(f"the reward {reward!r:.60} is not one number")
    return float(array.item())


class Facts(NamedTuple):
    """What is known of an environment under its wrappers before it is played."""

    observation_space: Any
    action_space: Any
    left_out: list[str]  # parts of the observations that are text, which agents do not see
    identity: dict[str, Any]  # see `envs.source.describe`


def facts(spec: str, wrappers: Sequence[str] = ()) -> Facts:
    """What is known of an environment, of which one is made once."""
    refuse_skip(spec)
    _module(spec)
    return _facts(spec, tuple(wrappers), registration(spec))


def registration(spec: str) -> Any:
    """What changes where another environment takes the name of one, as in a notebook."""
    found = gym().registry.get(spec.partition(":")[2] or spec)
    if is_own(spec):
        return None
    if found is None:
        module, _, name = spec.partition(":")
        return getattr(sys.modules.get(module), name, None) if name else None
    entry = found.entry_point if isinstance(found.entry_point, Hashable) else id(found.entry_point)
    return entry, repr(found.kwargs), found.max_episode_steps


@functools.lru_cache(64)
def _facts(spec: str, wrappers: tuple[str, ...], _registration: Any) -> Facts:
    from torchstone.envs.source import describe
    from torchstone.envs.wrappers import left_out_of

    env, _ = make_env(spec, wrappers, None)
    found = Facts(env.observation_space, env.action_space, left_out_of(env), describe(env, spec))
    close_env(env)
    return found


def close_env(env: Any) -> None:
    """Close an environment; what it raises then changes nothing."""
    with contextlib.suppress(Exception):
        env.close()


def left_out(spec: str, wrappers: tuple[str, ...] = ()) -> list[str]:
    """The parts of an environment's observations that are text, which agents do not see."""
    return facts(spec, wrappers).left_out


def spaces(spec: str, wrappers: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """Observation and action space of one environment."""
    return facts(spec, wrappers)[:2]


def check_spaces(
    spec: str, action_kind: ActionKind, system: str, wrappers: Sequence[str] = ()
) -> tuple[Any, Any]:
    """The spaces of `spec`, if `system` supports its action space.

    Raises:
        BadInput: it does not; the message names systems that fit the environment, and an environment that
            fits the system.
    """
    observation_space, action_space = spaces(spec, tuple(wrappers))
    known = gym().spaces
    kind = "other"
    if isinstance(action_space, known.Discrete):
        kind = "discrete"
    elif isinstance(action_space, known.Box) and len(action_space.shape) == 1:
        kind = "continuous"
    if kind == "other":
        raise BadInput(
            f"{spec} has the action space {action_space}, which {system} does not support: try an "
            "environment with discrete actions, such as CartPole-v1, or with a vector of continuous ones, "
            "such as Pendulum-v1"
        )
    if action_kind not in (kind, "any"):
        has, systems, _ = SYSTEMS_BY_ACTIONS[kind]
        raise BadInput(
            f"{spec} has {has}, which {system} does not support: try {systems}, or another environment "
            f"such as {SYSTEMS_BY_ACTIONS[action_kind][2]}"
        )
    return observation_space, action_space
