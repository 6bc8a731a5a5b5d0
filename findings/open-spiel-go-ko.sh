#!/usr/bin/env bash
# open_spiel says of Go that nothing is hidden (PERFECT_INFORMATION), and a network is given the observation
# tensor. Two states of equal tensors may differ in their legal moves: the point that a ko forbids is in no
# plane. Nor is komi, which decides who has won a finished game.
#
# It matters wherever a policy or value is learned from `observation_tensor` alone, as AlphaZero's is: the
# target of one input is then two different distributions, and one network cannot play at two komi.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet open-spiel==2.0.2 numpy==2.4.6
venv/bin/python -I - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import pyspiel

print(f"open_spiel {version('open-spiel')}, numpy {np.__version__}")
SIDE = 5
go = pyspiel.load_game(f"go(board_size={SIDE},komi=0.5)")
print("information:", go.get_type().information, "  planes:", go.observation_tensor_shape())


def play(game, moves):
    """The state after moves, each a row and a column from the lower left corner; black begins."""
    state = game.new_initial_state()
    for row, column in moves:
        state.apply_action(row * SIDE + column)
    return state


# the same stones in another order: in the first the last move takes a stone in a ko, in the second a pair of
# moves elsewhere has followed, so that white may take back
before = [(1, 0), (1, 1), (0, 1), (2, 2), (2, 1), (0, 2), (4, 4)]
just_taken = play(go, [*before, (4, 0), (0, 4), (1, 3), (1, 2)])
long_taken = play(go, [*before, (1, 3), (1, 2), (4, 0), (0, 4)])
print(just_taken)
tensors = [np.array(state.observation_tensor(player)) for state in (just_taken, long_taken) for player in (0, 1)]
equal = all(np.array_equal(tensors[0], each) for each in tensors[1:])
moves = [set(state.legal_actions()) for state in (just_taken, long_taken)]
names = [[just_taken.action_to_string(each) for each in sorted(a - b)] for a, b in (moves, moves[::-1])]
print("expected: states of a game without hidden information that allow other moves have other tensors")
print(f"same player to move: {just_taken.current_player() == long_taken.current_player()}, equal tensors: {equal}")
print(f"legal in the first only: {names[0]}, in the second only: {names[1]}")

# at another komi: another winner of the same game, the same tensors all along
other = pyspiel.load_game(f"go(board_size={SIDE},komi=24.5)")
game = [*before, (4, 0), (0, 4), (1, 3), (1, 2)]
ends = []
for each in (go, other):
    state = play(each, game)
    for _ in range(2):
        state.apply_action(SIDE * SIDE)  # both pass
    ends.append((state.returns(), state.observation_tensor(0)))
same = np.array_equal(ends[0][1], ends[1][1])
print(f"returns at komi 0.5 and 24.5: {ends[0][0]} {ends[1][0]}, equal tensors: {same}")
if not equal or moves[0] == moves[1]:
    sys.exit("CHANGED: the tensor tells which moves a ko forbids")
if not same or ends[0][0] == ends[1][0]:
    sys.exit("CHANGED: the tensor tells the komi")
print("confirmed: neither ko nor komi is in the tensor of Go")
PY
