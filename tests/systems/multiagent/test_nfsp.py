"""NFSP: what its memories hold, what it follows when, and its losses against plain loops."""

import dataclasses

import pytest
import torch

from torchstone.envs.game_tree import read_game_tree
from torchstone.errors import BadInput
from torchstone.systems.multiagent import nfsp
from torchstone.tasks.multiagent.train import info_states

TINY = dataclasses.replace(nfsp.RECIPES["smoke"], hidden=(8,), num_games=16, batch_size=16, device="cpu")


def stream_of(spec: str = "kuhn_poker", **fields):
    tree, recipe = read_game_tree(spec), dataclasses.replace(TINY, data=spec, **fields)
    torch.manual_seed(0)
    model = nfsp.NFSP(tree.features.shape[1], tree.num_actions, recipe.hidden)
    return nfsp.FictitiousPlay(model, tree, recipe)


@pytest.mark.parametrize("spec", ["kuhn_poker", pytest.param("leduc_poker", marks=pytest.mark.sweep)])
def test_transitions_follow_each_other_in_the_game(spec):
    """From a decision to the same player's next, without reward; or to the end, with that player's return."""
    stream = stream_of(spec, anticipatory=0.5)
    tree = stream.tree
    for _ in range(60):
        next(stream)
    for player in range(2):
        own = (tree.info_player == player).nonzero()[:, 0]
        ends = zip(
            tree.terminal_sequence[:, player].tolist(), tree.terminal_returns[:, player].tolist(), strict=True
        )
        known = set(ends)
        held = stream.transitions[player].held()
        state, next_state = own[held["state"].long()], own[held["next_state"].long()]
        sequence = state * tree.num_actions + held["action"]
        goes_on = held["discount"] == 1
        assert torch.equal(tree.parent_sequence[next_state[goes_on]], sequence[goes_on])
        assert not held["reward"][goes_on].any()
        ended = set(zip(sequence[~goes_on].tolist(), held["reward"][~goes_on].tolist(), strict=True))
        print(f"player {player}: {len(state)} transitions, {len(ended)} of {len(known)} kinds of ends")
        assert (held["discount"][~goes_on] == 0).all()
        assert ended <= known
        assert len(ended) > len(known) / 3


def test_every_decision_is_remembered_once():
    stream = stream_of(anticipatory=1.0)  # all of them are a best response's
    for _ in range(30):
        next(stream)
    waiting = (stream.last_state >= 0).sum(0)
    for player in range(2):
        decisions = stream.own_actions[player].num_seen
        assert decisions == stream.transitions[player].num_seen + waiting[player]
    moves = sum(memory.num_seen for memory in stream.own_actions)
    assert moves in (30 * TINY.num_games, 31 * TINY.num_games)  # the first batch waits for both players


def test_a_player_follows_one_policy_for_an_episode_and_the_best_response_in_a_share_of_them():
    stream, tables = stream_of(anticipatory=0.25, num_games=256), None
    tree = stream.tree
    tables = tree.uniform, tree.uniform
    generator, drawn, decisions = torch.Generator().manual_seed(0), 0, 0
    for _ in range(30):
        before, episodes = stream.is_best_response.clone(), stream.episodes
        node = stream.games.node.clone()
        stream._play(*tables, 1, generator)
        changed = (stream.is_best_response != before).any(1)
        # only where an episode ended, and the next began
        level = torch.bucketize(
            torch.stack([node, stream.games.node]), torch.tensor(tree.level_ends), right=True
        )
        assert (level[1] <= level[0])[changed].all()
        drawn, decisions = drawn + int(stream.is_best_response.sum()), decisions + before.numel()
        assert stream.episodes >= episodes
    share = drawn / decisions
    remembered = sum(memory.num_seen for memory in stream.own_actions) / (30 * 256)
    print(f"best response in {share:.3f} of episodes, {remembered:.3f} of moves remembered")
    assert abs(share - 0.25) < 0.03
    assert abs(remembered - 0.25) < 0.03


def test_the_average_is_over_all_of_training():
    """A reservoir of actions: half of those held are of the first half, however long ago."""
    stream = stream_of(anticipatory=1.0, reservoir_size=200)
    tree, generator = stream.tree, torch.Generator().manual_seed(0)
    for action in range(2):
        table = torch.zeros_like(tree.uniform)
        table[:, action] = 1
        for _ in range(40):
            stream._play(table, table, 1, generator)
    for memory in stream.own_actions:
        share = memory.held()["action"].float().mean().item()
        print(f"{memory.num_seen} came, {len(memory)} held, share of the later action {share:.2f}")
        assert abs(share - 0.5) < 0.15


def test_no_best_response_at_all_is_refused():
    with pytest.raises(BadInput, match="anticipatory"):
        next(nfsp.build(dataclasses.replace(TINY, anticipatory=0.0)))


def test_policies_are_epsilon_greedy_and_softmax_over_legal_actions():
    stream = stream_of("leduc_poker")
    tree, model = stream.tree, stream.model
    best, average = model.best_response(tree, 0.3), model.strategy(tree)
    logits, q = model(tree.features)
    for info in range(0, tree.num_infos, 97):
        player, legal = tree.info_player[info], tree.legal[info].nonzero()[:, 0]
        expected = torch.zeros(3, dtype=torch.double)
        expected[legal] = 0.3 / len(legal)
        expected[legal[q[info, player, legal].argmax()]] += 0.7
        assert torch.allclose(best[info], expected)
        expected = torch.zeros(3, dtype=torch.double)
        expected[legal] = logits[info, player, legal].double().softmax(0)
        assert torch.allclose(average[info], expected, atol=1e-6)


def test_epsilon_falls_with_the_square_root_of_updates():
    stream = stream_of(epsilon=0.06)
    for position, expected in ((0, 0.06), (3, 0.03), (99, 0.006)):
        stream.position = position
        assert stream.epsilon() == pytest.approx(expected)


def experience(tree, player: int, count: int, generator) -> nfsp.Experience:
    """Some that goes on, some that ends, in states where actions are illegal."""
    rows = int((tree.info_player == player).sum())
    own = (tree.info_player == player).nonzero()[:, 0]
    state, next_state, own_state = torch.randint(rows, (3, count), generator=generator)
    actions = [
        torch.multinomial(tree.uniform[own[s]], 1, generator=generator)[:, 0] for s in (state, own_state)
    ]
    reward = torch.randn(count, generator=generator, dtype=torch.double)
    discount = (torch.rand(count, generator=generator) < 0.5).double()
    return nfsp.Experience(state, actions[0], reward, next_state, discount, own_state, actions[1])


@pytest.mark.parametrize("count", [7, 600])  # fewer than information states, and more
def test_losses_equal_plain_loops(count):
    tree, generator = read_game_tree("leduc_poker"), torch.Generator().manual_seed(count)
    model = nfsp.NFSP(tree.features.shape[1], 3, (8,)).double()
    target = nfsp.NFSP(tree.features.shape[1], 3, (8,)).double().q
    infos = [info_states(tree, player, "cpu") for player in range(2)]
    infos = [each._replace(features=each.features.double()) for each in infos]
    batches = [experience(tree, player, count, generator) for player in range(2)]
    squares, entropies = [], []
    for player, batch in enumerate(batches):
        features, legal = infos[player]
        for s, a, r, after, gamma, own, b in zip(*batch, strict=True):
            y = r
            if gamma:
                y = r + max(target[player](features[after])[legal[after]].detach())
            squares.append((y - model.q[player](features[s])[a]) ** 2)
            p = model.policy[player](features[own])[legal[own]].exp()
            entropies.append(-torch.log(model.policy[player](features[own])[b].exp() / p.sum()))
    ours = nfsp.q_loss(model, target, infos, batches)["loss"], nfsp.policy_loss(model, infos, batches)["loss"]
    theirs = torch.stack(squares).sum() / count, torch.stack(entropies).sum() / count
    for a, b, networks in zip(ours, theirs, (model.q, model.policy), strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-10)
        parameters = list(networks.parameters())
        gradients = zip(torch.autograd.grad(a, parameters), torch.autograd.grad(b, parameters), strict=True)
        assert all(torch.allclose(x, y, rtol=1e-10, atol=1e-12) for x, y in gradients)


def test_target_network_is_synchronized_at_its_interval():
    run = next(nfsp.build(dataclasses.replace(TINY, target_update_interval=3)))
    model, target = run.state["model"], run.state["target_network"]
    for number in range(7):
        before = [p.detach().clone() for p in model.q.parameters()]
        old = [p.detach().clone() for p in target.parameters()]
        run.update(next(run.stream))
        expected = before if number % 3 == 0 else old
        assert all(torch.equal(a, b) for a, b in zip(target.parameters(), expected, strict=True))
