"""DLinear against its two sums, one number after another."""

import torch

from torchstone.parts.facts import count_parameters
from torchstone.parts.series.dlinear import KERNEL, DLinear


def test_dlinear_matches_equations():
    context, horizon, columns = 40, 6, 2
    model = DLinear(context, horizon).double()
    past = torch.randn(3, context, columns, dtype=torch.float64)
    ours = model(past)
    assert ours.shape == (3, horizon, columns)
    for row in range(3):
        for column in range(columns):
            x = past[row, :, column].tolist()
            near = range(-(KERNEL // 2), KERNEL // 2 + 1)
            trend = [sum(x[min(max(t + i, 0), context - 1)] for i in near) / KERNEL for t in range(context)]
            for h in range(horizon):
                expected = float(model.trend.bias[h] + model.rest.bias[h])
                for t in range(context):
                    expected += float(model.trend.weight[h, t]) * trend[t]
                    expected += float(model.rest.weight[h, t]) * (x[t] - trend[t])
                assert abs(expected - float(ours[row, h, column])) < 1e-10


def test_dlinear_parameter_count():
    """2 (context · horizon + horizon), as two linear layers have."""
    count = count_parameters(DLinear(720, 96))
    print(count)
    assert count == 2 * (720 * 96 + 96) == 138_432
