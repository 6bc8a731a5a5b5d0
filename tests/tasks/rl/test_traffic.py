"""A traffic light's table and pictures."""

import json

import pytest
import torch
import toy_crossing

import torchstone as ts
from torchstone.envs.sumo_process import Sample
from torchstone.envs.traffic import DECISION
from torchstone.envs.traffic_control import Hour
from torchstone.tasks.rl import common, traffic


class Alternating(torch.nn.Linear):
    """Phase 1 where the first one is green."""

    def greedy(self, observation):
        return observation[:, 0].long()


def hour(*waiting):
    return Hour([Sample(5.0 * n, each, 2, 9, 1) for n, each in enumerate(waiting)], ["Gr"], [], 7)


def test_the_table_has_intervals_over_days():
    text = traffic.table({"agent": [hour(1.0)], "random": [hour(1.0, 3.0), hour(4.0, 4.0)]})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert rows[0] == ["agent", "1.00", "2.0", "7", "1"]
    # t of 1 degree of freedom: 12.706 × √2 / √2
    assert rows[1] == ["random", "3.00 ± 12.71", "2.0 ± 0.0", "7 ± 0", "1 ± 0"]


def test_lanes_of_a_road_are_one_approach():
    one = Hour(
        stopped=[(5.0, {"a#1_0": 1, "a#1_1": 2, "b_0": 4}), (10.0, {"a#1_0": 0, "a#1_1": 1, "b_0": 0})]
    )
    assert traffic.queues(one, 0.0) == {"a#1": ([5.0, 10.0], [3, 1]), "b": ([5.0, 10.0], [4, 0])}


def test_waiting_of_the_last_episode_follows_from_its_return():
    env = toy_crossing.crossing()
    env.reset(seed=3)
    total, is_over = 0.0, False
    while not is_over:
        _, reward, _, is_over, _ = env.step(0)
        total += reward
    seconds = env.detectors.time - env.scenario.begin
    env.reset()
    found = env.last_episode()["waiting"]
    assert found == pytest.approx(-total * DECISION / seconds)


def test_a_report_has_the_agent_beside_all_controllers(tmp_path, monkeypatch):
    monkeypatch.setattr(traffic, "make_env", lambda *_: (toy_crossing.crossing(), 0))
    traffic.report(Alternating(1, 1), {"spec": "sumo:toy", "wrappers": ()}, tmp_path, seed=1)
    rows = (tmp_path / "controllers.md").read_text().splitlines()[2:]
    assert len(rows) == 9
    assert rows[0].startswith("| agent | ")
    assert {file.name for file in tmp_path.iterdir()} == {"controllers.md", "waiting.png", "signals.png"}


@pytest.mark.sweep
def test_a_killed_run_in_sumo_resumes_to_the_bit(tmp_path, monkeypatch):
    """In the middle of a day: the episode's actions are played again."""
    fields = {"learning_starts": 200, "total_timesteps": 640, "eval_episodes": 1, "record_video": False}
    fields |= {"max_episode_steps": 90}
    monkeypatch.setattr(traffic, "report", lambda *_: None)  # hours of all controllers
    ts.train("dqn/traffic", out=tmp_path / "whole", device="cpu", quiet=True, **fields)
    metrics, updates = common.rollout_metrics, []

    def dies(batch):
        updates.append(batch)
        if len(updates) == 8:
            raise RuntimeError("killed")
        return metrics(batch)

    with monkeypatch.context() as patch:
        patch.setattr(common, "rollout_metrics", dies)
        with pytest.raises(RuntimeError, match="killed"):
            ts.train(
                "dqn/traffic",
                out=tmp_path / "parts",
                device="cpu",
                quiet=True,
                intervals={"save": 5},
                **fields,
            )
    ts.resume(tmp_path / "parts", quiet=True)
    whole, parts = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts"))
    assert whole["metrics"] == parts["metrics"]
    assert "plays an interrupted episode's actions again" in whole["data"]
    # of the 90 decisions, 5 or 7 s each, that the episode lasts, not of the scenario's hour
    waiting, cost = whole["metrics"]["test/waiting"], -5 * whole["metrics"]["test/return"]
    assert cost / (7 * 90) <= waiting <= cost / (5 * 90) * (1 + 1e-9)
