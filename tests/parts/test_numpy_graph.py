"""Traced functions against torch: each operation, gradients of small networks, and what is not supported."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from torchstone.parts import numpy_graph
from torchstone.parts.numpy_graph import OPERATIONS, Traced, Unsupported, as_tensor, checked_trace, trace


def gradients(loss, *tensors: Tensor) -> list[Tensor]:
    """The gradient of a loss by those tensors that have one."""
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    floats = [leaf for leaf in leaves if leaf.requires_grad]
    found = torch.autograd.grad(loss(*leaves), floats, allow_unused=True, materialize_grads=True)
    return [found_one.detach() for found_one in found]


def example(rows: int = 6, columns: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    x, y = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    index = torch.randint(columns, (rows,), generator=generator)
    return x, y, index


SCALES = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
CASES = {
    "elementwise": lambda x, y, i: [
        *(f(x) for f in (torch.exp, torch.tanh, torch.relu, torch.neg, torch.abs, torch.sign, torch.square)),
        *(f(x.abs() + 0.1) for f in (torch.log, torch.sqrt, torch.rsqrt, torch.reciprocal)),
        *(x + y, x - y, x * y, x / y, 2 - x, x**3, 1 / x, x.t() + 1),
        *(torch.minimum(x, y), torch.maximum(x, y), x.clamp(-0.5, 0.5), x.clamp(max=0.1), x.clamp(min=0.1)),
        *(torch.clamp_min(x, 0.2), torch.clamp_max(x, 0.2), torch.clamp(x, y - 0.5, y + 0.5)),
    ],
    "conditions": lambda x, y, i: (
        [torch.where(condition, x, y) for condition in (x < y, x <= y, x > y, x >= y, x == y, x != y)]
        + [
            torch.where((x > 0) & ~(y > 0) | (y > 1), x, 0.0),
            torch.where(torch.logical_and(x > 0, y > 0), x, y),
        ]
        + [torch.where(torch.logical_not(x > 0), x, y), x.masked_fill(y > 0, 2.0)]
        + [torch.zeros_like(x).masked_fill_(y > 0, 2.0)]
    ),
    "sums": lambda x, y, i: [
        *(x.sum(), x.sum(0), x.sum(1), x.sum(0, keepdim=True), x.sum((0, 1)), x.mean(), x.mean(1)),
        *(x.mean(0, keepdim=True), x.amax(1), x.amin(0), x.amax(1, keepdim=True), x.argmax(1), x.argmax()),
    ],
    "shapes": lambda x, y, i: [
        *(x[:, 1], x[2], x[..., 0], x.view(3, 6), x[:, :, None] * y[:, :, None], torch.cat([x, y], 1)),
        *(x[:, :1].squeeze(1), x[0].expand(4, 3), x.clone(), x.float(), x.unsqueeze(0), x.reshape(-1)),
    ],
    "products": lambda x, y, i: [x @ y.t(), torch.addmm(SCALES, x, y[:3]), F.linear(x, y[:3], SCALES)],
    "selections": lambda x, y, i: [
        *(x.gather(1, i[:, None]), x.log_softmax(1), F.nll_loss(x, i, reduction="none")),
        *(F.smooth_l1_loss(x, y), F.smooth_l1_loss(x, y, reduction="none"), F.mse_loss(x, y)),
        F.mse_loss(x, y, reduction="none"),
    ],
    "gradients of a policy": partial(
        gradients,
        lambda x, y, i: (
            -torch.min(x.log_softmax(-1).gather(-1, i[:, None])[..., 0].exp() * y[:, 0], y[:, 1]).mean()
            + F.cross_entropy(y, i, reduction="none").mean()
        ),
    ),
    "gradients of losses": partial(
        gradients,
        lambda x, y, i: (
            F.smooth_l1_loss(x, 3 * y)
            + (y * F.smooth_l1_loss(3 * x, y, reduction="none")).mean()
            + F.mse_loss(x, y)
            + F.mse_loss(x, y, reduction="none").sum()
            - F.nll_loss(x, i, reduction="none").square().mean()
            + torch.relu(x).tanh().sum()
            + x[:, 0].mean() * x.amax(1).sum()
            + (x[2] * y[0]).clamp(-0.2, 0.2).sum()
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_operation_equals_torch(name):
    function, tensors = CASES[name], example()
    run = trace(function, tensors)
    for values in (tensors, [t.flip(0).contiguous() for t in tensors]):  # other numbers than were traced
        results = run(*[t.numpy() for t in values])
        for result, expected in zip(results, function(*values), strict=True):
            torch.testing.assert_close(
                as_tensor(result), expected, rtol=1e-12, atol=1e-12, check_stride=False
            )


def test_every_operation_is_in_a_case():
    names = set()
    for function in CASES.values():
        with numpy_graph._Recorder() as recorder:
            function(*example())
        names |= {call[0] for call in recorder.calls}
    rest = set(OPERATIONS) - names
    assert rest <= {"_unsafe_view", "rsub", "bitwise_or", "logical_and_", "masked_fill_", "maximum"}, rest


@pytest.mark.parametrize("rows", [1, 4])
def test_number_of_the_example_that_stays_is_found(rows):
    def function(x: Tensor) -> list[Tensor]:
        with _disable_current_modes():  # what is not recorded
            hidden = x.clone()
        return [x * hidden]

    assert checked_trace(function, [torch.rand(rows, 3)]) is None


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("in_place", [True, False])
def test_gradient_of_a_network_follows_its_weights(activation, rows, in_place):
    torch.manual_seed(rows)
    network = nn.Sequential(nn.Linear(4, 80), activation(), nn.Linear(80, 40), activation(), nn.Linear(40, 2))
    parameters = list(network.parameters())

    def function(x: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(network(x).square().mean(), parameters))

    run = trace(function, [torch.randn(rows, 4)])
    run(np.zeros((rows, 4), np.float32))
    with torch.no_grad():
        if in_place:
            for p in parameters:
                p.add_(0.1 * torch.randn_like(p))
        else:  # other memory
            vector = nn.utils.parameters_to_vector(parameters)
            nn.utils.vector_to_parameters(vector + 0.1 * torch.randn_like(vector), parameters)
    x = torch.randn(rows, 4)
    for result, expected in zip(run(x.numpy()), function(x), strict=True):
        torch.testing.assert_close(as_tensor(result), expected, rtol=1e-5, atol=1e-6, check_stride=False)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x.sort().values],  # no line
        lambda x: [x * float(x.sum())],  # a number of the example would stay
        lambda x: [x if x.sum() > 0 else -x],
        lambda x: [x * torch.tensor(2.0).requires_grad_().detach().clone() * NUMBER],  # it may change
    ],
)
def test_what_cannot_be_traced_is_said(function):
    with pytest.raises(Unsupported):
        trace(function, [torch.rand(4, 3)])
    assert checked_trace(function, [torch.rand(4, 3)]) is None


NUMBER = torch.tensor(3.0)


def test_wrong_line_is_found(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "tanh", np.sin)
    assert checked_trace(lambda x: [torch.tanh(x)], [torch.rand(4, 3)]) is None
    x = torch.rand(4, 3)
    assert torch.equal(Traced(torch.tanh)(x), torch.tanh(x)), "left to torch"


def test_traced_function_of_each_form():
    traced = Traced(lambda x: x.tanh().argmax(1))
    for rows in (3, 5, 3):
        x = torch.randn(rows, 4)
        assert torch.equal(traced(x), x.argmax(1))
    assert [program is not None for program in traced.programs.values()] == [True, True]
