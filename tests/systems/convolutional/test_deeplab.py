"""DeepLab v3: its grids and rates, published files, and what parity on small pictures cannot see."""

import dataclasses

import pytest
import torch
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.references import torchvision
from torchstone.references.resnet import randomize_norms
from torchstone.systems.convolutional import deeplab
from torchstone.systems.convolutional.deeplab import ASPP, VARIANTS, Recipe, build
from torchstone.tasks.vision.segment import loss
from torchstone.verify import relative_error


def zoo():
    return torchvision().models.segmentation


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
def test_the_grids_are_an_eighth_and_logits_have_the_picture_s_sides(variant):
    model = VARIANTS[variant].make(num_classes=7).eval()
    images = torch.randn(1, 3, 64, 96)
    early, last = model.maps(model.backbone, images)
    found = [(64 // m.shape[2], 96 // m.shape[3]) for m in (early, last)]
    print(variant, [tuple(m.shape) for m in (early, last)])
    assert found == [(s, s) for s in STRIDES.get(variant, (8, 8))]
    assert model(images).shape == (1, 7, 64, 96)
    assert model(torch.randn(1, 3, 37, 41)).shape == (1, 7, 37, 41)


@pytest.mark.parametrize("variant", MAKERS)
def test_every_convolution_strides_and_dilates_as_the_published_one(variant):
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
def test_parity_of_aspp_sees_a_wrong_rate(place):
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
def test_a_published_file_gives_the_published_network(variant, tmp_path):
    images, file = torch.randn(2, 3, 96, 96), tmp_path / "weights.pth"
    other = randomize_norms(theirs(variant), images).eval()  # as created, little of a picture comes through
    torch.save(other.state_dict(), file)
    ours = ts.create(variant, weights=file).eval()
    with torch.no_grad():
        far = relative_error(ours(images), other(images)["out"])
    print(variant, far)
    assert far < 1e-5


def test_files_with_other_classes_or_without_the_auxiliary_head(tmp_path, capsys):
    file = tmp_path / "weights.pth"
    variant = "deeplab_mobilenet_v3_large"
    torch.save(theirs(variant).state_dict(), file)
    model = ts.create(variant, weights=file, num_classes=3)
    assert model.classifier[4].out_channels == model.aux_classifier[4].out_channels == 3
    assert "21 classes" in capsys.readouterr().err
    torch.save(theirs(variant, aux=False).state_dict(), file)
    assert ts.create(variant, weights=file, aux=False).aux_classifier is None
    with pytest.raises(BadInput, match=r"missing: aux_classifier"):
        ts.create(variant, weights=file)


def test_the_auxiliary_head_speaks_in_training_alone():
    torch.manual_seed(0)
    model, images = deeplab.small(4, aux=True), torch.randn(2, 3, 16, 16)
    labels = torch.randint(0, 4, (2, 16, 16))
    logits, heard = model(images)
    assert logits.shape == heard.shape == (2, 4, 16, 16)
    loss((logits, heard), labels).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.aux_classifier.parameters())
    assert isinstance(model.eval()(images), torch.Tensor)


def test_it_can_be_exported_with_any_batch():
    model = deeplab.small().eval()
    images = torch.randn(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    more = torch.randn(5, 3, 32, 32)
    far = relative_error(program.module()(more), model(more))
    print(far)
    assert far < 1e-6


@pytest.mark.parametrize("fields", [{"batch": 1}, {"batch": 8, "accumulate": 8}])
def test_one_picture_a_pass_is_refused(fields):
    with pytest.raises(BadInput, match="at least 2"):
        next(build(dataclasses.replace(deeplab.RECIPES["smoke"], **fields)))


def test_the_recipes_train_what_they_say():
    voc = deeplab.RECIPES["voc"]
    assert (voc.schedule, voc.lr, voc.size, voc.batch) == ("poly", 0.007, 513, 16)
    assert next(iter(deeplab.RECIPES)) == "openmoji"
    assert Recipe() == deeplab.RECIPES["openmoji"]
