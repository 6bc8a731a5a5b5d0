"""Judges of the claims of agents, and of optimizers by their steps: numbers for which a claim holds, and numbers
whose arms are exchanged."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from torchstone.errors import BadInput
from torchstone.experiments import agents, q_learning
from torchstone.experiments.claims import (
    central_critic,
    clipping,
    communication,
    model_efficient,
    muon_faster,
    off_policy_efficient,
    ppo_clips,
    reinforce_variance,
    replay_decorrelates,
    target_stabilizes,
    trust_region,
)
from torchstone.systems.reinforcement import ppo, trpo

JITTER = (-1.0, 0.0, 1.0)  # of three seeds


def seeds_of(make):
    return [make(by) for by in JITTER]


def q_rows(returns, q=None):
    """Rows of `q_learning.measure_arms` from a return and a highest Q of each arm."""

    def make(by):
        return {
            name: {
                "returns": [value + by * (1 + i)] * q_learning.EVALUATIONS,
                "q": (q or {}).get(name, 50.0) + by * i,
            }
            for i, (name, value) in enumerate(returns.items())
        }

    return seeds_of(make)


def test_replay_decorrelates_wants_the_large_buffer_better():
    judge = replay_decorrelates.judge
    assert judge(q_rows({"50,000": 300, "2,000": 250, "128": 50})).outcome == "holds"
    assert judge(q_rows({"50,000": 200, "2,000": 300, "128": 50})).outcome == "holds only when"
    assert judge(q_rows({"50,000": 50, "2,000": 250, "128": 300})).outcome == "not seen here"


def test_target_stabilizes_names_where_it_matters():
    def rows(one, no_one, five, no_five, q=50.0):
        values = dict(zip(target_stabilizes.ARMS, (one, no_one, five, no_five), strict=True))
        return q_rows(values, {"none, 1 step": q})

    judge = target_stabilizes.judge
    assert judge(rows(300, 100, 300, 100)).outcome == "holds"
    one = judge(rows(300, 100, 300, 300))
    assert one.outcome == "holds only when"
    assert "of one reward" in one.finding
    assert "its values are meant" in judge(rows(300, 300, 300, 300, q=900.0)).finding
    assert judge(rows(100, 300, 100, 300)).outcome == "not seen here"


def test_clipping_wants_scales_alike_and_fails_where_sizes_count():
    def rows(clipped, large, clipped_corridor, corridor):
        values = {"clipped": clipped, "plain, × 1": 300, "plain, × 100": large}
        return q_rows(values | {"clipped, corridor": clipped_corridor, "plain, corridor": corridor})

    judge = clipping.judge
    assert judge(rows(300, 50, 1, 100)).outcome == "holds only when"
    assert judge(rows(300, 50, 100, 100)).outcome == "holds"
    assert judge(rows(50, 300, 1, 100)).outcome == "not seen here"


def test_clipping_corridor_ends_with_1_and_10():
    env = clipping.Corridor()
    ends = Counter()
    for action, steps in ((0, 2), (1, 6)):
        observation, _ = env.reset(seed=0)
        assert observation.argmax() == 2
        for _ in range(steps):
            _, reward, terminated, truncated, _ = env.step(action)
        assert terminated
        assert not truncated
        ends[reward] += 1
    assert ends == {1.0: 1, 10.0: 1}
    scaled = clipping.ScaledReward(clipping.Corridor(), factor=100.0)
    scaled.reset(seed=0)
    scaled.step(0)
    assert scaled.step(0)[1] == 100.0


def test_reinforce_variance_wants_less_variance_and_a_higher_return():
    def rows(learned, none, learned_return, none_return):
        def make(by):
            return {
                "log_variance": {"learned": learned + 0.1 * by, "mean": (learned + none) / 2, "none": none},
                "cosine": {"learned": 0.9, "mean": 0.9, "none": 1.0},
                "returns": {
                    "learned": [learned_return + by] * 8,
                    "mean": [100.0] * 8,
                    "none": [none_return] * 8,
                },
            }

        return seeds_of(make)

    judge = reinforce_variance.judge
    assert judge(rows(1.0, 4.0, 200, 100)).outcome == "holds"
    assert judge(rows(1.0, 4.0, 100, 200)).outcome == "holds only when"
    assert judge(rows(4.0, 1.0, 200, 100)).outcome == "not seen here"


def test_ppo_clips_depends_on_the_epochs():
    def rows(clipped, free):
        def make(by):
            def arm(falls):
                # rises to 300, and falls by so much to stay there
                returns = [
                    [100.0, 200, 300, 300, 300, *[300 - fall + by * (i + 1)] * 6]
                    for i, fall in enumerate(falls)
                ]
                return {"returns": returns, "kl": [0.01] * 3}

            return {"clipped": arm(clipped), "not clipped": arm([f + 3 * by for f in free])}

        return seeds_of(make)

    judge = ppo_clips.judge
    assert judge(rows([10, 10, 10], [200, 200, 200])).outcome == "holds"
    many = judge(rows([10, 10, 10], [10, 200, 200]))
    assert many.outcome == "holds only when"
    assert "10 epochs or more" in many.finding
    assert judge(rows([200, 200, 200], [10, 10, 10])).outcome == "not seen here"


def test_trust_region_is_monotonic_only_if_hardly_an_update_loses():
    def values(losing):
        """Forty updates of which so many lose."""
        found = [0.0]
        for i in range(40):
            found.append(found[-1] + (-0.01 if i < losing else 0.02))
        return found

    def rows(smallest, usual, wide):
        def make(by):
            counts = (smallest, usual, wide + (by > 0), wide)
            return {"values": [values(count) for count in counts], "few": values(usual + 1)}

        return seeds_of(make)

    assert trust_region.judge(rows(0, 1, 12)).outcome == "holds"
    assert trust_region.judge(rows(0, 8, 20)).outcome == "holds only when"
    assert trust_region.judge(rows(0, 0, 0)).outcome == "not seen here"  # the control
    assert trust_region.judge(rows(20, 12, 1)).outcome == "not seen here"


def test_trust_region_exact_value_is_that_of_played_episodes():
    exact = trust_region.ExactValue()
    (run,) = trpo.build(replace(trust_region.RECIPE, seed=0))
    model = run.state["model"]
    value = exact(model)["value"]
    assert 0.001 < value < 0.05  # a nearly uniform policy: 1.4 % of its episodes arrive
    with_no_way_out = exact.transition.sum(2)
    assert with_no_way_out.max() <= 1 + 1e-12
    # by sums over steps instead of a solved system
    import torch

    pi = model.policy(torch.eye(16), None).logits.double().softmax(1).detach()
    at, total = torch.eye(16, dtype=torch.float64)[0], 0.0
    for step in range(3000):
        total += trust_region.GAMMA**step * float(at @ (pi * exact.reward).sum(1))
        at = at @ torch.einsum("sa,sat->st", pi, exact.transition)
    assert value == pytest.approx(total, rel=1e-9)


def test_off_policy_efficient_counts_steps_and_seconds():
    def rows(off, on, off_seconds, on_seconds):
        def make(by):
            def arm(steps, seconds):
                steps = steps * (1 + 0.01 * by)
                return {
                    "steps": [steps / 2, steps],
                    "seconds": [seconds / 2, seconds],
                    "returns": [-900.0, -150.0],
                }

            return {
                "DDPG": arm(off, off_seconds),
                "SAC": arm(off, off_seconds),
                "PPO": arm(on * (1 - 0.01 * by), on_seconds),
            }

        return seeds_of(make)

    judge = off_policy_efficient.judge
    assert judge(rows(3000, 40_000, 20.0, 5.0)).outcome == "holds only when"
    assert judge(rows(3000, 40_000, 2.0, 5.0)).outcome == "holds"
    assert judge(rows(40_000, 3000, 2.0, 5.0)).outcome == "not seen here"
    never = rows(3000, 40_000, 2.0, 5.0)
    never[0]["SAC"]["returns"] = [-900.0, -900.0]
    assert judge(never).outcome == "not seen here"


def test_model_efficient_wants_fewer_steps_than_as_many_updates_take():
    def rows(sac, model, same):
        def make(by):
            return {"SAC": sac + 10 * by, "MBPO": model, "MBPO, no model": same + by}

        return seeds_of(make)

    judge = model_efficient.judge
    assert judge(rows(3600, 800, 2000)).outcome == "holds"
    assert judge(rows(3600, 800, 600)).outcome == "holds only when"
    assert judge(rows(800, 3600, 5000)).outcome == "not seen here"


def test_central_critic_names_the_task_in_which_it_helps():
    def rows(game, spread):
        def make(by):
            found = {"QMIX": game + 0.1 * by, "VDN": 7.0, "independent": 7.0}
            returns = {
                "QMIX": spread + by,
                "independent Q": -72.0,
                "MAPPO": spread + by,
                "independent PPO": -72.0,
            }
            return {"game": found, "spread": returns}

        return seeds_of(make)

    judge = central_critic.judge
    assert judge(rows(8.0, -60.0)).outcome == "holds"
    assert "two-step game" in judge(rows(8.0, -72.0)).finding.split(":")[0]
    assert judge(rows(6.0, -80.0)).outcome == "not seen here"


def test_central_critic_reads_the_seed_of_a_record():
    assert central_critic.recorded("qmix-independent", 0) == pytest.approx(-71.92869, abs=1e-4)
    with pytest.raises(BadInput, match="has the seeds 0, 1, 2, 3, 4, 5, not 7"):
        central_critic.recorded("qmix-independent", 7)


def test_communication_wants_the_messages_used():
    def rows(dial, silent, cut):
        names = ("DIAL", "silent", "DIAL, bulb cut off")
        return seeds_of(lambda by: dict(zip(names, (dial + 0.01 * by, silent, cut), strict=True)))

    assert communication.judge(rows(0.95, 0.6, 0.5)).outcome == "holds"
    assert communication.judge(rows(0.8, 0.6, 0.5)).outcome == "holds only when"
    assert communication.judge(rows(0.95, 0.6, 0.95)).outcome == "not seen here"
    assert communication.judge(rows(0.6, 0.95, 0.5)).outcome == "not seen here"


def test_muon_faster_counts_steps_and_seconds():
    def rows(muon, others, muon_seconds):
        def make(by):
            def arm(steps, seconds):
                return {
                    "rate": 0.01,
                    "losses": [4.0, 1.9],
                    "steps": steps,
                    "seconds": seconds,
                    "updates": 1000,
                }

            row = {name: arm(others and others + by, 10.0) for name in muon_faster.RATES}
            return row | {"muon": arm(muon + 2 * by, muon_seconds)}

        return seeds_of(make)

    judge = muon_faster.judge
    assert judge(rows(500, 800, 11.0)).outcome == "holds"
    assert judge(rows(500, 800, 30.0)).outcome == "holds only when"
    assert judge(rows(500, None, 11.0)).outcome == "holds"  # not reached: the cap is counted
    assert judge(rows(800, 500, 5.0)).outcome == "not seen here"
    assert muon_faster.crossing([4.0, 2.0, 1.8]) == pytest.approx(muon_faster.EVERY * 1.5)


def test_worst_drop_and_moving_mean_are_what_they_say():
    assert agents.worst_drop([1.0, 5.0, 2.0, 6.0, 5.0]) == 3.0
    assert agents.worst_drop([1.0, 2.0, 3.0]) == 0.0
    assert agents.moving_mean([1.0, 2.0, 6.0], 2) == [1.5, 4.0]
    assert agents.moving_mean([1.0, 3.0], 5) == [2.0]


def test_train_agent_keeps_updates_evaluations_and_stops():
    recipe = replace(ppo.RECIPES["smoke"], total_timesteps=4 * 256, num_steps=32, epochs=1)
    seen = []

    def hook(model, batch):
        seen.append(batch.number)
        return {"extra": 1.0}

    history = agents.train_agent(ppo.build, recipe, evaluations=2, before_update=hook)
    assert seen == [0, 1, 2, 3]
    assert history.column("extra") == [1.0] * 4
    assert history.column("env_steps") == [256.0, 512.0, 768.0, 1024.0]
    assert len(history.returns()) == 3  # the untrained agent's first
    assert history.evaluated_after == [0, 2, 4]
    assert agents.steps_until(history, -math.inf) == 512.0
    assert agents.steps_until(history, math.inf) is None
    stopped = agents.train_agent(
        ppo.build, recipe, evaluations=2, stop_when=lambda m: m["return"] > -math.inf
    )
    assert (len(stopped.updates), len(stopped.evaluations)) == (0, 1)
