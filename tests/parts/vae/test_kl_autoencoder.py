"""Latent diffusion's autoencoder against diffusers': names, output, gradients and steps of AdamW; its scale."""

import json

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.hub import kl_autoencoder as hub
from torchstone.parts.facts import ParityCase, count_parameters, on_meta
from torchstone.parts.vae.kl_autoencoder import DiagonalGaussian, KLAutoencoder, KLAutoencoderConfig
from torchstone.references.diffusers import import_diffusers, random_autoencoders
from torchstone.verify import _parity

SMALL = KLAutoencoderConfig(widths=(8, 12), depth=1, groups=4, latent_channels=2)


class Theirs(nn.Module):
    """diffusers' network as a function of image and ε."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, epsilon):
        posterior = self.net.encode(x).latent_dist
        sampled = self.net.decode(posterior.mean + posterior.std * epsilon).sample
        mode = self.net.decode(posterior.mode()).sample
        return sampled, mode, posterior.mean, posterior.logvar, posterior.kl()


class Ours(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, epsilon):
        sampled, posterior = self.net(x, epsilon)
        return sampled, self.net(x)[0], posterior.mean, posterior.logvar, posterior.kl()


def pair(theirs, dtype=torch.float64, size=12):
    """Our network with the weights of theirs, and inputs."""
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs.to(dtype).eval()
    config = json.loads(theirs.to_json_string())
    ours = KLAutoencoder(hub.from_config(config)).to(dtype)
    ours.load_state_dict(hub.published(config, theirs.state_dict()))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, ours.config.channels, size, size, generator=generator, dtype=dtype)
    epsilon = torch.randn(ours.encode(x).mean.shape, generator=generator, dtype=dtype)
    return ours, theirs, (x, epsilon)


def names(tensors):
    """Gradients of their parameters by our names."""
    theirs = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
    found = hub.published({}, theirs)
    return {f"net.{name}": tensor for name, tensor in found.items()}


def check_parity(theirs, dtype=torch.float64, size=12) -> None:
    ours, theirs, inputs = pair(theirs, dtype, size)
    case = ParityCase(Ours(ours), Theirs(theirs), inputs, names, torch.optim.AdamW)
    checks = _parity("kl_autoencoder", 1, case)
    print([check.measured for check in checks])
    assert len(checks) == 3
    # in single precision: before a group norm a bias's gradient is a small difference of large terms
    tolerances = [1e-10] * 3 if dtype == torch.float64 else [1e-5, 1e-4, 1e-5]
    assert all(check.measured <= most for check, most in zip(checks, tolerances, strict=True))


@pytest.mark.parametrize("number", range(2))
def test_autoencoder_matches_diffusers(number):
    check_parity(list(random_autoencoders(3, seed=1))[2 - number])


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [8, 13])  # of odd sides the last row and column are not halved
def test_autoencoder_matches_diffusers_in_random_configurations(dtype, size):
    for theirs in random_autoencoders(10, seed=2):
        check_parity(theirs, dtype, size)


def test_autoencoder_of_stable_diffusion_has_the_published_counts():
    net = on_meta(KLAutoencoder)
    counts = [
        count_parameters(each) for each in (net.encoder, net.decoder, net.quant_conv, net.post_quant_conv)
    ]
    assert counts == [34_163_592, 49_490_179, 72, 20]
    assert count_parameters(net) == 83_653_863


def test_logvar_is_clamped():
    net = KLAutoencoder(SMALL)
    nn.init.zeros_(net.quant_conv.weight)
    nn.init.constant_(net.quant_conv.bias, 50.0)
    assert float(net.encode(torch.zeros(1, 3, 4, 4)).logvar.detach().max()) == 20.0
    nn.init.constant_(net.quant_conv.bias, -50.0)
    assert float(net.encode(torch.zeros(1, 3, 4, 4)).logvar.detach().min()) == -30.0


def test_kl_and_sample_are_those_of_torch():
    mean, logvar = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    found = DiagonalGaussian(mean, logvar)
    normal = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    assert torch.allclose(found.kl(), expected, rtol=1e-12)
    epsilon = torch.randn_like(mean)
    assert torch.allclose(found.sample(epsilon), normal.icdf(torch.special.ndtr(epsilon)), atol=1e-9)


def test_latents_have_unit_standard_deviation_and_the_scale_is_saved():
    """`latent_scale` is measured, applied on the way in, undone on the way out, and in the state."""
    torch.manual_seed(1)
    net = KLAutoencoder(SMALL)
    nn.init.normal_(net.quant_conv.weight, std=3.0)
    x = torch.randn(8, 3, 8, 8)
    epsilon = torch.randn(8, 2, 4, 4)
    assert torch.equal(net.to_latents(x, epsilon), net.encode(x).sample(epsilon)), "unscaled at first"
    net.measure_latent_scale(x, epsilon)
    latents = net.to_latents(x, epsilon)
    assert float(latents.detach().std(correction=0)) == pytest.approx(1.0, rel=1e-5)
    assert abs(float(net.latent_scale) - 1) > 0.05, "a scale of one shows nothing"
    assert torch.allclose(net.from_latents(latents), net(x, epsilon)[0], atol=1e-5)
    again = KLAutoencoder(SMALL)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.to_latents(x), net.to_latents(x))


def test_folder_keeps_names_and_scale(tmp_path):
    theirs = next(net for net in random_autoencoders(9, seed=4) if net.config.scaling_factor != 0.18215)
    theirs.save_pretrained(tmp_path)
    config, tensors = hub.read(tmp_path)
    net = KLAutoencoder(hub.from_config(config))
    net.load_state_dict(hub.published(config, tensors))
    assert float(net.latent_scale) == pytest.approx(theirs.config.scaling_factor)
    scale, back = hub.unpublished(net.state_dict())
    assert scale["scaling_factor"] == pytest.approx(theirs.config.scaling_factor)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


def test_first_releases_names_of_attention_are_read():
    theirs = import_diffusers().AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    config = json.loads(theirs.to_json_string())
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    assert tensors.keys() != theirs.state_dict().keys()
    expected = hub.published(config, theirs.state_dict())
    found = hub.published(config, tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "VQModel"}, "of a VQModel; implemented is AutoencoderKL"),
        ({"shift_factor": 0.1}, r"shift_factor = 0\.1"),
        ({"latents_mean": [0.0]}, "latents_mean"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "implemented is DownEncoderBlock2D, 1 times"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "implemented is UpDecoderBlock2D, 1 times"),
        ({"block_out_channels": 8}, "no list"),
        ({"act_fn": "mish"}, "act_fn = 'mish'"),
        ({"use_quant_conv": 1}, "neither true nor false"),
        ({"magic": 1}, "magic = 1"),
    ],
)
def test_unimplemented_settings_are_named(settings, message):
    with pytest.raises(BadInput, match=message):
        hub.from_config(settings)
