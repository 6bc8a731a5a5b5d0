"""Deep CFR: what its traversals sample is counterfactual regret, and its averages are weighted by iteration."""

import dataclasses

import pytest
import torch

from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.envs.game_tree import read_game_tree
from torchstone.envs.reservoir import add_newest
from torchstone.parts.rl.game_tree import counterfactual_values, realization_weights
from torchstone.systems.multiagent import deep_cfr
from torchstone.tasks.multiagent.train import info_states

TINY = dataclasses.replace(
    deep_cfr.RECIPES["smoke"],
    hidden=(8,),
    traversals=40,
    advantage_steps=3,
    policy_steps=4,
    policy_interval=2,
    steps=4,
    batch_size=16,
    device="cpu",
)


def random_strategy(tree, seed: int):
    weight = torch.rand(tree.legal.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    weight = (weight + 0.1) * tree.legal
    return weight / weight.sum(1, keepdim=True)


def sampled_regrets_are_exact(spec: str, traversals: int) -> None:
    """E[Σ r̃(I, a)] of a traversal is q(I, a) - v(I), by the tree without sampling."""
    tree = read_game_tree(spec)
    strategy = random_strategy(tree, 1)
    weight = realization_weights(tree, strategy)
    for player in range(2):
        q, value = counterfactual_values(tree, strategy, weight, player)
        expected = (q[: tree.legal.numel()].view_as(tree.legal) - value[:, None]) * tree.legal
        expected[tree.info_player != player] = 0
        generator = torch.Generator().manual_seed(player)
        samples, _ = deep_cfr.traverse(tree, strategy, player, traversals, generator)
        total = torch.zeros_like(expected).index_add_(0, samples.info, samples.target)
        squares = torch.zeros_like(expected).index_add_(0, samples.info, samples.target.square())
        # a traversal comes to an information state at most a few times
        error = (squares / traversals).sqrt() / traversals**0.5
        off = (total / traversals - expected).abs() / error.clamp(min=0.02 / traversals**0.5)
        print(spec, "player", player, f"furthest {off.max():.2f} standard errors")
        assert off.max() < 5
        assert (total[tree.info_player != player] == 0).all()


def test_sampled_advantages_are_counterfactual_regrets():
    sampled_regrets_are_exact("kuhn_poker", 20_000)


@pytest.mark.sweep
def test_sampled_advantages_are_counterfactual_regrets_in_leduc():
    sampled_regrets_are_exact("leduc_poker", 20_000)


def test_a_traversal_tries_all_of_ones_own_actions_and_one_of_others():
    tree = read_game_tree("kuhn_poker")
    generator = torch.Generator().manual_seed(0)
    advantages, strategies = deep_cfr.traverse(tree, tree.uniform, 0, 1, generator)
    # check and bet, after which the other moves once each; after a check and a bet once more oneself
    assert len(advantages.info) in (1, 2)
    assert len(strategies.info) == 2
    assert (tree.info_player[advantages.info] == 0).all()
    assert (tree.info_player[strategies.info] == 1).all()
    assert torch.equal(strategies.target, tree.uniform[strategies.info])


def test_average_strategy_is_weighted_by_iteration():
    """M_Π's mean of σ_t, weighted by t, is Σ t π_i(I) σ_t(I, a) / Σ t π_i(I): linear CFR's average."""
    tree, iterations, traversals = read_game_tree("kuhn_poker"), 4, 4000
    total = torch.zeros_like(tree.uniform)
    flat, expected = torch.zeros_like(tree.uniform), torch.zeros_like(tree.uniform)
    generator = torch.Generator().manual_seed(0)
    for t in range(1, iterations + 1):
        strategy = random_strategy(tree, t)
        x = realization_weights(tree, strategy)
        expected += t * x[: tree.legal.numel()].view_as(tree.legal)
        for player in range(2):
            _, samples = deep_cfr.traverse(tree, strategy, player, traversals, generator)
            total.index_add_(0, samples.info, t * samples.target)
            flat.index_add_(0, samples.info, samples.target)
    expected, total, flat = (each / each.sum(1, keepdim=True) for each in (expected, total, flat))
    print(f"weighted {(total - expected).abs().max():.4f}, unweighted {(flat - expected).abs().max():.4f}")
    assert (total - expected).abs().max() < 0.01
    assert (flat - expected).abs().max() > 0.05


def test_minibatches_weight_samples_by_their_iteration():
    tree, weights = read_game_tree("kuhn_poker"), []
    model = deep_cfr.DeepCFR(tree.features.shape[1], tree.num_actions, TINY.hidden)
    stream = deep_cfr.Traversals(model, tree, TINY)
    memory = stream.advantages[0]
    for t in (1.0, 2.0, 5.0):
        items = {"info": torch.zeros(4, dtype=torch.long), "iteration": torch.full((4,), t)}
        add_newest(memory, items | {"target": torch.full((4, 2), t)})

    def loss(batch):
        # targets name the iteration
        weights.extend(zip(batch.target[:, 0].tolist(), batch.weight.tolist(), strict=True))
        return {"loss": network.weight.sum()}

    network = torch.nn.Linear(1, 1)
    step = FlatGradientUpdate(loss, network, lambda p: torch.optim.Adam(p, lr=0.1))
    deep_cfr.train_on(step, memory, tree.rows, TINY, 3, 5, torch.Generator().manual_seed(0))
    assert len(weights) == 3 * TINY.batch_size
    assert {round(t, 6) for t, _ in weights} == {1.0, 2.0, 5.0}
    assert all(weight == pytest.approx(t / 3) for t, weight in weights)


@pytest.mark.parametrize("batch_size", [5, 700])  # fewer rows than information states, and more
def test_losses_equal_plain_loops(batch_size):
    tree = read_game_tree("leduc_poker")
    generator = torch.Generator().manual_seed(batch_size)
    network = deep_cfr.DeepCFR(tree.features.shape[1], tree.num_actions, hidden=(8,)).double().policy
    infos = info_states(tree, 0, "cpu")
    infos = infos._replace(features=infos.features.double())
    row = torch.randint(len(infos.features), (batch_size,), generator=generator)
    weight = torch.rand(batch_size, generator=generator, dtype=torch.double)
    target = torch.randn(batch_size, 3, generator=generator, dtype=torch.double)
    batch = deep_cfr.Minibatch(row, weight, target)
    parameters = list(network.parameters())
    advantage, policy = [], []
    for i, w, y in zip(row, weight, target, strict=True):
        outputs = network(infos.features[i : i + 1])[0]
        legal = infos.legal[i].nonzero()[:, 0]
        advantage.append(w * sum((y[a] - outputs[a]) ** 2 for a in legal))
        p = torch.zeros(3, dtype=torch.double)
        p[legal] = outputs[legal].softmax(0)
        policy.append(w * ((y - p) ** 2).sum())
    for loss, plain in ((deep_cfr.advantage_loss, advantage), (deep_cfr.policy_loss, policy)):
        ours, theirs = loss(network, infos, batch)["loss"], torch.stack(plain).mean()
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
        gradients = zip(
            torch.autograd.grad(ours, parameters, retain_graph=True),
            torch.autograd.grad(theirs, parameters, retain_graph=True),
            strict=True,
        )
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in gradients)


@pytest.mark.parametrize("reinitialize", [True, False])
def test_advantages_are_learned_from_scratch(reinitialize):
    run = next(deep_cfr.build(dataclasses.replace(TINY, reinitialize=reinitialize)))
    for _ in range(3):
        run.update(next(run.stream))
    steps = TINY.advantage_steps * (1 if reinitialize else 3)
    for player in range(2):
        (state,) = run.state[f"advantage_optimizer_{player}"].state.values()
        assert state["step"] == steps  # an optimizer that knows nothing of the iteration before


def test_reset_draws_new_weights():
    run = next(deep_cfr.build(TINY))
    model = run.state["model"]
    run.update(next(run.stream))
    first = [p.detach().clone() for p in model.advantage.parameters()]
    draws = torch.get_rng_state()
    run.update(next(run.stream))
    assert not torch.equal(draws, torch.get_rng_state())
    moved = [(a - b).abs().max() for a, b in zip(first, model.advantage.parameters(), strict=True)]
    assert max(moved) > 3 * TINY.advantage_steps * TINY.lr  # further than Adam gets in so many steps


def test_advantage_matching():
    legal = torch.tensor([[True, True, True], [True, False, True], [True, True, False], [True, True, True]])
    advantage = torch.tensor([[1.0, 3.0, -2.0], [-1.0, 9.0, -3.0], [0.0, 0.0, 5.0], [-2.0, -1.0, -1.0]])
    expected = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    assert torch.equal(deep_cfr.advantage_matching(advantage, legal), expected)


def test_the_first_strategy_is_uniform():
    tree = read_game_tree("kuhn_poker")
    model = deep_cfr.DeepCFR(tree.features.shape[1], tree.num_actions)
    assert torch.equal(model.current_strategy(tree), tree.uniform)
