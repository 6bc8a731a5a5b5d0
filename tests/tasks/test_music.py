"""Music: nats a frame against the formula, what a frame is told from, what is played, and its use from files."""

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
from torchstone.data.music.dataset import piece_of
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.systems.recurrent.lstm import CELL
from torchstone.tasks import music
from torchstone.tasks.recurrent import Recipe

SMALL = Recipe(
    use="music", variant="lstm", hidden=16, layers=1, bidirectional=False, path="fast", length=64,
    batch_size=4, steps=60, lr=1e-2,
)  # fmt: skip
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


class Telling(nn.Module):
    """In place of a network: `tell` of what it is given, and no state."""

    def __init__(self, tell):
        super().__init__()
        self.weight, self.tell = nn.Parameter(torch.zeros(1)), tell

    def forward(self, x):
        return self.tell(x)

    def step(self, x, state=None):
        return self.tell(x), ()


def test_nats_a_frame_are_a_sum_over_keys():
    """−Σ_keys [v log p + (1 − v) log(1 − p)], averaged over the frames that there are."""
    frames = (torch.rand(3, 7, 88) < 0.1).float()
    lengths = torch.tensor([7, 4, 5])
    logits = torch.randn(3, 7, 88)
    found = music.loss(Telling(lambda x: logits), (frames, lengths))
    total = 0.0
    for row, length in enumerate(lengths.tolist()):
        for t in range(length):
            for key in range(88):
                p = 1 / (1 + math.exp(-float(logits[row, t, key])))
                total -= math.log(p if frames[row, t, key] else 1 - p)
    assert float(found["loss"]) == pytest.approx(total / 16, rel=1e-5)
    assert int(found["weight"]) == 16
    pieces = [frames[row, :length].bool() for row, length in enumerate(lengths.tolist())]
    measured = music.measure(Telling(lambda x: logits[:, : x.shape[1]]), pieces)
    assert measured == pytest.approx(total / 16, rel=1e-5)
    even = music.measure(Telling(torch.zeros_like), pieces)
    assert even == pytest.approx(88 * math.log(2), rel=1e-6)


def test_a_frame_is_told_from_those_before_it_the_first_from_silence():
    frames = (torch.rand(2, 6, 88) < 0.1).float()
    seen = music.before(frames)
    assert seen[:, 0].abs().sum() == 0
    assert torch.equal(seen[:, 1:], frames[:, :-1] * music.SCALE)
    from torchstone.parts.recurrent.sequence_model import Network

    model = Network(CELL, 88, 88, tokens=False, hidden=8).double()
    frames = frames.double().requires_grad_()
    for t in range(6):
        logits = model(music.before(frames))[0, t]
        (slope,) = torch.autograd.grad(logits.sum(), frames)
        there = slope[0].abs().sum(1) > 0
        assert there.tolist() == [place < t for place in range(6)]


def test_what_stands_after_the_end_changes_nothing():
    from torchstone.parts.recurrent.sequence_model import Network

    torch.manual_seed(0)
    model = Network(CELL, 88, 88, tokens=False, hidden=8)
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


def test_it_begins_by_telling_how_often_each_key_sounds(tmp_path):
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


def test_it_learns_which_chord_comes_next(tmp_path):
    """The notes are known but for a fifth that is drawn: 4 keys of ln 5 … 0.5 nats each are the floor."""
    recipe = replace(SMALL, data=str(folder_of(tmp_path)), steps=150)
    run = music.build(recipe, CELL)
    before = run.test()["loss"]
    fit(run, intervals=Intervals(evaluate=recipe.steps), quiet=True)
    floor = -4 * (0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    print(f"{before:.2f} nats a frame untrained, {run.results['test/loss']:.2f}, floor {floor:.2f}")
    assert before > 5
    assert floor * 0.7 < run.results["test/loss"] < floor + 1.2
    run.report(tmp_path / "pictures")
    assert np.asarray(Image.open(tmp_path / "pictures" / "rolls.png")).std() > 1
    played = piece_of(tmp_path / "pictures" / "sample.mid", 1.0)[0]
    known = {key for chord in CHORDS for key in chord}
    sounding = {key + 21 for key in played.nonzero()[:, 1].tolist()}
    print(sorted(sounding - known))
    assert len(sounding & known) >= 8


def test_pieces_played_are_drawn_with_the_chances_told():
    chance = torch.linspace(0.02, 0.98, 88)
    model = Telling(lambda x: chance.logit().expand(*x.shape[:2], -1))
    pieces = music.played(model, 400, count=5, seed=0)
    assert len(pieces) == 5
    share = torch.stack(pieces).float().mean((0, 1))
    print(float((share - chance).abs().max()))
    assert (share - chance).abs().max() < 0.04
    again, other = (music.played(model, 400, count=5, seed=seed) for seed in (0, 1))
    assert all(map(torch.equal, pieces, again))
    assert not torch.equal(pieces[0], other[0])
    sure = torch.stack(music.played(model, 200, count=2, seed=0, temperature=0.05)).float()
    assert (sure.mean((0, 1)).round() == (chance > 0.5).float()).all()


def test_each_frame_is_played_from_the_state_of_those_before_it(tmp_path):
    """One by one with a state, or all at once: the same chances, so the same piece."""
    from torchstone.parts.recurrent.sequence_model import Network

    torch.manual_seed(3)
    model = Network(CELL, 88, 88, tokens=False, hidden=16).eval()
    opening = torch.rand(5, 88) < 0.1
    (piece,) = music.played(model, 12, count=1, seed=4, opening=opening)
    assert torch.equal(piece[:5], opening)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        chances = model(music.before(piece[None].float()))[0].sigmoid()
    for t in range(5, 17):
        drawn = torch.rand(1, 88, generator=generator) < chances[t]
        assert torch.equal(drawn[0], piece[t])


def test_a_network_that_has_seen_the_end_is_refused(tmp_path):
    with pytest.raises(BadInput, match="bidirectional"):
        music.build(replace(SMALL, data=str(folder_of(tmp_path)), bidirectional=True), CELL)


def test_long_pieces_are_cut_in_training_and_judged_whole(tmp_path):
    folder = folder_of(tmp_path, low=30, high=31)
    run = music.build(replace(SMALL, data=str(folder), length=8, batch_size=48), CELL)
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
        "lstm/jsb", data=data, out=folder / "run", quiet=True, hidden=16, steps=20, batch_size=4, ema=0.5
    )
    return folder


def test_sample_writes_midi_that_a_player_opens(trained, capsys, tmp_path):
    import mido

    out = tmp_path / "piece.mid"
    words = ["sample", trained / "run", "--out", out, "--length", 20, "--tempo", 60, "--seed", 5]
    code, said, _ = run_cli(capsys, *words)
    assert (code, said) == (0, f"{out}\n")
    song = mido.MidiFile(out)
    assert song.length == pytest.approx(20.0, abs=0.1)  # a quarter note a second
    piece, _ = piece_of(out, 1.0)
    (text,) = api.sample(trained / "run", length=20, seed=5)
    assert text.splitlines()[: len(piece)] == midi.said(piece).splitlines()
    assert len(text.splitlines()) == 20
    code, said, _ = run_cli(capsys, "sample", trained / "run", "--out", out, "-n", 2, "--length", 8)
    assert said.split() == [str(tmp_path / f"piece-{i}.mid") for i in (1, 2)]
    assert (tmp_path / "piece-2.mid").exists()


def test_sample_goes_on_from_a_file(trained, tmp_path):
    opening, _ = midi.frames([(60, 0, 2), (64, 1, 3), (67, 3, 4)], 1.0)
    midi.write(tmp_path / "a.mid", opening, 1.0, 100)
    (text,) = api.sample(trained / "run", prompt=tmp_path / "a.mid", length=6)
    assert text.splitlines()[:4] == ["C4", "C4 E4", "E4", "G4"]
    assert len(text.splitlines()) == 10


def test_predict_and_eval_say_nats_a_frame(trained, capsys, tmp_path):
    content = json.loads((trained / "jsb-chorales-quarter.json").read_text())
    piece = music.load_music(trained).test[0]
    midi.write(tmp_path / "a.mid", piece, 1.0, 100)
    code, said, _ = run_cli(capsys, "predict", trained / "run", tmp_path / "a.mid")
    print(said)
    assert code == 0
    model = ts.load(trained / "run")
    wanted = music.measure(model, [piece_of(tmp_path / "a.mid", 1.0)[0]])
    assert f"{wanted:.3f} nats a frame" in said
    result = json.loads((trained / "run" / "result.json").read_text())["metrics"]
    assert ts.evaluate(trained / "run")["loss"] == pytest.approx(result["test/loss"], rel=1e-6)
    assert len(content["test"]) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--length", "0"], "--length"),
        (["--temperature", "0"], "temperature is above 0"),
        (["--tempo", "0", "--out", "a.mid"], "tempo is 1 to 1000"),
        (["--out", "none/a.mid"], "no folder"),
        (["--prompt", "none.mid"], "none.mid does not exist"),
        (["--top-k", "3"], "does not sample with 'top_k'"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(trained, capsys, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(capsys, "sample", trained / "run", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
