"""Boards on tensors, against open_spiel's and a plain minimax."""

from functools import cache

import pytest
import torch

from torchstone.envs.board_games import (
    LineGame,
    PerfectPlayer,
    connect_four,
    dihedral,
    positions_by_ply,
    tic_tac_toe,
)
from torchstone.envs.openspiel import load_game
from torchstone.errors import BadInput


def play_both(game: LineGame, theirs, games: int, seed: int) -> int:
    """Random games here and in open_spiel, compared at each move; how many positions."""
    generator = torch.Generator().manual_seed(seed)
    states, other = game.initial(games), [theirs.new_initial_state() for _ in range(games)]
    planes = theirs.observation_tensor_shape()
    first_plane = (
        0 if "connect" in game.name else 2
    )  # connect four's empty plane is last, tic-tac-toe's first
    second_plane = 1
    count = 0
    while len(states):
        count += len(states)
        done, returns = game.outcome(states)
        legal = game.legal_actions(states)
        assert done.tolist() == [each.is_terminal() for each in other]
        assert returns.tolist() == [each.returns() for each in other]
        assert [row.nonzero()[:, 0].tolist() for row in legal] == [each.legal_actions() for each in other]
        player = game.player(states)
        observation = game.observe(states)
        for row, each in enumerate(other):
            tensor = torch.tensor(each.observation_tensor(0)).view(planes)
            stones = torch.stack((tensor[first_plane], tensor[second_plane]))
            if not each.is_terminal():
                assert player[row] == each.current_player()
            # the stones of the player to move come first
            assert torch.equal(observation[row], stones if player[row] == 0 else stones.flip(0))
        states, other = states[~done], [each for each in other if not each.is_terminal()]
        if not len(states):
            break
        action = torch.multinomial(legal[~done].float(), 1, generator=generator)[:, 0]
        states = game.step(states, action)
        for each, chosen in zip(other, action.tolist(), strict=True):
            each.apply_action(chosen)
    return count


@pytest.mark.parametrize(("game", "spec"), [(tic_tac_toe, "tic_tac_toe"), (connect_four, "connect_four")])
def test_random_games_are_open_spiels(game, spec):
    assert play_both(game(), load_game(spec), 24, seed=0) > 24 * 5


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("rows", "columns", "length"), [(6, 7, 4), (5, 5, 3), (4, 6, 4), (3, 8, 3), (7, 7, 5), (6, 7, 5)]
)
def test_boards_of_other_sizes_are_open_spiels(rows, columns, length, seed):
    game = LineGame("connect", rows, columns, length, gravity=True)
    theirs = load_game(f"connect_four(rows={rows},columns={columns},x_in_row={length})")
    play_both(game, theirs, 60, seed)


@pytest.mark.sweep
def test_many_games_of_tic_tac_toe_are_open_spiels():
    assert play_both(tic_tac_toe(), load_game("tic_tac_toe"), 1000, seed=1) > 5000


def test_a_line_does_not_wrap_around_the_board():
    game = connect_four()
    # three at the top of a column and one at the foot of the next are no line
    stones = sum(1 << bit for bit in (3, 4, 5, 7))
    assert not game.has_line(torch.tensor([stones]))
    assert game.has_line(torch.tensor([sum(1 << bit for bit in (2, 3, 4, 5))]))


@cache
def minimax(board: str, player: str) -> int:
    """The value of a board of x, o and . for the player to move, by recursion."""
    other = "o" if player == "x" else "x"
    lines = [
        board[a:b:c]
        for a, b, c in (
            (0, 3, 1),
            (3, 6, 1),
            (6, 9, 1),
            (0, 9, 3),
            (1, 9, 3),
            (2, 9, 3),
            (0, 9, 4),
            (2, 7, 2),
        )
    ]
    if other * 3 in lines:
        return -1
    if "." not in board:
        return 0
    return max(-minimax(board[:i] + player + board[i + 1 :], other) for i in range(9) if board[i] == ".")


def test_perfect_play_is_minimax():
    game = tic_tac_toe()
    perfect = PerfectPlayer(game)
    assert perfect.num_positions == 5478
    states = torch.cat(positions_by_ply(game, 9))
    generator = torch.Generator().manual_seed(0)
    states = states[torch.randperm(len(states), generator=generator)[:400]]
    for state, value in zip(states.split(1), perfect.values(states).tolist(), strict=True):
        own, other = game.observe(state)[0].flatten(1)
        board = "".join("x" if a else "o" if b else "." for a, b in zip(own, other, strict=True))
        assert minimax(board, "x") == value


def test_perfect_play_of_the_first_moves():
    game = tic_tac_toe()
    perfect = PerfectPlayer(game)
    assert perfect.values(game.initial(1)).item() == 0
    corner = game.step(game.initial(1), torch.tensor([0]))
    values = perfect.action_values(corner)[0].tolist()
    assert values[0] == -torch.inf
    assert [a for a, value in enumerate(values) if value == 0] == [4]  # only the center holds the draw


def test_perfect_play_is_for_small_games():
    with pytest.raises(BadInput, match="connect_four has too many positions"):
        PerfectPlayer(connect_four())


@pytest.mark.parametrize("size", [(0, 3), (8, 8), (3, 20)])
def test_a_board_that_does_not_fit_is_refused(size):
    with pytest.raises(BadInput, match="no board of"):
        LineGame("none", *size, 3, gravity=False)


@pytest.mark.parametrize("game", [tic_tac_toe(), connect_four()], ids=lambda game: game.name)
def test_the_image_of_a_game_is_a_game(game):
    """Legal moves, observations and outcomes of a game and of its images."""
    symmetries = game.symmetries
    assert len(symmetries.cells) == (8 if game.name == "tic_tac_toe" else 2)
    generator = torch.Generator().manual_seed(1)
    for cells, actions in zip(symmetries.cells, symmetries.actions, strict=True):
        image_of = actions.argsort()
        here = there = game.initial(16)
        for _ in range(8):
            legal = game.legal_actions(here)
            assert torch.equal(legal[:, actions], game.legal_actions(there))
            seen = game.observe(here).flatten(2)[..., cells]
            assert torch.equal(seen, game.observe(there).flatten(2))
            assert torch.equal(game.outcome(here)[1], game.outcome(there)[1])
            live = legal.any(1)
            here, there = here[live], there[live]
            action = torch.multinomial(legal[live].float(), 1, generator=generator)[:, 0]
            here, there = game.step(here, action), game.step(there, image_of[action])


def test_the_eight_images_of_a_square_are_different():
    images = dihedral(torch.arange(9).view(3, 3))
    assert len({tuple(image.flatten().tolist()) for image in images}) == 8
    assert len(dihedral(torch.arange(6).view(2, 3))) == 4


def test_people_read_boards_and_moves():
    game = tic_tac_toe()
    state = game.step(game.step(game.initial(1), torch.tensor([4])), torch.tensor([0]))
    assert game.render(state).splitlines() == ["3 o . .", "2 . x .", "1 . . .", "  a b c"]
    assert [game.action_name(state, action) for action in (0, 4, 8)] == ["a3", "b2", "c1"]
    four = connect_four()
    state = four.step(four.initial(1), torch.tensor([3]))
    assert four.render(state).splitlines()[-2:] == [". . . x . . .", "1 2 3 4 5 6 7"]
    assert four.action_name(state, 6) == "7"
