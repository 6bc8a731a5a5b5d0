"""VAE training and use: bounds, figures, inpainting, and anomaly scores."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.data.vision.dataset import ImageSplit, load_images
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.vae.elbo import bernoulli_log_prob
from torchstone.systems.generative import vae
from torchstone.systems.generative.vae import RECIPES, VAE
from torchstone.tasks.vae import figures, inference, train


def smoke(**fields):
    return replace_fields(RECIPES["smoke"], {"device": "cpu", **fields})


@pytest.fixture(scope="module")
def trained():
    """The smoke recipe's network, and its metadata."""
    torch.manual_seed(0)
    run = next(vae.build(smoke()))
    fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    return run


def test_binarize_modes():
    gray = torch.tensor([0.0, 51.0, 128.0, 255.0]).view(1, 1, 2, 2)
    u = torch.rand(20_000, 1, 1, 1).expand(-1, 1, 2, 2)
    on = train.binarize(gray.expand(20_000, 1, 2, 2), u, "stochastic")
    assert set(on.unique().tolist()) == {0, 1}
    assert on.mean(0).flatten().tolist() == pytest.approx([0, 0.2, 128 / 255, 1], abs=0.01)
    assert train.binarize(gray, u[:1], "threshold").flatten().tolist() == [0, 0, 1, 1]
    assert torch.equal(train.binarize(gray, u[:1], "none"), gray / 255)


def test_evaluate_bounds_match_definition_and_repeat(trained):
    model, pictures = trained.state["ema"].module, all_images(trained_data().test)[:40]
    metrics = train.evaluate_bounds(model, pictures, "threshold")
    assert metrics == train.evaluate_bounds(model, pictures, "threshold")
    x = train.fixed_binarization(pictures, "threshold")
    with torch.no_grad():
        mean, logvar = model.encode(x)
        q = torch.distributions.Normal(mean, (logvar / 2).exp())
        prior = torch.distributions.Normal(0.0, 1.0)
        z = q.sample((4000,))
        log_likelihood = torch.stack([bernoulli_log_prob(model.decode(each), x) for each in z])
        kl = torch.distributions.kl_divergence(q, prior).sum(1)
        weights = log_likelihood + (prior.log_prob(z) - q.log_prob(z)).sum(2)
    by_hand = {
        "elbo": float((log_likelihood.mean(0) - kl).mean()),
        "iwae_5": float((weights.unflatten(0, (-1, 5)).logsumexp(1) - torch.tensor(5.0).log()).mean()),
        "iwae_50": float((weights.unflatten(0, (-1, 50)).logsumexp(1) - torch.tensor(50.0).log()).mean()),
        "kl": float(kl.mean()),
        "active_latents": float((mean.var(0) > 0.01).sum()),
    }
    print(metrics, by_hand)
    for name, value in by_hand.items():
        assert metrics[name] == pytest.approx(value, abs=0.1), name
    assert metrics["elbo"] < metrics["iwae_5"] < metrics["iwae_50"]


def trained_data():
    return vae.load_images("digits", size=8, channels=1, device="cpu")


def test_elbo_beats_independent_pixels(trained):
    metrics = {name: value for name, value in trained.results.items() if name.startswith("test/")}
    print(metrics)
    assert metrics["test/elbo"] > metrics["test/independent_pixels"] + 1


def test_independent_pixel_log_prob_matches_frequencies():
    data = trained_data()
    share = ((all_images(data.train) >= 128).double().sum(0) + 0.5) / (len(data.train) + 1)
    x = (all_images(data.test) >= 128).double()
    by_hand = (x * share.log() + (1 - x) * (1 - share).log()).flatten(1).sum(1).mean()
    assert train.independent_pixel_log_prob(data, "threshold") == pytest.approx(float(by_hand), abs=1e-6)


class Known(nn.Module):
    """A model whose posterior is known: one latent, whose sign says whether every pixel is on."""

    latent_dim = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, x):
        mean = 2.0 * (2 * x.mean((1, 2, 3), keepdim=True) - 1).flatten(1)
        return mean, torch.full_like(mean, -6.0)

    def decode(self, z):
        return (20 * z[..., None, None]).expand(*z.shape[:-1], 1, 4, 4)


def test_inpaint_keeps_known_pixels():
    x = torch.cat([torch.ones(20, 1, 4, 4), torch.zeros(20, 1, 4, 4)])
    missing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    missing[..., 3, 1:] = True
    images = figures.inpaint(Known(), x, missing, gibbs_steps=30)
    assert torch.equal(images[~missing.expand_as(x)], x[~missing.expand_as(x)])
    error = float((images - x).abs().max())
    print(f"three of sixteen pixels missing: {error:.3f} off at most")
    assert error < 0.05
    others = figures.inpaint(Known(), x, missing, gibbs_steps=1, seed=1)
    assert not torch.equal(others, figures.inpaint(Known(), x, missing, gibbs_steps=1, seed=2))


def test_inpaint_and_sampling_raise_when_not_finite():
    model = VAE(size=4, widths=(3,), latent_dim=2)
    with torch.no_grad():
        model.decoder[0].weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match="images are not finite"):
        figures.inpaint(model, torch.zeros(2, 1, 4, 4), torch.ones(1, 1, 4, 4).bool())
    with pytest.raises(NotFinite, match="5 of 5 samples"):
        figures.sample_images(model, 5)


def test_sample_images_seed_and_temperature(trained):
    model = trained.state["ema"].module
    ours = figures.sample_images(model, 6, seed=3)
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        theirs = (model.decode(z).sigmoid() * 255).round().byte()
    assert torch.equal(ours, theirs)
    cold = figures.sample_images(model, 6, seed=3, temperature=1e-6).float()
    assert float((cold - cold[:1]).abs().max()) <= 1


def test_report_shows_every_class_of_an_ordered_split(monkeypatch, tmp_path):
    """Published splits are often ordered by class: cut at their beginning they show zeros alone."""
    data = load_images("digits", size=8, channels=1)
    order = data.test.labels.argsort(stable=True)
    ordered = ImageSplit(data.test.labels[order], data.test.images[order])
    monkeypatch.setattr(vae, "load_images", lambda *_, **__: dataclasses.replace(data, test=ordered))
    run, shown = next(vae.build(smoke(eval_samples=0))), {}
    for name in ("save_reconstructions", "save_interpolations", "save_latent_grid", "save_inpaintings"):
        monkeypatch.setattr(train, name, lambda model, x, file: shown.update({file.stem: x}))
    monkeypatch.setattr(train, "save_final_samples", lambda *_: None)
    run.report(tmp_path)
    # fixed noise makes each image another one: compare with what each row of the split becomes
    binarization = run.metadata["binarization"]
    x = shown["rebuilt"]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))[:10]
    images, found = all_images(ordered).float(), []
    for own, u in zip(x[:10], noise, strict=True):
        rows = train.binarize(images, u.expand(len(images), -1, -1, -1), binarization)
        found.append(int(ordered.labels[(rows - own).abs().flatten(1).sum(1).argmin()]))
    print(sorted(shown), found)
    assert found == list(range(10))
    assert len(shown) == 4
    assert all(torch.equal(each, x) for each in shown.values())


def test_report_writes_every_figure(trained, tmp_path):
    trained.report(tmp_path)
    names = {file.name: Image.open(file).size for file in tmp_path.glob("*.png")}
    print(names)
    assert {"rebuilt.png", "interpolation.png", "plane.png", "filled.png", "samples.png"} <= set(names)


def test_interpolation_ends_at_reconstructions(trained, tmp_path):
    model = trained.state["ema"].module
    x = train.fixed_binarization(all_images(trained_data().test)[:2], "threshold")
    grid = {}
    save = figures.save_image_grid
    figures.save_image_grid = lambda images, file, columns: grid.update(images=images) or Path(file)
    try:
        figures.save_interpolations(model, x, tmp_path / "paths.png")
    finally:
        figures.save_image_grid = save
    ends = figures.decode_images(model, model.encode(x)[0])
    assert torch.equal(grid["images"][[0, -1]], ends)
    assert len(grid["images"]) == figures.COLUMNS


def test_predict_and_explain_score_noise_as_unusual(trained, tmp_path):
    model, metadata = trained.state["ema"].module, trained.metadata | trained.calibration
    digit, noise = tmp_path / "digit.png", tmp_path / "noise.png"
    picture = all_images(trained_data().test)[0, 0]
    Image.fromarray(picture.numpy()).save(digit)
    shuffled = picture.flatten()[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    Image.fromarray(shuffled.view(8, 8).numpy()).save(noise)
    metadata = metadata | {"picture": metadata["picture"] | {"ink": False}}
    usual, odd = inference.predict(model, metadata, [digit, noise])
    print(usual, odd)
    assert usual["elbo"] > odd["elbo"] + 5
    assert usual["validation_rank"] > odd["validation_rank"]
    assert odd["label"] == "unusual"
    inference.explain(model, metadata, [digit, noise], tmp_path / "why.png")
    assert Image.open(tmp_path / "why.png").width > 3 * 48


def test_sample_inpaints_from_files(trained, tmp_path):
    model, metadata = trained.state["ema"].module, trained.metadata | trained.calibration
    picture = all_images(trained_data().test)[0, 0]
    Image.fromarray(picture.numpy()).save(tmp_path / "known.png")
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    images = inference.sample(
        model,
        metadata,
        num_samples=3,
        inpaint_image=tmp_path / "known.png",
        mask=tmp_path / "mask.png",
        gibbs_steps=5,
    )
    left = (picture[:, :4] >= 128) * 255
    assert len(images) == 3
    assert all(torch.equal(each[0, :, :4], left.byte()) for each in images)
    for options, message in (
        ({"inpaint_image": tmp_path / "known.png"}, "both an image to inpaint and a mask"),
        ({"num_samples": 0}, "at least 1"),
        ({"temperature": 0.0}, "positive"),
    ):
        with pytest.raises(BadInput, match=message):
            inference.sample(model, metadata, **options)
