"""Folders of diffusers' prior: they load, give their output, and go back under their own names."""

import json

import pytest
import torch

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub.unclip import from_config, published, unpublished
from torchstone.references import randomize_weights
from torchstone.references.diffusers import import_diffusers


def make(**settings):
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": 6}
    return randomize_weights(
        import_diffusers().PriorTransformer(**sizes, num_embeddings=5, **settings), 0.3
    ).eval()


def test_a_folder_loads_and_gives_the_same(tmp_path):
    theirs = make(norm_in_type="layer", embedding_proj_norm_type="layer", time_embed_dim=10)
    theirs.save_pretrained(tmp_path / "prior")
    ours = ts.load(tmp_path)
    t, mask = torch.tensor([3, 800]), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    x, embedding, text = torch.randn(2, 6), torch.randn(2, 6), torch.randn(2, 5, 6)
    with torch.no_grad():
        mine = ours(x, t, embedding, text, mask)
        wanted = theirs(x, t, embedding, text, mask).predicted_image_embedding
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(ours.denormalize(mine), theirs.post_process_latents(wanted))
    with pytest.raises(BadInput, match="a prior alone"):
        ts.sample(tmp_path, prompt="a dog", num_samples=1)
    back = unpublished("", ours.state_dict())
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    assert published("", back).keys() == ours.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"added_emb_type": None}, "added_emb_type = None"),
        ({"encoder_hid_proj_type": None}, "encoder_hid_proj_type = None"),
        ({"clip_embed_dim": 7}, "clip_embed_dim = 7"),
        ({"additional_embeddings": 3}, "additional_embeddings = 3"),
        ({"time_embed_act_fn": "mish"}, "time_embed_act_fn = 'mish'"),
        ({"norm_in_type": "batch"}, "norm_in_type = 'batch'"),
    ],
)
def test_settings_that_are_not_implemented_are_refused(settings, message):
    config = json.loads(make().to_json_string()) | settings
    with pytest.raises(BadInput, match=message):
        from_config(config)


def test_a_folder_of_another_class_is_refused(tmp_path):
    make().save_pretrained(tmp_path / "prior")
    file = tmp_path / "prior" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "Other"}))
    with pytest.raises(BadInput, match="holds a Other"):
        ts.load(tmp_path)
