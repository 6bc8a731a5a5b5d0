"""Longformer: parity that can fail, the reach of a token, its beginning in RoBERTa and BERT, and in use."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch

import torchstone as ts
from torchstone.api import export_hf, load_tokenizer
from torchstone.data.text import tokenizers
from torchstone.errors import BadInput
from torchstone.hub import hf_export
from torchstone.hub import longformer as hub
from torchstone.references import longformer as references
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer import longformer
from torchstone.systems.transformer.longformer import Longformer, Recipe, find_start, make_longformer
from torchstone.tasks.text.bert_data import load_matching_weights
from torchstone.verify import _parity, relative_error

SMALL = {"width": 16, "layers": 2, "heads": 2, "d_ff": 32, "vocab_size": 60, "max_length": 40}
TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def small_longformer(**model_config) -> Longformer:
    torch.manual_seed(0)
    model = make_longformer(**{**SMALL, "attention_window": 4, **model_config}).double().eval()
    randomize_weights(model, 0.3)
    return model


def shifted(self, tokens, mask, segments, global_tokens, plain=Longformer.encode):
    """Positions that begin one too late."""
    rolled, self.position_embedding.weight.data = (
        self.position_embedding.weight.data,
        self.position_embedding.weight.data.roll(1, 0),
    )
    try:
        return plain(self, tokens, mask, segments, global_tokens)
    finally:
        self.position_embedding.weight.data = rolled


def without(name):
    """The network that leaves out an argument of its attention."""

    def attention(*args, plain=longformer.sliding_window_attention, **options):
        return plain(*args, **{**options, name: None})

    return lambda patch: patch.setattr(longformer, "sliding_window_attention", attention)


def whole_window(*args, plain=longformer.sliding_window_attention, **options):
    return plain(*args, **{**options, "window": 2 * options["window"]})


FAULTS = {
    "window to each side": lambda patch: patch.setattr(longformer, "sliding_window_attention", whole_window),
    "mask ignored": without("mask"),
    "global tokens ignored": without("global_tokens"),
    "global projections ignored": without("global_rows"),
    "positions shifted": lambda patch: patch.setattr(Longformer, "encode", shifted),
    "no pooler": lambda patch: patch.setattr(Longformer, "pool", lambda self, hidden: hidden[:, 0]),
    "document without global token": lambda patch: patch.setattr(
        longformer, "first_tokens", lambda tokens: None
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_longformer_parity_detects_planted_faults(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    pairs = enumerate(longformer.reference(), 1)
    checks = (check for n, pair in pairs for check in _parity("longformer", n, pair))
    failed = next((check.name for check in checks if not check.passed), None)
    print(f"{fault}: {failed}")
    assert failed


def test_random_configurations_hold_what_they_are_to_cover():
    cases = list(references.random_longformers(import_transformers()))
    lengths = [inputs[0].shape[1] for _, _, _, inputs in cases]
    is_global = [inputs[3] for *_, inputs in cases if len(inputs) == 4]
    windows = {window for _, config, _, _ in cases for window in config["attention_window"]}
    several = sum(len(set(config["attention_window"])) > 1 for _, config, _, _ in cases)
    print(f"{len(cases)} cases of {sorted(lengths)} tokens, windows {windows}, {several} with several")
    assert {kind for kind, *_ in cases} == hub.HEADS.keys()
    assert sum(length % 2 for length in lengths) >= 4
    assert several >= 3
    assert all(sorted(mask.sum(1).tolist()) == [0, 1, 3] for mask in is_global)


# ---- attention


@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
def test_token_reaches_its_window_and_global_tokens_reach_all(dilation):
    """Through the gradient: which tokens' embeddings a hidden state depends on."""
    model = small_longformer(dilation=dilation)
    tokens = torch.randint(5, 60, (1, 33))
    steps = [dilation] * 2 if isinstance(dilation, int) else dilation
    near = {a * steps[0] + b * steps[1] for a in range(-2, 3) for b in range(-2, 3)}
    for global_positions in ([], [7]):
        is_global = torch.zeros(1, 33, dtype=torch.bool)
        is_global[0, global_positions] = True
        found: dict[int, set[int]] = {}
        for position in (7, 20):
            kept = []
            hook = model.norm.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
            out = model(tokens, None, is_global)[0, position].square().sum()
            hook.remove()
            (gradient,) = torch.autograd.grad(out, kept[0])
            found[position] = set(gradient[0].abs().sum(1).nonzero()[:, 0].tolist())
        window = {20 + d for d in near if 0 <= 20 + d < 33}
        print(f"dilation {dilation}, global {global_positions}: position 20 sees {len(found[20])} of 33")
        assert found[20] == (set(range(33)) if global_positions else window)
        assert (len(found[7]) == 33) == bool(global_positions)


def test_padding_and_other_texts_change_nothing():
    model, tokens = small_longformer(head="sentence"), torch.randint(5, 60, (1, 11))
    alone = model.logits(tokens)
    padded = torch.full((2, 30), 1)
    padded[0, :11], padded[1] = tokens[0], torch.randint(5, 60, (30,))
    mask = torch.arange(30) < torch.tensor([[11], [30]])
    together = model.logits(padded, mask)
    difference = relative_error(alone[0], together[0])
    print(f"{difference:.1e} apart")
    assert difference < 1e-12


def test_classifier_gradient_reaches_global_projections_only_by_the_global_token():
    model = small_longformer(head="sentence")
    model.logits(torch.randint(5, 60, (2, 21))).square().sum().backward()
    reached = [layer.attention.global_projection["qkv"].weight.grad.abs().sum() > 0 for layer in model.layers]
    assert all(reached)
    model.zero_grad()
    model.logits(
        torch.randint(5, 60, (2, 21)), global_mask=torch.zeros(2, 21, dtype=torch.bool)
    ).square().sum().backward()
    assert all(layer.attention.global_projection["qkv"].weight.grad is None for layer in model.layers)


def test_global_projections_begin_as_those_of_the_window():
    for tie in (False, True):
        model = make_longformer(**SMALL, tie_global=tie)
        for layer in model.layers:
            attention = layer.attention
            assert torch.equal(attention.qkv.weight, attention.global_projection["qkv"].weight)
            assert (attention.qkv is attention.global_projection["qkv"]) == tie


def test_longformer_rejects_in_one_line():
    model, tokens = small_longformer(), torch.randint(5, 60, (2, 12))
    mask = torch.arange(12) < torch.tensor([[12], [9]])
    is_global = torch.zeros(2, 12, dtype=torch.bool)
    is_global[1, 10] = True
    cases = {
        "41 tokens are more than the maximum length 40": lambda: model(torch.ones(1, 41, dtype=torch.int64)),
        r"global mask is of shape \(2, 11\), but the tokens are of shape \(2, 12\)": lambda: model(
            tokens, mask, is_global[:, :11]
        ),
        "position 10 of text 1 is to be global, but the text has 9 tokens": lambda: model(
            tokens, mask, is_global
        ),
        "attention_window is 7 in layer 0: .* even": lambda: small_longformer(attention_window=7),
        "attention_window gives 3 windows for 2 layers": lambda: small_longformer(attention_window=(2, 4, 6)),
        r"dilation must be .*: \(1, 0\)": lambda: small_longformer(dilation=(1, 0)),
        "attention_window is 5 ": lambda: ts.train("longformer/smoke", attention_window=5, quiet=True),
    }
    for message, call in cases.items():
        with pytest.raises(BadInput, match=message) as caught:
            call()
        print(caught.value)
        assert "\n" not in str(caught.value)


# ---- from RoBERTa and BERT


def save_source(folder, kind):
    """A small RoBERTa or BERT with a tokenizer."""
    library = import_transformers()
    texts = ["the cow is in the barn", "the sail is on the sea"] * 20
    special = TOKENS if kind == "Roberta" else ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = tokenizers.train(
        "bpe" if kind == "Roberta" else "wordpiece", texts, vocab_size=290, special_tokens=special
    )
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    offset = 2 if kind == "Roberta" else 0
    config = getattr(library, f"{kind}Config")(
        **sizes,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=12 + offset,
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
    """Texts that fit the source, a window that holds them, whatever is global: the same logits. Beyond, its
    positions are repeated."""
    theirs = save_source(tmp_path, kind)
    start = find_start(replace(Recipe(), weights=str(tmp_path), max_length=31), window=24)
    model = make_longformer(**{**start.model_config, "head": "masked", "use_pooler": False}).eval()
    load_matching_weights(model, start.tensors)
    first = start.model_config["pad_id"] + 1
    tokens = torch.randint(5, model.config.vocab_size, (2, 12))
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    tokens = tokens.masked_fill(~mask, first - 1)
    expected = theirs(tokens, attention_mask=mask.long()).logits
    for is_global in (None, torch.zeros_like(mask).index_fill(1, torch.tensor([0, 3]), True)):
        logits = model.logits(tokens, mask, global_mask=is_global)
        difference = relative_error(logits[mask], expected[mask])
        print(f"{kind}: {difference:.1e} apart")
        assert difference < 1e-5
    table = model.position_embedding.weight[first:]
    assert len(table) == 31
    assert torch.equal(table[12:24], table[:12])
    assert torch.equal(table[24:], table[:7])


def test_training_starts_from_roberta(tmp_path):
    save_source(tmp_path / "source", "Roberta")
    fields = {"weights": str(tmp_path / "source"), "max_examples": 120, "steps": 2, "batch_size": 8}
    ts.train("longformer/smoke", out=tmp_path / "run", quiet=True, device="cpu", **fields)
    model = ts.load(tmp_path / "run")
    attention = model.layers[0].attention
    local, apart = attention.qkv.weight, attention.global_projection["qkv"].weight
    print(
        f"{model.config.max_length} tokens, W and W_g {relative_error(apart, local):.1e} apart after 2 steps"
    )
    assert model.config.max_length == 32
    assert 0 < relative_error(apart, local) < 0.1
    library, other = import_transformers(), tmp_path / "albert"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 30}
    library.AlbertModel(library.AlbertConfig(**sizes)).save_pretrained(other)
    with pytest.raises(BadInput, match="of model_type 'albert', not longformer"):
        ts.train("longformer/smoke", quiet=True, weights=str(other))


# ---- in use

TOPICS = [
    ["barn", "cow", "farmer", "hay", "hen", "horse"],
    ["anchor", "captain", "deck", "sail", "sea", "wave"],
]
FILLER = "horse " * 12


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    """A masked language model of texts on one topic each."""
    folder, random = tmp_path_factory.mktemp("longformer"), Random(0)
    play = folder / "play.txt"
    blocks = (" ".join(random.choices(TOPICS[i % 2], k=200)) for i in range(40))
    play.write_text("\n\n".join(blocks))
    fields = {"data": str(play), "vocab_size": 340, "max_length": 40, "batch_size": 8, "steps": 30}
    fields |= {"lr": 2e-3, "ema_decay": 0.0, "device": "cpu", "attention_window": 8}
    ts.train("longformer/masked", out=folder / "words", quiet=True, intervals={"evaluate": 30}, **fields)
    return folder / "words"


def test_masked_run_fills_words_and_says_what_is_too_long(words_run):
    result = json.loads((words_run / "result.json").read_text())["metrics"]
    assert {"test/cross_entropy", "test/unigram"} <= result.keys()
    assert ts.evaluate(words_run)["cross_entropy"] == pytest.approx(result["test/cross_entropy"], rel=1e-5)
    (answer,) = ts.predict(words_run, ["cow [MASK] hen barn [MASK] hay"], fill=True)
    print(answer["text"])
    assert len(answer["candidates"]) == 2
    assert "<" not in answer["text"]
    with pytest.raises(BadInput, match="tokens long; the network takes 38"):
        ts.predict(words_run, ["zebra " * 30 + "[MASK]"], fill=True)


def test_exported_run_is_what_transformers_and_we_load(words_run, tmp_path):
    folder = export_hf(words_run, tmp_path / "hf")
    library = import_transformers()
    theirs = library.LongformerForMaskedLM.from_pretrained(folder).eval()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["mask_token"] == "<mask>"
    assert settings["model_max_length"] == 40
    ids = torch.tensor([load_tokenizer(folder).encode("cow barn", "sea").ids])
    with torch.no_grad():
        difference = relative_error(ts.load(folder).logits(ids), theirs(ids).logits)
    print(f"{difference:.1e} apart")
    assert difference < 1e-5
    text = ["cow [MASK] hen barn"]
    assert ts.predict(folder, text, fill=True) == ts.predict(words_run, text, fill=True)


def test_projections_are_one_in_a_folder_where_no_token_was_global_yet(words_run, tmp_path):
    folder = export_hf(words_run, tmp_path / "hf")
    start = find_start(replace(Recipe(), weights=str(folder)), window=8)
    assert start.model_config["tie_global"]
    tensors = {
        **start.tensors,
        "layers.0.attention.qkv.bias": start.tensors["layers.0.attention.qkv.bias"] + 1,
    }
    model = make_longformer(**{**start.model_config, "tie_global": False, "use_pooler": False})
    load_matching_weights(model, tensors)
    model.config = replace(model.config, tie_global=False)
    hub_config = hub.to_config(vars(model.config))
    hf_export.write(tmp_path / "apart", hub_config, hub.unpublished("", model.state_dict()))
    (tmp_path / "apart" / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    apart = find_start(replace(Recipe(), weights=str(tmp_path / "apart")), window=8)
    assert not apart.model_config["tie_global"]


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
    ts.train("longformer/smoke", out=tmp_path / "labels", quiet=True, **fields)
    texts = [FILLER + "cow hay hen barn", FILLER + "sea sail sea deck"]
    answers = ts.predict(tmp_path / "labels", texts)
    print([(a["label"], round(a["probability"], 3)) for a in answers])
    assert [a["label"] for a in answers] == ["farm", "ship"]
