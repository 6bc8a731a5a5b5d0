"""Training with what only the whole team knows helps where actions must be coordinated."""

import json
from dataclasses import replace
from typing import Any

from torchstone.errors import BadInput
from torchstone.experiments.agents import mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.runs.records import FOLDER
from torchstone.systems.multiagent import qmix

CLAIM = Claim(
    "central-critic",
    "Central training helps teams that act apart.",
    "Lowe et al. 2017; Rashid et al. 2018; Yu et al. 2021",
    "The two-step game, 1,500 updates: the return of QMIX, of VDN, whose mixing is a sum, and of "
    "independent Q-learning; the best is 8, the best without coordination 7. And simple_spread of three "
    "agents, from the records of the recipes (the same three seeds; nothing is trained anew): QMIX beside "
    "independent Q-learning, and MAPPO's central critic beside one that sees what its agent sees.",
    "VDN is trained centrally as well: if it has 7 in the game, it is not central training alone.",
    minutes=1,
)
RECIPE = replace(qmix.RECIPES["smoke"], steps=1500)
GAME = {"QMIX": "qmix", "VDN": "vdn", "independent": "iql"}
# simple_spread: name -> record
RECORDS = {
    "QMIX": "qmix-spread",
    "independent Q": "qmix-independent",
    "MAPPO": "mappo-spread",
    "independent PPO": "mappo-independent",
}


def measure(seed: int) -> Row:
    """Returns in the two-step game, trained here; returns in simple_spread, read from records."""
    game = {}
    for name, variant in GAME.items():
        history = train_agent(qmix.build, replace(RECIPE, variant=variant, seed=seed), evaluations=1)
        game[name] = history.returns()[-1]
    return {"game": game, "spread": {name: recorded(file, seed) for name, file in RECORDS.items()}}


def recorded(name: str, seed: int) -> float:
    """The return of a seed in a record.

    Raises:
        BadInput: the record has no such seed.
    """
    record = json.loads((FOLDER / f"{name}.json").read_text())
    if seed not in record["seeds"]:
        seeds = ", ".join(map(str, record["seeds"]))
        raise BadInput(f"the record {name} has the seeds {seeds}, not {seed}: choose --seeds among them")
    return record["values"][record["seeds"].index(seed)]


def judge(rows: list[Row]) -> Verdict:
    def column(task: str, name: str) -> list[float]:
        return [row[task][name] for row in rows]

    differences = [
        paired("two-step game, QMIX − independent", column("game", "QMIX"), column("game", "independent")),
        paired("two-step game, QMIX − VDN", column("game", "QMIX"), column("game", "VDN")),
        paired(
            "simple_spread, QMIX − independent Q", *(column("spread", n) for n in ("QMIX", "independent Q"))
        ),
        paired(
            "simple_spread, MAPPO − independent PPO",
            *(column("spread", n) for n in ("MAPPO", "independent PPO")),
        ),
    ]
    finding = "two-step game: " + ", ".join(f"{name} {mean(column('game', name)):.2f}" for name in GAME)
    finding += "; simple_spread: " + ", ".join(f"{n} {mean(column('spread', n)):.1f}" for n in RECORDS)
    game, spread = differences[0].is_above_zero, [each.is_above_zero for each in differences[2:]]
    if game and all(spread):
        return Verdict("holds", finding, differences)
    if game or any(spread):
        where = (
            "one action is right only beside another's (the two-step game)" if game else "in simple_spread"
        )
        return Verdict("holds only when", f"{where}: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    return bars(
        {
            "two-step game: return": {name: [row["game"][name] for row in rows] for name in GAME},
            "simple_spread: return (records)": {
                name.replace(" ", "\n"): [row["spread"][name] for row in rows] for name in RECORDS
            },
        }
    )
