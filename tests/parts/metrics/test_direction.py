"""Which way a metric is better, by its name: of every metric that a run of ours is known by."""

import pytest

from torchstone.parts.metrics.direction import is_lower_better

LOWER = "loss val/cross_entropy label_error frechet_distance bits_per_character linear_mse kl gap_to_kde mode_collapse"
HIGHER = "accuracy val/return bleu elbo miou exact_match label_accuracy symbol_accuracy confident_rate covered_classes"


@pytest.mark.parametrize("name", LOWER.split() + HIGHER.split())
def test_is_lower_better_of_every_kind_of_metric(name):
    print(name, is_lower_better(name))
    assert is_lower_better(name) == (name in LOWER.split())
