"""Segmentation: loss and metrics against plain loops, prediction and plots."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from torchstone.data.vision.segmentation import SegmentationSplit
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput
from torchstone.metrics.segmentation import (
    class_iou,
    confusion_matrix,
    evaluate_splits,
    iou_metrics,
    named_ious,
)
from torchstone.plots import segmentation_masks
from torchstone.systems.convolutional import deeplab
from torchstone.systems.convolutional.deeplab import loss
from torchstone.tasks.vision.segment import evaluate, explain, predict


def random_masks(count=5, classes=4):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes - 1, (count, 6, 7), generator=generator)
    labels[:, :2, :2] = IGNORE_INDEX
    guesses = torch.randint(0, classes - 1, (count, 6, 7), generator=generator)
    return guesses, labels


def test_iou_metrics_equal_definition():
    """Intersection over union of all pictures' pixels together, class by class, in loops."""
    guesses, labels = random_masks()
    wanted = []
    for c in range(4):
        both = either = 0
        for g, y in zip(guesses.flatten().tolist(), labels.flatten().tolist(), strict=True):
            if y != IGNORE_INDEX:
                both += g == c and y == c
                either += g == c or y == c
        wanted.append(both / either if either else math.nan)
    found = class_iou(confusion_matrix(guesses, labels, 4)).tolist()
    print(found, wanted)
    assert math.isnan(found[3])
    assert math.isnan(wanted[3])
    assert found[:3] == pytest.approx(wanted[:3], abs=1e-15)
    said = iou_metrics(confusion_matrix(guesses, labels, 4))
    known = labels != IGNORE_INDEX
    assert said["miou"] == pytest.approx(sum(wanted[:3]) / 3)
    assert said["pixel_accuracy"] == pytest.approx((guesses == labels)[known].double().mean().item())


def test_iou_metrics_one_class_or_none_is_refused():
    """A network that always predicts the only class that is labelled would score 1."""
    one, void = torch.zeros(3, 6, 6, dtype=torch.int64), torch.full((3, 6, 6), IGNORE_INDEX)
    for labels, said in ((one, "one class only"), (void, "all void")):
        with pytest.raises(BadInput, match=said) as caught:
            iou_metrics(confusion_matrix(one, labels, 2))
        print(caught.value)


def test_named_ious_are_those_that_the_mean_is_over():
    guesses, labels = random_masks()
    matrix = confusion_matrix(guesses, labels, 4)
    said = named_ious(matrix, ["sky", "house", "grass", "river"])
    print(said)
    assert list(said) == ["iou_sky", "iou_house", "iou_grass", "classes"]
    assert said["classes"] == 3
    assert sum(list(said.values())[:3]) / 3 == pytest.approx(iou_metrics(matrix)["miou"])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_segment_void_batch_changes_nothing(accumulate):
    """Void pixels have no loss: neither NaN nor a step, whole or in micro-batches."""
    recipe = dataclasses.replace(deeplab.RECIPES["smoke"], batch_size=8)
    optim = dataclasses.replace(
        recipe.optim, grad_accum_steps=accumulate, optimizer="sgd", momentum=0.0, weight_decay=0.0
    )
    run = next(deeplab.build(dataclasses.replace(recipe, optim=optim)))
    model = run.state["model"].eval()
    images, labels = next(run.stream)
    before = [p.detach().clone() for p in model.parameters()]
    metrics = run.update((images, torch.full_like(labels, IGNORE_INDEX)))
    print({name: float(value) for name, value in metrics.items()})
    assert float(metrics["loss"]) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_evaluate_splits_independent_of_batch_size():
    torch.manual_seed(0)
    model = deeplab.small_segmenter(4).eval()
    pictures = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    labels = torch.randint(0, 4, (7, 16, 16), dtype=torch.uint8)
    labels[0] = IGNORE_INDEX
    split = SegmentationSplit((pictures, labels), torch.device("cpu"))
    metadata = {"mean": [0.5] * 3, "std": [0.2] * 3}
    whole, mean = evaluate_splits(model, [split], metadata, 4)
    parts, mean_ = evaluate_splits(model, [split], metadata, 4, batch_size=3)
    assert torch.equal(whole, parts)
    assert whole.sum() == 6 * 256
    assert mean == pytest.approx(mean_, rel=1e-6)
    logits = model((pictures / 255 - 0.5) / 0.2)
    wanted = functional.cross_entropy(logits[1:], labels[1:].long()).item()
    print(mean, wanted)
    assert mean == pytest.approx(wanted, rel=1e-5)


def test_loss_ignores_unlabeled_and_weights_auxiliary():
    logits, heard = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4))
    labels[0, :2] = IGNORE_INDEX

    def by_hand(x):
        chances = x.log_softmax(1)
        rows = [
            -chances[b, labels[b, i, j], i, j]
            for b in range(2)
            for i in range(4)
            for j in range(4)
            if labels[b, i, j] != IGNORE_INDEX
        ]
        return torch.stack(rows).mean()

    torch.testing.assert_close(loss(logits, labels), by_hand(logits))
    wanted = by_hand(logits) + 0.5 * by_hand(heard)
    torch.testing.assert_close(loss((logits, heard), labels), wanted)


def test_grad_accum_weights_by_labeled_pixels():
    """The mean is over labelled pixels: micro-batches must weigh by theirs."""
    recipe = dataclasses.replace(deeplab.RECIPES["smoke"], batch_size=8)
    gradients = []
    for accumulate in (1, 4):
        optim = dataclasses.replace(recipe.optim, grad_accum_steps=accumulate)
        run = next(deeplab.build(dataclasses.replace(recipe, optim=optim)))
        model = run.state["model"].eval()  # else batch norm would see other batches
        images, labels = next(run.stream)
        labels = labels.clone()
        labels[:3, :12] = IGNORE_INDEX
        assert isinstance(run.update, GradientUpdate)
        run.update((images, labels))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    apart = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    print(apart)
    assert apart < 1e-4


@pytest.fixture(scope="module")
def trained():
    """The smoke recipe, trained; its model, metadata and data."""
    run = next(deeplab.build(deeplab.RECIPES["smoke"]))
    for _ in range(run.steps):
        run.update(next(run.stream))
    return run, run.state["model"].eval(), run.metadata


@pytest.fixture
def pictures(tmp_path, trained):
    from sklearn.datasets import load_digits

    data, target = load_digits(n_class=3, return_X_y=True)
    files = []
    for digit in range(3):
        grey = (data[target == digit][5].reshape(8, 8) * 15.9).astype(np.uint8)
        files.append(tmp_path / f"{digit}.png")
        Image.fromarray(grey).resize((40, 40)).save(files[-1])
    return files


def test_predict_image_files(trained, pictures, tmp_path):
    _, model, metadata = trained
    answers = predict(model, metadata, pictures)
    print([(a["label"], a["mean_probability"]) for a in answers])
    assert sum(a["label"] == str(digit) for digit, a in enumerate(answers)) >= 2
    for answer in answers:
        assert sum(answer["shares"].values()) == pytest.approx(1)
        assert list(answer["shares"]) == metadata["classes"]
        assert 0.25 < answer["mean_probability"] <= 1
        foreground = {k: v for k, v in answer["shares"].items() if k != "background"}
        assert answer["label"] == max(foreground, key=foreground.get)
        assert answer["share"] == answer["shares"][answer["label"]]
    assert predict(model, metadata, [tmp_path]) == answers
    blank = tmp_path / "blank.png"
    Image.new("RGB", (30, 20), "black").save(blank)
    (said,) = predict(model, metadata, [blank])
    assert said["label"] == "background"
    with pytest.raises(BadInput, match="does not exist"):
        predict(model, metadata, [tmp_path / "none.png"])


def test_report_and_explain_plot_masks(trained, pictures, tmp_path):
    run, model, metadata = trained
    run.report(tmp_path / "pictures")
    explain(model, metadata, pictures[:1], tmp_path / "one.png")
    explain(model, metadata, pictures, tmp_path / "three.png")
    for file in ("pictures/masks.png", "one.png", "three.png"):
        with Image.open(tmp_path / file) as image:
            print(file, image.size)
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_overlay_mask_outside_background():
    picture = np.full((4, 4, 3), 100, np.uint8)
    mask = torch.zeros(4, 4, dtype=torch.int64)
    mask[1, 2] = 2
    drawn = segmentation_masks.overlay_mask(picture, mask, 3)
    assert np.allclose(drawn[mask.numpy() == 0], 100 / 255)
    assert np.allclose(drawn[1, 2], 0.45 * 100 / 255 + 0.55 * segmentation_masks.class_colors(3)[2])


@pytest.mark.parametrize("count", [2, 9, 21, 150])
def test_class_colors_are_distinct(count):
    found = segmentation_masks.class_colors(count)
    assert found.shape == (count, 3)
    assert len(np.unique(found.round(4), axis=0)) == count
    assert ((found >= 0) & (found <= 1)).all()


def test_evaluate_per_class_and_rejects_other_classes(trained, tmp_path):
    _, model, metadata = trained
    found = evaluate(model, metadata, "digits", held_out=True)
    print(found)
    classes = [found[f"iou_{name}"] for name in metadata["classes"]]
    assert found["miou"] == pytest.approx(sum(classes) / len(classes))
    assert found["images"] < evaluate(model, metadata, "digits", held_out=False)["images"]
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for i in range(4):
            noise = np.random.RandomState(i).randint(0, 2, (16, 16)).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / kind / f"{i}.png")
    with pytest.raises(BadInput, match="class 1"):
        evaluate(model, metadata, str(tmp_path), held_out=False)
