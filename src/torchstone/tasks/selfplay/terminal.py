"""A person at the terminal against a run's agent."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable


class Rival(NamedTuple):
    """A run's agent, for another run's to play against."""

    game: str  # name of the game that it plays
    act: Callable  # of the same task's own kind: what a player of that game is


@runtime_checkable
class Table(Protocol):
    """A game with the run's agent at it. Seats are 0 and 1; chance moves by itself."""

    def begin(self, person: int) -> None:
        """A new game, the person on this seat."""

    def turn(self) -> int | None:
        """The seat that moves; None once the game is over."""

    def view(self) -> str:
        """What the person may see."""

    def moves(self) -> dict[str, int]:
        """The person's legal moves: notation to action."""

    def make(self, action: int) -> None:
        """The person's move."""

    def reply(self) -> str:
        """The agent's move, in notation, with what it thinks of it."""

    def outcome(self) -> float:
        """The person's return."""


HELP = "a move of those listed, or quit"


def play_person(
    table: Table, games: int, read: Callable[[str], str] = input, write: Callable[[str], None] = print
) -> list[float]:
    """The agent's returns of the games that were finished; sides change after each.

    A move that is none is answered by one line, and asked for again. `quit` or the end of the input ends it.
    """
    returns: list[float] = []
    for number in range(games):
        person = number % 2
        table.begin(person)
        write(f"game {number + 1} of {games}: you {'move first' if person == 0 else 'move second'}")
        while (seat := table.turn()) is not None:
            if seat != person:
                write(f"agent: {table.reply()}")
                continue
            write(table.view())
            action = _ask(table.moves(), read, write)
            if action is None:
                return returns
            table.make(action)
        write(table.view())
        result = table.outcome()
        returns.append(-result)
        write("you win" if result > 0 else "you lose" if result < 0 else "a draw")
    return returns


def _ask(moves: dict[str, int], read: Callable[[str], str], write: Callable[[str], None]) -> int | None:
    """The person's move; None for none."""
    by_word = {_word(name): action for name, action in moves.items()}
    # as open_spiel writes a move with the mover before it, the last word is enough
    short: dict[str, list[int]] = {}
    for name, action in moves.items():
        short.setdefault(_word(name.split()[-1]), []).append(action)
    listed = " ".join(moves) if all(" " not in name for name in moves) else ", ".join(moves)
    write(f"legal moves: {listed}")
    while True:
        try:
            word = read("your move: ").strip()
        except EOFError:
            return None
        if word.lower() in ("quit", "exit", "q") and _word(word) not in by_word:
            return None
        if _word(word) in by_word:
            return by_word[_word(word)]
        if len(short.get(_word(word), [])) == 1:
            return short[_word(word)][0]
        write(f"{word!r} is no legal move: {listed}; or quit")


def _word(text: str) -> str:
    return "".join(text.lower().split())
