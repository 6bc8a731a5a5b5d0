"""Games of open_spiel by name: loading one, and what can be known of it before it is played.

A game is written as open_spiel writes it, after the prefix `openspiel:` or without:
`openspiel:hex(board_size=5)`, `kuhn_poker`. The library is the extra `games`, imported when a game is loaded.
"""

import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torchstone.errors import BadInput, did_you_mean, first_line

PREFIX = "openspiel:"
NAME = re.compile(r"\s*([A-Za-z0-9_]*)\s*(\(.*)?\s*$", re.DOTALL)


def pyspiel() -> ModuleType:
    """open_spiel's module.

    Raises:
        BadInput: it is not installed; with the command that installs it.
    """
    try:
        import pyspiel
    except ModuleNotFoundError as error:
        raise BadInput("games need open-spiel: pip install 'torchstone[games]'") from error
    return pyspiel


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
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
