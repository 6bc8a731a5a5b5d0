"""Q-learning targets and importance weights against their definitions."""

import torch

from torchstone.parts.rl.q_learning import importance_weights, q_of_action, td_target


def test_td_target_row_by_row():
    generator = torch.Generator().manual_seed(0)
    reward, discount = torch.randn(9, generator=generator), torch.rand(9, generator=generator)
    q, choice = (torch.randn(9, 4, generator=generator) for _ in range(2))
    plain, double = td_target(reward, discount, q), td_target(reward, discount, q, choice)
    for i in range(9):
        assert plain[i] == reward[i] + discount[i] * max(q[i].tolist())
        chosen = max(range(4), key=lambda a, i=i: choice[i, a].item())
        assert double[i] == reward[i] + discount[i] * q[i, chosen]
    assert (double < plain).any()
    action = torch.arange(9) % 4
    assert q_of_action(q, action).tolist() == [q[i, i % 4].item() for i in range(9)]


def test_importance_weights_undo_sampling_probabilities():
    """At β = 1, Σ P(i) w_i x_i is the mean over all rows, up to the common factor."""
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    x = torch.tensor([3.0, -1.0, 2.0, 5.0])
    weight = importance_weights(probability, 4, 1.0)
    assert weight.max() == 1
    mean = (probability * weight * x).sum() / (probability * weight).sum()
    assert abs(mean - x.mean()) < 1e-6
    assert torch.equal(importance_weights(probability, 4, 0.0), torch.ones(4))
