"""The authors' files, of random weights: their layout with and without dropout, and of before PyTorch 0.4.1."""

import pytest
import torch
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub.image_translation import resnet_generator, unet_generator
from torchstone.references import randomize_weights
from torchstone.references.image_translation import ResNet, UNet


def saved(net: nn.Module, file, *, prefix: str = "", is_old: bool = False):
    """As the authors' program writes it; old files have statistics of instance norm."""
    state = {prefix + name: tensor.clone() for name, tensor in net.state_dict().items()}
    if is_old:
        for name, module in net.named_modules():
            if isinstance(module, nn.InstanceNorm2d):
                for key in ("running_mean", "running_var"):
                    state[f"{prefix}{name}.{key}"] = torch.randn(module.num_features)
                state[f"{prefix}{name}.num_batches_tracked"] = torch.tensor(0)
    torch.save(state, file)
    return file


@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_resnet_generator_s_file(tmp_path, has_dropout, is_old, prefix):
    torch.manual_seed(0)
    theirs = randomize_weights(ResNet(4, 6, has_dropout=has_dropout)).eval()
    file = saved(theirs, tmp_path / "latest_net_G.pth", prefix=prefix, is_old=is_old)
    ours = ts.create("resnet6_generator", width=4, weights=file)
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    assert torch.allclose(ours.double()(x), theirs.double()(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_unet_generator_s_file(tmp_path, prefix):
    torch.manual_seed(0)
    theirs = randomize_weights(UNet(2, 8)).eval()
    file = saved(theirs, tmp_path / "latest_net_G.pth", prefix=prefix)
    ours = ts.create("pix2pix_unet256", base_channels=2, weights=file).eval()
    x = torch.randn(1, 3, 256, 256, dtype=torch.float64)
    assert torch.allclose(ours.double()(x), theirs.double()(x), rtol=0, atol=1e-10)


def test_statistics_of_batch_norm_are_kept():
    theirs = ResNet(2, 1, norm="batch")
    kept = resnet_generator(theirs.state_dict())
    assert len(kept) == len(theirs.state_dict())
    assert len(unet_generator(UNet(2, 3).state_dict())) == len(UNet(2, 3).state_dict())


def test_only_unused_statistics_are_dropped(tmp_path):
    net = ResNet(2, 6)
    file = saved(net, tmp_path / "G.pth", is_old=True)
    state = torch.load(file, weights_only=True)
    state["model.99.weight_u"] = torch.zeros(1)
    torch.save(state, file)
    with pytest.raises(BadInput, match="does not fit resnet6_generator"):
        ts.create("resnet6_generator", width=2, weights=file)


def test_other_files_are_refused_in_one_line(tmp_path):
    net = saved(ResNet(2, 9), tmp_path / "nine.pth")
    with pytest.raises(BadInput, match=r"nine.pth does not fit resnet6_generator"):
        ts.create("resnet6_generator", width=2, weights=net)
    with pytest.raises(BadInput, match="one generator: load them as resnet6_generator or resnet9_generator"):
        ts.create("cyclegan_resnet9", base_channels=2, weights=net)
    with pytest.raises(BadInput, match="is no tensor of a U-Net generator"):
        ts.create("pix2pix_unet256", base_channels=2, weights=net)
    unet = saved(UNet(2, 8), tmp_path / "unet.pth")
    with pytest.raises(BadInput, match="is no tensor of a ResNet generator"):
        ts.create("resnet6_generator", width=2, weights=unet)
