"""The recognizer: lengths and padding, the peepholes, recipes and metadata."""

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.systems.recurrent import ctc
from torchstone.systems.recurrent.ctc import PeepholeLSTM, ctc_loss


@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize("peepholes", [False, True])
def test_recognizer_ignores_padding(stride, peepholes):
    net = ctc.Recognizer(3, 5, hidden=6, layers=1, stride=stride, peepholes=peepholes).double().eval()
    lengths = torch.tensor([13, 7, 1])
    x = torch.randn(3, 13, 5, dtype=torch.float64)
    for row, n in zip(x, lengths, strict=True):
        row[n:] = 99.0  # whatever is there
    together, time_steps = net(x, lengths), net.output_lengths(lengths)
    assert together.shape == (3, -(-13 // stride), 4)
    assert time_steps.tolist() == [-(-n // stride) for n in (13, 7, 1)]
    for row, n, m in zip(range(3), lengths.tolist(), time_steps.tolist(), strict=True):
        alone = net(x[row : row + 1, :n], torch.tensor([n]))
        torch.testing.assert_close(together[row, :m], alone[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(net(x[:1]), net(x[:1], torch.tensor([13])), rtol=1e-10, atol=1e-12)


def test_recognizer_implementations_agree():
    fast, written = (
        ctc.Recognizer(3, 5, hidden=6, implementation=implementation).double()
        for implementation in ("fused", "reference")
    )
    written.load_state_dict(fast.state_dict())
    x, lengths = torch.randn(2, 17, 5, dtype=torch.float64), torch.tensor([17, 10])
    targets, counts = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    gradients = []
    for net in (fast, written):
        logs = net(x, lengths).log_softmax(2)
        loss = ctc_loss(logs, targets, net.output_lengths(lengths), counts).sum()
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_peephole_lstm_without_peepholes_is_torch_lstm():
    layer = PeepholeLSTM(4, 3).double()
    theirs = nn.LSTM(4, 3, batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            name, way = name.removesuffix("_reverse"), "_reverse" * name.endswith("_reverse")
            if name == "peephole":
                weight.zero_()
            elif name == "bias":
                getattr(theirs, f"bias_ih_l0{way}").copy_(weight)
                getattr(theirs, f"bias_hh_l0{way}").zero_()
            else:
                getattr(theirs, f"{name}_l0{way}").copy_(weight)
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), theirs(x)[0], rtol=1e-10, atol=1e-12)


def test_dropout_is_off_in_evaluation():
    net = ctc.Recognizer(3, 5, hidden=6, dropout=0.5)
    x = torch.randn(2, 12, 5)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stride": 0}, "stride 0"), ({"peepholes": True, "layers": 2}, "2 layers with peepholes")],
)
def test_recognizer_rejects_invalid_sizes(options, message):
    with pytest.raises(BadInput, match=message):
        ctc.Recognizer(3, 5, **options)


def test_recipes_name_missing_data():
    with pytest.raises(BadInput, match=r"no speech at 'fsdd' .*give a folder of sounds with a transcript"):
        next(iter(ctc.build(ctc.RECIPES["fsdd"])))
    assert ctc.RECIPES["characters"].data == "captcha"


def test_smoke_stream_resumes():
    run = next(iter(ctc.build(ctc.RECIPES["smoke"])))
    first = [next(run.stream) for _ in range(3)]
    run.stream.load_state_dict({"position": 8})
    again = next(run.stream)
    assert all(torch.equal(a, b) for a, b in zip(first[1], again, strict=True))
    assert run.metadata["alphabet"] == "0123"
    assert "composed" in run.metadata["data"]
    assert "same recordings in training and test" in run.metadata["data"]
