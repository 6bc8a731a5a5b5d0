"""Stable Diffusion's folders: whole pipelines equal diffusers' step by step; what they hold is read or refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub import stable_diffusion
from torchstone.parts.diffusion.solvers import Solver
from torchstone.references.diffusers import import_diffusers
from torchstone.references.transformers import import_transformers
from torchstone.systems.generative import ldm
from torchstone.tasks.diffusion import latent

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    # as the folders of Stable Diffusion 1 and 2 have it
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}),
    "dpm_solver++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
}
WORDS = ("red", "cat", "green", "dog", "sky")
TOLERANCE = 1e-5


def save_tokenizer(folder, pad):
    """CLIP's own format: pieces over bytes whose words end in `</w>`."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces[:2] = ["".join(pieces[:2])]
            vocabulary.append(pieces[0])
    vocabulary = list(dict.fromkeys(["!", *vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {**special, "pad_token": pad, "model_max_length": 9, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def make_pipeline(folder, solver="ddim", version=1, channels=4, **scheduler):
    """A pipeline of diffusers at tiny widths with random weights, written to `folder`."""
    library, transformers = import_diffusers(), import_transformers()
    torch.manual_seed(5)
    size = save_tokenizer(folder / "tokenizer", "<|endoftext|>" if version == 1 else "!")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=9,
            hidden_act="quick_gelu" if version == 1 else "gelu",
            bos_token_id=size - 2,
            eos_token_id=size - 1,
        )
    )
    unet = library.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2 if version == 1 else (2, 4),
        use_linear_projection=version == 2,
    )
    vae = library.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,  # not 0.18215
    )
    for network in (text, unet, vae):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.25)
    kind, own = SCHEDULERS[solver]
    name = "StableDiffusionInpaintPipeline" if channels == 9 else "StableDiffusionPipeline"
    pipeline = getattr(library, name)(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(library, kind)(**BETAS, **own, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pipelines by solver and version, each made once."""
    root, made = tmp_path_factory.mktemp("stable"), {}

    def find(solver="ddim", version=1, channels=4):
        key = (solver, version, channels)
        if key not in made:
            folder = root / "-".join(map(str, key)).replace("+", "")
            folder.mkdir()
            made[key] = folder, make_pipeline(folder, *key)
        return made[key]

    return find


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8))


def mask_image():
    array = np.zeros((16, 16), np.uint8)
    array[4:12, 2:10] = 255
    return Image.fromarray(array)


PROMPT = {"prompt": "a red cat", "negative_prompt": "dog sky", "guidance_scale": 5.0}


def compare(folder, pipeline, solver, *, count=2, steps=6, tmp_path=None, **given):
    """(largest difference of the latents after each step, of the image) from theirs, of the same numbers."""
    latents = []

    def keep(pipe, index, t, values):
        latents.append(values["latents"])
        return {}

    generator = torch.Generator().manual_seed(3)
    shared = {"num_inference_steps": steps, "generator": generator, "output_type": "pt"}
    theirs = pipeline(
        **shared, **PROMPT, **given, num_images_per_prompt=count, callback_on_step_end=keep
    ).images
    model = ts.load(folder)
    metadata = model.metadata
    embeddings = [
        latent.encode_prompt(model, latent.tokenize(metadata, text))
        for text in (PROMPT["prompt"], PROMPT["negative_prompt"])
    ]
    expected = pipeline.encode_prompt(PROMPT["prompt"], "cpu", 1, True, PROMPT["negative_prompt"])
    errors = [float((a - b).abs().max()) for a, b in zip(embeddings, expected, strict=True)]
    text, empty = (each.expand(count, -1, -1) for each in embeddings)
    own = Solver(model.process, solver, steps)
    generator.manual_seed(3)
    known = None
    if "image" in given:
        image = torch.from_numpy(np.array(given["image"])).permute(2, 0, 1)[None].float() / 127.5 - 1
        mask = None
        if "mask_image" in given:
            mask = (torch.from_numpy(np.array(given["mask_image"]))[None, None] >= 128).float()
        known, noise = latent.prepare_known(
            model, ldm.Known, own, image, mask, given.get("strength", 0.8), count, generator, steps
        )
    else:
        noise = latent.draw(model, count, generator)
    ours = list(ldm.generate(model, own, noise, text, empty, PROMPT["guidance_scale"], known))
    assert len(ours) == len(latents)
    errors += [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, latents, strict=True)]
    decoded = (model.autoencoder.from_latents(ours[-1]) / 2 + 0.5).clamp(0, 1)
    assert theirs.std() > 0.05, "a blank image shows nothing"
    errors.append(float((decoded - theirs).detach().abs().max()))
    print(f"{folder.name}, {sorted(given)}: largest differences {[f'{each:.1e}' for each in errors]}")
    return errors


def cases(*quick):
    """Every solver; those that are not `quick` are left to the sweep."""
    return [pytest.param(each, marks=() if each in quick else pytest.mark.sweep) for each in SCHEDULERS]


@pytest.mark.parametrize("solver", cases("plms", "dpm_solver++"))
def test_text_to_image(folders, solver):
    folder, pipeline = folders(solver, 1 if solver in ("plms", "euler") else 2)
    assert max(compare(folder, pipeline, solver)) < TOLERANCE


def with_parts(name, pipeline):
    return getattr(import_diffusers(), name)(**pipeline.components, requires_safety_checker=False)


@pytest.mark.parametrize("solver", cases("plms"))
def test_image_to_image(folders, solver):
    folder, pipeline = folders(solver, 1 if solver in ("plms", "euler") else 2)
    other = with_parts("StableDiffusionImg2ImgPipeline", pipeline)
    other.set_progress_bar_config(disable=True)
    errors = compare(folder, other, solver, image=picture(), strength=0.6)
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("solver", cases("dpm_solver++"))
@pytest.mark.parametrize("strength", [pytest.param(1.0, marks=pytest.mark.sweep), 0.5])
def test_inpainting(folders, solver, strength):
    folder, pipeline = folders(solver, 1 if solver in ("plms", "euler") else 2)
    other = with_parts("StableDiffusionInpaintPipeline", pipeline)
    other.set_progress_bar_config(disable=True)
    given = {"image": picture(), "mask_image": mask_image(), "height": 16, "width": 16}
    assert max(compare(folder, other, solver, strength=strength, **given)) < TOLERANCE


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_inpainting_by_a_network_that_is_given_the_mask(folders, strength):
    folder, pipeline = folders("dpm_solver++", 1, 9)
    given = {"image": picture(), "mask_image": mask_image(), "height": 16, "width": 16}
    assert max(compare(folder, pipeline, "dpm_solver++", strength=strength, **given)) < TOLERANCE


def test_padding_of_both_versions(folders):
    for version, pad in ((1, "<|endoftext|>"), (2, "!")):
        folder, pipeline = folders("dpm_solver++" if version == 2 else "plms", version)
        metadata = ts.load(folder).metadata
        ours = latent.tokenize(metadata, "red cat")
        theirs = pipeline.tokenizer(
            ["red cat"], padding="max_length", max_length=9, truncation=True, return_tensors="pt"
        ).input_ids
        assert torch.equal(ours, theirs), (version, ours, theirs)
        assert ours[0, -1] == pipeline.tokenizer.convert_tokens_to_ids(pad)
        long = "red cat green dog sky red cat green dog"
        theirs = pipeline.tokenizer(
            [long], padding="max_length", max_length=9, truncation=True, return_tensors="pt"
        ).input_ids
        assert torch.equal(latent.tokenize(metadata, long), theirs)


def test_the_layer_of_the_text_that_is_read(folders):
    """The states before the last block, after the final norm."""
    folder, pipeline = folders("plms", 1)
    model = ts.load(folder)
    tokens = latent.tokenize(model.metadata, "red cat")
    last = latent.encode_prompt(model, tokens)
    model.text_layer = -2
    earlier = latent.encode_prompt(model, tokens)
    states = pipeline.text_encoder(tokens, output_hidden_states=True).hidden_states
    expected = model.text.final_norm(states[-2])
    assert torch.allclose(last, model.text.final_norm(states[-1]), atol=1e-6) or torch.allclose(
        last, states[-1], atol=1e-6
    )
    print(f"largest difference {(earlier - expected).abs().max():.1e}")
    assert torch.allclose(earlier, expected, atol=1e-6)
    assert not torch.allclose(last, expected, atol=1e-2)


def test_commands(capsys, folders, tmp_path):
    folder, pipeline = folders("plms", 1)
    out = tmp_path / "cat.png"
    options = ("--prompt", "a red cat", "--negative-prompt", "dog sky", "--guidance-scale", 5)
    code, printed, _ = run_cli(
        capsys, "sample", folder, *options, "--sampling-steps", 4, "--seed", 3, "-n", 2, "--out", out
    )
    assert code == 0
    assert printed.strip() == str(out)
    settings = {"num_samples": 2, "seed": 3, "sampling_steps": 4, **PROMPT}
    images = torch.stack(ts.sample(folder, **settings))
    generator = torch.Generator().manual_seed(3)
    theirs = pipeline(
        **PROMPT, num_inference_steps=4, generator=generator, num_images_per_prompt=2, output_type="np"
    ).images
    expected = torch.from_numpy((theirs * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
    difference = (images.int() - expected.int()).abs()
    print(f"{(difference > 0).sum()} of {difference.numel()} values differ, by at most {difference.max()}")
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    sliced = torch.stack(ts.sample(folder, attention_slices=2, **settings))
    assert (sliced.int() - images.int()).abs().max() <= 1
    half = torch.stack(ts.sample(folder, precision="bf16", **settings)).float()
    assert 0 < (half - images.float()).abs().mean() < 30
    assert "is sampled, not evaluated" in assert_rejected(capsys, "eval", folder, "--data", "shapes")
    picture().save(tmp_path / "start.png")
    mask_image().save(tmp_path / "mask.png")
    for given in (
        ("--init-image", tmp_path / "start.png", "--strength", 0.5),
        ("--inpaint-image", tmp_path / "start.png", "--mask", tmp_path / "mask.png", "--sampler", "euler"),
    ):
        code, _, _ = run_cli(capsys, "sample", folder, *options, "--sampling-steps", 4, *given, "--out", out)
        assert code == 0
    for given, words in (
        (("--sampler", "heun"), ("unknown sampler 'heun'",)),
        (("--strength", 0.5), ("--init-image",)),
        (("--init-image", tmp_path / "start.png", "--strength", 0.1), ("less than one",)),
        (("--init-image", tmp_path / "start.png", "--strength", 2), ("strength", "at most 1")),
        (("--precision", "fp64"), ("unknown precision 'fp64'",)),
        (("--mask", tmp_path / "mask.png"), ("both",)),
    ):
        line = assert_rejected(
            capsys, "sample", folder, *options, "--sampling-steps", 4, *given, "--out", out
        )
        assert all(word in line for word in words), line


def copy(folders, tmp_path, solver="plms"):
    return shutil.copytree(folders(solver, 1)[0], tmp_path / "copy")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_other_forms_of_the_weights(folders, tmp_path):
    folder = copy(folders, tmp_path)
    expected = ts.load(folder).state_dict()
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = list(tensors)
    shards = {f"diffusion_pytorch_model-{i}.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for name, part in shards.items():
        save_file({each: tensors[each] for each in part}, file.with_name(name))
    weight_map = {each: name for name, part in shards.items() for each in part}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    file.unlink()
    half = {name: each.half() for name, each in load_file(folder / "text_encoder/model.safetensors").items()}
    save_file(half, folder / "text_encoder/model.fp16.safetensors")
    (folder / "text_encoder/model.safetensors").unlink()
    model = ts.load(folder)
    for name, tensor in model.state_dict().items():
        exact = tensor if not name.startswith("text.") else tensor.half()
        assert tensor.dtype == torch.float32
        assert torch.equal(exact, expected[name] if exact is tensor else expected[name].half()), name


def test_what_a_folder_lacks_or_brings(folders, tmp_path, capsys):
    def refused(message, change):
        folder = copy(folders, tmp_path)
        change(folder)
        with pytest.raises(BadInput, match=message) as caught:
            ts.load(folder)
        assert "\n" not in str(caught.value)
        shutil.rmtree(folder)

    refused("lacks vae/", lambda folder: shutil.rmtree(folder / "vae"))
    refused(
        r"comes with code, unet/my_unet.py, which is never run",
        lambda folder: (folder / "unet" / "my_unet.py").write_text("boom"),
    )
    refused(
        "its unet is my_code.MyUNet, code of its own",
        lambda folder: edit(folder / "model_index.json", unet=["my_code", "MyUNet"]),
    )
    refused(
        r"comes with code of its own, \['pipeline', 'Mine'\]",
        lambda folder: edit(folder / "model_index.json", _class_name=["pipeline", "Mine"]),
    )
    refused(
        "holds a StableDiffusionXLPipeline",
        lambda folder: edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline"),
    )
    refused(
        "scheduler: .*rescale_betas_zero_snr = True",
        lambda folder: edit(folder / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
    )
    refused(
        "unet: .*class_embed_type = 'timestep'",
        lambda folder: edit(folder / "unet/config.json", class_embed_type="timestep"),
    )
    refused(
        "unet.* holds no weights",
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").unlink(),
    )
    refused(
        "text_encoder: .*num_hidden_layers|text_encoder do not fit",
        lambda folder: edit(folder / "text_encoder/config.json", num_hidden_layers=3),
    )


def test_a_safety_checker_that_is_absent_and_a_scheduler_that_we_lack(folders, tmp_path, capsys):
    folder = copy(folders, tmp_path)
    edit(folder / "model_index.json", scheduler=["diffusers", "HeunDiscreteScheduler"])
    edit(folder / "scheduler/scheduler_config.json", _class_name="HeunDiscreteScheduler")
    out = ("--prompt", "cat", "--sampling-steps", 2, "--out", tmp_path / "cat.png")
    line = assert_rejected(capsys, "sample", folder, *out)
    assert "HeunDiscreteScheduler, is not implemented here: give --sampler ddim" in line
    assert run_cli(capsys, "sample", folder, *out, "--sampler", "ddim")[0] == 0
    edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    code, _, said = run_cli(capsys, "sample", folder, *out, "--sampler", "ddim")
    assert code == 0
    assert "StableDiffusionSafetyChecker, is not there" in said


def test_the_scale_of_the_folder_is_used(folders):
    """The trap of 0.18215: an autoencoder of another scale."""
    folder, pipeline = folders("plms", 1)
    model = ts.load(folder)
    assert float(model.autoencoder.latent_scale) == pytest.approx(0.7)
    z = torch.randn(1, 4, 8, 8)
    expected = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    assert torch.allclose(model.autoencoder.from_latents(z), expected, atol=1e-5)


def test_created_by_name_with_a_folder_as_weights(folders):
    folder, _ = folders("plms", 1)
    config = stable_diffusion.read(folder).model_config
    model = ts.create("sd1", weights=folder, **config)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), ts.load(folder).parameters(), strict=True)
    )
