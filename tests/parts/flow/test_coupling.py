"""Flow layers against automatic differentiation, at random weights: at initialization they are the identity,
and a missing determinant would go unnoticed."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from torchstone.parts.flow.coupling import (
    ActNorm,
    AffineCoupling,
    ChannelCoupling,
    CheckerboardHalves,
    ComposeFlow,
    InverseFlow,
    MixtureCoupling,
    MultiScaleFlow,
    Squeeze,
    Standardize,
    SwapHalves,
    alternating_mask,
    channel_mask,
    checkerboard,
    initialize_actnorm,
    standard_normal_log_prob,
)

WITHIN = {torch.float64: 1e-10, torch.float32: 1e-5}


class Mixed(nn.Module):
    """s and t that depend on every number that is masked."""

    def __init__(self, numbers: int):
        super().__init__()
        self.first, self.last = nn.Linear(numbers, 9), nn.Linear(9, 2 * numbers)

    def forward(self, x):
        output = self.last(torch.tanh(self.first(x.flatten(1))))
        return output.view(len(x), 2 * x.shape[1], *x.shape[2:])


def row_coupling(numbers: int, odd: bool) -> AffineCoupling:
    return AffineCoupling(Mixed(numbers), alternating_mask(numbers, odd=odd), numbers)


def image_coupling(shape: tuple[int, int, int], mask: torch.Tensor) -> AffineCoupling:
    class Net(Mixed):
        def forward(self, x):
            output = self.last(torch.tanh(self.first(x.flatten(1))))
            return output.view(len(x), 2 * shape[0], *shape[1:])

    return AffineCoupling(Net(math.prod(shape)), mask, shape[0])


def split_coupling(is_affine: bool) -> ChannelCoupling:
    """Of 4 × 2 × 2, by a network of the first two channels."""

    class Net(Mixed):
        def forward(self, x):
            output = self.last(torch.tanh(self.first(x.flatten(1)))).view(len(x), 4, 2, 2)
            return output if is_affine else output[:, :2]

    return ChannelCoupling(Net(8), is_affine)


def mixture_coupling(components: int) -> MixtureCoupling:
    """Of 4 × 2 × 2, by a network of the first two channels."""
    numbers = 2 + 3 * components

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 9), nn.Linear(9, 8 * numbers)

        def forward(self, a):
            return self.last(torch.tanh(self.first(a.flatten(1)))).view(len(a), 2, 2, 2, numbers)

    return MixtureCoupling(Net())


LAYERS = {
    "mixture of three": ((4, 2, 2), lambda: mixture_coupling(3)),
    "mixture of one": ((4, 2, 2), lambda: mixture_coupling(1)),
    "checkerboard halves": ((2, 3, 4), CheckerboardHalves),
    "swap halves": ((4, 2, 2), SwapHalves),
    "inverse of a squeeze": ((4, 2, 2), lambda: InverseFlow(Squeeze())),
    "act norm of each number": ((2, 2, 3), lambda: ActNorm(2, sides=(2, 3))),
    "split channels, affine": ((4, 2, 2), lambda: split_coupling(True)),
    "split channels, additive": ((4, 2, 2), lambda: split_coupling(False)),
    "coupling of rows, even stays": ((5,), lambda: row_coupling(5, False)),
    "coupling of rows, odd stays": ((5,), lambda: row_coupling(5, True)),
    "checkerboard": ((2, 3, 4), lambda: image_coupling((2, 3, 4), checkerboard(3, 4))),
    "checkerboard, odd": ((2, 4, 2), lambda: image_coupling((2, 4, 2), checkerboard(4, 2, odd=True))),
    "first channels": ((3, 2, 2), lambda: image_coupling((3, 2, 2), channel_mask(3))),
    "second channels": ((4, 2, 2), lambda: image_coupling((4, 2, 2), channel_mask(4, second=True))),
    "squeeze": ((2, 4, 4), Squeeze),
    "act norm of rows": ((4,), lambda: ActNorm(4, 0)),
    "act norm of channels": ((3, 2, 4), lambda: ActNorm(3)),
    "standard": ((3,), lambda: Standardize([1.0, -2.0, 0.5], [0.3, 4.0, 1.5])),
    "compose": ((4,), lambda: ComposeFlow([ActNorm(4, 0), row_coupling(4, False), row_coupling(4, True)])),
    "multi-scale": (
        (1, 4, 4),
        lambda: MultiScaleFlow(
            [
                ComposeFlow([image_coupling((1, 4, 4), checkerboard(4, 4)), Squeeze(),
                       image_coupling((4, 2, 2), channel_mask(4))]),
                ComposeFlow([ActNorm(2), image_coupling((2, 2, 2), checkerboard(2, 2, odd=True))]),
            ],
            (1, 4, 4),
        ),
    ),
}  # fmt: skip


def randomize_weights(layer: nn.Module, dtype: torch.dtype) -> Any:
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(0.6 * torch.randn(weight.shape))
    return layer.to(dtype)


def by_autograd(f, x: torch.Tensor) -> torch.Tensor:
    """log |det| of the Jacobian at each of a batch."""
    flat = [
        torch.autograd.functional.jacobian(
            lambda v, like=row: f(v.view_as(like)[None]).flatten(), row.flatten()
        )
        for row in x
    ]
    return torch.stack([torch.linalg.slogdet(each)[1] for each in flat])


@pytest.mark.parametrize("dtype", WITHIN, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_flow_layers_log_det_and_inverse(name, dtype):
    shape, make = LAYERS[name]
    torch.manual_seed(len(name))
    layer = randomize_weights(make(), dtype)
    x = torch.randn(3, *shape, dtype=dtype)
    z, log_det = layer(x)
    back, log_back = layer.inverse(z)
    slow = by_autograd(lambda v: layer(v)[0], x)
    slow_back = by_autograd(lambda v: layer.inverse(v)[0], z.detach())
    errors = [
        float((log_det - slow).detach().abs().max()),
        float((log_back - slow_back).detach().abs().max()),
        float((log_det + log_back).detach().abs().max()),
        float((back - x).detach().abs().max()),
    ]
    print(f"{name}, {dtype}: {errors}; log |det| {log_det.tolist()}")
    assert z.shape[0] == log_det.shape[0] == 3
    assert max(errors) < WITHIN[dtype]
    if "additive" in name:
        assert float((z - x).detach().abs().max()) > 0.1
        assert log_det.tolist() == [0] * 3
    elif name in ("checkerboard halves", "swap halves", "squeeze", "inverse of a squeeze"):
        assert log_det.tolist() == [0] * 3
    else:
        assert float(log_det.detach().abs().min()) > 1e-3, "a map that stretches nothing proves nothing"


def test_affine_coupling_changes_unmasked_only():
    layer = randomize_weights(image_coupling((2, 3, 4), checkerboard(3, 4)), torch.float32)
    x = torch.randn(2, 2, 3, 4)
    z, _ = layer(x)
    masked = layer.mask.expand_as(x).bool()
    assert torch.equal(z[masked], x[masked])
    assert bool((z[~masked] != x[~masked]).all())
    other = torch.where(masked, x, x + 1)  # s and t must not see what they move
    moved = (layer(other)[0] - z)[~masked]
    assert torch.allclose(moved, layer.scale_and_shift(x)[0].exp()[~masked], atol=1e-5)


def test_channel_coupling_by_hand():
    """Glow, table 1, with the published code's scale: sigmoid(raw + 2), after which comes the shift."""

    class Net(nn.Module):
        def forward(self, a):
            return torch.cat([a, 3 * a], 1)  # t and raw

    x = torch.tensor([0.5, -1.0, 2.0, 4.0]).double().view(1, 4, 1, 1)
    z, log_det = ChannelCoupling(Net())(x)
    s = [1 / (1 + math.exp(-(3 * a + 2))) for a in (0.5, -1.0)]
    assert z.flatten().tolist() == pytest.approx([0.5, -1.0, 2 * s[0] + 0.5, 4 * s[1] - 1.0])
    assert float(log_det) == pytest.approx(math.log(s[0] * s[1]))
    shifted, none = ChannelCoupling(nn.Identity(), is_affine=False)(x)
    assert shifted.flatten().tolist() == [0.5, -1.0, 2.5, 3.0]
    assert float(none) == 0


class Fixed(nn.Module):
    """The same numbers for one pixel, whatever its input; what it was called with is recorded."""

    def __init__(self, numbers: list[float]):
        super().__init__()
        self.numbers, self.calls = numbers, []

    def forward(self, *inputs):
        self.calls.append(inputs)
        return torch.tensor(self.numbers).to(inputs[0]).view(1, 1, 1, 1, -1)


def test_mixture_coupling_by_hand():
    """Of one number that two components move."""
    raw = [0.7, -1.5, 0.2, -0.3, 1.0, -2.0, 0.4, -9.0]  # a, b, two logits, two means, two log s
    z, log_det = MixtureCoupling(Fixed(raw))(torch.tensor([3.0, 0.9]).double().view(1, 2, 1, 1))
    weights = [math.exp(0.2) / (math.exp(0.2) + math.exp(-0.3)), 0.0]
    weights[1] = 1 - weights[0]
    cdf = slope = 0.0
    for weight, mean, log_scale in zip(weights, (1.0, -2.0), (0.4, -7.0), strict=True):
        s = math.exp(log_scale)
        sigma = 1 / (1 + math.exp(-min((0.9 - mean) / s, 700)))
        cdf, slope = cdf + weight * sigma, slope + weight * sigma * (1 - sigma) / s
    by_hand = math.log(cdf / (1 - cdf)) * math.exp(math.tanh(0.7)) - 1.5
    assert z.flatten().tolist() == pytest.approx([3.0, by_hand])
    assert float(log_det) == pytest.approx(math.log(slope / (cdf * (1 - cdf))) + math.tanh(0.7))


def test_mixture_coupling_gives_its_network_the_context():
    net, context = Fixed([0.0] * 5), torch.ones(1, 1, 1, 3)
    layer = MixtureCoupling(net)
    layer(torch.zeros(1, 2, 1, 1), context)
    layer.inverse(torch.zeros(1, 2, 1, 1), context)
    assert [len(inputs) for inputs in net.calls] == [2, 2]
    assert all(inputs[1] is context for inputs in net.calls)


def test_checkerboard_halves_are_the_two_colors():
    x = torch.arange(8.0).view(1, 1, 2, 4)
    halves, _ = CheckerboardHalves()(x)
    assert halves[0, 0].tolist() == [[0, 2], [5, 7]]
    assert halves[0, 1].tolist() == [[1, 3], [4, 6]]
    board = checkerboard(4, 6)[None]
    assert torch.equal(CheckerboardHalves()(board)[0][0, 0], torch.ones(4, 3))


def test_initialize_standardizes_each_number():
    torch.manual_seed(0)
    x = torch.randn(60, 2, 3, 4) * torch.arange(1.0, 25).view(2, 3, 4) - 5
    layer = ActNorm(2, sides=(3, 4))
    initialize_actnorm(layer, x)
    with torch.no_grad():
        std, mean = torch.std_mean(layer(x)[0], 0, correction=0)
    assert float(mean.abs().max()) < 1e-4
    assert float((std - 1).abs().max()) < 1e-4


def test_actnorm_shifts_before_it_scales():
    layer = ActNorm(1)
    with torch.no_grad():
        layer.scale.fill_(math.log(3))
        layer.shift.fill_(2)
    assert layer(torch.ones(1, 1, 1, 1))[0].item() == pytest.approx(9)


@pytest.mark.parametrize("shape", [(50, 3, 4, 5), (400, 3)], ids=["images", "rows"])
def test_initialize_actnorm_standardizes_each_channel_in_turn(shape):
    """Also the second of two, of what the first one and a multiplication have left."""
    torch.manual_seed(0)
    spread = torch.tensor([0.5, 3.0, 40.0]).view(3, *[1] * (len(shape) - 2))
    x = torch.randn(shape) * spread - 7 * spread
    axes = [0, *range(2, len(shape))]

    class Triple(nn.Module):
        def forward(self, x):
            return 3 * x + 1, x.new_zeros(len(x))

    layers = [ActNorm(3, len(shape) - 2), Triple(), ActNorm(3, len(shape) - 2)]
    initialize_actnorm(ComposeFlow(layers), x)
    first, last = layers[0](x)[0], ComposeFlow(layers)(x)[0]
    for z in (first, last):
        std, mean = torch.std_mean(z, axes, correction=0)
        print(mean.tolist(), std.tolist())
        assert mean.tolist() == pytest.approx([0] * 3, abs=1e-4)
        assert std.tolist() == pytest.approx([1] * 3, abs=1e-4)
    assert layers[2].shift.flatten().tolist() == pytest.approx([-1] * 3, abs=1e-4)
    before = layers[0].scale.clone()
    layers[0](2 * x)  # a forward pass changes nothing, in training mode either
    assert torch.equal(layers[0].scale, before)
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_initialize_actnorm_gives_the_outputs_of_nflows():
    """Whose standard deviation divides by n − 1, and whose parameters are s · x + b."""
    import nflows.transforms as nflows

    x = torch.randn(8, 3, 4, 4, dtype=torch.float64) * 5 + 2
    theirs, ours = nflows.ActNorm(3).double(), ActNorm(3).double()
    z, log_det = theirs(x)
    initialize_actnorm(ours, x)
    n = 8 * 4 * 4
    ratio = math.sqrt(n / (n - 1))
    assert torch.allclose(ours(x)[0], z * ratio, atol=1e-5)  # our floor of the standard deviation is 1e-6
    assert torch.allclose(ours(x)[1], log_det + 3 * 16 * math.log(ratio), atol=1e-4)


def test_masks_match_figure_3():
    assert checkerboard(2, 3)[0].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert torch.equal(checkerboard(4, 5, odd=True), 1 - checkerboard(4, 5))
    assert channel_mask(4).flatten().tolist() == [1, 1, 0, 0]
    assert channel_mask(3, second=True).flatten().tolist() == [0, 1, 1]
    assert alternating_mask(5).tolist() == [1, 0, 1, 0, 1]


def test_squeeze_separates_checkerboard_colors():
    board = checkerboard(4, 6).expand(3, -1, -1)[None]
    squeezed, log_det = Squeeze()(board)
    assert squeezed.shape == (1, 12, 2, 3)
    assert bool((squeezed[:, :6] == 1).all())
    assert bool((squeezed[:, 6:] == 0).all())
    assert log_det.tolist() == [0]
    pixels = torch.arange(16.0).view(1, 1, 4, 4)
    assert Squeeze()(pixels)[0][0, :, 0, 0].tolist() == [0, 5, 1, 4]


def test_multi_scale_flow_splits_half_at_each_scale():
    """Equations 14 and 15: for 1 × 8 × 8 in three scales 32, 16 and the last 16."""
    scales = MultiScaleFlow([Squeeze(), Squeeze(), ComposeFlow([])], (1, 8, 8))
    assert [math.prod(shape) for shape in scales.split_shapes] == [32, 16, 16]
    x = torch.randn(2, 1, 8, 8)
    z, _ = scales(x)
    first, _ = Squeeze()(x)
    assert torch.equal(z[:, :32], first[:, :2].flatten(1))
    assert torch.equal(scales.inverse(z)[0], x)


def test_multi_scale_flow_with_a_squeeze_in_the_last_stage():
    scales = MultiScaleFlow([Squeeze(), Squeeze()], (1, 8, 8), squeezes_last=True)
    assert scales.split_shapes == [(2, 4, 4), (8, 2, 2)]
    x = torch.randn(2, 1, 8, 8)
    z, _ = scales(x)
    last, _ = Squeeze()(Squeeze()(x)[0][:, 2:])
    assert torch.equal(z[:, 32:], last.flatten(1))
    assert torch.equal(scales.inverse(z)[0], x)


def test_standard_normal_log_prob_matches_torch():
    z = torch.randn(5, 7, dtype=torch.float64)
    theirs = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(standard_normal_log_prob(z), theirs, atol=1e-12)
