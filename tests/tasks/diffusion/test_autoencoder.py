"""The first stage of latent diffusion: its loss, the latents for the second, and what it measures."""

import math
from types import SimpleNamespace

import pytest
import torch

from torchstone.data.vision.dataset import ImageSplit, load_images, normalize
from torchstone.data.vision.latent_batches import AutoencoderBatch, LatentBatches, Moments
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.vae.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from torchstone.plots.sample_grid import symmetric_range
from torchstone.tasks.diffusion.autoencoder import (
    autoencoder_loss,
    check_side,
    encode_split,
    latent_batches,
    latent_std,
    reconstruction_metrics,
    train_autoencoder,
)

CONFIG = KLAutoencoderConfig(widths=(8, 8), depth=1, groups=4, channels=1, latent_channels=2)
RECIPE = SimpleNamespace(
    autoencoder_steps=5,
    autoencoder_lr=1e-3,
    kl_weight=1e-6,
    batch_size=16,
    augment="none",
    optim=OptimConfig(),
    seed=0,
)


@pytest.fixture(scope="module")
def data():
    return load_images("digits", size=8, channels=1)


def autoencoder():
    torch.manual_seed(1)
    return KLAutoencoder(CONFIG)


def test_loss_is_the_papers_sums_divided_by_the_numbers_of_an_image():
    net, x, epsilon = autoencoder(), torch.randn(3, 1, 8, 8), torch.randn(3, 2, 4, 4)
    found = autoencoder_loss(net, AutoencoderBatch(x, epsilon), 0.1)
    reconstruction, posterior = net(x, epsilon)
    sums = (x - reconstruction).abs().sum((1, 2, 3)) + 0.1 * posterior.kl()
    assert float(found["loss"].detach()) == pytest.approx(float(sums.mean().detach()) / 64, rel=1e-5)
    assert float(found["kl"].detach()) == pytest.approx(float(posterior.kl().mean().detach()), rel=1e-5)
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_reconstructions_are_measured_from_the_mean(data):
    net = autoencoder()
    split = ImageSplit(data.val.labels[:20], data.val.images[:20])
    picture = symmetric_range(data.metadata)
    found = reconstruction_metrics(net, split, picture)
    x = normalize(split.images, picture)
    assert float(x.min()) == -1
    assert float(x.max()) == 1
    with torch.no_grad():
        reconstruction, posterior = net(x)
    mse = float((reconstruction - x).square().mean())
    assert found["mse"] == pytest.approx(mse, rel=1e-5)
    assert found["psnr"] == pytest.approx(10 * math.log10(4 / mse), rel=1e-5)
    assert found["kl"] == pytest.approx(float(posterior.kl().mean()), rel=1e-5)


def test_only_the_autoencoder_is_trained(data):
    model = torch.nn.Module()
    model.autoencoder, model.other = autoencoder(), torch.nn.Linear(2, 2)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    run = train_autoencoder(model, RECIPE, data, {})
    assert not any(p.requires_grad for p in model.other.parameters())
    first = [float(run.update(next(run.stream))["loss"]) for _ in range(3)]
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {f"autoencoder.{name}" for name, _ in model.autoencoder.named_parameters()}
    assert len(set(first)) == 3


def test_latents_are_sampled_scaled_and_the_same_after_resuming(data):
    net = autoencoder()
    with torch.no_grad():
        net.quant_conv.bias[2:] = 0.5  # a variance that matters
    batches = latent_batches(net, RECIPE, data)
    moments = encode_split(net, data.train, symmetric_range(data.metadata))
    sampled = moments.mean + (0.5 * moments.logvar).exp() * torch.randn_like(moments.mean)
    print(f"std {latent_std(moments):.4f}, of samples {float(sampled.std()):.4f}")
    assert latent_std(moments) == pytest.approx(float(sampled.std()), rel=0.01)
    assert latent_std(moments) > 1.05 * float(moments.mean.std()), "the variance does not matter here"
    assert float(net.latent_scale) == pytest.approx(1 / latent_std(moments), rel=1e-5)
    drawn = [next(batches) for _ in range(3)]
    again = LatentBatches(moments, 16, scale=net.latent_scale, seed=0)
    again.load_state_dict({"position": 32})
    z, labels = next(again)
    assert torch.equal(z, drawn[2][0])
    assert torch.equal(labels, drawn[2][1])
    other = next(LatentBatches(moments, 16, scale=net.latent_scale, seed=1))[0]
    assert not torch.equal(other, drawn[0][0])


def test_noise_is_new_each_time_and_processes_share_a_batch():
    zeros = torch.zeros(4, 2, 3, 3)
    moments = Moments(zeros, zeros, torch.arange(4))
    whole = LatentBatches(moments, 4, scale=torch.tensor(2.0), seed=5)
    first, second = next(whole), next(whole)
    assert not torch.equal(first[0], second[0])
    parts = [
        next(LatentBatches(moments, 4, scale=torch.tensor(2.0), seed=5, rank=rank, world_size=2))
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([z for z, _ in parts]), first[0])
    assert torch.equal(torch.cat([labels for _, labels in parts]), first[1])


def test_impossible_latents_are_refused(data):
    net = autoencoder()
    with pytest.raises(BadInput, match="makes sides 2 times smaller: 9 pixels are no multiple"):
        check_side(net, 9)
    with torch.no_grad():
        net.quant_conv.weight.zero_()
        net.quant_conv.bias.copy_(torch.tensor([0.0, 0.0, torch.nan, 0.0]))
    with pytest.raises(BadInput, match="standard deviation of nan"):
        latent_batches(net, RECIPE, data)
