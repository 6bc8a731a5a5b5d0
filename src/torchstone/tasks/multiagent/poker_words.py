"""Poker in words: the cards and bets that a player may see, and what a move is called where it is legal."""

import re
from collections.abc import Sequence
from typing import Any

RANKS = ("jack", "queen", "king", "ace")  # from the lowest card on
History = Sequence[tuple[int | None, str]]  # who moved, None for chance, and what


class PokerWords:
    """Any game: open_spiel's own text."""

    unit = "points"

    def move(self, state: Any, action: int) -> str:
        return state.action_to_string(state.current_player(), action)

    def view(self, state: Any, person: int, history: History) -> str:
        text = str(state) if state.is_terminal() else state.information_state_string(person)
        return "\n".join([text.strip(), *self._ending(state, person)])

    def info_state(self, name: str) -> str:
        """An information state, in a line."""
        return " ".join(name.split())

    def _ending(self, state: Any, person: int) -> list[str]:
        if not state.is_terminal():
            return []
        chips = state.returns()[person]
        word = "win" if chips > 0 else "lose"
        unit = self.unit[:-1] if abs(chips) == 1 else self.unit
        return [f"you {word} {abs(chips):g} {unit}" if chips else f"nobody wins {self.unit}"]

    def _moves(self, person: int, history: History) -> str:
        names = {person: "you", 1 - person: "agent"}
        return ", ".join(f"{names[seat]} {what}" for seat, what in history if seat is not None)


class KuhnWords(PokerWords):
    """Three cards, one bet: to pass is to check or to fold, to bet is also to call."""

    unit = "chips"

    def move(self, state: Any, action: int) -> str:
        is_faced = "b" in state.information_state_string(state.current_player())
        return (("fold", "call") if is_faced else ("check", "bet"))[action]

    def view(self, state: Any, person: int, history: History) -> str:
        cards = [RANKS[int(what)] for seat, what in history if seat is None]
        bets = state.information_state_string(person)[1:]
        is_called = "call" in [what for _, what in history]
        lines = [f"your card: {cards[person]}; pot: {2 + bets.count('b')}"]
        if moves := self._moves(person, history):
            lines.append(f"so far: {moves}")
        if state.is_terminal():
            shown = is_called or "b" not in bets
            lines.append(f"agent's card: {cards[1 - person]}" if shown else "the agent's card stays hidden")
        return "\n".join([*lines, *self._ending(state, person)])

    def info_state(self, name: str) -> str:
        names = {"": "", "p": "check", "b": "bet", "pb": "check, bet"}
        return f"{RANKS[int(name[0])]}: {names[name[1:]]}".rstrip(": ")


class LeducWords(PokerWords):
    """Two cards of each rank, one of them on the table after the first round of bets."""

    unit = "chips"

    def move(self, state: Any, action: int) -> str:
        name = state.action_to_string(state.current_player(), action).lower()
        # nothing is bet, so there is nothing to call
        return "check" if name == "call" and 0 not in state.legal_actions() else name

    def view(self, state: Any, person: int, history: History) -> str:
        cards = [RANKS[int(what) // 2] for seat, what in history if seat is None]
        public = cards[2] if len(cards) > 2 else "not yet shown"
        pot = re.search(r"\[Pot: (\d+)\]", state.information_state_string(person))
        lines = [f"your card: {cards[person]}; card on the table: {public}"]
        if pot and not state.is_terminal():
            lines[0] += f"; pot: {pot[1]}"
        if moves := self._moves(person, history):
            lines.append(f"so far: {moves}")
        if state.is_terminal():
            is_folded = history[-1][1] == "fold"
            hidden = "the agent's card stays hidden"
            lines.append(hidden if is_folded else f"agent's card: {cards[1 - person]}")
        return "\n".join([*lines, *self._ending(state, person)])

    def info_state(self, name: str) -> str:
        found = dict(re.findall(r"\[(Private|Public|Round1|Round2):? ?([^\]]*)\]", name))
        moves = {"0": "fold", "1": "call", "2": "raise"}
        rounds = [
            " ".join(moves[number] for number in found.get(part, "").split()) for part in ("Round1", "Round2")
        ]
        card = RANKS[int(found["Private"]) // 2]
        if "Public" not in found:
            return f"{card}: {rounds[0]}".rstrip(": ")
        public = RANKS[int(found["Public"]) // 2]
        return f"{card}: {rounds[0]}, {public} {rounds[1]}".rstrip()


def words_of(game: Any) -> PokerWords:
    """The words of a game; other kinds of it, with more cards, have open_spiel's own."""
    kinds = {"kuhn_poker()": KuhnWords, "leduc_poker()": LeducWords}
    return kinds.get(str(game), PokerWords)()
