"""A person at the terminal: what is typed, and what is answered."""

import pytest

from torchstone.tasks.selfplay.terminal import play_person


class Sticks:
    """Five sticks; each takes one or two; who takes the last wins. The agent takes one."""

    def begin(self, person):
        self.sticks, self.mover, self.person = 5, 0, person

    def turn(self):
        return self.mover if self.sticks else None

    def view(self):
        return "|" * self.sticks

    def moves(self):
        return {"one": 1, "Take two": 2} if self.sticks > 1 else {"one": 1}

    def make(self, action):
        self.sticks -= action
        self.mover = 1 - self.mover

    def reply(self):
        self.make(1)
        return "one"

    def outcome(self):
        return 1.0 if self.mover != self.person else -1.0


def play(words, games=1):
    lines, given = [], iter(words)

    def read(prompt):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    return play_person(Sticks(), games, read, lines.append), lines


def test_a_game_to_its_end():
    returns, lines = play(["two", "TAKE  TWO"])
    assert returns == [-1.0]
    assert lines[-1] == "you win"
    assert "agent: one" in lines
    assert "legal moves: one, Take two" in lines


def test_an_illegal_move_is_answered_in_one_line_and_asked_for_again():
    returns, lines = play(["three", "", "one", "one", "one"])
    assert "'three' is no legal move: one, Take two; or quit" in lines
    assert "'' is no legal move: one, Take two; or quit" in lines
    assert returns == [-1.0]


@pytest.mark.parametrize("words", [["one", "quit"], ["one"], [" Q "], []])
def test_quit_or_the_end_of_the_input_ends_it(words):
    assert play(words)[0] == []


def test_sides_change_after_each_game():
    returns, lines = play(["two", "two", "one", "one"], games=2)
    assert returns == [-1.0, 1.0]
    assert "game 1 of 2: you move first" in lines
    assert "game 2 of 2: you move second" in lines
    assert lines[-1] == "you lose"
