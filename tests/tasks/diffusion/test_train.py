"""Drawing by denoising: guidance, classifiers, known pixels, the way back; bits; what sheets show."""

import math

import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.data.vision.captioned import Captioned
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.errors import BadInput
from torchstone.metrics import memorization
from torchstone.metrics.classifier_features import Judge
from torchstone.parts.diffusion.process import Process
from torchstone.tasks.diffusion import classifier_guidance, guidance_sweep, sampler
from torchstone.tasks.diffusion.conditioning import Material, by_caption, by_label, context
from torchstone.tasks.diffusion.likelihood import bits, discretised, exact, term
from torchstone.tasks.diffusion.sampler import encode, generate, looks_clean, steered, told, way
from torchstone.tasks.diffusion.train import drawn

LEVELS = 200


class Gaussian(nn.Module):
    """The best denoiser of pixels N(mean, spread²), each for itself; class k has the mean k − 1, and
    what is told nothing mixes all of them up as one Gaussian."""

    def __init__(self, *, spread=0.5, mean=0.0, shape=(1, 2, 2), **process):
        super().__init__()
        usual = {"schedule": "cosine", "levels": LEVELS, "clip": None, "sampler": "ddim"}
        self.process = Process(**(usual | process))
        self.noise, self.shape, self.classes = self.process.noise(), shape, 3
        self.spread, self.mean = spread, mean
        self.weight = nn.Parameter(torch.zeros(1))  # says which device this is on

    def forward(self, x, t, context=None):
        kept = self.noise.kept(t, x).double()
        mean, x = torch.full_like(kept, self.mean), x.double()
        if context is not None:
            mean = torch.where(
                context.view(mean.shape) == self.classes, mean, mean + context.view(mean.shape) - 1
            )
        wide = kept * self.spread**2 + 1 - kept
        epsilon = (1 - kept).sqrt() * (x - kept.sqrt() * mean) / wide
        clean = mean + kept.sqrt() * self.spread**2 * (x - kept.sqrt() * mean) / wide
        said = {
            "epsilon": epsilon,
            "x0": clean,
            "v": kept.sqrt() * epsilon - (1 - kept).sqrt() * clean,
        }
        return said[self.process.told].float()

    def nothing(self, count):
        return torch.full((count,), self.classes)


def noise_of(count, model, seed=0):
    return torch.randn(count, *model.shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_goes_beyond_what_the_label_asks_for():
    model = Gaussian()
    x, t = torch.randn(3, 1, 2, 2), torch.tensor([5, 50, 150])
    label = torch.tensor([0, 2, 2])
    with_, without = model(x, t, label), model(x, t)
    for s in (0.0, 1.0, 2.5):
        w = s - 1  # Ho and Salimans count so
        wanted = (1 + w) * with_ - w * without
        assert torch.allclose(told(model, label, s)(x, t), wanted, atol=1e-5)
    assert torch.equal(told(model, None, 3.0)(x, t), without)
    start = noise_of(4000, model)
    means = []
    for s in (0.0, 1.0, 2.0):
        made = generate(model, start, steps=50, says=told(model, torch.full((4000,), 2), s))
        means.append(float(made.mean()))
    print(means)
    # ε is affine in the mean: s carries each sample as far as s labels would
    assert means == pytest.approx([0.0, 1.0, 2.0], abs=0.03)


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_a_classifier_turns_the_prior_into_the_posterior(kind):
    """Pixels N(0, ½²), seen with noise of width τ at 0.8: what is left is Bayes' Gaussian."""
    model, tau, scale = Gaussian(told=kind), 0.4, 1.0
    noise = model.noise

    def weighs(x, t):
        """log p(0.8 | x_t) in full: x₀ given x_t is a Gaussian."""
        kept = noise.kept(t, x)
        wide = kept * 0.25 + 1 - kept
        mean, rest = kept.sqrt() * 0.25 * x / wide, 0.25 * (1 - kept) / wide
        return (-0.5 * (0.8 - mean).square() / (tau**2 + rest)).flatten(1).sum(1)

    says = steered(told(model), model.process, noise, weighs, scale)
    made = generate(model, noise_of(4000, model), steps=100, says=says)
    precision = 1 / 0.25 + 1 / tau**2
    mean, spread = 0.8 / tau**2 / precision, precision**-0.5
    print(float(made.mean()), mean, float(made.std()), spread)
    assert float(made.mean()) == pytest.approx(mean, abs=0.02)
    assert float(made.std()) == pytest.approx(spread, rel=0.05)
    away = generate(
        model, noise_of(400, model), steps=50,
        says=steered(told(model), model.process, noise, weighs, -scale),
    )  # fmt: skip
    assert float(away.mean()) < -0.2


def test_a_classifier_of_clean_pictures_is_shown_the_clean_picture_the_network_sees():
    model = Gaussian()
    x, t = torch.randn(2, 1, 2, 2), torch.tensor([3, 90])
    shown = looks_clean(told(model), model.process, model.noise, lambda x, t: x)(x, t)
    wanted, _ = model.noise.read("epsilon", model(x, t), x, t)
    assert torch.equal(shown, wanted)


def test_the_judge_steers_towards_a_label_and_knows_ink_by_its_margin():
    class Bright(nn.Module):
        """Class 2 is whatever is bright."""

        def forward(self, x):
            by = 4 * x[..., 2:-2, 2:-2].mean((1, 2, 3))
            return torch.stack([-by, 0 * by, by], 1)

    metadata = {"mean": [0.5], "std": [0.25], "channels": 1, "ink": True}
    judging = Judge(Bright(), metadata, ("dark", "grey", "bright"), 1.0)
    model = Gaussian(shape=(1, 28, 28))
    bright, dark = (
        drawn(
            model,
            20,
            steps=20,
            says=classifier_guidance.around(model, judging, torch.full((20,), k), 40.0),
        )
        for k in (2, 0)
    )
    plain = drawn(model, 20, steps=20)
    means = [float(each.float().mean()) for each in (dark, plain, bright)]
    print(means)
    assert means[0] < means[1] - 5
    assert means[2] > means[1] + 5
    assert torch.equal(
        drawn(
            model,
            20,
            steps=20,
            says=classifier_guidance.around(model, judging, torch.zeros(20).long(), 0.0),
        ),
        plain,
    )
    from torchstone.data.vision.dataset import normalize
    from torchstone.metrics.classifier_features import fitted

    for side, ink in ((28, True), (20, True), (28, False), (32, False)):
        mine = metadata | {"ink": ink}
        pictures = torch.randint(256, (2, 1, side, side), dtype=torch.uint8)
        wanted = normalize(fitted(pictures, mine), mine)
        said = classifier_guidance.seen(pictures.float() / 127.5 - 1, mine)
        assert torch.allclose(said, wanted, atol=0.01)  # `fitted` rounds


@pytest.mark.parametrize("again", [1, 4])
def test_what_is_known_stays_and_the_rest_is_made_to_fit(again):
    """Two pixels that are always equal: one is known, and the other has to become the same."""

    class Twins(Gaussian):
        def forward(self, x, t, context=None):
            kept = self.noise.kept(t, x)
            both = x.mean((2, 3), keepdim=True)  # the noise of two is half as wide
            clean = kept.sqrt() * 0.25 * both / (kept * 0.25 + (1 - kept) / 2)
            return (x - kept.sqrt() * clean) / (1 - kept).sqrt()

    model = Twins(shape=(1, 1, 2), sampler="ddpm")
    pictures = torch.linspace(-0.9, 0.9, 200).view(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    mask = torch.tensor([[[[True, False]]]])
    start, generator = noise_of(200, model), torch.Generator().manual_seed(1)
    made = generate(model, start, steps=50, generator=generator, known=(pictures, mask), again=again)
    assert torch.equal(made[..., 0], pictures[..., 0])
    off = float((made[..., 1] - pictures[..., 1]).abs().mean())
    print(again, off)
    assert off < (0.1 if again > 1 else 0.35)
    assert off > 0


def test_ddim_backwards_gives_the_noise_that_made_it_the_nearer_the_more_steps():
    model = Gaussian(told="v")
    start = noise_of(50, model)
    errors = []
    for steps in (10, 50, 200):
        made = generate(model, start, steps=steps)
        found = encode(model, made, steps=steps)
        errors.append(float((found - start).abs().mean()))
    print(errors)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_numbers_that_cannot_be_are_refused():
    model, start = Gaussian(), torch.zeros(1, 1, 2, 2)
    for how, said in (
        ({"eta": 1.5}, "eta is between 0"),
        ({"steps": 0}, "1 to 200 steps, not 0"),
        ({"steps": 201}, "1 to 200 steps, not 201"),
        ({"again": 0}, "at least once, not 0"),
        ({"sampler": "euler"}, "no sampler 'euler'"),
    ):
        with pytest.raises(BadInput, match=said):
            generate(model, start, **how)
    broken = Gaussian(mean=math.nan)
    with pytest.raises(BadInput, match="not finite"):
        drawn(broken, 2, steps=3)


def test_drawing_leaves_gradients_and_the_mode_as_they_were():
    model = Gaussian().train()
    for x, _ in way(model, torch.zeros(1, 1, 2, 2), steps=4):
        assert torch.is_grad_enabled()
        assert not x.requires_grad
        assert not model.training
    assert model.training
    a, b, c = (drawn(model, 9, seed=seed, steps=4, sampler="ddpm") for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_each_term_of_the_bound_is_a_divergence_of_gaussians():
    model = Gaussian(levels=12, schedule="linear", last=0.3)
    noise = exact(model.process)
    t = torch.arange(1, 12)
    x = torch.randint(256, (11, 1, 2, 2)).double() / 127.5 - 1
    epsilon = torch.randn(11, 1, 2, 2, dtype=torch.float64)
    noisy = noise.add(x, epsilon, t)
    clean, _ = model.process.told_clean(noise, model(noisy.float(), t).double(), noisy, t)
    mean, variance = noise.posterior(x, noisy, t, t - 1)
    guess, _ = noise.posterior(clean, noisy, t, t - 1)
    both = (torch.distributions.Normal(m, variance.sqrt()) for m in (mean, guess))
    wanted = torch.distributions.kl_divergence(*both).flatten(1).mean(1)
    said = term(model, noise, x, epsilon, t)
    assert torch.allclose(said, wanted, rtol=1e-9)
    assert float(wanted.min()) > 0
    # all bins together hold all of a Gaussian's mass
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, sigma in ((0.3, 0.05), (-1.2, 0.4), (1.1, 0.3), (0.0, 0.001)):
        mass = discretised(values, torch.tensor(mean), torch.tensor(sigma)).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
        assert float(mass.max()) > 1e-3


def test_bits_per_dimension_are_the_bound_worked_out_by_hand():
    """For Gaussian pixels every term is known: what x_t leaves open of x₀, by the step's variance."""
    spread, levels = 0.25, 100
    generator = torch.Generator().manual_seed(5)
    x = (spread * torch.randn(2000, 1, 4, 4, generator=generator)).clamp(-1, 1)
    pictures = ((x + 1) * 127.5).round().to(torch.uint8)
    how = {"levels": levels, "schedule": "linear", "shape": (1, 4, 4), "first": 1e-3, "last": 0.2}
    kept = (1 - torch.linspace(1e-3, 0.2, levels, dtype=torch.float64)).cumprod(0)
    before, after = kept[:-1], kept[1:]
    variance = (1 - before) / (1 - after) * (1 - after / before)
    pull = before.sqrt() * (1 - after / before) / (1 - after)
    left = spread**2 * (1 - after) / (after * spread**2 + 1 - after)
    middle = (pull**2 * left / variance / 2).sum()
    end = 0.5 * (kept[-1] * spread**2 - kept[-1] - (1 - kept[-1]).log())
    # the first level: the 255ths' mass under a Gaussian of the second level's width, by sampling
    clean = pictures.double().flatten() / 127.5 - 1
    first = kept[0]
    noisy = first.sqrt() * clean + (1 - first).sqrt() * torch.randn(clean.shape).double()
    guess = first.sqrt() * spread**2 * noisy / (first * spread**2 + 1 - first)
    normal = torch.distributions.Normal(guess, variance[0].sqrt())
    mass = normal.cdf(clean + 1 / 255) - normal.cdf(clean - 1 / 255)
    coded = -mass.log()[clean.abs() < 0.99].mean()
    wanted = float(middle + end + coded) / math.log(2)
    said = bits(Gaussian(spread=spread, **how), pictures, rounds=8)
    entropy = math.log2(spread * math.sqrt(2 * math.pi * math.e) * 127.5)
    print(said, wanted, entropy)
    assert said == pytest.approx(wanted, rel=0.015)
    assert said > entropy, "no code is shorter than the entropy"
    assert bits(Gaussian(spread=spread, **how), pictures, seed=1) == pytest.approx(wanted, rel=0.03)
    assert bits(Gaussian(spread=0.5, **how), pictures) > said + 0.1, "a worse network codes as well"


def captioned(count=12):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1) * 20
    splits = [
        ImageSplit(rows, images[rows].expand(-1, 3, 8, 8).contiguous())
        for rows in (torch.arange(0, count, 2), torch.tensor([1, 5, 9]), torch.tensor([3, 7, 11]))
    ]
    names = tuple(f"picture {i}" for i in range(count))
    return Captioned("mine", names, *splits, metadata={"size": 8, "channels": 3}, description="")


def test_what_sheets_show_is_asked_for_by_label_or_by_caption():
    data = captioned()
    table, empty = torch.arange(100, 112)[:, None], torch.zeros(1, 1).long()
    tokens, names = Material(data, {}, by_caption(table, empty), {}).in_turn(6)
    assert tokens is not None
    assert [f"picture {row - 100}" for row in tokens.flatten().tolist()] == names
    assert names == ["picture 0", "picture 1", "picture 4", "picture 5", "picture 10", "picture 9"]
    nothing = ImageSplit(torch.zeros(1).long(), torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    digits = ImageDataset("", ("zero", "one", "two"), nothing, nothing, nothing, {}, "")
    labels, names = Material(digits, {}, by_label(3), {}).in_turn(4)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0]
    assert names == ["zero", "one", "two", "zero"]
    assert Material(digits, {}, None, {}).in_turn(4) == (None, [])


def test_the_nearest_training_picture_is_shown_and_copies_are_noticed(tmp_path):
    data = captioned()
    made = data.train.take(torch.tensor([4, 0, 2])) + 3
    assert memorization.nearest(made, data.train).tolist() == [4, 0, 2]
    file = memorization.beside(made, data, tmp_path / "new" / "sheet.png", asked=["a", "b", "c"])
    with Image.open(file) as image:
        across = memorization.SIDE + memorization.GAP
        for place, row in enumerate((4, 0, 2)):
            left = memorization.GAP + place * across + 5
            ours = image.getpixel((left, memorization.GAP + 5))
            theirs = image.getpixel((left, memorization.GAP + memorization.SIDE + memorization.TEXT + 5))
            assert ours == (40 * row + 3,) * 3
            assert theirs == (40 * row,) * 3
    copies = data.train.take(torch.arange(5))
    assert memorization.nearness(copies, data.train, data.test) == 0
    new = memorization.nearness(data.test.take(torch.arange(3)), data.train, data.test)
    assert new == pytest.approx(1)


def test_a_survey_asks_for_every_scale_and_both_samplers(tmp_path):
    asked_for = []

    def draw(count, **how):
        asked_for.append(how)
        return torch.full((count, 1, 2, 2), len(asked_for), dtype=torch.uint8)

    features = torch.randn(30, 4)

    def see(pictures):
        number = int(pictures[0, 0, 0, 0])
        labels = (torch.arange(30) + (torch.arange(30) >= 5 * number)) % 3
        chances = torch.eye(3)[labels]
        return guidance_sweep.Seen(features / number, chances)

    judging = Judge(nn.Identity(), {}, (), 1.0)
    object.__setattr__(judging, "see", see)
    real = guidance_sweep.Seen(features, torch.eye(3)[torch.arange(30) % 3]), torch.arange(30) % 3
    found = guidance_sweep.survey(draw, judging, real, 30, torch.arange(30) % 3, 40)
    assert [each["guidance"] for each in asked_for] == [*guidance_sweep.SCALES, 1.0, 1.0]
    assert [each["steps"] for each in asked_for[-2:]] == [40, 40]
    assert [each["sampler"] for each in asked_for[-2:]] == ["ddim", "ddpm"]
    agreement = [found[f"guided_{s:g}_agreement"] for s in guidance_sweep.SCALES]
    diversity = [found[f"guided_{s:g}_diversity"] for s in guidance_sweep.SCALES]
    assert agreement == pytest.approx([5 * (n + 1) / 30 for n in range(6)])
    assert diversity == pytest.approx([1 / (n + 1) ** 2 for n in range(6)])
    assert found["ddim_distance"] < found["ddpm_distance"]
    guidance_sweep.plot({f"test/{name}": value for name, value in found.items()}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    guidance_sweep.plot({}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
    blind = guidance_sweep.survey(draw, judging, real, 30, None, 500)
    assert not any(name.startswith("guided") for name in blind)


def test_contexts_are_labels_in_turn_or_one_of_them():
    metadata = {"classes": ["zero", "one", "two"]}
    assert context(metadata, 4).tolist() == [0, 1, 2, 0]
    assert context(metadata, 2, "two").tolist() == [2, 2]
    for label, prompt, said in (
        (3, None, "no label '3'"),
        (None, "cat", "reads no text: use --label"),
    ):
        with pytest.raises(BadInput, match=said):
            context(metadata, 2, label, prompt)
    with pytest.raises(BadInput, match="knows no labels"):
        context({}, 2, "two")
    assert context({}, 2) is None
    assert sampler.rows(torch.zeros(3, 1), 5).tolist() == [5, 5, 5]
