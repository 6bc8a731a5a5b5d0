"""Networks of games with hidden cards: outputs, gradients and three AdamW steps are the reference's, in random sizes."""

import random

import pytest
import torch

from torchstone.references import multiagent
from torchstone.systems.multiagent.deep_cfr import DeepCFR
from torchstone.systems.multiagent.nfsp import NFSP

KINDS = {"nfsp": (NFSP, multiagent.nfsp_cases), "deep_cfr": (DeepCFR, multiagent.deep_cfr_cases)}


def sizes(seed: int) -> tuple[int, int, tuple[int, ...]]:
    draw = random.Random(seed)
    hidden = tuple(draw.choice((4, 8, 8, 16)) for _ in range(draw.randint(1, 4)))
    return draw.randint(3, 40), draw.randint(2, 6), hidden


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.sweep) for n in range(1, 8))])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_reference(kind, seed, monkeypatch):
    monkeypatch.setattr(multiagent, "SIZES", (sizes(seed),))
    ours, cases = KINDS[kind]
    (case,) = cases(ours, seed)
    names = case.names
    pair = case.ours.double(), case.theirs.double()
    x = torch.randn(9, sizes(seed)[0], dtype=torch.double)
    optimizers = [torch.optim.AdamW(network.parameters(), lr=0.01) for network in pair]
    own = dict(pair[0].named_parameters())
    assert names(dict(pair[1].named_parameters())).keys() == own.keys()
    for _ in range(3):
        losses = []
        for network, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            loss = sum(output.square().mean() + output.sin().sum() for output in network(x))
            loss.backward()
            losses.append(loss)
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-10)
        theirs = names({name: p.grad for name, p in pair[1].named_parameters()})
        for name, p in own.items():
            assert torch.allclose(p.grad, theirs[name], rtol=1e-9, atol=1e-10), name
        for optimizer in optimizers:
            optimizer.step()
    theirs = names(dict(pair[1].named_parameters()))
    assert max((p - theirs[name]).abs().max().item() for name, p in own.items()) < 1e-8
