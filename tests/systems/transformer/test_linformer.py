"""Linformer: parity that can fail, its limits BERT and pooling, sharing, padding, and in use."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch

import torchstone as ts
from torchstone.cli.main import main
from torchstone.errors import BadInput
from torchstone.references import linformer as references
from torchstone.references import randomize_weights
from torchstone.systems.transformer import linformer
from torchstone.systems.transformer.bert import make_bert
from torchstone.systems.transformer.linformer import Linformer, Recipe, find_start, make_linformer
from torchstone.verify import _parity, relative_error

SMALL = {"width": 12, "layers": 2, "heads": 3, "d_ff": 20, "vocab_size": 40, "max_length": 24, "projected": 5}
SHARINGS = references.SHARINGS


def small(**model_config) -> Linformer:
    torch.manual_seed(0)
    model = make_linformer(**{**SMALL, **model_config}).double().eval()
    randomize_weights(model, 0.3)
    return model


def texts(batch=2, length=17, seed=0):
    return torch.randint(2, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


def attend(**changes):
    """The attention with another argument."""

    def attention(q, k, v, e, f, plain=linformer.low_rank_attention, **options):
        for name, change in changes.items():
            if name == "e":
                e = change(e)
            elif name == "f":
                f = change(e)
            else:
                options[name] = change(options.get(name))
        return plain(q, k, v, e, f, **options)

    return lambda patch: patch.setattr(linformer, "low_rank_attention", attention)


def masked_after(q, k, v, e, f, plain=linformer.low_rank_attention, mask=None, **options):
    """Padding that is left in the projection, and hidden from the output alone."""
    out = plain(q, k, v, e, f, **options)
    return out if mask is None else out.masked_fill(~mask[:, None, :, None], 0)


def one_for_all(self, layer, plain=linformer.Projections.of_layer):
    return plain(self, 0)


FAULTS = {
    "padding leaks through E and F": lambda patch: patch.setattr(
        linformer, "low_rank_attention", masked_after
    ),
    "values by E": attend(f=lambda e: e),
    "columns of later positions": attend(e=lambda e: e.roll(1, -1)),
    "scale of the projected width": attend(scale=lambda _: 5**-0.5),
    "layers share what they should not": lambda patch: patch.setattr(
        linformer.Projections, "of_layer", one_for_all
    ),
    "no pooler": lambda patch: patch.setattr(Linformer, "pool", lambda self, hidden: hidden[:, 0]),
}


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=pytest.mark.sweep if n else ()) for n, f in enumerate(FAULTS)]
)
def test_linformer_parity_detects_planted_faults(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    pairs = enumerate(linformer.reference(), 1)
    checks = (check for n, pair in pairs for check in _parity("linformer", n, pair))
    failed = next((check.name for check in checks if not check.passed), None)
    print(f"{fault}: {failed}")
    assert failed


def test_random_configurations_hold_what_they_are_to_cover():
    cases = list(references.random_linformers())
    kinds = {(config["sharing"], config["head"]) for config, *_ in cases}
    types = [
        {d for c, _, d in cases if c[key] == name}
        for key, names in (("sharing", SHARINGS), ("head", references.HEADS))
        for name in names
    ]
    shorter = sum(config["max_length"] > inputs[0].shape[1] for config, inputs, _ in cases)
    print(f"{len(cases)} cases, {shorter} of texts shorter than E")
    assert len(kinds) == 16
    assert all(len(each) == 2 for each in types)
    assert 4 <= shorter <= 12
    assert all(not mask.all(1)[1:].any() and not mask[1, 3] for _, (_, mask, _), _ in cases)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_linformer_with_the_identity_is_bert_of_its_weights(sharing):
    """k = n: dense attention, in output and every gradient."""
    model = small(sharing=sharing, projected=24, head="masked", use_pooler=False)
    with torch.no_grad():
        for matrix in model.projections.parameters():
            matrix.copy_(torch.eye(24).expand_as(matrix))
    exact = (
        make_bert(
            **{name: value for name, value in SMALL.items() if name != "projected"},
            num_segments=1,
            pad_id=1,
            eps=1e-5,
            head="masked",
            use_pooler=False,
        )
        .double()
        .eval()
    )
    exact.load_state_dict({k: v for k, v in model.state_dict().items() if "projections" not in k})
    outputs = []
    for net in (model, exact):
        outputs.append(net.logits(texts(2, 24)))
        outputs[-1].square().mean().backward()
    theirs = dict(exact.named_parameters())
    apart = {n: relative_error(p.grad, theirs[n].grad) for n, p in model.named_parameters() if n in theirs}
    difference = relative_error(*outputs)
    print(f"{sharing}: {difference:.1e}, gradients {max(apart.values()):.1e} apart")
    assert difference < 1e-12
    assert len(apart) == len(theirs)
    assert max(apart.values()) < 1e-10


@pytest.mark.parametrize("sharing", SHARINGS)
def test_linformer_matrices_are_as_many_as_the_sharing_leaves(sharing):
    model = make_linformer(**{**SMALL, "layers": 4, "sharing": sharing})
    matrices = list(model.projections.parameters())
    count = sum(len(m) if m.dim() == 3 else 1 for m in matrices)
    pairs = [model.projections.of_layer(layer) for layer in range(4)]
    distinct = {(e.data_ptr(), f.data_ptr()) for e, f in pairs}
    print(f"{sharing}: {count} matrices")
    assert count == {"none": 2 * 4 * 3, "headwise": 8, "key_value": 4, "layerwise": 1}[sharing]
    assert len(distinct) == (1 if sharing == "layerwise" else 4)
    assert all((e is f) == (sharing in ("key_value", "layerwise")) for e, f in pairs)


def test_matrix_of_all_layers_gets_the_sum_of_their_gradients():
    tokens = texts()
    shared, apart = small(), small(sharing="headwise")
    state = {k: v for k, v in shared.state_dict().items() if "projections" not in k}
    apart.load_state_dict(state, strict=False)
    with torch.no_grad():
        for matrix in apart.projections.parameters():
            matrix.copy_(shared.projections.e[0])
    for model in (shared, apart):
        model(tokens).square().sum().backward()
    summed = sum(matrix.grad for matrix in apart.projections.parameters())
    assert relative_error(shared.projections.e[0].grad, summed) < 1e-12


@pytest.mark.parametrize("sharing", ["none", "layerwise"])
def test_length_of_the_padding_and_other_texts_change_nothing(sharing):
    model, tokens = small(head="sentence", sharing=sharing), texts(1, 11)
    alone, hidden = model.logits(tokens), model(tokens)
    for length in (12, 17, 24):
        padded = torch.full((2, length), 1)
        padded[0, :11], padded[1] = tokens[0], texts(1, length, seed=3)
        mask = torch.arange(length) < torch.tensor([[11], [length]])
        together = model.logits(padded, mask)
        difference = max(
            relative_error(together[0], alone[0]), relative_error(model(padded, mask)[0, :11], hidden[0])
        )
        other = padded.masked_fill(~mask, 7)  # whatever stands there
        print(f"{length} tokens: {difference:.1e} apart")
        assert difference < 1e-12
        assert torch.equal(model.logits(other, mask)[0], together[0])
    # seen to matter: without the mask padding is read
    assert relative_error(model.logits(padded)[0], alone[0]) > 1e-3


def test_linformer_rejects_in_one_line(tmp_path):
    model = small()
    cases = {
        "25 tokens are more than the maximum length 24": lambda: model(texts(1, 25)),
        "a width of 12 cannot be divided among 5 heads": lambda: small(heads=5),
        "sharing is none, headwise, key_value or layerwise, not 'all'": lambda: small(sharing="all"),
        "at least 1 row, not 0": lambda: small(projected=0),
        "projected must be at least 1, not 0": lambda: ts.train("linformer/smoke", projected=0, quiet=True),
        "sharing": lambda: ts.train("linformer/smoke", sharing="keys", quiet=True),
    }
    for message, call in cases.items():
        with pytest.raises(BadInput, match=message) as caught:
            call()
        print(caught.value)
        assert "\n" not in str(caught.value)


# ---- in use

TOPICS = [
    ["barn", "cow", "farmer", "hay", "hen", "horse"],
    ["anchor", "captain", "deck", "sail", "sea", "wave"],
]
FILLER = "horse " * 12


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    """A masked language model of texts on one topic each."""
    folder, random = tmp_path_factory.mktemp("linformer"), Random(0)
    play = folder / "play.txt"
    blocks = (" ".join(random.choices(TOPICS[i % 2], k=200)) for i in range(40))
    play.write_text("\n\n".join(blocks))
    fields = {"data": str(play), "vocab_size": 340, "max_length": 40, "batch_size": 8, "steps": 30}
    fields |= {"lr": 2e-3, "ema_decay": 0.0, "device": "cpu", "projected": 16}
    ts.train("linformer/masked", out=folder / "words", quiet=True, intervals={"evaluate": 30}, **fields)
    return folder / "words"


def test_masked_run_fills_words_and_says_what_is_too_long(words_run, capsys):
    result = json.loads((words_run / "result.json").read_text())["metrics"]
    assert {"test/cross_entropy", "test/unigram"} <= result.keys()
    assert ts.evaluate(words_run)["cross_entropy"] == pytest.approx(result["test/cross_entropy"], rel=1e-5)
    assert main(["predict", str(words_run), "--fill", "cow [MASK] hen barn [MASK] hay"]) == 0
    answer = capsys.readouterr().out
    print(answer)
    assert "<" not in answer.splitlines()[0]
    assert main(["predict", str(words_run), "--fill", "zebra " * 30 + "[MASK]"]) == 2
    assert "tokens long; the network takes 38" in capsys.readouterr().err


def test_weights_of_another_length_or_rank_are_refused(words_run):
    for fields, message in (
        ({"max_length": 41}, "max_length is 41, but E and F of .* are for 40 tokens at most"),
        ({"max_length": 30, "projected": 8}, "projected is 8, but E of .* has 16 rows"),
    ):
        with pytest.raises(BadInput, match=message):
            find_start(replace(Recipe(), weights=str(words_run), **fields))
    shorter = find_start(replace(Recipe(), weights=str(words_run), max_length=30))
    assert shorter.model_config["max_length"] == 40


@pytest.mark.sweep
def test_whole_documents_are_classified_from_a_run(words_run, tmp_path):
    """Texts whose label stands in words at the far end only."""
    random, lines = Random(1), ["text,label"]
    for i in range(60):
        tail = " ".join(random.choices(TOPICS[i % 2], k=4))
        lines.append(f"{FILLER}{tail},{('farm', 'ship')[i % 2]}")
    (tmp_path / "documents.csv").write_text("\n".join(lines))
    fields = {"weights": str(words_run), "data": str(tmp_path / "documents.csv"), "max_examples": None}
    fields |= {"steps": 60, "batch_size": 8, "lr": 3e-3, "device": "cpu", "max_length": 40, "projected": 16}
    ts.train("linformer/smoke", out=tmp_path / "labels", quiet=True, **fields)
    documents = [FILLER + "cow hay hen barn", FILLER + "sea sail sea deck"]
    answers = ts.predict(tmp_path / "labels", documents)
    print([(a["label"], round(a["probability"], 3)) for a in answers])
    assert [a["label"] for a in answers] == ["farm", "ship"]
    together = [a["probability"] for a in answers]
    apart = [ts.predict(tmp_path / "labels", [text])[0]["probability"] for text in documents]
    assert together == pytest.approx(apart, abs=1e-6)
