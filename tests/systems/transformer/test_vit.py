"""ViT: published weights and configs, poolers, other image sizes, and planted faults."""

import json

import pytest
import torch
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.parts.optional_imports import import_torchvision
from torchstone.references.transformers import import_transformers, random_vits
from torchstone.references.vision import import_timm
from torchstone.systems.transformer.vit import (
    VARIANTS,
    ViT,
    from_config,
    match_weights,
    published,
    to_config,
    unpublished,
)
from torchstone.tasks.transfer import load_weights
from torchstone.verify import relative_error

SMALL = {"width": 24, "depth": 2, "heads": 3, "image_size": 32, "patch_size": 8, "num_classes": 5}


def randomize_weights(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def test_vit_variants_token_count():
    for name, tokens in (("vit_b_16", 197), ("vit_b_32", 50), ("vit_h_14", 257), ("vit_cifar", 65)):
        with torch.device("meta"):
            model = VARIANTS[name].make()
        print(name, model.position_embedding.shape)
        assert model.position_embedding.shape[1] == tokens


@pytest.mark.sweep
def test_vit_weights_of_timm_and_torchvision_give_their_logits(tmp_path):
    images = torch.randn(1, 3, 224, 224)
    for name, net in (
        ("vit_ti_16", import_timm().create_model("vit_tiny_patch16_224")),
        ("vit_b_32", import_torchvision().models.vit_b_32()),
    ):
        randomize_weights(net)
        torch.save(net.state_dict(), tmp_path / f"{name}.pth")
        ours = ts.create(name, weights=tmp_path / f"{name}.pth").eval()
        with torch.no_grad():
            error = relative_error(ours(images), net(images))
        print(f"{name}: error {error:.1e}")
        assert error < 1e-5


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification", "without a pooler"])
def test_vit_transformers_folder_round_trip(kind, tmp_path):
    library = import_transformers()
    config = library.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=24,
        patch_size=8,
        num_labels=4,
        qkv_bias=kind != "ViTModel",
        hidden_act="gelu_new",
    )
    if kind == "ViTForImageClassification":
        theirs = library.ViTForImageClassification(config)
    else:
        theirs = library.ViTModel(config, add_pooling_layer=kind == "ViTModel")
    randomize_weights(theirs).save_pretrained(tmp_path)
    ours, images = ts.load(tmp_path), torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        output, expected = ours(images), theirs(images)
        errors = [relative_error(output, expected[0])]
        if kind == "ViTModel":
            errors.append(relative_error(ours.pool(output), expected.pooler_output))
    print(kind, errors)
    assert max(errors) < 1e-5
    # and back: the same config and names as transformers wrote
    written = json.loads((tmp_path / "config.json").read_text())
    back = to_config(match_weights(from_config(written)[1], theirs.state_dict()))
    assert {k: back[k] for k in back if k in written} == {k: written[k] for k in back if k in written}
    from safetensors.torch import load_file

    file = load_file(tmp_path / "model.safetensors")
    named = unpublished("", ours.state_dict())
    assert named.keys() == file.keys()
    assert all(torch.equal(named[k], file[k]) for k in file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "mish"}, "hidden_act = 'mish'"),
        ({"pooler_act": "relu"}, "pooler_act = 'relu'"),
        ({"head_dim": 7}, "head_dim = 7"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "ViTForMaskedImageModeling"),
        ({"num_attention_heads": "many"}, "num_attention_heads"),
    ],
)
def test_vit_config_rejects_unimplemented_setting_by_name(change, message):
    with pytest.raises(BadInput, match=message):
        from_config({"model_type": "vit", **change})


def test_vit_interpolates_positions_like_transformers():
    library = import_transformers()
    config = library.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=32,
        patch_size=8,
        num_labels=4,
        architectures=["ViTForImageClassification"],
    )
    theirs = randomize_weights(library.ViTForImageClassification(config))
    ours = ViT.from_kwargs(**from_config(config.to_dict())[1]).eval()
    ours.load_state_dict(published("", theirs.state_dict()))
    for size in ((48, 48), (40, 64), (16, 32)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            error = relative_error(ours(images), theirs(images, interpolate_pos_encoding=True).logits)
        print(size, f"{error:.1e}")
        assert error < 1e-5


def test_vit_state_dict_of_older_names_loads():
    model = ViT.from_kwargs(**SMALL)
    names = {"patch_embedding": "patches", "position_embedding": "positions", "blocks": "layers"}
    names |= {"final_norm": "norm", "mlp": "feed", "mlp_norm": "feed_norm"}
    old = {
        ".".join(names.get(part, part) for part in key.split(".")): torch.randn_like(weight)
        for key, weight in model.state_dict().items()
    }
    assert {"positions", "patches.weight", "layers.1.feed_norm.bias", "norm.bias"} <= old.keys()
    model.load_state_dict(dict(old))
    assert torch.equal(model.position_embedding, old["positions"])
    assert torch.equal(model.blocks[1].mlp_norm.bias, old["layers.1.feed_norm.bias"])
    other = ViT.from_kwargs(**SMALL)
    load_weights(other, old, "does not fit")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_vit_rejects_bad_image_size_and_missing_pooler():
    model = ViT.from_kwargs(**SMALL)
    with pytest.raises(BadInput, match="30×32 pixels cannot be cut into patches of 8×8"):
        model(torch.zeros(1, 3, 30, 32))
    with pytest.raises(BadInput, match="no pooler"):
        model.pool(torch.zeros(1, 3, 24))


def test_vit_dropout_only_in_training():
    images = torch.randn(2, 3, 32, 32)
    for name in ("dropout", "attention_dropout", "mlp_dropout"):
        model: nn.Module = randomize_weights(ViT.from_kwargs(**SMALL, **{name: 0.5}))
        assert torch.equal(model(images), model(images))
        model.train()
        again = torch.equal(model(images), model(images))
        print(name, again)
        assert not again


@pytest.mark.parametrize("fault", ["no positions", "no norm at the end", "post-norm", "no class token"])
def test_vit_planted_fault_changes_output(fault):
    net, config = next(iter(random_vits(1)))
    ours = ViT.from_kwargs(**config).eval()
    ours.load_state_dict(published("", randomize_weights(net).state_dict()))
    images = torch.randn(2, 3, config["image_size"], config["image_size"])
    assert relative_error(ours(images), net(images)) < 1e-5
    if fault == "no positions":
        ours.position_embedding.data.zero_()
    elif fault == "no norm at the end":
        ours.final_norm = nn.Identity()
    elif fault == "no class token":
        ours.class_token.data.zero_()
    else:
        block = ours.blocks[0]
        block.attention_norm, block.mlp_norm = block.mlp_norm, block.attention_norm
    error = relative_error(ours(images), net(images))
    print(fault, f"{error:.2g}")
    assert error > 1e-3
