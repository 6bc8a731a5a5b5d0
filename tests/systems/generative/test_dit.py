"""DiT: its blocks begin as the identity, the learned variance and its loss, and a run of two stages."""

import json
import math

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from torch import nn

import torchstone as ts
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.hub.diffusers import read_process
from torchstone.hub.dit import denoiser_config, published_denoiser
from torchstone.parts.diffusion.process import DiffusionProcess, discretized_log_likelihood
from torchstone.references.diffusers import import_diffusers, random_dits
from torchstone.systems.generative import dit
from torchstone.tasks.diffusion.autoencoder import encode_split, latent_std

SMALL = dit.DiTConfig(width=16, depth=2, heads=2, size=4, channels=2, num_classes=3)


def randomized(config=SMALL, std=0.3) -> dit.DiT:
    torch.manual_seed(3)
    net = dit.DiT(config)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=std)
    return net.double()


def test_blocks_begin_as_the_identity_and_the_output_as_zero():
    net = dit.DiT(SMALL)
    x, c = torch.randn(2, 4, 16), torch.randn(2, 16)
    for block in net.blocks:
        assert torch.equal(block(x, c), x)
    assert not net(torch.randn(2, 2, 4, 4), torch.tensor([1, 9])).any()
    assert float(net.patches.weight.detach().std()) > 0.1
    assert float(net.labels.weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert not net.blocks[0].attention.qkv.bias.any()


def test_own_embedders_of_diffusers_blocks_are_one():
    """Each of its blocks has an embedder; with equal weights their gradients add up to that of ours."""
    shared = next(random_dits(1, seed=3))
    assert len(shared.transformer_blocks) > 1
    theirs = type(shared)(**{k: v for k, v in shared.config.items() if not k.startswith("_")}).eval().double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    first = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    config = dit.DiTConfig(**denoiser_config(theirs.config))
    ours = dit.DiT(config).double()
    ours.load_state_dict(published_denoiser(theirs.state_dict()))
    x = torch.randn(2, config.channels, config.size, config.size, dtype=torch.float64)
    t, y = torch.tensor([3, 700]), torch.tensor([0, 1])
    expected, output = theirs(x, t, y).sample, ours(x, t, y)
    assert torch.allclose(output, expected, atol=1e-12)
    weight = torch.randn_like(output)
    (expected * weight).sum().backward()
    (output * weight).sum().backward()
    total = sum(block.norm1.emb.timestep_embedder.linear_1.weight.grad for block in theirs.transformer_blocks)
    labels = sum(
        block.norm1.emb.class_embedder.embedding_table.weight.grad for block in theirs.transformer_blocks
    )
    assert torch.allclose(ours.time[0].weight.grad, total, atol=1e-12)
    assert torch.allclose(ours.labels.weight.grad, labels, atol=1e-12)
    assert not torch.allclose(first.timestep_embedder.linear_1.weight.grad, total, atol=1e-3)


def test_without_a_condition_the_null_class_is_read():
    net = randomized()
    x, t = torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.tensor([5, 900])
    assert torch.equal(net(x, t), net(x, t, torch.tensor([3, 3])))
    assert not torch.allclose(net(x, t), net(x, t, torch.tensor([2, 2])), atol=1e-3)


# -------------------------------------------------------------------------------- learned variance


@pytest.mark.parametrize("steps", [1000, 50, 7])
def test_ancestral_sampling_with_learned_variance_matches_diffusers(steps):
    theirs = import_diffusers().DDPMScheduler(variance_type="learned_range", clip_sample=False)
    theirs.set_timesteps(steps)
    settings = {k: v for k, v in theirs.config.items() if not k.startswith("_use_")}
    ours = read_process({"_class_name": "DDPMScheduler", **settings, "variance_type": "fixed_small"})
    schedule, pairs = ours.noise_schedule(), ours.timestep_pairs(steps)
    assert [t for t, _ in pairs] == theirs.timesteps.tolist()
    for timestep, following in pairs[:: max(1, steps // 8)] + pairs[-2:]:
        x, output = torch.randn(3, 2, 4, 4), torch.randn(3, 4, 4, 4)
        output[:, :2] = x * (1 - schedule.alphas_cumprod[timestep]).sqrt() + 0.1 * output[:, :2]
        t, s = torch.full((3,), timestep), torch.full((3,), following)
        generator = torch.Generator().manual_seed(timestep)
        expected = theirs.step(output, timestep, x, generator=generator).prev_sample
        found, _ = dit.p_sample(
            lambda *_, output=output: output, ours, schedule, x, t, s, generator.manual_seed(timestep)
        )
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        print(timestep, error)
        assert error < 2e-6, timestep


def test_learned_variance_lies_between_both_fixed_ones():
    schedule = DiffusionProcess(timesteps=50).noise_schedule().to_float64()
    t = torch.arange(1, 50)
    ones = torch.ones(49, 1, 1, 1, dtype=torch.float64)
    beta, posterior = (dit.log_variance(schedule, v * ones, t, t - 1).exp().flatten() for v in (1.0, -1.0))
    assert torch.allclose(beta, schedule.betas[1:])
    assert torch.allclose(posterior, schedule.posterior_variance(t, t - 1, ones).flatten())
    zero = torch.zeros(1, dtype=torch.long)
    last = dit.log_variance(schedule, -ones[:1], zero, zero - 1).exp()
    assert float(last) == pytest.approx(float(posterior[0]))  # that of the step before


def test_hybrid_loss_is_the_papers_and_keeps_gradients_apart():
    """KL by torch's distributions, image by image; the variance has no gradient of the first term, and the
    noise none of the second."""
    process = DiffusionProcess(timesteps=20)
    schedule = process.noise_schedule().to_float64()
    z, epsilon = torch.randn(2, 20, 2, 3, 3, dtype=torch.float64)
    t = torch.arange(20)
    output = torch.randn(20, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    batch = DiffusionBatch(z, t, epsilon, None)
    loss = dit.training_loss(lambda *_: output, process, schedule, batch)
    z_t = schedule.add_noise(z, epsilon, t)
    squared, nats = 0.0, 0.0
    normal = torch.distributions.Normal
    for i in range(20):
        row, before = t[i : i + 1], t[i : i + 1] - 1
        prediction, v = output[i : i + 1].detach().chunk(2, 1)
        squared += float((prediction - epsilon[i : i + 1]).square().mean())
        x0, _ = schedule.predict_x0_and_epsilon("epsilon", prediction, z_t[i : i + 1], row)
        mean, variance = schedule.posterior(z[i : i + 1], z_t[i : i + 1], row, before)
        own, _ = schedule.posterior(x0, z_t[i : i + 1], row, before)
        beta = schedule.betas[i]
        floor = schedule.posterior_variance(torch.ones(1).long(), torch.zeros(1).long(), v)
        low = variance if i else floor
        sigma = ((v + 1) / 2 * beta.log() + (1 - (v + 1) / 2) * low.log()).exp().sqrt()
        if i:
            kl = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(own, sigma))
            nats += float(kl.mean())
        else:
            nats += float(-discretized_log_likelihood(z[:1], own, sigma).mean())
    assert float(loss.detach()) == pytest.approx(squared / 20 + nats / 20 / math.log(2), rel=1e-10)
    loss.backward()
    expected = 2 * (output[:, :2].detach() - epsilon) / epsilon.numel()
    assert torch.allclose(output.grad[:, :2], expected, atol=1e-12), "the second term reaches the noise"
    assert output.grad[:, 2:].abs().min() > 0


# -------------------------------------------------------------------------------------- its stages


def stages(**fields):
    return dit.build(replace_fields(dit.RECIPES["smoke"], {"device": "cpu", "eval_samples": 0, **fields}))


def test_second_stage_measures_the_scale_and_leaves_the_autoencoder_alone():
    both = stages(steps=4, autoencoder_steps=20)
    first = next(both)
    fit(first, intervals=Intervals(log=20, evaluate=20), quiet=True)
    model = first.state["model"]
    before = {name: each.clone() for name, each in model.autoencoder.state_dict().items()}
    denoiser = {name: each.clone() for name, each in model.denoiser.state_dict().items()}
    assert before.pop("latent_scale") == 1, "measured before there is something to measure"
    second = next(both)
    data = load_images("digits", size=8, channels=1)
    picture = second.metadata["picture"]
    std = latent_std(encode_split(model.autoencoder, data.train, picture))
    scale = float(model.autoencoder.latent_scale)
    print(f"standard deviation {std:.4f}, scale {scale:.4f}")
    assert scale == pytest.approx(1 / std, rel=1e-5)
    assert abs(scale - 0.18215) > 0.01
    z = torch.cat([next(second.stream).x for _ in range(40)])
    assert float(z.std()) == pytest.approx(1.0, abs=0.02), (
        "the transformer's latents are not of unit variance"
    )
    fit(second, intervals=Intervals(log=4, evaluate=4), quiet=True)
    after = {name: each for name, each in model.autoencoder.state_dict().items() if name != "latent_scale"}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert any(not torch.equal(model.denoiser.state_dict()[name], denoiser[name]) for name in denoiser)
    averaged = second.state["ema"].module.autoencoder.state_dict()
    assert torch.equal(averaged["latent_scale"], model.autoencoder.latent_scale), "samples would be unscaled"


def test_a_runs_scale_and_pictures_are_kept(trained_run):
    folder = trained_run("dit")
    model = ts.load(folder)
    data = load_images("digits", size=8, channels=1)
    picture = {**data.metadata, "mean": [0.5], "std": [0.5]}
    std = latent_std(encode_split(model.autoencoder, data.train, picture))
    assert float(model.autoencoder.latent_scale) == pytest.approx(1 / std, rel=1e-5)
    names = {file.name for file in (folder / "pictures").iterdir()}
    assert {"rebuilt.png", "samples.png", "nearest.png"} <= names
    result = json.loads((folder / "result.json").read_text())["metrics"]
    assert result["test/psnr"] > 10
    assert result["test/reconstruction_frechet_distance"] < result["test/frechet_distance"]
    assert "test/bits_per_dimension" not in result


def test_commands(capsys, trained_run, tmp_path):
    folder = trained_run("dit")
    result = json.loads((folder / "result.json").read_text())["metrics"]
    metrics = json.loads(run_cli(capsys, "eval", folder, "--json")[1])
    assert metrics["psnr"] == pytest.approx(result["test/psnr"], rel=1e-5)
    assert metrics["samples"] == 500
    grid = tmp_path / "threes.png"
    code, out, _ = run_cli(capsys, "sample", folder, "-n", 4, "--label", 3, "--out", grid)
    assert code == 0
    assert out.strip() == str(grid)
    threes, eights = (torch.stack(ts.sample(folder, num_samples=4, label=k)) for k in ("3", 8))
    assert threes.shape == (4, 1, 8, 8)
    assert not torch.equal(threes, eights)
    assert torch.equal(threes, torch.stack(ts.sample(folder, num_samples=4, label=3)))
    said = assert_rejected(capsys, "sample", folder, "--classifier-scale", 1, "--out", grid)
    assert "denoises latents, not pixels" in said


def test_impossible_recipes_are_refused(capsys, tmp_path):
    out = tmp_path / "run"
    said = assert_rejected(capsys, "train", "dit/smoke", "--learned-sigma", "true", "--out", out)
    assert "learned_sigma needs --prediction-type epsilon" in said
    assert not out.exists()
    with pytest.raises(BadInput, match="cannot be cut into patches of 3"):
        dit.DiT(dit.DiTConfig(size=8, patch=3))
    with pytest.raises(BadInput, match="makes sides 8 times smaller"):
        dit.dit(size=28, autoencoder={}, patch=1, width=16, depth=1, heads=1)
    with pytest.raises(BadInput, match="cannot be divided among 3 heads"):
        dit.DiT(dit.DiTConfig(width=16, heads=3))
