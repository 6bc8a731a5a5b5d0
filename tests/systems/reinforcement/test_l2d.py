"""L2D: what a network may know of a shop, its loss in plain loops, and its uses."""

import dataclasses
import itertools

import pytest
import torch

from torchstone.envs.job_shop import Floor, Shops, random_shops, read_shops, schedule
from torchstone.errors import BadInput
from torchstone.systems.reinforcement import l2d

TINY = dataclasses.replace(l2d.RECIPES["smoke"], hidden=8, batch_size=2, samples=3, steps=2, device="cpu")


def shops_of(jobs=5, machines=4, count=3, seed=0):
    return random_shops(jobs, machines, count, torch.Generator().manual_seed(seed))


def network(seed=0):
    torch.manual_seed(seed)
    return l2d.L2D(8)


def some_steps(shops, steps=6):
    floor = Floor(shops)
    for number in range(steps):
        floor.dispatch(
            (floor.is_open.float() * torch.arange(1, shops.size[1] + 1)).argmax(1)
            if number % 2
            else floor.active().float().argmax(1)
        )
    return floor


def test_features_do_not_depend_on_units_or_on_the_order_of_jobs():
    shops = shops_of()
    x = l2d.features(some_steps(shops))
    assert x.shape == (3, 5, l2d.FEATURES)
    # another unit of time
    longer = l2d.features(some_steps(shops._replace(duration=shops.duration * 7)))
    assert torch.allclose(x, longer, atol=1e-5)
    # jobs in another order, before any choice
    order = torch.tensor([3, 0, 4, 1, 2])
    other = Shops(shops.machine[:, order], shops.duration[:, order])
    assert torch.allclose(l2d.features(Floor(shops))[:, order], l2d.features(Floor(other)), atol=1e-6)
    # machines of other names
    renamed = Shops((shops.machine + 1) % 4, shops.duration)
    assert torch.allclose(l2d.features(Floor(shops)), l2d.features(Floor(renamed)), atol=1e-6)


def test_features_of_finished_jobs_are_zero_and_none_is_infinite():
    shops = shops_of(3, 2)
    floor = Floor(shops)
    for job in (0, 0, 1, 2):
        floor.dispatch(torch.full((3,), job))
        x = l2d.features(floor)
        assert x.isfinite().all()
        assert (x[~floor.is_open] == 0).all()
    assert not floor.is_open[:, 0].any()


def test_closed_jobs_change_no_logit():
    model, x = network(), torch.randn(2, 5, l2d.FEATURES)
    is_open = torch.tensor([[True, False, True, True, False]]).expand(2, 5)
    changed = torch.where(is_open[..., None], x, torch.randn_like(x))
    assert torch.allclose(model(x, is_open)[is_open], model(changed, is_open)[is_open], atol=1e-6)
    few = model(x[:, [0, 2, 3]])
    assert torch.allclose(model(x, is_open)[is_open].view(2, 3), few, atol=1e-6)


def test_sampled_schedules_are_active_and_recorded():
    model, shops = network(), shops_of()
    found, decisions = l2d.sample_schedules(model, shops, torch.Generator().manual_seed(0), 1.0)
    assert (found.makespan >= shops.lower_bounds()).all()
    assert (decisions.is_candidate.sum(1) > 1).all()
    assert decisions.is_candidate.gather(1, decisions.job[:, None]).all()
    # no two operations of a machine overlap, nor two of a job
    for number in range(3):
        for column in range(4):
            spans = sorted(
                (
                    float(found.start[number, j, k]),
                    float(found.start[number, j, k] + shops.duration[number, j, k]),
                )
                for j in range(5)
                for k in range(4)
                if int(shops.machine[number, j, k]) == column
            )
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        ends = found.start[number] + shops.duration[number]
        assert (found.start[number, :, 1:] >= ends[:, :-1]).all()


def test_samples_follow_the_softmax():
    """The share of first choices, of many copies of one shop."""
    model, shops = network(1), shops_of(4, 3, 1, seed=5).repeat(4000)
    floor = Floor(shops)
    logits = model(l2d.features(floor), floor.is_open).masked_fill(~floor.active(), -torch.inf)[0]
    assert int(floor.active()[0].sum()) > 1
    firsts = []

    def stop(policy_shops, choose):
        firsts.append(choose(Floor(policy_shops)))
        return schedule(policy_shops, choose)

    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand((4000, 4), generator=generator).clamp(1e-7, 1 - 1e-7)
    expected = (logits - (-uniform.log()).log()).argmax(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(l2d, "schedule", stop)
        l2d.sample_schedules(model, shops, torch.Generator().manual_seed(3), 1.0)
    assert torch.equal(firsts[0], expected)
    share = torch.bincount(firsts[0], minlength=4) / 4000
    assert torch.allclose(share, logits.detach().softmax(0), atol=0.035)


def test_the_loss_is_that_of_plain_loops():
    model, shops = network(), shops_of(count=2).repeat(3)
    found, decisions = l2d.sample_schedules(model, shops, torch.Generator().manual_seed(0), 1.0)
    advantage = l2d.advantages(found.makespan, 3)
    for instance in range(2):
        returns = [-float(found.makespan[3 * instance + k]) for k in range(3)]
        mean = sum(returns) / 3
        deviation = (sum((r - mean) ** 2 for r in returns) / 3) ** 0.5
        for k in range(3):
            expected = (returns[k] - mean) / max(deviation, 1e-6)
            assert float(advantage[3 * instance + k]) == pytest.approx(expected, abs=1e-4)
    total, entropies = 0.0, 0.0
    for n in range(len(decisions.job)):
        logits = model(decisions.features[n : n + 1], decisions.is_open[n : n + 1])[0]
        policy = torch.softmax(logits[decisions.is_candidate[n]], 0)
        chosen = decisions.is_candidate[n].nonzero()[:, 0].tolist().index(int(decisions.job[n]))
        total += float(advantage[decisions.row[n]] * policy[chosen].log().detach())
        entropies -= float((policy * policy.log()).sum().detach())
    found_loss = l2d.loss(model, (decisions, advantage), 0.1)
    count = len(decisions.job)
    assert float(found_loss["loss"].detach()) == pytest.approx(
        -total / count - 0.1 * entropies / count, abs=1e-5
    )
    assert float(found_loss["entropy"]) == pytest.approx(entropies / count, abs=1e-5)


def test_the_best_of_samples_is_never_longer_than_the_greedy_schedule():
    model, shops = network(), shops_of()
    greedy, best = (l2d.best_schedule(model, shops, samples, 0, 1.0) for samples in (0, 8))
    assert (best.makespan <= greedy.makespan).all()
    assert (best.makespan < greedy.makespan).any()


def test_uses_and_refusals(tmp_path):
    run = next(l2d.build(TINY))
    model, metadata = run.state["model"], run.metadata
    returns = l2d.play(model, metadata, episodes=3, picture=tmp_path / "first.png")
    assert (tmp_path / "first.png").stat().st_size > 10_000
    bounds = [each.best for each in read_shops(TINY.data)[:3]]
    assert all(-r >= bound for r, bound in zip(returns, bounds, strict=True))
    metrics = l2d.evaluate(model, metadata, "ft06", held_out=False)
    assert metrics["mwkr_gap"] == pytest.approx(61 / 55 - 1)
    assert 0 <= metrics["sampled_gap"] <= metrics["gap"]
    with pytest.raises(BadInput, match="no video"):
        l2d.play(model, metadata, video="film.gif")
    with pytest.raises(BadInput, match="train on other ones"):
        next(l2d.build(dataclasses.replace(TINY, sizes=("7x5",))))
    with pytest.raises(BadInput, match="at least 2"):
        next(l2d.build(dataclasses.replace(TINY, samples=1)))
    with pytest.raises(BadInput, match="multiple of 4"):
        next(l2d.build(dataclasses.replace(TINY, hidden=6)))
    with pytest.raises(BadInput, match="such as 10x5"):
        next(l2d.build(dataclasses.replace(TINY, sizes=("6",))))
