"""ALBERT: parity that can fail, gradients of shared layers, sentence order, and its tokenizer in use."""

import json
import math
from random import Random

import pytest
import torch

import torchstone as ts
from torchstone.api import export_hf, load_tokenizer
from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.ngram_masking import NGrams
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SpecialTokens
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput
from torchstone.parts.transformer.post_norm_block import PostNormBlock
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer import albert
from torchstone.systems.transformer.albert import Albert, make_albert, pretraining_loss
from torchstone.tasks.text.masked_lm import HeadModule
from torchstone.verify import _parity, relative_error

SMALL = {"embedding_size": 8, "width": 16, "layers": 3, "heads": 2, "d_ff": 32, "max_length": 24}
SPECIAL = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), 24)


def small_albert(**model_config) -> Albert:
    torch.manual_seed(0)
    return make_albert(**{**SMALL, "vocab_size": 60, "classifier_dropout": 0.0, **model_config})


def batch_of(size=8):
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(5, 60, (40,), generator=generator).tolist() for _ in range(9)]
    ngrams = NGrams(3, torch.arange(60) < 50)
    stream = MLMBatches(documents, size, SPECIAL, 60, seed=0, sentence_order=True, ngrams=ngrams)
    return next(stream)


FAULTS = {
    "gelu exact": lambda patch: patch.setitem(albert.ACTIVATIONS, "gelu_new", albert.ACTIVATIONS["gelu"]),
    "no group": lambda patch: patch.setattr(Albert, "group_of", lambda self, use: self.groups[0]),
    "mask ignored": lambda patch: patch.setattr(
        PostNormBlock, "forward", lambda self, x, mask, plain=PostNormBlock.forward: plain(self, x)
    ),
    "no pooler": lambda patch: patch.setattr(Albert, "pool", lambda self, hidden: hidden[:, 0]),
    "layer used once less": lambda patch: patch.setattr(Albert, "forward", one_use_less),
}


def one_use_less(self, tokens, mask=None, segments=None, plain=Albert.forward):
    uses, self.config = (
        self.config,
        albert.AlbertConfig(**{**vars(self.config), "layers": self.config.layers - 1}),
    )
    try:
        return plain(self, tokens, mask, segments)
    finally:
        self.config = uses


@pytest.mark.parametrize("fault", FAULTS)
def test_albert_parity_detects_planted_faults(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    pairs = list(albert.reference())
    assert len(pairs) == 10
    checks = [check for n, pair in enumerate(pairs, 1) for check in _parity("albert", n, pair)]
    failed = [check.name for check in checks if not check.passed]
    print(f"{fault}: {len(failed)} of {len(checks)} failed, first {failed[:1]}")
    assert failed


# ---- shared layers


@pytest.mark.parametrize(("groups", "group_layers"), [(1, 1), (2, 1), (1, 2)])
def test_gradient_of_a_shared_layer_is_the_sum_over_its_uses(groups, group_layers):
    """Against the same network with a copy of the layer for each use."""
    shared = small_albert(layers=4, groups=groups, group_layers=group_layers, head="pretraining").double()
    unrolled = small_albert(layers=4, groups=4, group_layers=group_layers, head="pretraining").double()
    state = shared.state_dict()
    copies = {
        f"groups.{use}.{name.split('.', 2)[2]}": value
        for name, value in state.items()
        for use in range(4)
        if name.startswith(f"groups.{use * groups // 4}.")
    }
    outside = {name: value for name, value in state.items() if not name.startswith("groups.")}
    unrolled.load_state_dict({**outside, **copies})
    batch = batch_of()
    batch = batch._replace(weights=batch.weights.double())
    losses = []
    for model in (shared, unrolled):
        losses.append(pretraining_loss(model.logits(*batch.rows, batch.positions), batch)["loss"])
        losses[-1].backward()
    gradients = {name: p.grad for name, p in unrolled.named_parameters()}
    worst = fewest = 0.0
    for name, p in shared.named_parameters():
        if not name.startswith("groups."):
            worst = max(worst, relative_error(p.grad, gradients[name]))
            continue
        _, group, rest = name.split(".", 2)
        uses = [gradients[f"groups.{use}.{rest}"] for use in range(4) if use * groups // 4 == int(group)]
        worst = max(worst, relative_error(p.grad, sum(uses)))
        fewest = max(fewest, relative_error(p.grad, uses[0]))
    print(f"{groups} × {group_layers}: sum {worst:.1e} apart, the first use alone {fewest:.1e}")
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-12)
    assert worst < 1e-10
    assert fewest > 0.01


def test_parameters_do_not_grow_with_uses():
    counts = [sum(p.numel() for p in small_albert(layers=n).parameters()) for n in (1, 3, 12)]
    assert len(set(counts)) == 1


# ---- objectives


def test_pretraining_loss_equals_definition():
    model, batch = small_albert(head="pretraining").double(), batch_of()
    batch = batch._replace(weights=batch.weights.double())
    metrics = pretraining_loss(model.logits(*batch.rows, batch.positions), batch)
    everywhere, order = model.logits(*batch.rows)
    losses = []
    for row, (positions, targets) in enumerate(zip(batch.positions, batch.targets, strict=True)):
        for position, target in zip(positions, targets, strict=True):
            if target != IGNORE_INDEX:
                logits = everywhere[row, position]
                losses.append((logits.logsumexp(0) - logits[target]).item())
    chances = order.softmax(1)
    pairs = [-math.log(chances[i, label].item()) for i, label in enumerate(batch.is_random_next)]
    expected = sum(losses) / len(losses) + sum(pairs) / len(pairs)
    print(
        f"{float(metrics['loss'])} and {expected} by hand, over {len(losses)} tokens and {len(pairs)} pairs"
    )
    assert float(metrics["loss"].detach()) == pytest.approx(expected, rel=1e-7)
    assert float(metrics["order_accuracy"]) == pytest.approx(
        sum(order.argmax(1) == batch.is_random_next).item() / len(pairs)
    )


def test_pretraining_loss_gradient_equals_that_of_micro_batches():
    gradients = []
    for accumulate in (1, 3):
        model = small_albert(head="pretraining").double()
        net, batch = HeadModule(model), batch_of()
        update = GradientUpdate(
            lambda b, net=net: pretraining_loss(net(*b.rows, b.positions), b),
            torch.optim.SGD(model.parameters(), 0.0),
            grad_accum_steps=accumulate,
        )
        update(batch._replace(weights=batch.weights.double()))
        gradients.append([p.grad for p in model.parameters()])
    worst = max(relative_error(a, b) for a, b in zip(*gradients, strict=True))
    print(f"gradients {worst:.1e} apart")
    assert worst < 1e-6


def test_albert_rejects_long_rows_and_no_ngrams():
    with pytest.raises(BadInput, match="25 tokens are more than the maximum length 24"):
        small_albert()(torch.ones(1, 25, dtype=torch.int64))
    with pytest.raises(BadInput, match="max_ngram must be at least 1, not 0"):
        ts.train("albert/smoke", max_ngram=0, quiet=True)


# ---- in use

TOPICS = [
    ["barn", "cow", "farmer", "hay", "hen", "horse"],
    ["anchor", "captain", "deck", "sail", "sea", "wave"],
]


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    """A masked language model of texts whose sentences begin in one order: first, then, last."""
    folder, random = tmp_path_factory.mktemp("albert"), Random(0)
    play = folder / "play.txt"
    blocks = (" ".join(random.choices(TOPICS[i % 2], k=200)) for i in range(40))
    play.write_text("\n\n".join(blocks))
    fields = {"data": str(play), "vocab_size": 90, "max_length": 20, "batch_size": 16, "steps": 40}
    fields |= {"lr": 2e-3, "ema_decay": 0.0, "device": "cpu"}
    ts.train("albert/masked", out=folder / "words", quiet=True, intervals={"evaluate": 40}, **fields)
    return folder / "words"


def test_masked_run_reports_sentence_order_and_fills_words(words_run):
    result = json.loads((words_run / "result.json").read_text())["metrics"]
    print(result)
    assert {"test/cross_entropy", "test/order_accuracy", "test/unigram"} <= result.keys()
    metrics = ts.evaluate(words_run)
    assert metrics["cross_entropy"] == pytest.approx(result["test/cross_entropy"], rel=1e-5)
    assert metrics["order_accuracy"] == pytest.approx(result["test/order_accuracy"])
    (answer,) = ts.predict(words_run, ["cow [MASK] hen barn"], fill=True)
    print(answer)
    assert "▁" not in answer["text"]
    assert len(answer["candidates"]) == 1


def test_exported_run_is_what_transformers_and_we_load(words_run, tmp_path):
    folder = export_hf(words_run, tmp_path / "hf")
    theirs = import_transformers().AlbertForPreTraining.from_pretrained(folder).eval()
    ours, tokenizer = ts.load(folder), load_tokenizer(folder)
    encoded = tokenizer.encode("cow barn", "sea")
    ids, types = torch.tensor([encoded.ids]), torch.tensor([encoded.type_ids])
    assert types.any()
    with torch.no_grad():
        other = theirs(ids, token_type_ids=types)
        own = ours.logits(ids, None, types)
    errors = [
        relative_error(a, b) for a, b in zip(own, (other.prediction_logits, other.sop_logits), strict=True)
    ]
    print(f"{errors} apart")
    assert max(errors) < 1e-5
    text = ["cow [MASK] hen barn"]
    assert ts.predict(folder, text, fill=True) == ts.predict(words_run, text, fill=True)


def test_classification_starts_from_a_folder(words_run, tmp_path):
    folder = export_hf(words_run, tmp_path / "hf")
    fields = {"weights": str(folder), "max_examples": 120, "steps": 2, "batch_size": 8, "device": "cpu"}
    ts.train("albert/smoke", out=tmp_path / "labels", quiet=True, **fields)
    before, after = ts.load(folder), ts.load(tmp_path / "labels")
    change = relative_error(after.token_embedding.weight, before.token_embedding.weight)
    print(f"token embedding changed by {change:.2g} in two steps")
    assert 0 < change < 0.2
    (answer,) = ts.predict(tmp_path / "labels", ["a good day"])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    with pytest.raises(BadInput, match=r"of model_type 'albert', not bert"):
        ts.train("bert/smoke", quiet=True, out=tmp_path / "no", **fields)
    assert not (tmp_path / "no").exists()
