"""Labeled text: every file format, published and cut splits, and error messages."""

import json
from collections import Counter

import pytest

from torchstone.data.text.classification import read_labeled
from torchstone.data.text.classification_files import read_unlabeled
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
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 1}\n', "data row 2: the text is empty"),
        ("a.csv", "text,label\none,1\nnan,2\n", "data row 2: the text is 'nan', which stands for none"),
        ("a.csv", "text,label\none,1\ntwo,NaN\n", "data row 2: the label is 'NaN', which stands for none"),
        (
            "a.csv",
            "text,category,sentiment\none,1,2\n",
            "category and sentiment, which may each be the label",
        ),
        ("a.csv", "sentence,review,label\none,two,1\n", "sentence and review, which may each be the text"),
        # a header that is not known
        ("a.csv", "tweet,polarity\n" + "a,1\nb,2\nc,1\nd,2\n" * 5, "begins with 'tweet', 'polarity'"),
        ("a.tsv", "polarity\ttweet\n1\ta\n2\tb\n1\tc\n2\td\n", "begins with 'polarity', 'tweet'"),
        # words with labels, of which there are more layouts than one
        ("a.tsv", "Anna\tB-PER\nlives\tO\n\nin\tO\nRome\tB-LOC\n" * 9, "call it a.conll"),
        ("a.iob", "I|O like|O London|B-GPE\nyes|O\n" * 9, "a sentence on each line, as I|O"),
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


def conll(tmp_path, text):
    file = tmp_path / "a.conll"
    file.write_text(text, encoding="utf-8")
    return read_labeled(str(file))


def sentences(data):
    return {
        (words, tuple(data.classes[i] for i in labels))
        for part in (data.train, data.val, data.test)
        for words, labels in zip(part.first, part.labels, strict=True)
    }


METADATA = {
    "MultiCoNER": "# id 5628e {i}\tdomain=en",
    "CoNLL-U": "# sent_id = {i}\n# text = it may rain",
    "CoNLL-2012": "#begin document (a/b); part {i}",
    "one cell": "#{i}",
}


@pytest.mark.parametrize("layout", METADATA)
def test_read_labeled_conll_metadata_are_no_words(layout, tmp_path):
    """A comment is no word, whatever its columns; a # inside a sentence is one, and a #hashtag before it."""
    word = "\u00a0_\u00a0" if layout == "one cell" else "_ _"  # a no-break space separates no columns
    blocks = "".join(
        f"{METADATA[layout].format(i=i)}\nroom {word} O\n# {word} O\n5 {word} B-NUM\n\n#fun {word} O\nyes {word} O\n\n"
        for i in range(8)
    )
    data = conll(tmp_path, blocks)
    print(data.description, sentences(data))
    assert data.classes == ("B-NUM", "O")
    assert sentences(data) == {(("room", "#", "5"), ("O", "O", "B-NUM")), (("#fun", "yes"), ("O", "O"))}


def test_read_labeled_conll_words_with_spaces_between_tabs(tmp_path):
    data = conll(tmp_path, "New York\tB-LOC\nis\tO\nbig\u2028city\tO\n\n" * 8)
    print(sentences(data))
    assert sentences(data) == {(("New York", "is", "big\u2028city"), ("B-LOC", "O", "O"))}


def test_read_labeled_conll_numbered_words_are_refused(tmp_path):
    with pytest.raises(BadInput, match="numbers its words in the first column, as CoNLL-U") as caught:
        conll(tmp_path, "# text = it rains\n1\tit\tPRON\n2\trains\tVERB\n\n" * 8)
    print(caught.value)


TABLES = {
    "semicolon": "text;label\n" + "good, so;1\nbad, so;0\n" * 10,
    "semicolon, no names": "good, so;1\nbad;0\n" * 10,
    "stated": "sep=;\ntext;label\n" + "good;1\nbad;0\n" * 10,
    "mark": "\ufefftext,label\n" + "good,1\nbad,0\n" * 10,
    "label first": "".join(f'{i % 2},"text {i}"\n' for i in range(20)),
    "label last": "".join(f'"text {i}",{i % 2}\n' for i in range(20)),
    "long": "text,label\n" + f"{'good ' * 30_000},1\nbad,0\n" * 10,
}


@pytest.mark.parametrize("kind", TABLES)
def test_read_labeled_csv_dialects(kind, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(TABLES[kind], encoding="utf-8")
    data = read_labeled(str(file))
    print(data.description, [text[:20] for text in data.train.first[:2]])
    assert data.classes == ("0", "1")
    texts = {text for text, _ in all_examples(data)}
    assert not texts & {"0", "1"}
    assert len(all_examples(data)) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,text,label\n" + "a,b,1\nc,d,2\n" * 9, "two columns named text"),
        ("a.csv", "1,one\n2,two\n1,two\n2,three\n1,three\n2,one\n", "2 different values .* 3 in its last"),
        ("a.jsonl", '{"text": null, "label": 1}\n', "data row 1: the text is empty"),
        ("a.jsonl", '{"text": NaN, "label": 1}\n', "data row 1: the text is empty"),
        ("a.jsonl", '{"text": ["a"], "label": 1}\n', "text holds a list, not a text"),
    ],
)
def test_read_labeled_refuses_two_readings_and_missing_texts(name, content, message, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_labeled(str(file))
    print(caught.value)


def test_read_labeled_jsonl_separators_inside_texts(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": f"a\u2028b\x85{i}", "label": i % 2}, ensure_ascii=False) for i in range(20)]
    file.write_text("\n".join(rows), encoding="utf-8")
    texts = {text for text, _ in all_examples(read_labeled(str(file)))}
    print(texts)
    assert texts == {f"a\u2028b\x85{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv", "id,text,label\n1,good,1\n2,bad,0\n", ["good", "bad"]),
        ("a.csv", "review\ngood\nbad\n", ["good", "bad"]),
        ("a.csv", '"good, so"\nbad\n', ["good, so", "bad"]),
        ("a.tsv", "label\ttext\n1\tgood\n", ["good"]),
        ("a.jsonl", '{"label": 1, "text": "good"}\n', ["good"]),
        ("a.txt", "\ufeffgood, so\n\nbad\n", ["good, so", "bad"]),
    ],
)
def test_read_unlabeled_takes_the_column_of_texts(name, content, wanted, tmp_path):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    found = read_unlabeled(file, pairs=False, words=False)
    print(found)
    assert found == [(text, None) for text in wanted]


def test_read_unlabeled_pairs_words_and_refusals(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("premise,hypothesis,label\na,b,1\n")
    assert read_unlabeled(file, pairs=True, words=False) == [("a", "b")]
    (tmp_path / "a.conll").write_text("# id 1\nAnna B-PER\nlives O\n\nhere\n")
    assert read_unlabeled(tmp_path / "a.conll", pairs=False, words=True) == [
        ("Anna lives", None),
        ("here", None),
    ]
    for content, said in (
        ("good,1\nbad,0\n", "2 columns without names"),
        ("stars,label\n1,2\n", "no column named text"),
    ):
        file.write_text(content)
        with pytest.raises(BadInput, match=said) as caught:
            read_unlabeled(file, pairs=False, words=False)
        print(caught.value)


def hub_set(monkeypatch, **splits):
    """`load_dataset` gives these splits: columns by name, `label` a class label unless it is text."""
    import datasets

    def table(columns):
        features = datasets.Features(
            {
                name: datasets.ClassLabel(names=["bad", "good"])
                if name == "label" and not any(isinstance(v, str) for v in values)
                else datasets.Value("int64" if isinstance(values[0], int) else "string")
                for name, values in columns.items()
            }
        )
        return datasets.Dataset.from_dict(columns, features=features)

    made = datasets.DatasetDict({split: table(columns) for split, columns in splits.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_: made)


HIDDEN = {
    "-1": {"idx": [1, 2], "sentence": ["a", "b"], "label": [-1, -1]},
    "null": {"idx": [1, 2], "sentence": ["a", "b"], "label": [None, None]},
    "no column": {"idx": [1, 2], "sentence": ["a", "b"]},
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_read_labeled_hub_set_without_test_labels(monkeypatch, hidden):
    """Columns and classes by their names; a split published without labels is left out."""
    hub_set(
        monkeypatch,
        train={"idx": list(range(40)), "sentence": [f"text {i}" for i in range(40)], "label": [0, 1] * 20},
        validation={"idx": [1], "sentence": ["v"], "label": [1]},
        test=HIDDEN[hidden],
    )
    data = read_labeled("hf:someone/set")
    print(data.description)
    assert data.classes == ("bad", "good")
    assert list(data.val.first) == ["v"]
    assert (len(data.train), len(data.test)) == (36, 4)
    assert "test has no labels: left out" in data.description


@pytest.mark.parametrize("kind", ["class", "text"])
def test_read_labeled_hub_rows_without_text_or_label_left_out(monkeypatch, kind):
    label = [i % 2 if kind == "class" else "ab"[i % 2] for i in range(40)]
    label[7] = None
    texts = [None if i % 4 == 0 else "" if i == 5 else f"text {i}" for i in range(40)]
    hub_set(monkeypatch, train={"text": texts, "label": label})
    data = read_labeled("hf:someone/set")
    print(data.description)
    assert "12 rows without a text or a label left out" in data.description
    assert {text for text, _ in all_examples(data)} == {
        f"text {i}" for i in range(40) if i % 4 and i not in (5, 7)
    }
    assert data.classes == (("bad", "good") if kind == "class" else ("a", "b"))


def test_read_labeled_hub_numbers_can_be_negative(monkeypatch):
    import datasets

    columns = {"text": [f"text {i}" for i in range(30)], "label": [i % 3 - 1 for i in range(30)]}
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_: made)
    data = read_labeled("hf:someone/set")
    print(data.classes)
    assert set(data.classes) == {"-1", "0", "1"}


def test_read_labeled_name_of_a_column_that_recurs_is_a_label(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("".join(f"text {i},{'statement' if i % 2 else 'question'}\n" for i in range(30)))
    data = read_labeled(str(file))
    print(data.description)
    assert data.classes == ("question", "statement")
    assert len(all_examples(data)) == 30


def test_read_labeled_json_lines_without_nulls(tmp_path):
    """Some writers leave out a key whose value is null; columns that are not read are said."""
    file = tmp_path / "a.jsonl"
    rows = [{"text": f"text {i}", "label": i % 2} | ({"note": "x"} if i % 3 else {}) for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_labeled(str(file))
    print(data.description)
    assert len(all_examples(data)) == 30
    assert "column note not read" in data.description


def test_read_labeled_question_and_sentence_are_a_pair(tmp_path):
    """As in QNLI, for training and for what is to be classified."""
    file = tmp_path / "a.csv"
    file.write_text("question,sentence,label\n" + "".join(f"q{i},s{i},{i % 2}\n" for i in range(30)))
    data = read_labeled(str(file))
    assert data.train.second is not None
    assert all(a[1:] == b[1:] for a, b in zip(data.train.first, data.train.second, strict=True))
    assert read_unlabeled(file, pairs=True, words=False)[3] == ("q3", "s3")


def test_read_labeled_suffixes_in_capitals_and_labels_of_a_column_with_gaps(tmp_path):
    """1.0 in one file is 1 in another; splits by names in capitals too."""
    for name, labels in (("Train.CSV", "0.0 1.0"), ("dev.csv", "0 1"), ("TEST.csv", "1 0")):
        rows = [f"text {i},{labels.split()[i % 2]}\n" for i in range(20)]
        (tmp_path / name).write_text("text,label\n" + "".join(rows))
    data = read_labeled(str(tmp_path))
    print(data.description)
    assert data.classes == ("0", "1")
    assert [len(part) for part in (data.train, data.val, data.test)] == [20, 20, 20]
    assert list(data.test.labels)[:2] == [1, 0]
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(BadInput, match=r"Train\.CSV and train\.jsonl, which are both a train split"):
        read_labeled(str(tmp_path))
    for file in tmp_path.glob("[Tt]rain*"):
        file.unlink()
    (tmp_path / "train.conll").write_text("a 0\nb 1\n\n" * 9)
    with pytest.raises(BadInput, match=r"labels are of words in one of train and (val|test)"):
        read_labeled(str(tmp_path))


def test_read_labeled_hub_split_without_second_text(monkeypatch):
    columns = {"premise": ["a"] * 20, "hypothesis": ["b"] * 20, "label": [i % 2 for i in range(20)]}
    other = {name: columns[name] for name in ("premise", "label")}
    hub_set(monkeypatch, train=columns, test=other)
    with pytest.raises(BadInput, match="test has no column 'hypothesis'"):
        read_labeled("hf:someone/set")
