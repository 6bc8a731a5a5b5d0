"""Tree search equals a plain recursive one, visit for visit, in random games and with random networks."""

import math
from functools import partial

import pytest
import torch
from rl_plain_search import Node, plain_search, puct

from torchstone.parts.rl import mcts


class RandomGame:
    """A game of random tables: positions are numbers, and its network's outputs are tables too."""

    def __init__(
        self, seed, num_actions=4, num_states=400, players=2, rewards=True, illegal=0.3, terminal=0.1
    ):
        generator = torch.Generator().manual_seed(seed)
        rand = partial(torch.rand, generator=generator, dtype=torch.float64)
        self.next = torch.randint(num_states, (num_states, num_actions), generator=generator)
        self.reward = (
            rand(num_states, num_actions) * 2 - 1
            if rewards
            else torch.zeros(num_states, num_actions).double()
        )
        self.terminal = rand(num_states) < terminal
        self.value = rand(num_states) * 2 - 1
        legal = rand(num_states, num_actions) >= illegal
        legal[torch.arange(num_states), torch.randint(num_actions, (num_states,), generator=generator)] = True
        self.logits = (rand(num_states, num_actions) * 4 - 2).masked_fill(~legal, -math.inf)
        self.logits[self.terminal] = -math.inf
        gamma = {1: 0.9, 2: -1.0}
        other_moves = rand(num_states) < 0.8 if players == 3 else torch.full((num_states,), players == 2)
        self.discount = torch.where(other_moves, gamma[2], 1.0 if players == 3 else gamma[1]).double()
        self.asked = []

    def recurrent_fn(self, action, state):
        self.asked.append((action, state))
        new = self.next[state, action]
        discount = torch.where(self.terminal[new], 0.0, self.discount[new])
        # what a network says of a terminal state is not to be used
        value = torch.where(self.terminal[new], math.nan, self.value[new])
        return mcts.RecurrentOutput(self.reward[state, action], discount, self.logits[new], value), new

    def plain_step(self, state, action):
        new = self.next[state, action].item()
        discount = 0.0 if self.terminal[new] else self.discount[new].item()
        return (
            self.reward[state, action].item(),
            discount,
            self.logits[new].tolist(),
            self.value[new].item(),
            new,
        )

    def roots(self, batch, seed=0):
        live = (~self.terminal).nonzero()[:, 0]
        return live[torch.randperm(len(live), generator=torch.Generator().manual_seed(seed))[:batch]]

    def root_output(self, states):
        return mcts.RootOutput(self.logits[states], self.value[states], states)

    def plain_root(self, state):
        return Node(state, self.logits[state].tolist(), self.value[state].item())


def assert_equal_trees(tree, roots):
    """Every node: visits, Q, priors, and the states below."""
    children, embedding = tree.children, tree.embedding
    state_of = embedding["state"] if isinstance(embedding, dict) else embedding
    for b, root in enumerate(roots):
        pairs, count = [(0, root)], 0
        while pairs:
            row, node = pairs.pop()
            count += 1
            assert tree.visits[b, row].tolist() == node.visits
            if isinstance(node.state, int):
                assert state_of[b, row].item() == node.state
            for a in range(len(node.visits)):
                assert tree.prior[b, row, a].item() == pytest.approx(node.prior.get(a, 0.0), rel=1e-12)
                if node.visits[a]:
                    assert tree.q[b, row, a].item() == pytest.approx(node.q(a), abs=1e-12)
                assert (children[b, row, a] >= 0).item() == (a in node.edges)
            pairs += [(children[b, row, a].item(), child) for a, (_, _, child) in node.edges.items()]
        assert count == tree.size[b]


RULES = [
    {"normalize": "siblings"},
    {"normalize": "tree"},
    {"normalize": None, "unvisited": 0.1},
    {"normalize": "siblings", "unvisited": "parent", "c_init": 0.6, "c_base": 50.0},
    {"normalize": "tree", "unvisited": 0.5, "c_init": 2.0},
    {"normalize": None, "unvisited": "parent"},
]


def plain_rule(c_init=1.25, c_base=19652.0, normalize="siblings", unvisited=0.0):
    return lambda node, bounds: puct(node, c_init, c_base, normalize, unvisited, bounds)


@pytest.mark.parametrize("players", [1, 2, 3], ids=["one", "two", "again"])
@pytest.mark.parametrize("options", RULES, ids=lambda o: "-".join(map(str, o.values())))
def test_visits_equal_a_plain_recursive_search(players, options):
    """In games with rewards, illegal actions, terminal states and, of `again`, players who move twice."""
    game = RandomGame(seed=players, players=players)
    states = game.roots(4)
    tree = mcts.search(game.root_output(states), game.recurrent_fn, 40, rule=mcts.Puct(**options))
    plain = [
        plain_search(game.plain_root(s), game.plain_step, 40, plain_rule(**options)) for s in states.tolist()
    ]
    assert_equal_trees(tree, plain)
    assert tree.root_visits.sum(-1).tolist() == [40] * 4
    for b, node in enumerate(plain):
        assert tree.root_value[b].item() == pytest.approx(sum(node.all_returns()) / 41, abs=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(12))
def test_more_games_and_depths(seed):
    options = RULES[seed % len(RULES)]
    game = RandomGame(seed, num_actions=2 + seed, players=1 + seed % 3, illegal=0.6, terminal=0.02 * seed)
    states = game.roots(8, seed)
    max_depth = [None, 1, 2, 5][seed % 4]
    tree = mcts.search(
        game.root_output(states), game.recurrent_fn, 150, rule=mcts.Puct(**options), max_depth=max_depth
    )
    plain = [
        plain_search(game.plain_root(s), game.plain_step, 150, plain_rule(**options), max_depth=max_depth)
        for s in states.tolist()
    ]
    assert_equal_trees(tree, plain)


def test_depth_is_limited_by_evaluating_the_last_edge_again():
    game = RandomGame(seed=3)
    states = game.roots(3)
    tree = mcts.search(game.root_output(states), game.recurrent_fn, 60, max_depth=2)
    plain = [
        plain_search(game.plain_root(s), game.plain_step, 60, plain_rule(), max_depth=2)
        for s in states.tolist()
    ]
    assert_equal_trees(tree, plain)
    assert (tree.size < 61).all()  # 4 + 16 nodes at most below the root


def test_the_game_is_never_asked_to_act_illegally_or_where_it_is_over():
    game = RandomGame(seed=4, illegal=0.5, terminal=0.5)
    tree = mcts.search(game.root_output(game.roots(16)), game.recurrent_fn, 50)
    for action, state in game.asked:
        assert not game.terminal[state].any()
        assert (game.logits[state, action] > -math.inf).all()
    assert len(game.asked) == 50
    assert (tree.root_visits.sum(-1) == 50).all()
    assert (tree.visits[tree.prior == 0] == 0).all()


def test_trees_do_not_depend_on_those_beside_them():
    """Bounds of values, above all: a tree beside one with values a thousand times as large."""
    game = RandomGame(seed=6, players=1)
    large = RandomGame(seed=6, players=1)
    large.reward, large.value = large.reward * 1000, large.value * 1000
    states = game.roots(3)
    rule = mcts.Puct(normalize="tree")
    alone = mcts.search(game.root_output(states[:1]), game.recurrent_fn, 40, rule=rule)

    def recurrent_fn(action, state):
        output, new = game.recurrent_fn(action, state)
        factor = torch.tensor([1.0, 1000.0, 1000.0], dtype=torch.float64)
        return output._replace(reward=output.reward * factor, value=output.value * factor), new

    root = game.root_output(states)
    together = mcts.search(root, recurrent_fn, 40, rule=rule)
    assert torch.equal(alone.visits[0], together.visits[0])
    assert torch.equal(alone.q[0], together.q[0])


def test_a_state_may_be_several_tensors_and_a_network_of_any_width():
    """A network of two layers, whose latent states stand beside a counter."""
    torch.manual_seed(0)
    first, last = torch.nn.Linear(6, 6).double(), torch.nn.Linear(6, 5).double()

    def outputs(latent):
        return last(latent)

    def recurrent_fn(action, state):
        latent = torch.tanh(first(state["latent"]) + action[:, None])
        y = outputs(latent)
        new = {"latent": latent, "depth": state["depth"] + 1}
        return mcts.RecurrentOutput(y[:, 3], torch.full_like(y[:, 3], 0.95), y[:, :3], y[:, 4]), new

    def plain_step(latent, action):
        output, new = recurrent_fn(torch.tensor([action]), {"latent": latent, "depth": torch.zeros(1)})
        reward, discount, logits, value = (x[0].tolist() for x in output)
        return reward, discount, logits, value, new["latent"]

    latent = torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        y = outputs(latent)
        root = mcts.RootOutput(
            y[:, :3], y[:, 4], {"latent": latent, "depth": torch.zeros(3, dtype=torch.int64)}
        )
        tree = mcts.search(root, recurrent_fn, 30)
        plain = [
            plain_search(Node(x[None], row[:3].tolist(), row[4].item()), plain_step, 30, plain_rule())
            for x, row in zip(latent, y, strict=True)
        ]
    for b, node in enumerate(plain):
        assert tree.root_visits[b].tolist() == node.visits
        pairs = [(0, node, 0)]
        while pairs:
            row, node, depth = pairs.pop()
            assert torch.allclose(tree.embedding["latent"][b, row], node.state[0])
            assert tree.embedding["depth"][b, row] == depth
            pairs += [(tree.children[b, row, a].item(), c, depth + 1) for a, (_, _, c) in node.edges.items()]


def test_subtree_searches_on_as_if_nothing_had_been_cut_off():
    game = RandomGame(seed=5, players=2)
    states = game.roots(6)
    for normalize in ("siblings", "tree"):
        rule = mcts.Puct(normalize=normalize)
        tree = mcts.search(game.root_output(states), game.recurrent_fn, 30, rule=rule)
        plain = [
            plain_search(game.plain_root(s), game.plain_step, 30, plain_rule(normalize=normalize))
            for s in states.tolist()
        ]
        action = tree.root_visits.argmax(-1)
        keep = torch.tensor([True, True, False, True, True, True])
        before = tree.statistics.clone()
        kept = mcts.subtree(tree, action, keep)
        assert torch.equal(before, tree.statistics)
        roots = [
            node.edges[a][2] if k else game.plain_root(s)
            for node, a, k, s in zip(plain, action.tolist(), keep.tolist(), states.tolist(), strict=True)
        ]
        below = torch.tensor([node.state for node in roots])
        copy = kept.statistics.clone()
        tree = mcts.search(game.root_output(below), game.recurrent_fn, 25, rule=rule, tree=kept)
        assert torch.equal(copy, kept.statistics)
        again = [plain_search(node, game.plain_step, 25, plain_rule(normalize=normalize)) for node in roots]
        assert_equal_trees(tree, again)


def test_a_tree_that_is_saved_searches_on_to_the_bit():
    game = RandomGame(seed=7)
    states = game.roots(5)
    tree = mcts.search(game.root_output(states), game.recurrent_fn, 20)
    action = tree.root_visits.argmax(-1)
    kept = mcts.subtree(tree, action)
    copy = mcts.Tree.from_state_dict({k: v.clone() for k, v in kept.state_dict().items()})
    below = game.next[states, action]
    trees = [mcts.search(game.root_output(below), game.recurrent_fn, 20, tree=t) for t in (kept, copy)]
    for name, value in trees[0].state_dict().items():
        assert torch.equal(value, trees[1].state_dict()[name]), name


def test_a_root_takes_new_priors_and_keeps_its_visits():
    game = RandomGame(seed=8, illegal=0.0, terminal=0.0)
    states = game.roots(3)
    tree = mcts.search(game.root_output(states), game.recurrent_fn, 20)
    action = tree.root_visits.argmax(-1)
    kept = mcts.subtree(tree, action)
    root = game.root_output(game.next[states, action])
    noisy = root._replace(prior_logits=root.prior_logits + torch.arange(4.0, dtype=torch.float64))
    again = mcts.search(noisy, game.recurrent_fn, 1, tree=kept)
    assert torch.allclose(again.prior[:, 0], noisy.prior_logits.softmax(-1))
    assert (again.root_visits.sum(-1) == kept.root_visits.sum(-1) + 1).all()
    assert (kept.root_visits.sum(-1) == tree.root_visits.amax(-1) - 1).all()


def test_noise_is_dirichlet_over_the_legal_actions():
    logits = torch.tensor([[0.0, 1.0, -math.inf, 2.0]], dtype=torch.float64).expand(20_000, -1)
    p = logits.softmax(-1)
    noisy = mcts.add_dirichlet_noise(logits, 0.3, 0.25, torch.Generator().manual_seed(0)).exp()
    assert (noisy[:, 2] == 0).all()
    assert torch.allclose(noisy.sum(-1), torch.ones(20_000, dtype=torch.float64))
    noise = ((noisy - 0.75 * p) / 0.25)[:, [0, 1, 3]]
    # Dir(α) of three: mean 1/3, variance (1/3 · 2/3) / (3 α + 1)
    assert torch.allclose(noise.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.01)
    assert torch.allclose(noise.var(0), torch.full((3,), (2 / 9) / 1.9, dtype=torch.float64), atol=0.004)
    # the dtype's minimum, as `mask_logits` gives it, is illegal too; and a small α does not end in NaN
    masked = torch.tensor([[0.0, torch.finfo(torch.float32).min]]).expand(2000, -1)
    noisy = mcts.add_dirichlet_noise(masked, 0.001, 1.0, torch.Generator().manual_seed(1))
    assert (noisy.exp() == torch.tensor([1.0, 0.0])).all()


def test_policy_of_visits_has_a_temperature():
    visits = torch.tensor([[1.0, 3.0, 0.0, 4.0], [2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1e6, 1.0]])
    assert torch.allclose(mcts.visit_policy(visits), visits / visits.sum(-1, keepdim=True))
    half = visits.square() / visits.square().sum(-1, keepdim=True)
    assert torch.allclose(mcts.visit_policy(visits, 0.5), half)
    mixed = mcts.visit_policy(visits, torch.tensor([0.0, 0.0, 0.001]))
    assert mixed.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]
    generator = torch.Generator().manual_seed(0)
    actions = mcts.sample_action(visits[:1].expand(8000, -1), 1.0, generator)
    assert torch.allclose(actions.bincount(minlength=4) / 8000, visits[0] / 8, atol=0.02)
    assert mcts.sample_action(visits, 0.0, generator).tolist() == [3, 0, 2]


def test_principal_variation_follows_the_most_visited_actions():
    game = RandomGame(seed=9, terminal=0.3)
    states = game.roots(4)
    tree = mcts.search(game.root_output(states), game.recurrent_fn, 40)
    for b, s in enumerate(states.tolist()):
        node, line = plain_search(game.plain_root(s), game.plain_step, 40, plain_rule()), []
        while node is not None and any(node.visits):
            action = max(range(4), key=lambda a: (node.visits[a], -a))
            line.append(action)
            node = node.edges[action][2]
        assert mcts.principal_variation(tree, 12)[b].tolist() == (line + [-1] * 12)[:12]


def plain_completed_q(node, value_scale=0.1, visit_offset=50.0):
    visited = [a for a, n in enumerate(node.visits) if n]
    total = sum(node.visits)
    weight = sum(node.prior[a] for a in visited)
    mean = sum(node.prior[a] * node.q(a) for a in visited) / weight if visited else 0.0
    mixed = (node.raw_value + total * mean) / (1 + total)
    q = [node.q(a) if n else mixed for a, n in enumerate(node.visits)]
    scale = (visit_offset + max(node.visits)) * value_scale
    return [scale * (x - min(q)) / max(max(q) - min(q), 1e-8) for x in q]


def plain_gumbel_policy(node):
    q = plain_completed_q(node)
    weights = {a: p * math.exp(q[a]) for a, p in node.prior.items()}
    return {a: w / sum(weights.values()) for a, w in weights.items()}


@pytest.mark.parametrize("num_simulations", [9, 32])
def test_gumbel_search_equals_a_plain_one(num_simulations):
    game = RandomGame(seed=10, num_actions=6, illegal=0.4)
    states = game.roots(5)
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root_rule = mcts.gumbel_root_rule(noise, num_simulations, max_considered=4)
    tree = mcts.search(
        game.root_output(states),
        game.recurrent_fn,
        num_simulations,
        rule=mcts.GumbelRule(),
        root_rule=root_rule,
    )

    def rule(node, bounds):
        policy = plain_gumbel_policy(node)
        return {a: p - node.visits[a] / (1 + sum(node.visits)) for a, p in policy.items()}

    plain = []
    for s, g in zip(states.tolist(), noise.tolist(), strict=True):

        def score(node, a, g=g):
            return g[a] + math.log(node.prior[a]) + plain_completed_q(node)[a]

        def plain_root_rule(node, simulation):
            turn = mcts.halving_schedule(min(4, len(node.prior)), num_simulations)[simulation]
            return {a: score(node, a) for a in node.prior if node.visits[a] == turn}

        node = plain_search(game.plain_root(s), game.plain_step, num_simulations, rule, plain_root_rule)
        plain.append(node)
        best = max(
            (a for a in node.prior if node.visits[a] == max(node.visits)), key=lambda a: score(node, a)
        )
        assert root_rule.action(tree)[len(plain) - 1] == best
        expected = plain_gumbel_policy(node)
        assert root_rule.policy(tree)[len(plain) - 1].tolist() == pytest.approx(
            [expected.get(a, 0.0) for a in range(6)], rel=1e-9
        )
    assert_equal_trees(tree, plain)


def test_sequential_halving_spends_equally_and_halves():
    assert mcts.halving_schedule(4, 16) == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2
    assert mcts.halving_schedule(1, 3) == [0, 1, 2]
    for considered in range(2, 17):
        assert len(mcts.halving_schedule(considered, 50)) == 50


def test_bad_arguments_are_refused():
    game = RandomGame(seed=11)
    root = game.root_output(game.roots(2))
    with pytest.raises(ValueError, match="at least 1"):
        mcts.search(root, game.recurrent_fn, 0)
    with pytest.raises(ValueError, match="no legal action"):
        mcts.search(
            root._replace(prior_logits=torch.full_like(root.prior_logits, -math.inf)), game.recurrent_fn, 3
        )
    with pytest.raises(ValueError, match="c_init"):
        mcts.Puct(c_init=0.0)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["muzero", "two_players", "illegal", "depth", "gumbel"])
def test_action_weights_equal_those_of_mctx(kind):
    """On a fixed network; mctx and JAX are a test extra of their own, `mctx`, which make test-all installs."""
    import jax
    import mctx
    import numpy as np

    with jax.enable_x64(True):
        w = np.random.default_rng(0).normal(size=(8 + 5, 8)) * 0.6
        out = np.random.default_rng(1).normal(size=(8, 7)) * 0.8
        latent = np.random.default_rng(2).normal(size=(6, 8))
        gamma = -1.0 if kind == "two_players" else 0.97
        illegal = np.random.default_rng(3).random((6, 5)) < 0.4
        illegal[:, 2] = False
        illegal &= kind in ("illegal", "gumbel")
        depth = 3 if kind == "depth" else None
        jnp = jax.numpy

        def their_fn(params, key, action, state):
            state = jnp.tanh(state @ w[:8] + jnp.asarray(w[8:])[action])
            y = state @ out
            discount = jnp.full(6, gamma)
            return mctx.RecurrentFnOutput(
                reward=y[:, 5], discount=discount, prior_logits=y[:, :5], value=y[:, 6]
            ), state

        def our_fn(action, state):
            state = torch.tanh(state @ torch.from_numpy(w[:8]) + torch.from_numpy(w[8:])[action])
            y = state @ torch.from_numpy(out)
            discount = torch.full((6,), gamma, dtype=torch.float64)
            return mcts.RecurrentOutput(y[:, 5], discount, y[:, :5], y[:, 6]), state

        y = latent @ out
        root = mctx.RootFnOutput(
            prior_logits=jnp.asarray(y[:, :5]), value=jnp.asarray(y[:, 6]), embedding=jnp.asarray(latent)
        )
        key = jax.random.PRNGKey(0)
        y = torch.from_numpy(y)
        logits = y[:, :5].masked_fill(torch.from_numpy(illegal), -torch.inf)
        ours = mcts.RootOutput(logits, y[:, 6], torch.from_numpy(latent))
        if kind == "gumbel":
            policy = mctx.gumbel_muzero_policy(
                (),
                key,
                root,
                their_fn,
                40,
                jnp.asarray(illegal),
                max_num_considered_actions=3,
                gumbel_scale=1.0,
            )
            noise = torch.from_numpy(np.array(policy.search_tree.extra_data.root_gumbel))
            root_rule = mcts.gumbel_root_rule(noise, 40, max_considered=3)
            tree = mcts.search(ours, our_fn, 40, rule=mcts.GumbelRule(), root_rule=root_rule)
            weights = root_rule.policy(tree)
            assert root_rule.action(tree).tolist() == policy.action.tolist()
        else:
            policy = mctx.muzero_policy(
                (), key, root, their_fn, 40, jnp.asarray(illegal), max_depth=depth, dirichlet_fraction=0.0
            )
            tree = mcts.search(ours, our_fn, 40, max_depth=depth)
            weights = mcts.visit_policy(tree.root_visits)
        theirs = np.array(policy.search_tree.children_visits[:, 0])
        assert tree.root_visits.tolist() == theirs.tolist()
        np.testing.assert_allclose(weights.numpy(), np.array(policy.action_weights), atol=1e-7)
        np.testing.assert_allclose(
            tree.root_value.numpy(), np.array(policy.search_tree.node_values[:, 0]), atol=1e-7
        )
