"""Faults that are planted in a process of its own, for laws 2 and 5."""

import torch

from torchstone.data.vision import batches
from torchstone.systems.convolutional import lenet5


def _forgets(name: str) -> None:
    plain = lenet5.train_classifier

    def train_classifier(*args, **kwargs):
        run = plain(*args, **kwargs)
        del run.state[name]
        return run

    lenet5.train_classifier = train_classifier


def stream_not_kept() -> None:
    """The order of the data starts anew on resuming."""
    _forgets("stream")


def optimizer_not_kept() -> None:
    """The moments start from zero on resuming."""
    _forgets("optimizer")


def augmentation_not_registered() -> None:
    """A generator that goes on from batch to batch, and is in no state."""

    def draw(self, *_):
        if not hasattr(self, "generator"):
            self.generator = torch.Generator().manual_seed(self.seed)
        return lambda *shape: torch.rand(self.batch_size, *shape, generator=self.generator)

    batches.ImageBatches._draw = draw


def branch_on_the_data() -> None:
    """One graph cannot hold it."""
    plain = lenet5.LeNet5.forward

    def forward(self, images):
        return plain(self, images if images.sum() > 0 else -images)

    lenet5.LeNet5.forward = forward


def another_path_when_compiled() -> None:
    plain = lenet5.LeNet5.forward

    def forward(self, images):
        return plain(self, images) * (1.001 if torch.compiler.is_compiling() else 1)

    lenet5.LeNet5.forward = forward
