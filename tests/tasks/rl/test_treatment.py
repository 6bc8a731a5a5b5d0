"""An agent that treats sepsis, on small tables: exact figures, estimates, the picture."""

import dataclasses

import pytest
import torch
from sepsis_tables import write_tables

from torchstone.envs import icu_sepsis
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.systems.reinforcement import ppo
from torchstone.tasks.rl import treatment

TINY = dataclasses.replace(
    ppo.RECIPES["treatment"],
    num_envs=16,
    num_steps=8,
    batch_size=64,
    epochs=1,
    total_timesteps=256,
    device="cpu",
)


@pytest.fixture
def sepsis(tmp_path, monkeypatch):
    write_tables(tmp_path)
    monkeypatch.setattr(icu_sepsis, "find_tables", lambda: tmp_path)
    for name, number in (
        ("PATIENTS", 300),
        ("VISITS", 200),
        ("CLINICIANS_EPISODES", 200),
        ("RESAMPLES", 100),
    ):
        monkeypatch.setattr(treatment, name, number)
    icu_sepsis.load_sepsis.cache_clear()
    yield icu_sepsis.load_sepsis()
    icu_sepsis.load_sepsis.cache_clear()


def test_greedy_actions_are_admissible_and_the_exact_return_is_theirs(sepsis):
    torch.manual_seed(0)
    model = ActorCritic((12,), 25, hidden=())
    policy = treatment.greedy_policy(model, sepsis)
    assert (sepsis.mdp.is_admissible | (policy == 0)).all()
    metrics = treatment.exact_metrics(model, 0)
    assert metrics["return"] == pytest.approx(sepsis.mdp.expected_return(policy))
    assert metrics["optimal_return"] >= max(metrics["return"], metrics["clinicians_return"])
    assert metrics["off_policy_low/weighted"] <= metrics["off_policy/weighted"]
    assert metrics["off_policy/weighted"] <= metrics["off_policy_high/weighted"]
    # the clinicians' own policy is estimated by the mean return, from all episodes
    own, size = treatment.off_policy_estimates(sepsis.clinicians, sepsis, 0)
    assert size == pytest.approx(200)
    assert own["ordinary"].value == pytest.approx(own["weighted"].value)
    assert own["ordinary"].low < sepsis.mdp.expected_return(sepsis.clinicians) < own["ordinary"].high


def test_severity_groups_are_a_partition():
    groups = treatment.severity_groups(torch.tensor([0.0, 5.0, 7.0, 10.0, 10.1], dtype=torch.double))
    assert [group.tolist() for group in groups] == [
        [True, False, False, False, False],
        [False, True, True, True, False],
        [False, False, False, False, True],
    ]


def test_a_run_is_validated_on_patients_and_tested_exactly(sepsis, tmp_path):
    run = next(ppo.build(TINY))
    run.update(next(run.stream))
    model = run.state["model"]
    assert set(run.evaluate()) == {"return"}
    assert run.test() == ppo.evaluate(model, run.metadata, "ICU-Sepsis-v2", held_out=True)
    returns = ppo.play(model, run.metadata, episodes=5, picture=tmp_path / "treatment.png")
    assert set(returns) <= {0.0, 1.0}
    assert (tmp_path / "treatment.png").stat().st_size > 10_000


def test_what_the_tables_do_not_say_is_played(sepsis):
    """An agent with memory, or another time limit, is evaluated by episodes as anywhere else."""
    changes = {"variant": "ppo_recurrent", "hidden": (8,), "epochs": 1}, {"max_episode_steps": 3}
    for change in changes:
        run = next(ppo.build(dataclasses.replace(TINY, **change)))
        assert set(run.test()) == {"return", "return_std"}
