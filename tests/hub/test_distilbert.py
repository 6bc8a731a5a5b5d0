"""DistilBERT's folders of transformers: every class, every setting, and what is refused."""

import json

import pytest
import torch

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub import distilbert, hf_export
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.verify import relative_error

SMALL = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "vocab_size": 50}


def save(folder, kind="DistilBertForMaskedLM", **settings):
    torch.manual_seed(1)
    library = import_transformers()
    own = {**SMALL, "max_position_embeddings": 20, **settings}
    model = getattr(library, kind)(library.DistilBertConfig(**own)).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def error(ours, theirs) -> float:
    tokens = torch.randint(1, theirs.config.vocab_size, (3, 11))
    mask = torch.arange(11) < torch.tensor([[11], [4], [9]])
    other = theirs(tokens * mask, attention_mask=mask.long()).to_tuple()
    return relative_error((ours.logits(tokens * mask, mask),), other)


@pytest.mark.parametrize("kind", distilbert.HEADS)
def test_load_and_write_every_class(kind, tmp_path):
    theirs = save(tmp_path / "a", kind)
    ours = ts.load(tmp_path / "a")
    assert error(ours, theirs) < 1e-5
    config = distilbert.to_config(vars(ours.config))
    hf_export.write(tmp_path / "b", config, distilbert.unpublished("", ours.state_dict()))
    again = getattr(import_transformers(), kind).from_pretrained(tmp_path / "b").eval()
    difference = error(ours, again)
    print(f"{kind}: written and read by transformers, {difference:.1e} apart")
    assert difference < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"n_heads": 1},
        {"n_layers": 3, "hidden_dim": 7},
        {"activation": "relu"},
        {"tie_word_embeddings": False},
        {"pad_token_id": 3},
        {"max_position_embeddings": 11},
    ],
    ids=str,
)
def test_load_honors_every_setting(settings, tmp_path):
    theirs = save(tmp_path, **settings)
    difference = error(ts.load(tmp_path), theirs)
    print(f"{settings}: {difference:.1e} apart")
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds = True"),
        ({"tie_weights_": False}, "tie_weights_ = False"),
        ({"activation": "mish"}, "activation = 'mish'"),
        ({"n_heads": 5}, "n_heads = 5, which does not divide dim = 24"),
        ({"architectures": ["DistilBertForQuestionAnswering"]}, "DistilBertForQuestionAnswering"),
        ({"n_layers": 3}, "missing: layers.2"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_load_rejects_by_name(settings, message, tmp_path):
    save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(BadInput, match=message) as caught:
        ts.load(tmp_path)
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_first_release_is_read(tmp_path):
    """Its settings, and the masked-word head though the config names none."""
    theirs = save(tmp_path)
    file = tmp_path / "config.json"
    of_release = {
        "tie_weights_": True,
        "sinusoidal_pos_embds": False,
        "qa_dropout": 0.1,
        "architectures": None,
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **of_release}))
    assert error(ts.load(tmp_path), theirs) < 1e-5
