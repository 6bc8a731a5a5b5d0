"""What `torchstone claims` prints."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from torchstone.engine.console import notify
from torchstone.experiments.catalogue import CHAPTERS, NAMES, UNMEASURED, read_claim
from torchstone.experiments.running import FIGURE, RESULT, Measurement, record_of, run_claim

WIDTH = 100


def print_list() -> None:
    """Every claim by chapter, with what its record found."""
    widest = max(map(len, NAMES))
    for chapter, names in CHAPTERS.items():
        print(chapter)
        for name in names:
            record = record_of(name)
            found = "not measured" if record is None else record.verdict().outcome
            statement = read_claim(name).CLAIM.statement
            text = textwrap.wrap(statement, max(30, WIDTH - widest - 20))
            print(f"  {name:<{widest}}  {found:<15}  {text[0]}")
            for line in text[1:]:
                print(f"{'':<{widest + 21}}{line}")
    print("torchstone claims show NAME for an experiment, run NAME to measure it")


def print_claim(name: str) -> None:
    """A claim, its experiment, and the verdict of its record."""
    claim = read_claim(name).CLAIM
    print(f"{name}: {claim.statement} ({claim.source})")
    for title, text in (("experiment", claim.experiment), ("control", claim.control)):
        print(textwrap.fill(f"{title}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    "))
    print(f"  cost: about {claim.minutes:g} minutes of one core, seeds {', '.join(map(str, claim.seeds))}")
    record = record_of(name)
    if record is None:
        print(f"  no record ({UNMEASURED[name]}): torchstone claims run {name}")
    else:
        print_verdict(record)


def run_and_report(name: str, out: Path, seeds: Sequence[int] | None) -> None:
    """Measure a claim and print what came out, and where it is."""
    measured = run_claim(name, out, seeds)
    print(f"{name}: {read_claim(name).CLAIM.statement}")
    print_verdict(measured)
    print(f"figure: {out / FIGURE}; numbers: {out / RESULT}")
    if len(measured.seeds) == 1:
        notify("one seed has no spread, so no difference can be told from chance: a verdict wants several")


def print_verdict(measured: Measurement) -> None:
    verdict = measured.verdict()
    print(textwrap.fill(f"verdict: {verdict}", WIDTH, initial_indent="  ", subsequent_indent="    "))
    for difference in verdict.differences:
        print(f"    {difference.text()}")
