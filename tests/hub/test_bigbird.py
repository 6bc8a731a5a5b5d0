"""BigBird's folders of transformers: every class, every setting, and what is refused."""

import json

import pytest
import torch

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.hub import bigbird, hf_export
from torchstone.references import randomize_weights
from torchstone.references.bert import unobtrusive
from torchstone.references.transformers import import_transformers
from torchstone.verify import relative_error

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 48,
    "block_size": 4,
    "num_random_blocks": 2,
    "sep_token_id": None,
}


def save(folder, kind="BigBirdForMaskedLM", **settings):
    torch.manual_seed(1)
    library = import_transformers()
    model = getattr(library, kind)(library.BigBirdConfig(**{**SMALL, **settings})).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def error(ours, theirs, lengths=(45, 17, 42)) -> float:
    pad_id, vocab_size = theirs.config.pad_token_id, theirs.config.vocab_size
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(pad_id + 1, vocab_size, mask.shape).masked_fill(~mask, pad_id)
    with unobtrusive():
        other = theirs(tokens, attention_mask=mask.long()).to_tuple()
    own = ours.logits(tokens, mask)
    return relative_error(own if isinstance(own, tuple) else (own,), other)


@pytest.mark.parametrize("kind", bigbird.HEADS)
def test_load_and_write_every_class(kind, tmp_path):
    theirs = save(tmp_path / "a", kind)
    ours = ts.load(tmp_path / "a")
    assert ours.config.random_pattern == "transformers"
    assert error(ours, theirs) < 1e-5
    config = bigbird.to_config(vars(ours.config))
    hf_export.write(tmp_path / "b", config, bigbird.unpublished("", ours.state_dict()))
    again = getattr(import_transformers(), kind).from_pretrained(tmp_path / "b").eval()
    difference = error(ours, again)
    print(f"{kind}: written and read by transformers, {difference:.1e} apart")
    assert difference < 1e-5
    assert ts.load(tmp_path / "b").config == ours.config
    names = theirs.state_dict().keys()
    assert names == again.state_dict().keys() == bigbird.unpublished("", ours.state_dict()).keys()


@pytest.mark.parametrize(
    "settings",
    [
        {"block_size": 3, "num_random_blocks": 1},
        {"num_random_blocks": 3},  # of 45 tokens the network turns to full attention
        {"attention_type": "original_full"},
        {"hidden_act": "relu"},
        {"use_bias": False},
        {"rescale_embeddings": True},
        {"type_vocab_size": 1},
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


REFUSED = [
    ({"block_size": 0}, "block_size is 0: .* at least 1"),
    ({"block_size": 2.5}, r"block_size is 2\.5"),
    ({"block_size": "all"}, "block_size = 'all'"),
    ({"num_random_blocks": -1}, "num_random_blocks = -1"),
    (
        {"attention_type": "sparse"},
        "attention_type = 'sparse'; implemented are block_sparse and original_full",
    ),
    ({"use_bias": {}}, "use_bias = {}, which is neither true nor false"),
    ({"tie_word_embeddings": "NaN"}, "tie_word_embeddings = 'NaN', which is neither"),
    ({"pad_token_id": "0"}, "pad_token_id = '0', which is no token's number"),
    ({"random_pattern": "none"}, "random_pattern = 'none'; implemented are stored and transformers"),
    ({"is_decoder": True}, "is_decoder = True"),
    ({"num_attention_heads": 5}, "num_attention_heads = 5"),
    ({"architectures": ["BigBirdForQuestionAnswering"]}, "BigBirdForQuestionAnswering"),
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


def test_kept_random_blocks_are_written_and_read(tmp_path):
    """Under a name that transformers ignores; what was read back attends to the same blocks."""
    sizes = {"width": 16, "layers": 2, "heads": 2, "d_ff": 32, "vocab_size": 50, "max_length": 48}
    torch.manual_seed(0)
    ours = ts.create("bigbird_base", **sizes, block_size=4, random_blocks=2, random_seed=7).eval()
    randomize_weights(ours, 0.3)
    ours.layers[0].attention.random_blocks.uniform.zero_()  # whatever the checkpoint holds
    config = bigbird.to_config(vars(ours.config))
    hf_export.write(tmp_path, config, bigbird.unpublished("", ours.state_dict()))
    again, tokens = ts.load(tmp_path), torch.randint(1, 50, (2, 48))
    assert (again.config.random_pattern, again.config.random_seed) == ("stored", 7)
    with torch.no_grad():
        assert torch.equal(ours(tokens), again(tokens))
    theirs = import_transformers().BigBirdModel.from_pretrained(tmp_path).eval()
    longer = error(again, theirs, (48, 40))
    difference = error(again, theirs, (11, 24, 9))  # 4 + r blocks: transformers takes full attention too
    print(f"in transformers: short texts {difference:.1e} apart, longer ones {longer:.1e}")
    assert difference < 1e-5 < 1e-3 < longer
