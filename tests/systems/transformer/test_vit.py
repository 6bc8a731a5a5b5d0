"""ViT: published weights and configs, poolers, other picture sizes, faults that must be seen."""

import json

import pytest
import torch
from torch import nn

import torchstone as ts
from torchstone import references
from torchstone.errors import BadInput
from torchstone.systems.transformer.vit import (
    VARIANTS,
    ViT,
    from_config,
    published,
    match_weights,
    to_config,
    unpublished,
)
from torchstone.verify import relative_error

SMALL = {"width": 24, "depth": 2, "heads": 3, "size": 32, "patch": 8, "num_classes": 5}


def shaken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def test_every_variant_s_token_count_follows_from_its_patches():
    for name, tokens in (("vit_b_16", 197), ("vit_b_32", 50), ("vit_h_14", 257), ("vit_cifar", 65)):
        with torch.device("meta"):
            model = VARIANTS[name].make()
        print(name, model.positions.shape)
        assert model.positions.shape[1] == tokens


def test_timm_s_and_torchvision_s_files_give_their_logits(tmp_path):
    images = torch.randn(1, 3, 224, 224)
    for name, net in (
        ("vit_ti_16", references.timm().create_model("vit_tiny_patch16_224")),
        ("vit_b_32", references.torchvision().models.vit_b_32()),
    ):
        shaken(net)
        torch.save(net.state_dict(), tmp_path / f"{name}.pth")
        ours = ts.create(name, weights=tmp_path / f"{name}.pth").eval()
        with torch.no_grad():
            wrong = relative_error(ours(images), net(images))
        print(f"{name}: {wrong:.1e} apart")
        assert wrong < 1e-5


@pytest.mark.parametrize("made", ["ViTModel", "ViTForImageClassification", "without a pooler"])
def test_a_folder_of_transformers_gives_its_output_and_goes_back(made, tmp_path):
    library = references.transformers()
    config = library.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        image_size=24, patch_size=8, num_labels=4, qkv_bias=made != "ViTModel", hidden_act="gelu_new",
    )  # fmt: skip
    if made == "ViTForImageClassification":
        theirs = library.ViTForImageClassification(config)
    else:
        theirs = library.ViTModel(config, add_pooling_layer=made == "ViTModel")
    shaken(theirs).save_pretrained(tmp_path)
    ours, images = ts.load(tmp_path), torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        said, wanted = ours(images), theirs(images)
        wrong = [relative_error(said, wanted[0])]
        if made == "ViTModel":
            wrong.append(relative_error(ours.pool(said), wanted.pooler_output))
    print(made, wrong)
    assert max(wrong) < 1e-5
    # and back: the same config and names as transformers wrote
    written = json.loads((tmp_path / "config.json").read_text())
    arguments = match_weights(from_config(written)[1], theirs.state_dict())
    back = to_config(arguments)
    assert {k: back[k] for k in back if k in written} == {k: written[k] for k in back if k in written}
    from safetensors.torch import load_file

    file = load_file(tmp_path / "model.safetensors")
    named = unpublished("", ours.state_dict())
    assert named.keys() == file.keys()
    assert all(torch.equal(named[k], file[k]) for k in file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "mish"}, "hidden_act = 'mish'"),
        ({"pooler_act": "relu"}, "pooler_act = 'relu'"),
        ({"head_dim": 7}, "head_dim = 7"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "ViTForMaskedImageModeling"),
        ({"num_attention_heads": "many"}, "num_attention_heads"),
    ],
)
def test_a_setting_that_is_not_implemented_is_refused_by_name(change, said):
    with pytest.raises(BadInput, match=said):
        from_config({"model_type": "vit", **change})


def test_positions_are_interpolated_as_transformers_does_it():
    library = references.transformers()
    config = library.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=32,
        patch_size=8, num_labels=4, architectures=["ViTForImageClassification"],
    )  # fmt: skip
    theirs = shaken(library.ViTForImageClassification(config))
    ours = ViT(**from_config(config.to_dict())[1]).eval()
    ours.load_state_dict(published("", theirs.state_dict()))
    for size in ((48, 48), (40, 64), (16, 32)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            wrong = relative_error(ours(images), theirs(images, interpolate_pos_encoding=True).logits)
        print(size, f"{wrong:.1e}")
        assert wrong < 1e-5


def test_what_cannot_be_done_is_said():
    model = ViT(**SMALL)
    with pytest.raises(BadInput, match="30×32 pixels cannot be cut into patches of 8×8"):
        model(torch.zeros(1, 3, 30, 32))
    with pytest.raises(BadInput, match="no pooler"):
        model.pool(torch.zeros(1, 3, 24))


def test_dropout_is_of_training_only_and_reaches_each_place_the_paper_names():
    images = torch.randn(2, 3, 32, 32)
    for name in ("dropout", "attention_dropout", "inner_dropout"):
        model: nn.Module = shaken(ViT(**SMALL, **{name: 0.5}))
        assert torch.equal(model(images), model(images))
        model.train()
        again = torch.equal(model(images), model(images))
        print(name, again)
        assert not again


@pytest.mark.parametrize("fault", ["no positions", "no norm at the end", "post-norm", "no class token"])
def test_a_wrong_network_is_seen(fault, monkeypatch):
    net, arguments = next(iter(references.vits(1)))
    ours = ViT(**arguments).eval()
    ours.load_state_dict(published("", shaken(net).state_dict()))
    images = torch.randn(2, 3, arguments["size"], arguments["size"])
    assert relative_error(ours(images), net(images)) < 1e-5
    if fault == "no positions":
        ours.positions.data.zero_()
    elif fault == "no norm at the end":
        ours.norm = nn.Identity()
    elif fault == "no class token":
        ours.class_token.data.zero_()
    else:
        layer = ours.layers[0]
        layer.attention_norm, layer.feed_norm = layer.feed_norm, layer.attention_norm
    wrong = relative_error(ours(images), net(images))
    print(fault, f"{wrong:.2g}")
    assert wrong > 1e-3
