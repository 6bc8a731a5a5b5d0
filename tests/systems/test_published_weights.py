"""Published weight files through `ts.create(name, weights=FILE)`."""

import pytest
import torch
from safetensors.torch import save_file

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.parts.optional_imports import import_torchvision
from torchstone.references.vision import import_timm

NAMES = ("resnet18", "mobilenet_v2", "efficientnet_b0", "googlenet")


@pytest.fixture(scope="module")
def theirs():
    """torchvision's networks with random weights and running statistics that are not the initial ones."""
    networks = {}
    for name in NAMES:
        torch.manual_seed(0)
        options = {"init_weights": False} if name == "googlenet" else {}
        networks[name] = model = getattr(import_torchvision().models, name)(**options)
        for key, value in model.state_dict().items():
            if "running" in key:
                value.uniform_(0.5, 1.5)
        model.eval()
    return networks


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_create_with_published_file_equals_torchvision(theirs, name, suffix, tmp_path):
    file, images = tmp_path / f"weights.{suffix}", torch.randn(2, 3, 64, 64)
    state = theirs[name].state_dict()
    if suffix == "pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    ours = ts.create(name, weights=file).eval()
    with torch.no_grad():
        difference = float((ours(images) - theirs[name](images)).abs().max())
    print(f"{name} from .{suffix}: logits {difference:.1e} apart")
    assert difference < 1e-4


def test_create_reads_timm_names_for_mobilenet_v1(tmp_path):
    model = import_timm().create_model("mobilenetv1_100").eval()
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    ours, images = (
        ts.create("mobilenet_v1", weights=tmp_path / "timm.pth").eval(),
        torch.randn(1, 3, 64, 64),
    )
    with torch.no_grad():
        difference = float((ours(images) - model(images)).abs().max())
    print(f"mobilenet_v1 from timm: {difference:.1e} apart")
    assert difference < 1e-4


def test_create_accepts_files_without_num_batches_tracked(theirs, tmp_path):
    """As torch wrote them before 2018."""
    state = {k: v for k, v in theirs["resnet18"].state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    ours = ts.create("resnet18", weights=tmp_path / "old.pth")
    assert torch.equal(ours.layer4[1].bn2.running_var, state["layer4.1.bn2.running_var"])


def test_create_with_other_num_classes_makes_a_new_head_and_notifies(theirs, tmp_path, capsys):
    torch.save(theirs["resnet18"].state_dict(), tmp_path / "r.pth")
    model = ts.create("resnet18", weights=tmp_path / "r.pth", num_classes=7)
    assert model.fc.weight.shape == (7, 512)
    assert torch.equal(model.conv1.weight, theirs["resnet18"].conv1.weight)
    message = capsys.readouterr().err
    assert "1000 classes" in message
    assert "fc.weight" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), "missing: layer1.0.conv1.weight"),
        (lambda s: s.update({"surplus": torch.ones(1)}), "unknown: surplus"),
        (lambda s: s.update({"conv1.weight": torch.ones(64, 1, 7, 7)}), "of another shape: conv1.weight"),
        (lambda s: s.pop("fc.weight"), "missing: fc.weight"),
    ],
)
def test_create_rejects_mismatched_file_with_its_keys(theirs, tmp_path, change, message):
    state = dict(theirs["resnet18"].state_dict())
    change(state)
    torch.save(state, tmp_path / "r.pth")
    with pytest.raises(BadInput, match=message):
        ts.create("resnet18", weights=tmp_path / "r.pth")
    with pytest.raises(BadInput, match="does not fit resnet50"):
        ts.create("resnet50", weights=tmp_path / "r.pth")
