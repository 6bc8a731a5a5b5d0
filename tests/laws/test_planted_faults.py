"""Each law is seen to fail: faults planted in LeNet-5 and its kin, or in a system or a tree made for it."""

import dataclasses
import json
import math
import shutil
from functools import partial
from types import SimpleNamespace

import blocks
import budget
import catalogue
import draws
import durations_law
import import_rules
import laws
import modes
import module_tests
import names
import numpy as np
import parity
import pytest
import seeds
import smoke_runs
import sources
import subprocess_entry
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from torchstone import api, systems
from torchstone.data.vision.batches import ImageBatches
from torchstone.engine import rng
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, Run
from torchstone.parts.facts import Fact, count_parameters
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.target_network import make_target
from torchstone.parts.seeding import derive_seed
from torchstone.runs import folder
from torchstone.systems.convolutional import lenet5
from torchstone.systems.fundamentals import backprop, perceptron
from torchstone.systems.transformer import t5

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
        return lambda *shape: torch.rand(self.batch_size, *shape, generator=generator)

    monkeypatch.setattr(ImageBatches, "_draw", draw)
    with caught("seed 3 twice, and step 1 differs"):
        laws.same_seed_same_losses(smoke_with(steps=4))
    entry = smoke_with(steps=4)
    with caught("seed 0 twice, and step 1 differs"):
        laws.same_seed_same_losses(entry, laws.observe(entry))


def test_1_weights_drawn_before_the_seed(monkeypatch):
    monkeypatch.setattr(rng, "seed", lambda number: None)
    with caught("seed 3 twice, and step 1 differs"):
        laws.same_seed_same_losses(smoke_with(steps=4))


def test_1_a_seed_without_effect():
    def build(recipe):
        return lenet5.build(dataclasses.replace(recipe, seed=0))

    with caught("seeds 3 and 4 give the same"):
        laws.same_seed_same_losses(fake(build=build))


def test_1_a_metric_that_keeps_its_graph():
    def build(recipe):
        for run in lenet5.build(recipe):
            parameter = next(run.state["model"].parameters())
            inner = run.update
            run.update = lambda batch, inner=inner, p=parameter: {**inner(batch), "norm": p.square().sum()}
            yield run

    with caught(r"the metrics \['norm'\] of an update hold its graph"):
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
    plain = ImageBatches.__next__

    def following(self):
        images, labels = plain(self)
        return images, labels.roll(1)

    monkeypatch.setattr(ImageBatches, "__next__", following)
    with caught("short of the margin"):
        laws.learns(smoke_with(steps=20))


def test_3_a_margin_that_a_system_states():
    record = smoke_runs.observe(LENET5)
    laws.learns(fake(MARGIN=("loss", -1.0)), record)
    with caught("loss .* short of the margin -9"):
        laws.learns(fake(MARGIN=("loss", -9.0)), record)


# law 4


def test_4_a_count_off_by_one():
    fact = Fact("parameters", lambda: count_parameters(lenet5.LeNet5()), 61_707)
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
        pytest.param(
            *("another_path_when_compiled", "AssertionError: lenet5: compiled differs from eager in"),
            marks=pytest.mark.sweep,
        ),
    ],
)
def test_5_what_compilation_breaks(fault, message):
    done = laws.run_child("compiled", fault, "eager", "lenet5", forked=False)
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
    plain = perceptron.with_bias_input

    def with_bias_input(x):
        rows = plain(x)
        rows[:, -1] = 0
        return rows

    monkeypatch.setattr(perceptron, "with_bias_input", with_bias_input)
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
        ("systems/x/a.py", "from torchstone.systems import Variant\nfrom torchstone.tasks import c"),
        ("cli/a.py", "import argparse\nfrom torchstone import api\nclass P(argparse.ArgumentParser): ..."),
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


# laws 9 and 10, planted in a system that is made for them


@dataclasses.dataclass(frozen=True)
class ToyRecipe:
    data: str = "toy"
    steps: int = 2
    seed: int = 0
    device: str = "cpu"


class ToyStream:
    """Batches of rows and noise, each drawn by a generator of its own."""

    def __init__(self, seed, noise_seed):
        self.seeds, self.position = (seed, noise_seed), 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        rows, noise = (derive_seed(seed, i, self.position) for i, seed in enumerate(self.seeds))
        rows = torch.rand(4, 3, generator=torch.Generator().manual_seed(rows))
        # both in one tensor: that it differs does not show that each part of it does
        return rows + torch.rand(4, 3, generator=torch.Generator().manual_seed(noise))


class ToyDropout(nn.Module):
    """Dropout whose mode may be one of its own, whatever that of the module."""

    def __init__(self, mode=None):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training if self.mode is None else self.mode)


def toy(fault=""):
    """An entry whose training, evaluation and sampling hold the fault, if any."""

    def build(recipe):
        rng.seed(recipe.seed)
        mode = {"dropout that is never on": False, "dropout that is always on": True}.get(fault)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), ToyDropout(mode), nn.Linear(4, 1))
        if fault == "parameter of a fixed generator":
            nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(7))
        elif fault == "parameter that nobody seeded":
            generator = torch.Generator()
            generator.seed()
            nn.init.normal_(model[0].weight, generator=generator)
        target = make_target(model)
        if fault == "target with a graph":
            target.requires_grad_(True)
        stream = ToyStream(recipe.seed, 7 if fault == "noise of a fixed seed" else recipe.seed)
        if fault == "stream that grows a graph":
            stream = (model(rows).detach().expand(4, 3) for rows in ToyStream(7, 7))
        if fault == "stream of a fixed seed":
            stream = ToyStream(7, 7)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def update(batch):
            optimizer.zero_grad()
            loss = (model(batch) - target(batch).detach()).square().mean()
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        yield Run(
            stream=stream,
            update=update,
            evaluate=lambda: {"loss": float(looked_at(model).sum())},
            state={"model": model, "target": target, "optimizer": optimizer},
            steps=recipe.steps,
            metadata={"task": "toy"},
        )

    @torch.set_grad_enabled(fault == "evaluation that grows a graph")
    def looked_at(model):
        rows = torch.ones(4, 3)
        if fault == "evaluation in training mode":
            found = model(rows)
        elif fault == "evaluation mode that stays":
            found = model.eval()(rows)
        elif fault == "training mode for all":
            found = model.eval()(rows)
            model.train()
        else:
            with eval_mode(model):
                found = model(rows)
        if fault == "a weight that is changed":
            model[0].bias += 1e-6
        elif fault == "a buffer that is changed":
            model[1].num_batches_tracked += 1
        elif fault == "weights that are trained again":
            model.requires_grad_(True)
        return found

    def sample(model, metadata, *, num_samples=1, seed=0):
        if fault == "sampling of a fixed seed":
            seed = 0
        generator = torch.Generator().manual_seed(seed)
        if fault == "sampling that nobody seeded":
            generator.seed()
        with eval_mode(model), torch.no_grad():
            return list(model(torch.rand(num_samples, 3, generator=generator)))

    def play(model, metadata, *, episodes=1, seed=0):
        return [
            float(np.random.default_rng(0 if fault == "play of a fixed seed" else seed).random())
        ] * episodes

    held = SimpleNamespace(build=build, sample=sample, play=play, RECIPES={"smoke": ToyRecipe()})
    return SimpleNamespace(name="toy", chapter="fundamentals", module=lambda: held)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("evaluation in training mode", r"evaluate: in training mode: model, model\.0"),
        ("evaluation mode that stays", r"evaluate: model\.training was True and is False"),
        ("training mode for all", r"evaluate: model\.3\.training was False and is True"),
        ("a weight that is changed", r"evaluate: model\.0\.bias is another afterwards"),
        ("a buffer that is changed", r"evaluate: model\.1\.num_batches_tracked is another afterwards"),
        ("weights that are trained again", r"evaluate: model\.3\.bias\.requires_grad was False and is True"),
        ("evaluation that grows a graph", r"evaluate: grows a graph: model, model\.0"),
        ("stream that grows a graph", r"stream: grows a graph: model, model\.0"),
        ("dropout that is never on", "update: dropout of ToyDropout is in evaluation mode"),
        ("dropout that is always on", "evaluate: dropout of ToyDropout is in training mode"),
        ("target with a graph", "update: target grows a graph, and nothing trains it"),
    ],
)
def test_9_modes_that_are_not_put_back(fault, message, tmp_path):
    with caught(message):
        modes.put_back(toy(fault), ToyRecipe(), tmp_path)


def test_10_evaluation_that_nobody_seeded():
    def build(recipe):
        for run in lenet5.build(recipe):
            inner = run.evaluate
            run.evaluate = lambda inner=inner: {**inner(), "noise": float(torch.rand(()))}
            yield run

    with caught("lenet5: evaluated twice, noise is .* and then"):
        seeds.evaluation_repeats(fake(smoke_with(steps=2), build=build))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("parameter of a fixed generator", r"model\.0\.weight is the same with another seed"),
        ("parameter that nobody seeded", r"model\.0\.weight differs with the same seed"),
        ("stream of a fixed seed", "batch is the same with another seed"),
        ("noise of a fixed seed", r"__next__ seeds with \d+ whatever the seed"),
        ("sampling of a fixed seed", "sample is the same with another seed"),
        ("sampling that nobody seeded", "sample differs with the same seed"),
        ("play of a fixed seed", "play is the same with another seed"),
    ],
)
def test_10_a_seed_that_is_ignored(fault, message):
    with caught(message):
        seeds.obeyed(toy(fault), ToyRecipe())


def test_9_and_10_hold_without_a_fault(tmp_path):
    modes.put_back(toy(), ToyRecipe(), tmp_path, whole=True)
    seeds.obeyed(toy(), ToyRecipe())


def test_10_an_augmentation_of_a_fixed_seed(monkeypatch):
    """What it draws is in the same tensor as images in another order."""
    draw = ImageBatches._draw
    monkeypatch.setattr(
        ImageBatches, "_draw", lambda self, generator, rows: draw(self, generator.manual_seed(7), rows)
    )
    with caught("seeds with 7 whatever the seed"):
        seeds.obeyed(LENET5, lenet5.RECIPES["smoke"])


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("def f(generator):\n    return torch.rand(3)", "torch.rand"),
        ("def f(x, generator):\n    return x.normal_()", "x.normal_"),
        ("import numpy as np\nx = np.random.permutation(3)", "np.random.permutation"),
        ("import random\nx = random.choice('ab')", "random.choice"),
    ],
)
def test_10_a_draw_from_a_global_generator(source, function, tmp_path, monkeypatch):
    monkeypatch.setattr(draws, "GLOBAL", set())
    plant(tmp_path, "data/a.py", source)
    assert draws.wrongs(tmp_path) == [f"data/a.py:2 {function} draws from a global generator"]


@pytest.mark.parametrize(
    "source",
    [
        "def f(generator):\n    return torch.rand(3, generator=generator)",
        "nn.init.normal_(weight)",
        "import numpy as np\nrandom = np.random.RandomState(3)\nx = random.rand()",
        "import random\nx = random.Random(3).random()",
    ],
)
def test_10_a_draw_of_a_named_generator(source, tmp_path, monkeypatch):
    monkeypatch.setattr(draws, "GLOBAL", set())
    plant(tmp_path, "data/a.py", source)
    assert draws.wrongs(tmp_path) == []


def test_10_an_exemption_without_use(tmp_path, monkeypatch):
    monkeypatch.setattr(draws, "GLOBAL", {("data/a.py", "torch.rand")})
    plant(tmp_path, "data/a.py", "x = 1")
    assert draws.wrongs(tmp_path) == ["data/a.py: torch.rand is exempt and does not occur"]


# law 11


def story(root, source, chapter="fundamentals", parts=0):
    """An entry of a system in a tree with so many modules that it alone imports."""
    folder = root / "systems" / chapter
    folder.mkdir(parents=True, exist_ok=True)
    (root / "parts").mkdir(exist_ok=True)
    for i in range(parts):
        (root / "parts" / f"p{i}.py").touch()
    imports = "".join(f"from {root.name}.parts import p{i}\n" for i in range(parts))
    (folder / "a.py").write_text(imports + source)
    held = SimpleNamespace(__file__=str(folder / "a.py"))
    return SimpleNamespace(name="a", chapter=chapter, module=lambda: held)


NETWORK = "class Net:\n    def forward(self): ...\n"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("def loss(): ...\n", {}, "it defines no network"),
        (NETWORK, {}, "it defines no `loss` or `objective`"),
        (NETWORK + "def loss(): ...\n", {"chapter": "generative"}, "it defines no sampling step"),
        ("STORY = ('loss', 'p_sample')\ndef loss(): ...\n", {}, r"STORY names \['p_sample'\]"),
        (NETWORK + "def loss(): ...\n", {"parts": 7}, "7 modules are its alone, more than 6"),
    ],
)
def test_11_a_story_told_elsewhere(source, options, message, tmp_path):
    with caught(message):
        sources.tells_its_story(story(tmp_path / "ours", source, **options))


def test_11_a_story_in_its_file(tmp_path):
    sources.tells_its_story(story(tmp_path / "one", NETWORK + "def objective(): ...\n", parts=6))
    sources.tells_its_story(story(tmp_path / "two", NETWORK + "train(loss=cross_entropy)\n"))
    sources.tells_its_story(story(tmp_path / "three", "STORY = ('step',)\ndef step(): ...\n"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"x = '{'a' * 120}'", "126 columns, more than 110"),
        ("# fmt: off\nx = 1", "fmt: off"),
        ("def f(a, b): return a  # fmt: skip", "fmt: skip, and it is no table"),
        (f"def f({', '.join(f'a{i}' for i in range(13))}): ...", "f has 13 parameters, more than 12"),
        (
            f"class A:\n    def __init__(self, *, {', '.join(f'a{i}' for i in range(13))}): ...",
            "__init__ has 13",
        ),
    ],
)
def test_11_lines_that_cannot_be_read(source, message, tmp_path):
    (tmp_path / "a.py").write_text(source + "\n")
    (wrong,) = sources.wrongs(tmp_path)
    assert message in wrong


def test_11_a_table_keeps_its_form(tmp_path):
    (tmp_path / "a.py").write_text("TABLE = (\n    (1, 2, 3), (4, 5, 6),\n)  # fmt: skip\n")
    assert sources.wrongs(tmp_path) == []


# law 12


@pytest.mark.parametrize(
    "source",
    [
        "drawn = 1",
        "def f(told): ...",
        "x.places",
        "def judged(): ...",
        "class Made: ...",
        "f(how=1)",
        "from a import b as seen",
        "for kept in x: ...",
        "(waves := 1)",
        "lambda said: 1",
        "def f():\n    global apart",
        "match x:\n    case [*beside]: ...",
    ],
)
def test_12_a_word_of_the_dialect(source, tmp_path):
    (tmp_path / "a.py").write_text(source + "\n")
    assert names.wrongs(tmp_path), source


def test_12_strings_and_longer_names_may(tmp_path):
    (tmp_path / "a.py").write_text("'as drawn'\nredrawn = place_of = 1\n")
    assert names.wrongs(tmp_path) == []


# law 13


@pytest.fixture
def tested(tmp_path):
    """A source tree with a module that has a test file, and one that another file tests."""
    source, tests = tmp_path / "ours", tmp_path / "tests"
    for room in (source / "parts", tests / "parts"):
        room.mkdir(parents=True)
    for name in ("a", "b"):
        (source / "parts" / f"{name}.py").write_text("def f(): ...\n")
    (tests / "parts" / "test_a.py").write_text("from ours.parts import a, b\n")
    return source, tests


def test_13_modules_and_their_tests(tested):
    table = {"parts/b": "parts/test_a.py"}
    assert module_tests.wrongs(*tested, table) == []
    source, tests = tested
    (source / "parts" / "c.py").write_text("class C: ...\n")
    assert module_tests.wrongs(*tested, table) == [
        "parts/c has no parts/test_c.py and stands not in tested_by.json"
    ]
    (source / "parts" / "c.py").write_text("NAMES = 1\n")  # nothing to test
    (tests / "parts" / "test_a.py").write_text("from ours.parts import a\n")
    assert module_tests.wrongs(*tested, table) == ["tested_by.json: parts/test_a.py does not import parts/b"]
    (wrong,) = module_tests.wrongs(*tested, {"parts/b": "parts/test_x.py"})
    assert "test_x.py, which does not exist" in wrong
    (tests / "parts" / "test_b.py").touch()
    (wrong,) = module_tests.wrongs(*tested, table)
    assert "parts/b is no module without a test file" in wrong


# law 14


def test_14_a_test_that_takes_long(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").touch()
    table = {"slowest": {"tests/test_a.py::test_x": 20.0}}
    assert durations_law.wrongs(table, tmp_path / "tests") == []
    table["slowest"] |= {"tests/test_a.py::test_y": 20.1, "tests/test_b.py::test_z": 1.0}
    slow, gone = durations_law.wrongs(table, tmp_path / "tests")
    assert "test_y takes 20.1 s" in slow
    assert "lists tests/test_b.py" in gone


# what make test leaves to make test-all


def test_cover_leaves_out_what_smaller_ones_have():
    elements = {"a": {1, 2}, "b": {2}, "c": {1, 2, 3}, "d": {3}}
    assert blocks.cover(elements, elements.__getitem__, "bacd".index) == ["b", "a", "c"]


def test_blocks_differ_where_the_computation_does():
    def net(stride=1, groups=1, width=4):
        return nn.Sequential(nn.Conv2d(4, width, 3, stride, groups=groups), nn.ReLU())

    assert blocks.blocks(net()) == blocks.blocks(net(width=8))
    assert blocks.blocks(net()) != blocks.blocks(net(stride=2))
    assert blocks.blocks(net()) != blocks.blocks(net(groups=4))


def test_4_large_cases_of_the_same_blocks_are_left_to_the_sweep(monkeypatch):
    done = []

    def case(width):
        done.append(width)
        model = nn.Sequential(nn.Linear(width, width))
        return model, Altered(model, torch.neg), torch.randn(2, width)

    def reference():
        yield from (partial(case, width) for width in (600, 800))

    module = SimpleNamespace(reference=reference)
    swept = parity.left_to_sweep(module)
    assert swept == parity.Swept(2, [1])
    done.clear()
    assert [each().inputs.shape for each in parity.chosen(module, swept)] == [(2, 600)]
    print(done)
    assert done == [600], "what is left out is not made"
    with caught(r"output: 2[.]0, not 0[.]0"):
        laws.verified(fake(FACTS=[], reference=reference))
    with caught("is of 3 cases, the reference has 2"):
        list(parity.chosen(module, parity.Swept(3, [1])))


# law 16


def test_16_evaluation_whatever_it_costs(monkeypatch):
    entry, recipe = systems.find("t5")[0], t5.RECIPES["smoke"]
    budget.kept(entry, recipe)
    monkeypatch.setattr(budget, "Intervals", partial(Intervals, evaluation_share=math.inf))
    with caught(r"t5/smoke: evaluation takes 1\d\d% of the work"):
        budget.kept(entry, recipe)


def test_16_a_run_that_does_not_say_what_an_evaluation_costs():
    with caught("toy/smoke does not say what an evaluation costs"):
        budget.kept(toy(), ToyRecipe())
