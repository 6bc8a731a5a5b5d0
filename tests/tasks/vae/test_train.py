"""Auto-encoding: what it is judged by, what is drawn, filling in, and how unusual a picture is."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.vae.elbo import on_or_off
from torchstone.systems.generative import vae
from torchstone.systems.generative.vae import RECIPES, VAE
from torchstone.tasks.flow.train_images import everything
from torchstone.tasks.vae import figures, inference, train


def smoke(**fields):
    return dataclasses.replace(RECIPES["smoke"], device="cpu", **fields)


@pytest.fixture(scope="module")
def trained():
    """The smoke recipe's network, and its metadata."""
    torch.manual_seed(0)
    run = next(vae.build(smoke()))
    fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    return run


def test_pixels_are_on_by_the_chance_of_their_shade():
    shade = torch.tensor([0.0, 51.0, 128.0, 255.0]).view(1, 1, 2, 2)
    u = torch.rand(20_000, 1, 1, 1).expand(-1, 1, 2, 2)
    on = train.pixels_of(shade.expand(20_000, 1, 2, 2), u, "drawn")
    assert set(on.unique().tolist()) == {0, 1}
    assert on.mean(0).flatten().tolist() == pytest.approx([0, 0.2, 128 / 255, 1], abs=0.01)
    assert train.pixels_of(shade, u[:1], "threshold").flatten().tolist() == [0, 0, 1, 1]
    assert torch.equal(train.pixels_of(shade, u[:1], "grey"), shade / 255)


def test_figures_are_those_of_the_definition_and_the_same_again(trained):
    model, pictures = trained.state["ema"].module, everything(trained_data().test)[:40]
    found = train.worth(model, pictures, "threshold")
    assert found == train.worth(model, pictures, "threshold")
    x = train.fixed(pictures, "threshold")
    with torch.no_grad():
        mean, logvar = model.encode(x)
        q = torch.distributions.Normal(mean, (logvar / 2).exp())
        prior = torch.distributions.Normal(0.0, 1.0)
        z = q.sample((4000,))
        told = torch.stack([on_or_off(model.decode(each), x) for each in z])
        kl = torch.distributions.kl_divergence(q, prior).sum(1)
        weights = told + (prior.log_prob(z) - q.log_prob(z)).sum(2)
    by_hand = {
        "bound": float((told.mean(0) - kl).mean()),
        "bound_5": float((weights.unflatten(0, (-1, 5)).logsumexp(1) - torch.tensor(5.0).log()).mean()),
        "bound_50": float((weights.unflatten(0, (-1, 50)).logsumexp(1) - torch.tensor(50.0).log()).mean()),
        "divergence": float(kl.mean()),
        "active": float((mean.var(0) > 0.01).sum()),
    }
    print(found, by_hand)
    for name, value in by_hand.items():
        assert found[name] == pytest.approx(value, abs=0.1), name
    assert found["bound"] < found["bound_5"] < found["bound_50"]


def trained_data():
    return vae.load_pictures("digits", size=8, channels=1, device="cpu")


def test_it_beats_each_pixel_by_itself(trained):
    found = {name: value for name, value in trained.results.items() if name.startswith("test/")}
    print(found)
    assert found["test/bound"] > found["test/pixels_alone"] + 1


def test_pixels_alone_is_the_log_likelihood_of_frequencies():
    data = trained_data()
    share = ((everything(data.train) >= 128).double().sum(0) + 0.5) / (len(data.train) + 1)
    x = (everything(data.test) >= 128).double()
    by_hand = (x * share.log() + (1 - x) * (1 - share).log()).flatten(1).sum(1).mean()
    assert train.alone(data, "threshold") == pytest.approx(float(by_hand), abs=1e-6)


class Known(nn.Module):
    """A model whose posterior is known: one latent, whose sign says whether every pixel is on."""

    latent = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, x):
        mean = 2.0 * (2 * x.mean((1, 2, 3), keepdim=True) - 1).flatten(1)
        return mean, torch.full_like(mean, -6.0)

    def decode(self, z):
        return (20 * z[..., None, None]).expand(*z.shape[:-1], 1, 4, 4)


def test_filling_in_keeps_what_is_known_and_agrees_with_it():
    x = torch.cat([torch.ones(20, 1, 4, 4), torch.zeros(20, 1, 4, 4)])
    missing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    missing[..., 3, 1:] = True
    made = figures.fill(Known(), x, missing, again=30)
    assert torch.equal(made[~missing.expand_as(x)], x[~missing.expand_as(x)])
    apart = float((made - x).abs().max())
    print(f"three of sixteen pixels missing: {apart:.3f} off at most")
    assert apart < 0.05
    others = figures.fill(Known(), x, missing, again=1, seed=1)
    assert not torch.equal(others, figures.fill(Known(), x, missing, again=1, seed=2))


def test_a_network_that_fills_in_nothing_finite_is_an_error():
    model = VAE(size=4, widths=(3,), latent=2)
    with torch.no_grad():
        model.decoder[0].weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match="pictures are not finite"):
        figures.fill(model, torch.zeros(2, 1, 4, 4), torch.ones(1, 1, 4, 4).bool())
    with pytest.raises(NotFinite, match="5 of 5 samples"):
        figures.painted(model, 5)


def test_samples_are_those_of_their_noise_and_temperature(trained):
    model = trained.state["ema"].module
    ours = figures.painted(model, 6, seed=3)
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        theirs = (model.decode(z).sigmoid() * 255).round().byte()
    assert torch.equal(ours, theirs)
    cold = figures.painted(model, 6, seed=3, temperature=1e-6).float()
    assert float((cold - cold[:1]).abs().max()) <= 1


def test_every_sheet_is_drawn(trained, tmp_path):
    trained.report(tmp_path)
    names = {file.name: Image.open(file).size for file in tmp_path.glob("*.png")}
    print(names)
    assert {"rebuilt.png", "interpolation.png", "plane.png", "filled.png", "samples.png"} <= set(names)


def test_a_path_leads_from_one_rebuilt_picture_to_another(trained, tmp_path):
    model = trained.state["ema"].module
    x = train.fixed(everything(trained_data().test)[:2], "threshold")
    drawn = {}
    sheet = figures.sheet
    figures.sheet = lambda pictures, file, columns: drawn.update(made=pictures) or Path(file)
    try:
        figures.paths(model, x, tmp_path / "paths.png")
    finally:
        figures.sheet = sheet
    ends = figures.decoded(model, model.encode(x)[0])
    assert torch.equal(drawn["made"][[0, -1]], ends)
    assert len(drawn["made"]) == figures.COLUMNS


def test_noise_is_more_unusual_than_a_digit(trained, tmp_path):
    model, metadata = trained.state["ema"].module, trained.metadata
    digit, noise = tmp_path / "digit.png", tmp_path / "noise.png"
    picture = everything(trained_data().test)[0, 0]
    Image.fromarray(picture.numpy()).save(digit)
    shuffled = picture.flatten()[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    Image.fromarray(shuffled.view(8, 8).numpy()).save(noise)
    metadata = metadata | {"picture": metadata["picture"] | {"ink": False}}
    usual, odd = inference.predict(model, metadata, [digit, noise])
    print(usual, odd)
    assert usual["bound"] > odd["bound"] + 5
    assert usual["probability"] > odd["probability"]
    assert odd["label"] == "unusual"
    inference.explain(model, metadata, [digit, noise], tmp_path / "why.png")
    assert Image.open(tmp_path / "why.png").width > 3 * 48


def test_a_part_is_filled_in_from_files(trained, tmp_path):
    model, metadata = trained.state["ema"].module, trained.metadata
    picture = everything(trained_data().test)[0, 0]
    Image.fromarray(picture.numpy()).save(tmp_path / "known.png")
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    made = inference.sample(
        model, metadata, count=3, known=tmp_path / "known.png", mask=tmp_path / "mask.png", again=5
    )
    left = (picture[:, :4] >= 128) * 255
    assert len(made) == 3
    assert all(torch.equal(each[0, :, :4], left.byte()) for each in made)
    for options, said in (
        ({"known": tmp_path / "known.png"}, "both a known picture and a mask"),
        ({"count": 0}, "at least 1"),
        ({"temperature": 0.0}, "positive"),
    ):
        with pytest.raises(BadInput, match=said):
            inference.sample(model, metadata, **options)
