"""Evaluation of an agent: the returns of greedy episodes, in envs of its own, and a video of one.

A network that plays has `greedy(observation) -> actions` (see `envs.actor`). Its metadata has `env`: spec,
wrappers, max_episode_steps.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchstone.data import identity
from torchstone.engine.console import notify, progress
from torchstone.envs.actor import Actor
from torchstone.envs.backends import SyncVectorEnv
from torchstone.envs.make import facts, spaces
from torchstone.envs.offscreen import environment_variables, renderers
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.files import atomic_write
from torchstone.parts.modes import eval_mode
from torchstone.parts.old_keys import with_new_names
from torchstone.tasks.rl.applications import application, known_tables

VALIDATION, TEST = 10_007, 20_011  # seeds, the same for every run, so that all play the same episodes
TRAINING_WRAPPERS = ("SignReward", "EpisodicLife")  # make learning easier, and change the returns


def eval_wrappers(wrappers: Sequence[str]) -> tuple[str, ...]:
    """The wrappers that remain in evaluation."""
    return tuple(w for w in wrappers if w.split(":")[0] not in TRAINING_WRAPPERS)


class PolicyEvaluator:
    """Plays `episodes` greedy episodes, each in an env of its own, or as many in each of `num_envs` envs:
    short ones count as much as long.

    Called with a network and a seed, it gives the returns, env by env. What an environment says of its last
    episode beside the return (`last_episode() -> numbers`) is in `episodes_measured`, for means, and what its
    `derive` makes of these; `successes` says of each whether it ended at its goal, where there are goals.
    """

    def __init__(
        self,
        spec: str,
        wrappers: Sequence[str],
        max_episode_steps: int | None,
        episodes: int,
        device: Any,
        *,
        num_envs: int | None = None,
    ):
        self.spec, self.episodes, self.device = spec, episodes, device
        self.num_envs = min(num_envs or episodes, episodes)
        self.wrappers, self.max_episode_steps = eval_wrappers(wrappers), max_episode_steps
        self.envs: VectorEnv | None = None
        self.bound: int | None = None
        self.episodes_measured: list[dict[str, float]] = []
        self.successes: list[bool] = []

    def _make_envs(self) -> VectorEnv:
        if self.envs is None:
            self.envs = VectorEnv(
                self.spec, self.num_envs, wrappers=self.wrappers, max_episode_steps=self.max_episode_steps
            )
            self.bound = self.envs.bound_episodes()
        return self.envs

    def assumed_limit(self) -> int | None:
        """Steps after which episodes are cut because nothing else limits them, if so."""
        self._make_envs()
        return self.bound

    @torch.no_grad()
    def __call__(self, model: Any, seed: int) -> list[float]:
        envs = self._make_envs()
        envs.reset(seed)
        actor = Actor(model, envs, self.device)
        # how many of each env count
        quotas = [len(range(index, self.episodes, envs.num_envs)) for index in range(envs.num_envs)]
        returns: list[list[float]] = [[] for _ in quotas]
        successes: list[list[bool]] = [[] for _ in quotas]
        done_episodes, self.episodes_measured = 0, []
        with eval_mode(model), progress("episodes", self.episodes) as bar:
            while done_episodes < self.episodes:  # each env's episodes have a limit
                step = envs.step(actor.greedy_action())
                if step.returns:
                    done = step.terminated | step.truncated
                    actor.reset_done(done)
                    indices = done.nonzero()[:, 0].tolist()
                    for index, total in zip(indices, step.returns, strict=True):
                        if len(returns[index]) < quotas[index]:
                            returns[index].append(total)
                            done_episodes += 1
                            self._measure(index)
                    if step.successes:
                        for index, success in zip(indices, step.successes, strict=True):
                            successes[index].append(success)
                bar.update(done_episodes)
        counted = zip(successes, quotas, strict=True)
        self.successes = [success for each, quota in counted for success in each[:quota]]
        return [total for each in returns for total in each]

    def _measure(self, index: int) -> None:
        backend = self._make_envs().backend
        env = backend.envs[index].unwrapped if isinstance(backend, SyncVectorEnv) else None
        if hasattr(env, "last_episode"):
            self.episodes_measured.append(env.last_episode())

    def measure(self, model: Any, seed: int, *, std: bool = False) -> dict[str, float]:
        """`return_statistics` of the episodes, of goal environments the share that end at their goals, and an
        environment's own metrics of them."""
        metrics = return_statistics(self(model, seed), std)
        if self.successes:
            metrics["success_rate"] = sum(self.successes) / len(self.successes)
        if self.episodes_measured:
            episodes = self.episodes_measured
            means = {name: math.fsum(each[name] for each in episodes) / len(episodes) for name in episodes[0]}
            env = self._make_envs().backend.envs[0].unwrapped
            metrics |= means | (env.derive(means) if hasattr(env, "derive") else {})
        return metrics


class EpisodeReturns(list[float]):
    """Returns of episodes, and which of them ended at their goals, where the environment says so."""

    def __init__(self):
        super().__init__()
        self.successes: list[bool] = []

    def add(self, returns: Sequence[float], successes: Sequence[bool]) -> None:
        self += returns
        self.successes += successes

    @property
    def success_rate(self) -> float | None:
        """The share that reached their goals; None where there are none."""
        return sum(self.successes) / len(self.successes) if self.successes else None


def return_statistics(returns: Sequence[float], std: bool = False) -> dict[str, float]:
    """Mean return, and with `std` its standard deviation over episodes."""
    mean = math.fsum(returns) / len(returns)
    if not std:
        return {"return": mean}
    squares = math.fsum((r - mean) ** 2 for r in returns)
    return {"return": mean, "return_std": math.sqrt(squares / max(len(returns) - 1, 1))}


def env_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """`env` of a run's metadata, which earlier versions called `world`."""
    metadata = with_new_names(metadata, {"world": "env"})
    return with_new_names(metadata["env"], {"limit": "max_episode_steps"})


def evaluate(model: Any, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """The return in the run's test, or in another environment `data` with the same spaces."""
    trained = env_metadata(metadata)
    record_env(data, trained["wrappers"], trained["max_episode_steps"])
    env = trained if held_out else {**trained, "spec": data}
    _check_same_spaces(trained, env)
    _check_network_fits(metadata, env)
    if (tables := known_tables(model, env)) is not None:
        return tables.exact_metrics(model, TEST)
    device = next(model.parameters()).device
    return _evaluator(env, env["episodes"], device).measure(model, TEST, std=True)


def record_env(spec: str, wrappers: Sequence[str], max_episode_steps: int | None) -> None:
    """Tell whoever listens which environment is used: all that can be known of it (see `envs.source`)."""
    known = facts(spec, tuple(wrappers)).identity
    chosen = {"wrappers": list(wrappers), "chosen time limit": max_episode_steps}
    identity.record(spec, environment=known | chosen)


def _check_network_fits(metadata: dict[str, Any], env: dict[str, Any]) -> None:
    """The environment may have changed since the network was trained."""
    config, wrappers = metadata.get("model_config"), eval_wrappers(env["wrappers"])
    if config is None:
        return
    observation_space, action_space = spaces(env["spec"], wrappers)
    is_discrete = hasattr(action_space, "n")
    count = int(action_space.n) if is_discrete else int(np.prod(action_space.shape))
    shape = list(observation_space.shape)
    if shape != list(config["observation_shape"]) or count != config["num_actions"]:
        raise BadInput(
            f"{env['spec']} now has observations of {shape} and {count} actions, and the agent was trained "
            f"on {list(config['observation_shape'])} and {config['num_actions']}: restore it, or train anew"
        )


def _check_same_spaces(trained: dict[str, Any], other: dict[str, Any]) -> None:
    if other["spec"] == trained["spec"]:
        return
    known, new = (spaces(env["spec"], eval_wrappers(env["wrappers"])) for env in (trained, other))
    if known != new:
        raise BadInput(
            f"{other['spec']} has other spaces than {trained['spec']}, which the agent was trained in: "
            f"observations {new[0]} and actions {new[1]}, not {known[0]} and {known[1]}"
        )


def play(
    model: Any,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    picture: str | Path | None = None,
    seed: int = TEST,
) -> EpisodeReturns:
    """The returns of `episodes` greedy episodes; the first one is recorded into `video`, `.mp4` or `.gif`.
    Where it cannot be recorded, one line says why, and it is played all the same.

    Args:
        picture: of an application: a `.png` for an episode, or a part of it, that follows from the seed.
    """
    env = env_metadata(metadata)
    _check_network_fits(metadata, env)
    if picture is not None:
        use = application(env["spec"])
        if use is None:
            raise BadInput(f"there is no picture of {env['spec']}: give a video")
        use.picture(model, env, Path(picture), seed)
    device = next(model.parameters()).device
    played = EpisodeReturns()
    if video is not None:
        try:
            played.add(*_record_episode(model, env, Path(video), seed, device))
        except Exception as error:  # noqa: BLE001  a renderer or a codec may raise anything
            why = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            notify(f"no video {video}: {' '.join(why.split())}")
            evaluator = _evaluator(env, 1, device)
            played.add(evaluator(model, seed), evaluator.successes)
    if remaining := episodes - len(played):
        evaluator = _evaluator(env, remaining, device)
        played.add(evaluator(model, seed + 1), evaluator.successes)
    return played


def _evaluator(env: dict[str, Any], episodes: int, device: Any) -> PolicyEvaluator:
    options = (env["spec"], env["wrappers"], env["max_episode_steps"], episodes, device)
    return PolicyEvaluator(*options, num_envs=env.get("num_envs"))


def _record_episode(
    model: Any, env: dict[str, Any], path: Path, seed: int, device: Any
) -> tuple[list[float], list[bool]]:
    """The return of an episode that is recorded, by the first way of rendering that works, and whether it
    reached its goal, if it has one."""
    *others, last = renderers()
    for variables in others:
        try:
            return _record_with(variables, model, env, path, seed, device)
        except Exception:  # noqa: BLE001  whatever a renderer raises, the next one may work
            continue
    return _record_with(last, model, env, path, seed, device)


@torch.no_grad()
def _record_with(
    variables: dict[str, str], model: Any, env: dict[str, Any], path: Path, seed: int, device: Any
) -> tuple[list[float], list[bool]]:
    returns: list[float] = []
    successes: list[bool] = []

    def frames() -> Iterator[np.ndarray]:
        actor = Actor(model, envs, device)
        yield _crop_to_even(envs.render())
        while not returns:  # the env's episodes have a limit
            step = envs.step(actor.greedy_action())
            returns.extend(step.returns)
            successes.extend(step.successes)
            if not returns:  # after the last step the env has been reset
                yield _crop_to_even(envs.render())

    with environment_variables(variables):
        envs = VectorEnv(
            env["spec"],
            1,
            seed=seed,
            wrappers=eval_wrappers(env["wrappers"]),
            max_episode_steps=env["max_episode_steps"],
            render=True,
        )
        envs.bound_episodes()
        try:
            with eval_mode(model), atomic_write(path) as new:
                write_video(new, frames(), envs.render_fps)
        finally:
            envs.close()
    return returns[:1], successes[:1]


def _crop_to_even(frame: np.ndarray) -> np.ndarray:
    """Height and width cropped to even numbers, which video codecs require."""
    height, width = (side // 2 * 2 for side in frame.shape[:2])
    return np.ascontiguousarray(frame[:height, :width])


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames, uint8 `(height, width, 3)`, as a video of `fps` frames per second."""
    frames = iter(frames)
    first = next(frames)
    if path.suffix == ".gif":
        from PIL import Image

        images = (Image.fromarray(frame) for frame in frames)
        Image.fromarray(first).save(path, save_all=True, append_images=images, duration=1000 / fps, loop=0)
        return
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise BadInput("videos need imageio-ffmpeg: pip install 'torchstone[rl]'") from error
    height, width = first.shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, macro_block_size=2, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for frame in itertools.chain([first], frames):
            writer.send(frame)
    finally:
        writer.close()
