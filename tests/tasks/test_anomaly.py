"""Anomaly scores: quantiles, classification, and nothing that is not finite passes."""

import pytest
import torch

from torchstone.errors import BadInput, NotFinite
from torchstone.tasks.anomaly import NUM_QUANTILES, check_finite, classify_score, score_quantiles


def test_score_quantiles_match_scores():
    scores = torch.randperm(1001).double()
    quantiles = score_quantiles(scores)
    assert len(quantiles) == NUM_QUANTILES + 1
    assert quantiles == [5.0 * i for i in range(NUM_QUANTILES + 1)]
    assert score_quantiles(torch.tensor([3.0, 1.0, 2.0])) == [1, 2, 3]


def test_classify_score_gives_validation_rank():
    scores = torch.randn(5000).double()
    quantiles = score_quantiles(scores)
    for score in (-3.0, -1.0, 0.0, 1.0, 3.0):
        verdict, fraction = classify_score(score, quantiles), float((scores <= score).double().mean())
        print(f"{score}: {verdict}, of the scores {fraction:.4f}")
        assert verdict["validation_rank"] == pytest.approx(fraction, abs=0.01)
    assert classify_score(-4.0, quantiles)["label"] == "unusual"
    assert classify_score(-1.0, quantiles)["label"] == "usual"
    assert classify_score(9.0, quantiles) == {"label": "usual", "validation_rank": 1.0}


def test_classify_score_without_quantiles_raises():
    with pytest.raises(BadInput, match="resume"):
        classify_score(1.0, None)


def test_check_finite_raises_on_any_row():
    rows = torch.randn(5, 2)
    assert check_finite(rows, "samples") is rows
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = rows.clone()
        broken[3, 1] = bad
        with pytest.raises(NotFinite, match="1 of 5 samples are not finite"):
            check_finite(broken, "samples")
