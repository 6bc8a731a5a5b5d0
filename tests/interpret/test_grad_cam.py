"""Class activation maps and saliency against their closed forms and against captum."""

import os

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import torchstone as ts
from torchstone.cli.main import main
from torchstone.errors import BadInput
from torchstone.interpret.grad_cam import grad_cam, last_feature_layer, saliency
from torchstone.plots.classification import overlay_heatmap


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mean_and_linear(**settings):
    """Maps, their mean over places, and a linear layer: where class activation maps come from."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, **settings), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()


def test_grad_cam_equals_class_activation_map():
    """Zhou et al. 2016 (arXiv:1512.04150): M = Σ_k w_k A_k; y is its mean over Z places, so α = w/Z."""
    model, x, classes = (mean_and_linear(stride=2), images(5, 3, 17, 15), torch.tensor([0, 3, 1, 3, 2]))
    found = grad_cam(model, x, classes, "0")
    model.eval()
    maps = model[0](x)
    cam = torch.einsum("bk,bkij->bij", model[3].weight[classes], maps).relu()
    places = maps[0, 0].numel()
    gap = (found * places - cam).abs().max().item()
    print(f"{places} places, furthest {gap:.1e} of {cam.max():.3f}")
    assert gap < 1e-14
    assert (cam > 0).any()
    assert (cam == 0).any()


def test_saliency_of_linear_model_is_max_weight():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 4, 7)).double()
    classes = torch.tensor([6, 0])
    weights = model[1].weight[classes].unflatten(1, (3, 5, 4)).abs().amax(1)
    assert torch.equal(saliency(model, images(2, 3, 5, 4), classes), weights)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet20_cifar", "layer3"),
        ("resnet20_cifar", "layer2"),
        ("lenet5", "s4"),
        ("lenet5_paper", "s2"),
        ("googlenet", "inception5b"),
    ],
)
def test_grad_cam_and_saliency_match_captum(name, layer):
    side, channels = (32, 1) if name.startswith("lenet") else (64 if name == "googlenet" else 32, 3)
    model = ts.create(name).double()
    x, classes = images(3, channels, side, side), torch.tensor([1, 9, 4])
    found, slopes = grad_cam(model, x, classes, layer), saliency(model, x, classes)
    assert model.training  # as it was
    model.eval()
    theirs = LayerGradCam(model, model.get_submodule(layer)).attribute(
        x, target=classes, relu_attributions=True
    )[:, 0]
    theirs_slopes = Saliency(model).attribute(x.clone().requires_grad_(), target=classes).amax(1)
    print(f"{name} {layer}: {tuple(found.shape)}, {(found - theirs).abs().max():.1e} apart")
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(slopes, theirs_slopes, rtol=1e-9, atol=1e-15)
    assert found.max() > 0


def test_grad_cam_and_saliency_leave_model_unchanged():
    model, x = mean_and_linear().train(), images(2, 3, 9, 9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # which is no hindrance
        grad_cam(model, x, torch.tensor([0, 1]), "0")
        saliency(model, x, torch.tensor([0, 1]))
    last_feature_layer(model, x[:1])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert not x.requires_grad


def test_grad_cam_images_are_independent():
    model, x, classes = mean_and_linear(), images(3, 3, 9, 9), torch.tensor([1, 0, 2])
    together = [grad_cam(model, x, classes, "0"), saliency(model, x, classes)]
    for i in range(3):
        alone = [grad_cam(model, x[[i]], classes[[i]], "0"), saliency(model, x[[i]], classes[[i]])]
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[[i]], one, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "side", "layer"),
    [
        ("vgg16", 224, "features.29"),  # the activation of the last convolution, not what is pooled
        ("alexnet", 224, "features.11"),
        ("resnet50", 224, "layer4"),  # the sum, not a branch
        ("googlenet", 224, "inception5b"),  # the joined branches
        ("mobilenet_v2", 224, "features"),
        ("efficientnet_b0", 224, "features"),
        ("seresnet50", 224, "layer4"),  # not the convolutions of a gate, which has one place
        ("cbam_resnet18", 224, "layer4"),  # not its map of one channel
        ("lenet5", 32, "s4"),
        ("lenet5_paper", 32, "s4"),
        ("vgg16_bn_cifar", 32, "features.42"),
    ],
)
def test_last_feature_layer_of_each_network(name, side, layer):
    with torch.device("cpu" if name.startswith("lenet") else "meta"):
        model = ts.create(name)
        found = last_feature_layer(model, torch.zeros(1, 1 if name.startswith("lenet") else 3, side, side))
    print(f"{name}: {found}")
    assert found == layer


def test_grad_cam_rejects_layers_without_maps():
    model = ts.create("mlp")
    x = torch.zeros(1, 1, 28, 28)
    assert last_feature_layer(model, x) is None
    for layer, said in (("layers.9", "no layer 'layers.9'"), ("layers.0", "outputs no maps")):
        with pytest.raises(BadInput, match=said):
            grad_cam(model, x, torch.tensor([0]), layer)
    assert not any(module._forward_hooks for module in model.modules())


def test_overlay_heatmap_is_image_without_heat():
    picture = torch.rand(3, 8, 8)
    cold = overlay_heatmap(picture, torch.zeros(8, 8))
    grey = 0.8 * picture.mean(0).numpy()
    assert np.allclose(cold, grey[..., None].repeat(3, 2), atol=1e-6)
    heat = torch.zeros(8, 8)
    heat[2, 3] = 5.0
    warm = overlay_heatmap(picture, heat)
    changed = (np.abs(warm - cold).max(2) > 1e-6).nonzero()
    assert [list(axis) for axis in changed] == [[2], [3]]
    assert warm[2, 3, 0] > warm[2, 3, 2]  # yellow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    ts.train("lenet5/smoke", out=folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    for number, digit in enumerate(load_digits().images[:3]):
        Image.fromarray((digit / 16 * 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def test_explain_by_predict_command(run, digits, tmp_path, capsys):
    assert main(["predict", str(run), str(digits), "--explain", str(tmp_path / "why.png")]) == 0
    said = capsys.readouterr().out
    assert said.count(".png: ") == 3
    assert "picture: " in said
    drawn = np.asarray(Image.open(tmp_path / "why.png").convert("RGB")).astype(int)
    height, width = drawn.shape[:2]
    thirds = [drawn[:, i * width // 3 : (i + 1) * width // 3] for i in range(3)]
    colour = [int((third.max(2) - third.min(2) > 40).sum()) for third in thirds]
    print(f"{width}×{height}, pixels in colour: {colour}")
    assert colour[0] == 0  # the picture itself is grey
    assert min(colour[1:]) > 1000
    assert ts.predict(run, [digits], explain=tmp_path / "b.png") == ts.predict(run, [digits])


def test_explain_one_row_per_image(run, digits, tmp_path):
    ts.predict(run, [digits], explain=tmp_path / "three.png")
    ts.predict(run, [digits / "1.png"], explain=tmp_path / "one.png")
    three, one = (np.asarray(Image.open(tmp_path / f"{n}.png")).shape for n in ("three", "one"))
    assert three[1] == one[1]
    assert three[0] > 2 * one[0]


def test_explain_fully_connected_shows_saliency(digits, tmp_path):
    for name, fields in (("mlp/smoke", {}), ("perceptron/digits", {}), ("backprop/smoke", {})):
        folder, file = tmp_path / name.replace("/", "-"), tmp_path / "why.png"
        ts.train(name, out=folder, quiet=True, **fields)
        ts.predict(folder, [digits], explain=file)
        assert np.asarray(Image.open(file)).std() > 10
        file.unlink()


def test_explain_rejects_table_models(tmp_path, capsys):
    ts.train("perceptron/iris", out=tmp_path / "rows", quiet=True)
    row = "5.1,3.5,1.4,0.2"
    file = tmp_path / "why.png"
    assert main(["predict", str(tmp_path / "rows"), row, "--explain", str(file)]) == 2
    out, err = capsys.readouterr()
    assert "no model of images" in err
    assert not out
    assert not file.exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("why.jpg", "writes .png files, not 'why.jpg'"),
        ("nowhere/why.png", "there is no folder"),
        ("folder.png", "is a folder"),
    ],
)
def test_explain_rejects_bad_file_names_first(run, digits, tmp_path, capsys, file, said):
    (tmp_path / "folder.png").mkdir()
    words = ["predict", str(run), str(digits), "--explain", str(tmp_path / file)]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert not out
    assert len(err.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == ["folder.png"]


def test_explain_leaves_out_a_broken_image(run, digits, tmp_path, capsys):
    """It is one line among the answers; the others are drawn, and where there are none, nothing is."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    words = [str(digits), str(tmp_path / "broken.png"), "--explain", str(tmp_path / "why.png")]
    assert main(["predict", str(run), *words]) == 2
    out, err = capsys.readouterr()
    print(out, err)
    assert "no answer: " in out
    assert "broken.png" in out
    assert "1 of 4 inputs without an answer" in err
    assert (tmp_path / "why.png").exists()
    (tmp_path / "why.png").unlink()
    assert main(["predict", str(run), *words[1:]]) == 2
    assert not (tmp_path / "why.png").exists()
