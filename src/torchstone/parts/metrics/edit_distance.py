"""How far one sequence is from another."""

from collections.abc import Hashable, Sequence


def edit_distance(said: Sequence[Hashable], meant: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions, as few as there can be, that make one of the other
    (Levenshtein 1966)."""
    row = list(range(len(meant) + 1))  # from the first i of `said` to each beginning of `meant`
    for i, a in enumerate(said, 1):
        before, row = row, [i]
        for j, b in enumerate(meant, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]
