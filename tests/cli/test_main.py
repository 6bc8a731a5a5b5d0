"""The command line as a new user types it: what it prints, where it writes, how it refuses."""

import gc
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.cli import main
from torchstone.cli.commands.predict import lines
from torchstone.cli.summary import _verb
from torchstone.engine import checkpoint
from torchstone.errors import BadInput
from torchstone.systems import CATALOGUE


@pytest.fixture
def run(trained_run):
    """One finished run, trained once: 150 steps, a checkpoint every 40."""
    return trained_run("lenet5")


@pytest.fixture
def copy(trained_copy):
    return trained_copy("lenet5")


def test_list_shows_every_system(capsys):
    code, out, _ = run_cli(capsys, "list")
    assert code == 0
    for entry in ts.list_systems():
        assert entry.name in out
        assert entry.title in out
    every = run_cli(capsys, "list", "--variants")[1]
    for entry in ts.list_systems():
        assert entry.paper in every
        assert all(variant in every for variant in entry.variants)
    entries = json.loads(run_cli(capsys, "list", "--json")[1])
    assert [e["name"] for e in entries] == [e.name for e in ts.list_systems()]
    assert set(entries[0]) >= {"name", "chapter", "paper", "year", "variants", "recipes"}
    chapter = json.loads(run_cli(capsys, "list", "--chapter", "convolutional", "--json")[1])
    assert {e["chapter"] for e in chapter} == {"convolutional"}


def test_show_is_a_card(capsys):
    _, out, _ = run_cli(capsys, "show", "lenet5")
    for said in ("LeCun", "61,706", "60,000", "16×10×10", "416,520", "smoke", "What differs"):
        assert said in out
    _, out, _ = run_cli(capsys, "show", "lenet5_paper")
    assert "TableConvolution" in out
    assert "61,706 parameters, input" not in out


def test_train_leaves_a_whole_run_folder(run):
    names = set(os.listdir(run))
    assert {"recipe.json", "environment.json", "metrics.jsonl", "result.json", "pictures"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    files = set(os.listdir(run / "checkpoint")) - {"best.safetensors"}  # absent if the last is the best
    assert files == {"model.safetensors", "state.pt", "meta.json"}
    pictures = {"curves.png", "confusion.png", "mistakes.png", "filters.png", "features.png"}
    assert set(os.listdir(run / "pictures")) == pictures
    for name in pictures:
        assert np.asarray(Image.open(run / "pictures" / name)).std() > 1
    result = json.loads((run / "result.json").read_text())
    assert result["parameters"] == 61_706
    assert result["metrics"]["test/accuracy"] > 0.9
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert json.loads((run / "recipe.json").read_text())["fields"]["steps"] == 150


def test_tensorboard_events_hold_the_same_numbers(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ours = {row["step"]: row["loss"] for row in rows if row["split"] == "train"}
    theirs = {e.step: e.value for e in events.Scalars("train/loss")}
    assert theirs.keys() == ours.keys()
    assert all(abs(theirs[step] - ours[step]) < 1e-6 for step in ours)


def test_train_prints_what_it_reached_and_where(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli(capsys, "train", "lenet5/smoke", "--steps", "3", "--weight-decay", "0.1")
    assert code == 0
    assert "test/accuracy" in out
    assert os.path.join("runs", "lenet5-smoke") in out
    saved = json.loads((tmp_path / "runs" / "lenet5-smoke" / "recipe.json").read_text())
    assert (saved["fields"]["steps"], saved["fields"]["optim"]["weight_decay"]) == (3, 0.1)
    code, out, _ = run_cli(capsys, "train", "lenet5/smoke", "--steps", "3")
    assert os.path.join("runs", "lenet5-smoke-2") in out


def test_a_variant_s_name_trains_that_variant(tmp_path):
    ts.train("lenet5_paper/smoke", steps=2, out=tmp_path / "a", quiet=True)
    assert type(ts.load(tmp_path / "a")).__name__ == "LeNet5Paper"


def test_eval_repeats_the_test_result(capsys, run):
    code, out, _ = run_cli(capsys, "eval", run, "--json")
    measured = json.loads(out)
    result = json.loads((run / "result.json").read_text())["metrics"]
    assert code == 0
    assert measured["accuracy"] == pytest.approx(result["test/accuracy"], abs=1e-12)
    assert measured["images"] == 359


def test_predict_says_label_and_probabilities(capsys, run, tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    right = 0
    for number in range(20):
        # as a scan: dark on light, enlarged, in colour
        picture = 255 - digits.images[number] / 16 * 255
        big = Image.fromarray(picture.astype(np.uint8)).resize((160, 160), Image.Resampling.BICUBIC)
        page = Image.new("RGB", (300, 240), "white")
        page.paste(big, (60, 30))
        page.save(tmp_path / f"{number:02}.png")
    code, out, _ = run_cli(capsys, "predict", run, tmp_path, "--json")
    answers = json.loads(out)
    assert code == 0
    assert [os.path.basename(a["input"]) for a in answers] == [f"{n:02}.png" for n in range(20)]
    for answer, label in zip(answers, digits.target[:20], strict=True):
        assert set(answer["probabilities"]) == {str(d) for d in range(10)}
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["probability"] == max(answer["probabilities"].values())
        right += answer["label"] == str(label)
    print(f"{right} of 20 scans read right")
    assert right >= 16
    assert "%" in run_cli(capsys, "predict", run, tmp_path / "00.png")[1]
    # inputs may come after options
    files = [tmp_path / f"{number:02}.png" for number in (1, 2)]
    after = run_cli(capsys, "predict", run, "--device", "cpu", *files)[1]
    assert after == run_cli(capsys, "predict", run, *files, "--device", "cpu")[1]
    assert "eval has no option 'more'" in assert_rejected(capsys, "eval", run, "--device", "cpu", "more")


def test_predict_one_bad_input_is_one_line_among_the_answers(capsys, run, tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for name, at in (("a", 0), ("c", 1)):
        big = Image.fromarray((digits.images[at] / 16 * 255).astype(np.uint8)).resize((64, 64))
        big.save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG no")
    Image.new("L", (64, 64), 200).save(tmp_path / "d.png")
    files = [tmp_path / f"{name}.png" for name in "abcd"]
    for inputs in (files, [tmp_path]):  # and so in a folder
        code, out, err = run_cli(capsys, "predict", run, *inputs)
        rows = out.strip().splitlines()
        assert code == 2
        assert len(rows) == 4
        assert [row.startswith("no answer: ") for row in rows] == [False, True, False, True]
        assert "b.png is not a readable image" in rows[1]
        assert "d.png shows no ink" in rows[3]
        assert "2 of 4 inputs without an answer" in err
    code, out, _ = run_cli(capsys, "predict", run, *files, "--json", "--explain", tmp_path / "why.png")
    answers = json.loads(out)
    assert code == 2
    assert ["error" in answer for answer in answers] == [False, True, False, True]
    assert (tmp_path / "why.png").exists()
    with pytest.raises(BadInput, match=r"b\.png"):
        ts.predict(run, files)


def test_predict_lines_name_the_file_that_a_text_is_of(tmp_path):
    sound = tmp_path / "a.wav"
    sound.touch()
    answer = {"input": str(sound), "text": "1 2 3"}
    assert lines(answer, is_named=True) == [f"{sound}: 1 2 3"]
    assert lines(answer) == ["1 2 3"]
    assert lines({"input": "ein Mann", "text": "a man"}, is_named=True) == ["a man"]


@pytest.mark.parametrize(
    ("system", "metadata", "verb"),
    [
        ("ctc", {"task": "speech"}, "predict"),
        ("seq2seq", {"task": "translate"}, "predict"),
        ("t5", {"task": "texts"}, "predict"),
        ("bert", {"task": "masked"}, "predict"),
        ("gru", {"task": "forecast"}, "predict"),
        ("rnn", {"task": "adding"}, "predict"),
        ("lstm", {"task": "label", "classes": []}, "predict"),
        ("lstm", {"task": "music"}, "sample"),
        ("gpt", {"task": "language"}, "sample"),
        ("vae", {"task": "autoencode"}, "sample"),
        ("cgan", {"task": "adversarial", "classes": []}, "sample"),
    ],
)
def test_summary_names_a_command_that_the_run_has(system, metadata, verb):
    assert _verb(system, metadata) == verb


def test_sample_refuses_numbers_that_are_none(capsys, trained_run):
    for words, said in [
        (("--temperature", "nan"), "temperature must be a finite number, not nan"),
        (("--top-p", "inf"), "top_p must be a finite number"),
        (("--seed", "9" * 22), "seed must be at least 0 and below"),
    ]:
        assert said in assert_rejected(capsys, "sample", trained_run("gpt"), *words)
    with pytest.raises(BadInput, match="seed must be at least 0"):
        ts.play(trained_run("dqn"), seed=-1)


def test_predict_lines_say_what_their_figure_is():
    """One figure for one answer, and no rank or share that reads like confidence."""
    said = [
        *lines({"input": "a", "label": "3", "probability": 0.99999}),
        *lines({"input": "a", "label": "usual", "validation_rank": 0.806}),
        *lines({"input": "a", "label": "box", "share": 0.16, "mean_probability": 0.855}),
        *lines({"input": "a", "text": "x", "candidates": [[{"word": "w", "probability": 0.5}]]}),
        *lines({"input": "a.png", "error": "a.png is blank"}),
        *lines({"input": "a.png", "error": "blank"}),
    ]
    print("\n".join(said))
    assert said == [
        "a: 3 (99.9%)",
        "a: usual (likelier than 80.6% of the validation data)",
        "a: box (16.0% of the pixels, with a mean probability of 85.5%)",
        "x",
        "  w (50.0%)",
        "no answer: a.png is blank",
        "no answer: a.png: blank",
    ]


def test_load_gives_the_trained_model(run):
    for last in (False, True):
        model = ts.load(run, last=last)
        tensors = checkpoint.tensors(run / "checkpoint", "model", last=last)
        assert not model.training
        assert all(torch.equal(tensors[k], v) for k, v in model.state_dict().items())


def test_load_prefers_the_average(tmp_path):
    ts.train("lenet5/smoke", steps=4, ema=0.9, out=tmp_path / "a", quiet=True)
    tensors = checkpoint.tensors(tmp_path / "a" / "checkpoint", "ema.module")
    model = ts.load(tmp_path / "a", last=True)
    assert all(torch.equal(tensors[k], v) for k, v in model.state_dict().items())


def test_create_reads_published_weights(tmp_path, capsys):
    model = ts.create("lenet5", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    again = ts.create("lenet5", weights=tmp_path / "seven.pth", num_classes=7)
    assert torch.equal(again.output.weight, model.output.weight)
    ten = ts.create("lenet5", weights=tmp_path / "seven.pth")  # another head
    assert "its head is replaced by a new one (output.weight, output.bias)" in capsys.readouterr().err
    state = model.state_dict()
    name = next(name for name, value in state.items() if value.ndim == 4)
    assert torch.equal(ten.state_dict()[name], state[name])
    torch.save({**state, name: state[name][1:]}, tmp_path / "narrow.pth")
    with pytest.raises(BadInput, match=f"of another shape: {name}"):
        ts.create("lenet5", weights=tmp_path / "narrow.pth", num_classes=7)
    with pytest.raises(BadInput, match="cannot be made so"):
        ts.create("lenet5", wings=2)


def test_compare_prints_a_table_and_draws(capsys, run, copy, tmp_path):
    code, out, _ = run_cli(capsys, "compare", run, copy, "--out", tmp_path / "both.png")
    assert code == 0
    assert "test/accuracy" in out
    assert np.asarray(Image.open(tmp_path / "both.png")).std() > 1
    rows = json.loads(run_cli(capsys, "compare", run, copy, "--out", tmp_path / "b.png", "--json")[1])
    assert [row["run"] for row in rows] == ["lenet5", "copy"]


def test_verify_exits_1_if_a_check_fails(capsys, monkeypatch):
    from torchstone.parts.facts import Fact
    from torchstone.systems.convolutional import lenet5

    code, out, _ = run_cli(capsys, "verify", "lenet5", "--json")
    assert code == 0
    assert all(check["passed"] for check in json.loads(out))
    monkeypatch.setattr(lenet5, "FACTS", [Fact("wrong", lambda: 1, 2)])
    code, out, _ = run_cli(capsys, "verify", "lenet5")
    assert code == 1
    assert "FAIL" in out


def test_train_finds_its_system_wherever_it_stands(capsys, tmp_path):
    words = ("--steps", "2", "--out", tmp_path / "a", "perceptron/smoke", "--overwrite", "--seed", "1")
    assert run_cli(capsys, "train", *words)[0] == 0
    recipe = tmp_path / "a" / "recipe.json"
    assert json.loads(recipe.read_text())["fields"]["seed"] == 1
    # a field's value is no system, and a run folder stands for its recipe
    for number, config in enumerate((recipe, recipe.parent)):
        words = ("--config", config, "--steps", "3", "--out", tmp_path / f"b{number}")
        assert run_cli(capsys, "train", *words)[0] == 0
        again = json.loads((tmp_path / f"b{number}" / "recipe.json").read_text())
        assert (again["fields"]["seed"], again["fields"]["steps"]) == (1, 3)
    assert "train what" in assert_rejected(capsys, "train", "--steps", "4")
    assert "leave out 'lenet5'" in assert_rejected(capsys, "train", "--config", recipe, "lenet5")
    assert "unexpected 'too'" in assert_rejected(capsys, "train", "lenet5", "too", "--steps", "2")
    words = ("train", "lenet5", "--patience", "0")
    assert "'0' is no whole number of at least 1" in assert_rejected(capsys, *words)


def test_hyphens_in_names_are_underscores():
    from torchstone.api import recipe_of

    for typed, meant in (("ddpm/emoji-text", "emoji_text"), ("lenet5-paper", "mnist5k")):
        _, name, recipe = recipe_of(typed, {})
        print(typed, name, recipe.variant)
        assert name == meant
        assert recipe == recipe_of(typed.replace("-", "_"), {})[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tain"], "did you mean train"),
        (["list", "--chaptr", "x"], "did you mean --chapter"),
        (["list", "--chapter", "convolution"], "did you mean convolutional"),
        (["show", "lenet"], "did you mean lenet5"),
        (["train"], "train what?"),
        (["train", "lenet6"], "did you mean lenet5"),
        (["train", "lenet5/mnst"], "did you mean mnist"),
        (["train", "lenet5", "--stepz", "3"], "did you mean --steps"),
        (["train", "lenet5", "--steps", "many"], "'many' is not a whole number"),
        (["train", "lenet5", "--steps", "0"], "steps must be at least 1"),
        (["train", "lenet5", "--batch-size", "-4"], "batch_size must be at least 1"),
        (["train", "lenet5", "--lr", "fast"], "invalid float value: 'fast'"),
        (["train", "lenet5", "--lr", "-1"], "lr must be a positive number"),
        (["train", "lenet5", "--compile", "perhaps"], "'perhaps' is not true or false"),
        (["train", "lenet5", "--optimizer", "sdg"], "did you mean sgd"),
        (["train", "lenet5", "--precision", "fp8"], "no value 'fp8' for --precision"),
        (["train", "lenet5", "--augment", "affin"], "did you mean affine"),
        (["train", "lenet5", "--variant", "lenet4"], "did you mean lenet5"),
        (["train", "lenet5", "--device", "tpu"], "unknown device 'tpu'"),
        (["train", "lenet5", "--data", "digit"], "did you mean digits"),
        (["train", "lenet5", "extra"], "unexpected 'extra'"),
        (["train", "lenet5", "--log-every", "0"], "log-every"),
        (["resume", "nowhere"], "not a run folder"),
        (["eval", "nowhere"], "not a run folder"),
        (["predict", "nowhere", "x.png"], "not a run folder"),
        (["compare", "nowhere"], "nowhere"),
        (["verify", "lenet9"], "did you mean lenet5"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    line = assert_rejected(capsys, *words)
    assert said in line
    assert not os.listdir(tmp_path)


def test_an_output_folder_that_holds_a_run_is_refused(capsys, copy, tmp_path):
    before = (copy / "result.json").read_text()
    words = ("train", "lenet5/smoke", "--steps", "2", "--out", copy)
    assert "--overwrite" in assert_rejected(capsys, *words)
    assert (copy / "result.json").read_text() == before
    assert run_cli(capsys, *words, "--overwrite")[0] == 0
    assert json.loads((copy / "result.json").read_text())["steps"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    line = assert_rejected(capsys, "train", "lenet5/smoke", "--out", tmp_path / "mine", "--overwrite")
    assert "holds no run" in line
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_an_output_folder_that_cannot_be_made_is_refused(capsys, tmp_path):
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    for out in (file, file / "run", file / "deep" / "run"):
        line = assert_rejected(capsys, "train", "perceptron/smoke", "--steps", "2", "--out", out)
        assert f"{file} is a file" in line
        assert "choose another --out" in line
    line = assert_rejected(capsys, "train", "perceptron/smoke", "--steps", "2", "--out", "/proc/run")
    assert "cannot make the folder /proc/run" in line
    assert os.listdir(tmp_path) == ["thesis.txt"]
    assert file.read_text() == "years of work"


def test_overwriting_waits_until_the_new_run_can_begin(capsys, copy):
    assert_rejected(capsys, "train", "lenet5", "--data", "/nonexistent", "--out", copy, "--overwrite")
    assert (copy / "result.json").exists()


def test_pictures_that_are_none_are_refused(capsys, run, tmp_path):
    assert "missing.png" in assert_rejected(capsys, "predict", run, tmp_path / "missing.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    assert "broken.png" in assert_rejected(capsys, "predict", run, tmp_path / "broken.png")
    (tmp_path / "none").mkdir()
    assert "empty folder" in assert_rejected(capsys, "predict", run, tmp_path / "none")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    assert "blank.png" in assert_rejected(capsys, "predict", run, tmp_path / "blank.png")


def test_a_truncated_checkpoint_gives_way_to_the_previous(capsys, copy):
    file = copy / "checkpoint" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    code, _, err = run_cli(capsys, "eval", copy)
    assert code == 0
    assert "checkpoint is unusable" in err
    assert "using checkpoint.previous, step 120" in err
    code, _, err = run_cli(capsys, "resume", copy)
    assert code == 0
    assert "going back to checkpoint.previous, step 120" in err


def test_a_checkpoint_of_another_system_is_refused(capsys, copy):
    file = copy / "recipe.json"
    asked = json.loads(file.read_text())
    asked |= {"system": "mlp", "recipe": "smoke", "fields": {}}
    file.write_text(json.dumps(asked))
    for command in ("eval", "resume"):
        line = assert_rejected(capsys, command, copy)
        assert "is of 'lenet5', its recipe of 'mlp'" in line


def test_a_checkpoint_that_holds_code_is_refused(capsys, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    class Bomb:
        def __reduce__(self):
            return (os.system, ("touch exploded",))

    torch.save({"stream": Bomb()}, copy / "checkpoint" / "state.pt")
    meta = json.loads((copy / "checkpoint" / "meta.json").read_text())
    meta["sha256"]["state.pt"] = checkpoint._digest(copy / "checkpoint" / "state.pt")
    (copy / "checkpoint" / "meta.json").write_text(json.dumps(meta))
    assert "holds code and was refused unread" in assert_rejected(capsys, "resume", copy)
    assert not (tmp_path / "exploded").exists()


def test_a_loss_that_explodes_stops_with_where_to_go_back_to(capsys, tmp_path):
    words = ("train", "lenet5/smoke", "--optimiser", "sgd", "--lr", "1e8", "--out", tmp_path / "a")
    code, _, err = run_cli(capsys, *words)
    line = err.strip().splitlines()[-1]
    assert code == 2
    for said in ("step ", "loss is", "learning rate", "gradient norms", "last good checkpoint"):
        assert said in line
    found, _, _ = checkpoint.find(tmp_path / "a" / "checkpoint")
    assert all(torch.isfinite(t).all() for t in checkpoint.tensors(found, "model").values())


def test_other_data_must_have_the_same_classes(capsys, run, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            noise = np.random.default_rng(number).integers(0, 255, (9, 9), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.png")
    line = assert_rejected(capsys, "eval", run, "--data", tmp_path)
    assert "cat, dog" in line


@pytest.mark.parametrize("words", [["list"], ["--help"], ["train", "--help"], ["train", "lenet6"]])
def test_light_commands_import_nothing_heavy(words):
    code = (
        "import sys; from torchstone.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'numpy', 'rich', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["list"], ["data"], ["list", "--chapter", "nothing"]])
def test_main_ends_in_silence_where_nobody_reads_on(words, unbuffered):
    """As in `torchstone list | head -1`; a refusal is still one."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "torchstone", *words]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    print(run.returncode, run.stderr)
    assert run.returncode == 2 * ("nothing" in words)
    assert len(run.stderr.splitlines()) == 1 * ("nothing" in words)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_main_says_that_its_output_cannot_be_written(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "torchstone", "list"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    print(run.stderr)
    assert run.returncode == 2
    assert run.stderr == "torchstone: the output could not be written: No space left on device\n"


@pytest.mark.parametrize(("name", "resumes"), [("train", True), ("list", False)])
def test_main_interrupted_at_once_speaks_of_resume_where_that_helps(name, resumes, monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchstone.cli.main._dispatch", interrupted)
    code, out, err = run_cli(capsys, name)
    assert (code, out) == (130, "")
    assert err.startswith("torchstone: interrupted at once")
    assert ("resume" in err) == resumes


@pytest.mark.parametrize("columns", ["", "40"])
def test_tables_have_whole_rows_in_pipes(columns, capsys, monkeypatch, run, tmp_path):
    """`torchstone data | grep scikit` found nothing: the word was cut."""
    monkeypatch.setenv("COLUMNS", columns)
    rows = run_cli(capsys, "data")[1].splitlines()
    assert len(rows) == 1 + len(ts.list_data())
    assert "…" not in "".join(rows)
    assert any("with scikit-learn" in row and row.startswith("digits ") for row in rows)
    out = run_cli(capsys, "compare", *[run] * 6, "--out", tmp_path / "c.png")[1]
    assert "…" not in out
    assert any("test/accuracy" in row and row.count("0.") == 6 for row in out.splitlines())


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys; before = set(sys.modules); import torchstone; print(set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{'torchstone'}"


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE])
def test_train_help_of_every_system(capsys, name):
    """No field of a recipe is in the way of a generic option."""
    code, out, err = run_cli(capsys, "train", name, "--help")
    assert (code, err) == (0, "")
    assert "fields of the recipe" in out
    options = re.findall(r"^  (--[a-z0-9-]+)", out, re.MULTILINE)
    print(name, len(options))
    assert len(options) == len(set(options))


def test_train_epochs_are_ppos_own(capsys, tmp_path):
    words = ("--total-timesteps", "256", "--epochs", "2", "--out", tmp_path / "a")
    assert run_cli(capsys, "train", "ppo/smoke", *words)[0] == 0
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert recipe["fields"]["epochs"] == 2
    again = ts.train(config=tmp_path / "a" / "recipe.json", epochs=1, out=tmp_path / "b", quiet=True)
    saved = json.loads((again.folder / "recipe.json").read_text())["fields"]
    assert (saved["epochs"], saved["total_timesteps"]) == (1, 256)


def test_main_of_a_program_leaves_no_garbage_to_look_for(monkeypatch, capsys):
    """At its end Python would go through all that torch has made, for a third of a second."""
    monkeypatch.setattr(sys, "argv", ["torchstone", "--version"])
    counts = []
    for argv in (["--version"], None):
        assert main.main(argv) == 0
        counts.append(gc.get_freeze_count())
        gc.unfreeze()
    print(capsys.readouterr().out, counts)
    assert counts[0] == 0 < counts[1]
