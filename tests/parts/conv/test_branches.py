"""Branches concatenated along the channels."""

import torch
from torch import nn

from torchstone.parts.conv.branches import Branches
from torchstone.verify import relative_error


def test_branches_equal_convolution_with_stacked_filters():
    first, second = (nn.Conv2d(5, maps, 3, padding=1).double() for maps in (4, 7))
    joined = Branches(a=first, b=second)
    whole = nn.Conv2d(5, 11, 3, padding=1).double()
    with torch.no_grad():
        whole.weight.copy_(torch.cat([first.weight, second.weight]))
        whole.bias.copy_(torch.cat([first.bias, second.bias]))  # ty: ignore
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    good = relative_error(joined(x), whole(x))
    bad = relative_error(Branches(b=second, a=first)(x), whole(x))
    print(f"right {good:.1e}, in another order {bad:.1e}")
    assert good < 1e-14 < 1e-2 < bad
    assert list(joined.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
