"""A recipe's fields as command-line options: their types parse, their comments are the help."""

import argparse
import types
import typing
from collections.abc import Callable
from typing import Any

from torchstone.engine import old_names
from torchstone.engine.console import notify
from torchstone.engine.recipe_fields import field_paths, get_field, short_name
from torchstone.runs.recipes import comments, refuse_optimizer, refuse_steps


def add_fields(group, recipe: Any) -> set[str]:
    """Add an option for each field of a recipe, `optim`'s and other nested ones by their shortest name.

    Returns the option strings. Options not given are absent from the parsed namespace.
    """
    options: set[str] = set()
    for path in dict.fromkeys(field_paths(recipe).values()):
        config = get_field(recipe, path[:-1])
        value, name = getattr(config, path[-1]), short_name(recipe, path)
        hint = typing.get_type_hints(type(config))[path[-1]]
        parse, choices, shown = _parser(hint)
        default = ",".join(map(str, value)) if isinstance(value, tuple) else value
        text = f"{comments(type(config)).get(path[-1], '')} (default: {default})".strip()
        option = f"--{name.replace('_', '-')}"
        group.add_argument(
            option,
            dest=name,
            type=parse,
            choices=choices,
            metavar=shown,
            help=text.replace("%", "%%"),
            default=argparse.SUPPRESS,
        )
        options.add(option)
    return options


def by_new_names(words: list[str], system: str, recipe: Any) -> list[str]:
    """Options of earlier versions by their names of today, with one line each on stderr.

    Raises:
        BadInput: an option whose meaning changed, with the one to use instead.
    """
    known = field_paths(recipe)
    result = []
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            name = option[2:].replace("-", "_")
            refuse_steps(system, [name], known)
            refuse_optimizer(system, [name], known)
            new = old_names.new_fields(system, [name], known).get(name, name)
            if new != name:
                new_option = f"--{new.replace('_', '-')}"
                notify(f"torchstone: {option} is called {new_option} now")
                word = f"{new_option}{equals}{value}"
        result.append(word)
    return result


def changed(parsed: argparse.Namespace) -> dict[str, Any]:
    """The fields that were given, by name."""
    return vars(parsed)


def _parser(hint: Any):
    """How to read one value of a type: parser, choices, and the word that stands for it in the help."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner, choices, shown = _parser(next(a for a in arguments if a is not type(None)))
        return _named(lambda t: None if t.lower() == "none" else inner(t), inner), choices, shown
    if origin is typing.Literal:
        return type(arguments[0]), list(arguments), "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        inner, _, shown = _parser(arguments[0])
        return (_named(lambda t: tuple(inner(x) for x in _items(t, inner)), inner), None, f"{shown},…")
    if hint is bool:
        return _boolean, None, "true|false"
    if hint is int:
        return _integer, None, "N"
    return hint, None, {float: "X", str: "TEXT"}.get(hint, "VALUE")


def _items(text: str, kind: Callable[..., Any]) -> list[str]:
    """What commas part; in a list of words only those before a letter and outside brackets, since a word may
    be `Name:keep=0,2:shape=(84,84)`."""
    if kind is not str:
        return [item for item in text.split(",") if item]
    items, depth, begin = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        following = text[index + 1 : index + 2]
        if character == "," and depth <= 0 and (following.isalpha() or following in ("_", "")):
            items.append(text[begin:index])
            begin = index + 1
    return [item for item in [*items, text[begin:]] if item]


def _named(function, like):
    """argparse names the function in its message: `invalid float value`."""
    function.__name__ = getattr(like, "__name__", "value")
    return function


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return words[text.lower()]


def _integer(text: str) -> int:
    """`1_000` and `1e4` are whole numbers, `1.5` is not."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
