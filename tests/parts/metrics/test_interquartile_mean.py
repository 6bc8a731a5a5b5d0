"""Interquartile mean and its interval: scipy's."""

import numpy as np
import pytest
from scipy import stats

from torchstone.parts.metrics.interquartile_mean import interquartile_mean, interval


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_interquartile_mean_equals_scipy_trim_mean(count):
    values = np.random.default_rng(count).normal(size=(count, 6)) ** 3
    ours, theirs = interquartile_mean(values), stats.trim_mean(values, 0.25)
    print(count, ours, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_interquartile_mean_ignores_an_outlier():
    assert interquartile_mean(np.array([500.0, 500, 500, 500, 9])) == 500


def test_interval_equals_scipy_bootstrap():
    values = np.random.default_rng(5).normal(size=(9, 2)) + np.array([0.0, 10.0])
    low, high = interval(values, 0.9)
    for column in range(2):
        theirs = stats.bootstrap(
            (values[:, column],),
            lambda x, axis: stats.trim_mean(x, 0.25, axis),
            method="percentile",
            confidence_level=0.9,
            n_resamples=4000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        print(low[column], high[column], theirs)
        assert low[column] == pytest.approx(theirs.low, abs=0.06)
        assert high[column] == pytest.approx(theirs.high, abs=0.06)
    assert [each.shape for each in interval(values[:, 0])] == [(), ()]
