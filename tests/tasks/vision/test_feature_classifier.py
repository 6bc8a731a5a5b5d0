"""The feature classifier: cached, retrained if its file is damaged, the same bits either way."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.recipe_fields import replace_fields
from torchstone.systems.convolutional import lenet5
from torchstone.systems.generative import cgan, dcgan, ddpm, gan, realnvp, vae
from torchstone.tasks.vision import feature_classifier
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, train_or_load_classifier


@pytest.fixture(scope="module")
def data():
    return load_images("digits", size=8, channels=1, device="cpu")


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """LeNet-5 trained for a few steps, cached in a folder of this test's own."""
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    return ClassifierSpec(lenet5.LeNet5, dataclasses.replace(lenet5.RECIPES["smoke"], steps=4))


def test_train_or_load_classifier_trains_once_and_repairs_cache(data, spec, tmp_path, capsys):
    def load():
        torch.manual_seed(torch.seed() % 2**31)
        classifier = train_or_load_classifier(data, spec)
        weights = torch.cat([p.flatten() for p in classifier.network.parameters()])
        return weights, classifier.accuracy, "training the feature classifier" in capsys.readouterr().err

    first, accuracy, is_trained = load()
    (file,) = (tmp_path / "classifiers").iterdir()
    content = file.read_bytes()
    assert is_trained
    assert 0 < accuracy <= 1
    again, accuracy_, is_trained = load()
    assert (is_trained, accuracy_) == (False, accuracy)
    assert torch.equal(first, again)
    tensors = {n: t.clone() for n, t in load_file(file).items()}  # the file is mapped
    other = {
        n: torch.zeros(3) if i == len(tensors) - 1 else t + 1 for i, (n, t) in enumerate(tensors.items())
    }
    damages = {
        "cut off": lambda: file.write_bytes(content[: len(content) // 2]),
        "empty": lambda: file.write_bytes(b""),
        "gone": file.unlink,
        "without its accuracy": lambda: save_file(tensors, file),
        "of another network": lambda: save_file(other, file, metadata={"accuracy": "1.0"}),
    }
    for name, damage in damages.items():
        damage()
        again, accuracy_, is_trained = load()
        print(f"{name}: trained again {is_trained}, accuracy {accuracy_}")
        assert is_trained, name
        assert accuracy_ == accuracy
        assert torch.equal(first, again), f"{name}: it is another classifier than before"
        assert all(torch.equal(t, tensors[n]) for n, t in load_file(file).items())
    assert list((tmp_path / "classifiers").iterdir()) == [file]


def generators() -> list:
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]


def test_train_or_load_classifier_leaves_global_generators(data, spec):
    rng.seed(5)
    expected = generators()
    for _ in range(2):  # trained, and loaded
        rng.seed(5)
        train_or_load_classifier(data, spec)
        assert generators() == expected


def test_train_or_load_classifier_restores_generators_after_error(data, spec):
    rng.seed(5)
    expected = generators()

    def fail(**_):
        torch.rand(1)
        raise RuntimeError("no network")

    rng.seed(5)
    with pytest.raises(RuntimeError, match="no network"):
        train_or_load_classifier(data, spec._replace(make=fail))
    assert generators() == expected


def test_train_or_load_classifier_same_bits_trained_or_cached(data, spec):
    """Weights in another memory layout are equal, but convolve with other rounding."""
    images = data.test.take(torch.arange(200))
    trained, cached = (train_or_load_classifier(data, spec) for _ in range(2))
    for a, b in zip(trained.network.parameters(), cached.network.parameters(), strict=True):
        assert a.stride() == b.stride()
    a, b = (classifier.extract(images) for classifier in (trained, cached))
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.probabilities, b.probabilities)
    assert not trained.network.training
    assert not any(p.requires_grad for p in trained.network.parameters())


def test_train_or_load_classifier_cache_key_has_images_and_recipe(data, spec, tmp_path):
    train_or_load_classifier(data, spec)
    few = torch.arange(len(data.train) - 1)
    fewer = dataclasses.replace(data, train=type(data.train)(data.train.labels[few], data.train.take(few)))
    train_or_load_classifier(fewer, spec)
    train_or_load_classifier(data, spec._replace(recipe=dataclasses.replace(spec.recipe, steps=5)))
    assert len(list((tmp_path / "classifiers").iterdir())) == 3


def test_train_or_load_classifier_without_writable_cache(data, spec, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "file"))
    assert train_or_load_classifier(data, spec).accuracy > 0
    assert "could not be cached" in capsys.readouterr().err


def test_feature_classifier_is_shared_by_all_generative_systems(monkeypatch):
    files, metrics = set(), {}
    read = feature_classifier._read

    def record(file, network):
        files.add(file.name)
        return read(file, network)

    monkeypatch.setattr(feature_classifier, "_read", record)
    short = {
        gan: {"eval_samples": 8},
        dcgan: {"eval_samples": 8},
        cgan: {"eval_samples": 8},
        vae: {"eval_samples": 40},
        realnvp: {"eval_samples": 40},
        ddpm: {"eval_samples": 40, "guidance_sweep_samples": 0, "timesteps": 5, "sampling_steps": 2},
    }
    for module, fields in short.items():
        recipe = replace_fields(module.RECIPES["smoke"], {"device": "cpu", **fields})
        before = set(files)
        files.clear()
        run = next(module.build(recipe))
        metrics[module.__name__] = set(run.test())
        assert len(files) == 1, f"the samples of {module.__name__} are not evaluated"
        files |= before
    print(files)
    assert len(files) == 1, "not all are evaluated by the same classifier"
    shared = {"frechet_distance", "precision", "recall", "relative_variance", "covered_classes"}
    shared |= {"min_class_share", "confident_rate", "frechet_distance_floor", "frechet_features"}
    shared |= {"frechet_samples", "frechet_images"}
    assert all(shared <= names for names in metrics.values())
