"""The prior sees the codes before one, all of them and no other, and samples as its probabilities say."""

import itertools

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.vae.gated_pixelcnn import GatedPixelCNN


@pytest.mark.parametrize(("kernel", "layers"), [(3, 6), (5, 5), (7, 4)])
def test_a_code_depends_on_all_codes_before_it_and_on_no_other(kernel, layers):
    torch.manual_seed(0)
    height, width = 4, 5
    net = GatedPixelCNN(3, 6, layers, num_classes=2, kernel=kernel).double()
    codes, labels = torch.randint(3, (1, height, width)), torch.tensor([1])
    base, count = net(codes, labels), height * width
    depends = torch.zeros(count, count, dtype=torch.bool)
    for place in range(count):
        other = codes.clone()
        other.view(-1)[place] = (other.view(-1)[place] + 1) % 3
        depends[:, place] = (net(other, labels) != base).any(1).flatten()
    before = torch.ones(count, count).tril(-1).bool()
    print(f"sees what is not before it: {(depends & ~before).sum()}, misses {(before & ~depends).sum()}")
    assert torch.equal(depends, before)
    assert (net(codes, 1 - labels) != base).any(), "the class is not seen"


def test_samples_follow_the_probabilities():
    """On a grid of four codes every one of the 16 outcomes can be counted."""
    torch.manual_seed(0)
    net = GatedPixelCNN(2, 5, 2, kernel=3).double()
    for parameter in net.parameters():
        parameter.data.mul_(3)
    grids = torch.tensor(list(itertools.product((0, 1), repeat=4))).view(-1, 2, 2)
    log_p = net(grids).log_softmax(1).gather(1, grids[:, None]).sum((1, 2, 3)).detach()
    assert float(log_p.exp().sum()) == pytest.approx(1)
    count = 20_000
    u = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(1))
    drawn = net.sample(u).flatten(1) @ torch.tensor([8, 4, 2, 1])
    share = torch.bincount(drawn, minlength=16) / count
    error = ((share - log_p.exp()) / (log_p.exp() * (1 - log_p.exp()) / count).sqrt()).abs().max()
    print(f"probabilities {log_p.exp().tolist()}, shares {share.tolist()}: {error:.2f} deviations")
    assert error < 4
    assert (log_p.exp().max() - log_p.exp().min()) > 0.02
    cold = net.sample(u[:200], temperature=0.01).flatten(1)
    assert len(cold.unique(dim=0)) < len(net.sample(u[:200]).flatten(1).unique(dim=0))


def test_settings_that_make_no_prior_are_refused():
    with pytest.raises(BadInput, match="an odd kernel"):
        GatedPixelCNN(4, kernel=4)
    with pytest.raises(BadInput, match="takes labels"):
        GatedPixelCNN(4, num_classes=2)(torch.zeros(1, 2, 2, dtype=torch.long))
