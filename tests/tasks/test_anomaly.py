"""How unusual an input is: quantiles, verdicts, and nothing that is not finite passes."""

import pytest
import torch

from torchstone.errors import BadInput, NotFinite
from torchstone.tasks.anomaly import NUM_QUANTILES, check_finite, classify_score, list_files, score_quantiles


def test_quantiles_are_those_of_the_scores():
    scores = torch.randperm(1001).double()
    found = score_quantiles(scores)
    assert len(found) == NUM_QUANTILES + 1
    assert found == [5.0 * i for i in range(NUM_QUANTILES + 1)]
    assert score_quantiles(torch.tensor([3.0, 1.0, 2.0])) == [1, 2, 3]


def test_probability_is_the_share_of_validation_data_that_score_no_higher():
    scores = torch.randn(5000).double()
    known = score_quantiles(scores)
    for score in (-3.0, -1.0, 0.0, 1.0, 3.0):
        said, share = classify_score(score, known), float((scores <= score).double().mean())
        print(f"{score}: {said}, of the scores {share:.4f}")
        assert said["probability"] == pytest.approx(share, abs=0.01)
    assert classify_score(-4.0, known)["label"] == "unusual"
    assert classify_score(-1.0, known)["label"] == "usual"
    assert classify_score(9.0, known) == {"label": "usual", "probability": 1.0}


def test_a_run_that_was_never_evaluated_cannot_tell():
    with pytest.raises(BadInput, match="resume"):
        classify_score(1.0, None)


def test_one_sample_that_is_not_finite_is_an_error():
    rows = torch.randn(5, 2)
    assert check_finite(rows, "samples") is rows
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = rows.clone()
        broken[3, 1] = bad
        with pytest.raises(NotFinite, match="1 of 5 samples are not finite"):
            check_finite(broken, "samples")


def test_folders_stand_for_their_files(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    assert [f.name for f in list_files([tmp_path, tmp_path / "b.png"])] == ["a.png", "b.png", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty folder"):
        list_files([tmp_path / "empty"])
