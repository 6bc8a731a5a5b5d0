"""The first GAN: its networks as they were published, and a run that is killed goes on to the bit."""

import dataclasses

import pytest
import torch
from torch import nn

from torchstone.engine.run import Intervals, fit
from torchstone.parts.facts import parameters
from torchstone.systems.generative import cgan, dcgan, gan
from torchstone.tasks.gan.mode_collapse import Watch


def test_published_counts():
    assert parameters(gan.Generator()) == 2_503_984
    assert parameters(gan.Critic()) == 1_231_441
    wide = nn.Sequential(nn.Linear(100, 1200), nn.Linear(1200, 1200), nn.Linear(1200, 784))
    assert parameters(gan.Generator()) == parameters(wide)


def test_a_maxout_unit_is_the_largest_of_its_pieces():
    layer, x = gan.Maxout(3, 4, 5), torch.randn(6, 3)
    every = x @ layer.linear.weight.T + layer.linear.bias
    wanted = torch.stack([every[:, 5 * unit : 5 * unit + 5].max(1).values for unit in range(4)], 1)
    assert torch.allclose(layer(x), wanted)


def test_weights_begin_as_they_were_published():
    torch.manual_seed(0)
    for net, bound in ((gan.Generator(), 0.05), (gan.Critic(), 0.005)):
        for name, p in net.named_parameters():
            if p.ndim > 1:
                assert 0.98 * bound < float(p.detach().abs().max()) <= bound, name
                assert abs(float(p.detach().mean())) < bound / 20, name
            else:
                assert not p.detach().any(), name


def test_pictures_lie_on_0_to_1_and_the_critic_drops_in_training_alone():
    made = gan.Generator(width=50)(torch.randn(5, 100))
    assert made.shape == (5, 1, 28, 28)
    assert 0 < float(made.detach().min()) < float(made.detach().max()) < 1
    critic = gan.Critic(20, 3)
    nn.init.normal_(critic.output.weight)
    assert not torch.equal(critic(made), critic(made))
    critic.eval()
    assert torch.equal(critic(made), critic(made))
    assert critic(made).shape == (5,)


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
        {"critic_norm": "spectral", "loss": "hinge", "variant": "dcgan_mnist", "critic_steps": 2},
    ),
    "cgan": (cgan, {"variant": "cgan"}),
}


def begun(name: str):
    module, fields = CASES[name]
    if name != "gan":
        fields = fields | {"width": 4}
    recipe = dataclasses.replace(
        module.RECIPES["smoke"], steps=STEPS, samples=10, batch_size=8, device="cpu", **fields
    )
    return next(module.build(recipe))


def broken_off(name: str, folder, after: int, drop: str | None = None):
    """Killed after so many steps, then gone on with by new objects, somewhere else in chance."""
    first = begun(name)
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
    second = begun(name)
    torch.manual_seed(12345)
    whole = dict(second.state)
    second.state.pop(drop, None)
    fit(second, folder, intervals=CLOCK, quiet=True)
    second.state = whole
    return second


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_it_ends_with_the_same_bits(name, tmp_path):
    run = begun(name)
    fit(run, tmp_path / "whole", intervals=CLOCK, quiet=True)
    wanted = everything(run)
    again = everything(broken_off(name, tmp_path / "cut", after=5))
    print(f"{name}: {len(wanted)} tensors and numbers compared")
    assert differing(wanted, again) == []
    for part in ("optimiser.state.0.exp_avg", "critic_optimiser.state.0.exp_avg", "ema.n_averaged",
                 "watch.best.modes", "watch.named", "stream.position", "schedule.last_epoch"):  # fmt: skip
        assert f".{part}" in wanted, part
    sheets = [sorted((tmp_path / which / "samples").iterdir()) for which in ("whole", "cut")]
    assert [f.name for f in sheets[0]] == [f.name for f in sheets[1]]
    assert [f.read_bytes() for f in sheets[0]] == [f.read_bytes() for f in sheets[1]]


@pytest.mark.parametrize("drop", ["critic_optimiser", "ema", "watch"])
def test_nothing_of_the_state_could_be_left_out(drop, tmp_path, monkeypatch):
    # a watch that knows something no other figure says
    monkeypatch.setattr(Watch, "look", lambda self, *_: self.best.update(modes=self.best["modes"] + 1) or 0.0)  # fmt: skip
    run = begun("gan")
    fit(run, tmp_path / "whole", intervals=CLOCK, quiet=True)
    again = broken_off("gan", tmp_path / "cut", after=5, drop=drop)
    wrong = differing(everything(run), everything(again))
    print(f"without {drop}: {len(wrong)} differ, such as {wrong[:2]}")
    assert wrong
