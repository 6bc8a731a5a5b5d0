"""mpe2's scenarios on arrays: every number equals the package's own, from the same seeds."""

import pytest
import torch

from torchstone.envs.particle_envs import SCENARIOS
from torchstone.envs.team_envs import ParticleEnvs, make_team_envs
from torchstone.envs.team_episodes import play_episodes


@pytest.mark.parametrize("name", SCENARIOS)
def test_equal_to_the_package(name):
    spec, found = f"pettingzoo:{name}", []
    for exact in (False, True):
        envs = make_team_envs(spec, exact=exact)
        assert isinstance(envs, ParticleEnvs) is not exact
        counts, generator = torch.tensor(envs.team.action_counts), torch.Generator().manual_seed(1)
        # agents that stay near each other touch often
        choices = (torch.rand(30, 6, len(counts), generator=generator) * counts).long()
        choices[:, :3] = choices[:, :1, :1].clamp(max=2)
        found.append(play_episodes(envs, lambda t, o, p, c=choices: c[t], list(range(40, 46)), 30))
    ours, theirs = found
    assert ours.action.shape[1] == 25
    for name_, a, b in zip(ours._fields, ours, theirs, strict=True):
        error = (a.double() - b.double()).abs().max().item()
        print(name_, tuple(a.shape), error)
        assert error <= 1e-6
    assert ours.truncated[:, -1].all()
    if "spread" in name:
        assert (theirs.reward.frac() != theirs.reward[:, :, :1].frac()).any()  # some touched


def test_arguments_are_the_packages_own_business():
    envs = make_team_envs("pettingzoo:mpe2.simple_spread_v3:N=2")
    assert not isinstance(envs, ParticleEnvs)
    assert envs.team.agents == ("agent_0", "agent_1")
