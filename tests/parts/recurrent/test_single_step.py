"""One moment after another is the whole sequence: cells, layers, both paths, gradients."""

import pytest
import torch

from torchstone.parts.recurrent.layers import Recurrent
from torchstone.parts.recurrent.single_step import single_step
from torchstone.systems.recurrent import gru, lstm, rnn

CELLS = {"rnn": rnn.CELL, "lstm": lstm.CELL, "gru": gru.CELL, "gru_cho": gru.CHO_CELL}
CASES = [
    (name, path, layers, bias)
    for name in CELLS
    for path in ("fast", "written")
    for layers in (1, 3)
    for bias in (True, False)
    if (name, path) != ("gru_cho", "fast")
]


@pytest.mark.parametrize(("name", "path", "layers", "bias"), CASES)
def test_moments_are_the_sequence(name, path, layers, bias):
    torch.manual_seed(0)
    net = Recurrent(CELLS[name], 3, 5, layers, bias=bias, path=path).double()
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    begin = tuple(torch.randn(layers, 4, 5, dtype=torch.float64) for _ in range(net.cell.states))
    whole, end = net(x, state=begin)
    state, outputs = begin, []
    for each in x.unbind(1):
        y, state = single_step(net, each, state)
        outputs.append(y)
    parts = torch.stack(outputs, 1)
    slope = torch.linspace(-1, 1, whole.numel(), dtype=torch.float64).view_as(whole)
    gradients = [
        torch.autograd.grad((y * slope).sum() + sum(s.sum() for s in last), list(net.parameters()))
        for y, last in ((whole, end), (parts, state))
    ]
    worst = max(
        float((a - b).abs().max())
        for a, b in zip((whole, *end, *gradients[0]), (parts, *state, *gradients[1]), strict=True)
    )
    print(f"{name}, {path}, {layers} layers: furthest apart {worst:.2g}")
    assert worst < 1e-12


def test_dropout_stands_between_layers_alone():
    torch.manual_seed(0)
    net = Recurrent(gru.CELL, 3, 5, 2, dropout=1.0).train()
    x, state = torch.randn(4, 3), (torch.zeros(2, 4, 5),)
    y, (ends,) = single_step(net, x, state)
    lower, _ = single_step(Recurrent(gru.CELL, 3, 5).train(), x, (state[0][:1],))
    assert lower.shape == (4, 5)
    net.eval()
    sound, (whole,) = single_step(net, x, state)
    nothing, _ = single_step(net, x * 0, state)
    assert torch.equal(ends[0], whole[0])  # the lower layer's own output is not dropped
    assert not torch.equal(y, sound)
    assert not torch.equal(y, nothing)
