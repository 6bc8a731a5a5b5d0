"""Classification by a recurrent network: texts, pairs, and each word; trained on a few separable lines."""

import random

import pytest
import torch

from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.systems.recurrent import gru, lstm

GOOD, BAD = ("fine", "lovely", "warm"), ("dull", "grim", "cold")


def recipe(module, data, **fields):
    defaults = {"task": "label", "data": str(data), "hidden": 12, "seq_len": 16, "vocab_size": 80}
    defaults |= {"batch_size": 8, "steps": 200, "lr": 2e-2, "device": "cpu", "bidirectional": True}
    return replace_fields(module.RECIPES["smoke"], defaults | {"forget_bias": None} | fields)


def trained(module, data, **fields):
    run = next(iter(module.build(recipe(module, data, **fields))))
    for _ in range(run.steps):
        run.update(next(run.stream))
    run.state["model"].eval()
    return run


@pytest.fixture
def texts(tmp_path):
    """The label is whether the last word is a good one: the order counts."""
    lines = ["text,label"]
    for i in range(120):
        words = (GOOD[i % 3], BAD[i // 3 % 3])
        words = words[::-1] if i % 2 else words
        lines.append(f"it was {words[0]} {'then ' * (i % 4)}{words[1]},{'good' if i % 2 else 'bad'}")
    file = tmp_path / "texts.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
def test_classifier_labels_texts(texts, pool):
    run = trained(lstm, texts, pool=pool)
    metadata, model = run.metadata, run.state["model"]
    again = lstm.VARIANTS[metadata["variant"]].make(**metadata["model_config"])
    again.load_state_dict(model.state_dict())
    found = lstm.evaluate(again.eval(), metadata, str(texts), held_out=True)
    print(found)
    assert found["accuracy"] == 1.0
    answers = lstm.predict(model, metadata, ["it was grim then fine", "it was fine then grim"])
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert answers[0]["probability"] > 0.8
    assert len(lstm.predict(model, metadata, ["it was fine then grim " * 30])) == 1  # longer than a file name
    if pool == "last":  # a table's header and labels are no part of its texts
        table = texts.with_name("more.csv")
        table.write_text("stars,text,label\n1,it was grim then fine,good\n2,it was fine then grim,bad\n")
        assert lstm.predict(model, metadata, [table]) == answers
        table.write_text("1,it was grim then fine\n")
        with pytest.raises(BadInput, match="2 columns without names"):
            lstm.predict(model, metadata, [table])
    assert run.test()["tfidf"] < 0.9, "counting words does not tell"


@pytest.mark.sweep
def test_classifier_labels_words(tmp_path):
    """A word's label depends on the one after it: only who reads both ways can tell."""
    file, lines, draw = tmp_path / "words.conll", [], random.Random(0)
    for i in range(90):
        words = draw.choices("abc", k=3 + i % 5)
        labels = [f"x{following}" for following in [*words[1:], "end"]]
        lines += [f"{word} {label}" for word, label in zip(words, labels, strict=True)] + [""]
    file.write_text("\n".join(lines))
    run = trained(gru, file, implementation="reference", steps=250)
    found = gru.evaluate(run.state["model"], run.metadata, str(file), held_out=True)
    assert found["accuracy"] > 0.99
    (answer,) = gru.predict(run.state["model"], run.metadata, ["a c b b"])
    assert answer["labels"] == ["xc", "xb", "xb", "xend"]
    blind = trained(gru, file, bidirectional=False, steps=250)
    assert gru.evaluate(blind.state["model"], blind.metadata, str(file), held_out=True)["accuracy"] < 0.8


def test_classifier_labels_pairs_and_rejects_other_labels(tmp_path, texts):
    file = tmp_path / "pairs.tsv"
    rows = [f"{GOOD[i % 3]}\t{(GOOD if i % 2 else BAD)[i // 3 % 3]}\t{i % 2}" for i in range(60)]
    file.write_text("\n".join(["text\ttext2\tlabel", *rows]))
    run = trained(lstm, file, steps=2)
    assert torch.isfinite(torch.tensor(run.evaluate()["loss"]))
    (answer,) = lstm.predict(run.state["model"], run.metadata, ["fine ||| grim"])
    assert set(answer["probabilities"]) == {"0", "1"}
    with pytest.raises(BadInput, match="this model classifies pairs"):
        lstm.predict(run.state["model"], run.metadata, ["fine"])
    with pytest.raises(BadInput, match="has the labels bad, good"):
        lstm.evaluate(run.state["model"], run.metadata, str(texts), held_out=False)
