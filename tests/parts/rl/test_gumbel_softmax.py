"""Gumbel-softmax against torch's with the same noise, and samples against the softmax."""

import pytest
import torch

from torchstone.parts.rl.gumbel_softmax import gumbel_noise, gumbel_softmax


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_equal_to_torch(hard, temperature):
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.manual_seed(5)
    theirs = torch.nn.functional.gumbel_softmax(logits, temperature, hard=hard)
    torch.manual_seed(5)
    noise = -torch.empty_like(logits).exponential_().log()
    ours = gumbel_softmax(logits, noise, temperature, hard=hard)
    assert torch.allclose(ours, theirs, atol=1e-6)
    weight = torch.randn(50, 4)
    a, b = (torch.autograd.grad((y * weight).sum(), logits)[0] for y in (ours, theirs))
    assert torch.allclose(a, b, atol=1e-6)
    assert a.abs().sum() > 0


def test_samples_have_the_softmax_s_shares():
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    noise = gumbel_noise((20_000, 4), torch.Generator().manual_seed(0))
    share = gumbel_softmax(logits.expand(20_000, -1), noise).mean(0)
    print(share)
    assert torch.allclose(share, logits.softmax(0), atol=0.01)
    assert share[3] == 0
    assert torch.equal(noise, gumbel_noise((20_000, 4), torch.Generator().manual_seed(0)))
