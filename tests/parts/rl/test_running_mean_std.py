"""RunningMeanStd statistics against those of everything at once."""

import torch

from torchstone.parts.rl.running_mean_std import RewardNormalizer, RunningMeanStd


def test_running_mean_std_equals_statistics_of_all_batches():
    g = torch.Generator().manual_seed(0)
    x = 1000 + 3 * torch.randn(1000, 4, generator=g, dtype=torch.float64)
    running = RunningMeanStd((4,))
    running.count.zero_()  # without the little that it begins with
    for part in x.split([1, 2, 500, 7, 490]):
        running.update(part)
    torch.testing.assert_close(running.mean, x.mean(0))
    torch.testing.assert_close(running.variance, x.var(0, correction=0))
    assert float(running.count) == 1000
    normalized = running(x.float())
    print("mean", normalized.mean(0).tolist(), "deviation", normalized.std(0).tolist())
    assert normalized.mean(0).abs().max() < 1e-3
    assert (normalized.std(0) - 1).abs().max() < 1e-3


def test_running_mean_std_clips_and_restores_state():
    running, other = RunningMeanStd((), clip=5.0), RunningMeanStd((), clip=5.0)
    running.update(torch.randn(100, generator=torch.Generator().manual_seed(0)))
    assert float(running(torch.tensor(1e6))) == 5.0
    other.load_state_dict(running.state_dict())
    x = torch.linspace(-2, 2, 5)
    assert torch.equal(running(x), other(x))
    assert running(x).dtype == torch.float32


def test_reward_normalizer_keeps_no_graph():
    """Rewards that a network gives, such as those of curiosity, must not tie one rollout to the next."""
    scale = RewardNormalizer(3, 0.9)
    for _ in range(2):
        out = scale(torch.ones(4, 3, requires_grad=True), torch.zeros(4, 3, dtype=torch.bool))
        tied = [name for name, each in [*scale.named_buffers(), ("output", out)] if each.requires_grad]
        print(tied)
        assert not tied


def test_reward_normalizer_divides_by_std_of_discounted_sums():
    g = torch.Generator().manual_seed(0)
    reward = 7 * torch.randn(60, 3, generator=g)
    done = torch.rand(60, 3, generator=g) < 0.1
    scale = RewardNormalizer(3, 0.9)
    normalized = [scale(r, e) for r, e in zip(reward.split(20), done.split(20), strict=True)]
    sums, expected = [], []
    sums_of_env = [0.0] * 3
    for first in (0, 20, 40):
        for t in range(first, first + 20):
            for n in range(3):
                sums_of_env[n] = 0.9 * sums_of_env[n] + float(reward[t, n])
                sums.append(sums_of_env[n])
                sums_of_env[n] *= not done[t, n]
        expected.append(reward[first : first + 20] / torch.tensor(sums).std(correction=0))
    for a, b in zip(normalized, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert float(torch.cat(normalized).abs().max()) > 0.5
