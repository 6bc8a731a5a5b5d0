"""Errors that a person sees are one line."""

from torchstone.errors import BadInput


def test_bad_input_is_one_line_whatever_it_quotes():
    said = str(BadInput("a.csv has no column 'a\r\nb\u2028c\x85d'"))
    print(repr(said))
    assert said == "a.csv has no column 'a b c d'"
