"""Transfer learning: what trains, what stays frozen, what is saved."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from shared_cache import made_once
from torch import nn

import torchstone as ts
from torchstone.cli import main
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.engine import checkpoint
from torchstone.errors import BadInput
from torchstone.parts.optional_imports import import_torchvision
from torchstone.runs.recipes import recipe_of
from torchstone.tasks import transfer

HEAD = ("fc.weight", "fc.bias")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits in two folders: 0 to 4, and 5 to 9."""
    from sklearn.datasets import load_digits

    bunch, root = load_digits(), tmp_path_factory.mktemp("digits")
    for name, classes, most in (("low", range(5), 150), ("high", range(5, 10), 120)):
        for c in classes:
            folder = root / name / f"digit{c}"
            folder.mkdir(parents=True)
            for i, image in enumerate(bunch.images[bunch.target == c][:most]):
                Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def source(digits, session_folder):
    """A run on the digits 0 to 4."""

    def train(folder):
        ts.train("resnet/smoke", data=str(digits / "low"), steps=120, out=folder / "run", quiet=True)

    return made_once(session_folder / "transfer-source", train) / "run"


def tensors(folder, prefix="model"):
    """The best weights, as another training begins with them."""
    found = checkpoint.find(folder / "checkpoint")[0]
    best = {
        name.removeprefix(f"{prefix}."): value
        for name, value in checkpoint.best_tensors(found).items()
        if name.startswith(f"{prefix}.")
    }
    return best or checkpoint.tensors(found, prefix)


def moved(before, after):
    return {key for key in before if not torch.equal(before[key], after[key])}


def accuracy(folder):
    return json.loads((folder / "result.json").read_text())["metrics"]["test/accuracy"]


@pytest.mark.sweep
def test_freeze_backbone_bit_exact_and_faster_than_scratch(digits, source, tmp_path):
    options = {"data": str(digits / "high"), "steps": 10, "quiet": True, "lr": 0.1}
    ts.train("resnet/smoke", out=tmp_path / "scratch", **options)
    options |= {"weights": str(source), "freeze": "backbone"}
    ts.train("resnet/smoke", out=tmp_path / "head", **options)
    changed = moved(tensors(source), tensors(tmp_path / "head"))
    print("changed:", sorted(changed))
    assert changed == set(HEAD)
    head, scratch = accuracy(tmp_path / "head"), accuracy(tmp_path / "scratch")
    print(f"accuracy after 10 steps: head alone {head:.3f}, from scratch {scratch:.3f}")
    assert head > scratch + 0.1


@pytest.mark.sweep
def test_freeze_backbone_with_ema(digits, source, tmp_path):
    ts.train(
        "resnet/smoke",
        **{"data": str(digits / "high"), "steps": 6, "quiet": True, "out": tmp_path / "run"},
        **{"weights": str(source), "freeze": "backbone", "ema_decay": 0.9, "augment": "flip+mixup"},
    )
    assert moved(tensors(source), tensors(tmp_path / "run", "ema.module")) == set(HEAD)


@pytest.mark.sweep
def test_initialize_from_without_freezing_trains_everything(digits, source, tmp_path):
    options = {"data": str(digits / "high"), "quiet": True, "out": tmp_path / "run"}
    ts.train("resnet/smoke", weights=str(source), steps=1, lr=1e-2, **options)
    before, after = tensors(source), tensors(tmp_path / "run")
    assert not [k for k in before if not k.startswith("fc.") and k not in moved(before, after)]
    weights = [k for k in before if k.endswith("conv1.weight")]
    apart = max((before[k] - after[k]).abs().max().item() for k in weights)
    print("a step away from the source:", apart)
    fresh = (before["fc.weight"] - after["fc.weight"]).abs().max().item()
    print("the head, for other classes, is new:", fresh)
    assert fresh > 0.1
    assert apart < 0.05  # where from scratch it would be 1


def test_new_head_starts_at_zero_logits(digits, source, tmp_path):
    options = {"data": str(digits / "high"), "steps": 1, "quiet": True, "intervals": {"evaluate": 1}}
    ts.train("resnet/smoke", weights=str(source), out=tmp_path / "run", **options)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    first = next(row["loss"] for row in rows if row["split"] == "val")
    print(f"loss of the untouched network {first:.6f}, ln 5 = {math.log(5):.6f}")
    assert first == pytest.approx(math.log(5), abs=1e-6)


@pytest.mark.sweep
def test_initialize_from_uses_source_normalization(digits, source, tmp_path):
    def metadata(folder):
        return checkpoint.find(folder / "checkpoint")[1]["metadata"]["picture"]

    options = {"data": str(digits / "high"), "steps": 1, "quiet": True}
    ts.train("resnet/smoke", out=tmp_path / "own", **options)
    ts.train("resnet/smoke", weights=str(source), out=tmp_path / "run", **options)
    for key in ("mean", "std"):
        assert metadata(tmp_path / "run")[key] == metadata(source)[key] != metadata(tmp_path / "own")[key]


@pytest.mark.sweep
def test_resume_without_source_is_bit_exact(digits, source, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    options = {"data": str(digits / "high"), "steps": 12, "quiet": True, "freeze": "backbone"}
    options |= {"weights": str(gone), "augment": "flip+crop1+cutmix", "intervals": {"save": 5}}
    ts.train("resnet/smoke", out=tmp_path / "whole", **options)

    from torchstone.data.vision.batches import ImageBatches

    step, count = ImageBatches.__next__, [0]

    def stops(self):
        count[0] += 1
        if count[0] == 8:
            raise RuntimeError("pulled the plug")
        return step(self)

    monkeypatch.setattr(ImageBatches, "__next__", stops)
    with pytest.raises(RuntimeError, match="plug"):
        ts.train("resnet/smoke", out=tmp_path / "cut", **options)
    monkeypatch.undo()
    assert checkpoint.find(tmp_path / "cut" / "checkpoint")[1]["step"] == 5
    shutil.rmtree(gone)
    ts.resume(tmp_path / "cut", quiet=True)
    assert not moved(tensors(tmp_path / "whole"), tensors(tmp_path / "cut"))
    print("resumed at 5 of 12; keys compared:", len(tensors(tmp_path / "cut")))
    model = ts.load(tmp_path / "cut")  # nor does loading
    assert not moved(tensors(tmp_path / "whole"), model.state_dict())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, numbers = tmp_path_factory.mktemp("data") / "photos", np.random.RandomState(0)
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40))):
        (root / name).mkdir(parents=True)
        for i in range(10):
            noise = numbers.normal(colour, 40, (60, 80, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / name / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """torchvision's network with random weights, its running statistics those of some pictures."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    theirs = import_torchvision().models.resnet18()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # a plain mean
    with torch.no_grad():
        theirs(torch.randn(16, 3, 1, 1) + 0.5 * torch.randn(16, 3, 96, 96))
    torch.save(theirs.state_dict(), path)
    return path


def test_train_command_from_published_weights(photos, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "photos")
    typed = f"train resnet18 --weights {file} --freeze backbone --data ./photos --steps 8 --batch-size 8"
    assert main.main(typed.split()) == 0
    said = capsys.readouterr()
    run = tmp_path / "runs" / "resnet-transfer"
    fields = json.loads((run / "recipe.json").read_text())["fields"]
    metadata = checkpoint.find(run / "checkpoint")[1]["metadata"]
    assert fields["variant"] == metadata["variant"] == "resnet18"
    assert (fields["size"], fields["channels"]) == (224, 3)
    assert metadata["picture"]["mean"] == [0.485, 0.456, 0.406]
    assert metadata["picture"]["std"] == [0.229, 0.224, 0.225]
    assert "1000 classes" in said.err
    published = torch.load(file)
    changed = moved({k: v for k, v in published.items() if not k.startswith("fc.")}, tensors(run))
    assert not changed
    print("accuracy:", accuracy(run))
    assert accuracy(run) == 1.0  # two colours
    assert main.main(["predict", str(run), str(photos / "red" / "0.jpg")]) == 0
    assert "red" in capsys.readouterr().out


@pytest.mark.sweep
def test_published_weights_state_their_normalization(photos, tmp_path, capsys):
    """timm's MobileNet V1 wants 0.5 and 0.5, and a folder's own statement goes first."""
    import json

    from torchstone.references.vision import import_timm

    network = import_timm().create_model("mobilenetv1_100")
    options = {"weights": str(tmp_path / "model.pth"), "data": str(photos), "steps": 1, "batch_size": 4}
    torch.save(network.state_dict(), options["weights"])
    run = ts.train("mobilenet_v1", size=32, out=tmp_path / "a", quiet=True, **options)
    assert run.metadata["picture"]["mean"] == run.metadata["picture"]["std"] == [0.5] * 3
    own = {"architecture": "mobilenetv1_100", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    run = ts.train("mobilenet_v1", size=32, out=tmp_path / "b", quiet=True, **options)
    assert run.metadata["picture"]["mean"] == [0.1] * 3
    assert "mean 0.1, 0.1, 0.1" in capsys.readouterr().err


def test_recipe_for_weights_respects_explicit_fields(file, source):
    from torchstone.api import recipe_of

    _, name, recipe = recipe_of("resnet18", {"weights": str(file), "size": 64, "lr": 0.5})
    assert (name, recipe.size, recipe.optim.lr, recipe.channels) == ("transfer", 64, 0.5, 3)
    _, name, recipe = recipe_of("resnet/smoke", {"weights": str(source)})
    assert (name, recipe.size, recipe.variant) == ("smoke", 8, "resnet20_cifar")
    _, name, recipe = recipe_of("resnet", {"weights": str(source)})  # that run's own
    assert (name, recipe.size, recipe.steps) == ("transfer", 8, 120)
    _, _, recipe = recipe_of("efficientnet_b2", {"weights": str(file)})
    assert (recipe.size, recipe.width, recipe.depth, recipe.output_stride) == (260, 1.1, 1.2, 32)
    _, _, recipe = recipe_of("vgg16", {"weights": str(file), "freeze": "backbone"})
    assert (recipe.size, recipe.hidden, recipe.optim.lr) == (224, 4096, 3e-3)
    assert recipe_of("resnet", {})[1] == "mnist5k"


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("resnet", {"freeze": "backbone"}, "say which with --weights"),
        ("resnet18", {"weights": "RUN"}, "holds a resnet20_cifar, not a resnet18"),
        ("resnet18", {"weights": "nowhere.pth"}, "no weights file at nowhere.pth"),
        ("resnet18", {"weights": "EMPTY"}, "is not a run folder"),
        ("resnet34", {"weights": "FILE"}, "does not fit resnet34; missing: layer1.2.conv1.weight"),
        ("resnet/transfer", {}, "no recipe 'transfer'"),
        ("resnet18", {"weights": "FILE", "channels": 1}, "of another shape: conv1.weight"),
    ],
)
def test_transfer_error_messages(name, fields, said, digits, source, file, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"RUN": source, "FILE": file, "EMPTY": tmp_path / "empty"}
    if "weights" in fields:
        fields = fields | {"weights": str(places.get(fields["weights"], fields["weights"]))}
    options = {"data": str(digits / "high"), "steps": 1, "quiet": True, "out": tmp_path / "run"}
    with pytest.raises(BadInput, match=said) as caught:
        ts.train(name, **options, **({"size": 32} if name == "resnet18" else {}), **fields)
    print(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        "mobilenet",
        *(pytest.param(name, marks=pytest.mark.sweep) for name in ("googlenet", "efficientnet", "cbam")),
    ],
)
def test_freeze_backbone_of_each_system(name, digits, tmp_path):
    """Two steps each: those with auxiliary classifiers, dropped branches and mixed labels too."""
    options = {"quiet": True, "steps": 2, "augment": "flip+mixup+cutmix", "batch_size": 8}
    ts.train(f"{name}/smoke", data=str(digits / "low"), out=tmp_path / "a", **options)
    options |= {"weights": str(tmp_path / "a"), "freeze": "backbone"}
    ts.train(f"{name}/smoke", data=str(digits / "high"), out=tmp_path / "b", **options)
    changed = moved(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    print(name, sorted(changed))
    assert changed
    from torchstone import systems

    assert all(key.startswith(systems.find(name)[0].module().HEAD) for key in changed)


def test_freeze_rejects_lenet5_paper_without_head(digits, tmp_path):
    options = {"quiet": True, "steps": 2, "augment": "mixup", "variant": "lenet5_paper"}
    options |= {"data": str(digits / "low")}
    ts.train("lenet5/smoke", out=tmp_path / "a", **options)
    options |= {"weights": str(tmp_path / "a"), "freeze": "backbone"}
    with pytest.raises(BadInput, match="no head"):
        ts.train("lenet5/smoke", out=tmp_path / "b", **options)


def test_freeze_preserves_eval_mode_in_copies():
    from copy import deepcopy

    model = torch.nn.Sequential()
    model.body = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Dropout(0.5))
    model.fc = torch.nn.Linear(1, 1)
    transfer.freeze(model, ("fc.",))
    copy = deepcopy(model)
    for each in (model, copy):
        each.train()
        assert [m.training for m in (each, each.body[0], each.body[1], each.fc)] == [
            *(True, False, True, True)
        ]
        assert each.body[0].train().training is False
        assert each.body[0].train() is each.body[0]


def test_freeze_backbone_trains_all_of_a_head_that_the_file_lacks(tmp_path):
    """A head of several layers, as VGG's: frozen at random they would let nothing through."""
    network = nn.Module()
    network.features = nn.Conv2d(1, 2, 1)
    network.classifier = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    stored = {
        f"features.{name}": torch.ones_like(each) for name, each in network.features.state_dict().items()
    }
    save_file(stored, tmp_path / "a.safetensors")
    split = ImageSplit(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    metadata = {"channels": 1, "mean": [0.5], "std": [0.5]}
    data = ImageDataset("a", ("a", "b", "c"), split, split, split, metadata, "a")
    recipe = SimpleNamespace(weights=str(tmp_path / "a.safetensors"), freeze="backbone", variant="a")
    transfer.initialize_from(network, recipe, data, head=("classifier.2.",))
    trained = {name for name, each in network.named_parameters() if each.requires_grad}
    print(trained)
    assert trained == {f"classifier.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}
    assert bool((network.features.weight == 1).all())
    assert not network.classifier[2].weight.any()  # no class is preferred at first
    assert network.classifier[0].weight.any()


def test_recipe_for_a_folder_of_weights_is_that_of_a_file(tmp_path):
    """A folder of published weights is no run, whose recipe would be taken; one with neither is refused."""
    save_file({"c1.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    found = [recipe_of("lenet5", {"weights": str(w)}) for w in (tmp_path, tmp_path / "model.safetensors")]
    assert [name for _, name, _ in found] == ["transfer", "transfer"]
    assert found[0][2].optim == found[1][2].optim
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="is not a run folder"):
        recipe_of("lenet5", {"weights": str(tmp_path)})
