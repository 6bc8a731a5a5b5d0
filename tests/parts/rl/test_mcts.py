"""Tree search equals a plain recursive one, visit for visit, in random games and with random networks."""

import itertools
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
        value = torch.where(self.terminal[new], 77.0, self.value[new])
        return mcts.RecurrentOutput(self.reward[state, action], discount, self.logits[new], value), new

    def step(self, state, action):
        output, new = self.recurrent_fn(torch.tensor([action]), torch.tensor([state]))
        return (
            output.reward.item(),
            output.discount.item(),
            output.logits_list,
            output.value.item(),
            new.item(),
        )

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
    dict(normalize=n, unvisited=u, c_init=c)
    for (n, u), c in itertools.product(
        [
            ("siblings", 0.0),
            ("tree", 0.0),
            (None, 0.0),
            ("siblings", "parent"),
            ("tree", 0.5),
            (None, "parent"),
        ],
        [1.25],
    )
]


def plain_rule(c_init=1.25, c_base=19652.0, normalize="siblings", unvisited=0.0):
    return lambda node, bounds: puct(node, c_init, c_base, normalize, unvisited, bounds)


@pytest.mark.parametrize("players", [1, 2, 3], ids=["one", "two", "again"])
@pytest.mark.parametrize("options", RULES, ids=lambda o: f"{o['normalize']}-{o['unvisited']}")
def test_visits_equal_a_plain_recursive_search(players, options):
    game = RandomGame(seed=players, players=players)
    states = game.roots(4)
    tree = mcts.search(game.root_output(states), game.recurrent_fn, 40, rule=mcts.Puct(**options))
    plain = [
        plain_search(game.plain_root(s), game.plain_step, 40, plain_rule(**options)) for s in states.tolist()
    ]
    assert_equal_trees(tree, plain)
    assert tree.root_visits.sum(-1).tolist() == [40] * 4


def test_subtree_searches_on_as_if_nothing_had_been_cut_off():
    game = RandomGame(seed=5, players=2)
    states = game.roots(6)
    for normalize in ("siblings", "tree"):
        rule = mcts.Puct(normalize=normalize)
        tree = mcts.search(game.root_output(states), game.recurrent_fn, 30, rule=rule)
        plain = [plain_search(game.plain_root(s), game.plain_step, 30, plain_rule(normalize=normalize)) for s in states.tolist()]
        action = tree.root_visits.argmax(-1)
        keep = torch.tensor([True, True, False, True, True, True])
        before = tree.statistics.clone()
        kept = mcts.subtree(tree, action, keep)
        assert torch.equal(before, tree.statistics)
        roots = [node.edges[a][2] if k else game.plain_root(s) for node, a, k, s in zip(plain, action.tolist(), keep.tolist(), states.tolist())]
        below = torch.tensor([node.state for node in roots])
        copy = kept.statistics.clone()
        tree = mcts.search(game.root_output(below), game.recurrent_fn, 25, rule=rule, tree=kept)
        assert torch.equal(copy, kept.statistics)
        again = [plain_search(node, game.plain_step, 25, plain_rule(normalize=normalize)) for node in roots]
        assert_equal_trees(tree, again)
