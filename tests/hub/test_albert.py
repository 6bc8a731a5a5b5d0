"""ALBERT's folders of transformers: every class, every setting, and what is refused."""

import json

import pytest
import torch

import torchstone as ts
from torchstone.api import load_tokenizer
from torchstone.data.text import tokenizers
from torchstone.data.text.sentence_batches import ALBERT_TOKENS
from torchstone.errors import BadInput
from torchstone.hub import albert, hf_export
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.verify import relative_error

SMALL = {
    "embedding_size": 10,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}


def save(folder, kind="AlbertForPreTraining", **settings):
    torch.manual_seed(1)
    library = import_transformers()
    model = getattr(library, kind)(library.AlbertConfig(**{**SMALL, **settings})).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def error(ours, theirs) -> float:
    tokens = torch.randint(1, theirs.config.vocab_size, (3, 11))
    mask = torch.arange(11) < torch.tensor([[11], [4], [9]])
    segments = torch.randint(2, (3, 11))
    other = theirs(tokens * mask, attention_mask=mask.long(), token_type_ids=segments).to_tuple()
    own = ours.logits(tokens * mask, mask, segments)
    return relative_error(own if isinstance(own, tuple) else (own,), other)


@pytest.mark.parametrize("kind", albert.HEADS)
def test_load_and_write_every_class(kind, tmp_path):
    theirs = save(tmp_path / "a", kind)
    ours = ts.load(tmp_path / "a")
    assert error(ours, theirs) < 1e-5
    config = albert.to_config(vars(ours.config))
    hf_export.write(tmp_path / "b", config, albert.unpublished("", ours.state_dict()))
    again = getattr(import_transformers(), kind).from_pretrained(tmp_path / "b").eval()
    difference = error(ours, again)
    print(f"{kind}: written and read by transformers, {difference:.1e} apart")
    assert difference < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"embedding_size": 7},
        {"num_hidden_groups": 2},
        {"num_hidden_groups": 3, "inner_group_num": 2},
        {"num_hidden_layers": 12, "num_hidden_groups": 5},
        {"hidden_act": "gelu"},
        {"type_vocab_size": 3},
        {"layer_norm_eps": 0.1},
        {"tie_word_embeddings": False},
        {"pad_token_id": 3},
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
        ({"net_structure_type": 1}, "net_structure_type = 1"),
        ({"num_memory_blocks": 2}, "num_memory_blocks = 2"),
        ({"num_hidden_groups": 4}, "num_hidden_groups = 4.*not more groups than the 3 layers"),
        ({"num_hidden_groups": 0}, "num_hidden_groups = 0"),
        ({"num_labels": 3}, "num_labels = 3; a pair has one of 2 orders"),
        ({"architectures": ["AlbertForQuestionAnswering"]}, "AlbertForQuestionAnswering"),
        ({"embedding_size": 11}, "of another shape"),
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


def test_published_masked_lm_fills_with_its_own_vocabulary(tmp_path):
    """The first release: settings of its own, a pooler beside the masked-word head, a unigram tokenizer."""
    texts = ["the cow is in the barn", "the sail is on the sea"] * 20
    tokenizer = tokenizers.train(
        "unigram", texts, vocab_size=40, special_tokens=ALBERT_TOKENS, lowercase=True
    )
    size = tokenizer.get_vocab_size()
    theirs = save(tmp_path, vocab_size=size)
    file = tmp_path / "config.json"
    of_release = {"down_scale_factor": 1, "gap_size": 0, "layers_to_keep": [], "net_structure_type": 0}
    of_release |= {"num_memory_blocks": 0, "architectures": ["AlbertForMaskedLM"]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **of_release}))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (answer,) = ts.predict(tmp_path, ["The cow is in the [MASK]"], fill=True)
    ids = load_tokenizer(tmp_path).encode("the cow is in the", add_special_tokens=False).ids
    tokens = torch.tensor([[2, *ids, 4, 3]])
    with torch.no_grad():
        logits = theirs(tokens).prediction_logits[0, -2]
    logits[:5] = logits[tokenizer.token_to_id("▁")] = -torch.inf  # fill no gap
    best = tokenizer.id_to_token(int(logits.argmax()))
    print(answer)
    first = answer["candidates"][0][0]
    assert first["word"] == best.removeprefix("▁")
    assert first["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
