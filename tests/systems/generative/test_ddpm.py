"""DDPM from the command line and by its parts: labels, captions, filling in, the published network."""

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
from torchstone import references
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.diffusion.text_encoder import mean
from torchstone.parts.diffusion.unet_blocks import Block
from torchstone.runs.load import load_run
from torchstone.systems.generative import ddpm
from torchstone.systems.generative.ddpm import RECIPES, UNet, build, from_config, published
from torchstone.verify import relative_error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on digits of 8 × 8, told their labels."""
    folder = tmp_path_factory.mktemp("runs") / "labels"
    short = {"steps": 20, "judged": 40, "surveyed": 20, "levels": 20, "sampled": 5}
    ts.train("ddpm/smoke", **short, out=folder, quiet=True, intervals={"evaluate": 10})
    return folder


COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "white": (250,) * 3}
TINY = {"channels": 3, "size": 32, "widths": (8, 16), "attention": (False, True), "depth": 1,
        "patch": 4, "groups": 4, "head_width": 8, "reader": (2000, 10, 16, 1, 2),
        "sketch": 16}  # fmt: skip


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A run on pictures of one colour each, told its name."""
    root = tmp_path_factory.mktemp("painted")
    generator = np.random.RandomState(0)
    for number in range(120):
        name = list(COLOURS)[number % 4]
        colour = np.clip(np.array(COLOURS[name]) + generator.randint(-15, 16, 3), 0, 255)
        array = np.broadcast_to(colour.astype(np.uint8), (32, 32, 3))
        Image.fromarray(np.ascontiguousarray(array)).save(root / f"{number:03d}.png")
        (root / f"{number:03d}.txt").write_text(f"a {name} picture")
    fields = {
        "steps": 250,
        "batch": 24,
        "judged": 12,
        "sampled": 6,
        "levels": 100,
        "lr": 5e-3,
        "ema": 0.95,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ddpm.VARIANTS, "ddpm_emoji", ddpm.sized(**TINY))
        ts.train(
            "ddpm/emoji_text",
            data=str(root),
            out=root / "run",
            quiet=True,
            intervals={"evaluate": 250},
            **fields,
        )
        yield root / "run"


@pytest.mark.parametrize("condition", ["none", "label"])
def test_a_network_that_could_read_is_told_labels_or_nothing(condition, tmp_path, monkeypatch, capsys):
    """Its reader and sketch are left out, in training and in what is kept of it."""
    monkeypatch.setitem(ddpm.VARIANTS, "ddpm_emoji", ddpm.sized(**TINY))
    for name, colour in list(COLOURS.items())[:2]:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            shade = tuple(max(0, c - number) for c in colour)
            Image.new("RGB", (40, 30), shade).save(tmp_path / "photos" / name / f"{number}.png")
    run, sheet = tmp_path / "run", tmp_path / "sheet.png"
    short = {"steps": 2, "batch": 4, "judged": 8, "sampled": 2, "levels": 20}
    ts.train("ddpm/smoke", data=str(tmp_path / "photos"), variant="ddpm_emoji", out=run,
             condition=condition, quiet=True, **short)  # fmt: skip
    model = ts.load(run)
    assert (model.reader, model.sketch) == (None, None)
    assert model.classes == (2 if condition == "label" else 0)
    words = ("--label", "red") if condition == "label" else ()
    for command in (("sample", run, "-n", 3, "--out", sheet, *words), ("eval", run)):
        assert run_cli(capsys, *command)[0] == 0
    assert sheet.exists()
    assert "reads no text" in assert_rejected(capsys, "sample", run, "--prompt", "a", "--out", sheet)


def test_a_run_shows_its_samples_while_it_trains_and_is_judged(run):
    assert sorted(file.name for file in (run / "samples").iterdir()) == [
        "000000.png", "000010.png", "000020.png"
    ]  # fmt: skip
    with Image.open(run / "pictures" / "samples.gif") as film:
        assert film.n_frames == 3
    for name in ("samples.png", "nearest.png", "guidance.png", "curves.png"):
        assert (run / "pictures" / name).stat().st_size > 1000, name
    found = json.loads((run / "result.json").read_text())["metrics"]
    for name in ("loss", "bits_per_dimension", "distance", "agreement", "confident", "variety",
                 "guided_5_agreement", "ddim_distance", "ddpm_distance"):  # fmt: skip
        assert f"test/{name}" in found, name


def test_the_command_line_trains_evaluates_and_draws(run, tmp_path, capsys):
    code, out, _ = run_cli(capsys, "eval", run)
    assert code == 0
    assert "bits_per_dimension" in out
    assert "agreement" in out
    sheets = {}
    for name, words in {
        "plain": (),
        "again": (),
        "other": ("--seed", 1),
        "three": ("--label", 3, "--steps", 3),
        "guided": ("--guidance", 4),
        "drawn": ("--eta", 1),
        "ddpm": ("--sampler", "ddpm", "--steps", 20),
        "steered": ("--steer", 30, "--label", 3, "--steps", 3),
    }.items():
        file = tmp_path / f"{name}.png"
        code, out, _ = run_cli(capsys, "sample", run, "-n", 20, "--out", file, *words)
        assert code == 0
        assert out.strip() == str(file)
        with Image.open(file) as image:
            sheets[name] = np.asarray(image)
    assert sheets["plain"].shape == (2 * 50 + 2, 10 * 50 + 2)  # a class a column
    assert (sheets["plain"] == sheets["again"]).all()
    for name in ("other", "guided", "drawn", "ddpm"):
        assert (sheets["plain"] != sheets[name]).any(), name
    assert (sheets["three"] != sheets["steered"]).any()
    code, out, _ = run_cli(capsys, "show", "ddpm")
    assert code == 0
    for said in ("35,746,307", "113,673,219", "guidance", "half_hour"):
        assert said in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "eleven"), "no label 'eleven'"),
        (("--prompt", "cat"), "reads no text: use --label"),
        (("--steps", 21), "1 to 20 steps, not 21"),
        (("--eta", 2), "eta is between 0"),
        (("--sampler", "euler"), "no sampler 'euler'"),
        (("--known", "a.png"), "both a known picture and a mask"),
        (("--known", "a.png", "--mask", "b.png"), "a.png"),
        (("--temperature", 1), "without 'temperature'"),
    ],
)
def test_bad_input_is_refused_in_a_line(run, words, said, tmp_path, capsys):
    file = tmp_path / "sheet.png"
    code, _, err = run_cli(capsys, "sample", run, "--out", file, *words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not file.exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"levels": 0}, "at least 1 level"),
        ({"sampled": 101}, "1 to 100 steps, not 101"),
        ({"condition": "text"}, "reads no captions: use --variant ddpm_emoji"),
        ({"variant": "ddpm_mnist", "data": "nowhere"}, "nowhere"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(fields, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        ts.train("ddpm/smoke", out=tmp_path / "run", quiet=True, **fields)


def test_known_pixels_are_kept_and_the_rest_is_drawn(run, tmp_path):
    picture = np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    for name, array in (("known", picture), ("mask", mask)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    files = {name: tmp_path / f"{name}.png" for name in ("known", "mask")}
    made = torch.stack(ts.sample(run, count=4, label=3, again=2, **files))
    assert (made[:, 0, :, :4] == torch.from_numpy(picture[:, :4])).all()
    assert (made[:, 0, :, 4:] != torch.from_numpy(picture[:, 4:])).any()
    assert not torch.equal(made[0], made[1])


def test_what_is_drawn_comes_of_the_averaged_weights(run):
    model, _, _ = load_run(run)
    from safetensors.torch import load_file

    tensors = load_file(run / "checkpoint" / "model.safetensors")
    names = [name for name in tensors if name.startswith("ema.module.")]
    assert len(names) == len(model.state_dict())
    for name in names:
        assert torch.equal(tensors[name], model.state_dict()[name.removeprefix("ema.module.")])
    moved = [n for n in names if not torch.equal(tensors[n], tensors[n.replace("ema.module", "model")])]
    assert len(moved) > 10


def test_what_was_said_is_what_is_drawn(painted, tmp_path, capsys):
    """Captions of colours: the sheet shows the colour that was asked for, copies beside it."""
    errors = []
    for name in COLOURS:
        made = torch.stack(ts.sample(painted, count=4, prompt=f"a {name} picture", guidance=1.5))
        mean = made.float().mean((0, 2, 3))
        nearest = min(COLOURS, key=lambda n: (mean - torch.tensor(COLOURS[n])).abs().sum())
        errors.append((name, nearest, mean.tolist()))
    print(errors)
    assert all(asked == seen for asked, seen, _ in errors), errors
    file = tmp_path / "x.png"
    code, out, _ = run_cli(capsys, "sample", painted, "-n", 3, "--prompt", "red picture", "--out", file)
    assert code == 0
    assert out.strip() == str(file)
    with Image.open(file) as image:
        assert image.size == (3 * 102 + 6, 2 * 132 + 12 + 6)
    for prompt, said in (
        ("purple cat", "no caption had the word 'purple'"),
        ("", "prompt is empty"),
    ):
        code, _, err = run_cli(capsys, "sample", painted, "--prompt", prompt, "--out", file)
        assert (code, said in err) == (2, True)
    code, _, err = run_cli(capsys, "sample", painted, "--label", "red", "--out", file)
    assert (code, "use --prompt" in err) == (2, True)
    assert (painted / "pictures" / "nearest.png").exists()
    assert "test/nearness" in json.loads((painted / "result.json").read_text())["metrics"]


def test_without_its_data_a_prompt_is_still_drawn(painted, tmp_path, capsys):
    copy = shutil.copytree(painted, tmp_path / "copy")
    meta = copy / "checkpoint" / "meta.json"
    said = json.loads(meta.read_text())
    said["metadata"]["source"] = str(tmp_path / "gone")
    meta.write_text(json.dumps(said))
    file = tmp_path / "x.png"
    code, out, err = run_cli(capsys, "sample", copy, "-n", 2, "--prompt", "red", "--out", file)
    assert code == 0
    assert "without the nearest training pictures" in err
    assert file.exists()
    assert out.strip() == str(file)


@pytest.mark.parametrize("name", ["smoke", "emoji_text"])
def test_stopped_in_the_middle_it_ends_with_the_same_average(name, painted, tmp_path, monkeypatch):
    """The laws kill a whole process; here the average is looked at by itself."""
    forgets = {**TINY, "reader": (*TINY["reader"], 0.1, 0.2)}
    monkeypatch.setitem(ddpm.VARIANTS, "ddpm_emoji", ddpm.sized(**forgets))
    fields = {"data": str(painted.parent), "batch": 4} if name == "emoji_text" else {}
    recipe = dataclasses.replace(RECIPES[name], steps=9, judged=0, device="cpu", **fields)
    (whole,) = build(recipe)
    fit(whole, intervals=Intervals(evaluate=9), quiet=True)
    (cut,) = build(recipe)
    update, done = cut.update, []

    def stopped(batch):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(0)
        return update(batch)

    cut.update = stopped
    with pytest.raises(KeyboardInterrupt):
        fit(cut, tmp_path / "cut", intervals=Intervals(evaluate=9, save=4), quiet=True)
    (again,) = build(recipe)
    fit(again, tmp_path / "cut", intervals=Intervals(evaluate=9), quiet=True)
    states = [run.state["ema"].state_dict() for run in (whole, again)]
    assert int(states[0]["n_averaged"]) == 9
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


def pair(number):
    """One of theirs with ours of the same weights, in float64, and an input."""
    torch.manual_seed(0)
    net = list(references.unets(number + 1, seed=9))[number]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    net = net.double().eval()
    _, arguments = from_config(json.loads(net.to_json_string()))
    ours = UNet(**arguments).double().eval()
    ours.load_state_dict(published("", net.state_dict()))
    inputs = [torch.randn(2, *ours.shape).double(), torch.tensor([3, 700])]
    return ours, net, inputs + ([torch.tensor([1, 4])] if ours.classes else [])


@pytest.mark.parametrize("number", range(8))
def test_output_and_gradients_are_the_published_classs(number):
    ours, net, inputs = pair(number)
    x, *others = inputs
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    said, wanted = ours(mine, *others), net(theirs, *others).sample
    weight = torch.randn_like(wanted)
    (said * weight).sum().backward()
    (wanted * weight).sum().backward()
    gradients = published("", {n: p.grad for n, p in net.named_parameters()})
    outputs = relative_error(said, wanted)
    # a bias before a norm of single channels has no gradient but rounding: all by one measure
    largest = max(float(g.abs().max()) for g in gradients.values())
    worst = max(float((p.grad - gradients[n]).abs().max()) / largest for n, p in ours.named_parameters())
    print(f"{number}: output {outputs:.1e}, input {relative_error(mine.grad, theirs.grad):.1e}, {worst:.1e}")
    assert outputs < 1e-10
    assert relative_error(mine.grad, theirs.grad) < 1e-9
    assert worst < 1e-9
    assert len(gradients) == len(list(ours.parameters()))


def test_a_block_that_forgets_the_time_would_be_seen(monkeypatch):
    plain = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, e: plain(self, x, torch.zeros_like(e)))
    ours, net, inputs = pair(0)
    assert relative_error(ours(*inputs), net(*inputs).sample) > 1e-3


def test_a_network_can_be_told_nothing():
    ours = UNet((8, 8), (False, True), 1, channels=1, size=8, groups=2, classes=3, null=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert ours.nothing(2).tolist() == [3, 3]
    assert torch.equal(ours(x, t), ours(x, t, torch.tensor([3, 3])))
    assert not torch.allclose(ours(x, t), ours(x, t, torch.tensor([0, 1])))
    reads = UNet((8, 8), (False, True), 1, size=8, groups=2, reader=(9, 4, 8, 1, 2))
    for parameter in reads.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(reads(x, t), reads(x, t, torch.tensor([[1, 0, 0, 0]] * 2)))
    one = reads(x, t, torch.tensor([[1, 4, 5, 0]] * 2))
    assert not torch.allclose(reads(x, t), one)
    assert not torch.allclose(reads(x, t, torch.tensor([[1, 5, 4, 0]] * 2)), one), "order is lost"


def test_a_sketch_is_seen_and_learned_by_its_own_error(painted):
    """The loss is that of what is told and that of the sketch, whose target is the picture made coarse."""
    fields = {"data": str(painted.parent), "batch": 4, "clip": None, "precision": "fp32"}
    run = next(build(dataclasses.replace(RECIPES["emoji_text"], **fields)))
    net = run.state["model"]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = next(run.stream)
    x, t, epsilon, words = batch = batch._replace(x=torch.randn_like(batch.x))
    before = net(x, t, words)
    net.sketch.out.bias.data += 1
    assert not torch.allclose(net(x, t, words), before), "the sketch is not seen"
    small = x.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean((3, 5))
    apart = (net.sketch(mean(*net.reader(words))) - small).square().mean()
    noise = net.process.noise()
    wanted = noise.target("v", x, epsilon, t)
    error = (net(noise.add(x, epsilon, t), t, words) - wanted).square().mean()
    found = {name: float(value) for name, value in run.update(batch).items()}
    print(found, float(error), float(apart))
    assert found["sketch"] == pytest.approx(float(apart), rel=1e-5)
    assert found["told"] == pytest.approx(float(error), rel=1e-5)
    assert found["loss"] == pytest.approx(float(error + apart), rel=1e-5)


def test_patches_are_folded_and_unfolded_in_place():
    torch.manual_seed(0)
    ours = UNet((8,), (False,), 1, channels=2, size=8, groups=2, patch=2)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t = torch.zeros(1, 2, 16, 16), torch.tensor([3])
    base = ours(x, t)
    x[0, 1, 10, 3] = 1
    changed = (ours(x, t) - base).abs().amax((0, 1)) > 1e-3
    assert base.shape == x.shape
    assert changed[10, 3]
    far = ours(x, t)[..., :1, 15:] - base[..., :1, 15:]
    assert float(far.abs().max()) < float((ours(x, t) - base).abs().max()) / 3
