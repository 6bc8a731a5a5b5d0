"""Hugging Face data sets, `hf:NAME`, by split."""

from pathlib import Path
from typing import Any

from torchstone.data.splits import find_splits
from torchstone.errors import BadInput, first_line


def load_hub_splits(spec: str, part: str = "") -> tuple[dict[str, Any], str]:
    """The tables of `hf:NAME` by split, and a note on those that are none of train, val and test.

    A data set of a single split, whatever its name, is one to train on.

    Args:
        part: the data set's configuration, by default its own.

    Raises:
        BadInput: it cannot be loaded; two names of one split; several splits and none named train; one that
            has no rows.
    """
    try:
        import datasets
    except ImportError:
        raise BadInput(f"{spec} needs Hugging Face datasets: pip install 'torchstone[hf]'") from None
    try:
        arguments = (str(Path(spec[3:]).expanduser()), part) if part else (str(Path(spec[3:]).expanduser()),)
        loaded = datasets.load_dataset(*arguments)
    except Exception as error:  # noqa: BLE001 -- any of a dozen kinds, most of several lines
        raise BadInput(f"cannot load {spec}: {first_line(error)}") from None
    tables = {str(split): table for split, table in loaded.items()}
    named = {"train": next(iter(tables))} if len(tables) == 1 else find_splits(tables, spec)
    if "train" not in named:
        raise BadInput(f"{spec} has no split named train, only {', '.join(tables)}")
    if not len(tables[named["train"]]):
        raise BadInput(f"{spec}: {named['train']} has no rows")
    found = {split: tables[name] for split, name in named.items() if len(tables[name])}
    unused = [name for name in tables if name not in named.values()]
    notes = [f"all of its one split {each}" for each in tables if len(tables) == 1 and each != "train"]
    notes += [f"split{'s' * (len(unused) > 1)} {', '.join(unused)} not used"] if unused else []
    notes += [f"{name} has no rows: left out" for split, name in named.items() if split not in found]
    return found, "".join(f", {note}" for note in notes)
