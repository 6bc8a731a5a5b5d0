"""The documentation is what the source says."""

import re

import pytest

from torchstone.parts.facts import Fact
from torchstone.runs import records
from torchstone.systems import CATALOGUE
from torchstone.tools import docs


@pytest.fixture(autouse=True)
def _pages_made_once(page_of, monkeypatch):
    """A page takes a second of counting layers; of systems whose file is as it was it is the session's."""
    plain, facts = docs.page, {entry.name: entry.module().FACTS for entry in CATALOGUE}

    def page(entry):
        is_same = entry.module().FACTS is facts[entry.name] and docs.of_system is records.of_system
        return page_of(entry) if is_same else plain(entry)

    monkeypatch.setattr(docs, "page", page)


def test_docs_no_page_is_stale():
    assert not docs.stale(), "run: make docs"


@pytest.fixture
def written(tmp_path):
    docs.write(tmp_path / "docs")
    assert not docs.stale(tmp_path / "docs")
    return tmp_path / "docs"


def test_docs_changed_fact_makes_a_page_stale(written, monkeypatch):
    module = CATALOGUE[-1].module()
    monkeypatch.setattr(module, "FACTS", [*module.FACTS, Fact("new", lambda: 1, 1)])
    assert docs.stale(written) == [f"systems/{CATALOGUE[-1].name}.md"]


def test_docs_detect_altered_missing_and_orphan_pages(written):
    (written / "index.md").write_text("# Systems\n")
    (written / "systems" / "mlp.md").unlink()
    (written / "systems" / "of_nothing.md").write_text("")
    stale = ["index.md", "systems/mlp.md", "systems/of_nothing.md"]
    assert docs.stale(written) == stale
    docs.write(written)
    assert not docs.stale(written)
    assert not (written / "systems" / "of_nothing.md").exists()


def test_docs_record_without_times(monkeypatch):
    record = records.Record(
        "mlp", "digits", "torchstone train mlp/digits", "digits", "test/accuracy", 0.9,
        [0, 1], [0.96, 0.98], [7.77, 7.77], 5, {"processor": "some processor"},
    )  # fmt: skip
    entry = next(e for e in CATALOGUE if e.name == "mlp")
    monkeypatch.setattr(docs, "of_system", lambda name: [])
    assert "## Measured" not in docs.page(entry)
    monkeypatch.setattr(docs, "of_system", lambda name: [record])
    text = docs.page(entry)
    assert "0.9700 ± 0.0141 (2 seeds) | ≥ 0.9" in text
    del record.seeds[1:], record.values[1:]
    assert "0.9600 (1 seed) | ≥ 0.9" in docs.page(entry), "one seed has no spread"
    assert "7.77" not in text
    assert "some processor" not in text


def test_docs_docstring_to_markdown():
    text = "A paragraph over\ntwo lines, 2*3 < 7 and `a*b`.\n\n    x = 1\n      y\n\n    z\n\nEnd."
    said = "A paragraph over two lines, 2\\*3 \\< 7 and `a*b`."
    assert docs.markdown(text) == f"{said}\n\n```text\nx = 1\n  y\n\nz\n```\n\nEnd."


@pytest.mark.parametrize(
    ("value", "said"),
    [(61706, "61,706"), (True, "yes"), (0.1 + 0.2, "0.3"), ({"c1": 1516}, "c1 1,516"), ([2, 0], "2, 0")],
)
def test_docs_figures(value, said):
    assert docs.figure(value) == said


def test_docs_links_resolve():
    links = 0
    for path in docs.pages():
        file = docs.FOLDER / path
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            links += 1
            assert (file.parent / target).exists(), f"{path} links to {target}"
    print(f"{links} links")
    assert links > 2 * len(CATALOGUE)


def test_docs_table_columns():
    for path, text in docs.pages().items():
        for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
            rows = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
            assert len(set(rows)) == 1, f"{path}: {block.splitlines()[0]}"
