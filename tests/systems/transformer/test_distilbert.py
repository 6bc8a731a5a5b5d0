"""DistilBERT: parity that can fail, the three losses by hand, the student's first weights, and its teachers."""

import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import torchstone as ts
from torchstone.api import export_hf
from torchstone.data.text import tokenizers
from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SPECIAL_TOKENS, SentenceBatches, SpecialTokens
from torchstone.engine import run as engine
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import fit
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput, Interrupted
from torchstone.parts.transformer.post_norm_block import PostNormBlock
from torchstone.references import randomize_weights
from torchstone.systems.transformer import bert, distilbert
from torchstone.systems.transformer.distilbert import (
    RECIPES,
    DistilBert,
    HiddenAndLogits,
    Teacher,
    build,
    distillation_loss,
    make_distilbert,
    student_of,
    teach,
    teacher_layers,
)
from torchstone.verify import _parity, relative_error

SPECIAL = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), 24)
SMALL = {"width": 16, "heads": 2, "d_ff": 32, "max_length": 24, "vocab_size": 60}
QUIET = {"dropout": 0.0, "attention_dropout": 0.0}
SETTINGS = RECIPES["smoke"]


def teacher_of(head="masked", layers=4, seed=0) -> bert.Bert:
    torch.manual_seed(seed)
    use_pooler = head != "masked"
    own = {**SMALL, **QUIET, "layers": layers, "head": head, "use_pooler": use_pooler, "num_classes": 3}
    return randomize_weights(bert.make_bert(**own), 0.3).double().eval()


def student(head="masked") -> DistilBert:
    torch.manual_seed(5)
    own = {**SMALL, **QUIET, "layers": 2, "head": head, "num_classes": 3, "classifier_dropout": 0.0}
    return randomize_weights(make_distilbert(**own), 0.3).double()


def masked_batch(size=8):
    """Rows of different lengths, so that there is padding."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 14, (30,), generator=generator).tolist()
    documents = [torch.randint(5, 60, (n,), generator=generator).tolist() for n in lengths]
    stream = MLMBatches(documents, size, SPECIAL, 60, seed=0, next_sentence=False)
    batch = stream.make_batch(range(size), generator)
    batch = batch._replace(weights=batch.weights.double(), token_weights=batch.token_weights.double())
    assert not batch.rows.mask.all()
    return batch


def labeled_batch():
    generator = torch.Generator().manual_seed(0)
    rows = [
        SPECIAL.build_row(torch.randint(5, 60, (n,), generator=generator).tolist(), None)
        for n in (4, 9, 15, 20, 7, 3)
    ]
    stream = SentenceBatches(rows, [0, 1, 2, 0, 1, 2], 6, SPECIAL, seed=0)
    return next(stream)


def loss_of(net, teacher, batch, **fields):
    output = HiddenAndLogits(net)(*batch.rows)
    return distillation_loss(teacher, replace(SETTINGS, **fields), output, batch)


FAULTS = {
    "gelu by tanh": lambda patch: patch.setitem(
        distilbert.ACTIVATIONS, "gelu", distilbert.ACTIVATIONS["gelu_new"]
    ),
    "mask ignored": lambda patch: patch.setattr(
        PostNormBlock, "forward", lambda self, x, mask, plain=PostNormBlock.forward: plain(self, x)
    ),
    "tanh for relu": lambda patch: patch.setattr(DistilBert, "apply_head", tanh_head),
    "positions ignored": lambda patch: patch.setattr(DistilBert, "forward", without_positions),
}


def tanh_head(self, hidden, positions=None, plain=DistilBert.apply_head):
    if self.head != "sentence":
        return plain(self, hidden, positions)
    return self.classifier(self.pre_classifier(hidden[:, 0]).tanh())


def without_positions(self, tokens, mask=None, segments=None):
    return self.encode(self.norm(self.token_embedding(tokens)), mask)


@pytest.mark.parametrize("fault", FAULTS)
def test_distilbert_parity_detects_planted_faults(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    pairs = list(distilbert.reference())
    assert len(pairs) == 8
    checks = [check for n, pair in enumerate(pairs, 1) for check in _parity("distilbert", n, pair)]
    failed = [check.name for check in checks if not check.passed]
    print(f"{fault}: {len(failed)} of {len(checks)} failed, first {failed[:1]}")
    assert failed


# ---- the losses


def by_hand(net, teacher, batch, temperature):
    """(soft, hard, hidden) of a batch of masked words, token by token, without padding."""
    with torch.no_grad():
        hidden, taught = net(batch.rows.tokens, batch.rows.mask), teacher(*batch.rows)
        logits, wanted = net.apply_head(hidden), teacher.token_logits(taught)
    soft, hard, cosines = [], [], []
    for row in range(len(logits)):
        for position in range(int(batch.rows.mask[row].sum())):
            p = [math.exp(z / temperature) for z in wanted[row, position].tolist()]
            q = [math.exp(z / temperature) for z in logits[row, position].tolist()]
            p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
            soft.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            a, b = hidden[row, position], taught[row, position]
            cosines.append(1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
        for position, target in zip(batch.positions[row], batch.targets[row], strict=True):
            if target != IGNORE_INDEX:
                z = logits[row, position]
                hard.append(float(z.logsumexp(0) - z[target]))
    return [sum(x) / len(x) for x in (soft, hard, cosines)]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_loss_equals_formula(temperature):
    net, teacher, batch = student(), teacher_of(), masked_batch()
    metrics = loss_of(net, teacher, batch, temperature=temperature)
    soft, hard, cosine = by_hand(net, teacher, batch, temperature)
    own = [float(metrics[name]) for name in ("soft_loss", "cross_entropy", "hidden_loss")]
    print(f"T = {temperature}: {own} and {[soft, hard, cosine]} by hand")
    assert own == pytest.approx([soft, hard, cosine], rel=1e-7)
    assert float(metrics["loss"].detach()) == pytest.approx(5 * soft + 2 * hard + cosine, rel=1e-7)


def test_distillation_loss_is_that_of_torch_functions():
    """KL × T² over the tokens, cross-entropy, and the cosine embedding loss, of selected rows."""
    net, teacher, batch = student(), teacher_of(), masked_batch()
    metrics = loss_of(net, teacher, batch)
    hidden, wanted = teach(teacher, batch.rows)
    own, logits = (x[batch.rows.mask] for x in HiddenAndLogits(net)(*batch.rows))
    wanted, hidden = wanted[batch.rows.mask], hidden[batch.rows.mask]
    soft = F.kl_div((logits / 2).log_softmax(1), (wanted / 2).softmax(1), reduction="batchmean") * 4
    cosine = F.cosine_embedding_loss(own, hidden, torch.ones(len(own), dtype=own.dtype))
    assert float(metrics["soft_loss"]) == pytest.approx(float(soft.detach()), rel=1e-7)
    assert float(metrics["hidden_loss"]) == pytest.approx(float(cosine.detach()), rel=1e-7)


def test_distillation_loss_of_labels_equals_formula():
    net, teacher, batch = student("sentence"), teacher_of("sentence"), labeled_batch()
    metrics = loss_of(net, teacher, batch)
    with torch.no_grad():
        hidden, taught = net(batch.rows.tokens, batch.rows.mask), teacher(*batch.rows)
        q, p = ((z / 2).softmax(1) for z in (net.apply_head(hidden), teacher.apply_head(taught)))
        soft = float(4 * (p * (p / q).log()).sum(1).mean())
        hard = float(-net.apply_head(hidden).softmax(1)[range(6), batch.labels].log().mean())
        cosines = 1 - F.cosine_similarity(hidden, taught, dim=2)
        cosine = float(sum(c[m].mean() for c, m in zip(cosines, batch.rows.mask, strict=True)) / 6)
    own = [float(metrics[name]) for name in ("soft_loss", "cross_entropy", "hidden_loss")]
    print(f"{own} and {[soft, hard, cosine]} by hand")
    assert own == pytest.approx([soft, hard, cosine], rel=1e-6)


@pytest.mark.parametrize("head", ["masked", "sentence"])
def test_padding_changes_no_term(head):
    """More padding, with any tokens in it, on both sides."""
    net, teacher = student(head), teacher_of(head)
    batch = masked_batch() if head == "masked" else labeled_batch()
    time = batch.rows.tokens.shape[1]
    short = int(batch.rows.mask.sum(1).max())
    rows = [column[:, :short] for column in batch.rows]
    pads = torch.randint(5, 60, (len(rows[0]), 24 - short))
    longer = [torch.cat([rows[0], pads], 1), *(F.pad(column, (0, 24 - short)) for column in rows[1:])]
    terms = []
    for columns in (rows, longer):
        own = batch._replace(rows=type(batch.rows)(*columns))
        if head == "masked":
            weights = own.rows.mask.double() * len(rows[0]) / own.rows.mask.sum()
            own = own._replace(token_weights=weights)
        terms.append({k: float(v.detach()) for k, v in loss_of(net, teacher, own).items()})
    print(f"{time} tokens, {short} and 24: {terms}")
    assert short < 24
    assert terms[0] == pytest.approx(terms[1], rel=1e-9)


@pytest.mark.parametrize("term", ["soft_loss", "hidden_loss"])
def test_padding_in_a_term_is_seen(term):
    """The trap: a mean over padding too is another number, beyond what the formula is held to."""
    net, teacher, batch = student(), teacher_of(), masked_batch()
    right = float(loss_of(net, teacher, batch)[term])
    everywhere = torch.full_like(batch.token_weights, 1 / batch.rows.mask.shape[1])
    wrong = float(loss_of(net, teacher, batch._replace(token_weights=everywhere))[term])
    print(f"{term}: {right:.6f}, with padding {wrong:.6f}")
    assert abs(wrong / right - 1) > 1e-4


def test_gradient_equals_that_of_micro_batches_and_reaches_the_student_alone():
    gradients, teacher, batch = [], teacher_of().requires_grad_(False), masked_batch()
    for accumulate in (1, 3):
        net = student()
        module = HiddenAndLogits(net)
        update = GradientUpdate(
            lambda b, module=module: distillation_loss(teacher, SETTINGS, module(*b.rows), b),
            torch.optim.SGD(net.parameters(), 0.0),
            grad_accum_steps=accumulate,
        )
        update(batch)
        gradients.append([p.grad for p in net.parameters()])
    worst = max(relative_error(a, b) for a, b in zip(*gradients, strict=True))
    print(f"gradients {worst:.1e} apart")
    assert worst < 1e-9
    assert all(p.grad is None for p in teacher.parameters())


# ---- the student's first weights


def test_teacher_layers_are_the_papers():
    assert teacher_layers(12) == [0, 2, 4, 7, 9, 11]
    assert [teacher_layers(n) for n in (1, 2, 3, 4, 6, 24)] == [
        [0],
        [0],
        [0, 2],
        [0, 3],
        [0, 2, 5],
        [0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23],
    ]


def taught(teacher) -> Teacher:
    tokenizer = tokenizers.train("wordpiece", ["a b c"], vocab_size=20, special_tokens=SPECIAL_TOKENS)
    return Teacher(teacher, tokenizer, None, "it")


def test_student_begins_as_layers_of_its_teacher():
    """A student of all layers would compute what its teacher does: one of a teacher whose others add nothing."""
    teacher = teacher_of(layers=4)
    start = student_of(taught(teacher), 0.0)
    own = make_distilbert(**{**start.model_config, "head": "masked"}).double().eval()
    own.load_state_dict(start.tensors)
    state = teacher.state_dict()
    for ours, theirs in ((0, 0), (1, 3)):
        names = [name for name in own.state_dict() if name.startswith(f"layers.{ours}.")]
        assert names
        for name in names:
            assert torch.equal(
                own.state_dict()[name], state[name.replace(f"layers.{ours}", f"layers.{theirs}")]
            )
    teacher.layers = torch.nn.ModuleList([teacher.layers[0], teacher.layers[3]])
    batch = masked_batch()
    with torch.no_grad():
        error = relative_error(own.logits(*batch.rows), teacher.logits(*batch.rows))
    print(f"embeddings, two layers and head: {error:.1e} apart")
    assert error < 1e-12


# ---- teachers

FEW = {"max_examples": 120, "vocab_size": 300, "max_length": 16, "batch_size": 8, "device": "cpu"}
FEW |= {"ema_decay": 0.0, "steps": 3}


def recipe(**fields):
    return replace_fields(SETTINGS, {**FEW, "pretrain_steps": 2, "teacher_steps": 3, **fields})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A teacher of labels, one of masked words, and a student of the first."""
    folder = tmp_path_factory.mktemp("runs")
    own = {**FEW, "quiet": True, "pretrain_steps": 2}
    ts.train("bert/smoke", out=folder / "labels", variant="bert_mini", **own)
    text = folder / "text.txt"
    text.write_text("\n\n".join(" ".join(f"w{(i * j) % 40}" for j in range(60)) for i in range(40)))
    words = {"task": "masked_lm", "data": str(text)}
    ts.train("bert/smoke", out=folder / "words", **{**own, **words, "max_examples": None})
    ts.train("distilbert/smoke", out=folder / "student", teacher=str(folder / "labels"), **own)
    return SimpleNamespace(folder=folder, text=text)


def test_student_of_a_run_has_half_its_layers_and_its_measure(runs):
    model = ts.load(runs.folder / "student")
    assert (len(model.layers), model.config.width) == (2, 256)
    result = json.loads((runs.folder / "student" / "result.json").read_text())["metrics"]
    print(result)
    teacher = json.loads((runs.folder / "labels" / "result.json").read_text())["metrics"]["test/accuracy"]
    assert result["test/teacher_accuracy"] == pytest.approx(teacher)
    majority = result["test/majority_accuracy"]
    if teacher > majority:
        kept = (result["test/accuracy"] - majority) / (teacher - majority)
        assert result["test/gain_kept"] == pytest.approx(kept)
    (answer,) = ts.predict(runs.folder / "student", ["a good day"])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert ts.evaluate(runs.folder / "student")["accuracy"] == pytest.approx(result["test/accuracy"])


@pytest.mark.sweep
def test_student_of_a_folder_fills_words_and_is_written(runs, tmp_path):
    folder = export_hf(runs.folder / "words", tmp_path / "teacher")
    own = {**FEW, "task": "masked_lm", "data": str(runs.text), "teacher": str(folder), "quiet": True}
    own["max_examples"] = None
    ts.train("distilbert/smoke", out=tmp_path / "run", **own)
    result = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    print(result)
    assert {"test/teacher_cross_entropy", "test/unigram"} <= result.keys()
    (answer,) = ts.predict(tmp_path / "run", ["w3 [MASK] w9"], fill=True)
    assert len(answer["candidates"]) == 1
    out = export_hf(tmp_path / "run", tmp_path / "out")
    assert ts.predict(out, ["w3 [MASK] w9"], fill=True)[0]["text"] == answer["text"]
    # and a classifier starts from what was written
    again = {**FEW, "weights": str(out), "quiet": True}
    ts.train("distilbert/smoke", out=tmp_path / "labels", **again)
    assert (tmp_path / "labels" / "result.json").exists()


@pytest.mark.parametrize("teacher", ["given", "trained first"])
@pytest.mark.sweep
def test_resume_in_distillation_ends_the_same(teacher, runs, tmp_path, monkeypatch):
    """Killed while the student learns; the teacher is read again, or is a finished stage."""
    own = {**FEW, "pretrain_steps": 2, "teacher_steps": 2, "steps": 6, "quiet": True, "dropout": 0.1}
    own |= {"intervals": {"evaluate": 6, "save": 2}}
    before = 4  # updates of the teacher's two stages
    if teacher == "given":
        before, own["teacher"] = 0, str(runs.folder / "labels")
    ts.train("distilbert/smoke", out=tmp_path / "full", **own)
    plain, steps = engine.Meter.add, []

    def add(self, step, metrics):
        steps.append(step)
        if len(steps) == before + 4:
            raise Interrupted("stopped", 15)
        plain(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Meter, "add", add)
        with pytest.raises(Interrupted):
            ts.train("distilbert/smoke", out=tmp_path / "cut", **own)
    meta = json.loads((tmp_path / "cut" / "checkpoint" / "meta.json").read_text())
    assert (meta["stage"], meta["step"]) == (0 if teacher == "given" else 2, 2)
    ts.resume(tmp_path / "cut", quiet=True)
    a, b = (ts.load(tmp_path / name).state_dict() for name in ("full", "cut"))
    results = [json.loads((tmp_path / n / "result.json").read_text())["metrics"] for n in ("full", "cut")]
    print(f"{teacher}: {len(a)} tensors, {results[1]}")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert results[0] == results[1]


def test_without_a_teacher_the_network_is_pretrained_and_finetuned():
    stages = build(recipe(teacher_variant=None))
    first = next(stages)
    fit(first, quiet=True)
    state = {k: v.clone() for k, v in first.state["model"].state_dict().items()}
    second = next(stages)
    own = second.state["model"].state_dict()
    shared = [k for k in own if k in state]
    assert all(torch.equal(own[k], state[k]) for k in shared)
    assert set(own) - set(state) == {
        f"{n}.{e}" for n in ("pre_classifier", "classifier") for e in ("weight", "bias")
    }
    assert next(stages, None) is None
    assert "teacher_accuracy" not in second.test()


def test_teacher_of_other_vocabulary_is_refused(runs, tmp_path):
    """Student and teacher with vocabularies of their own; and a folder whose tokenizer is not its network's."""
    other = {"weights": str(runs.folder / "student"), "teacher": str(runs.folder / "words")}
    fields = {**FEW, **other, "task": "masked_lm", "data": str(runs.text), "max_examples": None}
    folder = export_hf(runs.folder / "words", tmp_path / "hf")
    texts = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwxyz"]
    larger = tokenizers.train("wordpiece", texts, vocab_size=900, special_tokens=SPECIAL_TOKENS)
    (folder / "tokenizer.json").write_text(larger.to_str())
    wrong = {**fields, "weights": None, "teacher": str(folder)}
    for given, message in (
        (fields, "has another vocabulary than the student"),
        (wrong, r"has a tokenizer of \d+ tokens, but a network of \d+"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            ts.train("distilbert/smoke", out=tmp_path / "run", quiet=True, **given)
        print(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_teachers_that_cannot_teach_are_refused(runs, tmp_path):
    two = tmp_path / "two.tsv"
    two.write_text("".join(f"text {i}\t{'np'[i % 2]}\n" for i in range(40)))
    labels, words, student_run = (str(runs.folder / name) for name in ("labels", "words", "student"))
    masked = {"task": "masked_lm", "data": str(runs.text)}
    for given, message in (
        ({"teacher": student_run}, "is a run of distilbert, not of bert"),
        ({"teacher": words}, "labels no texts: give one trained by bert/sentiment"),
        ({"teacher": labels, **masked}, "predicts no masked words: give one trained by bert/masked"),
        ({"teacher": labels, "data": str(two)}, "predicts negative.*but .*two.tsv has the labels n, p"),
        ({"teacher_variant": "bert_huge"}, "bert has no variant 'bert_huge' for a teacher"),
        ({"teacher": str(tmp_path / "none")}, "there is no teacher in .*none: give a run of bert"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            next(build(recipe(**{"max_examples": None, **given})))
        print(caught.value)
        assert "\n" not in str(caught.value)


def test_classes_of_a_teacher_are_matched_by_name():
    teacher = taught(teacher_of("sentence"))._replace(classes=["c", "a", "b"])
    batch, model = labeled_batch(), teacher.model
    before = model.logits(*batch.rows)
    distilbert.reorder_classes(teacher, ["a", "b", "c"])
    assert torch.equal(model.logits(*batch.rows), before[:, [1, 2, 0]])


def test_distilbert_rejects_long_rows():
    with pytest.raises(BadInput, match="25 tokens are more than the maximum length 24"):
        student()(torch.ones(1, 25, dtype=torch.int64))
    make = partial(ts.create, "distilbert_tiny")
    with pytest.raises(BadInput, match="distilbert_tiny cannot be made so"):
        make(depth=2)
