"""Each law is seen to fail: faults planted in LeNet-5 and its kin, or in a tree made for it."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import catalogue
import import_rules
import laws
import pytest
import smoke_runs
import subprocess_entry
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from torchstone import api, systems
from torchstone.data.vision.batches import Batches
from torchstone.engine import rng
from torchstone.engine.recipe_fields import replace_fields
from torchstone.parts.facts import Fact, parameters
from torchstone.runs import folder
from torchstone.systems.convolutional import lenet5
from torchstone.systems.fundamentals import backprop, perceptron

LENET5 = systems.find("lenet5")[0]


def fake(entry=LENET5, *, line=(), **module):
    """An entry with other things in its file, and others (`line`) in its line of the catalogue."""
    held = SimpleNamespace(**{**vars(entry.module()), **module})
    copy = dataclasses.replace(entry, **dict(line))
    object.__setattr__(copy, "module", lambda: held)  # it is frozen
    return copy


def smoke_with(**fields):
    """LeNet-5 whose smoke recipe differs."""
    smoke = replace_fields(lenet5.RECIPES["smoke"], fields)
    return fake(RECIPES={**lenet5.RECIPES, "smoke": smoke})


def short(name, steps=5):
    """A system whose smoke recipe is cut short."""
    entry = systems.find(name)[0]
    recipes = entry.module().RECIPES
    return fake(entry, RECIPES={**recipes, "smoke": dataclasses.replace(recipes["smoke"], steps=steps)})


def caught(message: str):
    return pytest.raises(AssertionError, match=message)


# law 1


def test_1_a_generator_that_nobody_seeded(monkeypatch):
    generator = torch.Generator()
    generator.seed()

    def draw(self, *_):
        return lambda *shape: torch.rand(self.batch, *shape, generator=generator)

    monkeypatch.setattr(Batches, "_draw", draw)
    with caught("seed 3 twice, and step 1 differs"):
        laws.same_seed_same_losses(smoke_with(steps=4))


def test_1_weights_drawn_before_the_seed(monkeypatch):
    monkeypatch.setattr(rng, "seed", lambda number: None)
    with caught("seed 3 twice, and step 1 differs"):
        laws.same_seed_same_losses(smoke_with(steps=4))


def test_1_a_seed_without_effect():
    def build(recipe):
        return lenet5.build(dataclasses.replace(recipe, seed=0))

    with caught("seeds 3 and 4 give the same"):
        laws.same_seed_same_losses(fake(build=build))


# law 2


@pytest.mark.parametrize("fault", ["stream_not_kept", "optimizer_not_kept", "augmentation_not_registered"])
def test_2_a_state_that_is_not_kept(fault, tmp_path):
    with caught(r"\d+ of \d+ differ: model\."):
        laws.faulty_and_resumed(LENET5, tmp_path, steps=9, fault=fault)


@pytest.mark.parametrize("name", ["weights", "state", "rows"])
def test_2_one_bit(name, tmp_path, monkeypatch):
    """The comparison itself, on a run beside its copy."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for each in ("write_result", "draw_curves"):
        monkeypatch.setattr(folder, each, getattr(folder, each))  # to be put back
    subprocess_entry.without_pictures()
    api.train("lenet5/smoke", steps=2, out=whole, quiet=True)
    shutil.copytree(whole, cut)
    assert laws.identical(whole, cut) > 100
    checkpoint = cut / "checkpoint"
    if name == "weights":
        tensors = load_file(checkpoint / "model.safetensors")
        flat = tensors["model.c1.bias"]
        flat[0] = torch.nextafter(flat[0], torch.tensor(9.0))
        save_file(tensors, checkpoint / "model.safetensors")
    elif name == "state":
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        state["stream"]["position"] += 1
        torch.save(state, checkpoint / "state.pt")
    else:
        lines = (cut / "metrics.jsonl").read_text().splitlines()
        row = json.loads(lines[1])
        row["loss"] += 1e-15
        (cut / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))
    with caught(r"1 of \d+ differ"):
        laws.identical(whole, cut)


# law 3


def test_3_a_learning_rate_of_nothing():
    with caught("short of the margin"):
        laws.learns(smoke_with(lr=1e-12))


def test_3_labels_of_other_pictures(monkeypatch):
    plain = Batches.__next__

    def following(self):
        images, labels = plain(self)
        return images, labels.roll(1)

    monkeypatch.setattr(Batches, "__next__", following)
    with caught("short of the margin"):
        laws.learns(smoke_with(steps=20))


def test_3_a_margin_that_a_system_states():
    record = smoke_runs.observe(LENET5)
    laws.learns(fake(MARGIN=("loss", -1.0)), record)
    with caught("loss .* short of the margin -9"):
        laws.learns(fake(MARGIN=("loss", -9.0)), record)


# law 4


def test_4_a_count_off_by_one():
    fact = Fact("parameters", lambda: parameters(lenet5.LeNet5()), 61_707)
    with caught("parameters: 61706, not 61707"):
        laws.verified(fake(FACTS=[fact], reference=lambda: iter(())))


class Altered(nn.Module):
    """A network, with its output put through a function."""

    def __init__(self, net, alter):
        super().__init__()
        self.net, self.alter = net, alter

    def forward(self, images):
        return self.alter(self.net(images))


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (torch.neg, r"output: 2[.]0, not 0[.]0"),
        # the same output, from which less flows back
        (lambda y: y / 2 + y.detach() / 2, r"gradients: 1\.0"),
    ],
)
def test_4_a_reference_that_differs(alter, message):
    torch.manual_seed(0)
    model, images = lenet5.LeNet5().double(), torch.randn(2, 1, 32, 32, dtype=torch.float64)
    pairs = [(model, Altered(model, alter), images)]
    with caught(message):
        laws.verified(fake(FACTS=[], reference=lambda: iter(pairs)))


def test_4_a_reference_that_cannot_be_made():
    def reference():
        raise ImportError("no such library")
        yield

    with caught("reference 1: ImportError: no such library"):
        laws.verified(fake(reference=reference))


# law 5, with the backend that only traces: a break in the graph or another path shows there too


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("branch_on_the_data", "torch._dynamo.exc.Unsupported: Data-dependent branching"),
        ("another_path_when_compiled", "AssertionError: lenet5: compiled differs from eager in"),
    ],
)
def test_5_what_compilation_breaks(fault, message):
    done = laws.run_child("compiled", fault, "eager", "lenet5")
    assert done.returncode == 1
    assert message in done.stderr, done.stderr[-2000:]


# law 6


def test_6_a_parameter_that_is_never_used(monkeypatch):
    plain = lenet5.LeNet5.__init__

    def init(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self.idle = nn.Parameter(torch.zeros(3))

    monkeypatch.setattr(lenet5.LeNet5, "__init__", init)
    with caught("nothing reaches model.idle"):
        laws.every_parameter_learns(smoke_with(steps=5))


def test_6_a_layer_cut_off_by_detach(monkeypatch):
    plain = lenet5.nn.MaxPool2d.forward
    monkeypatch.setattr(lenet5.nn.MaxPool2d, "forward", lambda self, x: plain(self, x.detach()))
    with caught(r"nothing reaches model\.c1\.weight, model\.c1\.bias, model\.c3"):
        laws.every_parameter_learns(smoke_with(steps=5))


def test_6_only_in_another_variant(monkeypatch):
    monkeypatch.setattr(lenet5.Subsampling, "forward", lambda self, x: x[..., ::2, ::2])
    with caught(r"lenet5_paper: no gradient for \['s2\.bias', 's2\.coefficient', 's4"):
        laws.every_variant_learns(LENET5)


def test_6_a_rule_of_its_own_that_leaves_one_out(monkeypatch):
    plain = backprop.gradients

    def gradients(*args):
        logits, by_weight, by_bias = plain(*args)
        by_bias[0] *= 0
        return logits, by_weight, by_bias

    monkeypatch.setattr(backprop, "gradients", gradients)
    with caught(r"nothing reaches model\.biases\.0"):
        laws.every_parameter_learns(short("backprop"))


def test_6_a_threshold_that_is_never_moved(monkeypatch):
    plain = perceptron.extended

    def extended(x):
        rows = plain(x)
        rows[:, -1] = 0
        return rows

    monkeypatch.setattr(perceptron, "extended", extended)
    with caught(r"nothing reaches model\.units\.bias"):
        laws.every_parameter_learns(short("perceptron"))


# law 7


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("parts/a.py", "from torchstone.engine import run", "parts is below engine"),
        ("parts/a.py", "import scipy.optimize", "parts import torch"),
        ("parts/a.py", "def f():\n    from ..data import b", "parts is below data"),
        ("data/a.py", "import torchstone.engine.device", "siblings do not know each other"),
        ("data/a.py", "from torchstone.envs import c", "siblings do not know each other"),
        ("engine/a.py", "from torchstone.hub.b import c", "siblings do not know each other"),
        ("envs/a.py", "from torchstone.plots import c", "envs is below plots"),
        ("plots/a.py", "from torchstone.tasks.b import c", "plots is below tasks"),
        ("plots/a.py", "def f():\n    import torchstone.metrics", "plots is below metrics"),
        ("metrics/a.py", "from torchstone.interpret import c", "siblings do not know each other"),
        ("interpret/a.py", "from torchstone.tasks import c", "interpret is below tasks"),
        ("references/a.py", "from torchstone.tasks import c", "siblings do not know each other"),
        ("tasks/a.py", "from torchstone.systems import Variant", "tasks is below systems"),
        ("systems/x/a.py", "from torchstone import api", "systems is below api"),
        ("systems/x/a.py", "from torchstone import __version__", "systems is below torchstone"),
        ("runs/a.py", "from torchstone.verify import c", "siblings do not know each other"),
        ("runs/a.py", "from torchstone.api import c", "runs is below api"),
        ("verify.py", "from torchstone.cli import main", "verify is below cli"),
        ("api.py", "from torchstone.cli import main", "api is below cli"),
        ("tools/a.py", "from torchstone.cli import main", "siblings do not know each other"),
        ("errors.py", "from torchstone.parts import facts", "errors import nothing of ours"),
        ("systems/x/a.py", "class A: ...\nclass B(A): ...", "subclasses torchstone.systems.x.a.A"),
        (
            "systems/x/a.py",
            "from torchstone.parts.b import Block as nn\nclass B(nn): ...",
            "subclasses torchstone.parts.b.Block",
        ),
        (
            "systems/x/a.py",
            "from torchstone.parts import b\nclass B(b.Block[int]): ...",
            "subclasses torchstone.parts.b.Block",
        ),
    ],
)
def test_7_a_tree_that_breaks_it(file, source, message, tmp_path):
    plant(tmp_path, file, source)
    found = import_rules.wrongs(tmp_path)
    print(found)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("parts/a.py", "import math, torch\nfrom jaxtyping import Float\nfrom . import b"),
        ("data/a.py", "from torchstone.errors import BadInput\nclass B(BadInput): ..."),
        ("plots/a.py", "from torchstone.data import b"),
        ("metrics/a.py", "from torchstone.plots import b\nfrom torchstone.engine import c"),
        ("runs/a.py", "from torchstone.systems import c"),
        ("__init__.py", "from torchstone.api import train"),
        ("systems/x/a.py", "from torch import nn\nclass B(nn.Module): ..."),
        (
            "systems/x/a.py",
            "from torchstone.systems import Variant\nfrom torchstone.tasks import c",
        ),
        (
            "cli/a.py",
            "import argparse\nfrom torchstone import api\nclass P(argparse.ArgumentParser): ...",
        ),
    ],
)
def test_7_a_tree_that_keeps_it(file, source, tmp_path):
    plant(tmp_path, file, source)
    assert import_rules.wrongs(tmp_path) == []


def plant(root, file, source):
    rooms = {name for name in import_rules.RANK if name and not name.startswith("__")} - {"api", "verify"}
    for name in (*rooms, "systems/x"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "__init__.py").touch()
    for empty in ("__init__.py", "api.py", "errors.py", "verify.py"):
        (root / empty).touch()
    (root / "parts" / "b.py").touch()
    (root / file).write_text(source + "\n")


# law 8


@dataclasses.dataclass(frozen=True)
class Bare:
    data: str = "digits"  # where from
    variant: str = "lenet5"  # which
    steps: int = 60
    seed: int = 0  # of all


def without(text: str) -> str:
    assert text in lenet5.__doc__
    return lenet5.__doc__.replace(text, "")


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ({"Recipe": Bare}, {}, r"no comment on \['steps'\]; no field \['device'\]"),
        ({"Recipe": dataclasses.make_dataclass("Thawed", [])}, {}, "no frozen dataclass"),
        ({}, {"variants": (*LENET5.variants, "lenet6")}, "variants .*lenet6"),
        ({}, {"recipes": LENET5.recipes[:-1]}, "recipes .* the file has .*smoke"),
        ({"RECIPES": {"digits": lenet5.Recipe()}}, {}, "no recipe `smoke`"),
        ({"RECIPES": {"smoke": lenet5.Recipe(variant="lenet6")}}, {}, "unknown variant"),
        ({"__doc__": without("Yann LeCun, ")}, {}, "docstring does not name LeCun"),
        ({"__doc__": without("1998").replace("(1998)", "")}, {}, "docstring does not name 1998"),
        ({"__doc__": without("What differs from the paper.")}, {}, "does not say what differs"),
        ({"FACTS": []}, {}, "no FACTS"),
        ({"reference": lambda: iter(())}, {}, r"reference\(\) yields nothing"),
        ({"predict": None}, {}, r"no predict\(\)"),
        ({"__all__": ["build", "predict"]}, {}, "evaluate is not in __all__"),
    ],
)
def test_8_an_entry_that_owes_something(module, line, message, docs, page_of):
    with caught(message):
        catalogue.complete(fake(line=line, **module), docs, page=page_of)


@pytest.fixture
def docs(page_of, tmp_path):
    """A folder with LeNet-5's page as it should be."""
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "lenet5.md").write_text(page_of(LENET5))
    return tmp_path


def test_8_a_page_that_is_stale_or_missing(docs):
    page = docs / "systems" / "lenet5.md"
    page.write_text(page.read_text().replace("61,706", "61,707"))
    with caught("lenet5.md is stale"):
        catalogue.complete(LENET5, docs)
    page.unlink()
    with caught("lenet5.md is missing"):
        catalogue.complete(LENET5, docs)
