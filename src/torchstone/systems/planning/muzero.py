"""MuZero: planning with a model that is learned, without the rules of the game.

Paper: Schrittwieser, Antonoglou, Hubert et al., "Mastering Atari, Go, chess and shogi by planning with a
learned model", 2019, arXiv:1911.08265 (Nature 588:604, 2020); reanalyse is its appendix H.

The idea: a search needs no picture of the future, only what it asks for: rewards, values, policies. So three
networks are trained together to predict those, step after step of what was really done; the latent states
between them need not resemble observations at all. The search runs in the latent space, its visits and
values are what the networks are trained on next, and it gets better as they do.

    s⁰        = h_θ(o)                                  representation
    r^k, s^k  = g_θ(s^{k-1}, a^k)                        dynamics: reward and next latent state
    p^k, v^k  = f_θ(s^k)                                prediction: policy and value
    a         ~ N(root, a)^{1/τ}                        a search in g_θ: `parts.rl.mcts`
    z_t       = u_{t+1} + γ u_{t+2} + … + γⁿ ν_{t+n}      ν the value that the search found
    L(θ)      = Σ_{k=0..K} w_k (H(π_{t+k}, p^k) + c H(φ(z_{t+k}), v^k) + H(φ(u_{t+k}), r^k))
    w_0       = 1, other w_k = 1/K                      H the cross-entropy; no r⁰

φ is a two-hot distribution over a support of h(x) = sign(x)(√(|x| + 1) - 1) + εx; of x itself in games, where
x is -1, 0 or 1. Latent states are scaled
to 0..1, and the gradient at the start of each dynamics step is halved. An episode's end is absorbing:
beyond it rewards and values are 0 and there is no policy. With two players γ is -γ: the value of the next
state is the opponent's.

Shapes: observations `(batch, *shape)`; `forward` gives the logits of policies `(batch, K+1, actions)`, values
`(batch, K+1, atoms)` and rewards `(batch, K, atoms)` for observations and actions `(batch, K)`.

What differs from the paper: small networks of fully connected layers, by Adam; positions are sampled
uniformly; reanalyse renews what is stored rather than what is sampled. An episode that a time limit cut is
bootstrapped.

A board game (`--data tic_tac_toe`, `connect_four`, `openspiel:NAME`) is played by the one network for both
players in turn. The rules are asked for legal moves at the root, and for the end, as the paper does. What is
trained on is also turned and mirrored, as AlphaGo Zero does; MuZero's paper does not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.search_stream import GameEnvs, UnrolledBatch
from torchstone.envs.wrappers import FRAME_SIZE
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase
from torchstone.parts.rl import mcts
from torchstone.parts.rl.actor_critic import FEATURE_DIM, image_encoder
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.networks import mlp
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.rl.running_mean_std import RunningMeanStd
from torchstone.parts.rl.value_support import expected_value, scale_value, unscale_value, value_target
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common, model_based
from torchstone.tasks.rl import evaluate as agents
from torchstone.tasks.rl.evaluate import TEST
from torchstone.tasks.selfplay import inference as games
from torchstone.tasks.selfplay import train as selfplay
from torchstone.tasks.selfplay.players import is_game

__all__ = [
    *("FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "is_game", "play", "reference", "rival"),
    "table",
]

# what of the paper is written out here
STORY = ("search", "loss")


@dataclass(frozen=True)
class Recipe:
    data: str = (
        "CartPole-v0"  # Gymnasium environment id, or module:Id or module:name; or a game, as of alphazero
    )
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "muzero_mlp"  # network: muzero_frames for frames
    hidden: tuple[int, ...] = (128,)  # hidden layer widths of each of the networks
    latent_dim: int = 64  # dimension of a latent state
    value_support: int = 15  # largest atom S of values, which are transformed by h
    reward_support: int = 5  # largest atom of rewards
    num_simulations: int = 25  # simulations of a search
    num_envs: int = 32  # number of parallel environments
    num_steps: int = 4  # steps per environment between updates
    unroll_steps: int = 5  # steps K for which the model is unrolled
    n_step: int = 10  # number of reward steps before bootstrapping
    gamma: float = 0.997  # discount factor γ
    gradient_steps: int = 64  # minibatches per update
    batch_size: int = 128  # minibatch size
    buffer_size: int = 100_000  # replay buffer size in steps
    reanalyse: int = 256  # positions that are searched again before each update; 0 for none
    learning_starts: int = 1000  # steps at random before learning starts
    value_coef: float = 0.25  # weight c of the value loss
    c_puct: float = 1.25  # exploration constant c1 of the search
    dirichlet_alpha: float = 0.25  # α of the noise at the root
    dirichlet_fraction: float = 0.25  # share of the noise at the root
    optimizer: VectorOptimizer = "adamw"  # optimizer
    lr: float = 3e-3  # learning rate
    weight_decay: float = 1e-4  # weight decay
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    max_grad_norm: float | None = 10.0  # gradient clipping: largest norm, none for no limit
    total_timesteps: int = 19_000  # environment steps after learning_starts, rounded up to whole updates
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    opponent: str = "auto"  # of games: opponent in evaluation: perfect, random, mcts:N, or auto
    eval_games: int = 200  # of games: games of the test, every other one begun; at most 40 in training
    eval_positions: int = 500  # of games: positions in which a solver says which moves are best; 0 for none
    seed: int = 0  # random seed of weights, environments, noise, actions and replay
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        """Each after num_envs x num_steps steps."""
        return common.num_updates(self.total_timesteps, self.num_envs * self.num_steps)


CARTPOLE = Recipe()
RECIPES = {
    # torchstone train muzero   20,000 steps, about two minutes of a core; return 200 on 4 of 5 seeds
    "cartpole": CARTPOLE,
    # torchstone train muzero/tictactoe   four minutes of one core; loses 1.7 % of games against perfect play
    "tictactoe": replace(
        CARTPOLE,
        data="tic_tac_toe",
        hidden=(256,),
        latent_dim=128,
        value_support=1,
        reward_support=1,
        num_simulations=32,
        num_envs=128,
        num_steps=8,
        n_step=4,
        gamma=1.0,
        gradient_steps=250,
        buffer_size=32_768,
        reanalyse=1024,
        learning_starts=2048,
        value_coef=1.0,
        dirichlet_alpha=1.0,
        lr=2e-3,
        total_timesteps=45_000,
    ),
    # torchstone train muzero/minigrid   unmeasured; pip install minigrid
    "minigrid": replace(
        CARTPOLE,
        data="minigrid:MiniGrid-Empty-5x5-v0",
        wrappers=(
            "minigrid.wrappers:RGBImgPartialObsWrapper",
            "minigrid.wrappers:ImgObsWrapper",
            "ResizeFrames",
        ),
        max_episode_steps=100,
        variant="muzero_frames",
        value_support=2,
        reward_support=2,
        num_envs=16,
        gradient_steps=8,
        batch_size=64,
        buffer_size=10_000,
        reanalyse=64,
        total_timesteps=9000,
    ),
    # for tests: seconds
    "smoke": replace(
        CARTPOLE,
        hidden=(64,),
        latent_dim=32,
        num_simulations=8,
        batch_size=64,
        gradient_steps=24,
        reanalyse=32,
        learning_starts=512,
        total_timesteps=2048,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 4.0)  # the smoke recipe ends long before the pole stands


def scale_output(network: nn.Sequential, gain: float = 1.0) -> nn.Sequential:
    """The network with its last layer's weights times `gain`, and no bias there."""
    last: Any = network[-1]
    with torch.no_grad():
        last.weight.mul_(gain)
        last.bias.zero_()
    return network


def scale_latent(s: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
    """Each latent state from 0 to 1, the range of an action's encoding (appendix G)."""
    low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    return (s - low) / (high - low + 1e-5)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by `factor`."""
    return x * factor + x.detach() * (1 - factor)


def is_frame(observation_shape: Sequence[int]) -> bool:
    return len(observation_shape) == 3 and tuple(observation_shape[1:]) == FRAME_SIZE


class MuZeroNetwork(nn.Module):
    """Representation h, dynamics g and prediction f. Frames go through the CNN of the DQN of 2013 first.

    Args:
        hidden: hidden layer widths of each.
        value_support, reward_support: largest atoms.
        gamma: discount of the search; negative where two players move in turn, whose values are not
            transformed by h.
        num_simulations, c_puct: of the search by which `greedy` acts.
        normalize: normalize observations by running statistics (`normalizer.update`).
        observation_scale: what frames are divided by.
        continuous: in the metadata of every agent; not used.
    """

    uses_masks = True

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        hidden: Sequence[int] = (128,),
        latent_dim: int = 64,
        value_support: int = 15,
        reward_support: int = 5,
        gamma: float = 0.997,
        num_simulations: int = 25,
        c_puct: float = 1.25,
        normalize: bool = True,
        continuous: bool = False,
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.num_actions, self.gamma, self.scale_values = num_actions, gamma, gamma > 0
        self.num_simulations, self.c_puct = num_simulations, c_puct
        self.normalizer = RunningMeanStd(tuple(observation_shape)) if normalize else None
        self.observation_scale = observation_scale
        self.is_frame = is_frame(observation_shape)
        self.encoder = image_encoder(observation_shape[0], "small") if self.is_frame else nn.Flatten()
        features = FEATURE_DIM["small"] if self.is_frame else math.prod(observation_shape)
        self.representation = scale_output(mlp((features, *hidden, latent_dim)))
        self.dynamics_body = nn.Sequential(scale_output(mlp((latent_dim + num_actions, *hidden))), nn.ReLU())
        self.dynamics = scale_output(mlp((hidden[-1], latent_dim)))
        self.reward = scale_output(mlp((hidden[-1], 2 * reward_support + 1)), 0.1)
        self.policy = scale_output(mlp((latent_dim, *hidden, num_actions)), 0.1)
        self.value = scale_output(mlp((latent_dim, *hidden, 2 * value_support + 1)), 0.1)

    def represent(
        self, observation: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch latent"]:
        """s⁰ = h(o)."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        if self.is_frame:
            observation = scale_observations(observation, self.observation_scale)
        return scale_latent(self.representation(self.encoder(observation)))

    def step(
        self, latent: Float[Tensor, "batch latent"], action: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch atoms"], Float[Tensor, "batch latent"]]:
        """r, s' = g(s, a); r as logits."""
        x = torch.cat((latent, one_hot(action, self.num_actions).to(latent.dtype)), 1)
        x = self.dynamics_body(x)
        return self.reward(x), scale_latent(latent + self.dynamics(x))

    def predict(self, latent: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        """p, v = f(s), as logits."""
        return self.policy(latent), self.value(latent)

    def unroll(
        self, observation: Float[Tensor, "batch *shape"], action: Int64[Tensor, "batch K"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of policies and values `(batch, K+1, ...)`, and of rewards `(batch, K, atoms)`."""
        latent = self.represent(observation)
        latents, rewards = [latent], []
        for a in action.unbind(1):
            reward, latent = self.step(scale_gradient(latent, 0.5), a)
            latents.append(latent)
            rewards.append(reward)
        stacked = torch.stack(latents, 1)
        return self.policy(stacked), self.value(stacked), torch.stack(rewards, 1)

    def forward(
        self, observation: Float[Tensor, "batch *shape"], action: Int64[Tensor, "batch K"] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`unroll`, by default over one step of action 0."""
        if action is None:
            action = torch.zeros(len(observation), 1, dtype=torch.int64, device=observation.device)
        return self.unroll(observation, action)

    def greedy(
        self,
        observation: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"],
        action_mask: Bool[Tensor, "batch actions"] | None = None,
    ) -> Int64[Tensor, " batch"]:
        """The actions that a search visits most."""
        tree = search(self, observation, action_mask, self.num_simulations, c_puct=self.c_puct)
        return tree.root_visits.max(1).indices


OBSERVATION, FRAMES = (4,), (3, *FRAME_SIZE)
VARIANTS = {
    "muzero_mlp": Variant(partial(MuZeroNetwork, observation_shape=OBSERVATION, num_actions=2), OBSERVATION),
    "muzero_frames": Variant(
        partial(MuZeroNetwork, observation_shape=FRAMES, num_actions=7, normalize=False), FRAMES
    ),
}


def search(
    model: MuZeroNetwork,
    observation: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"],
    legal: Bool[Tensor, "batch action"] | None,
    num_simulations: int,
    *,
    c_puct: float = 1.25,
    noise: tuple[float, float, torch.Generator] | None = None,
) -> mcts.Tree:
    """A search in the learned model, one tree for each observation.

    The model knows no rules: `legal` counts at the root alone, and nothing ends inside.

    Args:
        noise: α, share and generator of the Dirichlet noise at the root, in training alone.
    """

    def recurrent_fn(action: Tensor, latent: Tensor) -> tuple[mcts.RecurrentOutput, Tensor]:
        reward, latent = model.step(latent, action)
        logits, value = model.predict(latent)
        discount = torch.full_like(value[:, 0], model.gamma)
        return mcts.RecurrentOutput(read(reward), discount, logits, read(value)), latent

    read = partial(expected_value, scale=model.scale_values)
    latent = model.represent(observation)
    logits, value = model.predict(latent)
    if legal is not None:
        logits = logits.masked_fill(~legal, -torch.inf)
    if noise is not None:
        logits = mcts.add_dirichlet_noise(logits, *noise)
    root = mcts.RootOutput(logits, read(value), latent)
    # a game's values are bounded as they are, and a move that was not tried counts as a draw
    rule = mcts.Puct(c_init=c_puct, normalize=None if model.gamma < 0 else "tree")
    return mcts.search(root, recurrent_fn, num_simulations, rule=rule)


def search_game(
    model: MuZeroNetwork, game: Any, state: Tensor, num_simulations: int, *, c_puct: float
) -> mcts.Tree:
    """The search from states of a board game."""
    device = next(model.parameters()).device
    observation, legal = game.observe(state).to(device), game.legal_actions(state).to(device)
    return search(model, observation, legal, num_simulations, c_puct=c_puct)


def loss(model: MuZeroNetwork, batch: UnrolledBatch, value_coef: float) -> dict[str, Tensor]:
    """L."""
    policy, value, reward = model.unroll(batch.observation, batch.action)
    num_steps = batch.action.shape[1]
    # w_k; nothing is known of steps beyond a time limit
    weight = torch.full_like(batch.value, 1 / num_steps)
    weight[:, 0] = 1
    weight = weight * batch.is_known

    def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
        return -(target * logits.log_softmax(-1)).sum(-1)

    # H(π, p)
    policy_loss = (weight * batch.is_live * cross_entropy(batch.policy, policy)).sum(1).mean()
    # H(φ(z), v)
    z = value_target(batch.value, value.shape[-1] // 2, model.scale_values)
    value_loss = (weight * cross_entropy(z, value)).sum(1).mean()
    # H(φ(u), r): the reward of an action belongs to the step that it leads to
    u = value_target(batch.reward, reward.shape[-1] // 2, model.scale_values)
    reward_loss = (
        (batch.is_known[:, :-1].to(weight.dtype) / num_steps * cross_entropy(u, reward)).sum(1).mean()
    )
    total = policy_loss + value_coef * value_loss + reward_loss
    return {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "reward_loss": reward_loss}


def temperature(recipe: Recipe, env_steps: int) -> float:
    """τ: 1 in the first half of training, then 1/2, and 1/4 in the last quarter (appendix D); 1 in games."""
    if is_game(recipe.data):
        return 1.0
    share = env_steps / (recipe.learning_starts + recipe.total_timesteps)
    return 1.0 if share < 0.5 else 0.5 if share < 0.75 else 0.25


def network_config(recipe: Recipe, game: Any) -> dict[str, Any]:
    """
    Args:
        game: the board game; None for an environment.

    Raises:
        BadInput: what an environment shows or takes does not fit; or options of environments for a game.
    """
    if game is None:
        spaces = common.model_config(recipe, "muzero", "discrete")
        has_frames = is_frame(spaces["observation_shape"])
        if has_frames != (recipe.variant == "muzero_frames"):
            kind, fits = ("frames", "muzero_frames") if has_frames else ("no frames", "muzero_mlp")
            raise BadInput(f"{recipe.data} has {kind}: --variant {fits}")
        if has_frames:
            spaces["normalize"] = False
    elif recipe.variant == "muzero_frames":
        raise BadInput(f"{recipe.data} is a game without frames: --variant muzero_mlp")
    elif recipe.wrappers or recipe.max_episode_steps is not None:
        raise BadInput(f"--wrappers and --max-episode-steps are of environments, and {recipe.data} is a game")
    else:
        shape = list(game.observation_shape)
        spaces = {"observation_shape": shape, "num_actions": game.num_actions, "normalize": False}
    return spaces | {
        "hidden": list(recipe.hidden),
        "latent_dim": recipe.latent_dim,
        "value_support": recipe.value_support,
        "reward_support": recipe.reward_support,
        # the value of the next state is the opponent's
        "gamma": recipe.gamma if game is None else -recipe.gamma,
        "num_simulations": recipe.num_simulations,
        "c_puct": recipe.c_puct,
    }


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    game = selfplay.make_game(recipe.data) if is_game(recipe.data) else None
    model_config = network_config(recipe, game)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda batch: loss(model, batch, recipe.value_coef),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr, recipe.weight_decay),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
    )

    def search_with_noise(observation: Tensor, legal: Tensor, generator: Any) -> mcts.Tree:
        noise = recipe.dirichlet_alpha, recipe.dirichlet_fraction, generator
        observation, legal = observation.float().to(device), legal.to(device)
        options = {"c_puct": recipe.c_puct, "noise": noise}
        return search(model, observation, legal, recipe.num_simulations, **options)

    def value(observation: Tensor) -> Tensor:
        _, logits = model.predict(model.represent(observation.float().to(device)))
        return expected_value(logits, model.scale_values)

    stream = model_based.make_stream(
        recipe,
        search_with_noise,
        value,
        partial(temperature, recipe),
        model_config["num_actions"],
        None if game is None else GameEnvs(game, recipe.num_envs),
    )

    def update(batch: UnrolledBatch) -> dict:
        step.schedule_lr(batch.number)
        if model.normalizer is not None:
            model.normalizer.update(batch.observation.to(device))
        metrics: dict[str, Any] = {}
        for minibatch in model_based.minibatches(batch, recipe.batch_size, device):
            metrics = step(minibatch)
        return metrics | (common if game is None else model_based).rollout_metrics(batch)

    state = {"optimizer": step.optimizer}
    if game is None:
        yield common.make_run(model, recipe, stream, update, state, model_config)
        return
    examples = selfplay.examples_of(recipe, game, recipe.num_envs * recipe.num_steps)
    arena = {"steps": recipe.updates, "examples": examples}
    yield selfplay.make_run(model, recipe, stream, update, state, model_config, search_game, **arena)


def evaluate(model: Any, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """The test of an environment, or of a game, whichever the run was trained in."""
    if "game" in metadata:
        return games.evaluate(search_game, model, metadata, data, held_out=held_out)
    return agents.evaluate(model, metadata, data, held_out=held_out)


def play(
    model: Any,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    seed: int = TEST,
    video: str | Path | None = None,
    against: str | games.Rival = "random",
    simulations: int | None = None,
    picture: str | Path | None = None,
) -> list[float]:
    """Returns of episodes; or of games, to which the last three options belong."""
    options: dict[str, Any] = {"episodes": episodes, "seed": seed, "video": video}
    if "game" not in metadata:
        return agents.play(model, metadata, **options)
    options |= {"against": against, "simulations": simulations, "picture": picture}
    return games.play(search_game, model, metadata, **options)


def check_game(metadata: dict[str, Any]) -> None:
    """
    Raises:
        BadInput: the run's agent plays no game.
    """
    if "game" not in metadata:
        raise BadInput(f"this agent plays alone in {metadata['env']['spec']}, and that is no game for two")


def table(
    model: Any,
    metadata: dict[str, Any],
    *,
    seed: int = TEST,
    simulations: int | None = None,
    picture: str | Path | None = None,
) -> games.BoardTable:
    check_game(metadata)
    return games.table(search_game, model, metadata, seed=seed, simulations=simulations, picture=picture)


def rival(model: Any, metadata: dict[str, Any]) -> games.Rival:
    check_game(metadata)
    return games.rival(search_game, model, metadata)


# h(x) by hand: √(3 + 1) - 1 + 0.003; √(99 + 1) - 1 + 0.099; and its inverse
FACTS = [
    Fact("h(3)", lambda: round(float(scale_value(torch.tensor(3.0, dtype=torch.float64))), 9), 1.003),
    Fact("h(-99)", lambda: round(float(scale_value(torch.tensor(-99.0, dtype=torch.float64))), 9), -9.099),
    Fact(
        "h⁻¹(9.099)", lambda: round(float(unscale_value(torch.tensor(9.099, dtype=torch.float64))), 6), 99.0
    ),
]


def reference() -> Iterator[ParityCase]:
    """The loss written out, example by example and step by step."""
    from torchstone.references.muzero import muzero_cases

    make_batch = partial(UnrolledBatch, returns=[], number=0, env_steps=0)
    yield from muzero_cases(MuZeroNetwork, loss, make_batch)
