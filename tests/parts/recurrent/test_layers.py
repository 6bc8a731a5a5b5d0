"""Recurrent layers compared with torch's own: output, state and every gradient, in both implementations."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Recurrent, single_step
from torchstone.parts.recurrent.sequence_model import SequenceModel, init_recurrent
from torchstone.systems.recurrent import gru, lstm, rnn

CELLS = [(rnn.CELL, nn.RNN), (lstm.CELL, nn.LSTM), (gru.CELL, nn.GRU)]
LENGTHS = torch.tensor([3, 9, 1, 6])
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def answers(net, x, lengths=None):
    """Output and state of ours or torch's, in one form."""
    if isinstance(net, Recurrent):
        y, state = net(x, lengths)
    elif lengths is None:
        y, state = net(x)
    else:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = net(packed)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return y, *(state if isinstance(state, tuple) else (state,))


def everything(net, x, lengths=None):
    """Output, state, and the gradients of the input and of every parameter, under one seed, of a loss
    that is a mean over rows."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    outputs = answers(net, x, lengths)
    slopes = (torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in outputs)
    (sum((y * s).sum() for y, s in zip(outputs, slopes, strict=True)) / len(x)).backward()
    return *(y.detach() for y in outputs), x.grad, *(p.grad for p in net.parameters())


def relative_difference(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("cell", "theirs"), CELLS, ids=lambda each: getattr(each, "name", ""))
def test_recurrent_matches_torch_modules(cell, theirs, dtype):
    """Layers, directions, lengths, dropout (the same seed drops the same), projections, biases."""
    tolerance, worst, count = TOLERANCE[dtype], 0.0, 0
    grid = itertools.product((1, 3), (False, True), (None, LENGTHS), (0.0, 0.4), (0, 3), (1, 0))
    for layers, both, lengths, dropout, projection, bias in grid:
        if (projection and cell is not lstm.CELL) or (dropout and layers == 1):
            continue
        torch.manual_seed(0)
        options = {"bidirectional": both, "dropout": dropout, "bias": bool(bias)}
        net = theirs(5, 7, layers, batch_first=True, **options, **({"proj_size": 3} if projection else {}))
        x = torch.randn(4, 9, 5, dtype=dtype)
        expected = everything(net.to(dtype), x, lengths)
        for implementation in ("fused", "reference"):
            ours = Recurrent(
                cell, 5, 7, layers, projection=projection, implementation=implementation, **options
            ).to(dtype)
            ours.load_state_dict(net.state_dict())
            assert list(ours.state_dict()) == list(net.state_dict())
            found = relative_difference(everything(ours, x, lengths), expected)
            assert found <= tolerance, (implementation, layers, both, lengths, dropout, projection, found)
            worst, count = max(worst, found), count + 1
    print(f"{cell.name}, {dtype}: {count} nets, largest difference {worst:.2g}")


@pytest.mark.parametrize(("cell", "theirs"), CELLS, ids=lambda each: getattr(each, "name", ""))
def test_recurrent_init_matches_torch(cell, theirs):
    torch.manual_seed(3)
    net = theirs(4, 6, 2, bidirectional=True)
    torch.manual_seed(3)
    ours = Recurrent(cell, 4, 6, 2, bidirectional=True)
    for (name, a), (other, b) in zip(ours.named_parameters(), net.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


def test_recurrent_dropout_only_between_layers_in_training():
    x = torch.randn(2, 50, 4)
    for implementation in ("fused", "reference"):
        single = Recurrent(lstm.CELL, 4, 30, 1, dropout=0.5, implementation=implementation)
        assert torch.equal(single(x)[0], single(x)[0]), "no dropout after the last layer"
        double = Recurrent(lstm.CELL, 4, 30, 2, dropout=0.5, implementation=implementation)
        torch.manual_seed(0)
        (first, _), (second, _) = double(x), double(x)
        assert not torch.equal(first, second)
        double.eval()
        assert torch.equal(double(x)[0], double(x)[0])


@pytest.mark.parametrize("cell", [lstm.CELL, gru.CELL, rnn.CELL, gru.CHO_CELL], ids=lambda c: c.name)
def test_recurrent_combines_directions(cell):
    implementation = "fused" if cell.fused else "reference"
    nets = {
        options: Recurrent(cell, 3, 5, 2, bidirectional=True, combine=options, implementation=implementation)
        for options in ("concatenate", "sum", "average")
    }
    for net in nets.values():
        net.load_state_dict(nets["concatenate"].state_dict())
    x, lengths = torch.randn(4, 9, 3), LENGTHS
    y = {options: net(x, lengths)[0] for options, net in nets.items()}
    forward, back = y["concatenate"].chunk(2, -1)
    assert torch.allclose(y["sum"], forward + back)
    assert torch.allclose(y["average"], (forward + back) / 2)
    assert [net.width for net in nets.values()] == [10, 5, 5]
    for options, each in y.items():
        assert each.shape[-1] == nets[options].width


def test_recurrent_ignores_padding():
    """What is padded, and who stands beside it, changes nothing."""
    for (cell, _), implementation, both in itertools.product(CELLS, ("fused", "reference"), (False, True)):
        net = Recurrent(cell, 3, 5, 2, bidirectional=both, implementation=implementation).double()
        x = torch.randn(4, 9, 3, dtype=torch.float64)
        y, state = net(x, LENGTHS)
        spoilt = x.clone()
        for row, length in enumerate(LENGTHS.tolist()):
            alone, end = net(x[row : row + 1, :length])
            assert torch.allclose(y[row, :length], alone[0], atol=1e-12)
            assert not y[row, length:].any()
            for a, b in zip(state, end, strict=True):
                assert torch.allclose(a[:, row], b[:, 0], atol=1e-12)
            spoilt[row, length:] = 1e3
        assert torch.equal(net(spoilt, LENGTHS)[0], y)


def test_recurrent_continues_from_state():
    for (cell, _), implementation in itertools.product(
        [*CELLS, (gru.CHO_CELL, None)], ("fused", "reference")
    ):
        if implementation == "fused" and cell.fused is None:
            continue
        projection = 2 if cell is lstm.CELL else 0
        net = Recurrent(cell, 3, 5, 2, projection=projection, implementation=implementation).double()
        x = torch.randn(4, 9, 3, dtype=torch.float64)
        whole, end = net(x)
        first, state = net(x[:, :4])
        second, last = net(x[:, 4:], state=state)
        assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-12)
        for a, b in zip(end, last, strict=True):
            assert torch.allclose(a, b, atol=1e-12)
        order = torch.tensor([2, 0, 3, 1])  # packing sorts rows: states must go with them
        mixed = tuple(each[:, order] for each in state)
        lengths = torch.tensor([2, 5, 1, 4])
        moved, _ = net(x[order, 4:], lengths, mixed)
        for row, length in enumerate(lengths.tolist()):
            assert torch.allclose(moved[row, :length], second[order[row], :length], atol=1e-12)


def test_gru_cho_resets_before_product():
    """Unit by unit as the paper writes it; with the reset open, both forms are one."""
    torch.manual_seed(0)
    net = Recurrent(gru.CHO_CELL, 3, 4, implementation="reference").double()
    x = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    theirs = gru.by_units(net, x)
    assert torch.allclose(net(x)[0], theirs[0], atol=1e-12)
    slopes = [torch.autograd.grad(y.sin().sum(), [x, *net.parameters()]) for y in (net(x)[0], theirs[0])]
    assert relative_difference(*slopes) < 1e-12
    later = Recurrent(gru.CELL, 3, 4).double()
    later.load_state_dict(net.state_dict())
    closed = float((later(x)[0] - net(x)[0]).detach().abs().max())
    assert closed > 1e-3, "the two forms differ"
    for each in (net, later):
        with torch.no_grad():
            each.bias_ih_l0[:4] = 50.0  # r = 1
            each.bias_hh_l0[8:] = 0.0
    assert torch.allclose(later(x)[0], net(x)[0], atol=1e-12)


def test_init_recurrent_orthogonal_forget_bias_and_chrono():
    net = Recurrent(lstm.CELL, 3, 16, 2, bidirectional=True)
    init_recurrent(net, "orthogonal", forget_bias=1.0)
    for name, p in net.named_parameters():
        if name.startswith("weight_hh"):
            for gate in p.detach().chunk(4):
                assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
        if name.startswith("bias_ih"):
            assert torch.equal(p[16:32].detach(), torch.ones(16))
        if name.startswith("bias_hh"):
            assert not p[:32].detach().any(), "two biases would add up to more"
    init_recurrent(net, "chrono", time_steps=100)
    forget, write = net.bias_ih_l0.detach()[16:32], net.bias_ih_l0.detach()[:16]
    assert torch.equal(forget, -write)
    assert float(forget.exp().min()) >= 1
    assert 10 < float(forget.exp().max()) <= 99
    projected = Recurrent(lstm.CELL, 3, 16, projection=4)
    for wrong, options, forget in (
        (Recurrent(gru.CELL, 3, 4), "uniform", 1.0),
        (Recurrent(rnn.CELL, 3, 4), "chrono", None),
        (projected, "orthogonal", None),
        (projected, "nowhere", None),
    ):
        with pytest.raises(BadInput):
            init_recurrent(wrong, options, forget_bias=forget, time_steps=9)


def test_sequence_model_pools():
    torch.manual_seed(0)
    lengths = LENGTHS
    for both, combine in ((False, "concatenate"), (True, "concatenate"), (True, "average")):
        options = {"tokens": True, "hidden": 6, "layers": 2, "bidirectional": both, "combine": combine}
        x = torch.randint(11, (4, 9))
        for pool in ("each", "last", "mean", "max"):
            net = SequenceModel(lstm.CELL, 11, 3, pool=pool, **options).double()
            logits = net(x, lengths)
            assert logits.shape == ((4, 9, 3) if pool == "each" else (4, 3))
            for row, length in enumerate(lengths.tolist()):
                alone = net(x[row : row + 1, :length])[0]
                own = logits[row, :length] if pool == "each" else logits[row]
                assert torch.allclose(own, alone, atol=1e-12), (pool, both, combine)
            mask = torch.arange(9) < lengths[:, None]
            assert torch.equal(net.logits(x, mask), logits)
    net = SequenceModel(lstm.CELL, 11, 11, tokens=True, hidden=6, tie_weights=True)
    assert net.head.weight is net.embedding.weight
    steps, state = [], None
    for t in range(9):
        logits, state = net.step(x[:, t : t + 1], state)
        steps.append(logits)
    assert torch.allclose(torch.cat(steps, 1), net(x), atol=1e-6)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_sequence_model_last_pool_uses_each_direction_end(implementation):
    """From the end, the last state has read the first moment; outputs there are another matter."""
    torch.manual_seed(0)
    net = SequenceModel(
        gru.CELL, 2, 4, tokens=False, hidden=3, bidirectional=True, pool="last", implementation=implementation
    )
    x = torch.randn(2, 5, 2)
    y, _ = net.features(x, torch.tensor([5, 3]))
    ends = torch.cat([torch.stack([y[0, 4, :3], y[1, 2, :3]]), y[:, 0, 3:]], 1)
    assert torch.allclose(net(x, torch.tensor([5, 3])), net.head(ends), atol=1e-6)


def test_recurrent_rejects_invalid_options():
    for wrong, message in (
        (lambda: Recurrent(gru.CHO_CELL, 3, 4), "gru_cho has no fused kernel"),
        (lambda: Recurrent(gru.CELL, 3, 4, projection=2), "a projection needs an LSTM"),
        (lambda: Recurrent(lstm.CELL, 3, 4, projection=4), "smaller than its 4 units"),
        (lambda: Recurrent(lstm.CELL, 3, 0), "at least 1"),
        (lambda: Recurrent(lstm.CELL, 3, 4, combine="product"), "not 'product'"),
        (lambda: Recurrent(lstm.CELL, 3, 4, implementation="slow"), "not 'slow'"),
        (lambda: Recurrent(lstm.CELL, 3, 4)(torch.ones(2, 5, 3), torch.tensor([5, 0])), "1 to 5"),
        (lambda: Recurrent(lstm.CELL, 3, 4)(torch.ones(2, 5, 3), torch.tensor([5, 6])), "1 to 5"),
        (lambda: Recurrent(lstm.CELL, 3, 4)(torch.ones(2, 5, 4)), "vectors of 3 numbers"),
        (
            lambda: Recurrent(lstm.CELL, 3, 4)(torch.ones(2, 5, 3), state=(torch.ones(1, 1, 4),) * 2),
            "the state's shapes are",
        ),
        (lambda: Recurrent(gru.CELL, 3, 4)(torch.ones(2, 5, 3), state=()), "the state's shapes are"),
        (
            lambda: SequenceModel(lstm.CELL, 9, 9, tokens=True, hidden=4, embedding=3, tie_weights=True),
            "9 × 3",
        ),
        (lambda: SequenceModel(lstm.CELL, 9, 9, tokens=False, hidden=9, tie_weights=True), "output layer"),
        (lambda: SequenceModel(lstm.CELL, 9, 9, tokens=True, hidden=4, pool="first"), "not 'first'"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


# one time step at a time: cells, layers, both implementations, gradients

STEP_CELLS = {"rnn": rnn.CELL, "lstm": lstm.CELL, "gru": gru.CELL, "gru_cho": gru.CHO_CELL}
STEP_CASES = [
    (name, implementation, layers, bias)
    for name in STEP_CELLS
    for implementation in ("fused", "reference")
    for layers in (1, 3)
    for bias in (True, False)
    if (name, implementation) != ("gru_cho", "fused")
]


@pytest.mark.parametrize(("name", "implementation", "layers", "bias"), STEP_CASES)
def test_single_step_equals_sequence(name, implementation, layers, bias):
    torch.manual_seed(0)
    net = Recurrent(STEP_CELLS[name], 3, 5, layers, bias=bias, implementation=implementation).double()
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
    print(f"{name}, {implementation}, {layers} layers: largest difference {worst:.2g}")
    assert worst < 1e-12


def test_single_step_dropout_only_between_layers():
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
