"""Labelled text: each form of file read, its split kept or cut once for all, and what is wrong told."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from torchstone.data.text.classification import read_labeled
from torchstone.errors import BadInput

ROWS = [(f"text {i}, said “so”", "good" if i % 3 else "bad") for i in range(30)]


def written(folder, name: str):
    """ROWS in the form that the file's name says."""
    file = folder / name
    if name.endswith(".jsonl"):
        lines = [json.dumps({"label": b, "text": a}) for a, b in ROWS]
    elif name.endswith(".tsv"):
        lines = [f"{a}\t{b}" for a, b in ROWS]
    else:
        lines = ["sentiment,text", *(f'{b},"{a}"' for a, b in ROWS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def everything(data) -> list[tuple]:
    """(text, class) of all splits."""
    return [
        (text, data.classes[label])
        for part in (data.train, data.val, data.test)
        for text, label in zip(part.first, part.labels, strict=True)
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_each_form_holds_the_same(name, tmp_path):
    data = read_labeled(written(tmp_path, name))
    print(data.description)
    assert data.classes == ("bad", "good")
    assert sorted(everything(data)) == sorted(ROWS)
    assert [len(p) for p in (data.train, data.val, data.test)] == [24, 3, 3]
    for part in (data.train, data.val, data.test):
        assert Counter(part.labels)[0] == len(part) // 3  # cut by class
    assert data.train.second is None
    assert not data.words


def test_a_split_is_cut_the_same_way_every_time_and_nothing_is_in_two(tmp_path):
    first, again = (read_labeled(written(tmp_path, "a.csv")) for _ in range(2))
    assert everything(first) == everything(again)
    assert len(set(everything(first))) == len(ROWS)


def test_published_splits_are_kept(tmp_path):
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


def test_pairs_by_name_and_by_place(tmp_path):
    by_name = tmp_path / "a.csv"
    by_name.write_text("label,premise,hypothesis\n" + "yes,one,two\nno,three,four\n" * 5)
    by_place = tmp_path / "b.tsv"
    by_place.write_text("one\ttwo\tyes\nthree\tfour\tno\n" * 5)
    for file in (by_name, by_place):
        data = read_labeled(str(file))
        assert data.train.second is not None
        pairs = set(zip(data.train.first, data.train.second, data.train.labels, strict=True))
        assert pairs == {("one", "two", 1), ("three", "four", 0)}


def test_words_with_labels(tmp_path):
    file = tmp_path / "a.conll"
    block = "Anna NNP B-PER\nlives VBZ O\n\n-DOCSTART- -X- O\n\nin IN O\nRome NNP B-LOC\n\n"
    file.write_text(block * 6)
    data = read_labeled(str(file))
    assert data.words
    assert data.classes == ("B-LOC", "B-PER", "O")
    assert set(data.train.first) == {("Anna", "lives"), ("in", "Rome")}
    assert {tuple(each) for each in data.train.labels} == {(1, 2), (2, 0)}
    assert sum(map(len, (data.train, data.val, data.test))) == 12


def test_numbers_are_classes_in_their_order(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"text {i}\t{i % 11}\n" for i in range(44)))
    assert read_labeled(str(file)).classes == tuple(map(str, range(11)))


def test_quotes_in_a_tsv_are_characters(tmp_path):
    """Tweets open quotations that they never close; a reader of quotes swallows the lines between."""
    file = tmp_path / "a.tsv"
    file.write_text("".join(f'"he said {i}\t{i % 2}\n' for i in range(20)))
    data = read_labeled(str(file))
    assert sum(map(len, (data.train, data.val, data.test))) == 20
    assert all(text.startswith('"') for text in data.train.first)


def test_the_bundled_set_is_of_unique_texts_with_one_label():
    data = read_labeled("sentiment")
    texts = [text for text, _ in everything(data)]
    counts = Counter(label for _, label in everything(data))
    print(data.description, counts)
    assert len(texts) == len(set(texts)) == 37_197
    assert data.classes == ("negative", "neutral", "positive")
    assert counts == {"negative": 15_955, "neutral": 14_431, "positive": 6_811}
    small = read_labeled("sentiment", 1000)
    assert sum(map(len, (small.train, small.val, small.test))) == pytest.approx(1000, abs=3)
    assert set(small.test.first) <= set(data.test.first)  # a part of each split, not another cut


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "is empty"),
        ("a.tsv", "one\t1\ntwo\n", "row 2: 1 cells where row 1 has 2"),
        ("a.csv", "text,label\none,1\n,2\n", "data row 2: the text is empty"),
        ("a.csv", "text,label\none,1\ntwo,\n", "data row 2: the label is empty"),
        ("a.csv", "words,label\none,1\ntwo,2\n", "no column named text, only words, label"),
        ("a.tsv", "a\tb\tc\td\n", "4 columns without names"),
        ("a.tsv", "one\t1\n" * 5, "has the one label '1'"),
        (
            "a.tsv",
            "one\t1\n" * 5 + "two\t2\n",
            "label '2' of .* has 1 examples; it needs at least 3",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"\n', "line 2 is no JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 1}\n', "line 2 is no JSON object"),
        ("a.conll", "word\n", "line 1: 'word' has no label"),
        ("a.docx", "text", "is no labelled text: give .csv"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(name, content, said, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(BadInput, match=said) as caught:
        read_labeled(str(file))
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_bytes(b"one\t1\ntw\xff\t2\n")
    with pytest.raises(BadInput, match=r"is not UTF-8 \(byte 8\)"):
        read_labeled(str(file))


def test_nothing_there(tmp_path):
    with pytest.raises(BadInput, match="did you mean sentiment"):
        read_labeled("sentiments")
    with pytest.raises(BadInput, match="has no train file"):
        read_labeled(str(tmp_path))


def test_a_label_that_training_never_saw(tmp_path):
    (tmp_path / "train.tsv").write_text("one\t1\ntwo\t2\n" * 4)
    (tmp_path / "test.tsv").write_text("three\t3\n")
    with pytest.raises(BadInput, match="test has the label '3', train has not; known are 1, 2"):
        read_labeled(str(tmp_path))


def test_a_hub_set(monkeypatch):
    """Columns by their names, classes by theirs; a split published without labels is left out."""

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
        return {
            "train": train,
            "validation": Table(idx=[1], sentence=["v"], label=[1]),
            "test": hidden,
        }

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = read_labeled("hf:someone/set")
    assert data.classes == ("bad", "good")
    assert list(data.val.first) == ["v"]
    assert (len(data.train), len(data.test)) == (36, 4)
