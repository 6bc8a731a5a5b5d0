"""Checkpoints: whole or not at all, previous one kept, no code run."""

import json
import os
import pickle
import resource
import signal

import pytest
import torch
from torch import nn

from torchstone.engine import checkpoint
from torchstone.engine.run import Intervals, Run, fit
from torchstone.errors import BadInput, NotFinite, NotSaved


def state(value=0.0):
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(value)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)}


def save(folder, step, **kept):
    checkpoint.save(folder, kept or state(step), {"step": step, "stage": 0, "metadata": {}})


def test_checkpoint_round_trip_and_files(tmp_path):
    kept = state(3.0)
    kept["model"](torch.ones(1, 3)).sum().backward()
    kept["optimizer"].step()
    save(tmp_path / "checkpoint", 7, **kept)
    other = state()
    found, meta, complaints = checkpoint.find(tmp_path / "checkpoint")
    checkpoint.load(found, other)
    assert meta["step"] == 7
    assert not complaints
    assert torch.equal(other["model"].weight, kept["model"].weight)
    momentum = [s["momentum_buffer"] for s in other["optimizer"].state_dict()["state"].values()]
    assert momentum[0].abs().sum() > 0
    assert sorted(os.listdir(found)) == ["meta.json", "model.safetensors", "state.pt"]
    assert set(checkpoint.tensors(found, "model")) == {"weight", "bias"}
    torch.load(found / "state.pt", weights_only=True)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "meta.json"])
@pytest.mark.parametrize("harm", ["truncate", "remove", "flip"])
def test_checkpoint_find_falls_back_to_previous(tmp_path, name, harm):
    folder = tmp_path / "checkpoint"
    save(folder, 1)
    save(folder, 2)
    file = folder / name
    content = file.read_bytes()
    if harm == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flip" and name != "meta.json":
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        file.unlink()
    found, meta, complaints = checkpoint.find(folder)
    print(complaints)
    assert (found.name, meta["step"]) == ("checkpoint.previous", 1)
    assert len(complaints) == 1
    assert "checkpoint is unusable" in complaints[0]


def test_checkpoint_both_damaged_one_line(tmp_path):
    folder = tmp_path / "checkpoint"
    save(folder, 1)
    save(folder, 2)
    (folder / "state.pt").write_bytes(b"")
    (tmp_path / "checkpoint.previous" / "meta.json").write_text("{")
    with pytest.raises(BadInput, match="no whole checkpoint") as caught:
        checkpoint.find(folder)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_checkpoint_with_code_refused_unread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoint"
    save(folder, 1)
    torch.save({"optimizer": Bomb()}, folder / "state.pt")
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"]["state.pt"] = checkpoint._digest(folder / "state.pt")  # as an attacker would
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(BadInput, match="holds code and was refused unread"):
        checkpoint.load(folder, state())
    with pytest.raises(BadInput, match="holds code"):
        checkpoint.read_pickle(folder / "state.pt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput):
        checkpoint.read_pickle(tmp_path / "plain.bin")
    assert not (tmp_path / "exploded").exists()


def test_checkpoint_of_another_run_refused(tmp_path):
    save(tmp_path / "checkpoint", 1)
    model = nn.Linear(4, 2)
    with pytest.raises(BadInput, match="does not fit 'model'"):
        checkpoint.load(tmp_path / "checkpoint", {"model": model})
    with pytest.raises(BadInput, match="has no 'critic'"):
        checkpoint.load(tmp_path / "checkpoint", {"critic": nn.Linear(3, 2)})
    with pytest.raises(BadInput, match="has no 'replay'"):
        checkpoint.load(tmp_path / "checkpoint", {"replay": torch.optim.SGD(model.parameters())})


@pytest.mark.parametrize("call", ["save_file", "torch.save", "fsync", "write_text"])
def test_checkpoint_full_disk_leaves_last_good(tmp_path, monkeypatch, call):
    run = toy(steps=6)
    space = {"left": 3}

    def full(real):
        def maybe(*args, **kwargs):
            if space["left"] <= 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return maybe

    def update(batch):
        space["left"] -= 1
        return {"loss": 1.0}

    run.update = update
    if call == "save_file":
        monkeypatch.setattr(checkpoint, "save_file", full(checkpoint.save_file))
    elif call == "torch.save":
        monkeypatch.setattr(torch, "save", full(torch.save))
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", full(os.fsync))
    else:
        monkeypatch.setattr(checkpoint.Path, "write_text", full(checkpoint.Path.write_text))
    with pytest.raises(NotSaved, match=r"step 3: No space left.*last good checkpoint.*step 2") as said:
        fit(run, tmp_path, intervals=Intervals(save=1, log=6), quiet=True)
    print(said.value)
    _, meta, complaints = checkpoint.find(tmp_path / "checkpoint")
    assert (meta["step"], complaints) == (2, [])
    assert not (tmp_path / "checkpoint.new").exists()


@pytest.mark.parametrize("large", ["model", "rest"])
def test_checkpoint_write_error_one_line(tmp_path, large):
    """Each writer has its own exception for it, so a real refusal: a limit on the size of files."""
    run = toy(6)
    if large == "model":
        run.state["model"] = nn.Linear(300, 300)
    else:
        run.state["replay"] = Held(torch.zeros(90_000))
    good, before = run.update, resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    steps = []

    def update(batch):
        steps.append(batch)
        if len(steps) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        return good(batch)

    run.update = update
    try:
        with pytest.raises(NotSaved, match=r"step 3: .*last good checkpoint.*step 2") as said:
            fit(run, tmp_path, intervals=Intervals(save=1, log=6), quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    print(said.value)
    assert "\n" not in str(said.value)
    assert checkpoint.find(tmp_path / "checkpoint")[1]["step"] == 2
    assert not (tmp_path / "checkpoint.new").exists()


class Held:
    def __init__(self, values):
        self.values = values

    def state_dict(self):
        return {"values": self.values}

    def load_state_dict(self, state):
        self.values = state["values"]


def toy(steps=6, bad=None):
    held = state(1.0)
    count = iter(range(1, 10**9))

    def update(batch):
        step = next(count)
        return {"loss": torch.tensor(float("nan") if step == bad else 1.0)}

    return Run(iter(lambda: 0, 1), update, lambda: {"loss": 1.0}, held, steps)


def test_fit_nonfinite_metric_names_step_and_checkpoint(tmp_path):
    """What happens on a device, where the loss is only looked at on the clock."""
    with pytest.raises(NotFinite) as caught:
        fit(toy(20, bad=13), tmp_path, intervals=Intervals(log=5, save=1, evaluate=20), quiet=True)
    print(caught.value)
    assert "loss is nan at step 13" in str(caught.value)
    # the poisoned state of step 13 was not saved over the good one
    assert checkpoint.find(tmp_path / "checkpoint")[1]["step"] == 12
    assert "(step 12)" in str(caught.value)


def test_checkpoint_nonfinite_weights_not_saved(tmp_path):
    """A finite loss with an infinite gradient: the loss looks well, the weights are lost."""
    run = toy(6)
    good = run.update

    def update(batch):
        metrics = good(batch)
        with torch.no_grad():
            run.state["model"].weight.mul_(1e30)
        return metrics

    run.update = update
    with pytest.raises(NotFinite, match=r"model.weight is not finite.*\(step 1\)"):
        fit(run, tmp_path, intervals=Intervals(save=1), quiet=True)
    assert checkpoint.find(tmp_path / "checkpoint")[1]["step"] == 1


def test_fit_nonfinite_evaluation_stops(tmp_path):
    run = toy(6)
    run.evaluate = lambda: {"accuracy": float("nan")}
    with pytest.raises(NotFinite, match="val/accuracy is nan at step 0"):
        fit(run, tmp_path, quiet=True)
