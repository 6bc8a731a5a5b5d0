"""Poker in words: the cards and bets that a player may see, and what a move is called where it is legal."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

RANKS = ("jack", "queen", "king")  # from the lowest card on
History = Sequence[tuple[int | None, str]]  # who moved, None for chance, and what


class Words(NamedTuple):
    """How a game is written."""

    move: Callable[[Any, int], str]  # state, action -> what the move is called there
    view: Callable[[Any, int, History], list[str]]  # state, person, history -> lines that the person may see
    info_state: Callable[[str], str]  # open_spiel's name of an information state -> a line
    unit: str = "points"  # of returns

    def result(self, state: Any, person: int) -> list[str]:
        """A line, once the game is over."""
        if not state.is_terminal():
            return []
        won = state.returns()[person]
        unit = self.unit[:-1] if abs(won) == 1 else self.unit
        return [f"you {'win' if won > 0 else 'lose'} {abs(won):g} {unit}" if won else f"nobody wins {unit}"]


def _any_move(state: Any, action: int) -> str:
    return state.action_to_string(state.current_player(), action)


def _any_view(state: Any, person: int, history: History) -> list[str]:
    return [(str(state) if state.is_terminal() else state.information_state_string(person)).strip()]


def _any_info_state(name: str) -> str:
    return " ".join(name.split())


def _moves(person: int, history: History) -> list[str]:
    names = {person: "you", 1 - person: "agent"}
    moves = ", ".join(f"{names[seat]} {what}" for seat, what in history if seat is not None)
    return [f"so far: {moves}"] if moves else []


def _shown(state: Any, cards: Sequence[str], person: int, history: History) -> list[str]:
    """The agent's card, once the game is over, unless a player folded."""
    if not state.is_terminal():
        return []
    is_folded = history[-1][1] == "fold"
    return ["the agent's card stays hidden" if is_folded else f"agent's card: {cards[1 - person]}"]


def _kuhn_move(state: Any, action: int) -> str:
    """To pass is to check or to fold, to bet is also to call."""
    is_faced = "b" in state.information_state_string(state.current_player())
    return (("fold", "call") if is_faced else ("check", "bet"))[action]


def _kuhn_view(state: Any, person: int, history: History) -> list[str]:
    cards = [RANKS[int(what)] for seat, what in history if seat is None]
    bets = state.information_state_string(person)[1:]
    first = f"your card: {cards[person]}; pot: {2 + bets.count('b')}"
    return [first, *_moves(person, history), *_shown(state, cards, person, history)]


def _kuhn_info_state(name: str) -> str:
    names = {"": "", "p": "check", "b": "bet", "pb": "check, bet"}
    return f"{RANKS[int(name[0])]}: {names[name[1:]]}".rstrip(": ")


def _leduc_move(state: Any, action: int) -> str:
    name = state.action_to_string(state.current_player(), action).lower()
    # nothing is bet, so there is nothing to call
    return "check" if name == "call" and 0 not in state.legal_actions() else name


def _leduc_view(state: Any, person: int, history: History) -> list[str]:
    cards = [RANKS[int(what) // 2] for seat, what in history if seat is None]
    public = cards[2] if len(cards) > 2 else "not yet shown"
    first = f"your card: {cards[person]}; card on the table: {public}"
    pot = re.search(r"\[Pot: (\d+)\]", state.information_state_string(person))
    if pot and not state.is_terminal():
        first += f"; pot: {pot[1]}"
    return [first, *_moves(person, history), *_shown(state, cards, person, history)]


def _leduc_info_state(name: str) -> str:
    found = dict(re.findall(r"\[(Private|Public|Round1|Round2):? ?([^\]]*)\]", name))
    moves = {"0": "fold", "1": "call", "2": "raise"}
    rounds = [
        " ".join(moves[number] for number in found.get(part, "").split()) for part in ("Round1", "Round2")
    ]
    card = RANKS[int(found["Private"]) // 2]
    if "Public" not in found:
        return f"{card}: {rounds[0]}".rstrip(": ")
    return f"{card}: {rounds[0]}, {RANKS[int(found['Public']) // 2]} {rounds[1]}".rstrip()


WORDS = {
    "kuhn_poker()": Words(_kuhn_move, _kuhn_view, _kuhn_info_state, "chips"),
    "leduc_poker()": Words(_leduc_move, _leduc_view, _leduc_info_state, "chips"),
}


def words_of(game: Any) -> Words:
    """The words of a game; other games have open_spiel's own."""
    return WORDS.get(str(game), Words(_any_move, _any_view, _any_info_state))
