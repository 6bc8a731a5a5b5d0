"""What an image and a mask give to latent diffusion, and the refusals of `sample`."""

import pytest
import torch
from PIL import Image

from torchstone.errors import BadInput
from torchstone.parts.diffusion.solvers import Solver
from torchstone.systems.generative import ldm
from torchstone.tasks.diffusion import latent

PICTURE = {
    "size": 16,
    "channels": 3,
    "ink": False,
    "box": None,
    "native": 16,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ldm.VARIANTS["ldm_shapes"].make().eval()
    model.autoencoder.latent_scale.fill_(1.5)
    return model


def test_files_of_an_image_and_a_mask(tmp_path):
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "red.png")
    image = latent.read_image(tmp_path / "red.png", {"picture": PICTURE})
    assert image.shape == (1, 3, 16, 16)
    assert image[0, :, 0, 0].tolist() == [1, -1, -1]
    mask = Image.new("L", (16, 16), 100)
    mask.paste(200, (0, 0, 8, 16))
    mask.save(tmp_path / "mask.png")
    found = latent.read_mask(tmp_path / "mask.png", {"picture": PICTURE})
    assert found.shape == (1, 1, 16, 16)
    assert found[..., :8].all()
    assert not found[..., 8:].any()


@pytest.mark.parametrize(("strength", "start"), [(1.0, 0), (0.75, 2), (0.3, 6), (0.126, 7)])
def test_strength_says_which_step_begins(model, strength, start):
    solver = Solver(model.process, "ddim", 8)
    image, generator = torch.rand(1, 3, 16, 16) * 2 - 1, torch.Generator().manual_seed(1)
    known, noise = latent.prepare_known(model, ldm.Known, solver, image, None, strength, 3, generator, 8)
    assert known.start == start
    assert known.latents.shape == noise.shape == (3, 4, 8, 8)
    posterior = model.autoencoder.encode(image)
    drawn = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(known.latents[:1], 1.5 * posterior.sample(drawn), atol=1e-5), (
        "scaled, and sampled first"
    )


def test_so_little_strength_that_no_step_is_left(model):
    with pytest.raises(BadInput, match=r"a strength of 0.1 of 8 steps is less than one"):
        latent.prepare_known(
            model, ldm.Known, Solver(model.process, "ddim", 8), torch.zeros(1, 3, 16, 16), None, 0.1, 1,
            torch.Generator(), 8,
        )  # fmt: skip


def test_half_precision_keeps_the_scale_and_the_latents(model):
    other = ldm.VARIANTS["ldm_shapes"].make().eval()
    other.load_state_dict(model.state_dict())
    other.autoencoder.latent_scale.fill_(0.18215)
    latent.set_precision(other, "bf16")
    assert all(weight.dtype == torch.bfloat16 for weight in other.parameters())
    assert float(other.autoencoder.latent_scale) == pytest.approx(0.18215, rel=1e-6)
    z = latent.draw(other, 2, torch.Generator().manual_seed(0))
    text = torch.zeros(2, 10, 16, dtype=torch.bfloat16)
    (*_, last) = ldm.generate(other, Solver(other.process, "dpm_solver++", 3), z, text)
    assert last.dtype == torch.float32
    assert latent.decode(other, last).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"mask": "m.png"}, "both an image to inpaint and a mask"),
        ({"init_image": "a.png", "inpaint_image": "b.png", "mask": "m.png"}, "not both"),
        ({"strength": 0.5}, "strength is of an image"),
        ({"init_image": "a.png", "strength": 0.0}, "above 0"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"attention_slices": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(BadInput, match=message):
        latent.LatentRequest(**options)
