"""Pairs of texts: every layout that can be named, splits that do not leak, and files that are wrong."""

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


def everything(data):
    return data.train + data.val + data.test


def test_two_aligned_files_in_either_order_follow_the_languages(tmp_path):
    a, b = write(tmp_path, "x.de", GERMAN), write(tmp_path, "x.en", ENGLISH, zipped=True)
    forward = read_pairs(f"{a},{b}")
    assert forward.languages == ("de", "en")
    assert sorted(everything(forward)) == sorted(zip(GERMAN, ENGLISH, strict=True))
    assert read_pairs(f"{b},{a}", "de", "en").train == forward.train
    backward = read_pairs(f"{a},{b}", "en", "de")
    assert sorted(everything(backward)) == sorted(zip(ENGLISH, GERMAN, strict=True))
    print(forward.description, "|", backward.description)


def test_a_folder_keeps_its_splits_and_the_first_of_several_tests(tmp_path):
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


def test_columns_of_a_file_by_header_or_by_place(tmp_path):
    rows = [f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(zip(GERMAN, ENGLISH, strict=True))]
    file = write(tmp_path, "x.tsv", ["id\tde\ten", *rows])
    assert sorted(everything(read_pairs(str(file), "en", "de"))) == sorted(zip(ENGLISH, GERMAN, strict=True))
    plain = write(tmp_path, "y.tsv", [row.partition("\t")[2] for row in rows])
    assert len(everything(read_pairs(str(plain), "de", "en"))) == 30
    headed = write(tmp_path, "z.tsv", ["Input\tOutput", *(r.partition("\t")[2] for r in rows)])
    assert everything(read_pairs(str(headed))) == everything(read_pairs(str(plain)))
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, "train.tsv", [r.partition("\t")[2] for r in rows[:20]])
    write(whole, "test.tsv", [r.partition("\t")[2] for r in rows[20:]])
    data = read_pairs(str(whole))
    print(data.description)
    assert data.test == list(zip(GERMAN[20:], ENGLISH[20:], strict=True))
    assert len(data.train) == 18


def test_what_is_cut_is_constant_and_no_source_is_on_both_sides(tmp_path):
    repeated = [GERMAN[i // 3] for i in range(90)]
    file = write(tmp_path, "x.tsv", [f"{s}\tanswer {i}" for i, s in enumerate(repeated)])
    data, again = read_pairs(str(file)), read_pairs(str(file))
    sides = [{source for source, _ in part} for part in (data.train, data.val, data.test)]
    print([len(side) for side in sides], data.description)
    assert data == again
    assert len(everything(data)) == 90
    assert all(sides)
    assert not (sides[0] | sides[1]) & sides[2]
    assert not sides[0] & sides[1]


def test_only_a_newline_ends_a_line(tmp_path):
    """Other separators stand inside real sentences; splitting at them puts the files out of step."""
    a = write(tmp_path, "x.de", ["eins\u2028zwei\x0bdrei", *GERMAN])
    b = write(tmp_path, "x.en", ["one two three", *ENGLISH])
    assert len(everything(read_pairs(f"{a},{b}"))) == 31
    b.write_bytes(b.read_bytes().replace(b"\n", b"\r\n"))
    assert all(not target.endswith("\r") for _, target in everything(read_pairs(f"{a},{b}")))


def test_lines_empty_on_both_sides_go(tmp_path):
    a = write(tmp_path, "x.de", [*GERMAN[:9], "", *GERMAN[9:], ""])
    b = write(tmp_path, "x.en", [*ENGLISH[:9], " ", *ENGLISH[9:]])
    assert sorted(everything(read_pairs(f"{a},{b}"))) == sorted(zip(GERMAN, ENGLISH, strict=True))


WRONG = {
    "unaligned": (GERMAN, ENGLISH[:-1], r"x.de has 30 lines, x.en 29: line i of one must be"),
    "empty line": (GERMAN, [*ENGLISH[:4], "", *ENGLISH[5:]], r"line 5 of .*x.en is empty"),
    "empty source": ([*GERMAN[:4], "", *GERMAN[5:]], ENGLISH, r"line 5 of .*x.de is empty"),
    "empty file": ([], ENGLISH, r"x.de is empty"),
    "few": (GERMAN[:2], ENGLISH[:2], r"2 different sources, too few to split"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_wrong(name, tmp_path):
    german, english, message = WRONG[name]
    a, b = write(tmp_path, "x.de", german), write(tmp_path, "x.en", english)
    with pytest.raises(BadInput, match=message) as caught:
        read_pairs(f"{a},{b}")
    print(caught.value)


def test_what_cannot_be_read(tmp_path):
    a, b = write(tmp_path, "x.de", GERMAN), write(tmp_path, "x.en", ENGLISH)
    a.write_bytes(a.read_bytes().replace(b"Satz 2 ist", "Sätzchen 2 ist".encode("latin-1")))
    with pytest.raises(BadInput, match=r"line 3 of .*x.de is not UTF-8 \(byte 0xe4\)"):
        read_pairs(f"{a},{b}")
    cut = write(tmp_path, "y.de", GERMAN, zipped=True)
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(BadInput, match="no whole gzip file"):
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


def test_a_hub_set_with_translations(tmp_path):
    import json

    rows = [{"translation": {"de": a, "en": b}} for a, b in zip(GERMAN, ENGLISH, strict=True)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_pairs(f"hf:{tmp_path}", "en", "de")
    print(data.description)
    assert sorted(everything(data)) == sorted(zip(ENGLISH, GERMAN, strict=True))
    assert read_pairs(f"hf:{tmp_path}").languages == ("de", "en")
    with pytest.raises(BadInput, match="has no 'fr', only de, en"):
        read_pairs(f"hf:{tmp_path}", "fr", "en")


def test_messages_lose_what_is_no_language():
    masked = gettext.clean_pair
    print(masked("_Open %(file)s in <b>{app}</b>", "{app} soll %(file)s _öffnen"))
    assert masked("_Open %(file)s in <b>{app}</b>", "{app} soll %(file)s _öffnen") == (
        "Open {1} in {2}",
        "{2} soll {1} öffnen",
    )
    assert masked("%d of %s", "%s von %d") == ("{1} of {2}", "{2} von {1}")
    assert masked("Families with\n<count> children", "Familien mit <Anzahl> Kindern") == (
        "Families with <count> children",
        "Familien mit <Anzahl> Kindern",
    )
    assert masked("100%% sure", "zu 100%% sicher") == ("100{1} sure", "zu 100{1} sicher")
    assert masked("{a} lost", "verloren") is None  # the values differ
    assert masked("%s: %s", "%s – %s") is None  # no word
    assert masked("Name", "N_ame") is None  # the same in both


def test_the_registry_set():
    data = read_pairs("gettext")
    print(data.description)
    assert data.languages == ("de", "en")
    assert len(everything(data)) == 13_182
    assert ("Geburt", "Birth") in everything(data)
    assert not [pair for pair in everything(data) if "%(" in pair[0] or "</b>" in pair[1]]
    french = read_pairs("gettext", "fr", "de")
    assert len(everything(french)) > 10_000
    with pytest.raises(BadInput, match="'klingon'"):
        read_pairs("gettext", "klingon", "en")
