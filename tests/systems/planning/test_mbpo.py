"""MBPO: what the model is trained on, who imagines, when rollouts end and grow, and how long they are kept."""

import dataclasses

import pytest
import torch
from systems.reinforcement.twin_critics import one_minibatch

from torchstone.envs.replay_buffer import Transitions
from torchstone.envs.termination import inverted_pendulum, never
from torchstone.errors import BadInput
from torchstone.parts.rl.probabilistic_ensemble import ProbabilisticEnsemble
from torchstone.systems.planning import mbpo
from torchstone.systems.reinforcement import sac

SMOKE = dataclasses.replace(mbpo.RECIPES["smoke"], device="cpu")
SHORT = dataclasses.replace(
    mbpo.RECIPES["pendulum"],
    device="cpu",
    learning_starts=40,
    model_hidden=(8,),
    hidden=(8,),
    model_epochs=2,
    gradient_steps=2,
    rollouts_per_step=4,
)


def build(**changes):
    return next(mbpo.build(dataclasses.replace(SHORT, **changes)))


def network(observation=3, actions=1, **options):
    torch.manual_seed(0)
    return mbpo.MBPO((observation,), actions, hidden=(8,), model_hidden=(8,), **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def predict(model, monkeypatch, change):
    """The model predicts reward 1 and this change of the state."""
    monkeypatch.setattr(
        model.dynamics,
        "sample",
        lambda x, _: (torch.cat([torch.ones(len(x), 1), change.expand(len(x), -1)], 1), None),
    )


def trained(recipe, x, y, monkeypatch):
    """`train_model` without steps; the batches of its epochs, and the ensemble."""
    torch.manual_seed(0)
    dynamics = ProbabilisticEnsemble(x.shape[1], y.shape[1], hidden=(8,), members=3, num_elites=2)
    batches, errors = [], []

    def step(batch):
        batches.append(batch)
        return {"loss": torch.tensor(0.0), "nll": torch.tensor(0.0)}

    inner = dynamics.squared_errors
    monkeypatch.setattr(dynamics, "squared_errors", lambda *rows: errors.append(rows) or inner(*rows))
    mbpo.train_model(dynamics, step, x, y, recipe, generator())
    return dynamics, batches, errors


def test_bootstraps_are_drawn_once_and_hold_out_no_trained_row(monkeypatch):
    """Each member sees the same rows in every epoch, in another order, and others than its neighbour; what it is
    validated with no member sees, nor do the scales know it."""
    recipe = dataclasses.replace(SMOKE, model_batch_size=16, model_epochs=3, model_patience=9)
    x = torch.arange(50.0)[:, None].repeat(1, 2)
    dynamics, batches, errors = trained(recipe, x, 2 * x, monkeypatch)
    epochs = [torch.cat([b[0] for b in batches[i : i + 3]], 1)[..., 0] for i in (0, 3, 6)]
    assert len(batches) == 9
    first = epochs[0].sort(1).values
    for epoch in epochs[1:]:
        assert torch.equal(epoch.sort(1).values, first)
        assert not torch.equal(epoch, epochs[0])
    assert not torch.equal(first[0], first[1])
    assert first.shape == (3, 40)
    held_out = set(errors[0][0][:, 0].tolist())
    print("held out", sorted(held_out))
    assert len(held_out) == 10
    assert not held_out & set(first.flatten().tolist())
    train = torch.tensor([row for row in range(50) if float(row) not in held_out], dtype=torch.float32)
    torch.testing.assert_close(dynamics.input_mean, train.mean().expand(2))
    torch.testing.assert_close(dynamics.output_std, 2 * train.std(correction=0).expand(2))
    assert all(torch.equal(y, 2 * x) for x, y in batches)


def test_training_stops_by_the_holdout_and_takes_the_best_weights_and_elites(monkeypatch):
    recipe = dataclasses.replace(SMOKE, model_epochs=50, model_patience=3)
    torch.manual_seed(0)
    dynamics = ProbabilisticEnsemble(2, 1, hidden=(4,), members=3, num_elites=2)
    epochs = []

    def step(batch):
        epochs.append(None)
        with torch.no_grad():
            dynamics.network[0].weight.fill_(float(len(epochs)))
        return {"loss": torch.tensor(0.0), "nll": torch.tensor(0.0)}

    table = torch.tensor([[9.0, 9.0, 9.0], [3.0, 9.0, 5.0], [1.0, 8.0, 6.0], [2.0, 7.0, 7.0]])
    monkeypatch.setattr(dynamics, "squared_errors", lambda *_: table[min(len(epochs), 3)])
    x = torch.randn(20, 2)
    metrics = mbpo.train_model(dynamics, step, x, x[:, :1], recipe, generator())
    print({name: float(value) for name, value in metrics.items()})
    assert metrics["model_epochs"] == 3 + 4  # the third was the last that improved a member
    assert dynamics.elites.tolist() == [0, 2]
    # a model that only gets worse stays as it was
    before = dynamics.network[0].weight.clone()
    worse = iter(range(1, 99))
    monkeypatch.setattr(dynamics, "squared_errors", lambda *_: torch.full((3,), float(next(worse))))
    mbpo.train_model(dynamics, step, x, x[:, :1], recipe, generator())
    assert torch.equal(dynamics.network[0].weight, before)
    assert dynamics.network[0].weight[:, 0, 0].tolist() == [2.0, 3.0, 1.0]
    assert float(metrics["holdout_error"]) == 3.0


def test_model_learns_where_a_step_led_at_the_end_of_an_episode_too(monkeypatch):
    """Terminal and truncated states are the targets, not the first states of the episodes that follow."""
    given = []
    monkeypatch.setattr(mbpo, "train_model", lambda d, s, x, y, *_: given.append((x, y)) or {})
    run = build(data="systems.reinforcement.twin_critics:Counts", termination="never")
    run.update(next(run.stream))
    ((x, y),) = given
    buffer = run.stream.buffer
    ends = buffer.end[(buffer.oldest + torch.arange(len(buffer))) % buffer.num_rows]
    print("ends", ends.bincount().tolist())
    assert ends.bincount().tolist() == [34, 8, 8]
    assert (y[:, 1] == 1).all()  # one step more
    assert (y[:, 2] == 0).all()  # of the same episode
    torch.testing.assert_close(y[:, 0], x[:, 0] + 1)


def test_predicted_termination_ends_a_rollout_without_bootstrap(monkeypatch):
    """Of three poles the second falls at its second step and the third at its first."""
    model = network(4)
    predict(model, monkeypatch, torch.tensor([0.0, 0.06, 0.0, 0.0]))
    start = torch.zeros(3, 4)
    start[:, 1] = torch.tensor([-0.15, 0.1, -0.27])
    t = mbpo.rollout(model, start, 3, inverted_pendulum, 0.9, generator())
    print("angles", t.observation[:, 1].tolist(), "discounts", t.discount.tolist())
    torch.testing.assert_close(t.observation[:, 1], torch.tensor([-0.15, 0.1, -0.27, -0.09, 0.16, -0.03]))
    torch.testing.assert_close(t.discount, torch.tensor([0.9, 0.9, 0.0, 0.9, 0.0, 0.9]))
    torch.testing.assert_close(t.next_observation[:, 1], t.observation[:, 1] + 0.06)
    all_over = mbpo.rollout(network(4), start, 3, lambda *states: ~never(*states), 0.9, generator())
    assert len(all_over.reward) == 3
    assert not all_over.discount.any()


def test_rollouts_follow_the_policy_and_the_elites_through_states_of_their_own():
    model = network()
    model.dynamics.fit_scales(torch.randn(99, 4), torch.randn(99, 4))
    start = torch.randn(50, 3)
    t = mbpo.rollout(model, start, 4, never, 0.9, generator())
    assert t.reward.shape == (200,)
    for step in range(3):
        now, later = slice(50 * step, 50 * step + 50), slice(50 * step + 50, 50 * step + 100)
        assert torch.equal(t.next_observation[now], t.observation[later])
    assert torch.equal(t.observation[:50], start)
    assert (t.discount == 0.9).all()
    assert (t.action.abs() <= 1).all()
    calls = generator()
    noise = torch.randn(50, 1, generator=calls)
    torch.testing.assert_close(t.action[:50], model.agent.policy(start).sample(noise))
    y, _ = model.dynamics.sample(torch.cat([start, t.action[:50]], 1), calls)
    torch.testing.assert_close(t.reward[:50], y[:, 0])
    torch.testing.assert_close(t.next_observation[:50], start + y[:, 1:])


def test_termination_is_asked_with_actions_as_the_env_takes_them():
    model, given = network(low=[-2.0], high=[4.0]), []
    mbpo.rollout(
        model, torch.zeros(9, 3), 1, lambda o, a, n: given.append(a) or never(o, a, n), 0.9, generator()
    )
    noise = torch.randn(9, 1, generator=generator())
    torch.testing.assert_close(given[0], 1 + 3 * model.agent.policy(torch.zeros(9, 3)).sample(noise))


def test_truncation_bootstraps_and_termination_does_not_in_real_transitions():
    run, transitions, is_terminated = one_minibatch(
        mbpo, dataclasses.replace(SHORT, termination="never", real_ratio=1)
    )
    learner, model = run.state["target_critics"], run.state["model"].agent
    with torch.no_grad():
        learner[-1].bias.fill_(50.0)
    noise = torch.zeros_like(transitions.action)
    y = sac.targets(model, learner, transitions, torch.tensor(1.0), noise)
    print("after termination", y[is_terminated].mean().item(), "truncation", y[~is_terminated].mean().item())
    assert (y[is_terminated] == 1).all()
    assert (y[~is_terminated] > 40).all()


def test_rollout_length_grows_in_whole_steps():
    recipe = dataclasses.replace(
        SMOKE, min_rollout_length=1, max_rollout_length=4, rollout_growth_start=100, rollout_growth_end=400
    )
    lengths = [mbpo.rollout_length(recipe, t) for t in (0, 100, 199, 200, 299, 300, 399, 400, 9000)]
    assert lengths == [1, 1, 1, 2, 2, 3, 3, 4, 4]
    constant = dataclasses.replace(recipe, max_rollout_length=1, rollout_growth_start=0, rollout_growth_end=0)
    assert mbpo.rollout_length(constant, 50) == 1


def test_model_is_trained_at_its_interval_and_rollouts_are_kept_for_so_many_trainings():
    run = build(
        model_interval=20,
        model_retain=2,
        max_rollout_length=2,
        rollout_growth_start=60,
        rollout_growth_end=61,
    )
    sizes, lengths, renewed = [], [], []
    for _ in range(7):
        metrics = run.update(next(run.stream))
        renewed.append("model_loss" in metrics)
        lengths.append(metrics.get("rollout_length"))
        sizes.append([len(each.reward) for each in run.state["imagined"].generations])
    print(renewed, lengths, sizes)
    assert renewed == [True, False, True, False, True, False, True]
    # 4 rollouts for each of 20 steps, of 1 step at first and of 2 from 61 steps on
    assert lengths[::2] == [1, 2, 2, 2]
    assert sizes == [[80], [80], [80, 160], [80, 160], [160, 160], [160, 160], [160, 160]]


def test_minibatches_hold_their_share_of_real_transitions():
    real = Transitions(*(torch.zeros(6, *shape) for shape in ((3,), (1,), (), (3,), ())))
    imagined = Transitions(*(torch.ones(12, *shape) for shape in ((3,), (1,), (), (3,), ())))
    batches = list(mbpo.mix(real, imagined, 3))
    assert [batch.reward.tolist() for batch in batches] == [[0.0, 0.0, 1.0, 1.0, 1.0, 1.0]] * 3
    run = build(real_ratio=0.05, batch_size=256, gradient_steps=3)
    assert len(next(run.stream).index) == 3 * 13
    alone = build(real_ratio=1.0)
    metrics = alone.update(next(alone.stream))
    assert "model_loss" not in metrics
    assert len(alone.state["imagined"]) == 0


def test_play_is_by_the_mean_of_the_policy_and_forward_predicts_there():
    model = network(low=[-2.0], high=[2.0])
    observation = torch.randn(5, 3)
    mean, _, q, predicted, log_variance = model(observation)
    torch.testing.assert_close(model.greedy(observation), 2 * mean.tanh())
    x = torch.cat([observation, mean.tanh()], 1)
    torch.testing.assert_close(predicted, model.dynamics(x[None])[0])
    assert q.shape == (2, 5)
    assert log_variance.shape == (7, 5, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ensemble_size": 1, "num_elites": 1},
            "ensemble of 1 cannot disagree: ensemble_size must be at least 2",
        ),
        ({"ensemble_size": 3, "num_elites": 5}, "5 elites of 3 networks: num_elites must be at most"),
        ({"data": "CartPole-v1"}, r"discrete actions.*dqn, a2c or ppo"),
        ({"min_rollout_length": 4, "max_rollout_length": 2}, "max_rollout_length 2 is less than"),
        ({"rollout_growth_start": 500, "rollout_growth_end": 100}, "rollout_growth_end 100 is before"),
        ({"data": "BipedalWalker-v3"}, "BipedalWalker-v3 terminates is not known here: --termination"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(BadInput, match=message) as refused:
        build(**changes)
    print(refused.value)
