"""Piecewise-linear encoding against its definition, number by number."""

import itertools

import numpy as np
import pytest
import torch

from torchstone.parts.tabular.piecewise_linear import PiecewiseLinear

EDGES = [[-1.0, 0.0, 0.5, 4.0], [2.0], [10.0, 20.0]]


def test_piecewise_linear_is_its_definition():
    x = torch.tensor([[-3.0, 0.0, 15.0], [0.25, 9.0, 5.0], [2.0, 1.0, 25.0], [0.0, 1.0, 10.0]])
    found = PiecewiseLinear(EDGES)(x)
    for row, values in enumerate(x.tolist()):
        expected = []
        for value, edges in zip(values, EDGES, strict=True):
            for low, high in itertools.pairwise(edges):
                expected.append(min(max((value - low) / (high - low), 0.0), 1.0))
        print(values, found[row].tolist())
        assert found[row].tolist() == pytest.approx(expected)


def test_piecewise_linear_spans_all_functions_with_kinks_at_the_edges():
    """A linear layer after it fits any such function exactly; the number itself does not."""
    edges = [-2.0, -0.5, 0.3, 1.7, 3.0]
    x = torch.linspace(-2, 3, 200, dtype=torch.float64)[:, None]
    y = torch.from_numpy(np.interp(x[:, 0].numpy(), edges, [1.0, -2.0, 0.5, 3.0, -1.0]))

    def error(inputs):
        design = torch.cat([inputs.double(), torch.ones(200, 1, dtype=torch.float64)], 1)
        return float((design @ torch.linalg.lstsq(design, y[:, None]).solution - y[:, None]).abs().max())

    encoded = PiecewiseLinear([edges]).double()(x)
    print(f"encoded {error(encoded):.1e}, plain {error(x):.2f}")
    assert error(encoded) < 1e-6
    assert error(x) > 0.5
