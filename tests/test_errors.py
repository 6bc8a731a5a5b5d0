"""Errors that a person sees are one line."""

import sys
from types import SimpleNamespace

import pytest

from torchstone.errors import BadInput, first_line


def test_bad_input_is_one_line_whatever_it_quotes():
    said = str(BadInput("a.csv has no column 'a\r\nb\u2028c\x85d'"))
    print(repr(said))
    assert said == "a.csv has no column 'a b c d'"


def test_first_line_of_errors_that_say_nothing():
    said = [first_line(error) for error in (StopIteration(), ValueError("\n"), OSError("a\nb"))]
    print(said)
    assert said == ["StopIteration", "ValueError", "a"]


@pytest.mark.parametrize("reader", ["labeled", "corpus", "parallel", "images"])
def test_hub_readers_name_an_error_without_words(reader, monkeypatch):
    from torchstone.data.text.classification import read_labeled
    from torchstone.data.text.corpus import read_text
    from torchstone.data.text.parallel import read_pairs
    from torchstone.data.vision.sources import read

    def load_dataset(*_):
        raise StopIteration

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    use = {"labeled": read_labeled, "corpus": read_text, "parallel": read_pairs, "images": read}[reader]
    with pytest.raises(BadInput, match="cannot load hf:nothing: StopIteration") as caught:
        use("hf:nothing")
    print(caught.value)
