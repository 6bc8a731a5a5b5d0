"""The page of claims, `docs/claims.md`: written from the records, whose verdicts are computed anew."""

from collections import Counter
from pathlib import Path

from torchstone.experiments.catalogue import CHAPTERS, read_claim
from torchstone.experiments.running import FOLDER, record_of

FIGURES = FOLDER.parents[1] / "docs" / "images" / "claims"


def page() -> str:
    """Table of verdicts, then each claim with experiment, finding, tests and figure."""
    table, sections, outcomes = [], [], Counter()
    for chapter, names in CHAPTERS.items():
        for name in names:
            claim, record = read_claim(name).CLAIM, record_of(name)
            if record is None:
                table.append(f"| [{name}](#{name}) | {chapter} | {claim.statement} | not measured |")
                outcomes["not measured"] += 1
                continue
            verdict = record.verdict()
            outcomes[verdict.outcome] += 1
            table.append(f"| [{name}](#{name}) | {chapter} | {claim.statement} | {verdict.outcome} |")
            sections += [
                f"## {name}",
                f"**{claim.statement}** ({claim.source})",
                f"{claim.experiment} Control: {lower_first(claim.control)}",
                f"**{upper_first(verdict.outcome)}**: {verdict.finding}.",
                "\n".join(f"- {difference.text()}" for difference in verdict.differences),
                f"`torchstone claims run {name}`, seeds {', '.join(map(str, record.seeds))}. "
                f"[Numbers](../records/claims/{name}.json).",
                f"![figure of {name}](images/claims/{name}.png)",
            ]
    head = [
        "# The field's claims, put to the test",
        "Each claim is an experiment that anyone can run: `torchstone claims run NAME`. Differences "
        "are paired by seed; "
        "± is half of the 95 % interval by Student's t. A verdict is computed from the numbers in "
        "[records/claims/](../records/claims) and holds for the experiment that is described, which is "
        "small. "
        "This page is written by `make docs`.",
        "; ".join(f"{outcome}: {count}" for outcome, count in sorted(outcomes.items())) + ".",
        "| claim | chapter | what is claimed | verdict |\n| --- | --- | --- | --- |\n" + "\n".join(table),
    ]
    return "\n\n".join([*head, *sections]) + "\n"


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def figure_of(name: str) -> Path:
    return FIGURES / f"{name}.png"
