"""AlphaZero: its search against a plain recursive one, its loss against torch's, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch

from torchstone.envs.board_games import connect_four, tic_tac_toe
from torchstone.envs.openspiel import OpenSpielGame
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.references.alphazero import mlp_reference, network_case, random_batch, residual_reference
from torchstone.systems.planning import alphazero
from torchstone.verify import _parity

C, BASE = 1.5, 19652.0


class PlainNode:
    """A node of a search that visits one state after another, in the words of the paper."""

    def __init__(self, game, state, model):
        self.state, self.player = state, int(game.player(state))
        done, returns = game.outcome(state)
        self.returns = returns[0].tolist() if bool(done) else None
        self.edges = {}
        if self.returns is None:
            logits, value = model(game.observe(state))
            legal = game.legal_actions(state)[0]
            p = logits[0].masked_fill(~legal, -math.inf).softmax(0)
            self.value = float(value)
            self.edges = {
                a: [0, 0.0, float(p[a]), None] for a in legal.nonzero()[:, 0].tolist()
            }  # N, W, P, child

    def score(self, edge, total):
        n, w, p, _ = edge
        c = C + math.log((total + BASE + 1) / BASE)
        return (w / n if n else 0.0) + c * p * math.sqrt(total) / (1 + n)


def simulate(game, model, node) -> list[float]:
    """One simulation from a node: the values of its end for both players."""
    if node.returns is not None:
        return node.returns
    total = 1 + sum(edge[0] for edge in node.edges.values())
    action = max(node.edges, key=lambda a: (round(node.score(node.edges[a], total), 6), -a))
    edge = node.edges[action]
    if edge[3] is None:
        edge[3] = child = PlainNode(game, game.step(node.state, torch.tensor([action])), model)
        if child.returns is not None:
            values = child.returns
        else:
            values = [child.value, -child.value] if child.player == 0 else [-child.value, child.value]
    else:
        values = simulate(game, model, edge[3])
    edge[0] += 1
    edge[1] += values[node.player]
    return values


def positions(game, count, seed, plies):
    """Games at random, of so many moves at most, that are not over."""
    generator = torch.Generator().manual_seed(seed)
    state = game.initial(count)
    for _ in range(plies):
        legal = game.legal_actions(state)
        moves = (torch.rand(len(state), generator=generator) < 0.8) & legal.any(1)
        action = torch.multinomial(legal.float() + ~legal.any(1, keepdim=True), 1, generator=generator)[:, 0]
        rows = moves.nonzero()[:, 0]
        if len(rows):
            after = game.step(state[rows], action[rows])
            over = game.outcome(after)[0]
            state[rows[~over]] = after[~over]
    return state


def compare_with_plain(game, simulations, count, seed, plies):
    torch.manual_seed(seed)
    model = alphazero.MLPNetwork(game.observation_shape, game.num_actions, hidden=(16,))
    for parameter in model.parameters():
        parameter.data.mul_(3)  # far from uniform
    state = positions(game, count, seed, plies)
    with torch.no_grad(), eval_mode(model):
        tree = alphazero.search(model, game, state, simulations, c_puct=C)
        for row in range(count):
            root = PlainNode(game, state[row : row + 1], model)
            for _ in range(simulations):
                simulate(game, model, root)
            visits = [root.edges[a][0] if a in root.edges else 0 for a in range(game.num_actions)]
            assert tree.root_visits[row].tolist() == visits
            for action, (n, w, _, _) in root.edges.items():
                assert float(tree.root_q[row, action]) == pytest.approx(w / n if n else 0.0, abs=1e-4)


def test_the_search_is_the_plain_one():
    compare_with_plain(tic_tac_toe(), 40, 4, seed=0, plies=5)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "dots", "go"])
def test_the_search_is_the_plain_one_in_other_games(name, seed):
    """In dots and boxes who closes a box moves again: the value keeps its sign there."""
    games = {"tic_tac_toe": tic_tac_toe, "connect_four": connect_four}
    games |= {"dots": lambda: OpenSpielGame("dots_and_boxes(num_rows=1,num_cols=2)")}
    games |= {"go": lambda: OpenSpielGame("go(board_size=3)")}
    compare_with_plain(games[name](), 50, 3, seed=seed, plies=6)


def test_a_win_in_one_is_found_by_either_player():
    """Whoever moves, its own win counts for it, whatever an untrained network says."""
    game = tic_tac_toe()
    torch.manual_seed(0)
    model = alphazero.MLPNetwork(game.observation_shape, game.num_actions, hidden=(8,))
    for moves, winning in (((0, 3, 1, 4), 2), ((8, 0, 5, 1, 6), 2)):
        state = game.initial(1)
        for move in moves:
            state = game.step(state, torch.tensor([move]))
        tree = alphazero.search(model, game, state, 48, c_puct=1.25)
        assert tree.root_visits[0].argmax() == winning
        assert float(tree.root_q[0, winning]) == 1.0
        blocked = tree.root_q[0][tree.root_visits[0] > 0]
        assert blocked.min() >= -1


def test_noise_is_at_the_root_alone_and_never_on_illegal_moves():
    game = connect_four()
    model = alphazero.MLPNetwork(game.observation_shape, game.num_actions, hidden=(8,))
    state = game.initial(3)
    for _ in range(6):
        state = game.step(state, torch.tensor([2, 2, 2]))  # a column that is full
    plain = alphazero.search(model, game, state, 24, c_puct=1.25)
    noise = (0.5, 0.25, torch.Generator().manual_seed(0))
    noisy = alphazero.search(model, game, state, 24, c_puct=1.25, noise=noise)
    # three roots of the same state: the same priors without noise, and others with it
    assert torch.equal(plain.prior[0, 0], plain.prior[1, 0])
    assert not torch.allclose(noisy.prior[0, 0], noisy.prior[1, 0])
    least = 0.75 * plain.prior[:, 0] - 1e-6
    assert (noisy.prior[:, 0] >= least).all()
    for tree in (plain, noisy):
        assert (tree.prior[:, 0, 2] == 0).all()
        assert (tree.root_visits[:, 2] == 0).all()
        torch.testing.assert_close(tree.prior[:, 0].sum(1), torch.ones(3))
    # below the root priors are the network's
    child = int(noisy.children[0, 0, 3])
    inner = game.step(state[:1], torch.tensor([3]))
    logits, _ = model(game.observe(inner))
    expected = logits[0].masked_fill(~game.legal_actions(inner)[0], -math.inf).softmax(0)
    torch.testing.assert_close(noisy.prior[0, child], expected)


def smoke(**fields):
    return replace(alphazero.RECIPES["smoke"], **fields)


def test_self_play_has_noise_and_matches_have_none(monkeypatch):
    """What the stream searches with has noise; what is evaluated has not."""
    given = []
    original = alphazero.search

    def watched(*args, **options):
        given.append(options.get("noise"))
        return original(*args, **options)

    monkeypatch.setattr(alphazero, "search", watched)
    small = {"num_games": 4, "num_moves": 1, "gradient_steps": 1, "eval_games": 2, "num_simulations": 4}
    few = {"learning_starts": 1, "buffer_size": 64}
    run = next(iter(alphazero.build(smoke(dirichlet_alpha=0.7, dirichlet_fraction=0.4, **small, **few))))
    next(run.stream)
    assert given
    assert all(noise[:2] == (0.7, 0.4) for noise in given)
    given.clear()
    run.evaluate()
    assert given
    assert all(noise is None for noise in given)


RESIDUAL = [  # shape, actions, filters, blocks, filters of the heads and hidden width
    ((2, 6, 7), 7, 8, 1, (2, 1, 8)),
    ((2, 3, 3), 9, 4, 2, (4, 2, 16)),
    ((12, 5, 5), 26, 6, 3, (2, 1, 12)),
    ((17, 9, 9), 82, 8, 2, (2, 1, 16)),
    ((3, 4, 6), 11, 5, 1, (1, 3, 7)),
]
LAYERS = [((2, 3, 3), 9, (16,)), ((2, 6, 7), 7, (24, 8, 12)), ((109,), 29, (16, 16))]


def hold(case):
    checks = _parity("alphazero", 1, case)
    failed = [f"{check.name}: {check.measured}" for check in checks if not check.passed]
    assert len(checks) == 3
    assert not failed, "\n".join(failed)


@pytest.mark.sweep
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", RESIDUAL, ids=str)
def test_residual_networks_are_torchvisions(config, dtype, is_training):
    """Output, loss, gradients and three steps of AdamW."""
    shape, actions, channels, blocks, heads = config
    torch.manual_seed(sum(shape))
    theirs = residual_reference(shape, actions, channels, blocks, heads).to(dtype).train(is_training)
    options = dict(zip(("policy_channels", "value_channels", "value_hidden"), heads, strict=True))
    ours = alphazero.ResidualNetwork(shape, actions, channels=channels, blocks=blocks, **options)
    batch = random_batch(shape, actions, 9, 3, dtype)
    case = network_case(
        ours.to(dtype).train(is_training),
        theirs,
        alphazero.loss,
        batch,
        str(config),
        optimizer=torch.optim.AdamW,
    )
    case.ours.train(is_training), case.theirs.train(is_training)
    hold(case)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", LAYERS, ids=str)
def test_networks_of_layers_are_torchs(config, dtype):
    shape, actions, hidden = config
    torch.manual_seed(sum(shape))
    theirs = mlp_reference(shape, actions, hidden).to(dtype)
    ours = alphazero.MLPNetwork(shape, actions, hidden=hidden).to(dtype)
    batch = random_batch(shape, actions, 9, 4, dtype)
    hold(network_case(ours, theirs, alphazero.loss, batch, str(config), optimizer=torch.optim.AdamW))


def test_what_cannot_be_trained_is_refused():
    for fields, why in {
        ("data", "tictactoe"): "no game 'tictactoe': did you mean tic_tac_toe",
        ("data", "openspiel:kuhn_poker"): "chance .* and hidden cards",
        ("opponent", "stockfish"): "no opponent 'stockfish': perfect, random, mcts:N",
        ("opponent", "mcts:0"): "no opponent 'mcts:0'",
        ("buffer_size", 8): "cannot hold one of each of 32 games",
        ("learning_starts", 10_000): "the buffer holds 2048",
        ("num_simulations", 10**9): "is too large: 9 actions .* fewer --num-games",
    }.items():
        with pytest.raises(BadInput, match=why):
            next(iter(alphazero.build(smoke(**dict([fields])))))
    with pytest.raises(BadInput, match=r"is no board.*alphazero_mlp"):
        next(iter(alphazero.build(smoke(data="openspiel:nim", variant="alphazero_small"))))
    with pytest.raises(BadInput, match="nothing here plays openspiel:hex"):
        next(iter(alphazero.build(smoke(data="openspiel:hex(board_size=3)", opponent="perfect"))))


@pytest.mark.sweep
@pytest.mark.parametrize("data", ["openspiel:hex(board_size=3)", "openspiel:nim", "openspiel:dots_and_boxes"])
def test_any_game_that_fits_is_trained(data):
    run = next(
        iter(
            alphazero.build(smoke(data=data, num_games=4, gradient_steps=2, eval_games=2, opponent="mcts:4"))
        )
    )
    before = [p.clone() for p in run.state["model"].parameters()]
    for _ in range(2):
        metrics = run.update(next(run.stream))
    assert math.isfinite(metrics["loss"])
    assert not all(torch.equal(a, b) for a, b in zip(before, run.state["model"].parameters(), strict=True))
    assert 0 <= run.evaluate()["score"] <= 1
