"""Folders of DiT in diffusers' layout: the same pictures of the same noise, and what is refused."""

import json

import numpy as np
import pytest
import torch
from cli_helpers import run_cli
from safetensors.torch import load_file, save_file
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.references.diffusers import import_diffusers
from torchstone.systems.generative.dit import p_sample
from torchstone.tasks.diffusion.sampler import SamplingConfig, generate, guided_denoiser

LABELS = [3, 1, 999]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_pipeline(folder, scheduler="DDIMScheduler", learned=True, **settings):
    """A pipeline of diffusers with random weights, one embedder in all blocks, written to `folder`."""
    library = import_diffusers()
    torch.manual_seed(2)
    transformer = library.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=2,
        out_channels=4 if learned else 2,
        num_layers=2,
        sample_size=4,
        patch_size=2,
    ).eval()
    vae = library.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=2,
        scaling_factor=0.6,
    ).eval()
    for parameter in [*transformer.parameters(), *vae.parameters()]:
        nn.init.normal_(parameter, std=0.2)
    first = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    schedule = getattr(library, scheduler)(num_train_timesteps=40, clip_sample=False, **settings)
    pipeline = library.DiTPipeline(transformer, vae, schedule)
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"  # as in the authors' folder
    names = {"0": "a fish, a goldfish", "1": "a hen"}
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": names}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_error(folder, pipeline, steps=10, guidance=4.0) -> float:
    """The largest difference of our pictures from the pipeline's, of the same noise."""
    model = ts.load(folder)
    generator = torch.Generator().manual_seed(7)
    (expected,) = pipeline(LABELS, guidance, generator, steps, output_type="pt", return_dict=False)
    x_T = torch.randn(3, *model.shape, generator=generator.manual_seed(7))
    denoise_fn = guided_denoiser(model, torch.tensor(LABELS), guidance)
    z = generate(p_sample, model, x_T, SamplingConfig(steps), denoise_fn=denoise_fn, generator=generator)
    with torch.no_grad():
        images = model.autoencoder.from_latents(z)
    assert images.std() > 0.1, "a blank image shows nothing"
    return float(((images / 2 + 0.5).clamp(0, 1) - expected).abs().max())


@pytest.mark.parametrize(
    ("settings", "kwargs"),
    [
        ({}, {}),
        ({"learned": False, "prediction_type": "v_prediction"}, {"guidance": 1.0}),
        pytest.param({"set_alpha_to_one": False, "steps_offset": 1}, {"steps": 9}, marks=pytest.mark.sweep),
        pytest.param({"beta_schedule": "scaled_linear"}, {"guidance": 1.5}, marks=pytest.mark.sweep),
    ],
)
def test_folder_gives_the_pipelines_pictures(settings, kwargs, tmp_path):
    pipeline = save_pipeline(tmp_path, **settings)
    error = sample_error(tmp_path, pipeline, **kwargs)
    print(f"{settings}, {kwargs}: {error:.1e}")
    assert error <= 1e-5


def test_wrong_settings_give_other_pictures(tmp_path):
    pipeline = save_pipeline(tmp_path)
    for part, wrong in (
        ("vae", {"scaling_factor": 0.18215}),
        ("scheduler", {"beta_end": 0.03}),
        ("transformer", {"norm_eps": 0.1}),
    ):
        file = tmp_path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        original = file.read_text()
        file.write_text(json.dumps({**json.loads(original), **wrong}))
        error = sample_error(tmp_path, pipeline)
        file.write_text(original)
        print(wrong, error)
        assert error > 50 * 1e-5, wrong


def test_folder_is_used_by_its_classes_names(capsys, tmp_path):
    save_pipeline(tmp_path / "folder")
    out = tmp_path / "hens.png"
    words = ("sample", tmp_path / "folder", "-n", 2, "--sampling-steps", 3, "--out", out)
    code, _, err = run_cli(capsys, *words, "--label", "a hen")
    assert code == 0, err
    assert out.exists()
    hens, fish = (
        np.stack(ts.sample(tmp_path / "folder", num_samples=2, label=k, sampling_steps=3))
        for k in ("a hen", "7")
    )
    assert hens.shape == (2, 3, 8, 8)
    assert not np.array_equal(hens, fish)


def test_blocks_with_other_embedders_are_refused(tmp_path):
    save_pipeline(tmp_path)
    file = tmp_path / "transformer" / WEIGHTS
    tensors = load_file(file)
    tensors["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"] += 1
    save_file(tensors, file)
    with pytest.raises(BadInput, match=r"transformer_blocks\.1 has another embedder than the first block"):
        ts.load(tmp_path)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("transformer", {"_class_name": "SD3Transformer2DModel"}, "holds a SD3Transformer2DModel"),
        ("transformer", {"norm_type": "layer_norm"}, "norm_type = 'layer_norm'"),
        ("transformer", {"activation_fn": "geglu"}, "activation_fn = 'geglu'"),
        ("transformer", {"out_channels": 3}, "out_channels = 3; implemented are 2 and 4"),
        ("transformer", {"magic": 1}, "magic = 1"),
        ("vae", {"latent_channels": 3}, "does not take the 3 channels"),
        ("vae", {"shift_factor": 0.1}, r"shift_factor = 0\.1"),
        ("scheduler", {"_class_name": "PNDMScheduler"}, "_class_name = 'PNDMScheduler'"),
    ],
)
def test_unimplemented_settings_are_named(part, settings, message, tmp_path):
    save_pipeline(tmp_path)
    file = tmp_path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(BadInput, match=message) as raised:
        ts.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_missing_parts_are_named(tmp_path):
    save_pipeline(tmp_path)
    (tmp_path / "vae").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="has no vae"):
        ts.load(tmp_path)
