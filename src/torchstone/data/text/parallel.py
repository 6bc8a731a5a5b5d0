"""Parallel corpora: pairs of a source and a target text, such as sentences and their translations."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from torchstone.data.hub_splits import load_hub_splits
from torchstone.data.identity import identified
from torchstone.data.splits import SPLIT_SEED, find_splits
from torchstone.data.text import bible, gettext
from torchstone.data.text.parallel_files import Pairs, read_aligned, read_columns
from torchstone.data.text_files import optional_text, report_not_utf8
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import refuse_skip

BUNDLED = ("gettext", "bible", "copy", "reverse")
MAX_HELD_OUT = 1_000  # pairs of a test or validation split that is cut here

Finish = Callable[[str, dict[str, Pairs], str, tuple[str, str]], "ParallelCorpus"]


@dataclass(frozen=True)
class ParallelCorpus:
    """Pairs (source, target) in three splits; `languages` are the names of the sides, where known."""

    name: str
    train: Pairs
    val: Pairs
    test: Pairs
    description: str
    languages: tuple[str, str] = ("", "")


@identified(unit="pairs")
def read_pairs(spec: str, source: str = "", target: str = "", *, split: bool = True) -> ParallelCorpus:
    """Read the pairs that a specification names.

    - `gettext`: messages of programs, English and any of their languages
    - `bible`: verses of the New Testament, `grc` (Greek) and `en`; `bible.gold_links` aligns their words
    - `copy`, `reverse`: random letters whose translation is themselves, or themselves reversed
    - a folder of aligned files `SPLIT.LANGUAGE` (`.gz` too), or of `SPLIT.tsv`
    - two aligned files, `FILE,FILE`: line i of one is the translation of line i of the other
    - a file of tab-separated columns, of which the first two are read
    - `hf:NAME` or `hf:NAME:PART`, with a column `translation` or with columns named `source` and `target`

    Args:
        source, target: names of the sides, which select files and columns; where there are just two
            without names, the first is the source.
        split: cut missing splits off the training split; otherwise they stay empty.

    Text is UTF-8. Missing splits are cut off the training split: a tenth each, at most 1,000 pairs, always
    the same ones, and no source is in two splits.

    Raises:
        BadInput: nothing there, files that do not align, a line without a translation, not UTF-8.
    """
    refuse_skip(spec)
    finish = partial(_finish, cut=split)
    if spec == "copy":
        return finish(spec, {"train": _copies()}, "copy: random letters, to be repeated", ("", ""))
    if spec == "reverse":
        pairs = [(text, text[::-1]) for text, _ in _copies(10_000, max_letters=20)]
        return finish(spec, {"train": pairs}, "reverse: random letters, to be turned round", ("", ""))
    if spec == "bible":
        names = (source or bible.GREEK, target or bible.ENGLISH)
        verses, description = bible.read(*names)
        pairs = list({(verse.source, verse.target): None for verse in verses})
        return finish(spec, {"train": pairs}, f"{spec}: {description}", names)
    if spec == "gettext":
        names = (source or "de", target or "en")
        pairs, description = gettext.read(*names)
        return finish(spec, {"train": pairs}, f"{spec}: {description}", names)
    if spec.startswith("hf:"):
        return _hub(spec, source, target, finish)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(path, source, target, finish)
    if path.is_file():
        pairs, names = read_columns(path, source, target)
        return finish(path.name, {"train": pairs}, str(path), names)
    files = [Path(part).expanduser() for part in spec.split(",")]
    if len(files) == 2:
        names = _language(files[0]), _language(files[1])
        if source and target and names == (target, source):
            files, names = files[::-1], (source, target)
        pairs = read_aligned(*files)
        return finish(files[0].name, {"train": pairs}, " and ".join(map(str, files)), names)
    known = did_you_mean(spec, BUNDLED)
    raise BadInput(
        f"no pairs at {spec!r} ({known}); give a folder, a .tsv file, or two files joined by a comma"
    )


def _copies(count: int = 4_000, letters: str = "abcdefgh", max_letters: int = 8) -> Pairs:
    """Random texts without duplicates, so that no answer can be memorized."""
    random, texts = np.random.RandomState(SPLIT_SEED), {}
    while len(texts) < count:
        indices = random.randint(len(letters), size=random.randint(3, max_letters + 1))
        texts[" ".join(letters[index] for index in indices)] = None
    return [(text, text) for text in texts]


def _language(file: Path) -> str:
    """The language that a file's ending names, if it is none of texts in general."""
    ending = file.name.removesuffix(".gz").rpartition(".")[2]
    return "" if ending in ("txt", "text", file.name) else ending


def _folder(folder: Path, source: str, target: str, finish: Finish) -> ParallelCorpus:
    """Two `SPLIT.LANGUAGE` per split, or `SPLIT.tsv`; of several tests `test`, or the first by name."""
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in sorted(folder.iterdir()):
        name = file.name.removesuffix(".gz")
        split, _, suffix = name.partition(".")
        if file.is_file() and suffix and "." not in suffix:
            files[split][suffix] = file
    chosen = find_splits(files, folder)
    tests = [name for name in files if name.startswith("test")]
    if tests and "test" not in chosen:
        chosen["test"] = tests[0]
    if "train" not in chosen:
        raise BadInput(f"{folder} has no train.LANGUAGE twice and no train.tsv; name the files so")
    tabular = "tsv" in files["train"]
    languages = [name for name in files["train"] if name not in ("tsv", "txt")]
    if not tabular and not (source and target):
        if len(languages) != 2:
            raise BadInput(f"{folder} has {', '.join(languages)}: say which is source and target")
        source, target = languages
    parts, names = {}, (source, target)
    for split, name in sorted(chosen.items(), key=lambda item: item[0] != "train"):
        sides = files[name]
        if tabular:
            if "tsv" not in sides:
                raise BadInput(f"{folder} has train.tsv, but no {name}.tsv")
            parts[split], names = read_columns(sides["tsv"], source, target)
            continue
        for language in (source, target):
            if language not in sides:
                raise BadInput(
                    f"{folder} has no {name}.{language}, only {', '.join(sorted(sides))}: "
                    "choose source and target among them"
                )
        parts[split] = read_aligned(sides[source], sides[target])
    test = chosen.get("test", "test")
    description = str(folder) if test == "test" else f"{folder}, tested on {test}"
    return finish(folder.name, parts, description, names)


def _hub(spec: str, source: str, target: str, finish: Finish) -> ParallelCorpus:
    name, _, part = spec[3:].partition(":")
    tables, note = load_hub_splits(f"hf:{name}", part)
    parts, names, missing = {}, (source, target), 0
    with report_not_utf8(spec):
        for split, table in tables.items():
            rows = list(table["translation"] if "translation" in table.column_names else table)
            known = next((list(row) for row in rows if row), [])
            if not (source and target):
                names = (known[0], known[1]) if len(known) == 2 else ("source", "target")
            if unknown := [name for name in names if name not in known]:
                raise BadInput(f"{spec} has no {unknown[0]!r}, only {', '.join(known)}: name two of them")
            sides = [
                [
                    (optional_text((row or {}).get(name), f"{spec}, {split}: {name}") or "").strip()
                    for name in names
                ]
                for row in rows
            ]
            pairs = [(a, b) for a, b in sides if a and b]
            missing += len(sides) - len(pairs)
            parts[split] = pairs
    note += f", {missing} rows without one of the sides left out" if missing else ""
    return finish(spec, parts, spec + note, names)


def _finish(
    name: str, parts: dict[str, Pairs], description: str, languages: tuple[str, str], *, cut: bool
) -> ParallelCorpus:
    """The corpus; missing splits are cut off the training split, if `cut`."""
    train, cut_splits = parts["train"], []
    for split in ("test", "val"):
        if not cut:
            parts.setdefault(split, [])
        elif split not in parts:
            train, parts[split] = _cut(train, name, salt=len(cut_splits))
            cut_splits.append(f"{split} cut from train")
    parts["train"] = train
    sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
    if all(languages):
        description += f", {languages[0]} to {languages[1]}"
    suffix = f" ({', '.join(cut_splits)})" if cut_splits else ""
    description = f"{description}; {sizes} pairs{suffix}"
    return ParallelCorpus(name, train, parts["val"], parts["test"], description, languages)


def _cut(pairs: Pairs, name: str, salt: int) -> tuple[Pairs, Pairs]:
    """(rest, a tenth or `MAX_HELD_OUT` of the pairs), with all pairs of one source on the same side."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, (source, _) in enumerate(pairs):
        groups[source].append(i)
    if len(groups) < 3:
        raise BadInput(f"{name} has {len(groups)} different sources, too few to split: at least 3")
    # the legacy generator's numbers never change; the new one's may change with NumPy
    order = np.random.RandomState(SPLIT_SEED + salt).permutation(len(groups))
    keys, count = list(groups), min(MAX_HELD_OUT, max(1, len(pairs) // 10))
    held_out: set[int] = set()
    for index in order:
        if len(held_out) >= count:
            break
        held_out |= set(groups[keys[index]])
    rest = [pair for i, pair in enumerate(pairs) if i not in held_out]
    return rest, [pairs[i] for i in sorted(held_out)]
