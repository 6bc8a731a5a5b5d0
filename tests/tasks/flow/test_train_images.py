"""Density estimation: bits, nats and their baselines by hand, and what a flow is used for."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.data.tabular.points import load_points
from torchstone.data.vision.dataset import load_pictures
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.flow.dequantization import bits
from torchstone.plots import density_2d
from torchstone.systems.generative import realnvp
from torchstone.systems.generative.realnvp import RECIPES, RealNVP, lively
from torchstone.tasks.flow import inference, train_images, train_points


def made(recipe: str, **fields):
    return next(realnvp.build(dataclasses.replace(RECIPES[recipe], device="cpu", **fields)))


@pytest.fixture(scope="module")
def moons():
    """A minute's flow would do better; this one has seen the moons."""
    torch.manual_seed(0)
    run = made("moons", steps=300, ema=0.9)
    fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    return run


class Uniform(nn.Module):
    """y uniform on 0..1, as a density of the numbers after the logit."""

    def log_prob(self, x):
        p = torch.sigmoid(x)
        return (p.log() + (1 - p).log() - math.log(0.9)).flatten(1).sum(1)


def test_one_density_everywhere_takes_the_bits_of_the_levels():
    data = load_pictures("digits", size=8, channels=1, device="cpu")
    nats = train_images.nats(Uniform(), data.test, 17)
    assert float(nats.abs().max()) < 1e-3
    assert float(bits(nats, 64, 17).mean()) == pytest.approx(math.log2(17), abs=1e-4)


def test_the_histogram_beside_it_is_counted_by_hand():
    data = load_pictures("digits", size=8, channels=1, device="cpu")
    train, test = (train_images.everything(split).long() * 17 // 256 for split in (data.train, data.test))
    total = 0.0
    for row in range(8):
        for column in range(8):
            counts = np.bincount(train[:, 0, row, column], minlength=17) + 1.0
            total -= np.log2(counts / counts.sum())[test[:, 0, row, column]].sum()
    by_hand = total / (64 * len(test))
    found = train_images.alone(data, 17)
    print(f"{found:.4f} bits a dimension, by hand {by_hand:.4f}")
    assert found == pytest.approx(by_hand, abs=1e-9)


def test_the_kernels_beside_it_are_no_worse_than_any_other_width():
    points = load_points("moons")
    found = train_points.kernel_loss(points)
    from sklearn.neighbors import KernelDensity

    test, train = (each[:n].numpy() for each, n in ((points.test, 400), (points.train, None)))
    for width in (0.03, 0.15):
        theirs = -KernelDensity(bandwidth=width).fit(train).score(test) / len(test)
        print(f"width {width}: {theirs:.4f}; ours {found:.4f}")
        assert found < theirs + 0.06


def test_points_are_learnt(moons):
    """Beyond what one Gaussian can say of them."""
    points = load_points("moons")
    one = torch.distributions.MultivariateNormal(points.train.mean(0), points.train.T.cov())
    gaussian = -float(one.log_prob(points.test).mean())
    print(moons.results, f"one Gaussian {gaussian:.4f}")
    assert moons.results["test/loss"] < gaussian - 0.3
    assert moons.results["test/behind"] == pytest.approx(
        moons.results["test/loss"] - moons.results["test/kernels"], abs=1e-9
    )


def test_the_judged_loss_is_the_mean_of_log_prob(moons):
    points, flow = load_points("moons"), moons.state["ema"].module
    with torch.no_grad():
        by_hand = -float(flow.log_prob(points.test).mean())
    assert moons.results["test/loss"] == pytest.approx(by_hand, abs=1e-5)
    assert inference.evaluate(flow, moons.metadata, "moons", held_out=True) == {
        "loss": pytest.approx(by_hand, abs=1e-5),
        "rows": 5000,
    }


def test_a_point_off_the_moons_is_unusual(moons, tmp_path):
    flow = moons.state["ema"].module
    on, off = inference.predict(flow, moons.metadata, ["0,1", "0,-2"])
    print(on, off)
    assert on["label"] == "usual"
    assert off["label"] == "unusual"
    assert on["log_density"] > off["log_density"] + 5
    file = tmp_path / "points.csv"
    file.write_text("x,y\n0,1\n0,-2\n")
    both = inference.predict(flow, moons.metadata, [file])
    assert [each["log_density"] for each in both] == pytest.approx(
        [on["log_density"], off["log_density"]], rel=1e-5
    )
    with pytest.raises(BadInput, match=r"x"):
        inference.predict(flow, moons.metadata, ["1,2,3"])


def test_samples_are_rows_or_a_drawing(moons, tmp_path):
    flow = moons.state["ema"].module
    drawn = inference.sample(flow, moons.metadata, count=7, seed=2)
    assert len(drawn) == 7
    assert drawn[0].shape == (2,)
    (name,) = inference.sample(flow, moons.metadata, count=50, out=tmp_path / "plane.png")
    assert Image.open(name).width > 2 * density_2d.SIDE
    for options, said in (({"count": 0}, "at least 1"), ({"temperature": -1.0}, "positive")):
        with pytest.raises(BadInput, match=said):
            inference.sample(flow, moons.metadata, **options)


def test_one_sample_that_is_not_finite_is_an_error_everywhere(moons, tmp_path):
    flow = RealNVP()
    with torch.no_grad():
        flow.flow.layers[-2].shift.fill_(float("nan"))
    for use in (
        lambda: inference.sample(flow, moons.metadata, count=5),
        lambda: inference.evaluate(flow, moons.metadata, "moons", held_out=True),
        lambda: inference.predict(flow, moons.metadata, ["0,1"]),
        lambda: density_2d.painted(flow, torch.randn(9, 2)),
    ):
        with pytest.raises(NotFinite, match="not finite"):
            use()


def test_the_drawn_density_is_the_flow_s():
    flow = lively(RealNVP(couplings=2, width=8), by=0.2)
    frame = (-3.0, 5.0, -2.0, 2.0)
    high = density_2d.heights(flow, frame, 20)
    with torch.no_grad():
        there = flow.log_prob(torch.tensor([[-3 + 8 * 4.5 / 20, -2 + 4 * 15.5 / 20]])).exp()
    assert float(high[15, 4]) == pytest.approx(float(there), rel=1e-4)
    picture = density_2d.coloured(np.array([[0.0, 1.0], [0.0, 0.0]]))
    assert int(picture[:, 1, 1].sum()) > int(picture[:, 0, 1].sum())  # the first row is at the bottom


def test_a_table_of_three_features_trains_and_refuses_another(tmp_path):
    def table(names: str) -> str:
        file = tmp_path / f"{names[0]}.csv"
        x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
        lines = [f"{a:.4f},{b:.4f},{c:.4f},{'ab'[i % 2]}" for i, (a, b, c) in enumerate(x.tolist())]
        file.write_text("\n".join([f"{names},kind", *lines]) + "\n")
        return str(file)

    run = made("moons", data=table("u,v,w"), steps=3, batch=16)
    fit(run, intervals=Intervals(evaluate=3), quiet=True)
    flow = run.state["ema"].module
    assert inference.sample(flow, run.metadata, count=2)[0].shape == (3,)
    with pytest.raises(BadInput, match="cannot be drawn"):
        inference.sample(flow, run.metadata, out=tmp_path / "a.png")
    with pytest.raises(BadInput, match="trained on u, v, w"):
        inference.evaluate(flow, run.metadata, table("p,q,r"), held_out=False)


def test_pictures_are_sampled_and_scored(tmp_path):
    run = made("smoke", steps=2)
    fit(run, intervals=Intervals(evaluate=2), quiet=True)
    flow = run.state["ema"].module
    drawn = inference.sample(flow, run.metadata, count=3)
    assert [each.shape for each in drawn] == [(1, 8, 8)] * 3
    assert set(torch.stack(drawn).unique().tolist()) <= {round(k * 255 / 16) for k in range(17)}
    picture = load_pictures("digits", size=8, channels=1, device="cpu").test.take(torch.arange(1))
    file = tmp_path / "digit.png"
    Image.fromarray(picture[0, 0].numpy()).save(file)
    metadata = run.metadata | {"picture": run.metadata["picture"] | {"ink": False}}
    (said,) = inference.predict(flow, metadata, [file])
    nats = float(train_images.nats(flow, picture, 17))
    assert said["log_density"] == pytest.approx(nats, abs=1e-3)
    assert said["bits_per_dimension"] == pytest.approx((math.log(17) - nats / 64) / math.log(2), abs=1e-4)
