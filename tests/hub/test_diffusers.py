"""Folders in diffusers' layout: weights by both names, and the same samples of the same noise."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub import diffusers as ours
from torchstone.references.diffusers import import_diffusers, random_unets
from torchstone.systems.generative.ddpm import p_sample
from torchstone.tasks.diffusion.sampler import SamplingConfig, generate, guided_denoiser

SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 12),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "norm_num_groups": 4,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
}
TOLERANCE = 1e-5


def unet(**settings):
    torch.manual_seed(2)
    net = import_diffusers().UNet2DModel(**{**SMALL, **settings}).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return net


def save_pipeline(folder, scheduler="DDPMScheduler", **settings):
    """A pipeline of diffusers with random weights, written to `folder`."""
    library = import_diffusers()
    kind = {"DDPMScheduler": "DDPMPipeline"}.get(scheduler, "DDIMPipeline")
    schedule = getattr(library, scheduler)(num_train_timesteps=40, **settings)
    pipeline = getattr(library, kind)(unet(), schedule)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_error(folder, pipeline, **kwargs) -> float:
    """The largest difference of our samples from the pipeline's, of the same noise."""
    model = ts.load(folder)
    generator = torch.Generator().manual_seed(7)
    options = {"batch_size": 3, "output_type": "np", "return_dict": False, "generator": generator}
    (expected,) = pipeline(**options, **kwargs)
    generator.manual_seed(7)
    x_T = torch.randn(3, *model.shape, generator=generator)
    config = SamplingConfig(kwargs.get("num_inference_steps"), eta=kwargs.get("eta", 0.0))
    samples = generate(p_sample, model, x_T, config, generator=generator)
    assert samples.std() > 0.1, "a blank image shows nothing"
    expected = torch.from_numpy(expected).permute(0, 3, 1, 2)
    return float(((samples / 2 + 0.5).clamp(0, 1) - expected).abs().max())


@pytest.mark.parametrize(
    ("settings", "kwargs"),
    [
        ({}, {"num_inference_steps": 40}),
        ({"variance_type": "fixed_large", "prediction_type": "v_prediction"}, {"num_inference_steps": 10}),
        (
            {
                "beta_schedule": "squaredcos_cap_v2",
                "prediction_type": "sample",
                "timestep_spacing": "trailing",
            },
            {"num_inference_steps": 7},
        ),
        ({"scheduler": "DDIMScheduler"}, {"num_inference_steps": 10}),
        (
            {
                "scheduler": "DDIMScheduler",
                "clip_sample": False,
                "set_alpha_to_one": False,
                "steps_offset": 1,
            },
            {"num_inference_steps": 9, "eta": 0.6},
        ),
    ],
)
def test_diffusers_folder_gives_the_pipelines_samples(settings, kwargs, tmp_path):
    pipeline = save_pipeline(tmp_path, **settings)
    error = sample_error(tmp_path, pipeline, **kwargs)
    print(f"{settings}, {kwargs}: {error:.1e}")
    assert error <= TOLERANCE


def test_sample_parity_detects_wrong_scheduler_settings(tmp_path):
    pipeline = save_pipeline(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    original = file.read_text()
    for wrong in (
        {"beta_end": 0.021},
        {"prediction_type": "v_prediction"},
        {"clip_sample": False},
        {"variance_type": "fixed_large"},
        {"timestep_spacing": "trailing"},
    ):
        file.write_text(json.dumps({**json.loads(original), **wrong}))
        error = sample_error(tmp_path, pipeline, num_inference_steps=10)
        print(wrong, error)
        assert error > 100 * TOLERANCE, wrong


def test_diffusers_folder_with_classes_takes_labels(tmp_path):
    net = unet(num_class_embeds=3)
    net.save_pretrained(tmp_path)
    model = ts.load(tmp_path)
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 9, 500]), torch.tensor([0, 2, 1])
    with torch.no_grad():
        expected = net(x, t, class_labels=y).sample
        assert torch.allclose(model(x, t, y), expected, atol=TOLERANCE)
        assert not torch.allclose(model(x, t, y.flip(0)), expected, atol=1e-2)
        assert torch.equal(guided_denoiser(model, y)(x, t), model(x, t, y))
    with pytest.raises(BadInput, match="needs a class for each image"):
        model(x, t)


OLD_NAMES = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
    "downsamplers.0.conv.": "downsamplers.0.op.",
}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_diffusers_folder_of_the_first_releases(kind, tmp_path):
    """All files lie side by side, and parameters have other names."""
    pipeline = save_pipeline(tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "unet" / "diffusion_pytorch_model.safetensors")
    older = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        older[name] = tensor
    assert len(older.keys() - tensors.keys()) > 8
    folder = tmp_path / "old"
    folder.mkdir()
    if kind == "bin":
        torch.save(older, folder / "diffusion_pytorch_model.bin")
    else:
        save_file(older, folder / "diffusion_pytorch_model.safetensors")
    shutil.copy(tmp_path / "new" / "unet" / "config.json", folder)
    shutil.copy(tmp_path / "new" / "scheduler" / "scheduler_config.json", folder)
    assert sample_error(folder, pipeline, num_inference_steps=8) <= TOLERANCE


def test_published_and_unpublished_names_are_inverse():
    for net in random_unets(12, seed=5):
        theirs = net.state_dict()
        variant, model_config = ours.from_config(json.loads(net.to_json_string()))
        model = ts.create(variant, **model_config)
        model.load_state_dict(ours.published(variant, theirs))
        back = ours.unpublished(variant, model.state_dict())
        assert back.keys() == theirs.keys()
        assert all(torch.equal(back[name], theirs[name]) for name in back)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ("unet", {"mid_block_type": None}, "mid_block_type = None"),
        ("unet", {"_class_name": "UNet2DConditionModel"}, "holds a UNet2DConditionModel"),
        ("unet", {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "'SkipDownBlock2D'"),
        ("unet", {"up_block_types": ["UpBlock2D"]}, "1 up_block_types for 2"),
        ("unet", {"block_out_channels": 12}, "no list"),
        ("unet", {"act_fn": "mish"}, "act_fn = 'mish'"),
        ("unet", {"norm_num_groups": 5}, "must be divisible by num_groups"),
        ("unet", {"layers_per_block": "two"}, "layers_per_block = 'two'"),
        ("unet", {"layers_per_block": 2}, "do not fit"),
        ("unet", {"magic": 1}, "magic = 1"),
        ("scheduler", {"_class_name": "UniPCMultistepScheduler", "magic": 1}, "_class_name = 'UniPC"),
        ("scheduler", {"_class_name": "PNDMScheduler"}, "_class_name = 'PNDMScheduler'"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
        ("scheduler", {"thresholding": True}, "thresholding = True"),
        ("scheduler", {"trained_betas": [0.1]}, "trained_betas"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("scheduler", {"variance_type": "learned_range"}, "variance_type = 'learned_range'"),
        ("scheduler", {"timestep_spacing": "odd"}, "unknown timestep_spacing 'odd'"),
        ("scheduler", {"num_train_timesteps": 10**12}, "num_train_timesteps = 1000000000000: give 1 to"),
        ("scheduler", {"num_train_timesteps": 0.5}, r"num_train_timesteps = 0\.5: give 1 to"),
        ("scheduler", {"beta_start": 0.5}, "0 < beta_start <= beta_end"),
    ],
)
def test_diffusers_folder_refuses_unimplemented_settings(part, settings, message, tmp_path):
    save_pipeline(tmp_path)
    file = tmp_path / part / ("config.json" if part == "unet" else "scheduler_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(BadInput, match=message) as raised:
        ts.load(tmp_path).process.noise_schedule()
    assert "\n" not in str(raised.value)


def test_diffusers_folder_names_missing_and_damaged_files(tmp_path):
    save_pipeline(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        ts.load(tmp_path)
    weights.unlink()
    with pytest.raises(BadInput, match=r"holds no weights: diffusion_pytorch_model\.safetensors"):
        ts.load(tmp_path)
    (tmp_path / "unet" / "config.json").unlink()
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        ts.load(tmp_path)
