"""Flow++: log-determinants whole and layer by layer, the dequantization flow as a density, bounds, and what a
run keeps."""

import math
import random
from functools import partial

import pytest
import torch

from torchstone.data.vision.dataset import load_images
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.flow.coupling import ActNorm, CheckerboardHalves, MixtureCoupling
from torchstone.parts.flow.likelihood import logit
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.references import randomize_weights
from torchstone.systems.generative import flowpp
from torchstone.systems.generative.flowpp import (
    RECIPES,
    VARIANTS,
    Block,
    Conv1x1,
    Conv3x3,
    FlowPP,
    GatedAttention,
    UniformDequantization,
    concat_elu,
)
from torchstone.tasks.flow.train import image_log_prob


def smoke(**fields):
    return replace_fields(RECIPES["smoke"], {"device": "cpu", **fields})


def random_flowpp(number: int, dtype=torch.float64, std: float = 0.1) -> tuple[FlowPP, torch.Tensor]:
    """A configuration by its number, at weights that are not the identity, and a batch of two."""
    choice = random.Random(200 + number)
    shape = (choice.choice((1, 2)), 2, 4)
    torch.manual_seed(number)
    model = FlowPP(
        shape,
        width=4,
        blocks=choice.randint(1, 2),
        components=choice.randint(1, 3),
        heads=choice.choice((1, 2)),
        couplings=(choice.randint(1, 2), choice.randint(0, 2), 1),
        levels=choice.choice((2, 17, 256)),
        dequantization_couplings=choice.randint(1, 2),
        dequantization_blocks=1,
        context=3,
    )
    model = randomize_weights(model, std, add=True).to(dtype).eval()
    return model, torch.randn(2, *shape, dtype=dtype)


def by_autograd(f, x: torch.Tensor) -> torch.Tensor:
    """log |det| of the Jacobian at each of a batch."""
    jacobians = [
        torch.autograd.functional.jacobian(
            lambda v, like=row: f(v.view_as(like)[None]).flatten(), row.flatten()
        )
        for row in x
    ]
    return torch.stack([torch.linalg.slogdet(each)[1] for each in jacobians])


NUMBERS = [number if number < 2 else pytest.param(number, marks=pytest.mark.sweep) for number in range(8)]


@pytest.mark.parametrize("number", NUMBERS)
def test_flowpp_log_det_whole_and_layer_by_layer(number):
    model, x = random_flowpp(number)
    with torch.no_grad():
        z, log_det = model.flow(x)
        back, log_back = model.inverse(z)
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        log_prob = model.log_prob(x)
    slow = by_autograd(lambda v: model.flow(v)[0], x)
    print(f"{number}: log |det| {log_det.tolist()}, {slow.tolist()} by autograd")
    assert float(log_det.abs().min()) > 1e-3
    assert torch.allclose(log_det, slow, atol=1e-10)
    assert torch.allclose(log_back, -slow, atol=1e-9)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(log_prob, normal + slow, atol=1e-10)
    for layer in model.flow.stages[0].layers:
        with torch.no_grad():
            y, each = layer(x)
            again, inverse = layer.inverse(y)
        assert torch.allclose(each, by_autograd(lambda v, layer=layer: layer(v)[0], x), atol=1e-10), layer
        assert torch.allclose(inverse, -each, atol=1e-9), layer
        assert torch.allclose(again, x, atol=1e-9), layer
        x = y


@pytest.mark.parametrize("number", NUMBERS)
def test_flowpp_inverts_in_float32(number):
    model, x = random_flowpp(number, torch.float32)
    with torch.no_grad():
        error = float((model.inverse(model.flow(x)[0])[0] - x).abs().max())
    print(f"{number}: there and back {error:.1e}")
    assert error < 1e-5


@pytest.mark.parametrize("number", NUMBERS)
def test_log_q_is_that_of_the_change_of_variables(number):
    model, epsilon = random_flowpp(number)
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, epsilon.shape, generator=generator).double()
    with torch.no_grad():
        u, log_q = model.dequantization(images, epsilon)
    assert bool(((u > 0) & (u < 1)).all())
    for row in range(2):
        slow = by_autograd(
            lambda v, row=row: model.dequantization(images[row : row + 1], v)[0], epsilon[row : row + 1]
        )
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(epsilon[row]).sum()
        assert float(log_q[row]) == pytest.approx(float(normal - slow), abs=1e-9)
    with torch.no_grad():
        other = model.dequantization(255 - images, epsilon)[0]
    assert float((other - u).abs().max()) > 1e-4  # the noise depends on the image


def test_q_integrates_to_one():
    """E_q[1/q] is the volume of the cube that u lies in: 1, in two dimensions of noise and so in all."""
    torch.manual_seed(5)
    model = FlowPP((1, 2, 4), 4, 1, 2, 1, couplings=(1, 0, 1), dequantization_couplings=1, context=2).double()
    randomize_weights(model, 0.05, add=True).eval()
    generator = torch.Generator().manual_seed(0)
    epsilon = torch.randn(10_000, 1, 2, 4, generator=generator, dtype=torch.float64) * 1.6
    images = torch.full_like(epsilon, 100)
    with torch.no_grad():
        # importance sampling from N(0, 1.6²): under it 1/q has a finite variance
        _, log_q = model.dequantization(images, epsilon)
        normal, wide = (torch.distributions.Normal(0.0, each).log_prob(epsilon) for each in (1.0, 1.6))
    weight = ((normal - wide).flatten(1).sum(1) - log_q).exp()
    mean, error = float(weight.mean()), float(weight.std() / math.sqrt(len(weight)))
    print(f"volume {mean:.3f} ± {error:.3f}")
    assert error < 0.1
    assert mean == pytest.approx(1, abs=4 * error)


def test_uniform_dequantization_is_uniform_with_log_q_0():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 100, 200, generator=generator)
    u, log_q = UniformDequantization()(torch.zeros_like(noise), noise)
    assert log_q.tolist() == [0]
    levels = torch.histc(u, 10, 0, 1) / u.numel()
    assert torch.allclose(levels, torch.full((10,), 0.1), atol=0.01)
    model = FlowPP(dequantization_couplings=0, width=8, blocks=1)
    assert not list(model.dequantization.parameters())


def test_forward_is_the_bound_by_hand():
    """log p(y) − log q(u | k), with y = (k + u) / levels through the logit."""
    model, epsilon = random_flowpp(1)
    images = torch.randint(0, 256, epsilon.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        z, log_det = model(images, epsilon)
        u, log_q = model.dequantization(images, epsilon)
        y = (torch.floor(images * model.levels / 256) + u) / model.levels
        x, squeeze = logit(y)
        by_hand = model.log_prob(x) + squeeze - log_q
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(normal + log_det, by_hand, atol=1e-10)


def test_training_loss_is_the_bound_in_bits():
    run = next(flowpp.build(smoke(ema_decay=0.0, lr=1e-12, dropout=0.0)))
    batch, model = next(run.stream), run.state["model"]
    value = float(run.update(batch)["loss"])
    with torch.no_grad():
        z, log_det = model(batch.images, batch.epsilon)
    nats = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + log_det
    assert value == pytest.approx(float((math.log(17) - nats / 64).mean() / math.log(2)), abs=1e-5)


def test_importance_bound_rises_with_samples_and_is_by_hand():
    model, _ = random_flowpp(0, torch.float32)
    model.levels = model.dequantization.levels = 17
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, *model.shape), dtype=torch.uint8, generator=generator)
    one, many = (image_log_prob(model, images, 17, count) for count in (1, 8))
    print(f"log p of 1 sample {float(one.mean()):.3f}, of 8 {float(many.mean()):.3f}")
    assert float(many.mean()) > float(one.mean())
    generator, weights = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(8):
            epsilon = torch.randn(images.shape, generator=generator)
            z, log_det = model(images.float(), epsilon)
            weights.append(torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det)
    by_hand = torch.stack(weights).double().exp().mean(0).log()
    assert torch.allclose(many.double(), by_hand, atol=1e-3)


def test_temperature_scales_latents():
    model, _ = random_flowpp(1)
    noise = torch.randn(4, math.prod(model.shape), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        by_hand = model.inverse((0.7 * noise).double())[0]
    samples = model.float().sample(4, seed=2, temperature=0.7)
    assert torch.allclose(samples, by_hand.float(), atol=1e-4)


LARGE = ("flowpp_digits_large", "flowpp_mnist", "flowpp_cifar10")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sweep if name in LARGE else ()) for name in VARIANTS]
)
def test_flowpp_variant_shapes(name):
    make, shape = VARIANTS[name]
    if "cifar10" in name:
        assert make.keywords.items() >= {"width": 96, "blocks": 10, "components": 32}.items()
        make = partial(make, width=4, blocks=1, components=1)
    model, images = make().eval(), torch.full((2, *shape), 30.0)
    with torch.no_grad():
        z, log_det = model(images, torch.randn_like(images))
        assert z.shape == (2, math.prod(shape))
        assert log_det.shape == model.log_prob(images / 100).shape == (2,)
        assert model.inverse(z)[0].shape == images.shape
    assert torch.equal(model.sample(3, seed=1), model.sample(3, seed=1))
    assert not torch.equal(model.sample(3, seed=1), model.sample(3, seed=2))


def test_layers_of_the_paper():
    """Four couplings with a checkerboard, two of channels, three with a checkerboard; four in q."""
    model = FlowPP((3, 8, 8), 4, 1, 1)
    kinds = [type(layer) for layer in model.flow.stages[0].layers]
    assert kinds.count(MixtureCoupling) == 9
    assert kinds.count(CheckerboardHalves) == 2
    channels = [
        layer.net.first.weight.shape[1]
        for layer in model.flow.stages[0].layers
        if isinstance(layer, MixtureCoupling)
    ]
    assert channels == [3] * 4 + [6] * 2 + [12] * 3
    assert sum(isinstance(layer, MixtureCoupling) for layer in model.dequantization.layers) == 4


def test_concat_elu_and_gates():
    x = torch.tensor([1.0, -2.0]).view(1, 1, 1, 2)
    expected = [1.0, math.exp(-2) - 1, math.exp(-1) - 1, 2.0]
    assert concat_elu(x).flatten().tolist() == pytest.approx(expected)
    block = Block(4, 2, 0.0)
    with torch.no_grad():
        for layer in (block.conv.conv2, block.attention.out):
            layer.bias[4:] = -100.0  # gates shut
    x = torch.randn(2, 3, 3, 4)
    assert torch.allclose(block.conv(x), x, atol=1e-6)
    assert torch.allclose(block.attention(x, torch.zeros(3, 3, 4)), x, atol=1e-6)


def test_attention_reaches_every_pixel_and_sees_positions():
    torch.manual_seed(0)
    layer = randomize_weights(GatedAttention(4, 2, 0.0), 0.5)
    x, positions = torch.randn(1, 3, 5, 4), torch.randn(3, 5, 4)
    x.requires_grad_()
    y = layer(x, positions)
    (gradient,) = torch.autograd.grad(y[0, 0, 0].sum(), x)
    assert bool((gradient[0].abs().sum(2) > 0).all())
    with torch.no_grad():
        moved = (layer(x, positions.roll(1, 1)) - y).abs().max().item()
    assert moved > 1e-2


def test_build_scales_every_layer_by_a_first_batch():
    """The one that the seed draws; without dropout its outputs have the standard deviations that they should."""
    run = next(flowpp.build(smoke(dropout=0.0)))
    model = run.state["model"]
    data = load_images("digits", size=8, channels=1, device="cpu")
    generator = derive_generator(0, SeedStream.ACTNORM_INIT, 0)
    images = data.train.take(torch.randperm(len(data.train), generator=generator)[:128]).float()
    worst, count = 0.0, 0

    def check(layer, _, output):
        nonlocal worst, count
        gain = getattr(layer, "gain", 1.0)
        z = output[0] if isinstance(layer, ActNorm) else output
        axes = 0 if isinstance(layer, ActNorm) else [0, 1, 2]
        std, mean = torch.std_mean(z, axes, correction=0)
        worst = max(worst, float(mean.abs().max()), float((std - gain).abs().max()))
        count += 1

    for layer in model.modules():
        if isinstance(layer, ActNorm | Conv3x3 | Conv1x1):
            layer.register_forward_hook(check)
    with torch.no_grad():
        model(images, torch.randn(images.shape, generator=generator))
    print(f"{count} layers, means and deviations at most {worst:.1e} off")
    assert count > 30
    assert worst < 2e-3


def test_uniform_recipe_and_run_metadata():
    run = next(flowpp.build(smoke(dequantization="uniform", importance_samples=0)))
    assert not list(run.state["model"].dequantization.parameters())
    assert run.metadata["model_config"] == {"levels": 17, "dropout": 0.2, "dequantization_couplings": 0}
    assert "importance_bound" not in run.test()


def test_flowpp_run_saves_class_latents_and_bounds():
    run = next(flowpp.build(smoke()))
    run.evaluate()
    means = run.calibration["class_latents"]
    assert list(means) == [str(digit) for digit in range(10)]
    assert {len(mean) for mean in means.values()} == {64}
    metrics = run.test()
    assert metrics["importance_bound"] < metrics["bits_per_dimension"]


def test_flowpp_sample_raises_when_not_finite():
    model = VARIANTS["flowpp_tiny"].make()
    with torch.no_grad():
        model.flow.stages[0].layers[1].shift.fill_(float("nan"))
    with pytest.raises(NotFinite, match="samples are not finite"):
        model.sample(5)


def test_flowpp_rejects():
    for shape in ((1, 7, 8), (1, 8, 6)):
        with pytest.raises(BadInput, match="divisible by 4"):
            FlowPP(shape)
    with pytest.raises(BadInput, match="divided among 3 heads"):
        FlowPP(width=8, heads=3)
    for fields, message in (
        ({"pixel_levels": 1}, "2 to 256 levels"),
        ({"importance_samples": -1}, "importance_samples must be at least 0"),
        ({"dequantization": "other"}, "dequantization"),
        ({"data": "moons"}, "moons"),
    ):
        with pytest.raises(BadInput, match=message):
            next(flowpp.build(smoke(**fields)))
