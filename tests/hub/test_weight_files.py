"""Weight files: wrappers and prefixes, what they say of their network, and files that are none."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchstone.errors import BadInput
from torchstone.hub.weight_files import read_weights
from torchstone.runs.load import create
from torchstone.systems import find
from torchstone.systems.convolutional import efficientnet, mobilenet, resnet

STATE = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(2)}


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in STATE.items()}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(2, 1)


FORMS = {
    "plain": STATE,
    "state_dict": {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    "nested": {"model": {"state_dict": STATE}, "args": "x"},
    "a name of their own": {"generator": STATE, "step": 3},
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "compiled and parallel": prefixed("module._orig_mod."),
    "inside a training module": {"state_dict": prefixed("model.module."), "pytorch-lightning_version": "2"},
    "a compiled layer": {name.replace("conv.", "conv._orig_mod."): each for name, each in STATE.items()},
    "averaged": AveragedModel(Net()).state_dict(),
}


@pytest.mark.parametrize("form", FORMS)
def test_read_weights_takes_off_wrappers_and_prefixes(form, tmp_path):
    torch.save(FORMS[form], tmp_path / "a.pth")
    names = list(read_weights(tmp_path / "a.pth").tensors)
    if all(isinstance(each, torch.Tensor) for each in FORMS[form].values()):
        save_file({k: v.contiguous() for k, v in FORMS[form].items()}, tmp_path / "a.safetensors")
        assert sorted(read_weights(tmp_path / "a.safetensors").tensors) == sorted(names)
    print(form, names)
    assert names == list(STATE)


def test_read_weights_messages(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:20])
    torch.save({"epoch": 3}, tmp_path / "no.pth")
    torch.save({"a": STATE, "b": STATE}, tmp_path / "two.pth")
    torch.save(Net(), tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("text")
    for name, said in {
        "none.pth": "no weights file",
        "cut.safetensors": "not a whole safetensors",
        "no.pth": "not a state dict",
        "two.pth": "not a state dict",
        "code.pth": "holds code and was refused unread",
        "text.pth": "refused unread|cannot be read",
    }.items():
        with pytest.raises(BadInput, match=said) as caught:
            read_weights(tmp_path / name)
        print(caught.value)


def test_prefixes_are_taken_off_for_every_system(tmp_path):
    """One place for all: those whose own `published` never knew a prefix, too."""
    for name in ("lenet5", "vit_mnist", "gpt", "mobilenet_v1_025"):
        entry, variant = find(name)
        model = entry.module().VARIANTS[variant].make()
        state = {f"_orig_mod.module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"model": state}, tmp_path / "wrapped.pth")
        loaded = create(variant, weights=tmp_path / "wrapped.pth").state_dict()
        print(name, len(loaded))
        assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def timm_lite0(tmp_path, name, **config):
    """A file with the names that both of timm's Lite0 have."""
    from torchstone.references.vision import import_timm

    state = import_timm().create_model("efficientnet_lite0").state_dict()
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    torch.save(state, file)
    if config:
        (file.parent / "config.json").write_text(json.dumps(config))
    return file


def test_lite0_of_timm_is_told_from_its_namesake(tmp_path):
    refused = {
        "efficientnet_lite0_ra-37913777.pth": "pads symmetrically",
        "best.pth": "does not say of which",
    }
    for name, said in refused.items():
        with pytest.raises(BadInput, match=said) as caught:
            create("efficientnet_lite0", weights=timm_lite0(tmp_path, name))
        print(caught.value)
    file = timm_lite0(tmp_path, "a/model.safetensors.pth", architecture="efficientnet_lite0")
    with pytest.raises(BadInput, match="pads symmetrically"):
        create("efficientnet_lite0", weights=file)
    create("efficientnet_lite0", weights=timm_lite0(tmp_path, "tf_efficientnet_lite0-0aa007d2.pth"))
    create(
        "efficientnet_lite0",
        weights=timm_lite0(tmp_path, "b/pytorch_model.bin", architecture="tf_efficientnet_lite0"),
    )


def test_file_statistics_of_each_family(tmp_path):
    """Mean and standard deviation as timm's and torchvision's own preprocessing has them."""
    half, imagenet = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
    save_file(
        {"conv_stem.weight": torch.ones(1)}, tmp_path / "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors"
    )
    save_file({"features.0.0.weight": torch.ones(1)}, tmp_path / "mobilenet_v2-b0353104.safetensors")
    save_file({"conv_stem.weight": torch.ones(1)}, tmp_path / "tf_efficientnet_lite0.in1k.safetensors")
    save_file({"features.0.0.weight": torch.ones(1)}, tmp_path / "efficientnet_b0_rwightman.safetensors")
    save_file({"conv1.weight": torch.ones(1)}, tmp_path / "resnet34.ra4_e3600_r224_in1k.safetensors")
    save_file({"conv1.weight": torch.ones(1)}, tmp_path / "resnet34-b627a593.safetensors")
    wanted = {
        "mobilenetv1_100": (mobilenet, "mobilenet_v1", half),
        "mobilenet_v2": (mobilenet, "mobilenet_v2", imagenet),
        "tf_": (efficientnet, "efficientnet_lite0", half),
        "efficientnet_b0": (efficientnet, "efficientnet_b0", imagenet),
        "resnet34.": (resnet, "resnet34", half),
        "resnet34-": (resnet, "resnet34", imagenet),
    }
    for name, (module, variant, mean) in wanted.items():
        (path,) = tmp_path.glob(f"{name}*")
        found = module.file_statistics(variant, read_weights(path))
        print(path.name, found)
        assert found[0] == mean


@pytest.mark.parametrize("stated", ["timm", "transformers", "broken"])
def test_read_weights_statistics_stated_beside_the_file(stated, tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    if stated == "timm":
        content = {"architecture": "vit_x", "pretrained_cfg": own}
        (tmp_path / "config.json").write_text(json.dumps(content))
    else:
        content = {f"image_{name}": values for name, values in own.items()}
        text = json.dumps(content)
        (tmp_path / "preprocessor_config.json").write_text(text if stated == "transformers" else text[:9])
    file = read_weights(tmp_path / "model.safetensors")
    print(file.architecture, file.statistics)
    assert file.statistics == (None if stated == "broken" else ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert file.architecture == ("vit_x" if stated == "timm" else tmp_path.name.lower())
