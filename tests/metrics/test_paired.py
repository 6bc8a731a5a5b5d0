"""Paired differences: interval and test equal scipy's paired t-test."""

import numpy as np
import pytest
from scipy import stats

from torchstone.metrics.paired import margin, p_value


def test_paired_margin_and_p_value_are_those_of_the_paired_t_test():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 7))
    theirs = stats.ttest_rel(first, second)
    interval = theirs.confidence_interval(0.95)
    differences = (first - second).tolist()
    print(f"{margin(differences)} and {p_value(differences)}; scipy {interval}, {theirs.pvalue}")
    assert margin(differences) == pytest.approx((interval.high - interval.low) / 2)
    assert p_value(differences) == pytest.approx(theirs.pvalue)


def test_paired_single_difference_has_neither():
    assert margin([0.3]) is None
    assert p_value([0.3]) is None


def test_paired_equal_differences_are_no_chance_unless_they_are_zero():
    assert p_value([0.5, 0.5, 0.5]) == 0
    assert p_value([0.0, 0.0]) == 1
    assert margin([0.5, 0.5, 0.5]) == pytest.approx(0)
