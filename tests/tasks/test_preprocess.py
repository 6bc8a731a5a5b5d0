"""`preprocess` of a run's model: tensors equal to those that its training stream holds of the same input."""

import pytest
import soundfile
import torch

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.runs.recipes import recipe_of
from torchstone.tasks.preprocess import preprocessor

WORDS = ["red", "green", "blue", "cat", "dog", "sun"]
TEXTS = [f"the {a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]


def built(name, data, **fields):
    """A run before its first step: data read, tokenizer and statistics made, network initialized."""
    entry, _, recipe = recipe_of(name, {"data": str(data), "device": "cpu", **fields})
    return [*entry.module().build(recipe)][-1]  # the phase after pre-training, if there is one


def write_texts(folder, columns=1):
    rows = [
        ",".join(TEXTS[i + k] for k in range(columns)) + f",{'good' if i % 2 else 'bad'}" for i in range(60)
    ]
    header = {1: "text", 2: "sentence1,sentence2"}[columns]
    (folder / "a.csv").write_text("\n".join([f"{header},label", *rows]) + "\n")
    return folder / "a.csv"


def write_words(folder):
    lines = [f"{word} {'X' if word in WORDS else 'O'}" for text in TEXTS for word in [*text.split(), ""]]
    (folder / "a.conll").write_text("\n".join(line if line != " O" else "" for line in lines) + "\n")
    return folder / "a.conll"


def write_pairs(folder):
    (folder / "a.tsv").write_text("".join(f"{text}\t{text[4:]}\n" for text in TEXTS))
    return folder / "a.tsv"


def write_sounds(folder, speakers=False):
    generator = torch.Generator().manual_seed(0)
    files = [f"{'ab'[i % 2]}/{i}.wav" if speakers else f"{i}.wav" for i in range(16)]
    for i, name in enumerate(files):
        (folder / name).parent.mkdir(exist_ok=True)
        wave = torch.rand(4000 + 100 * i, generator=generator) - 0.5
        soundfile.write(folder / name, wave.numpy(), 8000)
    if not speakers:
        table = [f"{name},{WORDS[i % 6]}" for i, name in enumerate(files)]
        (folder / "all.csv").write_text("\n".join(["file,text", *table]) + "\n")
    return folder


def unpadded(rows):
    """Rows of token ids without the padding 0 at their ends."""
    return {tuple(row[: int((row != 0).nonzero().max()) + 1].tolist()) for row in rows}


@pytest.mark.parametrize(("columns", "network"), [(1, "lstm"), (2, "bert"), (0, "bert")])
def test_preprocess_of_labeled_texts_equals_the_training_rows(columns, network, tmp_path):
    data = write_texts(tmp_path, columns) if columns else write_words(tmp_path)
    fields = {"hidden": 8, "task": "label"} if network == "lstm" else {}
    run = built(f"{network}/smoke", data, vocab_size=60, **fields)
    kept = {}  # the run's rows by their text
    preprocess = preprocessor(run.metadata)
    texts = [line.rpartition(",")[0].replace(",", " ||| ") for line in data.read_text().splitlines()[1:]]
    texts = texts if columns else TEXTS
    rows = preprocess(texts)
    for i in range(len(run.stream.rows)):
        batch = run.stream.collate([i]).rows
        kept[tuple(batch.tokens[0].tolist())] = batch
    found = 0
    for i in range(len(texts)):
        one = preprocess(texts[i])
        if batch := kept.get(tuple(one.tokens[0].tolist())):
            found += 1
            assert all(torch.equal(a, b) for a, b in zip(one, batch, strict=True))
    print(f"{found} of {len(kept)} rows of training found, {tuple(rows.tokens.shape)} in all")
    assert found >= len(kept)
    assert rows.tokens.shape[0] == len(texts)
    assert rows.segments.any() == (columns == 2)
    logits = run.state["model"].logits(*rows)
    assert logits.shape[0] == len(texts)


def test_preprocess_of_a_text_to_continue_equals_the_training_tokens(tmp_path):
    text = "\n".join(TEXTS) + "\n"
    (tmp_path / "a.txt").write_text(text)
    run = built("gpt/smoke", tmp_path / "a.txt")
    preprocess = preprocessor(run.metadata)
    ids = preprocess(text[:31])
    assert torch.equal(ids[0], run.stream.rows[0, :31])
    assert ids.dtype == torch.int64
    assert preprocess([text[:5], text[5:10]]).shape == (2, 5)
    with pytest.raises(BadInput, match="2 to 3 tokens, and a language model has no padding"):
        preprocess(["th", "the"])
    with pytest.raises(BadInput, match="empty input"):
        preprocess("")


@pytest.mark.parametrize("network", ["t5", "transformer", "seq2seq"])
def test_preprocess_of_texts_to_rewrite_equals_the_training_sources(network, tmp_path):
    spec = {"t5": "t5/texts"}.get(network, f"{network}/smoke")
    run = built(spec, write_pairs(tmp_path), vocab_size=60 if network == "t5" else 300)
    sources = unpadded(run.stream.sources.pad_rows(torch.arange(len(run.stream.sources)), 0))
    own = preprocessor(run.metadata)(TEXTS)
    print(f"{len(sources)} sources of training, {tuple(own.shape)} of all texts")
    assert sources <= unpadded(own)
    assert len(sources) > 40


def test_preprocess_of_speech_equals_the_training_features(tmp_path):
    run = built("ctc/smoke", write_sounds(tmp_path))
    metadata, preprocess = run.metadata, preprocessor(run.metadata)
    names = [tmp_path / f"{i}.wav" for i in range(16)]
    features, frames = preprocess(names)
    assert features.shape[0] == 16
    stacked = torch.cat([row[:n] for row, n in zip(features, frames, strict=True)])
    print(stacked.mean(), stacked.std(), "of features that are standardized over the training split")
    assert float(stacked.mean().abs()) < 0.2
    one, count = preprocess(names[3])
    assert torch.allclose(one[0], features[3, : int(count[0])], atol=1e-5)
    logits = run.state["model"](features, frames)
    assert logits.shape[2] == 1 + len(metadata["alphabet"])


def test_preprocess_of_voices_equals_the_training_rows(tmp_path):
    run = built("lstm/smoke", write_sounds(tmp_path, speakers=True), task="voices", hidden=8)
    features, frames = preprocessor(run.metadata)(tmp_path)
    own = [row[:n] for row, n in zip(features, frames.tolist(), strict=True)]
    matches = sum(any(a.shape == b.shape and torch.equal(a, b) for b in own) for a in run.stream.rows)
    print(f"{matches} of {len(run.stream.rows)} rows of training among {len(own)} files")
    assert matches == len(run.stream.rows)
    assert run.state["model"](features, frames).shape == (16, 2)


def test_preprocess_of_other_networks_says_that_there_is_none(trained_run):
    with pytest.raises(
        BadInput, match="no preprocessing of images, rows of a table, texts, sounds: its task is"
    ):
        preprocessor({"task": "play"})("a")
    model = ts.load(trained_run("gpt"))
    assert model.preprocess("import").shape[0] == 1
    assert model.classes is None
    assert model.metadata["task"] == "language"
