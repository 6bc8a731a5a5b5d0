"""Pictures of strategies and of exploitability."""

import dataclasses

import torch
from PIL import Image

from torchstone.engine.run import Intervals, fit
from torchstone.envs.game_tree import read_game_tree
from torchstone.plots.strategy_table import draw_exploitability, draw_strategies, draw_values
from torchstone.systems.multiagent import deep_cfr
from torchstone.tasks.multiagent.train import draw_pictures, validation_curve


def test_table_is_darker_where_an_action_is_likelier(tmp_path):
    def draw(p: float) -> float:
        tables = {"one": torch.tensor([[p, 1 - p]]), "two": torch.tensor([[0.5, 0.5]])}
        draw_strategies(tables, ["jack"], [["", "bet"]], tmp_path / "a.png", "title")
        pixels = torch.frombuffer(
            bytearray(Image.open(tmp_path / "a.png").convert("L").tobytes()), dtype=torch.uint8
        )
        return pixels.float().mean().item()

    assert draw(0.0) < draw(0.9)  # bet has 1 - p


def test_curves_leave_out_what_has_no_logarithm(tmp_path):
    draw_exploitability(
        {"learned": [(0, 0.5), (1, 0.0)], "CFR+": [(1, 0.4), (9, 0.1)]}, 0.4, tmp_path / "b.png", "game"
    )
    assert Image.open(tmp_path / "b.png").size[0] > 300


def test_curve_is_that_of_the_evaluations(tmp_path):
    run = next(deep_cfr.build(dataclasses.replace(deep_cfr.RECIPES["smoke"], steps=2, device="cpu")))
    fit(run, tmp_path, intervals=Intervals(evaluate=1), quiet=True)
    points = validation_curve(tmp_path)
    assert [step for step, _ in points] == [0, 1, 2]
    assert points[-1][1] == run.results["val/exploitability"]
    run.report(tmp_path / "pictures")


def test_pictures_of_a_game(tmp_path):
    tree = read_game_tree("kuhn_poker")
    draw_pictures(tree, tree.uniform, "kuhn_poker", [(1, 0.4)], tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"strategies.png", "exploitability.png"}


def test_tables_of_values_are_drawn(tmp_path):
    tables = {"first": torch.tensor([[6.93, 7.0], [-1.5, 8.0]]), "second": torch.full((2, 2), 7.0)}
    draw_values(tables, tmp_path / "values.png", "Q_tot")
    assert (tmp_path / "values.png").stat().st_size > 3000
