"""The names of classes in the files of a Hugging Face data set."""

from pathlib import Path
from typing import Any

from torchstone.errors import BadInput, first_line


def check_class_names(spec: str, column: str) -> None:
    """Refuse a local set `hf:FOLDER` whose files name the classes in `column` differently.

    Every Parquet and Arrow file lists the names of its own classes, of which it stores the positions.
    `datasets` takes the names of the first file for all files and all splits, without a word: with cat and
    dog here, dog and cat there, each cat of the second file would be a dog.

    Raises:
        BadInput: two files list other names, and neither list begins with the other.
    """
    import datasets

    folder = Path(spec[3:]).expanduser()
    if not folder.is_dir():
        return  # `push_to_hub` refuses splits that disagree
    splits: Any = datasets.load_dataset_builder(str(folder)).config.data_files or {}
    stated: dict[Path, list[str]] = {}  # the longest list so far
    for file in sorted({Path(file) for files in splits.values() for file in files}):
        try:
            names = _class_names(file, column)
        except Exception as error:  # noqa: BLE001 -- damaged metadata of a file that is not the first
            raise BadInput(f"{spec}: {file.name} does not state its columns: {first_line(error)}") from None
        for other, known in stated.items():
            shared = min(len(names), len(known))
            if names[:shared] != known[:shared]:
                raise BadInput(
                    f"{spec}: the classes of {column!r} are {', '.join(known)} in {other.name}, but "
                    f"{', '.join(names)} in {file.name}, and datasets would read both alike: save them in "
                    "one order (Dataset.align_labels_with_mapping)"
                )
        if len(names) > max(map(len, stated.values()), default=0):
            stated = {file: names}


def _class_names(file: Path, column: str) -> list[str]:
    """Names of classes that a Parquet or Arrow file states for a column; none in files of other formats."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        schema = pyarrow.parquet.read_schema(file)
    elif file.suffix == ".arrow":
        with pyarrow.OSFile(str(file)) as opened:
            is_file = opened.read(6) == b"ARROW1"
            opened.seek(0)
            schema = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(opened).schema
    else:
        return []
    feature = datasets.Features.from_arrow_schema(schema).get(column)
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else []
