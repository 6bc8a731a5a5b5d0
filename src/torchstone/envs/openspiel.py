"""Games of open_spiel by name: loading one, what can be known of it before it is played, and playing many.

A game is written as open_spiel writes it, after the prefix `openspiel:` or without:
`openspiel:hex(board_size=5)`, `kuhn_poker`. The library is the extra `games`, imported when a game is loaded.
"""

import contextlib
import functools
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.envs.board_games import State, Symmetries, dihedral
from torchstone.errors import BadInput, did_you_mean, first_line

PREFIX = "openspiel:"
NAME = re.compile(r"\s*([A-Za-z0-9_]*)\s*(\(.*)?\s*$", re.DOTALL)


def pyspiel() -> ModuleType:
    """open_spiel's module.

    Raises:
        BadInput: it is not installed; with the command that installs it.
    """
    try:
        return importlib.import_module("pyspiel")
    except ModuleNotFoundError as error:
        raise BadInput("games need open-spiel: pip install 'torchstone[games]'") from error


@contextlib.contextmanager
def quiet_stderr() -> Generator[None]:
    """Without what the C++ library writes past Python: it writes each error that it raises, too."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # a process without standard error has nothing to quiet
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


# the first moves of a game, in a process of its own: with some parameters the library ends the process
FIRST_MOVES = """
import sys, pyspiel
state = pyspiel.load_game(sys.argv[1]).new_initial_state()
if state.is_terminal():
    sys.exit("it is over before it starts")
for move in range(16):
    if state.is_terminal() or state.is_simultaneous_node() or state.is_mean_field_node():
        break
    actions = state.legal_actions()
    if not actions:
        sys.exit("it has no legal moves")
    state.apply_action(actions[move * 7 % len(actions)])
"""


def load_game(spec: str) -> Any:
    """The `pyspiel.Game` of `spec`, with or without `openspiel:`.

    Raises:
        BadInput: open_spiel is not installed, does not know the game or one of its parameters, or the
            parameters make no game.
    """
    library, text = pyspiel(), spec.removeprefix(PREFIX).strip()
    name = _check_name(library, text)
    reason = _try_first_moves(text) if text.partition("(")[2].strip(" )") else ""
    if not reason:
        try:
            with quiet_stderr():
                return library.load_game(text)
        except Exception as error:  # noqa: BLE001  the library has several, and none is documented
            reason = first_line(error)
    raise BadInput(f"no game {text!r}: {_short(reason)}; {_parameters(library, name)}")


@functools.cache
def _try_first_moves(text: str) -> str:
    """Why a game with these parameters cannot be played, or nothing."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FIRST_MOVES, text]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    except subprocess.TimeoutExpired:
        return "its first moves take over a minute"
    if not ended.returncode:
        return ""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    raised = [line for line in lines if line.startswith("pyspiel.SpielError: ")]
    reason = (raised or lines[-1:] or ["open_spiel crashes on it"])[0]
    return reason.removeprefix("pyspiel.SpielError: ")


def _check_name(library: ModuleType, text: str) -> str:
    """The game's name in `text`; games within its brackets are left to the library."""
    match = NAME.match(text)
    name = match[1] if match else ""
    known = sorted(library.registered_names())
    if not name:
        raise BadInput(f"{text!r} is no game of open_spiel: write e.g. openspiel:hex(board_size=5)")
    if name not in known:
        common = ["tic_tac_toe", "connect_four", "hex", "othello", "go", "kuhn_poker", "leduc_poker"]
        hint = did_you_mean(name, known, [*common, "…"])
        raise BadInput(f"open_spiel has no game {name!r}: {hint}")
    return name


def _parameters(library: ModuleType, name: str) -> str:
    """Which parameters the game takes, with their defaults."""
    found = next(kind for kind in library.registered_games() if kind.short_name == name)
    defaults = [f"{key}={value}" for key, value in found.parameter_specification.items()]
    return f"{name} takes {', '.join(defaults)}" if defaults else f"{name} takes no parameters"


def _short(reason: str) -> str:
    """The library's own words, without the list of all games and places in its source."""
    reason = reason.partition(" Available parameters")[0].partition(" Available games")[0]
    return re.sub(r"^\S*/(\S+):\d+ ", "", reason).rstrip(".: ")


def describe(game: Any) -> dict[str, Any]:
    """What a game is, in words and numbers that metadata can hold: its full name with all parameters,
    players, actions, longest game, and whether it has chance, hidden cards, or moves at the same time."""
    kind, library = game.get_type(), pyspiel()
    return {
        "game": str(game),
        "players": game.num_players(),
        "actions": game.num_distinct_actions(),
        "max_game_length": game.max_game_length(),
        "has_chance": kind.chance_mode != library.GameType.ChanceMode.DETERMINISTIC,
        "has_hidden_information": kind.information != library.GameType.Information.PERFECT_INFORMATION,
        "is_simultaneous": kind.dynamics != library.GameType.Dynamics.SEQUENTIAL,
        "min_return": game.min_utility(),
        "max_return": game.max_utility(),
    }


FEW = 8  # actions beyond the cells of a board, such as to pass, that get a plane each
TRIES = 12  # games by which a symmetry is found to be one


class OpenSpielGame:
    """A game of open_spiel as `envs.board_games` says: two players in turn, all in the open, no chance.

    A state is one integer, the number of a `pyspiel.State` held here until `retain` forgets it.

    The library's observations do not hold all that a state is: Go's hide ko, and whether the last move was
    a pass; games cut at some length hide how many moves are left; where the planes of empty cells and of the
    two colors stand differs by game, and none says who moves. So the network is given, for boards as planes:

        the library's planes, and those of the state before
        1   the second player moves
        1   moves so far, as a share of the longest game
        n   legal moves: as cells where actions are cells, as columns where they are columns

    and, where the observation is no board, the same as one vector.

    Raises:
        BadInput: chance, hidden cards, moves at the same time, other than two players, or not zero-sum.
    """

    num_players = 2

    def __init__(self, spec: str):
        self.game = game = load_game(spec)
        self.name = f"{PREFIX}{game}"
        _check_kind(game)
        self.num_actions, self.max_game_length = game.num_distinct_actions(), game.max_game_length()
        self._scale = max(abs(game.min_utility()), abs(game.max_utility()))
        self._library = pyspiel()
        shape = game.observation_tensor_shape()
        self._shape = tuple(shape) if len(shape) == 3 else (int(np.prod(shape)),)
        self._is_board = len(self._shape) == 3
        self._view = self._library._Observation(game, game.make_observer({}))
        self._planes = np.frombuffer(self._view, np.float32)
        self.observation_shape = tuple(self._with_context(np.zeros(self._shape), None, 0, 0.0, None).shape)
        self._states: dict[int, Any] = {}
        self._parents: dict[int, Any] = {}  # the state before, which is shown too
        self._next = 0

    def _add(self, state: Any, before: Any) -> int:
        number = self._next
        self._states[number], self._parents[number], self._next = state, before, number + 1
        return number

    def initial(self, batch: int) -> State:
        first = self.game.new_initial_state()
        return torch.tensor([[self._add(first, None)] for _ in range(batch)], dtype=torch.int64).view(-1, 1)

    def step(self, state: State, action: Int64[Tensor, " batch"]) -> State:
        numbers = []
        for number, chosen in zip(state[:, 0].tolist(), action.tolist(), strict=True):
            before = self._states[number]
            after = before.clone()
            after.apply_action(chosen)
            numbers.append(self._add(after, before))
        return torch.tensor(numbers, dtype=torch.int64).view(-1, 1)

    def _each(self, state: State) -> list[Any]:
        return [self._states[number] for number in state[:, 0].tolist()]

    def player(self, state: State) -> Int64[Tensor, " batch"]:
        """0 where the game is over."""
        return torch.tensor([max(each.current_player(), 0) for each in self._each(state)], dtype=torch.int64)

    def outcome(self, state: State) -> tuple[Bool[Tensor, " batch"], Float[Tensor, "batch player"]]:
        """Returns are divided by the largest that there can be."""
        done = [each.is_terminal() for each in self._each(state)]
        returns = torch.zeros(len(state), 2)
        for index, (each, is_over) in enumerate(zip(self._each(state), done, strict=True)):
            if is_over:
                returns[index] = torch.tensor(each.returns()) / self._scale
        return torch.tensor(done, dtype=torch.bool), returns

    def legal_actions(self, state: State, done: Tensor | None = None) -> Bool[Tensor, "batch action"]:
        legal = np.zeros((len(state), self.num_actions), bool)
        for index, each in enumerate(self._each(state)):
            legal[index, each.legal_actions()] = True
        return torch.from_numpy(legal)

    def observe(self, state: State) -> Float[Tensor, "batch *shape"]:
        rows = np.empty((len(state), *self.observation_shape), np.float32)
        for index, number in enumerate(state[:, 0].tolist()):
            each = self._states[number]
            player, share = max(each.current_player(), 0), each.move_number() / self.max_game_length
            legal = np.zeros(self.num_actions, np.float32)
            legal[each.legal_actions()] = 1
            before = self._parents[number]
            earlier = None if before is None else self._observation(before, player).copy()
            rows[index] = self._with_context(self._observation(each, player), earlier, player, share, legal)
        return torch.from_numpy(rows)

    def _observation(self, state: Any, player: int) -> np.ndarray:
        self._view.set_from(state, player)
        return self._planes.reshape(self._shape)

    def _with_context(
        self,
        planes: np.ndarray,
        earlier: np.ndarray | None,
        player: int,
        share: float,
        legal: np.ndarray | None,
    ) -> np.ndarray:
        """The library's planes, of now and before, with what they leave out."""
        earlier = np.zeros_like(planes) if earlier is None else earlier
        legal = np.zeros(self.num_actions, np.float32) if legal is None else legal
        if not self._is_board:
            return np.concatenate([planes, earlier, [player, share], legal])
        rows, columns = self._shape[1:]
        context = np.empty((2, rows, columns), np.float32)
        context[0], context[1] = player, share
        return np.concatenate([planes, earlier, context, _as_planes(legal, rows, columns)])

    @cached_property
    def symmetries(self) -> Symmetries:
        """The images of the board under which some games, played at random, are the same game: the same legal
        moves, observations and returns. Rules that tell the sides apart, as hex's, leave the identity."""
        if not self._is_board:
            one = torch.arange(self.num_actions)[None]
            return Symmetries(torch.arange(self.observation_shape[0])[None], one)
        rows, columns = self._shape[1:]
        board = torch.arange(rows * columns).view(rows, columns)
        found = []
        for image in dihedral(board):
            actions = _action_image(image, self.num_actions)
            if actions is not None and self._is_symmetry(image.reshape(-1), actions):
                found.append((image.reshape(-1), actions))
        found = found or [(board.reshape(-1), torch.arange(self.num_actions))]
        return Symmetries(*(torch.stack(each) for each in zip(*found, strict=True)))

    def _is_symmetry(self, cells: Tensor, actions: Tensor) -> bool:
        if torch.equal(actions, torch.arange(self.num_actions)) and torch.equal(cells, cells.sort()[0]):
            return True
        image_of = actions.argsort().tolist()  # where an action stands in the image
        for number in range(TRIES):
            here, there = self.game.new_initial_state(), self.game.new_initial_state()
            while not here.is_terminal():
                legal = here.legal_actions()
                if there.is_terminal() or sorted(image_of[a] for a in legal) != there.legal_actions():
                    return False
                player = here.current_player()
                image = self._observation(here, player).reshape(self._shape[0], -1)[:, cells.numpy()]
                if not np.array_equal(image, self._observation(there, player).reshape(self._shape[0], -1)):
                    return False
                move = here.move_number()
                action = legal[(number * 31 + move * (number + 7)) % len(legal)]  # some or other
                here.apply_action(action)
                there.apply_action(image_of[action])
            if here.returns() != there.returns():
                return False
        return True

    def render(self, state: State) -> str:
        return str(self._states[int(state[0, 0])]).rstrip()

    def action_name(self, state: State, action: int) -> str:
        each = self._states[int(state[0, 0])]
        return each.action_to_string(each.current_player(), action)

    def retain(self, state: State) -> None:
        numbers = set(state[:, 0].tolist())
        self._states = {number: self._states[number] for number in sorted(numbers)}
        self._parents = {number: self._parents[number] for number in sorted(numbers)}

    def state_dict(self) -> dict[str, Any]:
        """The moves of all states that are held: the library's own are replayed."""
        histories = {number: list(each.history()) for number, each in self._states.items()}
        return {"histories": histories, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._states, self._parents, self._next = {}, {}, state["next"]
        for number, history in state["histories"].items():
            each, before = self.game.new_initial_state(), None
            for action in history:
                before = each.clone()
                each.apply_action(action)
            self._states[number], self._parents[number] = each, before


def _check_kind(game: Any) -> None:
    """
    Raises:
        BadInput: a game that a search of one known future cannot play.
    """
    about, library = describe(game), pyspiel()
    reasons = {
        "chance (dice, or cards that are dealt)": about["has_chance"],
        "hidden cards": about["has_hidden_information"],
        "moves at the same time": about["is_simultaneous"],
        f"{about['players']} players": about["players"] != 2,
        "returns that are not one player's gain and the other's loss": game.get_type().utility
        != library.GameType.Utility.ZERO_SUM,
        "no observations as numbers": not game.get_type().provides_observation_tensor,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise BadInput(
            f"{game} has {' and '.join(found)}: the search takes games of two players in turn with all in "
            "the open, such as tic_tac_toe, connect_four, hex, othello or go"
        )


def _as_planes(legal: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Legal moves as planes: actions that are cells as cells, those that are columns as columns, further
    ones (to pass) as a plane each; others in reading order, filled up with zeros."""
    cells, count = rows * columns, len(legal)
    if count == columns:
        return np.broadcast_to(legal, (1, rows, columns))
    boards, extra = divmod(count, cells)
    if boards and extra <= FEW:
        rest = np.broadcast_to(legal[boards * cells :, None, None], (extra, rows, columns))
        return np.concatenate([legal[: boards * cells].reshape(-1, rows, columns), rest])
    padded = np.zeros(-(-count // cells) * cells, legal.dtype)
    padded[:count] = legal
    return padded.reshape(-1, rows, columns)


def _action_image(image: Int64[Tensor, "row column"], count: int) -> Int64[Tensor, " action"] | None:
    """The actions in the image of a board; None where what they are is not known."""
    rows, columns = image.shape
    if count == columns and not bool((image // columns != torch.arange(rows)[:, None]).any()):
        return image[0] % columns
    if rows * columns <= count <= rows * columns + FEW:
        return torch.cat((image.reshape(-1), torch.arange(rows * columns, count)))
    return None
