"""Conditional GAN: parameter counts, where the label goes, and that it changes the sample."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from torchstone.data.vision.dataset import load_images
from torchstone.engine.run import Intervals, fit
from torchstone.parts.facts import count_parameters
from torchstone.references import randomize_weights
from torchstone.systems.generative import CLASSIFIER, cgan
from torchstone.systems.generative.cgan import (
    Discriminator,
    Generator,
    PaperDiscriminator,
    PaperGenerator,
    class_weights,
)
from torchstone.tasks.gan import inference
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier

NETS = {
    "generator": (lambda: Generator(5, 3, base_channels=4, size=8), (5,)),
    "discriminator": (lambda: Discriminator(3, "layer", base_channels=4, size=8), (1, 8, 8)),
    "paper's generator": (lambda: PaperGenerator(5, 3, 1, 4), (5,)),
    "paper's discriminator": (lambda: PaperDiscriminator(3, 1, 4), (1, 4, 4)),
}


def test_cgan_paper_parameter_counts():
    assert count_parameters(PaperGenerator()) == 2_413_984
    assert count_parameters(PaperDiscriminator()) == 1_224_351


@pytest.mark.parametrize("name", NETS)
def test_cgan_label_changes_own_image_only(name):
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = randomize_weights(make()).eval()
    x = torch.rand(4, *shape)
    labels = torch.tensor([0, 1, 2, 0])
    before, after = net(x, labels), net(x, torch.tensor([0, 1, 1, 0]))
    changed = (before - after).flatten(1 if before.ndim > 1 else 0)
    changed = changed.abs().amax(1) if changed.ndim > 1 else changed.abs()
    print(name, changed.tolist())
    assert (changed > 1e-4).tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", NETS)
def test_cgan_label_one_hot_mixture_or_uniform(name):
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = randomize_weights(make()).eval()
    x, labels = torch.rand(3, *shape), torch.tensor([2, 0, 1])
    assert torch.equal(net(x, labels), net(x, F.one_hot(labels, 3).float()))
    assert torch.equal(net(x), net(x, torch.full((3, 3), 1 / 3)))
    assert not torch.allclose(net(x), net(x, labels), atol=1e-4)
    assert class_weights(labels, 3, x).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_cgan_discriminator_gets_label_planes():
    torch.manual_seed(0)
    net = randomize_weights(Discriminator(3, "none", base_channels=4, size=8))
    x, labels = torch.rand(2, 1, 8, 8), torch.tensor([2, 0])
    planes = torch.zeros(2, 3, 8, 8)
    planes[0, 2] = planes[1, 0] = 1
    assert torch.equal(net(x, labels), net.net(torch.cat([x, planes], 1)))


@pytest.mark.parametrize("make", [PaperGenerator, PaperDiscriminator])
def test_cgan_paper_loads_old_keys(make):
    names = {"noise_layer": "of_z", "image_layer": "of_x", "label_layer": "of_y", "joint_layer": "both"}
    net, other = make(), make()
    old = {}
    for key, value in net.state_dict().items():
        first, _, rest = key.partition(".")
        old[f"{names.get(first, first)}.{rest}"] = value
    assert old.keys() != net.state_dict().keys()
    other.load_state_dict(old)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.sweep
def test_cgan_samples_are_classified_as_their_label():
    """Not only does the image change: it becomes the digit of the label, from new noise."""
    recipe = dataclasses.replace(cgan.RECIPES["smoke"], device="cpu", eval_samples=20, steps=160)
    run = next(cgan.build(recipe))
    fit(run, intervals=Intervals(evaluate=recipe.steps), quiet=True)
    data = load_images("digits", size=8, channels=1, device="cpu")
    classifier, model = train_or_load_classifier(data, CLASSIFIER), run.state["ema"].module
    right = []
    for label in range(10):
        labels = torch.full((40,), label)
        images = inference.sample_images(model, 40, run.metadata["picture"], labels=labels, seed=77)
        right.append(float((classifier.extract(images).labels == label).double().mean()))
    print(right)
    assert sum(right) / 10 > 0.4
