"""The edit distance of words and lists, in both directions."""

import pytest

from torchstone.parts.metrics.edit_distance import edit_distance


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2),
     ("abab", "baba", 2)],
)  # fmt: skip
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance
    assert edit_distance(list(a), list(a)) == 0
