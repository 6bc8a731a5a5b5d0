"""Weight files: wrappers and prefixes, what they say of their network, and files that are none."""

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchstone.errors import BadInput
from torchstone.hub.weight_files import WeightFile, read_weights
from torchstone.runs.load import create
from torchstone.systems import find
from torchstone.systems.convolutional import efficientnet, mobilenet, resnet, vgg
from torchstone.tasks.transfer import IMAGENET

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
    "beside a number": {**STATE, "epoch": 3},
    "nested with a name of their own": {"ema": {"module": STATE}, "step": 3},
    "beside a generator's state": {"generator": STATE, "rng": {"cpu": torch.get_rng_state()}},
    "twice the same": {"student": STATE, "teacher": prefixed("module.")},
    "an optimizer's state": {"weights": STATE, "optimizer": {"state": {"m": torch.ones(2)}}},
    **{f"inside {name}": prefixed(name) for name in ("net.", "backbone.", "model.network.")},
    "beside a criterion": {**prefixed("model."), "criterion.weight": torch.ones(3)},
}
LEFT_OUT = {"beside a criterion": ("criterion.weight",)}


@pytest.mark.parametrize("form", FORMS)
def test_read_weights_takes_off_wrappers_and_prefixes(form, tmp_path):
    torch.save(FORMS[form], tmp_path / "a.pth")
    names = list(read_weights(tmp_path / "a.pth").tensors)
    if all(isinstance(each, torch.Tensor) for each in FORMS[form].values()):
        save_file({k: v.contiguous() for k, v in FORMS[form].items()}, tmp_path / "a.safetensors")
        assert sorted(read_weights(tmp_path / "a.safetensors").tensors) == sorted(names)
    print(form, names)
    assert names == list(STATE)
    assert read_weights(tmp_path / "a.pth").left_out == LEFT_OUT.get(form, ())


def test_read_weights_messages(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:20])
    torch.save({"epoch": 3}, tmp_path / "no.pth")
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    torch.save({"a": STATE, "b": other}, tmp_path / "two.pth")
    torch.save({"model": STATE, "model_ema": other, "epoch": 3}, tmp_path / "averaged.pth")
    torch.save({**STATE, "fc._packed_params.dtype": torch.qint8}, tmp_path / "quantized.pth")
    save_file(STATE, tmp_path / "mlx.safetensors", metadata={"format": "mlx"})
    save_file(STATE, tmp_path / "model-00001-of-00003.safetensors")
    pointer = "version 1\noid sha256:00\nsize 12\n"
    for name in ("lfs.pth", "lfs.safetensors"):
        (tmp_path / name).write_text(pointer)
    (tmp_path / "page.bin").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "keras.pt").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    (tmp_path / "llama.pt").write_bytes(b"GGUF" + bytes(40))
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("net/code/__torch__.py", "")
    with zipfile.ZipFile(tmp_path / "damaged.pt", "w") as archive:
        archive.writestr("é/data.pkl", "")  # a name in UTF-8, which it is no more
    damaged = (tmp_path / "damaged.pt").read_bytes().replace("é".encode(), b"\xff\xff")
    (tmp_path / "damaged.pt").write_bytes(damaged)
    (tmp_path / "empty").mkdir()
    torch.save(Net(), tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("text")
    for name, said in {
        "none.pth": "no weights file",
        "cut.safetensors": "not a whole safetensors",
        "no.pth": "not a state dict",
        "two.pth": r"2 state dicts: a, b; say which, as .*two\.pth:b",
        "averaged.pth": r"2 state dicts: model, model_ema; say which, as .*averaged\.pth:model_ema",
        "two.pth:c": "holds no state dict 'c'",
        "quantized.pth": "holds quantized weights",
        "mlx.safetensors": "is of format 'mlx'",
        "model-00001-of-00003.safetensors": "one of 3 shards",
        "lfs.pth": "pointer of Git LFS",
        "lfs.safetensors": "pointer of Git LFS",
        "page.bin": "a web page",
        "keras.pt": "HDF5",
        "llama.pt": "GGUF",
        "arrays.npz": "archive of NumPy",
        "script.pt": "TorchScript",
        "damaged.pt": "cannot be read|refused unread",
        "empty": "holds no weights",
        "code.pth": "holds code and was refused unread",
        "text.pth": "refused unread|cannot be read",
    }.items():
        with pytest.raises(BadInput, match=said) as caught:
            read_weights(tmp_path / name)
        print(caught.value)
    for name, wanted in {
        "averaged.pth:model_ema": other,
        "averaged.pth:model": STATE,
        "two.pth:b": other,
    }.items():
        assert torch.equal(read_weights(tmp_path / name).tensors["conv.bias"], wanted["conv.bias"])


def test_read_weights_takes_folders_and_shards(tmp_path):
    """The folder, its index, or any shard: the same tensors."""
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, (name, tensor) in zip(names, STATE.items(), strict=True):
        save_file({name: tensor}, tmp_path / file)
    weight_map = dict(zip(STATE, names, strict=True))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for source in (tmp_path, tmp_path / names[1], tmp_path / "model.safetensors.index.json"):
        file = read_weights(source)
        print(source.name, file.architecture, list(file.tensors))
        assert sorted(file.tensors) == sorted(STATE)
        assert file.architecture == tmp_path.name.lower()


def test_prefix_that_is_a_name_of_the_network_stays(tmp_path):
    model = create("cgan_digits")
    assert all(name.startswith("net.") for name in model.state_dict())
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    loaded = create("cgan_digits", weights=tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(loaded[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: (tensor * 100).to(torch.int8), "no floating-point numbers"),
        (lambda tensor: tensor.to(torch.complex64), "no floating-point numbers"),
        (lambda tensor: tensor.to_sparse(), "no floating-point numbers"),
        (lambda tensor: tensor / 0, "NaN or infinite"),
        (lambda tensor: tensor.half(), None),
        (lambda tensor: tensor.bfloat16(), None),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), None),
    ],
    ids=["int8", "complex", "sparse", "infinite", "half", "bfloat16", "float8"],
)
def test_weights_of_other_types_are_converted_or_refused(change, said, tmp_path):
    state = create("lenet5").state_dict()
    changed = {**state, "f6.weight": change(state["f6.weight"])}
    torch.save(changed, tmp_path / "a.pth")
    if said is None:
        loaded = create("lenet5", weights=tmp_path / "a.pth").state_dict()["f6.weight"]
        assert torch.equal(loaded, changed["f6.weight"].float())
        return
    with pytest.raises(BadInput, match=rf"{said}[^;]*: f6\.weight$") as caught:
        create("lenet5", weights=tmp_path / "a.pth")
    print(caught.value)


def small_vgg16(**arguments):
    return create("vgg16", num_classes=4, hidden=8, **arguments)


@pytest.mark.parametrize("form", ["nan", "missing", "last layer missing"])
def test_file_without_a_head_leaves_the_head_new(form, tmp_path, capsys):
    """torchvision's vgg16 of features has NaN for its whole classifier; others leave it out."""
    state = small_vgg16().state_dict()
    last = "classifier.6." if form.startswith("last") else "classifier."
    head = {name for name in state if name.startswith(last)}
    own = {name: tensor for name, tensor in state.items() if name not in head}
    if form == "nan":
        own |= {name: torch.full_like(state[name], torch.nan) for name in head}
    save_file(own, tmp_path / "vgg16.safetensors")
    loaded = small_vgg16(weights=tmp_path / "vgg16.safetensors").state_dict()
    said = capsys.readouterr().err
    print(said)
    assert all(tensor.isfinite().all() for tensor in loaded.values())
    assert {name for name, tensor in loaded.items() if not torch.equal(tensor, state[name])} <= head
    assert said.count("classifier.") == len(head)
    file = read_weights(tmp_path / "vgg16.safetensors")
    wanted = (1 / 255,) * 3 if form == "nan" else (0.229, 0.224, 0.225)
    assert vgg.file_statistics("vgg16", file)[1] == wanted


@pytest.mark.parametrize(
    ("variant", "name", "keys", "said"),
    [
        ("resnet18", "resnetblur18.bt_in1k", "", "timm's resnetblur…, which blurs"),
        ("resnet50", "resnetaa50.a1h_in1k", "", "timm's resnetaa…, which averages"),
        ("resnet50_paper", "resnet50-0676ba61", "", "is of resnet50, whose"),
        ("resnet50", "resnet50_paper", "", "is of resnet50_paper, whose"),
        ("resnet50_paper", "mine", "", None),
        ("seresnet50", "best", "layer0.", "which is seresnet50_paper here"),
        ("seresnet50_paper", "best", "layer0.", None),
        ("seresnet50_paper", "seresnet50.a1_in1k", "", "timm's seresnet50, not"),
        ("seresnet50_paper", "seresnet50_paper", "", None),
        ("seresnet18", "legacy_seresnet18", "layer0.", None),
    ],
)
def test_files_of_other_networks_with_the_same_parameters_are_refused(variant, name, keys, said):
    module = find(variant)[0].module()
    file = WeightFile({f"{keys}conv1.weight": torch.ones(1)}, name, None)
    if said is None:
        assert module.file_statistics(variant, file) == IMAGENET
        return
    with pytest.raises(BadInput, match=said) as caught:
        module.file_statistics(variant, file)
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


@pytest.mark.sweep
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
