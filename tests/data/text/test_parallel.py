"""Parallel corpora: every layout, splits that do not leak, and bad files."""

import gzip

import pytest

from torchstone.data.text import gettext
from torchstone.data.text.parallel import read_pairs
from torchstone.errors import BadInput

GERMAN = [f"Satz {i} ist kurz." for i in range(30)]
ENGLISH = [f"Sentence {i} is short." for i in range(30)]


def write(folder, name, lines, zipped=False):
    data = "".join(f"{line}\n" for line in lines).encode()
    path = folder / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


def all_pairs(data):
    return data.train + data.val + data.test


def test_read_pairs_of_two_files_in_either_order(tmp_path):
    a, b = write(tmp_path, "x.de", GERMAN), write(tmp_path, "x.en", ENGLISH, zipped=True)
    forward = read_pairs(f"{a},{b}")
    assert forward.languages == ("de", "en")
    assert sorted(all_pairs(forward)) == sorted(zip(GERMAN, ENGLISH, strict=True))
    assert read_pairs(f"{b},{a}", "de", "en").train == forward.train
    backward = read_pairs(f"{a},{b}", "en", "de")
    assert sorted(all_pairs(backward)) == sorted(zip(ENGLISH, GERMAN, strict=True))
    print(forward.description, "|", backward.description)


def test_read_pairs_of_folder_with_splits_and_several_tests(tmp_path):
    for split, lines in {"train": 20, "dev": 3, "test_2017": 4, "test_2016": 5}.items():
        write(tmp_path, f"{split}.de", [f"{split} {s}" for s in GERMAN[:lines]], zipped=True)
        write(tmp_path, f"{split}.en", [f"{split} {s}" for s in ENGLISH[:lines]], zipped=True)
    data = read_pairs(str(tmp_path), "en", "de")
    print(data.description)
    assert [len(x) for x in (data.train, data.val, data.test)] == [20, 3, 5]
    assert data.test[0] == ("test_2016 Sentence 0 is short.", "test_2016 Satz 0 ist kurz.")
    assert "test_2016" in data.description
    assert read_pairs(str(tmp_path)).languages == ("de", "en")  # by name
    with pytest.raises(BadInput, match=r"no train.fr, only de, en"):
        read_pairs(str(tmp_path), "fr", "en")
    write(tmp_path, "train.fr", ENGLISH[:20], zipped=True)
    with pytest.raises(BadInput, match="say which"):
        read_pairs(str(tmp_path))
    with pytest.raises(BadInput, match=r"no dev.fr, only de, en"):
        read_pairs(str(tmp_path), "fr", "en")


def test_read_pairs_of_columns_by_header_or_position(tmp_path):
    rows = [f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(zip(GERMAN, ENGLISH, strict=True))]
    file = write(tmp_path, "x.tsv", ["id\tde\ten", *rows])
    assert sorted(all_pairs(read_pairs(str(file), "en", "de"))) == sorted(zip(ENGLISH, GERMAN, strict=True))
    plain = write(tmp_path, "y.tsv", [row.partition("\t")[2] for row in rows])
    assert len(all_pairs(read_pairs(str(plain), "de", "en"))) == 30
    headed = write(tmp_path, "z.tsv", ["Input\tOutput", *(r.partition("\t")[2] for r in rows)])
    assert all_pairs(read_pairs(str(headed))) == all_pairs(read_pairs(str(plain)))
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, "train.tsv", [r.partition("\t")[2] for r in rows[:20]])
    write(folder, "test.tsv", [r.partition("\t")[2] for r in rows[20:]])
    data = read_pairs(str(folder))
    print(data.description)
    assert data.test == list(zip(GERMAN[20:], ENGLISH[20:], strict=True))
    assert len(data.train) == 18


def test_read_pairs_split_is_constant_and_does_not_leak(tmp_path):
    repeated = [GERMAN[i // 3] for i in range(90)]
    file = write(tmp_path, "x.tsv", [f"{s}\tanswer {i}" for i, s in enumerate(repeated)])
    data, again = read_pairs(str(file)), read_pairs(str(file))
    sides = [{source for source, _ in part} for part in (data.train, data.val, data.test)]
    print([len(side) for side in sides], data.description)
    assert data == again
    assert len(all_pairs(data)) == 90
    assert all(sides)
    assert not (sides[0] | sides[1]) & sides[2]
    assert not sides[0] & sides[1]


def test_read_pairs_splits_lines_at_newlines_only(tmp_path):
    """Other separators stand inside real sentences; splitting at them puts the files out of step."""
    a = write(tmp_path, "x.de", ["eins\u2028zwei\x0bdrei", *GERMAN])
    b = write(tmp_path, "x.en", ["one two three", *ENGLISH])
    assert len(all_pairs(read_pairs(f"{a},{b}"))) == 31
    b.write_bytes(b.read_bytes().replace(b"\n", b"\r\n"))
    assert all(not target.endswith("\r") for _, target in all_pairs(read_pairs(f"{a},{b}")))


def test_read_pairs_drops_lines_empty_on_both_sides(tmp_path):
    a = write(tmp_path, "x.de", [*GERMAN[:9], "", *GERMAN[9:], ""])
    b = write(tmp_path, "x.en", [*ENGLISH[:9], " ", *ENGLISH[9:]])
    assert sorted(all_pairs(read_pairs(f"{a},{b}"))) == sorted(zip(GERMAN, ENGLISH, strict=True))


WRONG = {
    "unaligned": (GERMAN, ENGLISH[:-1], r"x.de has 30 lines, x.en 29: line i of one must be"),
    "empty line": (GERMAN, [*ENGLISH[:4], "", *ENGLISH[5:]], r"line 5 of .*x.en is empty"),
    "empty source": ([*GERMAN[:4], "", *GERMAN[5:]], ENGLISH, r"line 5 of .*x.de is empty"),
    "empty file": ([], ENGLISH, r"x.de is empty"),
    "few": (GERMAN[:2], ENGLISH[:2], r"2 different sources, too few to split"),
}


@pytest.mark.parametrize("name", WRONG)
def test_read_pairs_rejects_bad_pairs(name, tmp_path):
    german, english, message = WRONG[name]
    a, b = write(tmp_path, "x.de", german), write(tmp_path, "x.en", english)
    with pytest.raises(BadInput, match=message) as caught:
        read_pairs(f"{a},{b}")
    print(caught.value)


def test_read_pairs_rejects_unreadable_files(tmp_path):
    a, b = write(tmp_path, "x.de", GERMAN), write(tmp_path, "x.en", ENGLISH)
    a.write_bytes(a.read_bytes().replace(b"Satz 2 ist", "Sätzchen 2 ist".encode("latin-1")))
    with pytest.raises(BadInput, match=r"line 3 of .*x.de is not UTF-8 \(byte 0xe4\)"):
        read_pairs(f"{a},{b}")
    cut = write(tmp_path, "y.de", GERMAN, zipped=True)
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(BadInput, match="not a complete gzip file"):
        read_pairs(f"{cut},{b}")
    with pytest.raises(BadInput, match=r"nothing.de does not exist"):
        read_pairs(f"{tmp_path}/nothing.de,{b}")
    with pytest.raises(BadInput, match=r"did you mean gettext\?"):
        read_pairs("getext")
    rows = write(tmp_path, "z.tsv", ["a\tb", "no tab here", "c\td"])
    with pytest.raises(BadInput, match=r"row 2 of .*z.tsv has 1 column, not 2"):
        read_pairs(str(rows))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match=r"no train.LANGUAGE twice"):
        read_pairs(str(empty))


def test_read_pairs_names_only_the_languages_that_files_give(tmp_path):
    """A recipe's default languages are no description of a file that does not name its columns."""
    rows = list(zip(GERMAN, ENGLISH, strict=True))
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    for side, ending in ((0, "a.txt"), (1, "b.txt"), (0, "a.de"), (1, "b.en")):
        (tmp_path / ending).write_text("".join(row[side] + "\n" for row in rows))
    unnamed = read_pairs(str(file), "de", "en")
    print(unnamed.description)
    assert " to " not in unnamed.description
    assert unnamed.languages == ("", "")
    assert read_pairs(f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}", "de", "en").languages == ("", "")
    assert read_pairs(f"{tmp_path / 'a.de'},{tmp_path / 'b.en'}").languages == ("de", "en")
    file.write_text("en\tde\n" + "".join(f"{b}\t{a}\n" for a, b in rows))
    named = read_pairs(str(file), "de", "en")
    assert named.languages == ("de", "en")
    assert "de to en" in named.description
    file.write_text("en\tde\tde\n" + "".join(f"{b}\t{a}\tx\n" for a, b in rows))
    with pytest.raises(BadInput, match="two columns named de"):
        read_pairs(str(file), "de", "en")


def test_read_pairs_of_a_file_that_names_its_languages(tmp_path):
    """Without source and target too the first row is names, no pair."""
    rows = list(zip(GERMAN, ENGLISH, strict=True))
    file = write(tmp_path, "x.tsv", ["de\ten", *("\t".join(row) for row in rows)])
    data = read_pairs(str(file))
    print(data.description)
    assert sorted(all_pairs(data)) == sorted(rows)
    assert data.languages == ("de", "en")


COLUMNS = {
    "a name alone": (["de\ten", "ja\tyes"], "no column named fr, only de, en"),
    "numbers of rows": (["1\tja\tyes", "2\tnein\tno"], "3 columns, and column 1 holds numbers"),
    "numbers of sentences": (["ja\t7\tyes", "nein\t8\tno"], "3 columns, and column 2 holds numbers"),
    "no first cell": (["ja\tyes\tx", "\tno\tx"], "line 2 of column 1 of .* is empty"),
    "no last cell": (["ja\tyes", "nein\t"], "line 2 of column 2 is empty"),
}


@pytest.mark.parametrize("fault", COLUMNS)
def test_read_pairs_columns_that_are_no_sides_are_refused(tmp_path, fault):
    lines, said = COLUMNS[fault]
    file = write(tmp_path, "x.tsv", lines * 9 if "name" not in fault else lines)
    with pytest.raises(BadInput, match=said) as caught:
        read_pairs(str(file), "fr", "en")
    print(caught.value)


def test_read_pairs_of_hub_data_set_with_missing_rows(monkeypatch):
    import datasets

    rows = [{"de": f"ein {i}", "en": f"one {i}"} if i % 3 else None for i in range(30)]
    tables = {"train": datasets.Dataset.from_dict({"translation": rows})}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(tables))
    data = read_pairs("hf:someone/set")
    print(data.description)
    assert len(all_pairs(data)) == 20
    assert "10 rows without one of the sides left out" in data.description


def test_read_pairs_of_hub_data_set(tmp_path):
    import json

    rows = [{"translation": {"de": a, "en": b}} for a, b in zip(GERMAN, ENGLISH, strict=True)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_pairs(f"hf:{tmp_path}", "en", "de")
    print(data.description)
    assert sorted(all_pairs(data)) == sorted(zip(ENGLISH, GERMAN, strict=True))
    assert read_pairs(f"hf:{tmp_path}").languages == ("de", "en")
    with pytest.raises(BadInput, match="has no 'fr', only de, en"):
        read_pairs(f"hf:{tmp_path}", "fr", "en")


def test_read_pairs_of_hub_data_set_without_one_side(tmp_path):
    """A missing translation is no word None."""
    import json

    rows = [{"de": a, "en": b} for a, b in zip(GERMAN, ENGLISH, strict=True)]
    rows[3]["de"], rows[5]["en"], rows[6]["en"] = None, None, ""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows))
    data = read_pairs(f"hf:{tmp_path}")
    print(data.description)
    wanted = [pair for i, pair in enumerate(zip(GERMAN, ENGLISH, strict=True)) if i not in (3, 5, 6)]
    assert sorted(all_pairs(data)) == sorted(wanted)
    assert "3 rows without one of the sides left out" in data.description


def test_clean_pair_removes_placeholders_tags_and_shortcuts():
    clean_pair = gettext.clean_pair
    print(clean_pair("_Open %(file)s in <b>{app}</b>", "{app} soll %(file)s _öffnen"))
    assert clean_pair("_Open %(file)s in <b>{app}</b>", "{app} soll %(file)s _öffnen") == (
        "Open {1} in {2}",
        "{2} soll {1} öffnen",
    )
    assert clean_pair("%d of %s", "%s von %d") == ("{1} of {2}", "{2} von {1}")
    assert clean_pair("Families with\n<count> children", "Familien mit <Anzahl> Kindern") == (
        "Families with <count> children",
        "Familien mit <Anzahl> Kindern",
    )
    assert clean_pair("100%% sure", "zu 100%% sicher") == ("100{1} sure", "zu 100{1} sicher")
    assert clean_pair("{a} lost", "verloren") is None  # the values differ
    assert clean_pair("%s: %s", "%s – %s") is None  # no word
    assert clean_pair("Name", "N_ame") is None  # the same in both


def test_read_pairs_of_gettext():
    data = read_pairs("gettext")
    print(data.description)
    assert data.languages == ("de", "en")
    assert len(all_pairs(data)) == 13_182
    assert ("Geburt", "Birth") in all_pairs(data)
    assert not [pair for pair in all_pairs(data) if "%(" in pair[0] or "</b>" in pair[1]]
    french = read_pairs("gettext", "fr", "de")
    assert len(all_pairs(french)) > 10_000
    with pytest.raises(BadInput, match="'klingon'"):
        read_pairs("gettext", "klingon", "en")
