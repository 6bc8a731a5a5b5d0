"""Golden bits: every number counts, to the bit and in its order, and no name does."""

import pytest
import torch

from torchstone.tools.golden import digest

TREE = {"a": torch.tensor([1.0, 2.0]), "b": [3, {"c": 0.5}]}


def test_digest_ignores_names():
    assert digest(TREE) == digest({"x": torch.tensor([1.0, 2.0]), "y": [3, {"z": 0.5}]})


@pytest.mark.parametrize(
    "other",
    [
        {
            "a": torch.tensor([1.0, torch.nextafter(torch.tensor(2.0), torch.tensor(3.0))]),
            "b": [3, {"c": 0.5}],
        },
        {"a": torch.tensor([[1.0, 2.0]]), "b": [3, {"c": 0.5}]},
        {"a": torch.tensor([1.0, 2.0]), "b": [3, {"c": 0.5 + 2**-53}]},
        {"b": [3, {"c": 0.5}], "a": torch.tensor([1.0, 2.0])},
    ],
    ids=["a bit", "a shape", "a float", "the order"],
)
def test_digest_tells_a_difference(other):
    assert digest(TREE) != digest(other)
