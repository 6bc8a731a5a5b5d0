"""World models in three stages: frames for V, sequences of latents for M, generations for C; and films."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from torchstone.data.sampler import itself, load_position, position_state
from torchstone.engine.console import notify, track
from torchstone.engine.device import select_device
from torchstone.engine.run import Examples, Run
from torchstone.engine.update import OptimConfig
from torchstone.envs.actor import Actor
from torchstone.envs.make import check_spaces
from torchstone.envs.random_episodes import Episode, RandomEpisodes
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.files import atomic_write
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.cma_es import CMAES, check_search
from torchstone.parts.rl.observations import BYTE
from torchstone.parts.seeding import SeedStream, derive_generator, derive_seed
from torchstone.parts.vae.elbo import reparameterize
from torchstone.tasks.optimization import gradient_update, train_only
from torchstone.tasks.rl import evaluate as player
from torchstone.tasks.rl.common import observation_scale
from torchstone.tasks.rl.evaluate import TEST, VALIDATION, PolicyEvaluator, record_env, return_statistics

SIDE_BY_SIDE = 10  # episodes of an evaluation
VALIDATION_DREAMS, TEST_DREAMS = 0, 1  # counters of their generators; training's come after
FRAMES_PER_EPISODE = 100  # that V learns from, at most
CHUNK = 256  # frames that are encoded at once
ZOOM, FRAMES_PER_SECOND = 3, 35.0  # of films


def model_config(recipe: Any, shape: Sequence[int], system: str) -> dict[str, Any]:
    """The arguments of a network that match the spaces of the recipe's environment.

    Args:
        shape: of the frames that the variant takes.

    Raises:
        BadInput: no frames, or frames of another size; actions that are neither discrete nor bounded.
    """
    observation_space, action_space = check_spaces(recipe.data, "any", system, recipe.wrappers)
    found = tuple(observation_space.shape)
    if len(found) != 3:
        raise BadInput(
            f"{recipe.data} has no pixels (observations of {found}), and {system} learns from frames: try "
            "TakeCover-v0 or CarRacing-v3, or muzero for a vector"
        )
    if found != tuple(shape):
        resize = ",".join([*recipe.wrappers, f"ResizeFrames:size={shape[1]}"])
        raise BadInput(
            f"{recipe.data} has frames of {found}, and {recipe.variant} takes {tuple(shape)}: "
            f"--wrappers {resize}"
        )
    config: dict[str, Any] = {"observation_shape": list(found), "continuous": not hasattr(action_space, "n")}
    if config["continuous"]:
        low, high = (bound.astype(float).tolist() for bound in (action_space.low, action_space.high))
        if not all(map(math.isfinite, low + high)):
            raise BadInput(f"{recipe.data} has unbounded actions, which {system} does not support")
        config |= {"num_actions": len(low), "low": low, "high": high}
    else:
        config["num_actions"] = int(action_space.n)
    if config["num_actions"] < 2 and not config["continuous"]:
        raise BadInput(f"{recipe.data} has a single action: there is nothing to learn")
    scale = observation_scale(observation_space)
    return config if scale == BYTE else {**config, "observation_scale": scale}


@dataclass
class Setup:
    """What the three stages share."""

    model: Any
    recipe: Any
    device: torch.device
    episodes: RandomEpisodes
    metadata: dict[str, Any]

    @property
    def validation(self) -> range:
        """Numbers of the episodes to validate with."""
        count = max(1, round(self.recipe.eval_fraction * self.recipe.episodes))
        return range(self.recipe.episodes, self.recipe.episodes + count)

    def play(self, numbers: range) -> Iterator[Episode]:
        """Those random episodes."""
        return track(self.episodes.play(numbers), "random episodes", len(numbers))


def prepare(model: Any, recipe: Any, model_config: dict[str, Any]) -> Setup:
    """
    Raises:
        BadInput: what a later stage would refuse.
    """
    check_search(recipe.population, recipe.sigma)
    record_env(recipe.data, recipe.wrappers, recipe.max_episode_steps)
    episodes = RandomEpisodes(
        recipe.data,
        recipe.wrappers,
        recipe.max_episode_steps,
        seed=recipe.seed,
        dims=model.dims,
        discretize=model.discretize,
        env_action=model.env_action,
    )
    env = {
        "spec": recipe.data,
        "wrappers": list(recipe.wrappers),
        "max_episode_steps": recipe.max_episode_steps,
        "episodes": recipe.eval_episodes,
        "num_envs": min(SIDE_BY_SIDE, recipe.eval_episodes),
        "exact": True,
    }
    metadata = {"task": "play", "variant": recipe.variant, "model_config": model_config, "env": env}
    metadata["dream"] = {"temperature": recipe.temperature, "seed": recipe.seed}
    return Setup(model, recipe, select_device(recipe.device), episodes, metadata)


# ------------------------------------------------------------------------------------------------- V


class FrameBatches:
    """Endless batches of frames of random episodes, and noise; the position is the whole state.

    The frames are played for when the first batch is.
    """

    def __init__(self, setup: Setup, seed: int):
        self.setup, self.seed, self.position = setup, seed, 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    @cached_property
    def train(self) -> UInt8[Tensor, "frames channels height width"]:
        recipe = self.setup.recipe
        return self._collect(range(recipe.episodes), recipe.frames)

    @cached_property
    def val(self) -> UInt8[Tensor, "frames channels height width"]:
        return self._collect(self.setup.validation, min(1000, self.setup.recipe.frames))

    def _collect(self, numbers: range, count: int) -> Tensor:
        """`count` frames, at most, of the first of those episodes: some of each, at random."""
        found: list[Tensor] = []
        left = count
        for number, episode in zip(numbers, self.setup.play(numbers), strict=True):
            generator = derive_generator(self.seed, SeedStream.VAE_FRAMES, -1 - number)
            order = torch.randperm(len(episode.frames), generator=generator)
            found.append(episode.frames[order[: min(FRAMES_PER_EPISODE, left)]])
            left -= len(found[-1])
            if not left:
                break
        return torch.cat(found)

    def __next__(self) -> tuple[Tensor, Float[Tensor, "batch latent"]]:
        setup = self.setup
        generator = derive_generator(self.seed, SeedStream.VAE_FRAMES, self.position)
        index = torch.randint(len(self.train), (setup.recipe.vae_batch_size,), generator=generator)
        noise = torch.randn(len(index), setup.model.config.latent_dim, generator=generator)
        self.position += 1
        return self.train[index].to(setup.device), noise.to(setup.device)


def train_vae(setup: Setup, loss: Callable[[Tensor, Tensor], dict[str, Tensor]]) -> Run:
    """V by itself. Args: loss: (frames from 0 to 1, noise) -> metrics."""
    model, recipe = setup.model, setup.recipe
    train_only(model, model.vae)
    stream = FrameBatches(setup, recipe.seed)
    optim = OptimConfig(optimizer=recipe.optimizer, lr=recipe.vae_lr)
    parts = gradient_update(
        model,
        optim,
        lambda _, batch: loss(model.frames(batch[0]), batch[1]),
        steps=recipe.vae_steps,
        parameters=model.vae.parameters(),
    )

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        frames, generator = stream.val, torch.Generator().manual_seed(VALIDATION)
        sums: dict[str, float] = {}
        for chunk in frames.split(CHUNK):
            noise = torch.randn(len(chunk), model.config.latent_dim, generator=generator)
            with eval_mode(model):
                losses = loss(model.frames(chunk.to(setup.device)), noise.to(setup.device))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(chunk) / len(frames)
        return sums

    return Run(
        stream=stream,
        update=parts.update,
        evaluate=evaluate,
        state={**parts.state, "stream": stream},
        steps=recipe.vae_steps,
        examples=Examples(recipe.vae_batch_size, recipe.frames, min(1000, recipe.frames), "frames"),
        metadata=setup.metadata | {"data": describe(setup)},
    )


def describe(setup: Setup) -> str:
    """What is played before training, in words."""
    recipe = setup.recipe
    return (
        f"{recipe.data}: {recipe.episodes:,} random episodes, played anew for V and M and when they "
        f"are resumed, {len(setup.validation):,} more to validate with; V, M and C are trained in turn"
    )


# ------------------------------------------------------------------------------------------------- M


class LatentBatch(NamedTuple):
    """Sequences of latents, and what happened between them."""

    z: Float[Tensor, "batch time_1 latent"]  # one more than steps
    action: Float[Tensor, "batch time dims"]
    restart: Float[Tensor, "batch time"]  # 1 where an episode begins
    goes_on: Float[Tensor, "batch time"]  # 1 where the next latent is of the same episode
    end: Float[Tensor, "batch time"]  # 1 where the episode ends after the action, other than by a time limit


class Latents(NamedTuple):
    """Encoded episodes, one after another."""

    mean: Float[Tensor, "frames latent"]
    logvar: Float[Tensor, "frames latent"]
    action: Float[Tensor, "frames dims"]
    restart: Float[Tensor, " frames"]
    goes_on: Float[Tensor, " frames"]
    end: Float[Tensor, " frames"]

    def sequences(self, starts: Tensor, length: int, noise: Tensor) -> LatentBatch:
        """Those of `length` steps that begin there, with latents sampled by the noise."""
        index = starts[:, None] + torch.arange(length + 1)
        mean, logvar = self.mean[index.flatten()], self.logvar[index.flatten()]
        z = reparameterize(mean, logvar, noise.flatten(0, 1)).unflatten(0, index.shape)
        return LatentBatch(z, *(column[index[:, :-1]] for column in self[2:]))


class LatentBatches:
    """Endless `LatentBatch`es; the position is the whole state.

    Sequences begin anywhere and run over the ends of episodes. Episodes are encoded by V when the first batch
    is wanted: V must be trained by then.
    """

    def __init__(self, setup: Setup, seed: int):
        self.setup, self.seed, self.position = setup, seed, 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    @cached_property
    def train(self) -> Latents:
        """Also sets the latents with which dreams begin."""
        setup = self.setup
        latents = self._encode(range(setup.recipe.episodes))
        first = latents.restart.nonzero()[:, 0]
        first = first[torch.arange(setup.model.config.num_initial) % len(first)]
        setup.model.initial_mean.copy_(latents.mean[first])
        setup.model.initial_logvar.copy_(latents.logvar[first])
        return latents

    @cached_property
    def val(self) -> Latents:
        return self._encode(self.setup.validation)

    @torch.no_grad()
    def _encode(self, numbers: range) -> Latents:
        columns = [self._encode_episode(episode) for episode in self.setup.play(numbers)]
        latents = Latents(*(torch.cat(column) for column in zip(*columns, strict=True)))
        if len(latents.mean) <= self.setup.recipe.seq_len:
            raise BadInput(
                f"{len(numbers)} episodes have {len(latents.mean)} frames, fewer than a sequence of "
                f"{self.setup.recipe.seq_len} steps needs: more --episodes, or a smaller --seq-len"
            )
        return latents

    def _encode_episode(self, episode: Episode) -> list[Tensor]:
        model, device = self.setup.model, self.setup.device
        with eval_mode(model):
            pairs = [model.vae.encode(model.frames(each.to(device))) for each in episode.frames.split(CHUNK)]
        mean, logvar = (torch.cat(column).cpu() for column in zip(*pairs, strict=True))
        restart, goes_on, end = torch.zeros(3, len(mean))
        restart[0], goes_on[:-1], end[-1] = 1.0, 1.0, float(episode.is_terminated)
        return [mean, logvar, episode.actions, restart, goes_on, end]

    def __next__(self) -> LatentBatch:
        recipe, latents = self.setup.recipe, self.train
        generator = derive_generator(self.seed, SeedStream.LATENT_SEQUENCES, self.position)
        last = len(latents.mean) - recipe.seq_len
        starts = torch.randint(last, (recipe.rnn_batch_size,), generator=generator)
        shape = (len(starts), recipe.seq_len + 1, latents.mean.shape[1])
        batch = latents.sequences(starts, recipe.seq_len, torch.randn(shape, generator=generator))
        self.position += 1
        return LatentBatch(*(x.to(self.setup.device) for x in batch))


def train_rnn(
    setup: Setup, memoryless: nn.Module, loss: Callable[[nn.Module, LatentBatch], dict[str, Tensor]]
) -> Run:
    """M by itself, and a network without memory on the same batches."""
    model, recipe = setup.model, setup.recipe
    train_only(model, model.mdn_rnn)
    stream = LatentBatches(setup, recipe.seed)
    optim = OptimConfig(optimizer=recipe.optimizer, lr=recipe.rnn_lr, max_grad_norm=recipe.max_grad_norm)
    parts, other = (
        gradient_update(
            module,
            optim,
            lambda _, batch, network=network: loss(network, batch),
            steps=recipe.rnn_steps,
            parameters=network.parameters(),
        )
        for module, network in ((model, model.mdn_rnn), (memoryless, memoryless))
    )

    def update(batch: LatentBatch) -> dict[str, Tensor]:
        metrics = parts.update(batch)
        return {**metrics, "memoryless_nll": other.update(batch)["nll"]}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        latents, length = stream.val, recipe.seq_len
        starts = torch.arange(0, len(latents.mean) - length, length)
        generator = torch.Generator().manual_seed(VALIDATION)
        weighted: dict[str, list[float]] = {}
        for some in starts.split(recipe.rnn_batch_size):
            noise = torch.randn(len(some), length + 1, latents.mean.shape[1], generator=generator)
            batch = LatentBatch(*(x.to(setup.device) for x in latents.sequences(some, length, noise)))
            with eval_mode(model, memoryless):
                losses = loss(model.mdn_rnn, batch)
                losses["memoryless_nll"] = loss(memoryless, batch)["nll"]
            for name, value in losses.items():
                weighted.setdefault(name, []).append(float(value) * len(some) / len(starts))
        return {name: math.fsum(values) for name, values in weighted.items()}

    steps = recipe.rnn_batch_size * recipe.seq_len
    state = {**parts.state, "memoryless": memoryless, "memoryless_optimizer": other.state["optimizer"]}
    state |= {"memoryless_lr_schedule": other.state["lr_schedule"], "stream": stream}
    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        test=evaluate,
        state=state,
        steps=recipe.rnn_steps,
        examples=Examples(steps, None, len(setup.validation) * 300, "steps"),
        metadata=setup.metadata,
    )


# ------------------------------------------------------------------------------------------------- C


class Generations:
    """Generations of CMA-ES: each a batch of candidates with its number."""

    def __init__(self, search: CMAES):
        self.search = search

    __iter__ = itself

    def __next__(self) -> tuple[int, Float[Tensor, "population n"]]:
        return self.search.generation, self.search.ask()

    def state_dict(self) -> dict[str, Any]:
        return self.search.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.search.load_state_dict(state)


class Figures:
    """Numbers of an earlier stage, which the last one's test repeats."""

    def __init__(self, numbers: dict[str, float]):
        self.numbers = numbers

    def state_dict(self) -> dict[str, float]:
        return dict(self.numbers)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.numbers = dict(state)


def train_controller(setup: Setup, lives: Callable[..., Tensor], earlier: dict[str, float]) -> Run:
    """C by CMA-ES, in the dream or in the world.

    Args:
        lives: the dream: candidates, `rollouts` and `generator` -> steps that they live.
        earlier: results of M's stage.
    """
    model, recipe = setup.model, setup.recipe
    train_only(model, model.controller)
    search = CMAES(
        model.controller_weights(),
        recipe.sigma,
        recipe.population,
        seed=recipe.seed,
        is_diagonal=recipe.is_diagonal,
    )
    stream, has_end = Generations(search), model.config.has_end
    test_figures = {name.removeprefix("test/"): x for name, x in earlier.items() if name.startswith("test/")}
    figures = Figures({name: x for name, x in test_figures.items() if name.endswith("nll")})
    evaluator = partial(PolicyEvaluator, recipe.data, recipe.wrappers, recipe.max_episode_steps)
    few = max(8, recipe.eval_episodes // 10)
    validator = evaluator(few, setup.device, num_envs=SIDE_BY_SIDE)
    tester = evaluator(recipe.eval_episodes, setup.device, num_envs=SIDE_BY_SIDE)
    trainer = evaluator(recipe.rollouts, setup.device, num_envs=SIDE_BY_SIDE)

    def in_dream(candidates: Tensor, rollouts: int, counter: int) -> Tensor:
        generator = derive_generator(recipe.seed, SeedStream.DREAMS, counter)
        return lives(candidates, rollouts=rollouts, generator=generator).mean(1).cpu()

    def in_world(candidates: Tensor, number: int) -> Tensor:
        seed, returns = derive_seed(recipe.seed, SeedStream.EPISODES, number), []
        for candidate in candidates:
            model.set_controller(candidate)
            each = trainer(model, seed)
            returns.append(math.fsum(each) / len(each))
        return torch.tensor(returns)

    def update(batch: tuple[int, Tensor]) -> dict[str, Tensor | float]:
        number, candidates = batch
        is_dream = recipe.controller_env == "dream"
        if is_dream:
            score = in_dream(candidates, recipe.rollouts, 2 + number)
        else:
            score = in_world(candidates, recipe.episodes + len(setup.validation) + number)
        search.tell(-score)
        model.set_controller(search.mean)
        prefix = "dream_" if is_dream else ""
        return {
            f"{prefix}population_return": score.mean(),
            f"{prefix}population_best": score.max(),
            "sigma": search.sigma,
        }

    def dream_metrics(counter: int) -> dict[str, float]:
        if not has_end:
            return {}
        with eval_mode(model):
            score = in_dream(model.controller_weights()[None], recipe.eval_dreams, counter)
        return {"dream_return": float(score)}

    def evaluate() -> dict[str, float]:
        return return_statistics(validator(model, VALIDATION)) | dream_metrics(VALIDATION_DREAMS)

    def test() -> dict[str, float]:
        returns = return_statistics(tester(model, TEST), std=True)
        return returns | dream_metrics(TEST_DREAMS) | figures.numbers

    def report(folder: Path) -> None:
        try:
            play(model, setup.metadata, episodes=1, video=folder / "dream.mp4")
        except Exception as error:  # noqa: BLE001  the training is finished, whatever an env does now
            notify(f"no video of a dream: {error}")

    batch = recipe.population * recipe.rollouts
    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        test=test,
        # what only lived in the dream is chosen by it too
        best_metric="dream_return" if recipe.controller_env == "dream" else "return",
        state={"model": model, "stream": stream, "figures": figures},
        steps=recipe.steps,
        # an evaluation's episodes are of frames, which cost several steps of a dream
        examples=Examples(
            *(batch, None, few, "episodes"),
            evaluation=(recipe.eval_dreams if has_end else 0) + 8 * few,
            update=batch,
            is_at_most=True,
        ),
        report=report if recipe.record_video else None,
        metadata=setup.metadata,
    )


# ---------------------------------------------------------------------------------------------- films


def play(
    model: Any,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    seed: int = TEST,
) -> list[float]:
    """The returns of `episodes` greedy episodes; with `video`, `.mp4` or `.gif`, a film of the first one:
    reality, what V makes of it, and a dream that begins with the same frame."""
    if video is None:
        return player.play(model, metadata, episodes=episodes, seed=seed)
    env = player.env_metadata(metadata)
    with eval_mode(model), torch.no_grad():
        frames, total = real_episode(model, env, seed)
        generator = torch.Generator().manual_seed(seed)
        panels = film(model, frames, metadata["dream"]["temperature"], generator)
    pictures = torch.cat(panels, 3).permute(0, 2, 3, 1).repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2)
    try:
        with atomic_write(Path(video)) as new:
            player.write_video(new, iter(pictures.numpy()), FRAMES_PER_SECOND)
    except Exception as error:  # noqa: BLE001  a codec may raise anything
        notify(f"no video {video}: {' '.join(str(error).split())}")
    rest = episodes - 1
    return [total] + (player.play(model, metadata, episodes=rest, seed=seed + 1) if rest else [])


def real_episode(model: Any, env: dict[str, Any], seed: int) -> tuple[Tensor, float]:
    """The observations of a greedy episode `(time, channels, height, width)`, and its return."""
    envs = VectorEnv(
        env["spec"],
        1,
        seed=seed,
        wrappers=player.eval_wrappers(env["wrappers"]),
        max_episode_steps=env["max_episode_steps"],
    )
    envs.bound_episodes()
    actor, frames = Actor(model, envs, model.low.device), []
    try:
        while True:  # the env's episodes have a limit
            frames.append(envs.observation)
            step = envs.step(actor.greedy_action())
            if step.returns:
                return torch.cat(frames), step.returns[0]
    finally:
        envs.close()


def film(
    model: Any, frames: Tensor, temperature: float, generator: torch.Generator
) -> list[UInt8[Tensor, "time 3 height width"]]:
    """Reality, its reconstruction, and a dream from the same first frame; black once the dream has ended."""
    scaled = model.frames(frames.to(model.low.device))
    first = model.vae.encode(scaled[:1])[0]
    latents = model.imagine(first, len(frames) - 1, temperature, generator)
    pairs = [model.vae.encode(each)[0] for each in scaled.split(CHUNK)]
    panels = [scaled, decode(model, torch.cat(pairs)), torch.zeros_like(scaled)]
    panels[2][: len(latents)] = decode(model, latents)
    return [(panel.clamp(0, 1) * 255).byte().cpu() for panel in panels]


def decode(model: Any, z: Float[Tensor, "time latent"]) -> Float[Tensor, "time channels height width"]:
    return torch.cat([model.vae.decode(each) for each in z.split(CHUNK)])
