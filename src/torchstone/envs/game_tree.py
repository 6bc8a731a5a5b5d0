"""Games of open_spiel as whole trees in tensors: each position once, found level by level from the start."""

import functools
from typing import Any

import torch

from torchstone.envs.openspiel import describe, load_game, pyspiel
from torchstone.errors import BadInput
from torchstone.parts.rl.game_tree import CHANCE, TERMINAL, GameTree

MAX_NODES = 100_000
FITTING = "kuhn_poker, leduc_poker, liars_dice(numdice=1,dice_sides=3) and the like fit"


@functools.lru_cache(maxsize=8)
def read_game_tree(spec: str) -> GameTree:
    """The tree of a game of two players whose returns sum to zero.

    Raises:
        BadInput: open_spiel does not know the game, it is for one player or more than two, players move at
            the same time, its returns do not sum to zero, it has more than `MAX_NODES` positions, or a
            player forgets what it knew; nothing is hidden in it, which is for a search.
    """
    game = load_game(spec)
    _refuse_other_games(game)
    return _TreeReader(game).read()


def _refuse_other_games(game: Any) -> None:
    kind, known, library = game.get_type(), describe(game), pyspiel()
    name, players = known["game"], known["players"]
    if players != 2:
        raise BadInput(
            f"{name} is a game of {players} player{'s' if players > 1 else ''}, and an equilibrium is sought "
            f"between two: {FITTING}"
        )
    if known["is_simultaneous"]:
        raise BadInput(
            f"in {name} players move at the same time: write it as "
            f"turn_based_simultaneous_game(game={name}), where they move in turn, unseen"
        )
    if kind.chance_mode == library.GameType.ChanceMode.SAMPLED_STOCHASTIC:
        raise BadInput(f"{name} does not say how likely chance's moves are: {FITTING}")
    if kind.utility != library.GameType.Utility.ZERO_SUM:
        raise BadInput(f"the returns of {name} do not sum to zero: {FITTING}")
    if not known["has_hidden_information"]:
        raise BadInput(f"in {name} nothing is hidden: alphazero searches such games; here {FITTING}")
    if not (kind.provides_information_state_string and kind.provides_information_state_tensor):
        raise BadInput(f"{name} does not say what a player knows of it: {FITTING}")


class _TreeReader:
    """Reads one game; what is per node or per information state grows in lists."""

    def __init__(self, game: Any):
        self.game, self.actions = game, game.num_distinct_actions()
        self.player: list[int] = []
        self.info_state: list[int] = []
        self.children: list[list[tuple[int, int]]] = []  # of each node: (branch, next node)
        self.chance: list[list[float]] = []
        self.returns: list[list[float]] = []
        self.number: dict[tuple[int, str], int] = {}  # of information states
        self.names: list[str] = []
        self.action_names: list[tuple[str, ...]] = []
        self.info_player: list[int] = []
        self.legal: list[list[int]] = []
        self.features: list[list[float]] = []
        self.parent: list[tuple[int, int] | None] = []  # own (info, action) before each information state
        self.terminals: list[tuple[float, list[tuple[int, int] | None], list[float]]] = []

    def read(self) -> GameTree:
        players = self.game.num_players()
        # a level: (state, probability of chance so far, each player's last decision)
        level: list[tuple[Any, float, list[Any]]] = [(self.game.new_initial_state(), 1.0, [None] * players)]
        ends = []
        while level:
            begin = len(self.player) + len(level)
            following: list[tuple[Any, float, list[Any]]] = []
            for state, reach, last in level:
                moves = self._add(state, reach, last)
                if begin + len(following) + len(moves) > MAX_NODES:
                    raise BadInput(
                        f"{self.game} has more than {MAX_NODES:,} positions, too many for a flat tree: "
                        f"{FITTING}"
                    )
                for branch, (action, probability) in moves:
                    self.children[-1].append((branch, begin + len(following)))
                    mine = list(last)
                    if self.player[-1] >= 0:
                        mine[self.player[-1]] = (self.info_state[-1], action)
                    following.append((state.child(action), reach * probability, mine))
            ends.append(len(self.player))
            level = following
        return self._tensors(tuple(ends))

    def _add(self, state: Any, reach: float, last: list[Any]) -> list[tuple[int, tuple[int, float]]]:
        """Add a node; what can follow it: (branch, (move, probability of chance))."""
        self.children.append([])
        self.info_state.append(-1)
        self.chance.append([])
        self.returns.append([0.0] * len(last))
        if state.is_terminal():
            self.player.append(TERMINAL)
            self.returns[-1] = list(state.returns())
            self.terminals.append((reach, last, self.returns[-1]))
            return []
        if state.is_chance_node():
            self.player.append(CHANCE)
            outcomes = state.chance_outcomes()
            self.chance[-1] = [probability for _, probability in outcomes]
            return list(enumerate(outcomes))
        player = state.current_player()
        self.player.append(player)
        legal = state.legal_actions()
        self.info_state[-1] = self._info_state(state, player, legal, last[player])
        return [(action, (action, 1.0)) for action in legal]

    def _info_state(self, state: Any, player: int, legal: list[int], parent: tuple[int, int] | None) -> int:
        name = state.information_state_string(player)
        number = self.number.setdefault((player, name), len(self.names))
        if number < len(self.names):
            if self.parent[number] != parent:
                raise BadInput(f"{self.game}: a player forgets its own moves, which no solver here takes")
            return number
        self.names.append(name)
        self.parent.append(parent)
        self.info_player.append(player)
        self.legal.append(legal)
        self.features.append(state.information_state_tensor(player))
        texts = {action: state.action_to_string(player, action) for action in legal}
        self.action_names.append(tuple(texts.get(action, "") for action in range(self.actions)))
        return number

    def _sequence(self, decision: tuple[int, int] | None, player: int) -> int:
        if decision is None:
            return len(self.names) * self.actions + player
        return decision[0] * self.actions + decision[1]

    def _tensors(self, level_ends: tuple[int, ...]) -> GameTree:
        nodes, infos = len(self.player), len(self.names)
        branches = max(self.actions, *map(len, self.chance))
        child, chance = torch.full((nodes, branches), -1), torch.zeros(nodes, branches, dtype=torch.double)
        for node, (following, probabilities) in enumerate(zip(self.children, self.chance, strict=True)):
            for branch, other in following:
                child[node, branch] = other
            chance[node, : len(probabilities)] = torch.tensor(probabilities, dtype=torch.double)
        legal = torch.zeros(infos, self.actions, dtype=torch.bool)
        for info, actions in enumerate(self.legal):
            legal[info, actions] = True
        level: list[int] = []  # parents are found before their children
        for parent in self.parent:
            level.append(0 if parent is None else level[parent[0]] + 1)
        own = zip(self.parent, self.info_player, strict=True)
        reach, last, returns = zip(*self.terminals, strict=True)
        return GameTree(
            player=torch.tensor(self.player),
            info_state=torch.tensor(self.info_state),
            child=child,
            chance=chance,
            returns=torch.tensor(self.returns, dtype=torch.double),
            level_ends=level_ends,
            info_player=torch.tensor(self.info_player),
            legal=legal,
            features=torch.tensor(self.features, dtype=torch.float32),
            parent_sequence=torch.tensor([self._sequence(parent, player) for parent, player in own]),
            info_level=torch.tensor(level),
            terminal_sequence=torch.tensor(
                [[self._sequence(decision, player) for player, decision in enumerate(each)] for each in last]
            ),
            terminal_chance=torch.tensor(reach, dtype=torch.double),
            terminal_returns=torch.tensor(returns, dtype=torch.double),
            info_names=tuple(self.names),
            action_names=tuple(self.action_names),
        )
