"""Torchstone: the milestone systems of deep learning, executable, checked and resumable.

>>> import torchstone as ts
>>> model = ts.create("lenet5", num_classes=10)
>>> run = ts.train("lenet5", steps=500, out="runs/lenet5")
"""

TYPE_CHECKING = False  # type checkers take it for true, and nothing need be imported

if TYPE_CHECKING:  # at run time `__getattr__` looks them up
    from torchstone.api import (
        compare,
        create,
        diagnose,
        evaluate,
        export,
        find_lr,
        list_data,
        list_systems,
        load,
        load_tokenizer,
        play,
        play_person,
        predict,
        resume,
        sample,
        train,
        verify,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "compare",
    "create",
    "diagnose",
    "evaluate",
    "export",
    "find_lr",
    "list_data",
    "list_systems",
    "load",
    "load_tokenizer",
    "play",
    "play_person",
    "predict",
    "resume",
    "sample",
    "train",
    "verify",
]


def __getattr__(name: str):
    # torch takes seconds to import: only once something is used
    if name in __all__:
        from torchstone import api

        return getattr(api, name)
    raise AttributeError(f"module 'torchstone' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
