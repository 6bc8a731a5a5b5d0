"""Self-play: what the stream records, against games replayed move by move."""

import io
import itertools
from functools import partial

import pytest
import torch

from torchstone.envs.board_games import connect_four, tic_tac_toe
from torchstone.envs.openspiel import OpenSpielGame
from torchstone.envs.self_play import PositionBuffer, SelfPlay, SelfPlayConfig, transform
from torchstone.parts.rl import mcts
from torchstone.tasks.selfplay.players import search_game

CONFIG = SelfPlayConfig(
    num_games=6, num_moves=4, sample_size=32, buffer_size=240, learning_starts=30, temperature_moves=3
)


def hashed_outputs(game, state, done):
    """A network without weights: numbers that depend on the observation alone."""
    x = game.observe(state).flatten(1)
    weight = torch.linspace(-1, 1, x.shape[1] * (game.num_actions + 1)).sin().view(x.shape[1], -1)
    y = (x @ weight).sin()
    return y[:, 1:].masked_fill(~game.legal_actions(state, done), -torch.inf), y[:, 0]


def search(game, state, generator, tree=None):
    noise = partial(mcts.add_dirichlet_noise, alpha=1.0, fraction=0.25, generator=generator)
    rule = mcts.Puct(normalize=None)
    return search_game(game, state, partial(hashed_outputs, game), 6, rule=rule, root_noise=noise, tree=tree)


def make(game, *, keeps_trees=False, seed=0, **changes) -> SelfPlay:
    config = SelfPlayConfig(**{**vars(CONFIG), **changes})
    return SelfPlay(game, partial(search, game), config, keeps_trees=keeps_trees, seed=seed)


@pytest.mark.parametrize("q_weight", [0.25, pytest.param(0.0, marks=pytest.mark.sweep)])
def test_targets_are_those_of_the_games_replayed(q_weight, monkeypatch):
    """Each position's value is the outcome for who moved there; its policy is the search's; and no position of a
    game in progress is known."""
    game = tic_tac_toe()
    stream = make(game, q_weight=q_weight)
    played = []  # of each move: states, visits, root values, and the outcomes after it

    def watched(state, generator, **options):
        tree = search(game, state, generator, **options)
        played.append((state.clone(), tree.root_visits.clone(), tree.root_value.clone()))
        return tree

    stream.search = watched
    next(stream)
    buffer, moves = stream.buffer, len(played)
    assert moves <= buffer.num_slots
    known = 0
    for column in range(CONFIG.num_games):
        begins = [t for t in range(moves) if not played[t][0][column, 2]] + [moves]
        for begin, end in itertools.pairwise(begins):
            has_ended = end < moves or stream.ply[column] == 0
            states = [played[t][0][column] for t in range(begin, end)]
            if not has_ended:
                assert not buffer.is_known[begin:end, column].any()
                continue
            # the last move, from what both sides hold: the winner moved last, or the board is full
            winner = _winner(game, states, played, begin, end, column)
            for t in range(begin, end):
                known += 1
                assert buffer.is_known[t, column]
                mover = (t - begin) % 2
                z = 0.0 if winner is None else 1.0 if winner == mover else -1.0
                root = float(played[t][2][column])
                assert float(buffer.value[t, column]) == pytest.approx(
                    (1 - q_weight) * z + q_weight * root, abs=1e-6
                )
                visits = played[t][1][column]
                torch.testing.assert_close(buffer.policy[t, column], visits / visits.sum())
                seen = game.observe(states[t - begin][None])[0]
                assert torch.equal(buffer.observation[t, column].float(), seen)
    assert known == len(buffer) > 30


def _winner(game, states, played, begin, end, column):
    """By trying the actions of the last position: the one that was taken has left no later position."""
    last = states[-1]
    lines = ["012", "345", "678", "036", "147", "258", "048", "246"]
    if end - begin == 9:  # the last free cell may still make a line
        free = int(game.legal_actions(last[None])[0].nonzero()[0, 0])
        own = game.observe(last[None])[0, 0].flatten()
        own[free] = 1
        won = any(all(own[int(cell)] for cell in line) for line in lines)
        return (end - begin - 1) % 2 if won else None
    return (end - begin - 1) % 2


def test_a_game_longer_than_the_buffer_keeps_its_end():
    buffer = PositionBuffer(3, 1, (1,), 2, torch.float32)
    for move in range(5):
        buffer.add(
            torch.full((1, 1), float(move)), torch.ones(1, 2), torch.tensor([move % 2]), torch.zeros(1)
        )
    assert len(buffer) == 0
    buffer.end(torch.tensor([True]), torch.tensor([[1.0, -1.0]]), 0.0)
    assert len(buffer) == 3
    values = dict(zip(buffer.observation.flatten().tolist(), buffer.value.flatten().tolist(), strict=True))
    assert values == {2.0: 1.0, 3.0: -1.0, 4.0: 1.0}
    buffer.add(torch.full((1, 1), 9.0), torch.ones(1, 2), torch.tensor([0]), torch.zeros(1))
    assert len(buffer) == 2  # of a game that has not ended, nothing is sampled
    sampled = buffer.sample(64, torch.Generator().manual_seed(0))[0]
    assert set(sampled.flatten().tolist()) == {3.0, 4.0}


GAMES = {
    "tic_tac_toe": (tic_tac_toe, False),
    "connect_four, trees kept": (connect_four, True),
    "go": (partial(OpenSpielGame, "go(board_size=3)"), False),
    "go, trees kept": (partial(OpenSpielGame, "go(board_size=3)"), True),
}


def same(a, b) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


IN_SWEEP = ("tic_tac_toe", "go", "connect_four, trees kept")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.sweep] if n in IN_SWEEP else []) for n in GAMES]
)
def test_resumed_with_games_in_progress(name):
    """Games, trees, replay and generators go on to the bit; and the same seed plays the same games."""
    make_game, keeps_trees = GAMES[name]
    options = {"keeps_trees": keeps_trees, "random_opening": 2, "learning_starts": 8, "num_games": 3}
    first = make(make_game(), **options)
    next(first)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    expected = [next(first) for _ in range(3)]
    resumed = make(make_game(), **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert all(same(next(resumed), batch) for batch in expected)
    again = make(make_game(), **options)
    next(again)
    assert all(same(next(again), batch) for batch in expected)
    other = make(make_game(), **options, seed=1)
    next(other)
    assert not same(next(other), expected[0])


def test_an_opening_is_random_and_never_ends_the_game():
    game = tic_tac_toe()
    stream = make(game, random_opening=9, num_games=400)
    state, ply = stream._begin(400, torch.Generator().manual_seed(0))
    assert torch.equal(state[:, 2], ply)
    assert not game.outcome(state)[0].any()
    assert ply.min() == 0
    assert ply.max() >= 7


def test_images_keep_what_is_where():
    """A stone and the visits of its cell move together."""
    game = tic_tac_toe()
    cells = torch.arange(9.0)
    observation = torch.stack((cells, cells + 10)).view(1, 2, 3, 3).repeat(64, 1, 1, 1)
    policy = cells[None].repeat(64, 1)
    image, visits = transform(game, observation, policy, torch.Generator().manual_seed(0))
    assert torch.equal(image[:, 0].flatten(1), visits)
    assert torch.equal(image[:, 1].flatten(1), visits + 10)
    assert len({tuple(row) for row in visits.tolist()}) == 8


def test_moves_follow_visits_at_first_and_then_the_most_visited():
    """With the temperature at 1 moves differ from game to game; at 0 they are the most visited."""
    game = connect_four()
    stream = make(game, num_games=200, temperature_moves=1, learning_starts=1)
    trees = []

    def watched(state, generator):
        trees.append(search(game, state, generator))
        return trees[-1]

    stream.search = watched
    stream._move([], [])
    first = stream.state.clone()
    assert len(first.unique(dim=0)) > 3
    stream._move([], [])
    greedy = game.step(first, trees[1].root_visits.max(1).indices)
    assert torch.equal(stream.state, greedy)
