"""Translation between two domains: what is measured, shown, written, and named while it collapses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.data.vision.domain_batches import UnpairedBatches
from torchstone.data.vision.image_domains import DomainSplit, ImageDomains
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.gan.image_pool import ImagePool
from torchstone.tasks.gan.translation import (
    ProcessPools,
    join,
    measure,
    predict,
    sheet,
    translate,
    translation_run,
)


class Scale(nn.Module):
    """To b by `factor`, and back by its inverse times `wrong`, on 0..1."""

    def __init__(self, factor: float = 0.5, wrong: float = 1.0, directions=("b", "a")):
        super().__init__()
        self.factor, self.back = nn.Parameter(torch.tensor(factor)), wrong / factor
        self.directions = directions

    def translate(self, images, to):
        levels = (images + 1) / 2
        return 2 * levels * (self.factor if to == "b" else self.back) - 1


def split_of(count: int = 8, size: int = 4, *, paired: bool = True, seed: int = 0) -> DomainSplit:
    """b is half as light as a, in another order."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(0, 120, (count, 3, size, size), generator=generator) * 2
    order = torch.randperm(count, generator=generator)
    pairs = torch.stack([order, torch.arange(count)], 1) if paired else torch.zeros(0, 2, dtype=torch.int64)
    return DomainSplit(a.byte(), (a[order] // 2).byte(), pairs)


METADATA = {"picture": {"size": 4, "channels": 3}, "domains": {"a": "light", "b": "dark"}}


def test_measures_are_those_of_their_definition():
    split = split_of()
    a, b = split.a[split.pairs[:, 0]] / 255, split.b[split.pairs[:, 1]] / 255
    right = measure(Scale(), split)
    assert right["partner_l1"] < 1e-6
    assert right["cycle_l1"] < 1e-6
    assert abs(right["partner_gain"] - 1) < 1e-4
    assert abs(right["untranslated_l1"] - float((a - b).abs().mean())) < 1e-6
    assert abs(right["relative_variance"] - 1) < 1e-4
    wrong = measure(Scale(0.75, 1.2), split)
    distances = {"b": float((0.75 * a - b).abs().mean()), "a": float((b / 0.75 * 1.2 - a).abs().mean())}
    for to, distance in distances.items():
        assert abs(wrong[f"partner_gain_{to}"] - (1 - distance / right["untranslated_l1"])) < 1e-5
    assert abs(wrong["partner_l1"] - sum(distances.values()) / 2) < 1e-6
    assert abs(wrong["cycle_l1"] - 0.2 * float((split.a / 255 + split.b / 255).mean()) / 2) < 1e-6
    ratios = [float((f * x / 255).flatten(1).var(0).sum() / (y / 255).flatten(1).var(0).sum())
              for f, x, y in ((0.75, split.a, split.b), (1.6, split.b, split.a))]  # fmt: skip
    assert abs(wrong["relative_variance"] - min(ratios)) < 1e-4


def test_without_partners_only_the_cycle_is_measured():
    found = measure(Scale(), split_of(paired=False))
    assert set(found) == {"cycle_l1", "relative_variance"}
    one_way = measure(Scale(directions=("b",)), split_of())
    assert set(one_way) == {"partner_l1", "untranslated_l1", "partner_gain", "relative_variance"}


def test_joined_splits_keep_their_pairs():
    parts = [split_of(5), split_of(3, seed=1), split_of(2, paired=False)]
    whole = join(parts)
    assert len(whole.a) == len(whole.b) == 10
    assert torch.equal(whole.a[whole.pairs[:, 0]] // 2, whole.b[whole.pairs[:, 1]])
    assert len(whole.pairs) == 8


@pytest.mark.parametrize(("paired", "shown"), [(True, 4), (False, 3)])
def test_a_sheet_has_picture_translation_back_and_partner(paired, shown):
    split = split_of(paired=paired)
    for to, factor in (("b", 0.5), ("a", 2.0)):
        images, columns = sheet(Scale(), split, to)
        assert columns == 4 * shown
        source, translated, back, *partner = images.view(-1, shown, 3, 4, 4).unbind(1)
        assert torch.allclose(translated.float(), source.float() * factor, atol=1)
        assert torch.allclose(back.float(), source.float(), atol=2)
        for each in partner:
            assert torch.allclose(each.float(), translated.float(), atol=1)


def test_broken_weights_are_named():
    with pytest.raises(NotFinite, match="not finite"):
        translate(Scale(float("nan")), split_of().a, "b")


def picture(file, color=(200, 100, 50)):
    Image.new("RGB", (20, 30), color).save(file)
    return file


def test_pictures_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "face.jpg", (200, 100, 50))
    (answer,) = predict(Scale(), METADATA, ["face.jpg"])
    assert answer == {"input": "face.jpg", "domain": "b", "file": "face-b.png"}
    assert np.abs(np.asarray(Image.open("face-b.png"), float)[2, 2] - [100, 50, 25]).max() <= 2
    predict(Scale(), METADATA, ["face.jpg"], to="a", out="there.png")
    assert np.abs(np.asarray(Image.open("there.png"), float)[2, 2] - [255, 200, 100]).max() <= 4
    assert Image.open("there.png").size == (4, 4)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder / "sun.png")
    answers = predict(Scale(), METADATA, ["one", "two"])
    assert [each["file"] for each in answers] == ["sun-b.png", "sun-b-2.png"]


def test_what_cannot_be_translated_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = picture(tmp_path / "face.png")
    for inputs, options, message in (
        ([file], {"to": "c"}, r"no domain 'c'.*translates to b \(dark\), a \(light\)"),
        ([file, file], {"out": "x.png"}, "each translation is a file of its own"),
        ([file], {"out": "x.jpg"}, "ends in .png, not 'x.jpg'"),
        ([tmp_path / "none.png"], {}, "none.png does not exist"),
        ([file], {"out": str(tmp_path / "no" / "x.png")}, "cannot write .*choose another --out"),
    ):
        with pytest.raises(BadInput, match=message):
            predict(Scale(), METADATA, inputs, **options)
    with pytest.raises(BadInput, match=r"no domain 'a'.*translates to b \(dark\)"):
        predict(Scale(directions=("b",)), METADATA, [file], to="a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["face.png"]


def test_a_collapse_is_named_while_it_happens(tmp_path, capsys):
    """A generator whose pictures become one gray, from the middle of its training on."""
    splits = {name: split_of(12, 8, seed=i) for i, name in enumerate(("train", "val", "test"))}
    data = ImageDomains(
        "toy", **splits, metadata={"size": 8, "domains": {"a": "a", "b": "b"}}, description="toy"
    )
    model = Scale()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)

    def update(batch):
        optimizer.step()
        schedule.step()
        if schedule.last_epoch >= 20:
            model.factor.data.fill_(0.05)
        return {"loss": torch.zeros(())}

    run = translation_run(
        SimpleNamespace(batch_size=2, steps=40),
        data,
        UnpairedBatches(data.train, 2, seed=0),
        update,
        {"model": model, "lr_schedule": schedule},
        model,
        best_metric=None,
        update_work=1.0,
        metadata={"variant": "toy"},
    )
    fit(run, tmp_path, intervals=Intervals(evaluate=10), quiet=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "mode collapse" in line]
    assert len(lines) == 1
    assert lines[0].startswith("step 20: mode collapse: samples vary 0.01 times as much as the data")
    assert run.results["val/mode_collapse"] == 1
    assert len(list((tmp_path / "samples").glob("*.png"))) == 5
    run.report(tmp_path / "samples")
    assert (tmp_path / "samples" / "translations_a.png").exists()


def test_pools_are_saved_and_loaded():
    pools, others = [[ImagePool(3), ImagePool(3)] for _ in range(2)]
    for i, pool in enumerate(pools):
        pool.query(torch.full((2, 3, 2, 2), float(i)), torch.rand(2, 2))
    state = ProcessPools(*pools).state_dict()
    ProcessPools(*others).load_state_dict(state)
    for pool, other in zip(pools, others, strict=True):
        assert torch.equal(pool.images, other.images)
        assert pool.count == other.count == 2
    ProcessPools(*others).load_state_dict({"processes": []})  # of a process that was not there
