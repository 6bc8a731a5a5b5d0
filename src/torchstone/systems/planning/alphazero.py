"""AlphaZero: learning board games by self-play, with a tree search that the network guides and is taught by.

Paper: Silver, Hubert, Schrittwieser et al., "Mastering chess and shogi by self-play with a general
reinforcement learning algorithm", 2017, arXiv:1712.01815; before it, "Mastering the game of Go without human
knowledge", Nature 550:354, 2017 (AlphaGo Zero), whose network and symmetries are used.

The idea: a search that a network guides plays better than the network. So the network is trained to say at
once what the search said after a while, π, and who won in the end, z; which makes the search better, and so
on. It starts from random weights and the rules.

    (p, v)  = f_θ(s)                                     probabilities of moves; expected outcome, -1 to 1
    a       = argmax_a Q(s,a) + c(s) P(s,a) √N(s) / (1 + N(s,a))           in the tree
    P(root) = (1 - ε) p + ε η,   η ~ Dir(α)                                noise, so that all moves are tried
    π(a)    ∝ N(root, a)^(1/τ)                           τ = 1 for the first moves, then the most visited
    L(θ)    = (z - v)² - π·log p                         and weight decay c‖θ‖²

Every value is in the view of the player to move: v of the next state counts for the opponent, with the sign
changed, and z is 1 for the winner's positions and -1 for the loser's. Illegal moves have P = 0 in the search.

Shapes: observations `(batch, planes, rows, columns)`, or `(batch, n)`; `forward` gives logits of all actions
`(batch, actions)` and v `(batch,)`.

What differs from the paper: many games are searched at a time, so that the network is asked about all of them
at once; networks are small, by Adam; a search begins without visits, unless `keep_trees`. `random_opening`
begins games with a few random moves, and `q_weight` mixes the value that the search found into z: both are
off where a recipe does not say so. What the network sees is `envs.board_games` and `envs.openspiel`: the
stones of the player to move and of the other, or the planes that open_spiel gives with what they leave out.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.board_games import PerfectPlayer, connect_four, positions_by_ply, tic_tac_toe
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, on_meta
from torchstone.parts.rl import mcts
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.selfplay import inference, train
from torchstone.tasks.selfplay.players import search_game

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference", "rival"]
__all__ += ["table"]

# what of the paper is written out here
STORY = ("search", "loss")


@dataclass(frozen=True)
class Recipe:
    data: str = (
        "tic_tac_toe"  # game: tic_tac_toe, connect_four, or openspiel:NAME, of two players in the open
    )
    variant: str = "alphazero_mlp"  # network
    hidden: tuple[int, ...] = (128, 128)  # hidden layer widths of alphazero_mlp
    channels: int = 32  # filters of a residual network
    blocks: int = 4  # residual blocks
    num_games: int = 128  # games that are played at a time
    num_moves: int = 8  # moves in each game between updates
    num_simulations: int = 64  # simulations of a search
    c_puct: float = 1.25  # exploration constant c of the search
    dirichlet_alpha: float = 1.0  # α of the noise at the root; about 10 / number of legal moves
    dirichlet_fraction: float = 0.25  # share ε of the noise at the root
    temperature_moves: int = 30  # first moves of a game that are sampled by visits, not the most visited
    random_opening: int = 0  # games begin after up to so many random moves
    q_weight: float = 0.0  # share of the search's value in the value target, beside the outcome
    keep_trees: bool = False  # go on with the tree below the move that was made
    gradient_steps: int = 120  # minibatches per update
    batch_size: int = 128  # positions in a minibatch
    buffer_size: int = 16_384  # positions that are kept
    learning_starts: int = 1024  # positions of finished games before learning starts
    optimizer: VectorOptimizer = "adamw"  # optimizer
    lr: float = 2e-3  # learning rate
    weight_decay: float = 1e-4  # weight decay c
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    steps: int = 30  # number of updates, each after num_games × num_moves moves
    opponent: str = "auto"  # opponent in evaluation: perfect, random, mcts:N with N random play-outs, or auto
    eval_games: int = 200  # games of the test, every other one begun; at most 40 in training
    eval_positions: int = 500  # positions of the test in which a solver says which moves are best; 0 for none
    seed: int = 0  # random seed of weights, noise, moves and replay
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train alphazero   4,000 games, 50 seconds of one core; no loss in 200 games against perfect
    # play on all of 3 seeds
    "tictactoe": Recipe(),
    # torchstone train alphazero/connect4   400 seconds of one core; 0.912 of its moves keep the game's value
    # where moves differ (a search with 64 random play-outs: 0.81, with 512: 0.89)
    "connect4": Recipe(
        data="connect_four",
        hidden=(256, 256, 256),
        num_games=256,
        num_moves=4,
        c_puct=2.0,
        random_opening=10,
        q_weight=0.5,
        gradient_steps=16,
        batch_size=512,
        buffer_size=131_072,
        learning_starts=4096,
        steps=200,
    ),
    # torchstone train alphazero/go5   850 seconds of one core; wins 0.96 of its games against a search with
    # 100 random play-outs
    "go5": Recipe(
        data="openspiel:go(board_size=5)",
        hidden=(256, 256),
        num_games=64,
        num_simulations=48,
        dirichlet_alpha=0.4,
        q_weight=0.5,
        gradient_steps=32,
        batch_size=256,
        buffer_size=32_768,
        learning_starts=2048,
        steps=200,
        eval_games=100,
    ),
    # for tests: seconds
    "smoke": Recipe(
        num_games=32,
        num_moves=5,
        num_simulations=12,
        gradient_steps=40,
        buffer_size=2048,
        learning_starts=128,
        lr=4e-3,
        steps=10,
        eval_games=40,
        eval_positions=100,
    ),
}

MARGIN = ("score", 0.15)


class MLPNetwork(nn.Module):
    """Policy and value of observations of any shape, by layers of ReLU: logits `(batch, actions)` and v
    `(batch,)`."""

    def __init__(
        self, observation_shape: Sequence[int], num_actions: int, *, hidden: Sequence[int] = (128, 128)
    ):
        super().__init__()
        widths = [math.prod(observation_shape), *hidden]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.body = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
        self.policy, self.value = nn.Linear(widths[-1], num_actions), nn.Linear(widths[-1], 1)

    def forward(self, observation: Float[Tensor, "batch *shape"]) -> tuple[Tensor, Tensor]:
        x = self.body(observation.flatten(1))
        return self.policy(x), self.value(x)[:, 0].tanh()


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return (x + self.norm2(self.conv2(y))).relu()


class ResidualNetwork(nn.Module):
    """AlphaGo Zero's network: a convolution, residual blocks, and two heads: logits `(batch, actions)` and v
    `(batch,)`.

    Args:
        observation_shape: planes, rows, columns.
        policy_channels, value_channels: filters of the 1 × 1 convolutions of the heads.
        value_hidden: width of the value head's hidden layer.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        channels: int = 256,
        blocks: int = 19,
        policy_channels: int = 2,
        value_channels: int = 1,
        value_hidden: int = 256,
    ):
        super().__init__()
        planes, rows, columns = observation_shape
        self.stem = nn.Sequential(
            nn.Conv2d(planes, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

        def head(filters: int) -> list[nn.Module]:
            convolution = nn.Conv2d(channels, filters, 1, bias=False)
            return [convolution, nn.BatchNorm2d(filters), nn.ReLU(), nn.Flatten()]

        cells = rows * columns
        self.policy = nn.Sequential(*head(policy_channels), nn.Linear(policy_channels * cells, num_actions))
        self.value = nn.Sequential(
            *head(value_channels),
            nn.Linear(value_channels * cells, value_hidden),
            nn.ReLU(),
            nn.Linear(value_hidden, 1),
        )

    def forward(self, observation: Float[Tensor, "batch plane row column"]) -> tuple[Tensor, Tensor]:
        x = self.blocks(self.stem(observation))
        return self.policy(x), self.value(x)[:, 0].tanh()


TIC_TAC_TOE, GO = (2, 3, 3), (17, 19, 19)
VARIANTS = {
    "alphazero_mlp": Variant(partial(MLPNetwork, observation_shape=TIC_TAC_TOE, num_actions=9), TIC_TAC_TOE),
    "alphazero_small": Variant(
        partial(
            ResidualNetwork,
            observation_shape=(2, 6, 7),
            num_actions=7,
            channels=32,
            blocks=4,
            policy_channels=8,
            value_channels=4,
            value_hidden=64,
        ),
        (2, 6, 7),
    ),
    "alphazero_go": Variant(partial(ResidualNetwork, observation_shape=GO, num_actions=362), GO),
}


def search(
    model: nn.Module,
    game: Any,
    state: Tensor,
    num_simulations: int,
    *,
    c_puct: float,
    noise: tuple[float, float, torch.Generator] | None = None,
    tree: mcts.Tree | None = None,
) -> mcts.Tree:
    """The search that the network guides, one tree for each state.

    Args:
        noise: α, ε and a generator, in self-play; never in a match.
    """
    device = next(model.parameters()).device

    def outputs(state: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = (each.cpu() for each in model(game.observe(state).to(device)))
        # illegal moves have P = 0
        return logits.masked_fill(~game.legal_actions(state, done), -torch.inf), value

    def root_noise(logits: Tensor) -> Tensor:
        assert noise is not None
        alpha, fraction, generator = noise
        return mcts.add_dirichlet_noise(logits, alpha, fraction, generator)

    rule = mcts.Puct(c_init=c_puct, normalize=None)
    mixed = None if noise is None else root_noise
    return search_game(game, state, outputs, num_simulations, rule=rule, root_noise=mixed, tree=tree)


def loss(
    model: nn.Module,
    observation: Float[Tensor, "batch *shape"],
    policy: Float[Tensor, "batch action"],
    value: Float[Tensor, " batch"],
) -> dict[str, Tensor]:
    """L; its weight decay is the optimizer's."""
    logits, v = model(observation)
    # (z - v)²
    value_loss = mse_loss(v, value)
    # -π·log p
    policy_loss = -(policy * logits.log_softmax(1)).sum(1).mean()
    return {"loss": value_loss + policy_loss, "value_loss": value_loss, "policy_loss": policy_loss}


def network_config(recipe: Recipe, game: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "observation_shape": list(game.observation_shape),
        "num_actions": game.num_actions,
    }
    if recipe.variant == "alphazero_mlp":
        return config | {"hidden": list(recipe.hidden)}
    if len(game.observation_shape) != 3:
        shape = game.observation_shape
        raise BadInput(
            f"{game.name} is no board for convolutions, with observations of {shape}: --variant alphazero_mlp"
        )
    return config | {"channels": recipe.channels, "blocks": recipe.blocks}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    game = train.make_game(recipe.data)
    model_config = network_config(recipe, game)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda batch: loss(model, *batch),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr, recipe.weight_decay),
        lr_schedule=linear_schedule(1.0, 0.0, recipe.steps) if recipe.anneal_lr else None,
    )

    def search_with_noise(state: Tensor, generator: Any, **options) -> mcts.Tree:
        noise = recipe.dirichlet_alpha, recipe.dirichlet_fraction, generator
        simulations = recipe.num_simulations
        return search(model, game, state, simulations, c_puct=recipe.c_puct, noise=noise, **options)

    stream = train.make_stream(recipe, game, model, search_with_noise)

    def update(batch: Any) -> dict:
        step.schedule_lr(batch.number)
        metrics: dict[str, Any] = {}
        for minibatch in train.minibatches(batch, recipe.batch_size, device):
            metrics = step(minibatch)
        return metrics | train.game_metrics(batch)

    yield train.make_run(
        model,
        recipe,
        stream,
        update,
        {"optimizer": step.optimizer},
        model_config,
        search,
        steps=recipe.steps,
        examples=train.examples_of(recipe, game, recipe.num_games * recipe.num_moves),
    )


play = partial(inference.play, search)
table = partial(inference.table, search)
rival = partial(inference.rival, search)
evaluate = partial(inference.evaluate, search)


def count_positions(game: Any, ply: int) -> int:
    """Different positions after so many moves."""
    return len(positions_by_ply(game, ply)[ply])


def tower_layers(blocks: int) -> int:
    """Convolutions of the residual tower."""
    model = on_meta(VARIANTS["alphazero_go"].make, blocks=blocks)
    return sum(
        isinstance(module, nn.Conv2d) for part in (model.stem, model.blocks) for module in part.modules()
    )


# the figures of connect four: J. Tromp, and OEIS A212693; those of the towers: AlphaGo Zero, methods
FACTS = [
    Fact("tic_tac_toe positions", lambda: PerfectPlayer(tic_tac_toe()).num_positions, 5478),
    *(
        Fact(
            f"connect_four positions after {ply} moves", partial(count_positions, connect_four(), ply), count
        )
        for ply, count in ((3, 238), (5, 4263), (7, 54_859))
    ),
    Fact("tower layers, 20 blocks", partial(tower_layers, 19), 39),
    Fact("tower layers, 40 blocks", partial(tower_layers, 39), 79),
]


def reference() -> Iterator[ParityCase]:
    """The networks out of torchvision's residual blocks, with torch's losses."""
    from torchstone.references.alphazero import alphazero_cases

    yield from alphazero_cases(MLPNetwork, ResidualNetwork, loss)
