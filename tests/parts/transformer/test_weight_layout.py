"""Column-major weights: other strides, the same values, and the original storage afterwards."""

import contextlib

import pytest
import torch
from torch import nn

from torchstone.parts.transformer.weight_layout import column_major_weights
from torchstone.systems.transformer.gpt import GPT
from torchstone.tasks.text.generate import generate


def storage(model):
    return {n: (p.data_ptr(), p.stride()) for n, p in model.named_parameters()}


def test_column_major_weights_change_strides_only_inside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    x, before = torch.randn(2, 8), storage(model)
    expected = model(x)
    with column_major_weights(model, 2):
        print("inside", [p.stride() for p in model.parameters()])
        assert model[0].weight.stride() == (1, 32)  # widens
        assert model[2].weight.stride() == (32, 1)  # narrows
        assert torch.allclose(model(x), expected, atol=1e-6)
    assert storage(model) == before


def test_column_major_weights_are_restored_after_error():
    model = nn.Linear(4, 4)
    before = storage(model)
    inside = contextlib.suppress(RuntimeError)
    with inside, column_major_weights(model, 1):
        assert storage(model) != before
        raise RuntimeError
    assert storage(model) == before


@pytest.mark.parametrize(
    ("rows", "width", "is_converted"),
    [(1, 768, True), (2, 768, True), (3, 768, False), (8, 384, True), (9, 384, False)],
)
def test_column_major_weights_convert_where_faster(rows, width, is_converted):
    model = nn.Linear(width, width)
    with column_major_weights(model, rows):
        print(rows, width, model.weight.stride())
        assert (model.weight.stride() == (1, width)) is is_converted


def test_column_major_weights_generate_same_text_and_stay_tied(monkeypatch):
    torch.manual_seed(0)
    model = GPT.from_kwargs(width=32, depth=2, heads=4, vocab_size=50, context=64)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    prompt, before = torch.randint(50, (2, 5)), storage(model)
    text = generate(model, prompt, 40, greedy=True)
    assert storage(model) == before
    assert model.head.weight is model.token_embedding.weight
    monkeypatch.setattr(
        "torchstone.tasks.text.generate.column_major_weights", lambda *_: contextlib.nullcontext()
    )
    plain = generate(model, prompt, 40, greedy=True)
    print(text[0].tolist())
    assert text.equal(plain)
