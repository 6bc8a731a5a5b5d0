"""Agents that can pass gradients through a channel find a protocol; without a channel there is none."""

from dataclasses import replace
from typing import Any

from torchstone.experiments.agents import mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.systems.multiagent import dial

CLAIM = Claim(
    "communication",
    "Protocols emerge between agents that learn together.",
    "Foerster et al. 2016",
    "The switch riddle of three prisoners, 1,200 updates of 64 games: the return over that of someone who "
    "knows everything, on all courses of days, of DIAL, whose messages pass gradients, and of silent "
    "agents. A seed has found a protocol whose return is at least 0.8 of that.",
    "The very networks of DIAL with the light bulb cut off must fall to what silent agents have: else it "
    "is not the messages.",
    minutes=5,
)
RECIPE = dial.SWITCH
FOUND = 0.8  # of the oracle's return


def measure(seed: int) -> Row:
    row: Row = {}
    for name, channel in (("DIAL", "dial"), ("silent", "silence")):
        recipe = replace(RECIPE, seed=seed, channel=channel)
        model = train_agent(dial.build, recipe).model
        row[name] = dial.riddle_metrics(model, recipe.data, recipe)["oracle_share"]
        if name == "DIAL":
            cut = replace(recipe, channel="silence")
            row["DIAL, bulb cut off"] = dial.riddle_metrics(model, recipe.data, cut)["oracle_share"]
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    better = paired("share of the oracle's return, DIAL − silent", column("DIAL"), column("silent"))
    needed = paired("share, DIAL − with the bulb cut off", column("DIAL"), column("DIAL, bulb cut off"))
    found = sum(value >= FOUND for value in column("DIAL"))
    finding = f"{found} of {len(rows)} seeds find a protocol; of the oracle's return " + ", ".join(
        f"{name} has {mean(column(name)):.2f}" for name in rows[0]
    )
    if not (better.is_above_zero and needed.is_above_zero):
        return Verdict("not seen here", finding, [better, needed])
    if found < len(rows):
        return Verdict("holds only when", f"some seeds are meant, not all: {finding}", [better, needed])
    return Verdict("holds", finding, [better, needed])


def draw(rows: list[Row]) -> Any:
    return bars({"share of the oracle's return": {name: [row[name] for row in rows] for name in rows[0]}})
