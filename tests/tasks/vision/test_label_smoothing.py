"""Label smoothing of image classifiers against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from torchstone.runs.recipes import recipe_of
from torchstone.tasks.vision.classify import smooth_labels


def test_smoothed_labels_are_those_of_cross_entropy():
    """torch's own `label_smoothing`, of labels and of probabilities; zero leaves the labels alone."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 5
    mixed = torch.rand(6, 5, dtype=torch.float64).softmax(1)
    for target in (labels, mixed):
        found = F.cross_entropy(logits, smooth_labels(target, 5, 0.3).double())
        expected = F.cross_entropy(logits, target, label_smoothing=0.3)
        assert float(found) == pytest.approx(float(expected), abs=1e-7)


def test_label_smoothing_is_of_the_training_loss_alone():
    """A batch's loss is that of smoothed labels; validation's has hard ones."""
    losses = {}
    for smoothing in (0.0, 0.4):
        entry, _, recipe = recipe_of("lenet5/smoke", {"label_smoothing": smoothing, "device": "cpu"})
        run = next(iter(entry.module().build(recipe)))
        validation = run.evaluate()["loss"]
        images, labels = next(run.stream)
        torch.manual_seed(0)
        expected = F.cross_entropy(run.state["model"](images), labels, label_smoothing=smoothing)
        torch.manual_seed(0)
        losses[smoothing] = validation, float(run.update((images, labels))["loss"]), expected.item()
    print(losses)
    assert losses[0.0][0] == losses[0.4][0]
    assert all(loss == pytest.approx(expected, rel=1e-5) for _, loss, expected in losses.values())
    assert losses[0.0][1] != losses[0.4][1]
