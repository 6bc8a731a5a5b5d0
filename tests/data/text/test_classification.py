"""Labeled text: every file format, published and cut splits, and error messages."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from torchstone.data.text.classification import read_labeled
from torchstone.errors import BadInput

ROWS = [(f"text {i}, said “so”", "good" if i % 3 else "bad") for i in range(30)]


def write_rows(folder, name: str):
    """Write ROWS in the format of the file's suffix."""
    file = folder / name
    if name.endswith(".jsonl"):
        lines = [json.dumps({"label": b, "text": a}) for a, b in ROWS]
    elif name.endswith(".tsv"):
        lines = [f"{a}\t{b}" for a, b in ROWS]
    else:
        lines = ["sentiment,text", *(f'{b},"{a}"' for a, b in ROWS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def all_examples(data) -> list[tuple]:
    """(text, class) of all splits."""
    return [
        (text, data.classes[label])
        for part in (data.train, data.val, data.test)
        for text, label in zip(part.first, part.labels, strict=True)
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_read_labeled_reads_every_table_format(name, tmp_path):
    data = read_labeled(write_rows(tmp_path, name))
    print(data.description)
    assert data.classes == ("bad", "good")
    assert sorted(all_examples(data)) == sorted(ROWS)
    assert [len(p) for p in (data.train, data.val, data.test)] == [24, 3, 3]
    for part in (data.train, data.val, data.test):
        assert Counter(part.labels)[0] == len(part) // 3  # cut by class
    assert data.train.second is None
    assert not data.has_word_labels


def test_read_labeled_cuts_disjoint_splits_reproducibly(tmp_path):
    first, again = (read_labeled(write_rows(tmp_path, "a.csv")) for _ in range(2))
    assert all_examples(first) == all_examples(again)
    assert len(set(all_examples(first))) == len(ROWS)


def test_read_labeled_keeps_published_splits(tmp_path):
    (tmp_path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in ROWS[:20]))
    (tmp_path / "dev.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in ROWS[20:25]))
    (tmp_path / "test.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in ROWS[25:]))
    data = read_labeled(str(tmp_path))
    assert list(data.val.first) == [a for a, _ in ROWS[20:25]]
    assert list(data.test.first) == [a for a, _ in ROWS[25:]]
    assert len(data.train) == 20
    (tmp_path / "dev.tsv").unlink()
    data = read_labeled(str(tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 5)


def test_read_labeled_reads_pairs_with_and_without_header(tmp_path):
    by_name = tmp_path / "a.csv"
    by_name.write_text("label,premise,hypothesis\n" + "yes,one,two\nno,three,four\n" * 5)
    by_position = tmp_path / "b.tsv"
    by_position.write_text("one\ttwo\tyes\nthree\tfour\tno\n" * 5)
    for file in (by_name, by_position):
        data = read_labeled(str(file))
        assert data.train.second is not None
        pairs = set(zip(data.train.first, data.train.second, data.train.labels, strict=True))
        assert pairs == {("one", "two", 1), ("three", "four", 0)}


def test_read_labeled_reads_conll_word_labels(tmp_path):
    file = tmp_path / "a.conll"
    block = "Anna NNP B-PER\nlives VBZ O\n\n-DOCSTART- -X- O\n\nin IN O\nRome NNP B-LOC\n\n"
    file.write_text(block * 6)
    data = read_labeled(str(file))
    assert data.has_word_labels
    assert data.classes == ("B-LOC", "B-PER", "O")
    assert set(data.train.first) == {("Anna", "lives"), ("in", "Rome")}
    assert {tuple(each) for each in data.train.labels} == {(1, 2), (2, 0)}
    assert sum(map(len, (data.train, data.val, data.test))) == 12


def test_read_labeled_sorts_numeric_classes_by_value(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"text {i}\t{i % 11}\n" for i in range(44)))
    assert read_labeled(str(file)).classes == tuple(map(str, range(11)))


def test_read_labeled_takes_quotes_in_tsv_literally(tmp_path):
    """Tweets open quotations that they never close; a reader of quotes swallows the lines between."""
    file = tmp_path / "a.tsv"
    file.write_text("".join(f'"he said {i}\t{i % 2}\n' for i in range(20)))
    data = read_labeled(str(file))
    assert sum(map(len, (data.train, data.val, data.test))) == 20
    assert all(text.startswith('"') for text in data.train.first)


def test_read_labeled_bundled_sentiment_has_unique_texts():
    data = read_labeled("sentiment")
    texts = [text for text, _ in all_examples(data)]
    counts = Counter(label for _, label in all_examples(data))
    print(data.description, counts)
    assert len(texts) == len(set(texts)) == 37_197
    assert data.classes == ("negative", "neutral", "positive")
    assert counts == {"negative": 15_955, "neutral": 14_431, "positive": 6_811}
    small = read_labeled("sentiment", 1000)
    assert sum(map(len, (small.train, small.val, small.test))) == pytest.approx(1000, abs=3)
    assert set(small.test.first) <= set(data.test.first)  # a part of each split, not another cut


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.tsv", "one\t1\ntwo\n", "row 2: 1 cells where row 1 has 2"),
        ("a.csv", "text,label\none,1\n,2\n", "data row 2: the text is empty"),
        ("a.csv", "text,label\none,1\ntwo,\n", "data row 2: the label is empty"),
        ("a.csv", "words,label\none,1\ntwo,2\n", "no column named text, only words, label"),
        ("a.tsv", "a\tb\tc\td\n", "4 columns without names"),
        ("a.tsv", "one\t1\n" * 5, "has the one label '1'"),
        ("a.tsv", "one\t1\n" * 5 + "two\t2\n", "label '2' of .* has 1 examples; it needs at least 3"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"\n', "line 2 is no JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 1}\n', "line 2 is no JSON object"),
        ("a.conll", "word\n", "line 1: 'word' has no label"),
        ("a.docx", "text", "is no labeled text: give .csv"),
    ],
)
def test_read_labeled_reports_malformed_file_in_one_line(name, content, message, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_labeled(str(file))
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_read_labeled_rejects_invalid_utf8(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_bytes(b"one\t1\ntw\xff\t2\n")
    with pytest.raises(BadInput, match=r"is not UTF-8 \(byte 8\)"):
        read_labeled(str(file))


def test_read_labeled_rejects_missing_set_and_folder_without_train(tmp_path):
    with pytest.raises(BadInput, match="did you mean sentiment"):
        read_labeled("sentiments")
    with pytest.raises(BadInput, match="has no train file"):
        read_labeled(str(tmp_path))


def test_read_labeled_rejects_label_absent_from_train(tmp_path):
    (tmp_path / "train.tsv").write_text("one\t1\ntwo\t2\n" * 4)
    (tmp_path / "test.tsv").write_text("three\t3\n")
    with pytest.raises(BadInput, match="test has the label '3', train has not; known are 1, 2"):
        read_labeled(str(tmp_path))


def test_read_labeled_reads_hub_set(monkeypatch):
    """Columns and classes by their names; a split published without labels is left out."""

    class Table(dict):
        def __init__(self, **columns):
            super().__init__(columns)
            self.column_names = list(columns)
            self.features = {name: SimpleNamespace() for name in columns}
            self.features["label"].int2str = ["bad", "good"].__getitem__

    def load(name):
        assert name == "someone/set"
        train = Table(idx=list(range(40)), sentence=[f"text {i}" for i in range(40)], label=[0, 1] * 20)
        hidden = Table(idx=[1, 2], sentence=["a", "b"], label=[-1, -1])
        return {"train": train, "validation": Table(idx=[1], sentence=["v"], label=[1]), "test": hidden}

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = read_labeled("hf:someone/set")
    assert data.classes == ("bad", "good")
    assert list(data.val.first) == ["v"]
    assert (len(data.train), len(data.test)) == (36, 4)
