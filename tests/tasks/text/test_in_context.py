"""Training on episodes: what is measured, and that a network of episodes is used as one of text is."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

import torchstone as ts
from torchstone.data.synthetic import in_context as data
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.systems.transformer import gpt, performer
from torchstone.tasks.text import in_context

FIELDS = {"data": "in_context:2", "context": 12, "width": 16, "depth": 1, "heads": 1, "batch_size": 4}


def build(module=gpt, **fields):
    recipe = replace_fields(module.RECIPES["smoke"], FIELDS | {"device": "cpu", "steps": 3} | fields)
    return next(iter(module.build(recipe)))


@pytest.mark.parametrize("module", [gpt, performer], ids=["gpt", "performer"])
def test_update_learns_labels_and_no_symbols(module):
    run = build(module)
    model, batch = run.state["model"], next(run.stream)
    logits = model(batch[0]).detach()
    by_hand = [
        F.cross_entropy(logits[row, t], batch[1][row, t])
        for row in range(4)
        for t in range(0, batch[0].shape[1], 2)
    ]
    metrics = run.update(batch)
    assert float(metrics["loss"]) == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)
    assert len(by_hand) == 4 * 6


def test_measure_counts_first_and_last_label():
    """A network that knows the mapping from the sixth example on, and answers '0' until then."""

    class Late(torch.nn.Module):
        context, vocab_size = 33, 16

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            logits = torch.zeros(*x.shape, 16)
            logits[..., 0] = 1.0  # "0" is the first of the vocabulary
            for t in range(12, x.shape[1], 2):
                same = x[:, :t:2] == x[:, t : t + 1]
                label = x[:, 1:t:2].gather(1, same.long().argmax(1, keepdim=True))
                logits[:, t].scatter_(1, label, 50.0)
            return logits

    found = in_context.measure(Late(), 1, seed=5)
    print(found)
    assert found["few_shot_accuracy"] == 1.0
    assert abs(found["zero_shot_accuracy"] - 1 / 8) < 0.04
    assert found == in_context.measure(Late(), 1, seed=5)
    first = torch.zeros(16).index_fill(0, torch.tensor([0]), 1.0).log_softmax(0)
    loss = -(first[0] / 8 + first[1] * 7 / 8).item() * 6 / 17
    assert found["loss"] == pytest.approx(loss, abs=0.01)


def test_run_of_episodes_is_used_as_one_of_text(tmp_path):
    ts.train("gpt/smoke", out=tmp_path / "run", quiet=True, **FIELDS, steps=3)
    run = tmp_path / "run"
    assert (run / "pictures" / "few_shot.png").stat().st_size > 5000
    metrics = ts.evaluate(run)
    print(metrics)
    assert metrics["episodes"] == 1000
    assert {"loss", "zero_shot_accuracy", "few_shot_accuracy"} <= metrics.keys()
    shots = ts.evaluate(run, shots=[0, 5], max_examples=30)
    assert shots["optimal_accuracy/5"] == data.optimal_accuracy(5, 2)
    assert (run / "pictures" / "few_shot_in_context_2.png").exists()
    assert ts.evaluate(run, shots=[0, 5], max_examples=30, data="in_context:2") == shots
    (answer,) = ts.predict(run, "a1b2a", max_new_tokens=1)
    assert answer["text"][:5] == "a1b2a"
    assert len(answer["text"]) == 6
    assert len(ts.sample(run, prompt="a1", max_new_tokens=4)[0]) == 6
    assert ts.sample(run, max_new_tokens=3)[0][0] == "a", "there is no line to begin on"
    with pytest.raises(BadInput, match="is none of the 16"):
        ts.predict(run, "z")


@pytest.mark.sweep
def test_run_of_episodes_resumes_to_the_bit(tmp_path):
    run = ts.train(
        "gpt/smoke", out=tmp_path / "run", quiet=True, **FIELDS, steps=6, dropout=0.1, intervals={"save": 3}
    )
    whole = {name: tensor.clone() for name, tensor in run.state["model"].state_dict().items()}
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    (tmp_path / "run" / "checkpoint.previous").rename(tmp_path / "run" / "checkpoint")
    meta = json.loads((tmp_path / "run" / "checkpoint" / "meta.json").read_text())
    assert meta["step"] == 3
    resumed = ts.resume(tmp_path / "run", quiet=True)
    assert resumed.step == 6
    for name, tensor in resumed.state["model"].state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_evaluate_refuses_a_model_of_text(trained_run):
    model = ts.load(trained_run("gpt"))
    with pytest.raises(BadInput, match="another vocabulary than in_context"):
        gpt.evaluate(model, model.metadata, "in_context", held_out=True)
    with pytest.raises(BadInput, match="1 to 8 symbols"):
        build(data="in_context:9")
