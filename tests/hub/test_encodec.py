"""EnCodec folders of transformers: loaded, written and read back by transformers, today's names and earlier ones."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub.encodec import from_config, to_config, unpublished
from torchstone.references.encodec import random_encodecs
from torchstone.references.transformers import import_transformers


@pytest.fixture(scope="module")
def theirs():
    return next(random_encodecs(1)).float()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("encodec")
    theirs.save_pretrained(path)
    return path


def test_a_folder_loads_and_codes_the_same(folder, theirs):
    ours = ts.load(folder)
    x = torch.randn(2, theirs.config.audio_channels, 60)
    bandwidth = theirs.config.target_bandwidths[-1]
    expected = theirs(x, bandwidth=bandwidth)
    encoded = ours.encode(x)
    assert torch.equal(encoded.codes[0], expected.audio_codes[0])
    assert (ours.decode(encoded) - expected.audio_values[..., :60]).abs().max() < 1e-5


def test_names_of_earlier_versions(folder, theirs, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    old = {
        n.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): t
        for n, t in tensors.items()
    }
    print(sorted(old)[:4])
    assert any(name.endswith("weight_g") for name in old)
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for (name, one), (_, other) in zip(
        ts.load(folder).named_parameters(), ts.load(tmp_path).named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_what_we_write_transformers_reads(folder, theirs):
    ours = ts.load(folder)
    _, fields = from_config(theirs.config.to_dict())
    config = import_transformers().EncodecConfig.from_dict(to_config(fields))
    back = import_transformers().EncodecModel(config)
    back.load_state_dict(unpublished("", ours.state_dict()))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "batch"}, "norms are weight_norm"),
        ({"codebook_dim": 99}, "codebook_dim = 99"),
        ({"use_causal_conv": "yes"}, "use_causal_conv = 'yes', which is neither true nor false"),
        ({"rotary": True}, "sets rotary = True, which is not implemented"),
        ({"num_filters": -1}, "num_filters = -1, which is no number"),
    ],
)
def test_settings_that_are_not_implemented_are_named(folder, tmp_path, change, message):
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match=message):
        ts.load(tmp_path)
