"""Memory problems: metrics, the gradient through time, and the use of a trained network."""

import pytest
import torch
from torch import nn

from torchstone.data.synthetic.memory_problems import MemoryProblems, memoryless_loss
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems.recurrent import lstm, rnn
from torchstone.tasks import memory_problems


def build(task, **fields):
    defaults = {"task": task, "data": "synthetic", "hidden": 8, "seq_len": 12, "batch_size": 5}
    defaults |= {"device": "cpu", "forget_bias": None}
    return next(iter(lstm.build(replace_fields(lstm.RECIPES["smoke"], defaults | fields))))


class PerfectMemory(nn.Module):
    """One that remembers everything, by looking it up."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if self.kind == "adding":
            return x.prod(-1).sum(1, keepdim=True)
        x = x.argmax(-1)
        logits = torch.full((*x.shape, 9), -30.0)
        logits[..., 0] = 0.0
        logits[:, -10:, 0] = -30.0
        return logits.scatter_add_(
            2, torch.cat([x[:, :-10] * 0, x[:, :10]], 1)[..., None], torch.full((*x.shape, 1), 30.0)
        )


@pytest.mark.parametrize("kind", ["adding", "copy"])
def test_measure_perfect_memory_has_no_error(kind):
    problems = [next(MemoryProblems(kind, 30, 50, seed=0))]
    found = memory_problems.measure(PerfectMemory(kind), problems)
    print(found)
    assert found["loss"] < 1e-9
    assert found.get("symbol_accuracy", 1.0) == 1.0


def test_measure_without_memory_is_baseline():
    problems = [next(MemoryProblems("copy", 30, 200, seed=0))]
    net = nn.Linear(1, 1)
    net.forward = lambda x: torch.where(
        torch.arange(50)[:, None] < 40, torch.tensor([30.0] + 8 * [0.0]), torch.tensor([-30.0] + 8 * [0.0])
    ).expand(len(x), -1, -1)
    found = memory_problems.measure(net, problems)
    assert found["loss"] == pytest.approx(memoryless_loss(30), rel=1e-4)
    assert 0.05 < found["symbol_accuracy"] < 0.2


def test_state_gradient_norms_match_jacobians():
    """∂L/∂hₜ of a tanh RNN: the answer's slope times diag(1 − h²) W of each later moment."""
    torch.manual_seed(0)
    net = SequenceModel(rnn.CELL, 2, 1, tokens=False, hidden=6, pool="last").double()
    x, y = next(MemoryProblems("adding", 10, 3, seed=0))
    x, y = x.double(), y.double()
    h, _ = net.features(x)
    W, V = net.recurrent.weight_hh_l0, net.head.weight
    norms = []
    for t in range(10):  # the state that moment t is read with
        rows = []
        for row in range(3):
            slope = 2 * (net.head(h[row, -1]) - y[row]) @ V / 3
            for k in range(9, t - 1, -1):
                slope = (slope * (1 - h[row, k] ** 2)) @ W
            rows.append(slope.norm() * 3)
        norms.append(torch.stack(rows).mean().detach())
    found = memory_problems.state_gradient_norms(net, x, y)
    assert torch.allclose(found, torch.stack(norms), rtol=1e-9)
    left = memory_problems.gradient_profile(net, [(x, y)])
    assert left["gradient/1"] == 1.0
    assert left["gradient/10"] == pytest.approx(float(norms[0] / norms[-1]), rel=1e-6)
    assert list(left) == ["gradient/1", "gradient/2", "gradient/5", "gradient/10"]


def test_gradient_profile_of_open_forget_gates_is_constant():
    """Forget gates wide open, nothing written: over a hundred moments nothing is lost."""
    net = SequenceModel(lstm.CELL, 2, 1, tokens=False, hidden=6, pool="last")
    with torch.no_grad():
        for parameter in net.recurrent.parameters():
            parameter.zero_()
        net.recurrent.bias_ih_l0[6:12] = 50.0
        net.recurrent.bias_ih_l0[18:] = 50.0
    x, y = next(MemoryProblems("adding", 100, 4, seed=0))
    assert memory_problems.gradient_profile(net, [(x, y)])["gradient/100"] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("task", ["adding", "copy"])
def test_build_trains_and_evaluates(task):
    run = build(task, steps=3)
    before = run.evaluate()
    for _ in range(3):
        run.update(next(run.stream))
    after = run.evaluate()
    assert before != after
    assert {"loss", "gradient/1", "gradient/10"} <= before.keys()
    assert ("symbol_accuracy" in after) == (task == "copy")
    model, metadata = run.state["model"], run.metadata
    again = lstm.VARIANTS[metadata["variant"]].make(**metadata["model_config"])
    again.load_state_dict(model.state_dict())
    found = lstm.evaluate(again, metadata, "synthetic", held_out=True)
    assert found["loss"] == pytest.approx(run.test()["loss"], rel=1e-6)
    assert found["time_steps"] == 12
    longer = lstm.evaluate(again, metadata, "synthetic:25", held_out=False)
    assert longer["time_steps"] == 25
    assert longer["loss"] != found["loss"]
    with pytest.raises(BadInput, match="these problems are generated"):
        lstm.evaluate(again, metadata, "digits", held_out=False)


def test_predict_parses_problems():
    run = build("adding")
    model = run.state["model"]
    (answer,) = lstm.predict(model, run.metadata, ["0.25 0.5* 0.125, 0.75*"])
    x = torch.tensor([[[0.25, 0.0], [0.5, 1.0], [0.125, 0.0], [0.75, 1.0]]])
    assert answer["sum"] == pytest.approx(float(model(x)))
    for wrong in ("0.1 0.2", "0.1* 0.2", "0.1* 2*", "", "a* 0.1*"):
        with pytest.raises(BadInput, match="two of them marked"):
            lstm.predict(model, run.metadata, [wrong])
    run = build("copy")
    (answer,) = lstm.predict(run.state["model"], run.metadata, ["31415 82671"])
    x = torch.tensor([[3, 1, 4, 1, 5, 8, 2, 6, 7, 1] + 11 * [0] + [9] + 10 * [0]])
    x = nn.functional.one_hot(x, 10).float()
    assert answer["symbols"] == run.state["model"](x)[0, -10:].argmax(-1).tolist()
    for wrong in ("123", "1234567890", "abc"):
        with pytest.raises(BadInput, match="10 symbols of 1 to 8"):
            lstm.predict(run.state["model"], run.metadata, [wrong])


def test_task_rejects_unsupported_verbs():
    run = build("adding")
    with pytest.raises(BadInput, match="nothing to sample"):
        lstm.sample(run.state["model"], run.metadata)
    with pytest.raises(BadInput, match="does not predict with 'fill'"):
        lstm.predict(run.state["model"], run.metadata, ["0.1* 0.2*"], fill=True)
    with pytest.raises(BadInput, match="not bidirectional"):
        build("copy", bidirectional=True)
    with pytest.raises(BadInput, match="give data synthetic"):
        build("copy", data="shakespeare")
