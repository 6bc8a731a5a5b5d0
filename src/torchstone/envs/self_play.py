"""Self-play as experience: many games at a time, moved by one search, and minibatches of what they taught.

A `SelfPlay` stream holds games in progress and a replay buffer. Each of its batches plays some moves in all
of the games, then samples positions of games that have ended. All of it is in its state, so that a run
continues to the bit with its games in progress.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.parts.rl import mcts
from torchstone.parts.seeding import SeedStream, derive_generator


@dataclass(frozen=True)
class SelfPlayConfig:
    """What a `SelfPlay` stream does per batch."""

    num_games: int  # games that are played at a time
    num_moves: int  # moves in each game before each batch
    sample_size: int  # positions per batch, in all its minibatches
    buffer_size: int  # positions that are kept
    learning_starts: int  # positions of finished games before the first batch
    temperature_moves: int  # moves that are sampled by visits; later ones are the most visited
    random_opening: int = 0  # games begin after up to so many random moves
    q_weight: float = 0.0  # share of the search's value in the value target, beside the game's outcome


class SelfPlayBatch(NamedTuple):
    """The minibatches of one update, one after the other in the rows, and what was played before them."""

    observation: Float[Tensor, "batch *shape"]
    policy: Float[Tensor, "batch action"]  # π: shares of the search's visits
    value: Float[Tensor, " batch"]  # z: the outcome in the view of the player to move
    returns: Float[Tensor, " games"]  # the first player's, of the games that ended
    lengths: Int64[Tensor, " games"]  # their moves
    number: int  # batches before this one
    moves: int  # moves in all games so far
    games: int  # games that have ended so far


class PositionBuffer:
    """The last positions of each of several games, which are sampled when their game has ended.

    Rows `[slot, game]`: each move writes one slot of all games, the oldest first, so a column holds one game
    after another.
    """

    def __init__(
        self, num_slots: int, num_games: int, shape: tuple[int, ...], num_actions: int, dtype: torch.dtype
    ):
        rows = num_slots, num_games
        self.observation = torch.zeros(*rows, *shape, dtype=dtype)
        self.policy = torch.zeros(*rows, num_actions)
        self.player = torch.zeros(rows, dtype=torch.int8)
        self.root_value = torch.zeros(rows)
        self.value = torch.zeros(rows)
        self.is_known = torch.zeros(rows, dtype=torch.bool)  # whether the game has ended
        self.slot, self.num_slots = 0, num_slots
        self.length = torch.zeros(num_games, dtype=torch.int64)  # positions of the game in progress

    def add(self, observation: Tensor, policy: Tensor, player: Tensor, root_value: Tensor) -> None:
        """One position of each game."""
        slot = self.slot
        self.observation[slot] = observation.to(self.observation.dtype)
        self.policy[slot], self.player[slot], self.root_value[slot] = policy, player, root_value
        self.is_known[slot] = False
        self.length += 1
        self.slot = (slot + 1) % self.num_slots

    def end(
        self, done: Bool[Tensor, " game"], returns: Float[Tensor, "game player"], q_weight: float
    ) -> None:
        """The games that ended, and the returns of their players: the values of all their positions."""
        games = done.nonzero()[:, 0]
        if not len(games):
            return
        length = self.length[games].clamp(max=self.num_slots)  # a longer game has lost its beginning
        back = torch.arange(int(length.max()))
        row, column = (back[:, None] < length).nonzero().unbind(1)
        slot, game = (self.slot - 1 - back[row]) % self.num_slots, games[column]
        outcome = returns[game, self.player[slot, game].long()]
        self.value[slot, game] = outcome + q_weight * (self.root_value[slot, game] - outcome)
        self.is_known[slot, game] = True
        self.length[games] = 0

    def __len__(self) -> int:
        """Positions of games that have ended."""
        return int(self.is_known.sum())

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, policies and values of positions, each as likely, with replacement."""
        known = self.is_known.view(-1).nonzero()[:, 0]
        row = known[torch.randint(len(known), (count,), generator=generator)]
        columns = self.observation, self.policy, self.value
        observation, policy, value = (each.flatten(0, 1)[row] for each in columns)
        return observation.float(), policy, value

    COLUMNS = ("observation", "policy", "player", "root_value", "value", "is_known", "length")

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.COLUMNS} | {"slot": self.slot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self.COLUMNS:
            getattr(self, name).copy_(state[name])
        self.slot = state["slot"]


class SelfPlay:
    """Endless `SelfPlayBatch`es: some moves in every game, then positions of games that have ended.

    Before the first batch it plays until the buffer has `learning_starts` positions. Moves, noise and samples
    follow from the seed and the numbers of moves and batches so far.

    Args:
        game: see `envs.board_games`.
        search: (states, generator of the noise at their roots) -> trees.
        keeps_trees: whether a move's tree is handed to the next search, as `tree`.
    """

    def __init__(
        self,
        game: Any,
        search: Callable[..., mcts.Tree],
        config: SelfPlayConfig,
        *,
        keeps_trees: bool = False,
        is_binary: bool = False,
        seed: int,
    ):
        self.game, self.search, self.config, self.seed = game, search, config, seed
        self.keeps_trees, self.tree = keeps_trees, None
        self.buffer = PositionBuffer(
            max(config.buffer_size // config.num_games, 1),
            config.num_games,
            game.observation_shape,
            game.num_actions,
            torch.uint8 if is_binary else torch.float32,
        )
        self.position, self.moves, self.games = 0, 0, 0
        self.ply = torch.zeros(config.num_games, dtype=torch.int64)  # moves in each game so far
        self.state: Any = None  # of the games in progress; None before the first move

    def __iter__(self) -> "SelfPlay":
        return self

    def __next__(self) -> SelfPlayBatch:
        config, returns, lengths = self.config, [], []
        while not self.position and len(self.buffer) < config.learning_starts:
            self._move(returns, lengths)
        for _ in range(config.num_moves):
            self._move(returns, lengths)
        while not len(self.buffer):
            self._move(returns, lengths)
        generator = derive_generator(self.seed, SeedStream.REPLAY_DRAWS, self.position)
        observation, policy, value = self.buffer.sample(config.sample_size, generator)
        observation, policy = transform(self.game, observation, policy, generator)
        self.position += 1
        ended = torch.cat(returns) if returns else torch.zeros(0)
        counts = torch.cat(lengths) if lengths else torch.zeros(0, dtype=torch.int64)
        return SelfPlayBatch(
            observation, policy, value, ended, counts, self.position - 1, self.moves, self.games
        )

    def _begin(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """States of new games, and how many moves have been made in them."""
        state = self.game.initial(count)
        ply = torch.zeros(count, dtype=torch.int64)
        if not self.config.random_opening:
            return state, ply
        wanted = torch.randint(self.config.random_opening + 1, (count,), generator=generator)
        for move in range(self.config.random_opening):
            rows = (wanted > move).nonzero()[:, 0]
            if not len(rows):
                break
            legal = self.game.legal_actions(state[rows])
            action = torch.multinomial(legal.float(), 1, generator=generator)[:, 0]
            after = self.game.step(state[rows], action)
            done, _ = self.game.outcome(after)
            state[rows] = torch.where(done[:, None], state[rows], after)
            ply[rows] += ~done
            wanted[rows[done]] = 0
        return state, ply

    @torch.no_grad()
    def _move(self, returns: list[Tensor], lengths: list[Tensor]) -> None:
        """One move in every game; games that end are begun anew."""
        config, game = self.config, self.game
        generator = derive_generator(self.seed, SeedStream.SELF_PLAY, self.moves)
        if self.state is None:
            self.state, self.ply = self._begin(config.num_games, generator)
        state = self.state
        if self.keeps_trees:
            tree = self.search(state, generator, tree=self.tree)
        else:
            tree = self.search(state, generator)
        visits = tree.root_visits
        temperature = (self.ply < config.temperature_moves).float()
        action = mcts.sample_action(visits, temperature, generator)
        policy, player = mcts.visit_policy(visits), game.player(state)
        self.buffer.add(game.observe(state), policy, player, tree.root_value)
        state = game.step(state, action)
        self.ply += 1
        self.moves += config.num_games
        done, outcome = game.outcome(state)
        if self.keeps_trees:
            self.tree = mcts.subtree(tree, action, keep=~done)
        self.buffer.end(done, outcome, config.q_weight)
        if done.any():
            returns.append(outcome[done, 0])
            lengths.append(self.ply[done])
            self.games += int(done.sum())
            state[done], self.ply[done] = self._begin(int(done.sum()), generator)
        self.state = state
        game.retain(self._live_states())

    def _live_states(self) -> Tensor:
        """Of the games in progress, and of the trees that are kept."""
        if self.tree is None:
            return self.state
        nodes = self.tree.embedding
        is_used = torch.arange(nodes.shape[1]) < self.tree.size[:, None]
        return torch.cat((self.state, nodes[is_used]))

    def state_dict(self) -> dict[str, Any]:
        return {
            "buffer": self.buffer.state_dict(),
            "game": self.game.state_dict(),
            "state": self.state,
            "ply": self.ply,
            "tree": None if self.tree is None else self.tree.state_dict(),
            **{name: getattr(self, name) for name in ("position", "moves", "games")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.buffer.load_state_dict(state["buffer"])
        self.game.load_state_dict(state["game"])
        self.state, self.ply = state["state"], state["ply"]
        self.tree = None if state["tree"] is None else mcts.Tree.from_state_dict(state["tree"])
        self.position, self.moves, self.games = (state[name] for name in ("position", "moves", "games"))


def transform(
    game: Any,
    observation: Float[Tensor, "batch *shape"],
    policy: Float[Tensor, "batch action"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Each position as one of its images under the symmetries of the game's board, each as likely."""
    symmetries = game.symmetries
    if len(symmetries.cells) == 1:
        return observation, policy
    which = symmetries.draw(len(policy), generator)
    return symmetries.images(observation, which), policy.gather(1, symmetries.actions[which])
