"""Mixing networks: monotone everywhere, and equal to torchrl's."""

import itertools

import pytest
import torch

from torchstone.parts.rl.value_mixing import QMixer, gather_chosen, sum_values


def random_mixer(agents, state, seed, **widths):
    torch.manual_seed(seed)
    mixer = QMixer(agents, state, **widths).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.normal_()
    return mixer


@pytest.mark.parametrize("seed", range(3))
def test_no_agent_s_value_ever_counts_against_the_team(seed):
    mixer = random_mixer(3, 7, seed)
    q = (torch.randn(500, 3, dtype=torch.double) * 20).requires_grad_()
    state = torch.randn(500, 7, dtype=torch.double) * 3
    (slope,) = torch.autograd.grad(mixer(q, state).sum(), q)
    print(slope.min().item(), slope.max().item())
    assert slope.min() >= 0
    assert slope.max() > 0
    # the state may count either way
    state.requires_grad_()
    (slope,) = torch.autograd.grad(mixer(q, state).sum(), state)
    assert slope.min() < 0 < slope.max()


def test_each_agent_s_best_action_is_part_of_the_best_joint_action():
    mixer, q = random_mixer(3, 4, 1), torch.randn(3, 4, dtype=torch.double)
    state = torch.randn(4, dtype=torch.double)
    totals = {
        joint: mixer(torch.stack([q[a, u] for a, u in enumerate(joint)])[None], state[None]).item()
        for joint in itertools.product(range(4), repeat=3)
    }
    best = tuple(q.argmax(1).tolist())
    assert totals[best] == pytest.approx(max(totals.values()), abs=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("agents", "state", "embed"),
    [(2, 5, 8), *(pytest.param(*c, marks=pytest.mark.sweep) for c in [(3, 7, 32), (5, 2, 4)])],
)
def test_equal_to_torchrl(agents, state, embed):
    from torchrl.modules.models import multiagent as theirs  # of make test-all alone

    ours = random_mixer(agents, state, 0, embed=embed, hypernet=0)
    other = theirs.QMixer((state,), embed, agents, "cpu").double()
    names = {"hyper_w1": "hyper_w_1", "hyper_b1": "hyper_b_1", "hyper_w2": "hyper_w_final", "hyper_b2": "V"}
    copied = dict(ours.named_parameters())
    with torch.no_grad():
        for name, p in other.named_parameters():
            own = next(mine for mine, name_ in names.items() if name.startswith(f"{name_}."))
            p.copy_(copied[own + name[len(names[own]) :]])
    q = torch.randn(6, agents, dtype=torch.double, requires_grad=True)
    x = torch.randn(6, state, dtype=torch.double)
    a, b = ours(q, x), other(q[..., None], x)[:, 0]
    assert torch.allclose(a, b, rtol=1e-10)
    pairs = zip(*(torch.autograd.grad(y.square().sum(), q) for y in (a, b)), strict=True)
    assert all(torch.allclose(x_, y_, rtol=1e-10) for x_, y_ in pairs)
    vdn = theirs.VDNMixer(agents, "cpu")
    assert torch.allclose(sum_values(q, x), vdn(q[..., None])[:, 0])


def test_gather_chosen():
    q = torch.arange(24.0).view(2, 3, 4)
    assert gather_chosen(q, torch.tensor([[0, 1, 2], [3, 0, 1]])).tolist() == [[0, 5, 10], [15, 16, 21]]
