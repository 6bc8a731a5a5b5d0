import math

import torch

from torchstone.parts.masked import masked_mean


def test_masked_mean_leaves_out_what_is_not_there():
    mask = torch.tensor([[True, False, True]])
    x = torch.tensor([[1.0, math.nan, 4.0]], requires_grad=True)
    mean = masked_mean(x, mask)
    (gradient,) = torch.autograd.grad(mean, x)
    print(f"mean {mean.item()}, gradient {gradient.tolist()}")
    assert mean == 2.5
    assert gradient.tolist() == [[0.5, 0.0, 0.5]]


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 0
