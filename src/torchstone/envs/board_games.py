"""Board games on tensors: many boards of tic-tac-toe or connect four at a time, as bits of integers.

What a game is here, for self-play and search (`envs.openspiel.OpenSpielGame` is another one): functions of
states, which are rows of integers, `(batch, width)`.

    initial(batch)            the first state, as often
    step(state, action)       the state after it; the action must be legal
    player(state)             who moves: 0 or 1, player 0 being the first to move
    outcome(state)            whether the game is over, and the returns of both players, 0 until then
    legal_actions(state)      which actions are legal; none where the game is over
    observe(state)            what the player to move sees: the network's input
    retain(state)             these states go on; others may be forgotten
    render, action_name       for people: a state, and an action of a state
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

State = Int64[Tensor, "batch width"]


@dataclass(frozen=True)
class Symmetries:
    """The symmetries of a game's board, the identity first: observation `[..., cell[s, i]]` stands at cell
    `i` of the s-th image, and so do actions."""

    cells: Int64[Tensor, "symmetry cell"]
    actions: Int64[Tensor, "symmetry action"]

    def draw(self, count: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
        """Numbers of symmetries, each as likely."""
        return torch.randint(len(self.cells), (count,), generator=generator)

    def images(
        self, observation: Float[Tensor, "batch *shape"], which: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch *shape"]:
        """Each observation under its symmetry."""
        planes = observation.flatten(2)
        return planes.gather(2, self.cells[which][:, None].expand_as(planes)).view_as(observation)


class LineGame:
    """Two players place stones in turn; `length` of one's own in a line win. Connect four and tic-tac-toe.

    A state is three integers: the stones of the player to move and all stones, as bits, and how many there
    are. Bit `column × (rows + 1) + row`: the bit between two columns stays empty, so that no line wraps. A
    line in direction d is found by shifting: s & s>>d & s>>2d & … (J. Tromp's and A. Fhourstones' bitboards).

    Args:
        gravity: actions are columns, and a stone falls to the lowest free row, row 0; else actions are
            cells, row by row.

    Raises:
        BadInput: a board of more than 62 bits, or without cells.
    """

    num_players = 2

    def __init__(self, name: str, rows: int, columns: int, length: int, *, gravity: bool):
        if not (rows >= 1 and columns >= 1 and length >= 2 and columns * (rows + 1) <= 62):
            raise BadInput(
                f"no board of {rows} × {columns} with lines of {length}: it takes at least one cell, lines "
                "of 2, and columns × (rows + 1) of at most 62"
            )
        self.name, self.rows, self.columns, self.length, self.gravity = name, rows, columns, length, gravity
        self.num_cells = rows * columns
        self.num_actions = columns if gravity else self.num_cells
        self.max_game_length = self.num_cells
        self.observation_shape = (2, rows, columns)
        high = rows + 1
        self._directions = torch.tensor((1, high, high - 1, high + 1))
        # of cells row by row, row 0 first
        self._cell_bits = torch.tensor([c * high + r for r in range(rows) for c in range(columns)])
        self._bottom = torch.tensor([1 << (c * high) for c in range(columns)])
        self._column = torch.tensor([((1 << rows) - 1) << (c * high) for c in range(columns)])

    def initial(self, batch: int) -> State:
        return torch.zeros(batch, 3, dtype=torch.int64)

    def step(self, state: State, action: Int64[Tensor, " batch"]) -> State:
        own, occupied, ply = state.unbind(1)
        if self.gravity:
            # adding the lowest bit of a column carries into its lowest free cell
            stone = (occupied + self._bottom[action]) & self._column[action]
        else:
            stone = torch.bitwise_left_shift(1, self._cell_bits[action])
        # the other player moves next: the stones that are not one's own, as they were before
        return torch.stack((own ^ occupied, occupied | stone, ply + 1), 1)

    def player(self, state: State) -> Int64[Tensor, " batch"]:
        return state[:, 2] & 1

    def has_line(self, stones: Int64[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        line, covered = stones[:, None].expand(-1, 4), 1
        while covered < self.length:
            shift = min(covered, self.length - covered)
            line = line & (line >> (shift * self._directions))
            covered += shift
        return line.any(1)

    def outcome(self, state: State) -> tuple[Bool[Tensor, " batch"], Float[Tensor, "batch player"]]:
        """Only the player who moved last can have a line."""
        own, occupied, ply = state.unbind(1)
        won = self.has_line(own ^ occupied)
        mover_return = torch.where(ply & 1 == 0, -1.0, 1.0) * won  # the first player's: 0 moved if ply is odd
        return won | (ply == self.num_cells), torch.stack((mover_return, -mover_return), 1)

    def legal_actions(self, state: State, done: Tensor | None = None) -> Bool[Tensor, "batch action"]:
        """`done` of `outcome`, where it is known already."""
        done = self.outcome(state)[0] if done is None else done
        occupied = state[:, 1, None]
        if self.gravity:
            is_free = (occupied & self._column) != self._column
        else:
            is_free = (occupied >> self._cell_bits) & 1 == 0
        return is_free & ~done[:, None]

    def observe(self, state: State) -> Float[Tensor, "batch 2 row column"]:
        """The stones of the player to move, and the other's. Rows as in open_spiel: connect four's lowest
        row first, tic-tac-toe's top row."""
        stones = torch.stack((state[:, 0], state[:, 0] ^ state[:, 1]), 1)
        planes = (stones[:, :, None] >> self._cell_bits) & 1
        return planes.view(-1, *self.observation_shape).float()

    @cached_property
    def symmetries(self) -> Symmetries:
        """Left and right; without gravity all eight of a square (of another board, four)."""
        board = torch.arange(self.num_cells).view(self.rows, self.columns)
        if self.gravity:
            boards = [board, board.flip(1)]
            actions = [image[0] for image in boards]
        else:
            boards = dihedral(board)
            actions = [image.reshape(-1) for image in boards]
        return Symmetries(torch.stack([image.reshape(-1) for image in boards]), torch.stack(actions))

    def render(self, state: State) -> str:
        """The board of the first row of `state`: x is the first player's."""
        own, other = self.observe(state[:1])[0].flatten(1)
        first, second = (own, other) if not state[0, 2] & 1 else (other, own)
        marks = [
            "x" if a else "o" if b else "." for a, b in zip(first.tolist(), second.tolist(), strict=True)
        ]
        lines = [" ".join(marks[r * self.columns : (r + 1) * self.columns]) for r in range(self.rows)]
        if self.gravity:
            return "\n".join([*lines[::-1], " ".join(str(c + 1) for c in range(self.columns))])
        names = [f"{self.rows - r} {line}" for r, line in enumerate(lines)]
        return "\n".join([*names, "  " + " ".join("abcdefghijklmnopqrstuvwxyz"[: self.columns])])

    def action_name(self, state: State, action: int) -> str:
        """A column from 1, or a cell such as b2: column a is at the left, row 1 at the bottom."""
        if self.gravity:
            return str(action + 1)
        row, column = divmod(action, self.columns)
        return f"{'abcdefghijklmnopqrstuvwxyz'[column]}{self.rows - row}"

    def retain(self, state: State) -> None:
        """States hold all that there is: nothing is kept beside them."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing is kept."""


def dihedral(board: Int64[Tensor, "row column"]) -> list[Int64[Tensor, "row column"]]:
    """The images of a board under turns and reflections that keep its shape, itself first."""
    turned = [board, board.flip(0), board.flip(1), board.flip(0, 1)]
    if board.shape[0] == board.shape[1]:
        turned += [image.T for image in turned]
    return turned


def tic_tac_toe() -> LineGame:
    return LineGame("tic_tac_toe", 3, 3, 3, gravity=False)


def connect_four() -> LineGame:
    return LineGame("connect_four", 6, 7, 4, gravity=True)


def positions_by_ply(game: LineGame, plies: int) -> list[State]:
    """All different positions that can be reached after 0, 1, … `plies` moves."""
    found = [game.initial(1)]
    while len(found) <= plies:
        state = found[-1]
        row, action = game.legal_actions(state).nonzero().unbind(1)
        if not len(row):
            break
        found.append(torch.unique(game.step(state[row], action), dim=0))
    return found


class PerfectPlayer:
    """Exact play of a small game by minimax over all of its positions, backwards from the last ones.

    Raises:
        BadInput: a game with more than 12 cells, which has too many positions.
    """

    def __init__(self, game: LineGame):
        if game.num_cells > 12:
            raise BadInput(
                f"{game.name} has too many positions to solve: perfect play is for 12 cells at most"
            )
        self.game, self._table = game, {}  # ply -> sorted keys of its positions, and their values
        levels = positions_by_ply(game, game.num_cells)
        for ply in reversed(range(len(levels))):
            state = levels[ply]
            done, returns = game.outcome(state)
            mine = returns.gather(1, game.player(state)[:, None])[:, 0]
            value = torch.where(done, mine, self.action_values(state).amax(1))
            keys, order = self._key(state).sort()
            self._table[ply] = keys, value[order]
        self.num_positions = sum(map(len, levels))

    def _key(self, state: State) -> Int64[Tensor, " batch"]:
        return (state[:, 0] << 31) | state[:, 1]

    def values(self, state: State) -> Float[Tensor, " batch"]:
        """Of the player to move: 1 won, 0 drawn, -1 lost."""
        result = torch.empty(len(state))
        for ply in state[:, 2].unique().tolist():
            rows = (state[:, 2] == ply).nonzero()[:, 0]
            keys, values = self._table[ply]
            result[rows] = values[torch.searchsorted(keys, self._key(state[rows]))]
        return result

    def action_values(self, state: State) -> Float[Tensor, "batch action"]:
        """Of each action for the player to move; -∞ where it is illegal."""
        values = torch.full((len(state), self.game.num_actions), -torch.inf)
        row, action = self.game.legal_actions(state).nonzero().unbind(1)
        if len(row):
            values[row, action] = -self.values(self.game.step(state[row], action))
        return values
