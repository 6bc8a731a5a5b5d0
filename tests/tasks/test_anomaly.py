"""How unusual an input is: quantiles, verdicts, and nothing that is not finite passes."""

import pytest
import torch

from torchstone.errors import BadInput, NotFinite
from torchstone.tasks.anomaly import QUANTILES, files, finite, usual, verdict


def test_quantiles_are_those_of_the_scores():
    scores = torch.randperm(1001).double()
    found = usual(scores)
    assert len(found) == QUANTILES + 1
    assert found == [5.0 * i for i in range(QUANTILES + 1)]
    assert usual(torch.tensor([3.0, 1.0, 2.0])) == [1, 2, 3]


def test_probability_is_the_share_of_validation_data_that_score_no_higher():
    scores = torch.randn(5000).double()
    known = usual(scores)
    for score in (-3.0, -1.0, 0.0, 1.0, 3.0):
        said, share = verdict(score, known), float((scores <= score).double().mean())
        print(f"{score}: {said}, of the scores {share:.4f}")
        assert said["probability"] == pytest.approx(share, abs=0.01)
    assert verdict(-4.0, known)["label"] == "unusual"
    assert verdict(-1.0, known)["label"] == "usual"
    assert verdict(9.0, known) == {"label": "usual", "probability": 1.0}


def test_a_run_that_was_never_evaluated_cannot_tell():
    with pytest.raises(BadInput, match="resume"):
        verdict(1.0, None)


def test_one_sample_that_is_not_finite_is_an_error():
    rows = torch.randn(5, 2)
    assert finite(rows, "samples") is rows
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = rows.clone()
        broken[3, 1] = bad
        with pytest.raises(NotFinite, match="1 of 5 samples are not finite"):
            finite(broken, "samples")


def test_folders_stand_for_their_files(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    assert [f.name for f in files([tmp_path, tmp_path / "b.png"])] == ["a.png", "b.png", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty folder"):
        files([tmp_path / "empty"])
