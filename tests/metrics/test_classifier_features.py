"""Features of the classifier, and the metrics of samples in them."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from torchstone.data.vision.dataset import load_images
from torchstone.metrics import classifier_features
from torchstone.metrics.classifier_features import (
    ClassifierFeatures,
    resize_uint8,
    sample_metrics,
    save_nearest_sheet,
)
from torchstone.parts.indices import evenly_spaced
from torchstone.references.vision import import_torchmetrics
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier


@pytest.fixture(scope="module")
def data():
    return load_images("digits", size=8, channels=1, device="cpu")


def random_features(count: int, seed: int, width: int = 6, classes: int = 4) -> ClassifierFeatures:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator) * (1 + seed)
    return ClassifierFeatures(features, (3 * torch.randn(count, classes, generator=generator)).softmax(1))


class Flat(torch.nn.Module):
    num_features = 6

    def forward(self, images):
        return images.flatten(1).double()


def test_sample_metrics_match_definitions():
    fake, real = random_features(50, 0), random_features(60, 1)
    labels, targets = torch.arange(60) % 3, torch.arange(50) % 4  # no real picture is of class 3
    metrics = sample_metrics(fake, real, labels, targets)
    a, b = (each.features.double() for each in (fake, real))
    covs = [x.T.cov().numpy() for x in (a, b)]
    by_scipy = float((a.mean(0) - b.mean(0)).square().sum()) + float(
        covs[0].trace() + covs[1].trace() - 2 * sqrtm(covs[0] @ covs[1]).real.trace()
    )
    fid = import_torchmetrics().image.fid.FrechetInceptionDistance
    theirs = fid(feature=Flat(), normalize=True).set_dtype(torch.float64)
    theirs.update(real.features.view(-1, 1, 2, 3), real=True)
    theirs.update(fake.features.view(-1, 1, 2, 3), real=False)
    print(metrics["frechet_distance"], by_scipy, float(theirs.compute()))
    assert metrics["frechet_distance"] == pytest.approx(by_scipy, rel=1e-6)
    assert metrics["frechet_distance"] == pytest.approx(float(theirs.compute()), rel=1e-6)
    predicted = [max(range(4), key=lambda k, row=row: row[k]) for row in fake.probabilities.tolist()]
    share = [predicted.count(k) / 50 for k in range(4)]
    assert metrics["min_class_share"] == pytest.approx(min(share[:3]))
    assert metrics["covered_classes"] == sum(share[k] >= 0.1 / 3 for k in range(3))
    confident = sum(max(row) >= 0.95 for row in fake.probabilities.tolist()) / 50
    assert 0.1 < confident < 0.9
    assert metrics["confident_rate"] == pytest.approx(confident)
    right = sum(k == i % 4 for i, k in enumerate(predicted)) / 50
    assert metrics["label_accuracy"] == pytest.approx(right)
    assert metrics["relative_variance"] == pytest.approx(np.trace(covs[0]) / np.trace(covs[1]))
    assert "label_accuracy" not in sample_metrics(fake, real, labels)


def test_sample_metrics_compare_all_classes_of_cycled_labels(monkeypatch):
    """Every other one of them would be of every other class."""
    monkeypatch.setattr(classifier_features, "MAX_COMPARED", 20)
    in_turn, sorted_ = torch.arange(39) % 2, (torch.arange(39) > 19).long()

    def features_of(labels):
        features = labels[:, None] * 10.0 + 0.1 * torch.randn(39, 3)
        return ClassifierFeatures(features, torch.nn.functional.one_hot(labels, 2).float())

    metrics = sample_metrics(features_of(in_turn), features_of(sorted_), sorted_)
    print(metrics)
    assert metrics["recall"] > 0.7
    assert metrics["precision"] > 0.7


def test_feature_classifier_extracts_last_hidden_layer(data):
    classifier = train_or_load_classifier(data, CLASSIFIER)
    images = data.test.take(torch.arange(7))
    of, x = classifier.extract(images), resize_uint8(images, classifier.metadata).float() / 255
    mean, std = (torch.tensor(classifier.metadata[n]).view(1, -1, 1, 1) for n in ("mean", "std"))
    x = (x - mean) / std
    assert torch.allclose(classifier.network(x).softmax(1), of.probabilities, atol=1e-5)
    last = [m for m in classifier.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert of.features.shape == (7, last.in_features)
    assert torch.allclose(last(of.features).softmax(1), of.probabilities, atol=1e-5)
    full, labels = classifier.extract_split(data.test)
    right = (full.labels == labels).double().mean()
    assert classifier.accuracy == pytest.approx(float(right), abs=1e-6)
    assert classifier.accuracy > 0.95
    some, theirs = classifier.extract_split(data.test, 10)
    assert torch.equal(theirs, data.test.labels[evenly_spaced(len(data.test), 10)])
    assert len(some.features) == 10


def test_resize_uint8_pads_ink_and_resizes_photos():
    ink, photo = {"ink": True, "channels": 1}, {"ink": False, "channels": 1}
    x = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    padded = resize_uint8(x, ink)
    assert torch.equal(padded[..., 2:30, 2:30], x)
    assert int(padded.sum()) == int(x.sum())
    assert resize_uint8(x, photo).shape == (2, 1, 32, 32)
    assert resize_uint8(x, photo)[..., 0, :].any()
    assert torch.equal(resize_uint8(padded, photo), padded)


def test_save_nearest_sheet_shows_copy_below_original(data, tmp_path):
    classifier = train_or_load_classifier(data, CLASSIFIER)
    index = torch.tensor([5, 300, 41, 7])
    copies = data.train.take(index)
    with Image.open(
        save_nearest_sheet(classifier, copies, data.train, tmp_path / "n.png", columns=4)
    ) as image:
        sheet = np.asarray(image)
    height = (sheet.shape[0] - 2) // 2
    assert (sheet[2 : height + 2] == sheet[height + 2 :]).all(), "a copy is shown beside its original"
    assert sheet.std() > 10
