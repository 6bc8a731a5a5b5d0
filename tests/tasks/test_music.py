"""Music: nats per frame against the formula, causality, generated pieces, and its use from files."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_helpers import run_cli
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone import api
from torchstone.data.music import midi
from torchstone.data.music.dataset import read_piece
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.systems.recurrent.lstm import CELL
from torchstone.tasks import music
from torchstone.tasks.recurrent import Recipe

SMALL = replace_fields(
    Recipe(task="music", variant="lstm", seq_len=64, batch_size=4, steps=60),
    {"hidden": 16, "layers": 1, "bidirectional": False, "implementation": "fused", "lr": 1e-2},
)
CHORDS = ([48, 60, 64, 67], [53, 60, 65, 69], [55, 59, 62, 67], [48, 55, 64, 72])


def folder_of(folder, count=12, low=12, high=20):
    """Chords that follow each other in a fixed order, from any of them on, a fifth of the notes missing."""
    random = np.random.default_rng(0)

    def piece(length, begin):
        chords = [CHORDS[(begin + t) % 4] for t in range(length)]
        return [[key for key in chord if random.random() > 0.2] for chord in chords]

    def pieces(n):
        return [piece(int(random.integers(low, high)), int(random.integers(4))) for _ in range(n)]

    content = {"train": pieces(count), "valid": pieces(3), "test": pieces(4)}
    file = folder / "jsb-chorales-quarter.json"
    file.write_text(json.dumps(content))
    return folder


class FunctionModel(nn.Module):
    """A network that is a function of its input, without state."""

    def __init__(self, function):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.zeros(1)), function

    def forward(self, x):
        return self.function(x)

    def step(self, x, state=None):
        return self.function(x), ()


def test_measure_and_generate_grow_no_graph_and_put_modes_back():
    seen = []

    def function(x):
        seen.append((torch.is_grad_enabled(), model.training))
        return torch.zeros_like(x)

    model = FunctionModel(function).train()
    music.measure(model, [torch.zeros(5, 88, dtype=torch.bool)])
    music.generate_pieces(model, 2, count=1, seed=0)
    print(seen, model.training)
    assert set(seen) == {(False, False)}
    assert model.training


def test_loss_is_nats_per_frame():
    """−Σ_keys [v log p + (1 − v) log(1 − p)], averaged over the frames that there are."""
    frames = (torch.rand(3, 7, 88) < 0.1).float()
    lengths = torch.tensor([7, 4, 5])
    logits = torch.randn(3, 7, 88)
    found = music.loss(FunctionModel(lambda x: logits), (frames, lengths))
    total = 0.0
    for row, length in enumerate(lengths.tolist()):
        for t in range(length):
            for key in range(88):
                p = 1 / (1 + math.exp(-float(logits[row, t, key])))
                total -= math.log(p if frames[row, t, key] else 1 - p)
    assert float(found["loss"]) == pytest.approx(total / 16, rel=1e-5)
    assert int(found["weight"]) == 16
    pieces = [frames[row, :length].bool() for row, length in enumerate(lengths.tolist())]
    measured = music.measure(FunctionModel(lambda x: logits[:, : x.shape[1]]), pieces)
    assert measured == pytest.approx(total / 16, rel=1e-5)
    even = music.measure(FunctionModel(torch.zeros_like), pieces)
    assert even == pytest.approx(88 * math.log(2), rel=1e-6)


def test_shift_frames_is_causal():
    frames = (torch.rand(2, 6, 88) < 0.1).float()
    seen = music.shift_frames(frames)
    assert seen[:, 0].abs().sum() == 0
    assert torch.equal(seen[:, 1:], frames[:, :-1] * music.INPUT_SCALE)
    from torchstone.parts.recurrent.sequence_model import SequenceModel

    model = SequenceModel(CELL, 88, 88, tokens=False, hidden=8).double()
    frames = frames.double().requires_grad_()
    for t in range(6):
        logits = model(music.shift_frames(frames))[0, t]
        (slope,) = torch.autograd.grad(logits.sum(), frames)
        there = slope[0].abs().sum(1) > 0
        assert there.tolist() == [place < t for place in range(6)]


def test_loss_ignores_padding():
    from torchstone.parts.recurrent.sequence_model import SequenceModel

    torch.manual_seed(0)
    model = SequenceModel(CELL, 88, 88, tokens=False, hidden=8)
    frames = (torch.rand(2, 9, 88) < 0.1).float()
    lengths = torch.tensor([9, 5])

    def gradient(batch):
        model.zero_grad()
        loss = music.loss(model, (batch, lengths))["loss"]
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters()]

    changed = frames.clone()
    changed[1, 5:] = 1 - changed[1, 5:]
    (one, ones), (two, twos) = gradient(frames), gradient(changed)
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(ones, twos, strict=True))
    changed[1, 4] = 1 - changed[1, 4]
    assert not torch.equal(one, gradient(changed)[0])


def test_init_output_bias_is_key_frequency(tmp_path):
    run = music.build(replace(SMALL, data=str(folder_of(tmp_path))), CELL)
    model = run.state["model"]
    pieces = music.load_music(tmp_path).train
    share = torch.cat(pieces).float().mean(0)
    with torch.no_grad():
        model.head.weight.zero_()
        told = model(torch.zeros(1, 1, 88)).sigmoid()[0, 0]
    print(float((told - share).abs().max()))
    assert (told - share).abs().max() < 0.02
    assert told.min() > 0


def test_train_learns_chord_sequence(tmp_path):
    """The notes are known but for a fifth that is drawn: 4 keys of ln 5 … 0.5 nats each are the floor."""
    recipe = replace(SMALL, data=str(folder_of(tmp_path)), steps=150)
    run = music.build(recipe, CELL)
    before = run.test()["loss"]
    fit(run, intervals=Intervals(evaluate=recipe.steps), quiet=True)
    floor = -4 * (0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    print(f"{before:.2f} nats per frame untrained, {run.results['test/loss']:.2f}, floor {floor:.2f}")
    assert before > 5
    assert floor * 0.7 < run.results["test/loss"] < floor + 1.2
    modes = []
    run.state["model"].train().register_forward_pre_hook(lambda module, _: modes.append(module.training))
    run.report(tmp_path / "pictures")
    assert set(modes) == {False}
    assert run.state["model"].training
    assert np.asarray(Image.open(tmp_path / "pictures" / "rolls.png")).std() > 1
    played = read_piece(tmp_path / "pictures" / "sample.mid", 1.0)[0]
    known = {key for chord in CHORDS for key in chord}
    sounding = {key + 21 for key in played.nonzero()[:, 1].tolist()}
    print(sorted(sounding - known))
    assert len(sounding & known) >= 8


def test_generate_pieces_follows_probabilities():
    chance = torch.linspace(0.02, 0.98, 88)
    model = FunctionModel(lambda x: chance.logit().expand(*x.shape[:2], -1))
    pieces = music.generate_pieces(model, 400, count=5, seed=0)
    assert len(pieces) == 5
    share = torch.stack(pieces).float().mean((0, 1))
    print(float((share - chance).abs().max()))
    assert (share - chance).abs().max() < 0.04
    again, other = (music.generate_pieces(model, 400, count=5, seed=seed) for seed in (0, 1))
    assert all(map(torch.equal, pieces, again))
    assert not torch.equal(pieces[0], other[0])
    sure = torch.stack(music.generate_pieces(model, 200, count=2, seed=0, temperature=0.05)).float()
    assert (sure.mean((0, 1)).round() == (chance > 0.5).float()).all()


def test_generate_pieces_continues_state(tmp_path):
    """One by one with a state, or all at once: the same chances, so the same piece."""
    from torchstone.parts.recurrent.sequence_model import SequenceModel

    torch.manual_seed(3)
    model = SequenceModel(CELL, 88, 88, tokens=False, hidden=16).eval()
    opening = torch.rand(5, 88) < 0.1
    (piece,) = music.generate_pieces(model, 12, count=1, seed=4, opening=opening)
    assert torch.equal(piece[:5], opening)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        chances = model(music.shift_frames(piece[None].float()))[0].sigmoid()
    for t in range(5, 17):
        drawn = torch.rand(1, 88, generator=generator) < chances[t]
        assert torch.equal(drawn[0], piece[t])


def test_build_rejects_bidirectional(tmp_path):
    with pytest.raises(BadInput, match="bidirectional"):
        music.build(replace_fields(SMALL, {"data": str(folder_of(tmp_path)), "bidirectional": True}), CELL)


def test_build_cuts_pieces_in_training_only(tmp_path):
    folder = folder_of(tmp_path, low=30, high=31)
    run = music.build(replace(SMALL, data=str(folder), seq_len=8, batch_size=48), CELL)
    _, lengths = next(run.stream)
    assert sorted(set(lengths.tolist())) == [6, 8]
    assert int(lengths.sum()) == 12 * 30  # nothing is left out
    found = music.evaluate(run.state["model"], run.metadata, str(folder), held_out=True)
    assert found["loss"] == pytest.approx(run.test()["loss"], rel=1e-6)
    assert (found["pieces"], found["frames"]) == (4, 120)
    every = music.evaluate(run.state["model"], run.metadata, str(folder), held_out=False)
    assert every["pieces"] == 19


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    data = str(folder_of(folder))
    ts.train(
        "lstm/jsb",
        data=data,
        out=folder / "run",
        quiet=True,
        hidden=16,
        steps=20,
        batch_size=4,
        ema_decay=0.5,
    )
    return folder


def test_sample_writes_midi(trained, capsys, tmp_path):
    import mido

    out = tmp_path / "piece.mid"
    words = ["sample", trained / "run", "--out", out, "--max-new-tokens", 20, "--tempo", 60, "--seed", 5]
    code, said, _ = run_cli(capsys, *words)
    assert (code, said) == (0, f"{out}\n")
    song = mido.MidiFile(out)
    assert song.length == pytest.approx(20.0, abs=0.1)  # a quarter note a second
    piece, _ = read_piece(out, 1.0)
    (text,) = api.sample(trained / "run", max_new_tokens=20, seed=5)
    assert text.splitlines()[: len(piece)] == midi.key_names(piece).splitlines()
    assert len(text.splitlines()) == 20
    code, said, _ = run_cli(capsys, "sample", trained / "run", "--out", out, "-n", 2, "--max-new-tokens", 8)
    assert said.split() == [str(tmp_path / f"piece-{i}.mid") for i in (1, 2)]
    assert (tmp_path / "piece-2.mid").exists()


def test_sample_continues_prompt_file(trained, tmp_path):
    opening, _ = midi.notes_to_frames([(60, 0, 2), (64, 1, 3), (67, 3, 4)], 1.0)
    midi.write(tmp_path / "a.mid", opening, 1.0, 100)
    (text,) = api.sample(trained / "run", prompt=tmp_path / "a.mid", max_new_tokens=6)
    assert text.splitlines()[:4] == ["C4", "C4 E4", "E4", "G4"]
    assert len(text.splitlines()) == 10


def test_predict_and_evaluate_nats_per_frame(trained, capsys, tmp_path):
    content = json.loads((trained / "jsb-chorales-quarter.json").read_text())
    piece = music.load_music(trained).test[0]
    midi.write(tmp_path / "a.mid", piece, 1.0, 100)
    code, said, _ = run_cli(capsys, "predict", trained / "run", tmp_path / "a.mid")
    print(said)
    assert code == 0
    model = ts.load(trained / "run")
    wanted = music.measure(model, [read_piece(tmp_path / "a.mid", 1.0)[0]])
    assert f"{wanted:.3f} nats per frame" in said
    result = json.loads((trained / "run" / "result.json").read_text())["metrics"]
    assert ts.evaluate(trained / "run")["loss"] == pytest.approx(result["test/loss"], rel=1e-6)
    assert len(content["test"]) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--temperature", "0"], "temperature must be a positive number"),
        (["--tempo", "0", "--out", "a.mid"], "tempo must be 1 to 1000"),
        (["--out", "none/a.mid"], "no folder"),
        (["--prompt", "none.mid"], "none.mid does not exist"),
        (["--top-k", "3"], "does not sample with 'top_k'"),
    ],
)
def test_sample_rejects_invalid_options(trained, capsys, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(capsys, "sample", trained / "run", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
