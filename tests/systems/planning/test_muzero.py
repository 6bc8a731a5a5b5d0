"""MuZero: latent states, halved gradients, what the loss leaves out, and the search in the learned model."""

import dataclasses

import pytest
import torch

from torchstone.envs.search_stream import UnrolledBatch
from torchstone.errors import BadInput
from torchstone.parts.rl import mcts
from torchstone.parts.rl.value_support import expected_value
from torchstone.references.muzero import COLUMNS, random_batch
from torchstone.systems.planning import muzero
from torchstone.tasks.selfplay import inference
from torchstone.tasks.selfplay.players import search_game

SMOKE = dataclasses.replace(muzero.RECIPES["smoke"], device="cpu")


def network(**options):
    torch.manual_seed(0)
    sizes = {"hidden": (16,), "latent_dim": 8, "value_support": 5, "reward_support": 2, "normalize": False}
    return muzero.MuZeroNetwork((3,), 4, **sizes | options).double()


def batch(seed=0, steps=3):
    columns = random_batch((3,), 4, steps, 24, seed, 4.0)
    return UnrolledBatch(**dict(zip(COLUMNS, columns, strict=True)), returns=[], number=0, env_steps=0)


def test_latent_states_are_from_0_to_1():
    model = network()
    s = model.represent(torch.randn(5, 3).double() * 100)
    for action in range(4):
        _, s = model.step(s, torch.full((5,), action))
        assert torch.allclose(s.amin(1), torch.zeros(5).double())
        assert torch.allclose(s.amax(1), torch.ones(5).double(), atol=1e-3)


def test_gradients_are_halved_at_each_dynamics_step():
    """Of the reward of step k with respect to the first latent state: (1/2)^k of what it is without."""
    model, action = network(), torch.tensor([[1, 0, 3]])
    s0 = model.represent(torch.randn(1, 3).double()).detach().requires_grad_()
    model.represent = lambda observation: s0
    with pytest.MonkeyPatch.context() as patch:
        halved = [
            torch.autograd.grad(r.sum(), s0, retain_graph=True)[0] for r in model.unroll(s0, action)[2][0]
        ]
        patch.setattr(muzero, "scale_gradient", lambda x, factor: x)
        whole = [
            torch.autograd.grad(r.sum(), s0, retain_graph=True)[0] for r in model.unroll(s0, action)[2][0]
        ]
    for k, (a, b) in enumerate(zip(halved, whole, strict=True), 1):
        assert torch.allclose(a, b * 0.5**k)
        assert b.abs().max() > 0


def test_beyond_the_end_there_is_no_policy_and_beyond_a_limit_nothing():
    model, one = network(), batch()
    losses = muzero.loss(model, one, 0.25)
    noise = torch.rand(one.policy.shape, dtype=torch.float64).softmax(-1)
    beyond = one._replace(policy=torch.where(one.is_live[..., None], one.policy, noise))
    assert muzero.loss(model, beyond, 0.25)["loss"] == losses["loss"]
    hidden = ~one.is_known
    assert hidden.any()
    cut = one._replace(
        value=one.value + 3.0 * hidden,
        reward=one.reward + 3.0 * hidden[:, :-1],
        policy=one.policy * ~hidden[..., None],
    )
    assert torch.allclose(muzero.loss(model, cut, 0.25)["loss"], losses["loss"])
    # but absorbing states have values and rewards: 0
    absorbing = one.is_known & ~one.is_live
    assert absorbing.any()
    changed = muzero.loss(model, one._replace(value=one.value + 1.0 * absorbing), 0.25)["value_loss"]
    assert changed != losses["value_loss"]


def test_search_is_that_of_the_models_own_predictions():
    """Two simulations, by hand."""
    model, observation = network(num_simulations=2), torch.randn(2, 3).double()
    legal = torch.tensor([[True, True, True, True], [False, True, False, True]])
    with torch.no_grad():
        tree = muzero.search(model, observation, legal, 2)
        s0 = model.represent(observation)
        logits, _ = model.predict(s0)
        first = logits.masked_fill(~legal, -torch.inf).argmax(1)
        reward, s1 = model.step(s0, first)
        value1 = expected_value(model.predict(s1)[1])
    for b, action in enumerate(first.tolist()):
        child = tree.children[b, 0, action]
        assert torch.allclose(tree.embedding[b, child], s1[b])
        assert torch.allclose(tree.reward[b, 0, action], expected_value(reward)[b])
        if tree.root_visits[b, action] == 1:
            assert torch.allclose(tree.root_q[b, action], expected_value(reward)[b] + 0.997 * value1[b])
    assert tree.root_visits[1][~legal[1]].sum() == 0
    assert model.greedy(observation, legal).tolist() == tree.root_visits.argmax(1).tolist()


def test_a_game_is_searched_with_signs_and_legal_moves_at_the_root():
    """The rule counts values as they are: a move that was not tried is a draw."""
    run = next(muzero.build(dataclasses.replace(SMOKE, data="tic_tac_toe", eval_positions=0)))
    model, game = run.state["model"], run.stream.envs.game
    assert model.gamma == -SMOKE.gamma
    assert not model.scale_values
    assert model.normalizer is None
    state = game.step(game.initial(1), torch.tensor([4]))
    rules = []
    with pytest.MonkeyPatch.context() as patch:
        search = mcts.search
        patch.setattr(mcts, "search", lambda *args, rule: rules.append(rule) or search(*args, rule=rule))
        tree = muzero.search_game(model, game, state, 20, c_puct=2.0)
    assert rules == [mcts.Puct(c_init=2.0, normalize=None)]
    assert tree.root_visits[0, 4] == 0
    assert (tree.discount[tree.children >= 0] == -SMOKE.gamma).all()


def test_states_of_nodes_are_those_of_the_game():
    """Beside a search in the game itself, whose nodes hold them; none beyond what the rules forbid."""
    run = next(muzero.build(dataclasses.replace(SMOKE, data="tic_tac_toe", eval_positions=0)))
    game, state = run.stream.envs.game, run.stream.envs.game.initial(1)
    exact = playout_tree(game, state)
    states = inference.node_states(game, state, exact)
    assert len(states) > 20
    for node, each in enumerate(states):
        assert torch.equal(each, exact.embedding[:, node])
    tree = muzero.search_game(run.state["model"], game, state, 60, c_puct=1.25)
    states = inference.node_states(game, state, tree)
    for node, each in enumerate(states):
        for action in range(9):
            child = int(tree.children[0, node, action])
            if child > 0 and (each is None or not inference.is_legal(game, each, action)):
                assert states[child] is None
    assert any(each is None for each in states)
    assert inference.action_name(game, None, 3) == "?3"


def playout_tree(game, state):
    def outputs(now, done):
        return torch.zeros(len(now), 9).masked_fill(~game.legal_actions(now, done), -torch.inf), torch.zeros(
            len(now)
        )

    return search_game(game, state, outputs, 40, rule=mcts.Puct(normalize=None))


def test_training_searches_with_noise_and_play_without():
    model, observation = network(), torch.randn(3, 3).double()
    generator = torch.Generator().manual_seed(0)
    plain = muzero.search(model, observation, None, 4)
    noisy = muzero.search(model, observation, None, 4, noise=(0.25, 0.25, generator))
    assert torch.allclose(plain.prior[:, 0], model.predict(model.represent(observation))[0].softmax(-1))
    assert not torch.allclose(plain.prior[:, 0], noisy.prior[:, 0])
    run = next(muzero.build(dataclasses.replace(SMOKE, total_timesteps=128)))
    seen = []
    search = mcts.add_dirichlet_noise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mcts, "add_dirichlet_noise", lambda *args: seen.append(args[1:3]) or search(*args))
        run.stream.env_steps = SMOKE.learning_starts
        run.stream._step([])
    assert seen == [(SMOKE.dirichlet_alpha, SMOKE.dirichlet_fraction)]


def test_temperature_falls_in_three_steps():
    total = SMOKE.learning_starts + SMOKE.total_timesteps
    shares = [muzero.temperature(SMOKE, int(total * share)) for share in (0.0, 0.49, 0.51, 0.74, 0.76, 1.0)]
    assert shares == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buffer_size": 300}, "too small"),
        ({"data": "Pendulum-v1"}, "continuous actions"),
        ({"unroll_steps": 5000}, "too small"),
        ({"data": "tic_tac_toe", "max_episode_steps": 5}, "are of environments, and tic_tac_toe is a game"),
        ({"data": "tic_tac_toe", "opponent": "nobody"}, "no opponent 'nobody'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        next(muzero.build(dataclasses.replace(SMOKE, **changes)))
