"""Conditional GAN: counts, where the label goes, and that it changes what is made."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from torchstone.data.vision.dataset import load_pictures
from torchstone.engine.run import Intervals, fit
from torchstone.metrics.classifier_features import judge
from torchstone.parts.facts import parameters
from torchstone.systems.convolutional import lenet5
from torchstone.systems.generative import cgan
from torchstone.systems.generative.cgan import (
    Critic,
    Generator,
    PaperCritic,
    PaperGenerator,
    shares,
)
from torchstone.systems.generative.gan import lively
from torchstone.tasks.gan import inference

NETS = {
    "generator": (lambda: Generator(5, 3, width=4, size=8), (5,)),
    "critic": (lambda: Critic(3, "layer", width=4, size=8), (1, 8, 8)),
    "paper's generator": (lambda: PaperGenerator(5, 3, 1, 4), (5,)),
    "paper's critic": (lambda: PaperCritic(3, 1, 4), (1, 4, 4)),
}


def test_counts():
    assert parameters(PaperGenerator()) == 2_413_984
    assert parameters(PaperCritic()) == 1_224_351


@pytest.mark.parametrize("name", NETS)
def test_a_label_changes_its_own_picture_and_no_other(name):
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = lively(make()).eval()
    x = torch.rand(4, *shape)
    labels = torch.tensor([0, 1, 2, 0])
    before, after = net(x, labels), net(x, torch.tensor([0, 1, 1, 0]))
    changed = (before - after).flatten(1 if before.ndim > 1 else 0)
    changed = changed.abs().amax(1) if changed.ndim > 1 else changed.abs()
    print(name, changed.tolist())
    assert (changed > 1e-4).tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", NETS)
def test_a_label_is_one_hot_a_mixture_is_given_as_it_is_and_none_is_all_alike(name):
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = lively(make()).eval()
    x, labels = torch.rand(3, *shape), torch.tensor([2, 0, 1])
    assert torch.equal(net(x, labels), net(x, F.one_hot(labels, 3).float()))
    assert torch.equal(net(x), net(x, torch.full((3, 3), 1 / 3)))
    assert not torch.allclose(net(x), net(x, labels), atol=1e-4)
    assert shares(labels, 3, x).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_the_critic_sees_constant_planes_after_the_picture():
    torch.manual_seed(0)
    net = lively(Critic(3, "none", width=4, size=8))
    x, labels = torch.rand(2, 1, 8, 8), torch.tensor([2, 0])
    planes = torch.zeros(2, 3, 8, 8)
    planes[0, 2] = planes[1, 0] = 1
    assert torch.equal(net(x, labels), net.net(torch.cat([x, planes], 1)))


def test_after_some_training_a_classifier_sees_what_was_asked():
    """Not only does the picture change: it becomes the digit asked for, of noise it has not seen."""
    recipe = dataclasses.replace(cgan.RECIPES["smoke"], device="cpu", samples=20, steps=160)
    run = next(cgan.build(recipe))
    fit(run, intervals=Intervals(evaluate=recipe.steps), quiet=True)
    data = load_pictures("digits", size=8, channels=1, device="cpu")
    judging, model = judge(data, lenet5), run.state["ema"].module
    right = []
    for label in range(10):
        labels = torch.full((40,), label)
        made = inference.drawn(model, 40, run.metadata["picture"], labels=labels, seed=77)
        right.append(float((judging.see(made).labels == label).double().mean()))
    print(right)
    assert sum(right) / 10 > 0.4
