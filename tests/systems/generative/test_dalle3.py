"""DALL-E 3: the stages, what each leaves alone, and the commands as a new user types them."""

import json

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone import systems
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.systems.generative import dalle3
from torchstone.verify import verify


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run("dalle3")


def stages(**fields):
    return dalle3.build(replace_fields(dalle3.RECIPES["smoke"], {"device": "cpu", **fields}))


@pytest.mark.sweep
def test_every_reference_case_agrees():
    checks = verify(systems.find("dalle3")[0])
    assert all(check.passed for check in checks)
    assert len(checks) == 2 + 3 * 9


def test_each_stage_trains_its_own_part():
    all_stages, changed = stages(captioner_steps=4, steps=4), []
    before = None
    for run in all_stages:
        model = run.state["model"]
        before = {name: each.clone() for name, each in model.state_dict().items()}
        fit(run, intervals=Intervals(log=4, evaluate=4), quiet=True)
        after = model.state_dict()
        changed.append({name.split(".")[0] for name in before if not torch.equal(after[name], before[name])})
    assert changed == [{"captioner"}, set(), {"decoder"}]
    averaged = run.state["ema"].module.state_dict()
    frozen = [name for name in before if name.startswith("captioner.")]
    assert all(torch.equal(averaged[name], before[name]) for name in frozen)


@pytest.mark.parametrize(("ratio", "words"), [(0.0, 6), (1.0, 9)])
def test_words_of_no_training_caption_are_unknown(run, ratio, words):
    """Of short captions the decoder knows the six shapes alone, whatever the captioner wrote."""
    for last in stages(captioner=str(run), steps=2, synthetic_caption_ratio=ratio):
        if "captions" in last.state:
            fit(last, quiet=True)
    from torchstone.data.text.tokenizers import from_metadata

    vocab = set(from_metadata(last.metadata["tokenizer"]).get_vocab()) - {"[PAD]", "[START]", "[UNK]"}
    print(sorted(vocab))
    shapes = {"circle", "ring", "square", "diamond", "triangle", "cross"}
    assert vocab == shapes if ratio == 0 else len(vocab) >= words
    batch = next(last.stream)
    lengths = (batch.context != 0).sum(1)
    if ratio == 0:
        assert set(lengths.tolist()) <= {1, 2}


def test_a_captioner_can_be_another_runs(run, tmp_path):
    first, second = stages(captioner=str(run), steps=3, synthetic_caption_ratio=0.5)
    ours, theirs = first.state["model"].captioner.state_dict(), ts.load(run).captioner.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert second.metadata["synthetic_caption_ratio"] == 0.5
    with pytest.raises(BadInput, match="there is no captioner in"):
        next(stages(captioner=str(tmp_path)))


def test_commands(capsys, run, tmp_path):
    code, out, _ = run_cli(
        capsys,
        "sample",
        run,
        "--prompt",
        "red, small, on the left: circle",
        "-n",
        4,
        "--out",
        tmp_path / "a.png",
    )
    assert code == 0
    with Image.open(out.strip()) as image:
        assert image.size == (2 * 50 + 2, 2 * 50 + 2)
    a, b = (
        torch.stack(ts.sample(run, prompt="circle", num_samples=2, upsample=u)) for u in ("auto", "never")
    )
    assert a.shape == b.shape == (2, 3, 8, 8)
    assert not torch.equal(a, b)
    assert torch.equal(a, torch.stack(ts.sample(run, prompt="circle", num_samples=2)))
    assert not torch.equal(a, torch.stack(ts.sample(run, prompt="circle", num_samples=2, seed=1)))
    result = json.loads((run / "result.json").read_text())["metrics"]
    metrics = json.loads(run_cli(capsys, "eval", run, "--json")[1])
    assert metrics["loss"] == pytest.approx(result["test/loss"], rel=1e-5)
    picture = tmp_path / "red.png"
    Image.new("RGB", (20, 20), (220, 40, 40)).save(picture)
    (answer,) = json.loads(run_cli(capsys, "predict", run, picture, "--json")[1])
    print(answer)
    assert answer["text"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", "circel"), "no caption had the word 'circel'"),
        (("--prompt", "circle", "--upsample", "yes"), "unknown --upsample 'yes'"),
        (("--label", "3"), "without 'label'"),
        (("--sampling-steps", "1000"), "steps"),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys, run, tmp_path, words, message):
    assert message in assert_rejected(capsys, "sample", run, *words, "--out", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_trained_decoder_is_refused(run):
    model = ts.load(run)
    unfinished = {name: each for name, each in model.metadata.items() if name != "tokenizer"}
    with pytest.raises(BadInput, match="nothing to sample yet"):
        dalle3.sample(model, unfinished)
    with pytest.raises(BadInput, match="nothing to evaluate yet"):
        dalle3.evaluate(model, unfinished, "shapes", held_out=True)


def test_fields_that_make_no_mixture_are_refused(capsys, tmp_path):
    line = assert_rejected(
        capsys, "train", "dalle3/smoke", "--synthetic-caption-ratio", "1.5", "--out", tmp_path / "run"
    )
    assert "synthetic_caption_ratio must be 0 to 1" in line
    assert not (tmp_path / "run").exists()
