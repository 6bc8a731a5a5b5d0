"""The judge: kept, made again where its file is not whole, one for all families; and what it measures."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm

from torchstone import references
from torchstone.data.vision.dataset import load_images
from torchstone.metrics import classifier_features
from torchstone.metrics.classifier_features import Seen, beside, compared, fitted, judge, spread
from torchstone.systems.convolutional import lenet5
from torchstone.systems.generative import cgan, dcgan, ddpm, gan, realnvp, vae


@pytest.fixture(scope="module")
def data():
    return load_images("digits", size=8, channels=1, device="cpu")


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """LeNet-5 for a moment, kept in a folder of this test's own."""
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    recipe = dataclasses.replace(lenet5.RECIPES["smoke"], steps=4)
    return SimpleNamespace(RECIPES={"quick": recipe}, VARIANTS=lenet5.VARIANTS)


def test_the_judge_is_trained_once_and_again_where_its_file_is_not_whole(data, quick, tmp_path, capsys):
    def made():
        torch.manual_seed(torch.seed() % 2**31)
        judging = judge(data, quick)
        weights = torch.cat([p.flatten() for p in judging.network.parameters()])
        return weights, judging.accuracy, "training the judge" in capsys.readouterr().err

    first, accuracy, trained = made()
    (file,) = (tmp_path / "judges").iterdir()
    whole = file.read_bytes()
    assert trained
    assert 0 < accuracy <= 1
    again, accuracy_, trained = made()
    assert (trained, accuracy_) == (False, accuracy)
    assert torch.equal(first, again)
    tensors = {n: t.clone() for n, t in load_file(file).items()}  # the file is mapped
    other = {n: torch.zeros(3) if i == len(tensors) - 1 else t + 1
             for i, (n, t) in enumerate(tensors.items())}  # fmt: skip
    damages = {
        "cut off": lambda: file.write_bytes(whole[: len(whole) // 2]),
        "empty": lambda: file.write_bytes(b""),
        "gone": file.unlink,
        "without its accuracy": lambda: save_file(tensors, file),
        "of another network": lambda: save_file(other, file, metadata={"accuracy": "1.0"}),
    }
    for name, damage in damages.items():
        damage()
        again, accuracy_, trained = made()
        print(f"{name}: trained again {trained}, accuracy {accuracy_}")
        assert trained, name
        assert accuracy_ == accuracy
        assert torch.equal(first, again), f"{name}: it is another judge than before"
        assert all(torch.equal(t, tensors[n]) for n, t in load_file(file).items())
    assert list((tmp_path / "judges").iterdir()) == [file]


def test_a_run_s_numbers_do_not_depend_on_whether_there_was_a_judge(data, quick):
    for _ in range(2):  # trained, and read
        torch.manual_seed(5)
        judge(data, quick)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_other_pictures_or_another_recipe_have_a_judge_of_their_own(data, quick, tmp_path):
    judge(data, quick)
    few = torch.arange(len(data.train) - 1)
    fewer = dataclasses.replace(data, train=type(data.train)(data.train.labels[few], data.train.take(few)))
    judge(fewer, quick)
    longer = dataclasses.replace(quick.RECIPES["quick"], steps=5)
    judge(data, SimpleNamespace(RECIPES={"x": longer}, VARIANTS=lenet5.VARIANTS))
    assert len(list((tmp_path / "judges").iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_no_end(data, quick, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "file"))
    assert judge(data, quick).accuracy > 0
    assert "could not be kept" in capsys.readouterr().err


def test_one_judge_and_one_measure_for_all_four_families(monkeypatch):
    asked, figures = set(), {}
    plain = classifier_features._read

    def read(file, network):
        asked.add(file.name)
        return plain(file, network)

    monkeypatch.setattr(classifier_features, "_read", read)
    short = {
        gan: {"samples": 8}, dcgan: {"samples": 8}, cgan: {"samples": 8}, vae: {"judged": 40},
        realnvp: {"judged": 40}, ddpm: {"judged": 40, "surveyed": 0, "levels": 5, "sampled": 2},
    }  # fmt: skip
    for module, fields in short.items():
        known = {n: v for n, v in fields.items() if hasattr(module.RECIPES["smoke"], n)}
        recipe = dataclasses.replace(module.RECIPES["smoke"], device="cpu", **known)
        before = set(asked)
        asked.clear()
        run = next(module.build(recipe))
        figures[module.__name__] = set(run.test())
        assert len(asked) == 1, f"{module.__name__} is not judged"
        asked |= before
    print(asked)
    assert len(asked) == 1, "not all are judged by the same"
    shared = {"distance", "precision", "recall", "variety", "modes", "least_share", "confident"}
    assert all(shared <= names for names in figures.values())


def seen(count: int, seed: int, width: int = 6, classes: int = 4) -> Seen:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator) * (1 + seed)
    return Seen(features, (3 * torch.randn(count, classes, generator=generator)).softmax(1))


class Flat(torch.nn.Module):
    num_features = 6

    def forward(self, pictures):
        return pictures.flatten(1).double()


def test_the_figures_are_what_they_are_called():
    made, real = seen(50, 0), seen(60, 1)
    labels, asked = torch.arange(60) % 3, torch.arange(50) % 4  # no real picture is of class 3
    found = compared(made, real, labels, asked)
    a, b = (each.features.double() for each in (made, real))
    covs = [x.T.cov().numpy() for x in (a, b)]
    by_scipy = float((a.mean(0) - b.mean(0)).square().sum()) + float(
        covs[0].trace() + covs[1].trace() - 2 * sqrtm(covs[0] @ covs[1]).real.trace()
    )
    fid = references.torchmetrics().image.fid.FrechetInceptionDistance
    theirs = fid(feature=Flat(), normalize=True).set_dtype(torch.float64)
    theirs.update(real.features.view(-1, 1, 2, 3), real=True)
    theirs.update(made.features.view(-1, 1, 2, 3), real=False)
    print(found["distance"], by_scipy, float(theirs.compute()))
    assert found["distance"] == pytest.approx(by_scipy, rel=1e-6)
    assert found["distance"] == pytest.approx(float(theirs.compute()), rel=1e-6)
    said = [max(range(4), key=lambda k, row=row: row[k]) for row in made.chances.tolist()]
    share = [said.count(k) / 50 for k in range(4)]
    assert found["least_share"] == pytest.approx(min(share[:3]))
    assert found["modes"] == sum(share[k] >= 0.1 / 3 for k in range(3))
    confident = sum(max(row) >= 0.95 for row in made.chances.tolist()) / 50
    assert 0.1 < confident < 0.9
    assert found["confident"] == pytest.approx(confident)
    right = sum(k == i % 4 for i, k in enumerate(said)) / 50
    assert found["agreement"] == pytest.approx(right)
    assert found["variety"] == pytest.approx(np.trace(covs[0]) / np.trace(covs[1]))
    assert "agreement" not in compared(made, real, labels)


def test_samples_whose_labels_come_in_turn_are_compared_in_all_classes(monkeypatch):
    """Every other one of them would be of every other class."""
    monkeypatch.setattr(classifier_features, "SEEN", 20)
    in_turn, sorted_ = torch.arange(39) % 2, (torch.arange(39) > 19).long()

    def told(labels):
        features = labels[:, None] * 10.0 + 0.1 * torch.randn(39, 3)
        return Seen(features, torch.nn.functional.one_hot(labels, 2).float())

    found = compared(told(in_turn), told(sorted_), sorted_)
    print(found)
    assert found["recall"] > 0.7
    assert found["precision"] > 0.7


def test_the_judge_sees_the_last_hidden_layer_and_the_chances(data):
    judging = judge(data, lenet5)
    pictures = data.test.take(torch.arange(7))
    of, x = judging.see(pictures), fitted(pictures, judging.metadata).float() / 255
    mean, std = (torch.tensor(judging.metadata[n]).view(1, -1, 1, 1) for n in ("mean", "std"))
    x = (x - mean) / std
    assert torch.allclose(judging.network(x).softmax(1), of.chances, atol=1e-5)
    last = [m for m in judging.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert of.features.shape == (7, last.in_features)
    assert torch.allclose(last(of.features).softmax(1), of.chances, atol=1e-5)
    whole, labels = judging.see_split(data.test)
    right = (whole.labels == labels).double().mean()
    assert judging.accuracy == pytest.approx(float(right), abs=1e-6)
    assert judging.accuracy > 0.95
    some, theirs = judging.see_split(data.test, 10)
    assert torch.equal(theirs, data.test.labels[spread(len(data.test), 10)])
    assert len(some.features) == 10


def test_pictures_are_fitted_to_the_judge():
    ink, photo = {"ink": True, "channels": 1}, {"ink": False, "channels": 1}
    x = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    padded = fitted(x, ink)
    assert torch.equal(padded[..., 2:30, 2:30], x)
    assert int(padded.sum()) == int(x.sum())
    assert fitted(x, photo).shape == (2, 1, 32, 32)
    assert fitted(x, photo)[..., 0, :].any()
    assert torch.equal(fitted(padded, photo), padded)


def test_beside_each_sample_is_the_training_picture_nearest_to_it(data, tmp_path):
    judging = judge(data, lenet5)
    places = torch.tensor([5, 300, 41, 7])
    copies = data.train.take(places)
    with Image.open(beside(judging, copies, data.train, tmp_path / "n.png", columns=4)) as image:
        sheet = np.asarray(image)
    height = (sheet.shape[0] - 2) // 2
    assert (sheet[2 : height + 2] == sheet[height + 2 :]).all(), "a copy is shown beside its original"
    assert sheet.std() > 10
