"""Flow training and use: likelihoods and their baselines by hand, samples, and anomaly scores."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.data.tabular.points import load_points
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.engine import checkpoint
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.flow.coupling import ActNorm
from torchstone.parts.flow.likelihood import bits_per_dim
from torchstone.plots import density_2d
from torchstone.systems.generative import realnvp
from torchstone.systems.generative.realnvp import RECIPES, RealNVP, randomize_weights
from torchstone.tasks.flow import inference
from torchstone.tasks.flow.train import histogram_baseline, image_log_prob, kde_loss, sample_images


def build(recipe: str, **fields):
    return next(realnvp.build(replace_fields(RECIPES[recipe], {"device": "cpu", **fields})))


@pytest.fixture(scope="module")
def moons():
    """A minute's flow would do better; this one has seen the moons."""
    torch.manual_seed(0)
    run = build("moons", steps=300, ema_decay=0.9)
    fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    return run


def metadata_of(run) -> dict:
    """As in a checkpoint."""
    return run.metadata | run.calibration


class Uniform(nn.Module):
    """y uniform on 0..1, as a density of the numbers after the logit."""

    def log_prob(self, x):
        p = torch.sigmoid(x)
        return (p.log() + (1 - p).log() - math.log(0.9)).flatten(1).sum(1)


def test_image_log_prob_of_uniform_density():
    data = load_images("digits", size=8, channels=1, device="cpu")
    nats = image_log_prob(Uniform(), data.test, 17)
    assert float(nats.abs().max()) < 1e-3
    assert float(bits_per_dim(nats, 64, 17).mean()) == pytest.approx(math.log2(17), abs=1e-4)


def test_histogram_baseline_matches_counts():
    data = load_images("digits", size=8, channels=1, device="cpu")
    train_levels, test_levels = (all_images(split).long() * 17 // 256 for split in (data.train, data.test))
    total = 0.0
    for row in range(8):
        for column in range(8):
            counts = np.bincount(train_levels[:, 0, row, column], minlength=17) + 1.0
            total -= np.log2(counts / counts.sum())[test_levels[:, 0, row, column]].sum()
    by_hand = total / (64 * len(test_levels))
    value = histogram_baseline(data, 17)
    print(f"{value:.4f} bits a dimension, by hand {by_hand:.4f}")
    assert value == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.sweep
def test_kde_loss_uses_best_bandwidth():
    points = load_points("moons")
    value = kde_loss(points)
    from sklearn.neighbors import KernelDensity

    test, train = (each[:n].numpy() for each, n in ((points.test, 400), (points.train, None)))
    for width in (0.03, 0.15):
        theirs = -KernelDensity(bandwidth=width).fit(train).score(test) / len(test)
        print(f"width {width}: {theirs:.4f}; ours {value:.4f}")
        assert value < theirs + 0.06


@pytest.mark.sweep
def test_point_flow_beats_gaussian(moons):
    """Beyond what one Gaussian can say of them."""
    points = load_points("moons")
    one = torch.distributions.MultivariateNormal(points.train.mean(0), points.train.T.cov())
    gaussian = -float(one.log_prob(points.test).mean())
    print(moons.results, f"one Gaussian {gaussian:.4f}")
    assert moons.results["test/loss"] < gaussian - 0.3
    assert moons.results["test/gap_to_kde"] == pytest.approx(
        moons.results["test/loss"] - moons.results["test/kde_loss"], abs=1e-9
    )


@pytest.mark.sweep
def test_point_flow_loss_is_mean_log_prob(moons):
    points, flow = load_points("moons"), moons.state["ema"].module
    with torch.no_grad():
        by_hand = -float(flow.log_prob(points.test).mean())
    assert moons.results["test/loss"] == pytest.approx(by_hand, abs=1e-5)
    assert realnvp.evaluate(flow, metadata_of(moons), "moons", held_out=True) == {
        "loss": pytest.approx(by_hand, abs=1e-5),
        "rows": 5000,
    }


@pytest.mark.sweep
def test_predict_scores_distant_point_as_unusual(moons, tmp_path):
    flow = moons.state["ema"].module
    on, off = inference.predict(flow, metadata_of(moons), ["0,1", "0,-2"])
    print(on, off)
    assert on["label"] == "usual"
    assert off["label"] == "unusual"
    assert on["log_density"] > off["log_density"] + 5
    file = tmp_path / "points.csv"
    file.write_text("x,y\n0,1\n0,-2\n")
    both = inference.predict(flow, metadata_of(moons), [file])
    assert [each["log_density"] for each in both] == pytest.approx(
        [on["log_density"], off["log_density"]], rel=1e-5
    )
    with pytest.raises(BadInput, match=r"x"):
        inference.predict(flow, metadata_of(moons), ["1,2,3"])


@pytest.mark.sweep
def test_sample_returns_rows_or_plot(moons, tmp_path):
    flow = moons.state["ema"].module
    samples = inference.sample(flow, metadata_of(moons), num_samples=7, seed=2)
    assert len(samples) == 7
    assert samples[0].shape == (2,)
    (name,) = inference.sample(flow, metadata_of(moons), num_samples=50, out=tmp_path / "plane.png")
    assert Image.open(name).width > 2 * density_2d.RESOLUTION
    for options, message in (({"num_samples": 0}, "at least 1"), ({"temperature": -1.0}, "positive")):
        with pytest.raises(BadInput, match=message):
            inference.sample(flow, metadata_of(moons), **options)


@pytest.mark.sweep
def test_samples_beyond_single_precision_are_generated_in_double():
    """An inverse that multiplies by 1e25 twice ends in infinity, and the difference of two in NaN; the images of
    such numbers are still black and white."""
    from torchstone.systems.generative.glow import Glow

    model = Glow(width=4, depth=2)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, ActNorm):
                layer.scale.fill_(-58.0)
    with pytest.raises(NotFinite):
        model.sample(6)
    images = sample_images(model, 6, 256)
    expected = model.double().sample(6)
    print(f"largest {float(expected.abs().max()):.2g}; white {float((images == 255).float().mean()):.2f}")
    assert float(expected.abs().max()) > 1e38
    assert torch.equal(images == 255, expected > 5.6)
    assert next(model.parameters()).dtype == torch.float64, "the model itself was changed by the test alone"
    model.float().flow.stages[0].layers[1].shift.data.fill_(float("nan"))
    with pytest.raises(NotFinite, match="samples are not finite"):
        sample_images(model, 6, 256)


def test_point_flow_raises_when_not_finite(moons, tmp_path):
    flow = RealNVP()
    with torch.no_grad():
        flow.flow.layers[-2].shift.fill_(float("nan"))
    for use in (
        lambda: inference.sample(flow, metadata_of(moons), num_samples=5),
        lambda: realnvp.evaluate(flow, metadata_of(moons), "moons", held_out=True),
        lambda: inference.predict(flow, metadata_of(moons), ["0,1"]),
        lambda: density_2d.density_images(flow, torch.randn(9, 2)),
    ):
        with pytest.raises(NotFinite, match="not finite"):
            use()


def test_density_grid_matches_flow():
    flow = randomize_weights(RealNVP(couplings=2, width=8), scale=0.2)
    frame = (-3.0, 5.0, -2.0, 2.0)
    high = density_2d.density_grid(flow, frame, 20)
    with torch.no_grad():
        there = flow.log_prob(torch.tensor([[-3 + 8 * 4.5 / 20, -2 + 4 * 15.5 / 20]])).exp()
    assert float(high[15, 4]) == pytest.approx(float(there), rel=1e-4)
    picture = density_2d.colorize(np.array([[0.0, 1.0], [0.0, 0.0]]))
    assert int(picture[:, 1, 1].sum()) > int(picture[:, 0, 1].sum())  # the first row is at the bottom


def test_point_flow_on_table_checks_features(tmp_path):
    def table(names: str) -> str:
        file = tmp_path / f"{names[0]}.csv"
        x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
        lines = [f"{a:.4f},{b:.4f},{c:.4f},{'ab'[i % 2]}" for i, (a, b, c) in enumerate(x.tolist())]
        file.write_text("\n".join([f"{names},kind", *lines]) + "\n")
        return str(file)

    run = build("moons", data=table("u,v,w"), steps=3, batch_size=16)
    fit(run, intervals=Intervals(evaluate=3), quiet=True)
    flow = run.state["ema"].module
    assert inference.sample(flow, run.metadata, num_samples=2)[0].shape == (3,)
    with pytest.raises(BadInput, match="cannot be plotted"):
        inference.sample(flow, run.metadata, out=tmp_path / "a.png")
    with pytest.raises(BadInput, match="trained on u, v, w"):
        realnvp.evaluate(flow, run.metadata, table("p,q,r"), held_out=False)


def test_image_flow_samples_and_scores(tmp_path):
    run = build("smoke", steps=2)
    fit(run, intervals=Intervals(evaluate=2), quiet=True)
    flow = run.state["ema"].module
    samples = inference.sample(flow, run.metadata, num_samples=3)
    assert [each.shape for each in samples] == [(1, 8, 8)] * 3
    assert set(torch.stack(samples).unique().tolist()) <= {round(k * 255 / 16) for k in range(17)}
    picture = load_images("digits", size=8, channels=1, device="cpu").test.take(torch.arange(1))
    file = tmp_path / "digit.png"
    Image.fromarray(picture[0, 0].numpy()).save(file)
    metadata = metadata_of(run) | {"picture": run.metadata["picture"] | {"ink": False}}
    (message,) = inference.predict(flow, metadata, [file])
    nats = float(image_log_prob(flow, picture, 17))
    assert message["log_density"] == pytest.approx(nats, abs=1e-3)
    assert message["bits_per_dimension"] == pytest.approx((math.log(17) - nats / 64) / math.log(2), abs=1e-4)


def test_score_quantiles_are_saved_and_survive_resume(tmp_path):
    """Also in a checkpoint between the resume and the next evaluation; metadata itself never changes."""

    def train(updates: int, clock: Intervals) -> dict:
        run = build("moons", steps=20)
        before, update, count = dict(run.metadata), run.update, []

        def interrupted(batch):
            if len(count) == updates:
                raise KeyboardInterrupt
            count.append(0)
            return update(batch)

        run.update = interrupted
        with pytest.raises(KeyboardInterrupt):
            fit(run, tmp_path, intervals=clock, quiet=True)
        assert run.metadata == before
        _, meta, _ = checkpoint.find(tmp_path / "checkpoint")
        return meta

    first = train(3, Intervals(evaluate=2, save=1))
    second = train(1, Intervals(evaluate=20, save=1))
    assert (first["step"], second["step"]) == (3, 4)
    assert len(first["metadata"]["score_quantiles"]) == 201
    assert second["metadata"] == first["metadata"]
