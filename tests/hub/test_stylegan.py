"""Published layouts of StyleGAN2: every tensor arrives, and the images are those of the network they are of."""

import pytest
import torch
from hub.stylegan_files import nvidia_state, port_state, write_nvidia_pickle
from safetensors.torch import save_file

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub.stylegan import from_published
from torchstone.systems.generative.stylegan import Generator, read_tensors

SMALL = {"latent_dim": 6, "style_dim": 6, "mapping_layers": 2, "channel_base": 64, "channel_max": 5}


def random_generator(size: int = 16, num_classes: int = 0) -> Generator:
    torch.manual_seed(1)
    model = Generator(size=size, num_classes=num_classes, **SMALL)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor is not model.fir and tensor.shape != (4, 4):
            tensor.data.normal_()
    for layer in model.mapping.layers:
        layer.weight.data *= 100  # at run time they are divided by it
    return model


def write(model, file, layout, monkeypatch):
    if layout == "nvidia":
        write_nvidia_pickle(file, nvidia_state(model), monkeypatch)
    elif layout == "nvidia_state":
        save_file(nvidia_state(model), file)
    else:
        state = port_state(model)
        torch.save({"g": {}, "d": {}, "g_ema": state, "latent_avg": model.mapping.average}, file)


@pytest.mark.parametrize(("layout", "name"), [("nvidia", "net.pkl"), ("nvidia_state", "net.safetensors"), ("port", "net.pt")])  # fmt: skip
def test_published_file_gives_the_same_images(layout, name, tmp_path, monkeypatch):
    model = random_generator()
    write(model, tmp_path / name, layout, monkeypatch)
    loaded = ts.create("stylegan2_ffhq", size=16, **SMALL, weights=tmp_path / name)
    own = model.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in own.items())
    z = torch.randn(2, 6)
    with torch.no_grad():
        styles = model.mapping.average + 0.7 * (model.mapping(z) - model.mapping.average)
        expected = model.synthesize(styles[:, None].expand(-1, model.num_styles, -1))
        assert torch.allclose(loaded.synthesize(loaded.styles(z, truncation=0.7)), expected, atol=1e-5)


def test_conditional_names():
    model = random_generator(8, num_classes=3)
    renamed = from_published(nvidia_state(model))
    assert renamed.keys() == model.state_dict().keys()


def test_weights_of_another_resolution_are_one_line(tmp_path, monkeypatch):
    write(random_generator(32), tmp_path / "net.pkl", "nvidia", monkeypatch)
    with pytest.raises(BadInput, match=r"makes images of 32×32, but the network is for 16×16") as raised:
        ts.create("stylegan2_ffhq", size=16, **SMALL, weights=tmp_path / "net.pkl")
    assert "\n" not in str(raised.value)


def test_weights_of_other_widths_name_a_tensor(tmp_path, monkeypatch):
    write(random_generator(), tmp_path / "net.pt", "port", monkeypatch)
    with pytest.raises(BadInput, match="of another shape: "):
        ts.create("stylegan2_ffhq", size=16, **{**SMALL, "channel_max": 4}, weights=tmp_path / "net.pt")


def test_a_missing_mean_style_is_estimated(tmp_path, capsys):
    model = random_generator()
    torch.save({"g_ema": port_state(model)}, tmp_path / "net.pt")
    tensors = read_tensors(tmp_path / "net.pt", model)
    with torch.no_grad():
        expected = model.mapping(torch.randn(20_000, 6)).mean(0)
    assert torch.allclose(tensors["mapping.average"], expected, atol=0.1)
    assert float(expected.abs().max()) > 0.2
    assert "no mean style" in capsys.readouterr().err
