"""The run-time type checker of the tests: beartype, for which an int is a float as Python has it.

jaxtyping's import hook puts its decorator on every function. That decorator binds the signature and checks
the arguments twice at each call, which was a third of the suite's time. Here a function without array shapes
is checked by beartype alone, and one with them once, within a scope of its own for the names of axes. What
is checked is the same.

Beartype looks at a random item of a container, and draws its number from Python's own generator.
The tests compare that generator's state, so beartype is given one for itself.
"""

import dataclasses
import functools
import inspect
import random
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype._check.code import codemain
from jaxtyping import AbstractArray, TypeCheckError
from jaxtyping._decorator import _destring_annotation
from jaxtyping._storage import pop_shape_memo, push_shape_memo

assert codemain.getrandbits == random.getrandbits, "beartype draws its numbers elsewhere now"
codemain.getrandbits = random.Random(0).getrandbits

# jaxtyping's error is a TypeError, as what Python itself raises of an argument that is wrong
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))
jaxtyped = jaxtyping.jaxtyped


def decorate(target: Any) -> Any:
    """What the import hook does to each class and function."""
    if isinstance(target, classmethod | staticmethod):
        return type(target)(decorate(target.__func__))
    if inspect.isclass(target):
        checked = getattr(target.__init__, "checked", False)
        if dataclasses.is_dataclass(target) and not checked and not hasattr(target, "__no_type_check__"):
            target.__init__ = check_function(target.__init__)
        return target
    if inspect.isfunction(target):
        return check_function(target)
    return jaxtyped(target, typechecker=check)


def check_function(function: Callable) -> Callable:
    """`function`, which raises where an argument or its result is not of its annotation."""
    hints = function.__annotations__
    if not hints or hasattr(function, "__no_type_check__"):
        return function
    for name, hint in hints.items():
        if isinstance(hint, str):
            hints[name] = _destring_annotation(hint, function.__globals__)
    is_reckoned = any("{" in str(hint) for hint in hints.values())  # a shape, from the arguments
    if is_reckoned or inspect.isgeneratorfunction(function):  # beartype checks what a generator gets later
        return jaxtyped(function, typechecker=check)
    checked = check(function)
    if not any(map(has_shape, hints.values())):
        return checked

    @functools.wraps(function)
    def scoped(*args, **kwargs):
        push_shape_memo({})
        try:
            return checked(*args, **kwargs)
        finally:
            pop_shape_memo()

    scoped.checked = True
    return scoped


def has_shape(hint: Any) -> bool:
    """Whether an annotation has an array's shape in it."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    inner = getattr(hint, "__args__", ()) or ()
    return any(has_shape(item) for item in inner)


jaxtyping.jaxtyped = lambda *, typechecker: decorate
