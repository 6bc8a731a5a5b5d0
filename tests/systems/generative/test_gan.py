"""The first GAN: its networks as published, and a bit-exact resume."""

import pytest
import torch
from torch import nn

from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.parts.facts import count_parameters
from torchstone.systems.generative import cgan, dcgan, gan
from torchstone.tasks.gan.mode_collapse import ModeCollapseMonitor


def test_gan_published_parameter_counts():
    assert count_parameters(gan.Generator()) == 2_503_984
    assert count_parameters(gan.Discriminator()) == 1_231_441
    wide = nn.Sequential(nn.Linear(100, 1200), nn.Linear(1200, 1200), nn.Linear(1200, 784))
    assert count_parameters(gan.Generator()) == count_parameters(wide)


def test_maxout_is_maximum_of_pieces():
    layer, x = gan.Maxout(3, 4, 5), torch.randn(6, 3)
    every = x @ layer.linear.weight.T + layer.linear.bias
    expected = torch.stack([every[:, 5 * unit : 5 * unit + 5].max(1).values for unit in range(4)], 1)
    assert torch.allclose(layer(x), expected)


def test_gan_initial_weights():
    torch.manual_seed(0)
    for net, bound in ((gan.Generator(), 0.05), (gan.Discriminator(), 0.005)):
        for name, p in net.named_parameters():
            if p.ndim > 1:
                assert 0.98 * bound < float(p.detach().abs().max()) <= bound, name
                assert abs(float(p.detach().mean())) < bound / 20, name
            else:
                assert not p.detach().any(), name


def test_gan_output_range_and_discriminator_dropout():
    images = gan.Generator(width=50)(torch.randn(5, 100))
    assert images.shape == (5, 1, 28, 28)
    assert 0 < float(images.detach().min()) < float(images.detach().max()) < 1
    discriminator = gan.Discriminator(20, 3)
    nn.init.normal_(discriminator.output.weight)
    assert not torch.equal(discriminator(images), discriminator(images))
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))
    assert discriminator(images).shape == (5,)


# ------------------------------------------------------------------------------ killed and resumed


def leaves(tree, name=""):
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name, tree


def everything(run) -> dict:
    found = dict(leaves({name: item.state_dict() for name, item in run.state.items()}))
    return found | {f"results.{name}": value for name, value in run.results.items()}


def differing(a: dict, b: dict) -> list[str]:
    assert a.keys() == b.keys()
    return [n for n in a if not (torch.equal(a[n], b[n]) if isinstance(a[n], torch.Tensor) else a[n] == b[n])]


STEPS, CLOCK = 7, Intervals(evaluate=3, save=3)
CASES = {
    "gan": (gan, {}),
    "dcgan": (
        dcgan,
        {
            "discriminator_norm": "spectral",
            "loss": "hinge",
            "variant": "dcgan_mnist",
            "discriminator_steps": 2,
        },
    ),
    "cgan": (cgan, {"variant": "cgan"}),
}


def built(name: str):
    module, fields = CASES[name]
    if name != "gan":
        fields = fields | {"base_channels": 4}
    fields = {"steps": STEPS, "eval_samples": 10, "batch_size": 8, "device": "cpu", **fields}
    recipe = replace_fields(module.RECIPES["smoke"], fields)
    return next(module.build(recipe))


def interrupt_and_resume(name: str, folder, after: int, drop: str | None = None):
    """Killed after so many steps, then gone on with by new objects, somewhere else in chance."""
    first = built(name)
    update, done = first.update, []

    def killed(batch):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(0)
        return update(batch)

    first.update = killed
    first.state.pop(drop, None)
    with pytest.raises(KeyboardInterrupt):
        fit(first, folder, intervals=CLOCK, quiet=True)
    second = built(name)
    torch.manual_seed(12345)
    full = dict(second.state)
    second.state.pop(drop, None)
    fit(second, folder, intervals=CLOCK, quiet=True)
    second.state = full
    return second


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sweep
def test_gan_resume_is_bit_exact(name, tmp_path):
    run = built(name)
    fit(run, tmp_path / "full", intervals=CLOCK, quiet=True)
    expected = everything(run)
    again = everything(interrupt_and_resume(name, tmp_path / "cut", after=5))
    print(f"{name}: {len(expected)} tensors and numbers compared")
    assert differing(expected, again) == []
    for part in (
        "optimizer.state.0.exp_avg",
        "discriminator_optimizer.state.0.exp_avg",
        "ema.n_averaged",
        "mode_collapse.best.covered_classes",
        "mode_collapse.reported",
        "stream.position",
        "lr_schedule.last_epoch",
    ):
        assert f".{part}" in expected, part
    sheets = [sorted((tmp_path / which / "samples").iterdir()) for which in ("full", "cut")]
    assert [f.name for f in sheets[0]] == [f.name for f in sheets[1]]
    assert [f.read_bytes() for f in sheets[0]] == [f.read_bytes() for f in sheets[1]]


@pytest.mark.parametrize("drop", ["discriminator_optimizer", "ema", "mode_collapse"])
def test_gan_state_is_complete(drop, tmp_path, monkeypatch):
    def count_updates(self, *_) -> float:  # a state that no other entry holds
        self.best["covered_classes"] += 1
        return 0.0

    monkeypatch.setattr(ModeCollapseMonitor, "update", count_updates)
    run = built("gan")
    fit(run, tmp_path / "full", intervals=CLOCK, quiet=True)
    again = interrupt_and_resume("gan", tmp_path / "cut", after=5, drop=drop)
    wrong = differing(everything(run), everything(again))
    print(f"without {drop}: {len(wrong)} differ, such as {wrong[:2]}")
    assert wrong
