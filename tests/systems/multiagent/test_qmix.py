"""QMIX: its targets in plain loops, with agents that leave, are cut off, arrive and differ; the two-step game."""

import dataclasses

import pytest
import torch
from systems.multiagent.team_cases import COUNTS, SIZES, toy_episodes

from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.rl.target_network import make_target
from torchstone.systems.multiagent import qmix

RECIPE = dataclasses.replace(qmix.Recipe(), gamma=0.9, device="cpu")
TWO_STEP = dataclasses.replace(qmix.RECIPES["two_step"], device="cpu")


def networks(mixing, seed=0):
    torch.manual_seed(seed)
    options = {"hidden": 6, "embed": 4, "hypernet": 5, "mixing": mixing}
    model = qmix.QMIX(SIZES, COUNTS, **options).double()
    return model, make_target(qmix.QMIX(SIZES, COUNTS, **options).double())


def plain_loss(model, target, episodes, recipe):
    """Agent by agent: each is there from its arrival, and its last state counts if it was cut off there."""
    last = qmix.last_actions(episodes)
    online, _ = model.q_values(episodes.observation, last)
    frozen, _ = target.q_values(episodes.observation, last)
    errors = []
    for e in range(len(episodes.action)):
        for t in range(episodes.action.shape[1]):
            chosen, following, reward, here, after = [], [], [], [], []
            for a in range(3):
                present = bool(episodes.present[e, t, a])
                acts_next = t + 1 < episodes.present.shape[1] and bool(episodes.present[e, t + 1, a])
                counts_next = acts_next or (present and bool(episodes.truncated[e, t, a]))
                chooser = (online if recipe.double_q else frozen)[e, t + 1, a, : COUNTS[a]]
                value = frozen[e, t + 1, a, int(chooser.argmax())].detach()
                zero = torch.zeros((), dtype=torch.double)
                chosen.append(online[e, t, a, episodes.action[e, t, a]] if present else zero)
                following.append(value if counts_next else zero)
                reward.append(episodes.reward[e, t, a] if present else zero)
                here.append(present), after.append(counts_next)
            if model.mixing == "iql":
                own = zip(chosen, following, reward, here, strict=True)
                errors += [(r + recipe.gamma * v - q) ** 2 for q, v, r, is_here in own if is_here]
                continue
            y = sum(reward)
            if any(after):
                state = episodes.state[e, t + 1][None, None]
                y = y + recipe.gamma * target.mix(torch.stack(following)[None, None], state)[0, 0].detach()
            q_tot = model.mix(torch.stack(chosen)[None, None], episodes.state[e, t][None, None])[0, 0]
            errors.append((y - q_tot) ** 2)
    return torch.stack(errors).mean()


@pytest.mark.parametrize(
    ("mixing", "double_q"),
    [
        ("qmix", True),
        ("iql", False),
        *(pytest.param(m, d, marks=pytest.mark.sweep) for m in ("qmix", "vdn", "iql") for d in (True, False)),
    ],
)
def test_loss_and_gradient_equal_plain_loops(mixing, double_q):
    model, target = networks(mixing)
    recipe, episodes = dataclasses.replace(RECIPE, double_q=double_q), toy_episodes(2)
    ours, theirs = (
        qmix.loss(model, target, episodes, recipe)["loss"],
        plain_loss(model, target, episodes, recipe),
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    parameters = [p for name, p in model.named_parameters()]
    a, b = (torch.autograd.grad(x, parameters, allow_unused=True) for x in (ours, theirs))
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        assert x is None or torch.allclose(x, y, rtol=1e-9, atol=1e-12)


def test_no_pad_enters_a_target():
    """Values of actions that an agent does not have may be anything: neither loss nor choice sees them."""
    model, target = networks("qmix")
    episodes = toy_episodes(2)
    before = qmix.loss(model, target, episodes, RECIPE)["loss"].item()

    def spoiled(q_values):
        def call(*inputs):
            q, state = q_values(*inputs)
            return torch.where(model.action_mask, q, 9_999_999.0), state

        return call

    model.q_values, target.q_values = spoiled(model.q_values), spoiled(target.q_values)
    assert qmix.loss(model, target, episodes, RECIPE)["loss"].item() == before
    action = model.greedy()(0, episodes.observation[:, 0], episodes.present[:, 0])
    assert (action < torch.tensor(COUNTS)).all()


def test_acting_and_learning_see_the_same_values():
    """Step by step, with what was done before, as over the whole episode."""
    model, _ = networks("qmix")
    act, episodes = model.greedy(), toy_episodes(2)
    done = []
    for t in range(6):
        done.append(act(t, episodes.observation[:, t], episodes.present[:, t]))
    again = episodes._replace(action=torch.stack(done, 1))
    q, _ = model.q_values(again.observation, qmix.last_actions(again))
    best = model.valid(q[:, :-1]).argmax(3).masked_fill(~episodes.present, 0)
    assert torch.equal(best, again.action)


@pytest.mark.sweep
@pytest.mark.parametrize(("variant", "seeds"), [("qmix", [0, 1]), ("vdn", [0])])
def test_the_two_step_game(variant, seeds):
    """VDN: the least-squares fit, return 7. QMIX: the game's own values where they matter, return 8."""
    expected = {
        "qmix": (8, [[6.93, 6.93], [7.92, 7.92]], [[0, 1], [1, 8]]),
        "vdn": (7, [[6.93, 6.93], [6.435, 6.435]], [[-1.5, 2.5], [2.5, 6.5]]),
    }
    for seed in seeds:
        steps = 3000
        run = next(qmix.build(dataclasses.replace(TWO_STEP, variant=variant, seed=seed, steps=steps)))
        run.test, run.evaluate, run.best_metric = None, dict, None
        fit(run, intervals=Intervals(evaluate=steps), quiet=True)
        model = run.state["model"]
        tables = qmix.two_step_tables(model)
        returns, *wanted = expected[variant]
        print(variant, seed, {name: table.numpy().round(3).tolist() for name, table in tables.items()})
        assert torch.allclose(tables["after action 0"], torch.tensor(7.0), atol=0.02)
        for name, table in zip(("first step", "after action 1"), wanted, strict=True):
            assert torch.allclose(tables[name], torch.tensor(table).float(), atol=0.02), name
        assert qmix.play(model, run.metadata, episodes=2) == [returns, returns]


def test_enumeration_plays_every_course_once():
    run = next(qmix.build(TWO_STEP))
    actions = next(run.stream).episodes.action.flatten(1)
    assert len(set(map(tuple, actions.tolist()))) == 16


def test_refusals():
    with pytest.raises(BadInput, match="--exploration epsilon"):
        next(qmix.build(dataclasses.replace(RECIPE, data="pettingzoo:toy_teams", exploration="enumerate")))
    run = next(qmix.build(dataclasses.replace(TWO_STEP, steps=1)))
    with pytest.raises(BadInput, match="trained with"):
        qmix.evaluate(run.state["model"], run.metadata, "pettingzoo:toy_teams", held_out=False)
    with pytest.raises(BadInput, match="nothing to film"):
        qmix.play(run.state["model"], run.metadata, video="x.gif")
