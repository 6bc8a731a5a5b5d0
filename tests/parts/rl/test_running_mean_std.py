"""Running statistics against those of everything at once."""

import torch

from torchstone.parts.rl.running_mean_std import ReturnScale, Running


def test_batches_of_any_size_give_the_statistics_of_all():
    g = torch.Generator().manual_seed(0)
    x = 1000 + 3 * torch.randn(1000, 4, generator=g, dtype=torch.float64)
    running = Running((4,))
    running.count.zero_()  # without the little that it begins with
    for part in x.split([1, 2, 500, 7, 490]):
        running.take(part)
    torch.testing.assert_close(running.mean, x.mean(0))
    torch.testing.assert_close(running.variance, x.var(0, correction=0))
    assert float(running.count) == 1000
    told = running(x.float())
    print("mean", told.mean(0).tolist(), "deviation", told.std(0).tolist())
    assert told.mean(0).abs().max() < 1e-3
    assert (told.std(0) - 1).abs().max() < 1e-3


def test_what_is_far_out_is_held_in_and_the_state_goes_round():
    running, other = Running((), limit=5.0), Running((), limit=5.0)
    running.take(torch.randn(100, generator=torch.Generator().manual_seed(0)))
    assert float(running(torch.tensor(1e6))) == 5.0
    other.load_state_dict(running.state_dict())
    x = torch.linspace(-2, 2, 5)
    assert torch.equal(running(x), other(x))
    assert running(x).dtype == torch.float32


def test_rewards_are_scaled_by_the_deviation_of_their_discounted_sums():
    g = torch.Generator().manual_seed(0)
    reward = 7 * torch.randn(60, 3, generator=g)
    ended = torch.rand(60, 3, generator=g) < 0.1
    scale = ReturnScale(3, 0.9)
    found = [scale(r, e) for r, e in zip(reward.split(20), ended.split(20), strict=True)]
    sums, wanted = [], []
    going = [0.0] * 3
    for first in (0, 20, 40):
        for t in range(first, first + 20):
            for n in range(3):
                going[n] = 0.9 * going[n] + float(reward[t, n])
                sums.append(going[n])
                going[n] *= not ended[t, n]
        wanted.append(reward[first : first + 20] / torch.tensor(sums).std(correction=0))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert float(torch.cat(found).abs().max()) > 0.5
