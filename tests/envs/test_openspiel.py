"""Games of open_spiel: what is refused in one line, and observations that hold what a state is."""

import copy

import pytest
import torch

from torchstone.envs import openspiel
from torchstone.envs.openspiel import OpenSpielGame, describe, load_game
from torchstone.errors import BadInput

WRONG = {
    "openspiel:": "write e.g. openspiel:hex",
    "hexx": "did you mean hex",
    "hex(size=5)": "Unknown parameter 'size'; hex takes board_size=11",
    "hex(board_size=five)": "Wrong type for parameter board_size",
    "hex(board_size=5": "Missing closing bracket",
    "hex(board_size=-1)": "it has no legal moves",
    "go(board_size=50)": "supports board size up to 19",
}


@pytest.mark.parametrize("spec", WRONG)
def test_what_is_no_game_is_refused_in_one_line(spec, capfd):
    with pytest.raises(BadInput) as error:
        load_game(spec)
    assert WRONG[spec] in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # the library writes its errors past Python


def test_a_game_whose_first_moves_end_the_process_is_refused(monkeypatch):
    monkeypatch.setattr(openspiel, "FIRST_MOVES", "import os; os._exit(139)")
    with pytest.raises(BadInput, match=r"no game 'hex\(board_size=7\)': open_spiel crashes on it; hex takes"):
        load_game("hex(board_size=7)")
    openspiel._try_first_moves.cache_clear()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("kuhn_poker", "chance .* and hidden cards"),
        ("backgammon", "chance"),
        ("goofspiel", "moves at the same time"),
        ("matrix_pd", "returns that are not one player's gain"),
    ],
)
def test_a_game_that_a_search_cannot_play_is_refused(spec, why):
    with pytest.raises(BadInput, match=f"has .*{why}.*such as tic_tac_toe"):
        OpenSpielGame(spec)


def test_what_a_game_is():
    about = describe(load_game("openspiel:hex(board_size=5)"))
    assert about["game"] == "hex(board_size=5)"
    assert (about["players"], about["actions"], about["has_chance"]) == (2, 25, False)
    assert describe(load_game("leduc_poker"))["has_hidden_information"]


def advance(game: OpenSpielGame, *actions: int) -> torch.Tensor:
    state = game.initial(1)
    for action in actions:
        state = game.step(state, torch.tensor([action]))
    return state


def find_ko(game: OpenSpielGame) -> tuple[torch.Tensor, torch.Tensor]:
    """Two states of Go whose tensors in open_spiel are equal and whose legal moves are not."""
    seen: dict[tuple, tuple] = {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        state = game.initial(1)
        while not game.outcome(state)[0]:
            native = game._states[int(state)]
            key = (*native.observation_tensor(0), native.current_player())
            legal = tuple(native.legal_actions())
            if key in seen and seen[key][0] != legal:
                return seen[key][1], state
            seen.setdefault(key, (legal, state))
            action = torch.multinomial(game.legal_actions(state).float(), 1, generator=generator)[:, 0]
            state = game.step(state, action)
    raise AssertionError("no ko in 400 games")


def test_states_with_other_legal_moves_are_observed_differently():
    game = OpenSpielGame("go(board_size=3)")
    a, b = find_ko(game)
    assert not torch.equal(game.legal_actions(a), game.legal_actions(b))
    assert not torch.equal(game.observe(a), game.observe(b))


def test_the_observation_says_who_moves_and_that_a_move_was_a_pass():
    game = OpenSpielGame("go(board_size=5)")
    passed = advance(game, 25)
    first = game.initial(1)
    assert game.player(first).item() == 0
    assert game.player(passed).item() == 1
    mover = 2 * 4  # the planes of now and before come first
    assert game.observe(first)[0, mover].unique().tolist() == [0]
    assert game.observe(passed)[0, mover].unique().tolist() == [1]
    # two stones for both, with and without a pass before
    quiet, after_pass = advance(game, 0, 24, 25), advance(game, 0, 25, 24, 25)
    assert game.observe(quiet).shape == (1, *game.observation_shape)
    assert not torch.equal(game.observe(quiet), game.observe(after_pass))


@pytest.mark.parametrize(
    ("spec", "planes"),
    [("go(board_size=3)", 2), ("hex(board_size=3)", 1), ("connect_four", 1), ("breakthrough", 12)],
)
def test_the_last_planes_are_legal_moves_and_the_second_ones_the_state_before(spec, planes):
    """Cells as cells, columns as columns, a pass as a plane of its own."""
    game = OpenSpielGame(spec)
    generator, before, state = torch.Generator().manual_seed(0), None, game.initial(3)
    rows, columns = game.observation_shape[1:]
    depth = (game.observation_shape[0] - 2 - planes) // 2
    for _ in range(5):
        legal, observation = game.legal_actions(state).float(), game.observe(state)
        shown = observation[:, -planes:]
        if spec == "connect_four":
            assert torch.equal(shown[:, 0], legal[:, None].expand(-1, rows, -1))
        else:
            cells = planes * rows * columns if spec == "breakthrough" else rows * columns
            assert torch.equal(shown.flatten(1)[:, :cells], legal[:, :cells])
        if planes == 2:
            assert torch.equal(shown[:, 1], legal[:, -1, None, None].expand(-1, rows, columns))
        if before is not None and "hex" not in spec:  # whose planes are seen alike by both players
            assert torch.equal(observation[:, depth : 2 * depth], before)
            assert not torch.equal(observation[:, :depth], before)
        before = observation[:, :depth]
        state = game.step(state, torch.multinomial(legal, 1, generator=generator)[:, 0])


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("tic_tac_toe", 8),
        ("connect_four", 2),
        ("go(board_size=3)", 8),
        ("hex(board_size=3)", 1),  # its planes tell the sides apart
        ("hex(board_size=3,plain_obs_tensor=True)", 2),
        ("othello", 4),  # the stones that it begins with turn by half
        ("nim", 1),
    ],
)
def test_symmetries_are_those_of_the_rules(spec, count):
    symmetries = OpenSpielGame(spec).symmetries
    assert len(symmetries.cells) == len(symmetries.actions) == count
    assert torch.equal(symmetries.actions[0], torch.arange(symmetries.actions.shape[1]))


def test_states_are_replayed_from_their_moves():
    game = OpenSpielGame("go(board_size=5)")
    generator, state = torch.Generator().manual_seed(3), game.initial(4)
    for _ in range(9):
        action = torch.multinomial(game.legal_actions(state).float(), 1, generator=generator)[:, 0]
        state = game.step(state, action)
    game.retain(state)
    assert len(game._states) == 4  # the others are forgotten
    other = OpenSpielGame("go(board_size=5)")
    other.load_state_dict(copy.deepcopy(game.state_dict()))
    assert torch.equal(other.observe(state), game.observe(state))
    assert torch.equal(other.legal_actions(state), game.legal_actions(state))
    action = game.legal_actions(state).float().argmax(1)
    assert torch.equal(other.step(state, action), game.step(state, action))  # numbers go on


def test_returns_are_at_most_1():
    game = OpenSpielGame("othello")
    generator, state = torch.Generator().manual_seed(0), game.initial(2)
    while not game.outcome(state)[0].all():
        live = ~game.outcome(state)[0]
        action = torch.multinomial(game.legal_actions(state[live]).float(), 1, generator=generator)[:, 0]
        state[live] = game.step(state[live], action)
    returns = game.outcome(state)[1]
    assert returns.abs().max() <= 1
    assert torch.equal(returns[:, 0], -returns[:, 1])
