"""Latent diffusion: two stages, the measured scale, guidance, and its use as a new user would."""

import json

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.diffusion.solvers import SOLVERS, Solver
from torchstone.systems.generative import ldm
from torchstone.systems.transformer.clip import CLIPTextConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    ts.train(
        "ldm/smoke", out=folder, device="cpu", steps=15, autoencoder_steps=10, eval_samples=4, quiet=True
    )
    return folder


def test_the_second_stage_leaves_the_autoencoder_alone_and_measures_its_scale():
    recipe = replace_fields(
        ldm.RECIPES["smoke"], {"device": "cpu", "autoencoder_steps": 10, "steps": 4, "eval_samples": 0}
    )
    both = ldm.build(recipe)
    first = next(both)
    fit(first, intervals=Intervals(log=10, evaluate=10), quiet=True)
    model = first.state["model"]
    assert model.autoencoder.latent_scale == 1, "nobody has measured it yet"
    before = {name: each.clone() for name, each in model.state_dict().items()}
    second = next(both)
    scale = model.autoencoder.latent_scale.clone()
    z = torch.cat([next(second.stream).x for _ in range(14)])
    print(f"scale {scale:.3f}; latents of {len(z)} images: standard deviation {z.std():.3f}")
    assert abs(float(z.std()) - 1) < 0.05
    assert abs(float(scale) - 0.18215) > 0.01
    fit(second, intervals=Intervals(log=4, evaluate=4), quiet=True)
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed - {"autoencoder.latent_scale"} == {
        name for name in before if not name.startswith("autoencoder.")
    }
    averaged = second.state["ema"].module.state_dict()
    assert torch.equal(averaged["autoencoder.latent_scale"], scale), "samples are decoded by the average"


def test_guidance_is_linear_in_the_scale_and_one_is_none():
    def unet(z, t, text):
        return z + text.mean(1)[..., None, None]

    z, t = torch.randn(2, 3, 4, 4), torch.tensor([5, 9])
    text, empty = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    none = ldm.guided_output(unet, z, t, text, None, 1.0)
    assert torch.allclose(ldm.guided_output(unet, z, t, text, empty, 1.0), none, atol=1e-6)
    zero = ldm.guided_output(unet, z, t, text, empty, 0.0)
    assert torch.allclose(zero, unet(z, t, empty), atol=1e-6)
    three = ldm.guided_output(unet, z, t, text, empty, 3.0)
    assert torch.allclose(three, zero + 3 * (none - zero), atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_known_part_of_an_image_comes_back(solver):
    """Where nothing is to be generated in-painting gives the image's latents, exactly."""
    model = ldm.VARIANTS["ldm_shapes"].make().eval()
    z, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    text = torch.randn(1, 10, 16)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    known = ldm.Known(z, noise, 0, mask)
    (*_, last) = ldm.generate(model, Solver(model.process, solver, 4), noise, text, known=known)
    assert torch.equal(last[..., :4], z[..., :4])
    assert not torch.allclose(last[..., 4:], z[..., 4:])
    none = ldm.Known(z, noise, 4)
    assert not list(ldm.generate(model, Solver(model.process, "ddim", 4), noise, text, known=none))


def test_commands(capsys, run, tmp_path):
    result = json.loads((run / "result.json").read_text())["metrics"]
    metrics = json.loads(run_cli(capsys, "eval", run, "--json")[1])
    assert metrics["psnr"] == pytest.approx(result["test/psnr"], rel=1e-4)
    assert metrics["match"] >= 0
    out = tmp_path / "shapes.png"
    prompt = ("--prompt", "large red circle on the left")
    code, printed, _ = run_cli(capsys, "sample", run, *prompt, "-n", 2, "--out", out)
    assert code == 0
    assert printed.strip() == str(out)
    with Image.open(out) as image:
        assert image.size[0] > image.size[1] / 2
    settings = {"prompt": "small blue ring on the right", "num_samples": 2, "sampling_steps": 3}
    first = torch.stack(ts.sample(run, **settings))
    assert first.shape == (2, 3, 16, 16)
    assert torch.equal(first, torch.stack(ts.sample(run, **settings)))
    assert not torch.equal(first, torch.stack(ts.sample(run, **settings, seed=1)))
    zero = torch.stack(ts.sample(run, **settings, guidance_scale=0))  # the empty text alone
    assert torch.equal(zero, torch.stack(ts.sample(run, **settings | {"prompt": None}, guidance_scale=1)))
    assert not torch.equal(zero, torch.stack(ts.sample(run, **settings, guidance_scale=1)))
    for solver in ("plms", "dpm_solver++"):
        assert not torch.equal(first, torch.stack(ts.sample(run, **settings, sampler=solver)))
    # Euler's step in σ/α is DDIM's, where both visit the same timesteps
    euler = torch.stack(ts.sample(run, **settings, sampler="euler"))
    assert (euler.int() - first.int()).abs().max() <= 1
    line = assert_rejected(capsys, "sample", run, "--prompt", "large red elephant", "--out", out)
    assert "no caption had the word 'elephant'" in line
    with pytest.raises(BadInput, match="published network"):
        ts.train("ldm/smoke", variant="sd1", out=tmp_path / "no", quiet=True)
    assert not (tmp_path / "no").exists()


def test_parts_that_do_not_go_together():
    parts = (ldm.LatentUNetConfig(**SMALL), ldm.KLAutoencoderConfig((8, 16), groups=4))
    with pytest.raises(BadInput, match="reads texts 16 wide, but the encoder's are 512"):
        ldm.LatentDiffusion(*parts, CLIPTextConfig(), ldm.DiffusionProcess())
    with pytest.raises(BadInput, match="differ between resolutions of as many channels"):
        ldm.LatentUNet(ldm.LatentUNetConfig(**{**SMALL, "widths": (8, 8), "heads": (1, 2)}))


SMALL = {"widths": (8, 16), "attention": (False, True), "depth": 1, "context": 16, "heads": 2, "groups": 4}


def test_latents_are_divided_by_the_scale_before_they_are_decoded():
    """x = D(z / s): without the division, latents of scale 2 would be decoded as others."""
    model = ldm.VARIANTS["ldm_shapes"].make().eval()
    model.autoencoder.latent_scale.fill_(2.0)
    from torchstone.tasks.diffusion import latent

    z = torch.randn(1, 4, 8, 8)
    expected = model.autoencoder.decode(z / 2)
    pixels = ((expected.clamp(-1, 1) + 1) * 127.5).round().byte()
    assert (latent.decode(model, z).int() - pixels.int()).abs().max() <= 1
    assert (latent.decode(model, 2 * z).int() - pixels.int()).abs().max() > 1
