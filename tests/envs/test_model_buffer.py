"""Rollouts of the last trainings of a model, whatever their number of rows; resumed, the same samples."""

import torch

from torchstone.envs.model_buffer import ModelBuffer
from torchstone.envs.replay_buffer import Transitions


def rollouts(value, count):
    rows = torch.full((count,), float(value))
    return Transitions(rows[:, None].repeat(1, 3), rows[:, None], rows, rows[:, None].repeat(1, 3) + 1, rows)


def values(buffer):
    return sorted(set(buffer.rows.reward.tolist()))


def test_rollouts_stay_for_so_many_trainings_however_long_they_are():
    buffer = ModelBuffer(3)
    assert len(buffer) == 0
    for number, count in enumerate((5, 50, 2, 7)):
        buffer.add(rollouts(number, count))
        print(number, len(buffer), values(buffer))
    assert values(buffer) == [1.0, 2.0, 3.0]
    assert len(buffer) == 59


def test_every_row_is_as_likely():
    buffer = ModelBuffer(4)
    buffer.add(rollouts(0, 30))
    buffer.add(rollouts(1, 10))
    sample = buffer.sample(8000, torch.Generator().manual_seed(0))
    print("share of the larger generation", 1 - sample.reward.mean().item())
    assert 0.23 < sample.reward.mean() < 0.27
    assert torch.equal(sample.next_observation, sample.observation + 1)
    assert torch.equal(sample.action[:, 0], sample.reward)


def test_state_is_restored_and_goes_on_dropping():
    buffer, other = ModelBuffer(2), ModelBuffer(2)
    other.load_state_dict(buffer.state_dict())
    assert len(other) == 0
    for number in range(3):
        buffer.add(rollouts(number, 4))
    other.load_state_dict(buffer.state_dict())
    a, b = (each.sample(20, torch.Generator().manual_seed(1)) for each in (buffer, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    other.add(rollouts(3, 4))
    assert values(other) == [2.0, 3.0]
