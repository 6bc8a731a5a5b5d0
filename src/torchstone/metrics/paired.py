"""The mean of paired differences: its interval and its test, by Student's t.

Gosset 1908 ("Student", The probable error of a mean, Biometrika 6): of n differences with the mean d and the
standard error s, d / s has the t distribution with n − 1 degrees of freedom if the true mean is zero and the
differences are normal.
"""

from collections.abc import Sequence


def margin(differences: Sequence[float], level: float = 0.95) -> float | None:
    """Half of the interval of the mean; None of a single difference."""
    from scipy.stats import sem, t

    count = len(differences)
    return None if count < 2 else float(t.ppf((1 + level) / 2, count - 1) * sem(differences))


def p_value(differences: Sequence[float]) -> float | None:
    """Of a mean at least as far from zero, on either side, if the true mean were zero; None of a single
    difference. Differences that are all alike have no spread to test against: 1 if they are zero, else 0."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2:
        return None
    if len(set(differences)) == 1:
        return float(differences[0] == 0)
    return float(ttest_1samp(differences, 0.0).pvalue)
