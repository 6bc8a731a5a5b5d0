"""DDPM from the command line and by its parts: labels, captions, inpainting, the published network."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.diffusion.process import DiffusionProcess
from torchstone.parts.diffusion.text_encoder import masked_mean
from torchstone.parts.diffusion.unet_blocks import ResnetBlock
from torchstone.references.diffusers import random_unets
from torchstone.runs.load import load_run
from torchstone.systems.generative import ddpm
from torchstone.systems.generative.ddpm import (
    RECIPES,
    build,
    from_config,
    p_sample,
    published,
    q_sample,
    training_loss,
    unet,
)
from torchstone.tasks.transfer import load_weights
from torchstone.tasks.vision import feature_classifier
from torchstone.verify import relative_error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on digits of 8 × 8, conditioned on their labels."""
    folder = tmp_path_factory.mktemp("runs") / "labels"
    fields = {
        "steps": 20,
        "eval_samples": 40,
        "guidance_sweep_samples": 20,
        "timesteps": 20,
        "sampling_steps": 5,
    }
    ts.train("ddpm/smoke", **fields, out=folder, quiet=True, intervals={"evaluate": 10})
    return folder


COLORS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "white": (250,) * 3}
TEXT_ENCODER = {"vocab_size": 2000, "max_length": 10, "width": 16, "depth": 1, "heads": 2}
TINY = {
    "channels": 3,
    "size": 32,
    "widths": (8, 16),
    "attention": (False, True),
    "depth": 1,
    "patch": 4,
    "groups": 4,
    "head_width": 8,
    "text_encoder": TEXT_ENCODER,
    "coarse_head": 16,
}


@pytest.fixture(scope="module")
def color_run(tmp_path_factory):
    """A run on images of one color each, with its name as the caption."""
    root = tmp_path_factory.mktemp("colors")
    generator = np.random.RandomState(0)
    for number in range(120):
        name = list(COLORS)[number % 4]
        color = np.clip(np.array(COLORS[name]) + generator.randint(-15, 16, 3), 0, 255)
        array = np.broadcast_to(color.astype(np.uint8), (32, 32, 3))
        Image.fromarray(np.ascontiguousarray(array)).save(root / f"{number:03d}.png")
        (root / f"{number:03d}.txt").write_text(f"a {name} picture")
    fields = {
        "steps": 250,
        "batch_size": 24,
        "eval_samples": 12,
        "sampling_steps": 6,
        "timesteps": 100,
        "lr": 5e-3,
        "ema_decay": 0.95,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ddpm.VARIANTS, "ddpm_emoji", ddpm.make_variant(**TINY))
        ts.train(
            "ddpm/emoji_text",
            data=str(root),
            out=root / "run",
            quiet=True,
            intervals={"evaluate": 250},
            **fields,
        )
        yield root / "run"


@pytest.fixture
def short_classifier(monkeypatch):
    """The classifier that judges samples trains 10 steps: enough where nobody reads what it says."""
    fit = feature_classifier.fit

    def shortened(run, **options):
        run.steps = 10
        fit(run, intervals=Intervals(log=10, evaluate=10), quiet=options["quiet"])

    monkeypatch.setattr(feature_classifier, "fit", shortened)


@pytest.mark.usefixtures("short_classifier")
@pytest.mark.parametrize("condition", [pytest.param("none", marks=pytest.mark.sweep), "label"])
@pytest.mark.sweep
def test_variant_with_text_encoder_trains_without_captions(condition, tmp_path, monkeypatch, capsys):
    """Its text encoder and coarse head are left out, in training and in the checkpoint."""
    monkeypatch.setitem(ddpm.VARIANTS, "ddpm_emoji", ddpm.make_variant(**TINY))
    for name, color in list(COLORS.items())[:2]:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            shade = tuple(max(0, c - number) for c in color)
            Image.new("RGB", (40, 30), shade).save(tmp_path / "photos" / name / f"{number}.png")
    run, sheet = tmp_path / "run", tmp_path / "sheet.png"
    short = {"steps": 2, "batch_size": 4, "eval_samples": 8, "sampling_steps": 2, "timesteps": 20}
    ts.train(
        "ddpm/smoke",
        data=str(tmp_path / "photos"),
        variant="ddpm_emoji",
        out=run,
        condition=condition,
        quiet=True,
        **short,
    )
    model = ts.load(run)
    assert (model.text_encoder, model.coarse_head) == (None, None)
    assert model.config.num_classes == (2 if condition == "label" else 0)
    words = ("--label", "red") if condition == "label" else ()
    for command in (("sample", run, "-n", 3, "--out", sheet, *words), ("eval", run)):
        assert run_cli(capsys, *command)[0] == 0
    assert sheet.exists()
    assert "reads no text" in assert_rejected(capsys, "sample", run, "--prompt", "a", "--out", sheet)


def test_run_saves_sample_sheets_and_metrics(run):
    assert sorted(file.name for file in (run / "samples").iterdir()) == [
        "000000.png",
        "000010.png",
        "000020.png",
    ]
    with Image.open(run / "pictures" / "samples.gif") as film:
        assert film.n_frames == 3
    for name in ("samples.png", "nearest.png", "guidance.png", "curves.png"):
        assert (run / "pictures" / name).stat().st_size > 1000, name
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    for name in (
        "loss",
        "bits_per_dimension",
        "frechet_distance",
        "label_accuracy",
        "confident_rate",
        "relative_variance",
        "guided_5_label_accuracy",
        "ddim_frechet_distance",
        "ddpm_frechet_distance",
    ):
        assert f"test/{name}" in metrics, name


def test_cli_evaluates_and_samples(run, tmp_path, capsys):
    code, out, _ = run_cli(capsys, "eval", run)
    assert code == 0
    assert "bits_per_dimension" in out
    assert "label_accuracy" in out
    sheets = {}
    for name, options in {
        "plain": (),
        "again": (),
        "other seed": ("--seed", 1),
        "three": ("--label", 3, "--sampling-steps", 3),
        "guided": ("--guidance-scale", 4),
        "eta": ("--eta", 1),
        "ddpm": ("--sampler", "ddpm", "--sampling-steps", 20),
        "by classifier": ("--classifier-scale", 30, "--label", 3, "--sampling-steps", 3),
    }.items():
        file = tmp_path / f"{name}.png"
        code, out, _ = run_cli(capsys, "sample", run, "-n", 20, "--out", file, *options)
        assert code == 0
        assert out.strip() == str(file)
        with Image.open(file) as image:
            sheets[name] = np.asarray(image)
    assert sheets["plain"].shape == (2 * 50 + 2, 10 * 50 + 2)  # a class a column
    assert (sheets["plain"] == sheets["again"]).all()
    for name in ("other seed", "guided", "eta", "ddpm"):
        assert (sheets["plain"] != sheets[name]).any(), name
    assert (sheets["three"] != sheets["by classifier"]).any()
    code, out, _ = run_cli(capsys, "show", "ddpm")
    assert code == 0
    for text in ("35,746,307", "113,673,219", "guidance", "half_hour"):
        assert text in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "eleven"), "no label 'eleven'"),
        (("--prompt", "cat"), "reads no text: use --label"),
        (("--sampling-steps", 21), "1 to 20 steps, not 21"),
        (("--eta", 2), "eta is between 0"),
        (("--sampler", "euler"), "unknown sampler 'euler'"),
        (("--inpaint-image", "a.png"), "both an image to inpaint and a mask"),
        (("--inpaint-image", "a.png", "--mask", "b.png"), "a.png"),
        (("--temperature", 1), "without 'temperature'"),
    ],
)
def test_sample_refuses_bad_options_in_one_line(run, options, message, tmp_path, capsys):
    file = tmp_path / "sheet.png"
    code, _, err = run_cli(capsys, "sample", run, "--out", file, *options)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not file.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timesteps": 0}, "timesteps must be at least 1, not 0"),
        ({"sampling_steps": 101}, "1 to 100 steps, not 101"),
        ({"condition": "text"}, "reads no captions: use --variant ddpm_emoji"),
        ({"variant": "ddpm_mnist", "data": "nowhere"}, "nowhere"),
    ],
)
def test_recipe_refuses_impossible_fields(fields, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        ts.train("ddpm/smoke", out=tmp_path / "run", quiet=True, **fields)


def test_sample_inpaints_around_known_pixels(run, tmp_path):
    picture = np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    for name, array in (("inpaint_image", picture), ("mask", mask)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    files = {name: tmp_path / f"{name}.png" for name in ("inpaint_image", "mask")}
    samples = torch.stack(ts.sample(run, num_samples=4, label=3, resample_steps=2, **files))
    assert (samples[:, 0, :, :4] == torch.from_numpy(picture[:, :4])).all()
    assert (samples[:, 0, :, 4:] != torch.from_numpy(picture[:, 4:])).any()
    assert not torch.equal(samples[0], samples[1])


def test_load_run_has_the_ema_weights(run):
    model, _, _ = load_run(run)
    from safetensors.torch import load_file

    tensors = load_file(run / "checkpoint" / "model.safetensors")
    names = [name for name in tensors if name.startswith("ema.module.")]
    assert len(names) == len(model.state_dict())
    for name in names:
        assert torch.equal(tensors[name], model.state_dict()[name.removeprefix("ema.module.")])
    differ = [n for n in names if not torch.equal(tensors[n], tensors[n.replace("ema.module", "model")])]
    assert len(differ) > 10


@pytest.mark.sweep
def test_prompts_sample_what_they_name(color_run, tmp_path, capsys):
    """Captions of colors: the sheet shows the color of the prompt, and the nearest training images."""
    results = []
    for name in COLORS:
        samples = ts.sample(color_run, num_samples=4, prompt=f"a {name} picture", guidance_scale=1.5)
        mean = torch.stack(samples).float().mean((0, 2, 3))
        nearest = min(COLORS, key=lambda n: (mean - torch.tensor(COLORS[n])).abs().sum())
        results.append((name, nearest, mean.tolist()))
    print(results)
    assert all(prompt == color for prompt, color, _ in results), results
    file = tmp_path / "x.png"
    code, out, _ = run_cli(capsys, "sample", color_run, "-n", 3, "--prompt", "red picture", "--out", file)
    assert code == 0
    assert out.strip() == str(file)
    with Image.open(file) as image:
        assert image.size == (3 * 102 + 6, 2 * 132 + 12 + 6)
    for prompt, message in (("purple cat", "no caption had the word 'purple'"), ("", "prompt is empty")):
        code, _, err = run_cli(capsys, "sample", color_run, "--prompt", prompt, "--out", file)
        assert (code, message in err) == (2, True)
    code, _, err = run_cli(capsys, "sample", color_run, "--label", "red", "--out", file)
    assert (code, "use --prompt" in err) == (2, True)
    assert (color_run / "pictures" / "nearest.png").exists()
    assert "test/nn_distance_ratio" in json.loads((color_run / "result.json").read_text())["metrics"]


@pytest.mark.sweep
def test_prompts_are_sampled_without_the_training_data(color_run, tmp_path, capsys):
    copy = shutil.copytree(color_run, tmp_path / "copy")
    file = copy / "checkpoint" / "meta.json"
    meta = json.loads(file.read_text())
    meta["metadata"]["source"] = str(tmp_path / "gone")
    file.write_text(json.dumps(meta))
    file = tmp_path / "x.png"
    code, out, err = run_cli(capsys, "sample", copy, "-n", 2, "--prompt", "red", "--out", file)
    assert code == 0
    assert "without the nearest training images" in err
    assert file.exists()
    assert out.strip() == str(file)


@pytest.mark.parametrize("name", ["smoke", "emoji_text"])
@pytest.mark.sweep
def test_interrupted_run_ends_with_the_same_ema(name, color_run, tmp_path, monkeypatch):
    """The laws kill a whole process; here the average is looked at by itself."""
    text_encoder = {**TEXT_ENCODER, "dropout": 0.1, "word_dropout": 0.2}
    variant = ddpm.make_variant(**{**TINY, "text_encoder": text_encoder})
    monkeypatch.setitem(ddpm.VARIANTS, "ddpm_emoji", variant)
    fields = {"data": str(color_run.parent), "batch_size": 4} if name == "emoji_text" else {}
    recipe = dataclasses.replace(RECIPES[name], steps=9, eval_samples=0, device="cpu", **fields)
    (uninterrupted,) = build(recipe)
    fit(uninterrupted, intervals=Intervals(evaluate=9), quiet=True)
    (cut,) = build(recipe)
    update, done = cut.update, []

    def interrupt(batch):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(0)
        return update(batch)

    cut.update = interrupt
    with pytest.raises(KeyboardInterrupt):
        fit(cut, tmp_path / "cut", intervals=Intervals(evaluate=9, save=4), quiet=True)
    (resumed,) = build(recipe)
    fit(resumed, tmp_path / "cut", intervals=Intervals(evaluate=9), quiet=True)
    states = [run.state["ema"].state_dict() for run in (uninterrupted, resumed)]
    assert int(states[0]["n_averaged"]) == 9
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@pytest.mark.parametrize("prediction_type", ["epsilon", "x0", "v"])
def test_training_loss_is_the_error_at_the_noisy_image(prediction_type):
    """Zero for the exact target, and the mean square of what is added to it."""
    process = DiffusionProcess(timesteps=40, prediction_type=prediction_type)
    schedule = process.noise_schedule()
    x0, epsilon = torch.randn(2, 5, 1, 4, 4)
    t, labels = torch.tensor([0, 3, 12, 30, 39]), torch.arange(5)
    target = schedule.training_target(prediction_type, x0, epsilon, t)
    alpha_bar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)

    def net(x_t, timesteps, context):
        assert torch.allclose(x_t, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * epsilon)
        assert torch.equal(timesteps, t)
        assert torch.equal(context, labels)
        return target + error

    batch = DiffusionBatch(x0, t, epsilon, labels)
    for error in (torch.zeros_like(x0), torch.randn_like(x0)):
        loss = training_loss(net, process, schedule, batch)
        assert float(loss) == pytest.approx(float(error.square().mean()), rel=1e-5, abs=1e-12)


def test_p_sample_is_algorithm_2():
    process = DiffusionProcess(timesteps=40, clip_sample_range=None, variance="fixed_large")
    schedule = process.noise_schedule()
    x, predicted = torch.randn(2, 6, 3)
    t = torch.tensor([39, 20, 10, 5, 1, 0])
    beta, alpha_bar = (table[t][:, None] for table in (schedule.betas, schedule.alphas_cumprod))
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    expected = (x - beta / (1 - alpha_bar).sqrt() * predicted) / (1 - beta).sqrt()
    expected = expected + beta.sqrt() * z * (t > 0)[:, None]
    generator = torch.Generator().manual_seed(3)
    output, x0 = p_sample(lambda x, t: predicted, process, schedule, x, t, t - 1, generator)
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(q_sample(schedule, x0, t, predicted), x, atol=1e-5)


def unet_pair(number):
    """diffusers' network and ours with the same weights, in float64, and an input."""
    torch.manual_seed(0)
    net = list(random_unets(number + 1, seed=9))[number]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    net = net.double().eval()
    _, model_config = from_config(json.loads(net.to_json_string()))
    ours = unet(**model_config).double().eval()
    ours.load_state_dict(published("", net.state_dict()))
    inputs = [torch.randn(2, *ours.shape).double(), torch.tensor([3, 700])]
    return ours, net, inputs + ([torch.tensor([1, 4])] if ours.config.num_classes else [])


@pytest.mark.parametrize("number", range(8))
def test_unet_output_and_gradients_match_diffusers(number):
    ours, net, inputs = unet_pair(number)
    x, *others = inputs
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, expected = ours(mine, *others), net(theirs, *others).sample
    weight = torch.randn_like(expected)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    gradients = published("", {n: p.grad for n, p in net.named_parameters()})
    error = relative_error(output, expected)
    # a bias before a norm of single channels has no gradient but rounding: all by one measure
    largest = max(float(g.abs().max()) for g in gradients.values())
    worst = max(float((p.grad - gradients[n]).abs().max()) / largest for n, p in ours.named_parameters())
    print(f"{number}: output {error:.1e}, input {relative_error(mine.grad, theirs.grad):.1e}, {worst:.1e}")
    assert error < 1e-10
    assert relative_error(mine.grad, theirs.grad) < 1e-9
    assert worst < 1e-9
    assert len(gradients) == len(list(ours.parameters()))


def test_unet_parity_detects_a_block_without_the_timestep(monkeypatch):
    plain = ResnetBlock.forward
    monkeypatch.setattr(ResnetBlock, "forward", lambda self, x, e: plain(self, x, torch.zeros_like(e)))
    ours, net, inputs = unet_pair(0)
    assert relative_error(ours(*inputs), net(*inputs).sample) > 1e-3


def test_unet_without_context_has_the_null_context():
    config = {"widths": (8, 8), "attention": (False, True), "depth": 1, "size": 8, "groups": 2}
    ours = unet(**config, channels=1, num_classes=3, null_label=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert ours.null_context(2).tolist() == [3, 3]
    assert torch.equal(ours(x, t), ours(x, t, torch.tensor([3, 3])))
    assert not torch.allclose(ours(x, t), ours(x, t, torch.tensor([0, 1])))
    sizes = {"vocab_size": 9, "max_length": 4, "width": 8, "depth": 1, "heads": 2}
    text = unet(**config, text_encoder=sizes)
    for parameter in text.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(text(x, t), text(x, t, torch.tensor([[1, 0, 0, 0]] * 2)))
    one = text(x, t, torch.tensor([[1, 4, 5, 0]] * 2))
    assert not torch.allclose(text(x, t), one)
    assert not torch.allclose(text(x, t, torch.tensor([[1, 5, 4, 0]] * 2)), one), "order is lost"


def test_unet_loads_checkpoints_of_earlier_versions():
    """Their text encoder is a list of numbers, their process has other names, and so have their weights."""
    new = unet(**TINY, process={"timesteps": 100, "prediction_type": "v", "beta_schedule": "cosine"})
    old_config = TINY | {"text_encoder": list(TEXT_ENCODER.values())}
    loaded = unet(**old_config, process={"levels": 100, "told": "v", "schedule": "cosine"})
    assert loaded.process == new.process
    names = {
        "text_encoder.token_embedding.": "reader.tokens.",
        "text_encoder.position_embedding.": "reader.places.",
        "text_encoder.": "reader.",
        "text_projection.": "summary.",
        "coarse_head.": "sketch.",
        "reader.layers.0.mlp.": "reader.layers.0.feed.",
    }
    old = {}
    for key, tensor in new.state_dict().items():
        for new_name, old_name in names.items():
            if key.startswith(new_name):
                key = key.replace(new_name, old_name)
        old[key] = tensor
    assert len(old.keys() - new.state_dict().keys()) > 15
    for load in (loaded.load_state_dict, lambda tensors: load_weights(loaded, tensors, "old")):
        for parameter in loaded.parameters():
            nn.init.constant_(parameter, 7.0)
        load(old)
        for key, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, new.state_dict()[key]), key


@pytest.mark.sweep
def test_coarse_head_is_an_input_and_has_a_loss_of_its_own(color_run):
    """The loss is the sum of the denoising loss and of the coarse head's, whose target is the image at its
    resolution."""
    fields = {"data": str(color_run.parent), "batch_size": 4}
    optim = dataclasses.replace(RECIPES["emoji_text"].optim, max_grad_norm=None, precision="fp32")
    run = next(build(dataclasses.replace(RECIPES["emoji_text"], **fields, optim=optim)))
    net = run.state["model"]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = next(run.stream)
    x, t, epsilon, tokens = batch = batch._replace(x=torch.randn_like(batch.x))
    before = net(x, t, tokens)
    net.coarse_head.out.bias.data += 1
    assert not torch.allclose(net(x, t, tokens), before), "the coarse image is no input"
    small = x.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean((3, 5))
    coarse = (net.coarse_head(masked_mean(*net.text_encoder(tokens))) - small).square().mean()
    schedule = net.process.noise_schedule()
    target = schedule.training_target("v", x, epsilon, t)
    error = (net(schedule.add_noise(x, epsilon, t), t, tokens) - target).square().mean()
    metrics = {name: float(value) for name, value in run.update(batch).items()}
    print(metrics, float(error), float(coarse))
    assert metrics["coarse_loss"] == pytest.approx(float(coarse), rel=1e-5)
    assert metrics["denoising_loss"] == pytest.approx(float(error), rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(error + coarse), rel=1e-5)


def test_patches_are_folded_and_unfolded_in_place():
    torch.manual_seed(0)
    ours = unet(widths=(8,), attention=(False,), depth=1, channels=2, size=8, groups=2, patch=2)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t = torch.zeros(1, 2, 16, 16), torch.tensor([3])
    base = ours(x, t)
    x[0, 1, 10, 3] = 1
    changed = (ours(x, t) - base).abs().amax((0, 1)) > 1e-3
    assert base.shape == x.shape
    assert changed[10, 3]
    distant = ours(x, t)[..., :1, 15:] - base[..., :1, 15:]
    assert float(distant.abs().max()) < float((ours(x, t) - base).abs().max()) / 3
