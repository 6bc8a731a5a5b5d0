"""Sampling from a generator: which noise, which label, and nothing that is not finite."""

import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.errors import BadInput, NotFinite
from torchstone.plots.sample_grid import unit_range
from torchstone.tasks.gan import inference

PICTURE = unit_range({"size": 4, "channels": 1, "ink": True})


class ToyGenerator(nn.Module):
    """Images of 4 × 4, as bright as their label; batch norm would let them depend on each other."""

    def __init__(self, num_classes: int = 0):
        super().__init__()
        self.latent_dim, self.num_classes = 3, num_classes
        self.layer, self.norm = nn.Linear(3, 16), nn.BatchNorm1d(16)

    def forward(self, z, labels=None):
        images = 0.01 * torch.tanh(self.norm(self.layer(z))).view(-1, 1, 4, 4) + 0.5
        return images if labels is None else images * 0 + labels.view(-1, 1, 1, 1) / self.num_classes


def test_sample_images_depends_on_own_noise_only(monkeypatch):
    model = ToyGenerator().train()
    together = inference.sample_images(model, 9, PICTURE, seed=4)
    monkeypatch.setattr(inference, "CHUNK_SIZE", 2)
    assert torch.equal(inference.sample_images(model, 9, PICTURE, seed=4), together)
    assert not torch.equal(inference.sample_images(model, 9, PICTURE, seed=5), together)
    assert model.training
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(4))
    by_hand = (model.eval()(z) * 255).round().byte()
    assert torch.equal(together, by_hand)


def test_sample_cycles_labels_or_uses_given_one(tmp_path):
    model, metadata = ToyGenerator(5), {"variant": "maker", "classes": list("abcde"), "picture": PICTURE}
    images = torch.stack(inference.sample(model, metadata, num_samples=7))
    assert images[:, 0, 0, 0].tolist() == [round(i % 5 / 5 * 255) for i in range(7)]
    of_label = torch.stack(inference.sample(model, metadata, num_samples=3, label="d"))
    assert of_label.unique().tolist() == [153]
    (name,) = inference.sample(model, metadata, num_samples=10, out=tmp_path / "sheet.png")
    assert Image.open(name).size == (5 * 50 + 2, 2 * 50 + 2)
    for options, message in (({"label": "f"}, "no label 'f'"), ({"num_samples": 0}, "at least 1")):
        with pytest.raises(BadInput, match=message):
            inference.sample(model, metadata, **options)
    with pytest.raises(BadInput, match="takes no label"):
        inference.sample(ToyGenerator(), metadata | {"variant": "gan"}, label="a")


def test_sample_images_raises_when_not_finite():
    model = ToyGenerator()
    with torch.no_grad():
        model.layer.bias[3] = float("nan")
    with pytest.raises(NotFinite, match="not finite"):
        inference.sample_images(model, 4, PICTURE)
