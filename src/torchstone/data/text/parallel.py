"""Pairs of texts, one the answer to the other: sentences and their translations, questions and answers."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from torchstone.data.splits import SPLIT_SEED, SPLITS
from torchstone.data.text import bible, gettext
from torchstone.data.text.parallel_files import Pairs, drop_empty_pairs, read_aligned, read_columns
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("gettext", "bible", "copy", "reverse")
MOST_HELD_OUT = 1_000  # pairs in a test or validation split that is cut here

Finish = Callable[[str, dict[str, Pairs], str, tuple[str, str]], "PairSet"]


@dataclass(frozen=True)
class ParallelCorpus:
    """Pairs (source, target) in three parts; `languages` are the names of the sides, where known."""

    name: str
    train: Pairs
    val: Pairs
    test: Pairs
    description: str
    languages: tuple[str, str] = ("", "")


def read_pairs(spec: str, source: str = "", target: str = "", *, split: bool = True) -> ParallelCorpus:
    """Read pairs from what a person named.

    - `gettext`: messages of programs, English and any of their languages
    - `bible`: verses of the New Testament, `grc` (Greek) and `en`; `bible.gold` has links of their words
    - `copy`, `reverse`: random letters whose translation is themselves, or they from the last to the first
    - a folder of aligned files `SPLIT.LANGUAGE` (`.gz` too), or of `SPLIT.tsv`
    - two aligned files, `FILE,FILE`: line i of one is the translation of line i of the other
    - a file of tab-separated columns, the first two of which are read
    - `hf:NAME` or `hf:NAME:PART`, with a column `translation` or with columns named `source` and `target`

    Args:
        source, target: names of the sides, by which files and columns are told apart; where there
            are just two without names, the first is the source.
        split: cut the splits that are not there off train; else they stay empty.

    Text is UTF-8. Splits that are not there are cut off train: a tenth each, at most 1,000 pairs,
    the same ones always, and no source stands in two of them.

    Raises:
        BadInput: nothing there, files that do not align, a line without a translation, no UTF-8.
    """
    finish = partial(_finish, cut=split)
    if spec == "copy":
        return finish(spec, {"train": _copies()}, "copy: random letters, to be repeated", ("", ""))
    if spec == "reverse":
        pairs = [(text, text[::-1]) for text, _ in _copies(10_000, most=20)]
        return finish(spec, {"train": pairs}, "reverse: random letters, to be turned round", ("", ""))
    if spec == "bible":
        names = (source or bible.GREEK, target or bible.ENGLISH)
        verses, note = bible.read(*names)
        pairs = list({(verse.source, verse.target): None for verse in verses})
        return finish(spec, {"train": pairs}, f"{spec}: {note}", names)
    if spec == "gettext":
        names = (source or "de", target or "en")
        pairs, note = gettext.read(*names)
        return finish(spec, {"train": pairs}, f"{spec}: {note}", names)
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


def _copies(count: int = 4_000, letters: str = "abcdefgh", most: int = 8) -> Pairs:
    """Each once, so that no answer can be remembered."""
    random, found = np.random.RandomState(SPLIT_SEED), {}
    while len(found) < count:
        places = random.randint(len(letters), size=random.randint(3, most + 1))
        found[" ".join(letters[place] for place in places)] = None
    return [(text, text) for text in found]


def _language(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[2]


def _folder(folder: Path, source: str, target: str, finish: Finish) -> ParallelCorpus:
    """`SPLIT.LANGUAGE` twice a split, or `SPLIT.tsv`; of several tests `test`, or the first by name."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in sorted(folder.iterdir()):
        name = file.name.removesuffix(".gz")
        split, _, suffix = name.partition(".")
        if file.is_file() and suffix and "." not in suffix:
            found[split][suffix] = file
    chosen = {SPLITS[name]: name for name in found if name in SPLITS}
    tests = [name for name in found if name.startswith("test")]
    if tests and "test" not in chosen:
        chosen["test"] = tests[0]
    if "train" not in chosen:
        raise BadInput(f"{folder} has no train.LANGUAGE twice and no train.tsv; name the files so")
    tabular = "tsv" in found["train"]
    languages = [name for name in found["train"] if name not in ("tsv", "txt")]
    if not tabular and not (source and target):
        if len(languages) != 2:
            raise BadInput(f"{folder} has {', '.join(languages)}: say which is source and target")
        source, target = languages
    parts, names = {}, (source, target)
    for split, name in sorted(chosen.items(), key=lambda item: item[0] != "train"):
        files = found[name]
        if tabular:
            if "tsv" not in files:
                raise BadInput(f"{folder} has train.tsv, but no {name}.tsv")
            parts[split], names = read_columns(files["tsv"], source, target)
            continue
        for language in (source, target):
            if language not in files:
                raise BadInput(
                    f"{folder} has no {name}.{language}, only {', '.join(sorted(files))}: "
                    "choose source and target among them"
                )
        parts[split] = read_aligned(files[source], files[target])
    test = chosen.get("test", "test")
    note = str(folder) if test == "test" else f"{folder}, judged on {test}"
    return finish(folder.name, parts, note, names)


def _hub(spec: str, source: str, target: str, finish: Finish) -> ParallelCorpus:
    try:
        import datasets
    except ImportError:
        raise BadInput(f"{spec} needs Hugging Face datasets: pip install 'torchstone[hf]'") from None
    try:
        name, _, part = spec[3:].partition(":")
        tables = datasets.load_dataset(str(Path(name).expanduser()), part or None)
    except Exception as error:  # noqa: BLE001 -- any of a dozen kinds, most of several lines
        raise BadInput(f"cannot load {spec}: {str(error).strip().splitlines()[0]}") from None
    parts, names = {}, (source, target)
    for split, table in tables.items():
        rows = table["translation"] if "translation" in table.column_names else table
        known = list(rows[0])
        if not (source and target):
            names = (known[0], known[1]) if len(known) == 2 else ("source", "target")
        if missing := [name for name in names if name not in known]:
            raise BadInput(f"{spec} has no {missing[0]!r}, only {', '.join(known)}: name two of them")
        pairs = [(str(row[names[0]]).strip(), str(row[names[1]]).strip()) for row in rows]
        parts[SPLITS.get(str(split), str(split))] = drop_empty_pairs(pairs, names)
    if "train" not in parts:
        raise BadInput(f"{spec} has no split named train, only {', '.join(parts)}")
    return finish(spec, parts, spec, names)


def _finish(
    name: str, parts: dict[str, Pairs], note: str, languages: tuple[str, str], *, cut: bool
) -> ParallelCorpus:
    """Cut what is missing off train, if it is to be `cut`, and say what was done."""
    train, said = parts["train"], []
    for split in ("test", "val"):
        if not cut:
            parts.setdefault(split, [])
        elif split not in parts:
            train, parts[split] = _cut(train, name, salt=len(said))
            said.append(f"{split} cut from train")
    parts["train"] = train
    sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
    if all(languages):
        note += f", {languages[0]} to {languages[1]}"
    note = f"{note}; {sizes} pairs" + (f" ({', '.join(said)})" if said else "")
    return ParallelCorpus(name, train, parts["val"], parts["test"], note, languages)


def _cut(pairs: Pairs, name: str, salt: int) -> tuple[Pairs, Pairs]:
    """(rest, a tenth or `MOST_HELD_OUT` of them), all pairs of one source on the same side."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, (source, _) in enumerate(pairs):
        groups[source].append(i)
    if len(groups) < 3:
        raise BadInput(f"{name} has {len(groups)} different sources, too few to split: at least 3")
    # the legacy generator's numbers are frozen for ever; the new one's may change with NumPy
    order = np.random.RandomState(SPLIT_SEED + salt).permutation(len(groups))
    keys, wanted, taken = list(groups), min(MOST_HELD_OUT, max(1, len(pairs) // 10)), set()
    for place in order:
        if len(taken) >= wanted:
            break
        taken |= set(groups[keys[place]])
    rest = [pair for i, pair in enumerate(pairs) if i not in taken]
    return rest, [pairs[i] for i in sorted(taken)]
