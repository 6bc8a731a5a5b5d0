"""Environments opened by name: Gymnasium's own and its plug-ins', under wrappers by their standard names."""

from collections.abc import Sequence
from typing import Any

from torchstone.errors import BadInput, did_you_mean

KNOWN = (
    "CartPole-v1",
    "Acrobot-v1",
    "LunarLander-v3",
    "Pendulum-v1",
    "Hopper-v5",
    "ALE/Pong-v5",
    "…",
)


def gym() -> Any:
    """Gymnasium, with the worlds that its plug-ins bring.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise BadInput("worlds need gymnasium: pip install 'torchstone[worlds]'") from error
    try:
        import ale_py
    except ModuleNotFoundError:
        return gymnasium  # every world but Atari's
    if "ALE/Pong-v5" not in gymnasium.registry:
        gymnasium.register_envs(ale_py)
    return gymnasium


def make(spec: str, wrappers: Sequence[str], limit: int | None, **options: Any) -> tuple[Any, int]:
    """One environment under `wrappers`, without Gymnasium's own checks and clock, and its time limit in
    steps (0 for none). A wrapper is `Name` or `Name:argument=value:…`, of `gymnasium.wrappers`.

    Raises:
        BadInput: no such environment or wrapper, or a package that it needs is not installed.
    """
    gymnasium = gym()
    if any(name.startswith("AtariPreprocessing") for name in wrappers):
        options["frameskip"] = 1  # it does that itself
    try:
        env = gymnasium.make(spec, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise BadInput(f"no world {spec!r}: {did_you_mean(spec, gymnasium.registry, KNOWN)}") from error
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise BadInput(f"{spec} needs more: pip install 'torchstone[worlds]' ({error})") from error
    except (gymnasium.error.Error, TypeError) as error:
        raise BadInput(f"{spec}: {str(error).splitlines()[0]}") from error
    peeled = gymnasium.wrappers.TimeLimit, gymnasium.wrappers.OrderEnforcing
    found = 0
    while isinstance(env, peeled):  # here the clock is the loop's
        found = getattr(env, "_max_episode_steps", found)
        env = env.env
    if wrappers:
        env = _ledger(env)
    if "action_mask" in (getattr(env.observation_space, "spaces", None) or ()):
        from torchstone.envs.wrappers import unmasked

        env = unmasked(env)
    for name in wrappers:
        env = _wrapped(env, name)
    if not isinstance(env.observation_space, gymnasium.spaces.Box):
        env = gymnasium.wrappers.FlattenObservation(env)
    return env, found if limit is None else limit


def _wrapped(env: Any, text: str) -> Any:
    name, *arguments = text.split(":")
    from torchstone.envs import atari, wrappers

    known: dict[str, Any] = {n: w for n, w in vars(gym().wrappers).items() if isinstance(w, type)}
    known |= {**atari.WRAP, **wrappers.WRAP}
    if name not in known:
        raise BadInput(f"no wrapper {name!r}: {did_you_mean(name, known)}")
    try:
        values = dict(argument.split("=", 1) for argument in arguments)
        return known[name](env, **{n: _value(v) for n, v in values.items()})
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise BadInput(f"wrapper {text!r} does not fit: {error}; write Name:argument=value:…") from error


def _value(text: str) -> Any:
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _ledger(env: Any) -> Any:
    """Under all other wrappers: counts the rewards as the world gave them."""

    class Ledger(gym().Wrapper):
        total = 0.0

        def reset(self, **options):
            self.total = 0.0
            return self.env.reset(**options)

        def step(self, action):
            outcome = self.env.step(action)
            self.total += float(outcome[1])
            return outcome

    return Ledger(env)
