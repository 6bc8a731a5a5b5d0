"""VQ-VAE: both stages learn, the codebook stays with the frozen encoder, and it is used as a new user would."""

import json

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.systems.generative import vqvae


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    ts.train("vqvae/smoke", out=folder, device="cpu", eval_samples=40, quiet=True)
    return folder


def stages(**fields):
    return vqvae.build(replace_fields(vqvae.RECIPES["smoke"], {"device": "cpu", **fields}))


def test_the_prior_learns_and_leaves_the_autoencoder_alone():
    both = stages(steps=20, prior_steps=20)
    first = next(both)
    fit(first, intervals=Intervals(log=20, evaluate=20), quiet=True)
    model = first.state["model"]
    before = {name: each.clone() for name, each in model.state_dict().items()}
    second = next(both)
    fit(second, intervals=Intervals(log=20, evaluate=20), quiet=True)
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    print(f"{len(changed)} of {len(before)} tensors changed")
    assert changed == {name for name in before if name.startswith("prior.")}
    averaged = second.state["ema"].module.state_dict()
    frozen = [name for name in before if not name.startswith("prior.")]
    assert all(torch.equal(averaged[name], before[name]) for name in frozen), (
        "codes of one, decoder of another"
    )


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_codebook_comes_into_use(update):
    run = next(stages(steps=60, codebook_update=update))
    fit(run, intervals=Intervals(log=60, evaluate=60), quiet=True)
    without = next(stages(steps=60, codebook_update=update, revive_below=0.0))
    fit(without, intervals=Intervals(log=60, evaluate=60), quiet=True)
    used, unused = (each.results["test/code_perplexity"] for each in (run, without))
    print(f"{update}: perplexity {used:.2f} of 32, without moving unused entries {unused:.2f}")
    assert used > 8
    assert used > 1.5 * unused


def test_commands(capsys, run, tmp_path):
    result = json.loads((run / "result.json").read_text())["metrics"]
    metrics = json.loads(run_cli(capsys, "eval", run, "--json")[1])
    for name in ("loss", "psnr", "code_perplexity", "frechet_distance", "reconstruction_frechet_distance"):
        assert metrics[name] == pytest.approx(result[f"test/{name}"], rel=1e-5), name
    code, out, _ = run_cli(capsys, "sample", run, "-n", 8, "--label", 3, "--out", tmp_path / "threes.png")
    assert code == 0
    with Image.open(out.strip()) as image:
        assert image.size == (3 * 50 + 2, 3 * 50 + 2)
    threes, eights = (torch.stack(ts.sample(run, num_samples=8, label=k)) for k in ("3", 8))
    assert not torch.equal(threes, eights)
    assert torch.equal(threes, torch.stack(ts.sample(run, num_samples=8, label=3)))
    cold = torch.stack(ts.sample(run, num_samples=30, label=3, temperature=0.05)).float()
    warm = torch.stack(ts.sample(run, num_samples=30, label=3)).float()
    print(f"variance of cold samples {cold.var(0).mean():.1f}, of others {warm.var(0).mean():.1f}")
    assert cold.var(0).mean() < 0.5 * warm.var(0).mean()
    checkered = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    checkered[[0, -1]] = checkered[:, [0, -1]] = 0  # ink has an empty border
    Image.fromarray(checkered.byte().numpy()).save(tmp_path / "checkered.png")
    answer = json.loads(run_cli(capsys, "predict", run, tmp_path / "checkered.png", "--json")[1])[0]
    digit = tmp_path / "digit.png"
    from torchstone.data.vision.dataset import load_images

    Image.fromarray(load_images("digits", size=8, channels=1).test.images[0, 0].numpy()).save(digit)
    known = ts.predict(run, digit)[0]
    print(answer, known)
    assert answer["label"] == "unusual"
    assert known["label"] == "usual"
    assert known["log_prob"] > answer["log_prob"]
    assert known["psnr"] > answer["psnr"]
    explained = run_cli(capsys, "predict", run, digit, "--explain", tmp_path / "why.png")
    assert explained[0] == 0
    assert (tmp_path / "why.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--label", "eleven"), "no label 'eleven'"),
        (("--temperature", "0"), "temperature must be a positive number"),
        (("--prompt", "a"), "without 'prompt'"),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys, run, tmp_path, words, message):
    assert message in assert_rejected(capsys, "sample", run, *words, "--out", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(BadInput, match="cannot be halved"):
        vqvae.VQVAE(size=10)
