"""Weights by columns: other strides, the same numbers, and everything back in its place."""

import contextlib

import pytest
import torch
from torch import nn

from torchstone.parts.transformer.weight_layout import column_major_weights
from torchstone.systems.transformer.gpt import GPT
from torchstone.tasks.text.generate import generate


def places(model):
    return {n: (p.data_ptr(), p.stride()) for n, p in model.named_parameters()}


def test_only_strides_change_and_only_inside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    x, before = torch.randn(2, 8), places(model)
    expected = model(x)
    with column_major_weights(model, 2):
        print("inside", [p.stride() for p in model.parameters()])
        assert model[0].weight.stride() == (1, 32)  # widens
        assert model[2].weight.stride() == (32, 1)  # narrows
        assert torch.allclose(model(x), expected, atol=1e-6)
    assert places(model) == before


def test_it_is_all_back_after_an_error():
    model = nn.Linear(4, 4)
    before = places(model)
    inside = contextlib.suppress(RuntimeError)
    with inside, column_major_weights(model, 1):
        assert places(model) != before
        raise RuntimeError
    assert places(model) == before


@pytest.mark.parametrize(("rows", "width", "turned"), [(1, 768, True), (2, 768, True), (3, 768, False), (8, 384, True), (9, 384, False)])  # fmt: skip
def test_it_turns_where_it_is_faster(rows, width, turned):
    model = nn.Linear(width, width)
    with column_major_weights(model, rows):
        print(rows, width, model.weight.stride())
        assert (model.weight.stride() == (1, width)) is turned


def test_a_text_is_the_same_and_tied_weights_stay_tied(monkeypatch):
    torch.manual_seed(0)
    model = GPT(32, 2, 4, vocabulary=50, context=64)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    prompt, before = torch.randint(50, (2, 5)), places(model)
    said = generate(model, prompt, 40, greedy=True)
    assert places(model) == before
    assert model.head.weight is model.tokens.weight
    monkeypatch.setattr("torchstone.tasks.text.generate.by_columns", lambda *_: contextlib.nullcontext())
    plain = generate(model, prompt, 40, greedy=True)
    print(said[0].tolist())
    assert said.equal(plain)
