"""Longformer's folders of transformers, every class, every setting, and what is refused; RoBERTa's as its
beginning."""

import json

import pytest
import torch

import torchstone as ts
from torchstone.data.text import tokenizers
from torchstone.errors import BadInput
from torchstone.hub import hf_export, longformer, roberta
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.verify import relative_error

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 34,
    "attention_window": 8,
}


def save(folder, kind="LongformerForMaskedLM", **settings):
    torch.manual_seed(1)
    library = import_transformers()
    model = getattr(library, kind)(library.LongformerConfig(**{**SMALL, **settings})).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def error(ours, theirs) -> float:
    pad_id, vocab_size = theirs.config.pad_token_id, theirs.config.vocab_size
    tokens = torch.randint(pad_id + 1, vocab_size, (3, 29))
    mask = torch.arange(29) < torch.tensor([[29], [4], [19]])
    tokens = tokens.masked_fill(~mask, pad_id)
    other = theirs(tokens, attention_mask=mask.long()).to_tuple()
    own = ours.logits(tokens, mask)
    return relative_error(own if isinstance(own, tuple) else (own,), other)


@pytest.mark.parametrize("kind", longformer.HEADS)
def test_load_and_write_every_class(kind, tmp_path):
    theirs = save(tmp_path / "a", kind)
    ours = ts.load(tmp_path / "a")
    assert error(ours, theirs) < 1e-5
    config = longformer.to_config(vars(ours.config))
    hf_export.write(tmp_path / "b", config, longformer.unpublished("", ours.state_dict()))
    again = getattr(import_transformers(), kind).from_pretrained(tmp_path / "b").eval()
    difference = error(ours, again)
    print(f"{kind}: written and read by transformers, {difference:.1e} apart")
    assert difference < 1e-5
    assert again.config.attention_window == [8, 8]
    names = theirs.state_dict().keys()
    assert names == again.state_dict().keys() == longformer.unpublished("", ours.state_dict()).keys()


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_window": [4, 16]},
        {"hidden_act": "relu"},
        {"type_vocab_size": 1},
        {"layer_norm_eps": 0.1},
        {"tie_word_embeddings": False},
        {"pad_token_id": 0},
        {"pad_token_id": 3},
    ],
    ids=str,
)
def test_load_honors_every_setting(settings, tmp_path):
    theirs = save(tmp_path, **settings)
    difference = error(ts.load(tmp_path), theirs)
    print(f"{settings}: {difference:.1e} apart")
    assert difference < 1e-5


REFUSED = [
    ({"attention_window": 7}, "attention_window is 7 in layer 0: .* even number"),
    ({"attention_window": [8, 0]}, "attention_window is 0 in layer 1"),
    ({"attention_window": [8]}, "attention_window gives 1 windows for 2 layers"),
    ({"attention_window": "all"}, "attention_window is 'all'"),
    ({"attention_dilation": [1, 2]}, r"attention_dilation = \[1, 2\], which is not implemented"),
    ({"attention_mode": "sliding_chunks"}, "attention_mode = 'sliding_chunks'"),
    ({"ignore_attention_mask": True}, "ignore_attention_mask = True"),
    ({"pad_token_id": None}, "pad_token_id = None"),
    ({"max_position_embeddings": 2}, "no position is left for a token"),
    ({"architectures": ["LongformerForQuestionAnswering"]}, "LongformerForQuestionAnswering"),
]


def test_load_rejects_by_name(tmp_path):
    save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for settings, message in REFUSED:
        file.write_text(json.dumps({**config, **settings}))
        with pytest.raises(BadInput, match=message) as caught:
            ts.load(tmp_path)
        print(caught.value)
        assert "\n" not in str(caught.value)


def test_dilated_windows_are_not_written():
    with pytest.raises(BadInput, match=r"no dilated windows, and this one has \(1, 3\)"):
        longformer.to_config({"layers": 2, "dilation": (1, 3)})


def test_published_release_is_read_as_it_is(tmp_path):
    """Settings of the authors' code, a pooler beside the masked-word head, and position numbers."""
    theirs = save(tmp_path)
    file = tmp_path / "config.json"
    of_release = {
        "attention_mode": "longformer",
        "ignore_attention_mask": False,
        "attention_dilation": [1, 1],
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **of_release, "attention_window": [8, 8]}))
    ours = ts.load(tmp_path)
    assert ours.config.max_length == 32
    assert error(ours, theirs) < 1e-5
    tensors = theirs.state_dict() | {
        "longformer.embeddings.position_ids": torch.arange(34)[None],
        "longformer.pooler.dense.weight": torch.eye(24),
        "longformer.pooler.dense.bias": torch.zeros(24),
    }
    config = {**SMALL, "architectures": ["LongformerForMaskedLM"]}
    arguments = longformer.match_weights(longformer.from_config(config)[1], tensors)
    assert arguments["head"] == "masked"
    assert arguments["use_pooler"]
    model = ts.create("longformer_base", **arguments)
    model.load_state_dict(longformer.published("", tensors))


def test_published_masked_lm_fills_with_words_over_bytes(tmp_path):
    """A word includes the space before it: `in [MASK] barn` is encoded as RoBERTa's tokenizer does."""
    tokens = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    texts = ["the cow is in the barn", "the sail is on the sea"] * 20
    tokenizer = tokenizers.train("bpe", texts, vocab_size=290, special_tokens=tokens)
    size = tokenizer.get_vocab_size()
    theirs = save(tmp_path, vocab_size=size)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (answer,) = ts.predict(tmp_path, ["the cow is in [MASK] barn"], fill=True)
    ids = [tokenizer.encode(text).ids for text in ("the cow is in", " barn")]
    with torch.no_grad():
        logits = theirs(torch.tensor([[0, *ids[0], 4, *ids[1], 2]])).logits[0, len(ids[0]) + 1]
    logits[[*range(5), tokenizer.token_to_id("Ġ")]] = -torch.inf
    first = answer["candidates"][0][0]
    print(answer["text"], first)
    assert first["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
    assert first["word"] == tokenizer.decode([int(logits.argmax())]).strip()
    assert "Ġ" not in answer["text"]


def test_roberta_counts_positions_from_its_padding_on():
    _, arguments = roberta.from_config({**{k: v for k, v in SMALL.items() if k != "attention_window"}})
    assert arguments["max_length"] == 32
    with pytest.raises(BadInput, match="max_position_embeddings = 2"):
        roberta.count_tokens({"pad_id": 1, "max_length": 2})
