"""Generative models. Samples of all of them are compared in the features of one classifier, a LeNet-5."""

from torchstone.systems.convolutional import lenet5
from torchstone.tasks.vision.feature_classifier import ClassifierSpec

CLASSIFIER = ClassifierSpec(lenet5.LeNet5, lenet5.RECIPES["mnist5k"])
