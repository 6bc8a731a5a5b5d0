"""The switch riddle: who was there, and what someone has who knows everything."""

import pytest
import torch

from torchstone.envs.switch_riddle import (
    all_courses,
    everyone_was_there,
    oracle_returns,
    random_courses,
    read_riddle,
)
from torchstone.errors import BadInput


def test_courses_and_oracle():
    riddle = read_riddle("switch_riddle:3")
    assert riddle.days == 6
    room = all_courses(riddle)
    assert len(set(map(tuple, room.tolist()))) == 3**6
    there = everyone_was_there(room, 3)
    for course, days in list(zip(room.tolist(), there.tolist(), strict=True))[::37]:
        assert days == [len(set(course[: day + 1])) == 3 for day in range(6)]
    assert oracle_returns(room, 3).sum() == 540
    sample = random_courses(riddle, 4000, torch.Generator().manual_seed(0))
    assert abs(oracle_returns(sample, 3).mean() - 540 / 729) < 0.03


def test_other_riddles_are_refused():
    for spec in ("switch_riddle:2", "switch_riddle:", "switch_riddle:x", "riddle:3"):
        with pytest.raises(BadInput, match="switch_riddle:3"):
            read_riddle(spec)
    with pytest.raises(BadInput, match="too many courses"):
        all_courses(read_riddle("switch_riddle:4"))
