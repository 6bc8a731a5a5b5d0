"""What a run that plays a game is used for: matches, a person at the terminal, pictures of its search."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchstone.data import identity
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl import mcts
from torchstone.parts.seeding import derive_generator
from torchstone.plots.search_tree import draw_search_tree
from torchstone.tasks.selfplay.arena import optimal_moves, play_match, rates
from torchstone.tasks.selfplay.players import Player, has_solver, make_game, make_opponent, most_visited
from torchstone.tasks.selfplay.terminal import Rival

LINE = 6  # moves of the expected line that are shown
TEST = 2_000_000  # seed of matches, which no run has

# a network, a game, states, number of simulations -> trees
Search = Callable[..., mcts.Tree]


class Agent:
    """A run's network with its search.

    Args:
        search: the system's; called as `search(model, game, state, simulations, c_puct=…)`.
        simulations: of a move; by default as many as in training.

    Raises:
        BadInput: the run's game is not known here.
    """

    def __init__(
        self, search: Search, model: Any, metadata: Mapping[str, Any], simulations: int | None = None
    ):
        self.game, self.model = make_game(metadata["game"]), model
        self.simulations = metadata["num_simulations"] if simulations is None else simulations
        self._search, self._c_puct = search, metadata["c_puct"]

    @torch.no_grad()
    def tree(self, state: Tensor, game: Any = None) -> mcts.Tree:
        with eval_mode(self.model):
            game = self.game if game is None else game
            return self._search(self.model, game, state, self.simulations, c_puct=self._c_puct)

    def player(self, game: Any) -> Player:
        """The move that the search visits most."""
        return lambda state, generator: most_visited(self.tree(state, game), generator)


def rival(search: Search, model: Any, metadata: Mapping[str, Any], simulations: int | None = None) -> Rival:
    agent = Agent(search, model, metadata, simulations)
    return Rival(agent.game.name, agent.player)


def opponent_of(game: Any, against: str | Rival) -> Player:
    """
    Raises:
        BadInput: no such opponent, or an agent of another game.
    """
    if isinstance(against, str):
        return make_opponent(game, against)
    if against.game != game.name:
        raise BadInput(f"this agent plays {game.name}, and the other one {against.game}: they cannot meet")
    return against.act(game)


def play(
    search: Search,
    model: Any,
    metadata: Mapping[str, Any],
    *,
    episodes: int = 10,
    against: str | Rival = "random",
    seed: int = TEST,
    simulations: int | None = None,
    picture: str | Path | None = None,
    video: str | Path | None = None,
) -> list[float]:
    """The agent's returns of `episodes` games, every other one begun by it.

    Args:
        against: `random`, `perfect`, `mcts:N`, or the agent of another run. Two runs have no chance in their
            play: their games begin with two random moves, the same ones twice, with the sides changed.
        picture: `.png` of the search for a move in the middle of the first game.

    Raises:
        BadInput: no such opponent; an agent of another game.
    """
    if video is not None:
        raise BadInput("a game has no video: --picture FILE.png shows the search")
    agent = Agent(search, model, metadata, simulations)
    game = agent.game
    opponent = opponent_of(game, against)
    shown: list[Tensor] = []

    def player(state: Tensor, generator: Any) -> Tensor:
        shown.append(state[:1].clone())
        return most_visited(agent.tree(state), generator)

    if picture is not None:
        game.retain = lambda state: None  # what is shown later must not be forgotten
    opening = 0 if isinstance(against, str) else 2
    returns = play_match(game, player, opponent, episodes, seed=seed, opening_moves=opening)
    if picture is not None:
        draw_search(agent, shown[len(shown) // 2], Path(picture))
    return returns.tolist()


def draw_search(agent: Agent, state: Tensor, file: Path, tree: mcts.Tree | None = None) -> None:
    """A picture of the search at one state."""
    tree = agent.tree(state) if tree is None else tree
    game = agent.game
    states = node_states(game, state, tree)

    def name(node: int, action: int) -> str:
        return action_name(game, states[node], action)

    title = f"{game.name}: {agent.simulations} simulations, value {float(tree.root_value[0]):+.2f}"
    draw_search_tree(tree, name, file, title, board=game.render(state))


def node_states(game: Any, state: Tensor, tree: mcts.Tree) -> list[Tensor | None]:
    """The game's state in each node of the first tree, by its moves from the root. None beyond a move that
    the rules forbid, which a search in a learned model may make."""
    states: list[Tensor | None] = [state, *[None] * (int(tree.size[0]) - 1)]
    for node, now in enumerate(states):  # children come after their parents
        for action in (tree.children[0, node] > 0).nonzero()[:, 0].tolist():
            if now is not None and is_legal(game, now, action):
                states[int(tree.children[0, node, action])] = game.step(now, torch.tensor([action]))
    return states


def is_legal(game: Any, state: Tensor, action: int) -> bool:
    return not bool(game.outcome(state)[0]) and bool(game.legal_actions(state)[0, action])


def action_name(game: Any, state: Tensor | None, action: int) -> str:
    """Notation of a move; `?` and the action's number where the rules forbid it."""
    if state is None or not is_legal(game, state, action):
        return f"?{action}"
    return game.action_name(state, action).split()[-1]


def expected_line(agent: Agent, state: Tensor, tree: mcts.Tree, first: int, length: int = LINE) -> list[str]:
    """The move `first`, and the answers that the search visits most after it, one after another."""
    names, node, action = [], 0, first
    states = node_states(agent.game, state, tree)
    while len(names) < length:
        names.append(action_name(agent.game, states[node], action))
        node = int(tree.children[0, node, action])
        if node < 0 or not float(tree.visits[0, node].max()):
            break
        action = int(tree.visits[0, node].argmax())
    return names


class BoardTable:
    """See `terminal.Table`.

    Args:
        picture: `.png` that shows the search for the agent's last move.
    """

    def __init__(self, agent: Agent, seed: int, picture: Path | None):
        self.agent, self.game, self.seed, self.picture = agent, agent.game, seed, picture
        self.games, self.state, self.person = 0, self.game.initial(1), 0

    def begin(self, person: int) -> None:
        self.games, self.person, self.state = self.games + 1, person, self.game.initial(1)
        self.generator = derive_generator(self.seed, 0, self.games)

    def turn(self) -> int | None:
        done, _ = self.game.outcome(self.state)
        return None if bool(done) else int(self.game.player(self.state))

    def view(self) -> str:
        return self.game.render(self.state)

    def moves(self) -> dict[str, int]:
        legal = self.game.legal_actions(self.state)[0].nonzero()[:, 0].tolist()
        return {self.game.action_name(self.state, action): action for action in legal}

    def make(self, action: int) -> None:
        self.state = self.game.step(self.state, torch.tensor([action]))
        self.game.retain(self.state)

    def reply(self) -> str:
        tree = self.agent.tree(self.state)
        action = int(most_visited(tree, self.generator))
        name = self.game.action_name(self.state, action)
        if self.picture is not None:
            draw_search(self.agent, self.state, self.picture, tree)
        visits, q = int(tree.root_visits[0, action]), float(tree.root_q[0, action])
        line = " ".join(expected_line(self.agent, self.state, tree, action))
        self.make(action)
        return f"{name} ({visits} of {self.agent.simulations} visits, value {q:+.2f}; expects {line})"

    def outcome(self) -> float:
        return float(self.game.outcome(self.state)[1][0, self.person])


def table(
    search: Search,
    model: Any,
    metadata: Mapping[str, Any],
    *,
    seed: int = TEST,
    simulations: int | None = None,
    picture: str | Path | None = None,
) -> BoardTable:
    agent = Agent(search, model, metadata, simulations)
    return BoardTable(agent, seed, None if picture is None else Path(picture))


def record_game(data: str) -> None:
    """Tell whoever listens which game is played: its name with all parameters."""
    identity.record(data, environment={"game": make_game(data).name})


def match(agent: Agent, opponent: str, games: int, *, seed: int) -> dict[str, float]:
    """Score and rates against an opponent by name."""
    game = agent.game
    return rates(play_match(game, agent.player(game), make_opponent(game, opponent), games, seed=seed))


def evaluate(
    search: Search, model: Any, metadata: Mapping[str, Any], data: str, *, held_out: bool
) -> dict[str, float]:
    """The test: a match against the recipe's opponent, and where an exact solver is at hand the share of
    moves that keep the game's value.

    Raises:
        BadInput: another game than the agent's.
    """
    if data != metadata["game"] and make_game(data).name != make_game(metadata["game"]).name:
        raise BadInput(f"this agent plays {metadata['game']}, not {data}: train one for that game")
    record_game(data)
    return test_metrics(Agent(search, model, metadata), metadata)


def test_metrics(agent: Agent, metadata: Mapping[str, Any]) -> dict[str, float]:
    metrics = match(agent, metadata["opponent"], metadata["eval_games"], seed=TEST)
    if has_solver(agent.game) and metadata["eval_positions"]:
        metrics |= optimal_moves(agent.game, agent.player(agent.game), metadata["eval_positions"])
    return metrics
