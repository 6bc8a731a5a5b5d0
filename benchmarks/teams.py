"""Steps a second of a team's environment: mpe2 itself, and its equations on arrays; CPU time of one thread, medians
over pairs of runs. `python benchmarks/teams.py`"""

import statistics
import time

import torch

from torchstone.envs.particle_envs import SCENARIOS
from torchstone.envs.team_envs import make_team_envs
from torchstone.envs.team_episodes import play_episodes

PAIRS = 7


def steps_a_second(envs, episodes: int) -> float:
    counts = torch.tensor(envs.team.action_counts)
    generator = torch.Generator().manual_seed(0)

    def act(t, observation, present):
        return (torch.rand(present.shape, generator=generator) * counts).long()

    began = time.process_time()
    found = play_episodes(envs, act, range(episodes), 25)
    return found.present[:, :, 0].sum().item() / (time.process_time() - began)


def main() -> None:
    torch.set_num_threads(1)
    for name in SCENARIOS:
        spec = f"pettingzoo:{name}"
        package, arrays = make_team_envs(spec, exact=True), make_team_envs(spec)
        for episodes in (16, 64):
            rows = [
                (steps_a_second(package, episodes), steps_a_second(arrays, episodes)) for _ in range(PAIRS)
            ]
            slow, fast = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio = [b / a for a, b in rows]
            print(
                f"{name}, {episodes} episodes: package {slow:,.0f}, arrays {fast:,.0f} steps a second; "
                f"{statistics.median(ratio):.0f} times ({min(ratio):.0f} to {max(ratio):.0f})"
            )


if __name__ == "__main__":
    main()
