"""Torchstone: the milestone systems of deep learning, executable, checked and resumable.

>>> import torchstone as ts
>>> model = ts.create("lenet5", num_classes=10)
>>> run = ts.train("lenet5", steps=500, out="runs/lenet5")
"""

__version__ = "0.1.0"

_API = (
    "compare",
    "create",
    "evaluate",
    "export",
    "list_data",
    "list_systems",
    "load",
    "load_tokenizer",
    "play",
    "predict",
    "resume",
    "sample",
    "train",
    "verify",
)
__all__ = [*_API, "__version__"]


def __getattr__(name: str):
    # torch takes seconds to import: only once something is used
    if name in _API:
        from torchstone import api

        return getattr(api, name)
    raise AttributeError(f"module 'torchstone' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
