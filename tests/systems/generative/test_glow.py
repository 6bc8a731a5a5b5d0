"""Glow: log-determinants whole and layer by layer, parity with nflows, and what a run keeps."""

import math
import random
from functools import partial

import pytest
import torch

from torchstone.data.vision.dataset import load_images
from torchstone.engine import checkpoint
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.flow.coupling import ActNorm, ComposeFlow
from torchstone.references import randomize_weights
from torchstone.references.glow import nflows_glow
from torchstone.systems.generative import glow
from torchstone.systems.generative.glow import (
    RECIPES,
    VARIANTS,
    CouplingNet,
    Glow,
    SplitPrior,
    TopPrior,
    ZeroConv2d,
)


def smoke(**fields):
    return replace_fields(RECIPES["smoke"], {"device": "cpu", **fields})


def random_glow(number: int, dtype=torch.float64, std: float = 0.1) -> tuple[Glow, torch.Tensor]:
    """A configuration by its number, at weights that are not the identity, and a batch of two."""
    choice = random.Random(100 + number)
    scales = 1 + number % 3
    shape = (choice.choice((1, 2)), 2**scales, 2**scales)
    torch.manual_seed(number)
    model = Glow(shape, choice.randint(3, 7), choice.randint(1, 3), scales, number % 4 < 3, number % 2 == 0)
    return randomize_weights(model, std, add=True).to(dtype), torch.randn(2, *shape, dtype=dtype)


def by_autograd(f, x: torch.Tensor) -> torch.Tensor:
    """log |det| of the Jacobian at each of a batch."""
    jacobians = [
        torch.autograd.functional.jacobian(
            lambda v, like=row: f(v.view_as(like)[None]).flatten(), row.flatten()
        )
        for row in x
    ]
    return torch.stack([torch.linalg.slogdet(each)[1] for each in jacobians])


NUMBERS = [number if number < 3 else pytest.param(number, marks=pytest.mark.sweep) for number in range(8)]


@pytest.mark.parametrize("number", NUMBERS)
def test_glow_log_det_whole_and_layer_by_layer(number):
    model, x = random_glow(number)
    with torch.no_grad():
        z, log_det = model(x)
        back, log_back = model.inverse(z)
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        log_prob = model.log_prob(x)
    slow = by_autograd(lambda v: model(v)[0], x)
    print(f"{number}: log |det| {log_det.tolist()}, {slow.tolist()} by autograd")
    assert float(log_det.abs().min()) > 0.01
    assert torch.allclose(log_det, slow, atol=1e-10)
    assert torch.allclose(log_back, -slow, atol=1e-10)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(log_prob, normal + slow, atol=1e-10)
    for stage in model.flow.stages:
        for layer in stage.layers:
            with torch.no_grad():
                y, each = layer(x)
                again, inverse = layer.inverse(y)
            assert torch.allclose(each, by_autograd(lambda v, layer=layer: layer(v)[0], x), atol=1e-10), layer
            assert torch.allclose(inverse, -each, atol=1e-10), layer
            assert torch.allclose(again, x, atol=1e-9), layer
            x = y
        x = x.chunk(2, 1)[1]


@pytest.mark.parametrize("number", NUMBERS)
def test_glow_inverts_in_float32(number):
    model, x = random_glow(number, torch.float32)
    with torch.no_grad():
        error = float((model.inverse(model(x)[0])[0] - x).abs().max())
    print(f"{number}: there and back {error:.1e}")
    assert error < 1e-5


def test_glow_samples_match_density():
    """E over samples of any f is ∫ f p: of one pixel's mean and square, on a grid of four pixels."""
    torch.manual_seed(3)
    model = randomize_weights(Glow((1, 2, 2), 4, 1, 1), 0.15, add=True).double()
    noise = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        points = model.inverse(noise)[0].flatten(1)
    step = (torch.arange(24, dtype=torch.float64) + 0.5) / 24 * 14 - 7
    grid = torch.cartesian_prod(step, step, step, step)
    with torch.no_grad():
        mass = torch.cat([model.log_prob(rows.view(-1, 1, 2, 2)).exp() for rows in grid.split(50_000)])
    mass = mass[:, None] * (14 / 24) ** 4
    print(f"∫ p = {float(mass.sum()):.4f}")
    assert float(mass.sum()) == pytest.approx(1, abs=0.01)
    for f in (lambda x: x, torch.square):
        ours, theirs = f(points).mean(0), (f(grid) * mass).sum(0)
        within = 4 * f(points).std(0) / math.sqrt(len(points))
        print(ours.tolist(), theirs.tolist())
        assert bool(((ours - theirs).abs() < within + 0.02).all())


def test_temperature_scales_latents():
    model, _ = random_glow(1)
    noise = torch.randn(4, math.prod(model.shape), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        by_hand = model.inverse((0.7 * noise).double())[0]
    samples = model.float().sample(4, seed=2, temperature=0.7)
    assert torch.allclose(samples, by_hand.float(), atol=1e-4)


def test_nflows_log_prob_of_the_same_weights():
    """Its distribution over its transform, where only outputs and gradients are compared by `verify`."""
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    model, x = random_glow(4)
    flow, names = nflows_glow(model)
    theirs = Flow(flow, StandardNormal([math.prod(model.shape)])).double()
    assert torch.allclose(theirs.log_prob(x), model.log_prob(x), atol=1e-10)
    ours, copied = dict(model.named_parameters()), names(dict(flow.named_parameters()))
    assert copied.keys() == ours.keys()
    assert all(torch.allclose(copied[name], weight, atol=1e-12) for name, weight in ours.items())


def test_zero_conv_starts_at_zero_and_scales_by_exp_3():
    conv = ZeroConv2d(2, 3)
    x = torch.randn(1, 2, 4, 4)
    assert not conv(x).any()
    with torch.no_grad():
        conv.conv.bias.fill_(2.0)
        conv.log_scale[1] = 0.5
    assert conv(x)[0, :, 0, 0].tolist() == pytest.approx([2.0, 2 * math.exp(1.5), 2.0])


def test_fresh_coupling_network_gives_zeros_and_hidden_units_of_std_005():
    torch.manual_seed(0)
    net = CouplingNet(6, 512, 12)
    assert not net(torch.randn(2, 6, 4, 4)).any()
    for conv in (net.conv1, net.conv2):
        assert conv.weight.std().item() == pytest.approx(0.05, rel=0.02)
        assert conv.bias is None


def test_priors_standardize_what_leaves():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 2)
    for prior in (SplitPrior(4), TopPrior(4)):
        assert torch.equal(prior(x)[0], x)
        with torch.no_grad():
            prior.conv.conv.bias[: len(prior.conv.conv.bias) // 2] = 2.0  # μ
            prior.conv.conv.bias[len(prior.conv.conv.bias) // 2 :] = math.log(4)  # log σ
        z, log_det = prior(x)
        leaving = 2 if isinstance(prior, SplitPrior) else 4
        assert torch.allclose(z[:, :leaving], (x[:, :leaving] - 2) / 4, atol=1e-6)
        assert torch.equal(z[:, leaving:], x[:, leaving:])
        assert log_det.tolist() == pytest.approx([-leaving * 4 * math.log(4)] * 3)


@pytest.mark.parametrize("name", VARIANTS)
def test_glow_variant_shapes(name):
    make, shape = VARIANTS[name]
    if "cifar10" in name:
        assert make.keywords.items() >= {"width": 512, "depth": 32, "scales": 3}.items()
        make = partial(make, width=4, depth=1)
        assert make().flow.split_shapes == [(6, 16, 16), (12, 8, 8), (48, 4, 4)]
    model, x = make(), torch.randn(2, *shape)
    z, log_det = model(x)
    assert z.shape == (2, math.prod(shape))
    assert log_det.shape == model.log_prob(x).shape == (2,)
    assert model.inverse(z)[0].shape == x.shape
    assert model.sample(3).shape == (3, *shape)
    assert torch.equal(model.sample(3, seed=1), model.sample(3, seed=1))
    assert not torch.equal(model.sample(3, seed=1), model.sample(3, seed=2))


def actnorm_inputs(model: Glow, x: torch.Tensor) -> list[tuple[ActNorm, torch.Tensor]]:
    outputs: list = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: outputs.append((layer, output[0])))
        for layer in model.modules()
        if isinstance(layer, ActNorm)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return outputs


def test_build_standardizes_every_actnorm_on_a_first_batch():
    """The one that the seed draws."""
    model = next(glow.build(smoke())).state["model"]
    data = load_images("digits", size=8, channels=1, device="cpu")
    spread = []
    for layer, output in actnorm_inputs(model, first_batch(data)):
        std, mean = torch.std_mean(output, [0, 2, 3], correction=0)
        spread += [float(mean.abs().max()), float((std - 1).abs().max())]
        assert layer.scale.abs().max().item() > 1e-3
    print(f"{len(spread) // 2} layers, means and deviations at most {max(spread):.1e} off")
    assert len(spread) == 2 * 3 * 4
    assert max(spread) < 1e-3
    other = next(glow.build(smoke(seed=1))).state["model"]
    name = "flow.stages.0.layers.1.shift"
    assert not torch.equal(other.get_parameter(name), model.get_parameter(name))


def first_batch(data) -> torch.Tensor:
    """As `initialize` draws it, the logit written out."""
    from torchstone.parts.seeding import SeedStream, derive_generator

    generator = derive_generator(0, SeedStream.ACTNORM_INIT, 0)
    images = data.train.take(torch.randperm(len(data.train), generator=generator)[:256])
    u = torch.rand(images.shape, generator=generator)
    p = 0.05 + 0.9 * ((images.double() * 17 / 256).floor() + u) / 17
    return (p / (1 - p)).log().float()


def test_actnorm_is_not_initialized_again_by_resuming(tmp_path):
    """A run that was cut off after three steps goes on with the actnorm of that moment."""

    def stopped(steps: int):
        run = next(glow.build(smoke()))
        update, count = run.update, []

        def update_or_stop(batch):
            if len(count) == steps:
                raise KeyboardInterrupt
            count.append(0)
            return update(batch)

        run.update = update_or_stop
        with pytest.raises(KeyboardInterrupt):
            fit(run, tmp_path, intervals=Intervals(evaluate=100, save=1), quiet=True)
        return run.state["model"]

    trained, fresh = stopped(3), next(glow.build(smoke())).state["model"]
    resumed = stopped(0)
    assert checkpoint.find(tmp_path / "checkpoint")[1]["step"] == 3
    for name, weight in trained.named_parameters():
        assert torch.equal(resumed.get_parameter(name), weight), name
        if name.endswith(("scale", "shift")):
            assert not torch.equal(fresh.get_parameter(name), weight), name


def test_glow_training_loss_matches_definition():
    """One step's loss, by the density of each picture written out from its Jacobian's parts."""
    run = next(glow.build(smoke(ema_decay=0.0, lr=1e-12)))
    batch, model = next(run.stream), run.state["model"]
    randomize_weights(model, 0.02, add=True)
    loss = float(run.update(batch)["loss"])
    levels = torch.floor(batch.images.double() * 17 / 256)
    p = 0.05 + 0.9 * (levels + batch.u.double()) / 17
    with torch.no_grad():
        z, log_det = model.double()((p / (1 - p)).log())
    nats = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + log_det
    nats = nats + (0.9 / (p * (1 - p))).log().flatten(1).sum(1)
    by_hand = float((math.log(17) - nats / 64).mean() / math.log(2))
    print(f"{loss:.6f} bits a dimension and {by_hand:.6f} by hand")
    assert loss == pytest.approx(by_hand, abs=1e-4)


def test_glow_run_saves_class_latents():
    run = next(glow.build(smoke()))
    run.evaluate()
    means = run.calibration["class_latents"]
    assert list(means) == [str(digit) for digit in range(10)]
    assert {len(mean) for mean in means.values()} == {64}
    far = torch.tensor(means["0"]) - torch.tensor(means["1"])
    print(f"0 and 1 are {float(far.norm()):.2f} apart")
    assert float(far.norm()) > 1


def test_glow_sample_raises_when_not_finite():
    model = Glow(width=4, depth=1)
    with torch.no_grad():
        model.flow.stages[0].layers[1].shift.fill_(float("nan"))
    with pytest.raises(NotFinite, match="samples are not finite"):
        model.sample(5)


def test_glow_rejects(tmp_path):
    with pytest.raises(BadInput, match="cannot be halved 3 times"):
        Glow((1, 28, 28), scales=3)
    for fields, message in (
        ({"pixel_levels": 1}, "2 to 256 levels"),
        ({"pixel_levels": 300}, "2 to 256 levels"),
        ({"eval_samples": -2}, "at least 0"),
        ({"data": "moons"}, "moons"),
    ):
        with pytest.raises(BadInput, match=message):
            next(glow.build(smoke(**fields)))


def test_depth_one_has_one_step_a_scale():
    kinds = [type(layer).__name__ for layer in Glow(width=4, depth=1).flow.stages[0].layers]
    assert kinds == ["Squeeze", "ActNorm", "InvertibleConv1x1", "ChannelCoupling", "SplitPrior"]
    top = Glow(width=4, depth=1, learn_top=False).flow.stages[-1]
    assert isinstance(top, ComposeFlow)
    assert [type(layer).__name__ for layer in top.layers][-1] == "ChannelCoupling"
