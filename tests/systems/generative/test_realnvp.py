"""Real NVP: log-determinants, a density that integrates to one, and its samples."""

import math

import pytest
import torch

from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput, NotFinite
from torchstone.systems.generative import realnvp
from torchstone.systems.generative.realnvp import RECIPES, VARIANTS, RealNVP, randomize_weights


def smoke(**fields):
    return replace_fields(RECIPES["smoke"], {"device": "cpu", **fields})


SHAPES = {"points": ((3,), 1), "two scales": ((1, 4, 4), 2), "three scales, colour": ((3, 4, 4), 3)}
WITHIN = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", WITHIN, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_realnvp_log_det_inverse_and_log_prob(name, dtype):
    shape, scales = SHAPES[name]
    torch.manual_seed(1)
    flow = randomize_weights(RealNVP(shape, width=6, blocks=1, couplings=2, scales=scales), scale=0.15).to(
        dtype
    )
    x = torch.randn(2, *shape, dtype=dtype)
    with torch.no_grad():
        z, log_det = flow(x)
        back, log_back = flow.inverse(z)
    slow = torch.stack(
        [
            torch.linalg.slogdet(
                torch.autograd.functional.jacobian(
                    lambda v, like=row: flow(v.view_as(like)[None])[0][0], row.flatten()
                )
            )[1]
            for row in x
        ]
    )
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    errors = {
        "log-determinant": float((log_det - slow).abs().max()),
        "there and back": float((back - x).abs().max()),
        "both determinants": float((log_det + log_back).abs().max()),
        "log p": float((flow.log_prob(x) - (normal + slow)).detach().abs().max()),
    }
    print(f"{name}, {dtype}: log |det| {log_det.tolist()}; {errors}")
    assert float(log_det.abs().min()) > 0.01
    assert max(errors.values()) < WITHIN[dtype] * (1 if dtype == torch.float64 else 2)


@pytest.mark.parametrize("seed", range(2))
def test_realnvp_density_integrates_to_one(seed):
    torch.manual_seed(seed)
    flow = randomize_weights(RealNVP(couplings=6, width=16, mean=[1.0, -2.0], std=[0.5, 3.0])).double()
    side, extent = 350, torch.tensor([9.0, 54.0], dtype=torch.float64)
    step = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
    grid = torch.cartesian_prod(step, step) * extent + torch.tensor([1.0, -2.0])
    with torch.no_grad():
        total = float(flow.log_prob(grid).exp().sum() * (2 * extent / side).prod())
    print(f"seed {seed}: {total:.5f}")
    assert total == pytest.approx(1, abs=0.01)


def test_realnvp_samples_match_density():
    """E over samples of any f is ∫ f p: here of the two coordinates and their squares, on a grid."""
    torch.manual_seed(5)
    flow = randomize_weights(RealNVP(couplings=4, width=8), scale=0.2).double()
    points = flow.sample(20_000, seed=0)
    step = (torch.arange(300, dtype=torch.float64) + 0.5) / 300 * 24 - 12
    grid = torch.cartesian_prod(step, step)
    with torch.no_grad():
        mass = flow.log_prob(grid).exp()[:, None] * (24 / 300) ** 2
    for name, f in (("mean", lambda x: x), ("square", torch.square)):
        ours, theirs = f(points).mean(0), (f(grid) * mass).sum(0)
        within = 4 * f(points).std(0) / math.sqrt(len(points))
        print(f"{name}: {ours.tolist()} of samples, {theirs.tolist()} of the density")
        assert bool(((ours - theirs).abs() < within + 1e-3).all())


def test_realnvp_starts_as_standard_normal():
    flow = RealNVP(mean=[1.0, -2.0], std=[0.5, 3.0])
    x = torch.randn(6, 2)
    theirs = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    assert torch.allclose(flow.log_prob(x), theirs.log_prob(x).sum(1), atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_realnvp_variant_shapes(name):
    make, shape = VARIANTS[name]
    if name == "realnvp_cifar10":
        make = lambda: RealNVP(shape, width=4, blocks=1, scales=2)  # noqa: E731
    flow, x = make(), torch.randn(2, *shape)
    z, log_det = flow(x)
    assert z.shape == (2, math.prod(shape))
    assert log_det.shape == flow.log_prob(x).shape == (2,)
    assert flow.inverse(z)[0].shape == x.shape
    assert flow.sample(3).shape == (3, *shape)
    assert torch.equal(flow.sample(3, seed=1), flow.sample(3, seed=1))
    assert not torch.equal(flow.sample(3, seed=1), flow.sample(3, seed=2))


def test_realnvp_sample_raises_when_not_finite():
    flow = RealNVP()
    with torch.no_grad():
        flow.flow.layers[-1].limit.fill_(1e30)
        list(flow.flow.layers[-1].net)[-1].bias[:2].fill_(-1.0)
    with pytest.raises(NotFinite, match="samples are not finite"):
        flow.sample(5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "moons"}, "choose --variant realnvp_points"),
        ({"variant": "realnvp_points"}, "choose --variant realnvp_digits"),
        ({"pixel_levels": 1}, "2 to 256 levels"),
        ({"pixel_levels": 300}, "2 to 256 levels"),
        ({"eval_samples": -2}, "at least 0"),
    ],
)
def test_realnvp_rejects_invalid_recipe(fields, message):
    with pytest.raises(BadInput, match=message):
        next(realnvp.build(smoke(**fields)))


def test_realnvp_rejects_odd_size():
    with pytest.raises(BadInput, match="cannot be halved 2 times"):
        RealNVP((1, 6, 6), scales=3)
    with pytest.raises(BadInput, match="two numbers"):
        RealNVP((1,))


def test_realnvp_training_loss_matches_definition():
    """One step's loss, by the density of each picture written out from its Jacobian's parts."""
    run = next(realnvp.build(smoke(ema_decay=0.0, lr=1e-12)))
    batch, flow = next(run.stream), run.state["model"]
    randomize_weights(flow, scale=0.05)
    loss = float(run.update(batch)["loss"])
    levels = torch.floor(batch.images.double() * 17 / 256)
    y = (levels + batch.u.double()) / 17
    p = 0.05 + 0.9 * y
    x = (p / (1 - p)).log()
    with torch.no_grad():
        nats = flow.double().log_prob(x) + (0.9 / (p * (1 - p))).log().flatten(1).sum(1)
    by_hand = float((math.log(17) - nats / 64).mean() / math.log(2))
    print(f"{loss:.6f} bits a dimension and {by_hand:.6f} by hand")
    assert loss == pytest.approx(by_hand, abs=1e-4)
