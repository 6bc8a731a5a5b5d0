"""BigBird: parity that can fail, its random blocks, padding, its beginning in RoBERTa and BERT, and in use."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.api import export_hf, load_tokenizer
from torchstone.data.text import tokenizers
from torchstone.errors import BadInput
from torchstone.hub import bigbird as hub
from torchstone.references import bert as bert_references
from torchstone.references import bigbird as references
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer import bigbird
from torchstone.systems.transformer.bigbird import (
    BigBird,
    Recipe,
    TransformersBlocks,
    find_start,
    load_start,
    make_bigbird,
    size_of,
)
from torchstone.tasks.text.bert_data import load_matching_weights
from torchstone.verify import _parity, relative_error

SMALL = {"width": 16, "layers": 2, "heads": 2, "d_ff": 32, "vocab_size": 60, "max_length": 60}
SMALL |= {"block_size": 3, "random_blocks": 2, "use_pooler": False}


def small_bigbird(**model_config) -> BigBird:
    torch.manual_seed(0)
    model = make_bigbird(**{**SMALL, **model_config}).double().eval()
    randomize_weights(model, 0.3)
    return model


def texts(*lengths, time=None):
    """Tokens and mask of texts of these lengths."""
    time = time or max(lengths)
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    return torch.randint(5, 60, (len(lengths), time)).masked_fill(~mask, 0), mask


# ---- parity


def with_sparse(**changes):
    """The network whose sparse attention is called with other arguments."""

    def attention(*args, plain=bigbird.block_sparse_attention, **options):
        return plain(*args, **{**options, **{name: f(options) for name, f in changes.items()}})

    return lambda patch: patch.setattr(bigbird, "block_sparse_attention", attention)


def with_blocks(change):
    """The network whose random blocks are changed: (mode, blocks) -> blocks."""

    def forward(self, *args, plain=TransformersBlocks.forward):
        return change(self, plain(self, *args))

    return lambda patch: patch.setattr(TransformersBlocks, "forward", forward)


def in_the_other_mode(self, *args, plain=TransformersBlocks.forward):
    self.training = not self.training
    try:
        return plain(self, *args)
    finally:
        self.training = not self.training


FAULTS = {
    # traps of transformers' network: each must be as it is there
    "block 0 counted once in evaluation": with_blocks(
        lambda self, x: x if self.training else torch.full_like(x, -1)
    ),
    "block 0 counted r times in evaluation": with_blocks(
        lambda self, x: x if self.training else x[..., :-1] if x.shape[3] > 1 else torch.full_like(x, -1)
    ),
    "random blocks of the other mode": lambda patch: patch.setattr(
        TransformersBlocks, "forward", in_the_other_mode
    ),
    "random blocks of another layer": lambda patch: patch.setattr(
        bigbird, "transformers_blocks", lambda layer, *args: hub.transformers_blocks(layer + 1, *args)
    ),
    "last block of the text": with_sparse(global_blocks=lambda options: None),
    "short text stays sparse": lambda patch: patch.setattr(bigbird, "is_full", lambda *args: False),
    "full attention of one block more": lambda patch: patch.setattr(
        bigbird, "is_full", lambda time, size, count: time <= (6 + 2 * count) * size
    ),
    # of any
    "mask ignored": with_sparse(mask=lambda options: None),
    "no random blocks": with_sparse(random_blocks=lambda options: None),
    "no rescaling": lambda patch: patch.setattr(bigbird, "from_config", without_rescaling),
    "pooler of the last token": lambda patch: patch.setattr(
        BigBird, "pool", lambda self, hidden: self.pooler(hidden[:, -1]).tanh()
    ),
}


def without_rescaling(config):
    return hub.from_config({**config, "rescale_embeddings": False})


@pytest.fixture(scope="module")
def parity_cases():
    """Made by the reference once; a fault changes our network alone."""
    return list(references.random_bigbirds(import_transformers()))


@pytest.mark.parametrize(
    "fault",
    [
        name if number < 6 else pytest.param(name, marks=pytest.mark.sweep)
        for number, name in enumerate(FAULTS)
    ],
)
def test_bigbird_parity_detects_planted_faults(fault, parity_cases, monkeypatch):
    FAULTS[fault](monkeypatch)
    monkeypatch.setattr(references, "random_bigbirds", lambda library: parity_cases)
    pairs = enumerate(bigbird.reference(), 1)
    checks = (check for n, pair in pairs for check in _parity("bigbird", n, pair))
    failed = next((check.name for check in checks if not check.passed), None)
    print(f"{fault}: {failed}")
    assert failed


def test_random_configurations_hold_what_they_are_to_cover(parity_cases):
    sparse, full, ragged = [], [], 0
    for kind, config, theirs, (tokens, mask, _) in parity_cases:
        size, count = config["block_size"], config["num_random_blocks"]
        is_full = hub.is_full(tokens.shape[1], size, count)
        (full if is_full else sparse).append((kind, theirs.training, theirs.dtype))
        # a text that ends blocks before the padding does: its last block is not the global one
        ragged += not is_full and -(-int(mask.sum(1).min()) // size) < -(-tokens.shape[1] // size)
    print(f"{len(sparse)} sparse, {len(full)} full, {ragged} with blocks of padding")
    assert {kind for kind, *_ in sparse} == hub.HEADS.keys()
    assert {(mode, dtype) for _, mode, dtype in sparse} == {
        (mode, dtype) for mode in (True, False) for dtype in (torch.float64, torch.float32)
    }
    assert len(sparse) >= 12
    assert len(full) >= 2
    assert ragged >= 8


@pytest.mark.parametrize(
    ("length", "size", "count", "longest"),
    [
        (45, 3, 2, 60),
        (1024, 64, 3, 1024),
        (1024, 64, 2, 4096),
        (3072, 64, 3, 4096),
        (4096, 64, 3, 4096),
        (4096, 128, 3, 4100),
        (2048, 64, 3, 4096),
        (4096, 512, 1, 4096),
        (1024, 32, 1, 1100),
    ],
)
def test_random_blocks_in_training_are_those_of_transformers(length, size, count, longest):
    """Of every row that has any, at lengths where they are drawn in one way and in the other."""
    library = import_transformers()
    heads, layer, blocks = 2, 5, length // size
    config = library.BigBirdConfig(
        hidden_size=4, num_attention_heads=heads, block_size=size, num_random_blocks=count,
        max_position_embeddings=longest,
    )  # fmt: skip
    from transformers.models.big_bird import modeling_big_bird

    theirs = modeling_big_bird.BigBirdBlockSparseAttention(config, seed=layer).train()
    before = np.random.get_state()[1].copy()
    ours = hub.transformers_blocks(layer, heads, blocks, size, count, longest)
    assert np.array_equal(before, np.random.get_state()[1])
    with bert_references.unobtrusive():
        np.random.seed(layer)
        if length in (1024, 3072, 4096):
            rows = [
                theirs._bigbird_block_rand_mask(longest, longest, size, size, count, last_idx=1024)[
                    : blocks - 2
                ]
                for _ in range(heads)
            ]
        else:
            plan = theirs._get_rand_attn_plan(length, size, count)
            rows = theirs._bigbird_block_rand_mask_with_head(length, length, size, size, heads, *plan)
    expected = torch.from_numpy(np.stack(rows)).long()
    print(f"{length} tokens: row 5 of head 0 has {ours[0, 5].tolist()}")
    assert torch.equal(ours[:, 1:-1], expected)
    assert (ours[:, [0, -1]] == -1).all()


def test_transformers_behavior_is_as_it_is_known():
    """In evaluation block 0 counts 1 + r times; one short text turns the network to full attention for good."""
    model = small_bigbird(random_pattern="transformers")
    tokens, _ = texts(40)
    first = model(tokens)
    assert not model.is_full
    counted = small_bigbird(random_pattern="transformers", random_blocks=0)
    assert relative_error(counted(tokens), first) > 1e-3  # the same weights, block 0 counted once
    assert torch.equal(model(tokens), first)
    model(tokens[:, :20])
    assert model.is_full
    after = model(tokens)
    print(f"the same text after a short one: {relative_error(after, first):.1e} apart")
    assert relative_error(after, first) > 1e-3
    full = small_bigbird(random_pattern="transformers", attention_type="original_full")
    assert relative_error(full(tokens), after) < 1e-12


# ---- random blocks that are kept


def test_random_blocks_are_the_same_in_both_modes_and_obey_the_seed():
    model = small_bigbird(dropout=0.0, attention_dropout=0.0)
    tokens, mask = texts(60, 44)
    out = model(tokens, mask)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert torch.equal(model.train()(tokens, mask), out)
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])
    first, second = (layer.attention.random_blocks.uniform for layer in model.layers)
    assert not torch.equal(first, second)
    other = small_bigbird(random_seed=1)
    assert not torch.equal(other.layers[0].attention.random_blocks.uniform, first)
    assert relative_error(other(tokens, mask), out) > 1e-3
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens, mask), out)  # they are in the checkpoint


def test_full_attention_is_called_where_it_is_the_same(monkeypatch):
    """Up to 4 + r blocks; decided at each call."""
    model = small_bigbird()
    calls = []
    plain = bigbird.block_sparse_attention
    monkeypatch.setattr(
        bigbird, "block_sparse_attention", lambda *a, **o: (calls.append(1), plain(*a, **o))[1]
    )
    dense = small_bigbird(attention_type="original_full")
    for length, is_sparse in ((60, True), (18, False), (19, True), (1, False), (60, True)):
        tokens, mask = texts(length)
        out = model(tokens, mask)
        assert bool(calls) == is_sparse
        apart = relative_error(out, dense(tokens, mask))
        # a short text in a long batch is attended to sparsely, and comes out the same
        padded = torch.cat([tokens, torch.zeros(1, 60 - length, dtype=torch.int64)], 1)
        beside = model(padded, torch.arange(60)[None] < length)[:, :length]
        print(f"{length} tokens: {apart:.1e} apart from dense, {relative_error(beside, out):.1e} padded")
        assert (apart > 1e-3) == is_sparse
        assert relative_error(beside, out) < 1e-12
        calls.clear()


@pytest.mark.parametrize("length", [1, 2, 11, 25, 31, 59])
def test_padding_and_other_texts_change_nothing(length):
    model = small_bigbird(head="sentence")
    tokens, _ = texts(length)
    alone = model.logits(tokens)
    padded, mask = texts(length, 60)
    padded[0, :length] = tokens[0]
    difference = relative_error(model.logits(padded, mask)[:1], alone)
    print(f"{length} tokens: {difference:.1e} apart")
    assert difference < 1e-12


def test_each_token_reaches_what_its_blocks_list():
    """Through the gradient: which tokens' embeddings a hidden state of one layer depends on."""
    model = small_bigbird(layers=1)
    tokens, is_global = torch.randint(5, 60, (1, 60)), torch.zeros(1, 60, dtype=torch.bool)
    blocks = model.layers[0].attention.random_blocks(torch.tensor([[0, 19]]), 20)[0]
    for position, global_position in ((30, None), (1, None), (59, None), (30, 22), (22, 22)):
        is_global[:] = False
        if global_position is not None:
            is_global[0, global_position] = True
        kept = []
        hook = model.norm.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
        out = model(tokens, None, is_global)[0, position].square().sum()
        hook.remove()
        (gradient,) = torch.autograd.grad(out, kept[0])
        found = set(gradient[0].abs().sum(1).nonzero()[:, 0].tolist())
        block = position // 3
        listed = {block - 1, block, block + 1, 0, 19, *blocks[:, block].flatten().tolist()}
        expected = {token for token in range(60) if token // 3 in listed}
        if block in (0, 19) or position == global_position:
            expected = set(range(60))
        expected |= {global_position} - {None}
        print(f"token {position} reaches {len(found)} of 60, global {global_position}")
        assert found == expected


def test_bigbird_rejects_in_one_line():
    model, (tokens, mask) = small_bigbird(), texts(12, 9)
    is_global = torch.zeros(2, 12, dtype=torch.bool)
    is_global[1, 10] = True
    cases = {
        "61 tokens are more than the maximum length 60": lambda: model(torch.ones(1, 61, dtype=torch.int64)),
        r"global mask is of shape \(2, 11\), but the tokens are of shape \(2, 12\)": lambda: model(
            tokens, mask, is_global[:, :11]
        ),
        "position 10 of text 1 is to be global, but the text has 9 tokens": lambda: model(
            tokens, mask, is_global
        ),
        "block_size is 0: .* at least 1": lambda: small_bigbird(block_size=0),
        "random_blocks is -1: .* at least 0": lambda: small_bigbird(random_blocks=-1),
        "block_size": lambda: ts.train("bigbird/smoke", block_size=0, quiet=True),
        "random_blocks": lambda: ts.train("bigbird/smoke", random_blocks=-1, quiet=True),
        "random_pattern": lambda: ts.train("bigbird/smoke", random_pattern="other", quiet=True),
    }
    for message, call in cases.items():
        with pytest.raises(BadInput, match=message) as caught:
            call()
        print(caught.value)
        assert "\n" not in str(caught.value)


# ---- from RoBERTa, BERT and BigBird


def save_source(folder, kind):
    """A small network of transformers with a tokenizer."""
    library = import_transformers()
    lines = ["the cow is in the barn", "the sail is on the sea"] * 20
    special = {
        "Roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        "BigBird": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    }.get(kind, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    form = "wordpiece" if kind == "Bert" else "bpe"
    tokenizer = tokenizers.train(form, lines, vocab_size=290, special_tokens=special)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    if kind == "BigBird":
        sizes |= {"block_size": 2, "num_random_blocks": 1, "sep_token_id": None}
    config = getattr(library, f"{kind}Config")(
        **sizes,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings={"Roberta": 14, "Bert": 12, "BigBird": 32}[kind],
        pad_token_id=int(kind == "Roberta"),
    )
    torch.manual_seed(2)
    model = getattr(library, f"{kind}ForMaskedLM")(config).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return model


@pytest.mark.parametrize("kind", ["Roberta", "Bert"])
@torch.no_grad()
def test_lengthened_network_is_the_one_it_began_as(kind, tmp_path):
    """Texts that fit the source and 4 + r blocks: the same logits. Beyond, its positions are repeated."""
    theirs = save_source(tmp_path, kind)
    start = find_start(replace(Recipe(), weights=str(tmp_path), max_length=31), size_of("bigbird_tiny"))
    model = make_bigbird(**{**start.model_config, "head": "masked", "use_pooler": False}).eval()
    load_start(model, start.tensors)
    tokens = torch.randint(5, model.config.vocab_size, (2, 12))
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    tokens = tokens.masked_fill(~mask, start.model_config["pad_id"])
    expected = theirs(tokens, attention_mask=mask.long()).logits
    difference = relative_error(model.logits(tokens, mask)[mask], expected[mask])
    print(f"{kind}: {difference:.1e} apart")
    assert difference < 1e-5
    table = model.position_embedding.weight
    assert len(table) == 31
    assert torch.equal(table[12:24], table[:12])
    assert torch.equal(table[24:], table[:7])


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["BigBird", "Roberta"])
def test_training_starts_from_folders(kind, tmp_path):
    save_source(tmp_path / "source", kind)
    lines = [f"the {('cow', 'sail')[i % 2]} is on it,{('farm', 'ship')[i % 2]}" for i in range(40)]
    (tmp_path / "lines.csv").write_text("\n".join(["text,label", *lines]))
    fields = {"weights": str(tmp_path / "source"), "data": str(tmp_path / "lines.csv"), "steps": 2}
    fields |= {"batch_size": 8, "max_examples": None, "seed": 3, "block_size": None, "random_blocks": None}
    ts.train("bigbird/smoke", out=tmp_path / "run", quiet=True, device="cpu", **fields)
    model = ts.load(tmp_path / "run")
    config = model.config
    print(f"{config.max_length} tokens in blocks of {config.block_size}, {config.random_pattern}")
    assert (config.random_pattern, config.random_seed, config.max_length) == ("stored", 3, 32)
    assert (config.block_size, config.random_blocks) == ((2, 1) if kind == "BigBird" else (8, 2))


def test_start_keeps_its_random_blocks_where_they_fit():
    source = make_bigbird(**SMALL, random_seed=5)
    same = load_start(make_bigbird(**SMALL), source.state_dict())
    assert torch.equal(same.state_dict()["layers.0.attention.random_blocks.uniform"],
                       source.state_dict()["layers.0.attention.random_blocks.uniform"])  # fmt: skip
    other = make_bigbird(**{**SMALL, "block_size": 4})
    own = other.layers[0].attention.random_blocks.uniform.clone()
    load_start(other, source.state_dict())
    assert torch.equal(other.layers[0].attention.random_blocks.uniform, own)
    assert torch.equal(other.token_embedding.weight, source.token_embedding.weight)
    with pytest.raises(BadInput, match="lack"):
        load_matching_weights(make_bigbird(**SMALL), {"norm.weight": torch.ones(16)})


# ---- in use

TOPICS = [
    ["barn", "cow", "farmer", "hay", "hen", "horse"],
    ["anchor", "captain", "deck", "sail", "sea", "wave"],
]
FILLER = "horse " * 12


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    """A masked language model of texts on one topic each."""
    folder, random = tmp_path_factory.mktemp("bigbird"), Random(0)
    play = folder / "play.txt"
    blocks = (" ".join(random.choices(TOPICS[i % 2], k=200)) for i in range(40))
    play.write_text("\n\n".join(blocks))
    fields = {"data": str(play), "vocab_size": 340, "max_length": 40, "batch_size": 8, "steps": 20}
    fields |= {"lr": 2e-3, "ema_decay": 0.0, "device": "cpu", "block_size": 4, "random_blocks": 1}
    ts.train("bigbird/masked", out=folder / "words", quiet=True, intervals={"evaluate": 20}, **fields)
    return folder / "words"


def test_masked_run_fills_words_and_says_what_is_too_long(words_run):
    result = json.loads((words_run / "result.json").read_text())["metrics"]
    assert {"test/cross_entropy", "test/unigram"} <= result.keys()
    assert ts.evaluate(words_run)["cross_entropy"] == pytest.approx(result["test/cross_entropy"], rel=1e-5)
    (answer,) = ts.predict(words_run, ["cow [MASK] hen barn [MASK] hay"], fill=True)
    print(answer["text"])
    assert len(answer["candidates"]) == 2
    assert "[" not in answer["text"]
    with pytest.raises(BadInput, match="tokens long; the network takes 38"):
        ts.predict(words_run, ["zebra " * 30 + "[MASK]"], fill=True)


def test_exported_run_is_what_transformers_and_we_load(words_run, tmp_path):
    """The same up to 4 + r blocks. Beyond, ours keeps its random blocks there too, and theirs takes block 0."""
    folder = export_hf(words_run, tmp_path / "hf")
    theirs = import_transformers().BigBirdForMaskedLM.from_pretrained(folder).eval()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["mask_token"] == "[MASK]"
    assert settings["model_max_length"] == 40
    model, run = ts.load(folder), ts.load(words_run)
    ids = torch.tensor([load_tokenizer(folder).encode("cow barn", "sea").ids])
    longer = torch.randint(5, model.config.vocab_size, (1, 40))
    with torch.no_grad(), bert_references.unobtrusive():
        kept, other = model.logits(longer), theirs(longer).logits
        difference = relative_error(model.logits(ids), theirs(ids).logits)
    print(f"{difference:.1e} apart")
    assert difference < 1e-5
    assert torch.equal(run.logits(longer), kept)
    assert relative_error(kept, other) > 1e-3
    text = ["cow [MASK] hen barn"]
    assert ts.predict(folder, text, fill=True) == ts.predict(words_run, text, fill=True)
    start = find_start(replace(Recipe(), weights=str(folder)), size_of("bigbird_tiny"))
    assert start.model_config["random_pattern"] == "stored"


@pytest.mark.sweep
def test_whole_documents_are_classified_from_a_run(words_run, tmp_path):
    """Texts longer than a window, whose label is told by words at the far end only."""
    random, lines = Random(1), ["text,label"]
    for i in range(60):
        tail = " ".join(random.choices(TOPICS[i % 2], k=4))
        lines.append(f"{FILLER}{tail},{('farm', 'ship')[i % 2]}")
    (tmp_path / "documents.csv").write_text("\n".join(lines))
    fields = {"weights": str(words_run), "data": str(tmp_path / "documents.csv"), "max_examples": None}
    fields |= {"steps": 50, "batch_size": 8, "lr": 3e-3, "device": "cpu", "max_length": 40}
    ts.train("bigbird/smoke", out=tmp_path / "labels", quiet=True, **fields)
    answers = ts.predict(tmp_path / "labels", [FILLER + "cow hay hen barn", FILLER + "sea sail sea deck"])
    print([(a["label"], round(a["probability"], 3)) for a in answers])
    assert [a["label"] for a in answers] == ["farm", "ship"]
