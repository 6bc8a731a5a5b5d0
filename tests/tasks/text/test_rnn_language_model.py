"""Truncated back-propagation: the state crosses a window's border, and into a checkpoint; no gradient does."""

import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.engine import checkpoint, parallel
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems.recurrent import gru, lstm, rnn
from torchstone.tasks.text import rnn_language_model
from torchstone.tasks.text.generate import generate

WORDS = ("the cell keeps what it is given ", "until a gate tells it to forget ", "and then ")


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(WORDS[(i * i + i // 3) % 3] for i in range(400)))
    return str(file)


def recipe(text, module=lstm, **fields):
    defaults = {"hidden": 9, "layers": 2, "seq_len": 5, "batch_size": 4, "device": "cpu", "data": text}
    return replace_fields(module.RECIPES["smoke"], defaults | fields)


def build(text, module=lstm, **fields):
    return next(iter(module.build(recipe(text, module, **fields))))


@pytest.mark.parametrize("module", [rnn, lstm, gru], ids=lambda each: each.__name__[-4:])
def test_step_module_detaches_state(module):
    """Of what the second window tells, by what stood in the first; within a window there is one."""
    torch.manual_seed(0)
    net = SequenceModel(module.CELL, 3, 4, tokens=False, hidden=5, layers=2)
    first, second = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 6, 3)
    step_module = rnn_language_model.StepModule(net)
    begin = tuple(each.transpose(0, 1) for each in net.recurrent.empty(first))
    _, *state = step_module(first, *begin)
    outputs, *_ = step_module(second, *state)
    (slope,) = torch.autograd.grad(outputs[:, -1].sum(), first, allow_unused=True)
    assert slope is None or not slope.any()
    # the same moments without a border
    whole = net(torch.cat([first, second], 1))
    assert torch.allclose(whole[:, 6:], outputs, atol=1e-6), "the state does cross it"
    (through,) = torch.autograd.grad(whole[:, -1].sum(), first)
    assert through.abs().max() > 1e-5
    # and inside the first window there is one from its end to its beginning
    inside, *_ = step_module(first, *begin)
    assert torch.autograd.grad(inside[:, -1].sum(), first)[0][:, 0].abs().max() > 1e-5


def test_stateful_update_carries_state(text):
    """With weights that stand still: the state after k windows is that of their tokens in one go; a new
    epoch begins with nothing."""
    run = build(text, optimizer="sgd", momentum=0.0, lr=1e-30)
    update, model = run.state["hidden_state"], run.state["model"]
    lanes, epochs = [], 0
    for _ in range(run.stream.windows + 3):
        window = next(run.stream)
        lanes = [window.x] if window.reset else [*lanes, window.x]
        epochs += window.reset
        run.update(window)
        _, state = model.step(torch.cat(lanes, 1))
        for own, whole in zip(update.hidden_state, state, strict=True):
            assert torch.allclose(own.transpose(0, 1), whole, atol=1e-5)
        assert not any(each.requires_grad for each in update.hidden_state)
    assert epochs == 2


def test_stateful_update_with_micro_batches(text):
    once, twice = (build(text, grad_accum_steps=n, optimizer="sgd", lr=0.1) for n in (1, 2))
    for run in (once, twice):
        for _ in range(6):
            run.update(next(run.stream))
    pairs = [
        *zip(once.state["hidden_state"].hidden_state, twice.state["hidden_state"].hidden_state, strict=True)
    ]
    models = (run.state["model"].parameters() for run in (once, twice))
    for a, b in (*pairs, *zip(*models, strict=True)):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-6)


def test_stateful_update_resumes_bit_exactly(text, tmp_path):
    """Saved in the midst of an epoch, loaded into a run that was built anew, and read on."""
    whole, cut = build(text, dropout=0.3), build(text, dropout=0.3)

    def steps(run, first, last):
        for number in range(first, last):
            torch.manual_seed(number)  # dropout's: the engine keeps the generators
            run.update(next(run.stream))

    steps(whole, 0, 12)
    steps(cut, 0, 7)
    entries = {name: item.state_dict() for name, item in cut.state.items() if name != "model"}
    checkpoint.save(tmp_path / "checkpoint", {**entries, "model": cut.state["model"]}, {"step": 7})
    resumed = build(text, dropout=0.3, seed=0)
    checkpoint.load(checkpoint.find(tmp_path / "checkpoint")[0], resumed.state)
    for a, b in zip(
        cut.state["hidden_state"].hidden_state, resumed.state["hidden_state"].hidden_state, strict=True
    ):
        assert torch.equal(a, b)
        assert a.any()
    steps(resumed, 7, 12)
    for name, weight in whole.state["model"].state_dict().items():
        assert torch.equal(weight, resumed.state["model"].state_dict()[name]), name
    forgetful = build(text, dropout=0.3)
    checkpoint.load(checkpoint.find(tmp_path / "checkpoint")[0], forgetful.state)
    forgetful.state["hidden_state"].hidden_state = ()
    steps(forgetful, 7, 12)
    differs = [
        not torch.equal(weight, forgetful.state["model"].state_dict()[name])
        for name, weight in whole.state["model"].state_dict().items()
    ]
    assert any(differs), "the hidden state must matter"


def test_stateful_update_state_is_shared_by_processes(text, monkeypatch):
    run = build(text)
    run.update(next(run.stream))
    held = run.state["hidden_state"].state_dict()
    assert [tuple(each.shape) for each in held["hidden_state"]] == [(4, 2, 9), (4, 2, 9)]
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        run.state["hidden_state"].load_state_dict(held)
        parts.append(run.state["hidden_state"].hidden_state)
    for whole, *shares in zip(held["hidden_state"], *parts, strict=True):
        assert torch.equal(torch.cat(shares), whole)


def test_measure_reads_every_token(monkeypatch):
    """In one lane: every token but the first, each told from all before it, window by window or not."""
    torch.manual_seed(0)
    net = SequenceModel(lstm.CELL, 7, 7, tokens=True, hidden=6).eval()
    ids = torch.randint(7, (103,))
    monkeypatch.setattr(rnn_language_model, "EVAL_LANES", 1)
    monkeypatch.setattr(rnn_language_model, "EVAL_WINDOW", 10)
    wanted = F.cross_entropy(net(ids[None, :-1])[0], ids[1:]).item()
    found = rnn_language_model.measure(net, ids, 206)
    assert found["loss"] == pytest.approx(wanted, abs=1e-6)
    assert found["bits_per_character"] == pytest.approx(wanted / math.log(2) / 2, abs=1e-6)
    glance = rnn_language_model.measure(net, ids, 206, max_tokens=30)["loss"]
    assert glance == pytest.approx(F.cross_entropy(net(ids[None, :-1])[0, :30], ids[1:31]).item(), abs=1e-6)
    monkeypatch.setattr(rnn_language_model, "EVAL_LANES", 4)  # 102 told: 26 a lane, 24 in the last
    lanes = [(ids[i : i + 26], ids[i + 1 : i + 27]) for i in (0, 26, 52)] + [(ids[78:-1], ids[79:])]
    total = sum(F.cross_entropy(net(x[None])[0], y, reduction="sum").item() for x, y in lanes)
    assert rnn_language_model.measure(net, ids, 206)["loss"] == pytest.approx(total / 102, abs=1e-6)
    assert rnn_language_model.measure(net, ids[:3], 3)["loss"] > 0
    with pytest.raises(BadInput, match="at least 2"):
        rnn_language_model.measure(net, ids[:1], 1)


def test_measure_has_no_dropout_and_puts_training_back():
    torch.manual_seed(0)
    net = SequenceModel(lstm.CELL, 7, 7, tokens=True, hidden=6, layers=2, dropout=0.5)
    ids = torch.randint(7, (103,))
    wanted = rnn_language_model.measure(net.eval(), ids, 206)
    assert rnn_language_model.measure(net.train(), ids, 206) == wanted
    assert all(module.training for module in net.modules())


def test_next_token_adapter_state_equals_full_context():
    torch.manual_seed(0)
    for module in (rnn, lstm, gru):
        net = SequenceModel(module.CELL, 7, 7, tokens=True, hidden=6, layers=2).eval()
        prompt = torch.randint(7, (3, 4))
        rows = [
            generate(
                rnn_language_model.NextTokenAdapter(net), prompt, 20, use_cache=cached,
                generator=torch.Generator().manual_seed(0),
            )
            for cached in (True, False)
        ]  # fmt: skip
        assert torch.equal(*rows)
        assert len(set(rows[0][:, 4:].flatten().tolist())) == 7


def test_build_rejects_bidirectional(text):
    with pytest.raises(BadInput, match="sees the next token"):
        build(text, bidirectional=True)
