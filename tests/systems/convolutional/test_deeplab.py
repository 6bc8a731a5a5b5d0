"""DeepLab v3: output strides and rates, published files, and what parity on small images cannot detect."""

import dataclasses

import pytest
import torch
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.parts.optional_imports import import_torchvision
from torchstone.references.resnet import randomize_norms
from torchstone.systems.convolutional import deeplab
from torchstone.systems.convolutional.deeplab import ASPP, VARIANTS, Recipe, build, loss
from torchstone.verify import relative_error


def zoo():
    return import_torchvision().models.segmentation


MAKERS = {
    "deeplab_resnet50": lambda **a: zoo().deeplabv3_resnet50(**a),
    "deeplab_resnet101": lambda **a: zoo().deeplabv3_resnet101(**a),
    "deeplab_mobilenet_v3_large": lambda **a: zoo().deeplabv3_mobilenet_v3_large(**a),
    "fcn_resnet50": lambda **a: zoo().fcn_resnet50(**a),
}


def theirs(variant, classes=21, aux=True):
    return MAKERS[variant](weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux).eval()


STRIDES = {"deeplab_small": (2, 2), "deeplab_mobilenet_v3_large": (8, 16)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_deeplab_output_strides_and_logit_shape(variant):
    model = VARIANTS[variant].make(num_classes=7).eval()
    images = torch.randn(1, 3, 64, 96)
    early, last = model.features(model.backbone, images)
    found = [(64 // m.shape[2], 96 // m.shape[3]) for m in (early, last)]
    print(variant, [tuple(m.shape) for m in (early, last)])
    assert found == [(s, s) for s in STRIDES.get(variant, (8, 8))]
    assert model(images).shape == (1, 7, 64, 96)
    assert model(torch.randn(1, 3, 37, 41)).shape == (1, 7, 37, 41)


@pytest.mark.parametrize("variant", MAKERS)
def test_deeplab_conv_geometry_matches_torchvision(variant):
    """Parity on pictures smaller than the rates cannot see them: most of a filter lies outside."""

    def geometry(model):
        return {
            name: (m.kernel_size, m.stride, m.dilation, m.padding)
            for name, m in model.named_modules()
            if isinstance(m, nn.Conv2d)
        }

    with torch.device("meta"):
        ours, wanted = geometry(VARIANTS[variant].make()), geometry(theirs(variant))
    print(variant, len(wanted), "convolutions, rates", {g[2][0] for g in wanted.values()})
    assert ours == wanted


@pytest.mark.parametrize("place", range(1, 4))
def test_aspp_parity_detects_wrong_rate(place):
    """On a grid wider than the largest rate; a planted fault."""
    ours, other = ASPP(4, (12, 24, 36), 256).double(), zoo().deeplabv3.ASPP(4, [12, 24, 36])
    other = other.double().eval()
    ours.load_state_dict(other.state_dict())
    ours.eval()
    x = torch.randn(2, 4, 40, 40, dtype=torch.float64)
    right = relative_error(ours(x), other(x))
    ours.convs[place][0].dilation = ours.convs[place][0].padding = (12 * place + 1,) * 2
    wrong = relative_error(ours(x), other(x))
    print(right, wrong)
    assert right < 1e-12
    assert wrong > 1e-3


@pytest.mark.parametrize("variant", ["deeplab_resnet50", "deeplab_mobilenet_v3_large"])
@pytest.mark.sweep
def test_deeplab_loads_torchvision_weights(variant, tmp_path):
    images, file = torch.randn(2, 3, 96, 96), tmp_path / "weights.pth"
    other = randomize_norms(theirs(variant), images).eval()  # as created, little of a picture comes through
    torch.save(other.state_dict(), file)
    ours = ts.create(variant, weights=file).eval()
    with torch.no_grad():
        far = relative_error(ours(images), other(images)["out"])
    print(variant, far)
    assert far < 1e-5


def test_deeplab_weights_with_other_classes_or_without_aux_head(tmp_path, capsys):
    file = tmp_path / "weights.pth"
    variant = "deeplab_mobilenet_v3_large"
    torch.save(theirs(variant).state_dict(), file)
    model = ts.create(variant, weights=file, num_classes=3)
    assert model.classifier[4].out_channels == model.aux_classifier[4].out_channels == 3
    assert "21 classes" in capsys.readouterr().err
    torch.save(theirs(variant, aux=False).state_dict(), file)
    assert ts.create(variant, weights=file, aux=False).aux_classifier is None
    capsys.readouterr()
    with_new = ts.create(variant, weights=file)
    said = capsys.readouterr().err
    print(said)
    assert "no head: a new one is initialized (aux_classifier." in said
    assert torch.equal(with_new.classifier[4].weight, torch.load(file)["classifier.4.weight"])


def test_deeplab_aux_head_only_in_training():
    torch.manual_seed(0)
    model, images = deeplab.small_segmenter(4, aux=True), torch.randn(2, 3, 16, 16)
    labels = torch.randint(0, 4, (2, 16, 16))
    logits, heard = model(images)
    assert logits.shape == heard.shape == (2, 4, 16, 16)
    loss((logits, heard), labels).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.aux_classifier.parameters())
    assert isinstance(model.eval()(images), torch.Tensor)


def test_deeplab_exports_with_dynamic_batch():
    model = deeplab.small_segmenter().eval()
    images = torch.randn(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    more = torch.randn(5, 3, 32, 32)
    far = relative_error(program.module()(more), model(more))
    print(far)
    assert far < 1e-6


@pytest.mark.parametrize(("batch_size", "grad_accum_steps"), [(1, 1), (8, 8)])
def test_build_rejects_one_image_per_forward_pass(batch_size, grad_accum_steps):
    smoke = deeplab.RECIPES["smoke"]
    optim = dataclasses.replace(smoke.optim, grad_accum_steps=grad_accum_steps)
    with pytest.raises(BadInput, match="at least 2"):
        next(build(dataclasses.replace(smoke, batch_size=batch_size, optim=optim)))


def test_deeplab_recipe_fields():
    voc = deeplab.RECIPES["voc"]
    assert (voc.optim.lr_schedule, voc.optim.lr, voc.size, voc.batch_size) == ("poly", 0.007, 513, 16)
    assert next(iter(deeplab.RECIPES)) == "openmoji"
    assert Recipe() == deeplab.RECIPES["openmoji"]
