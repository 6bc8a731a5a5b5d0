"""Games as they are played from the command line: against a person, a player by name, another run."""

import json

import pytest
from cli_helpers import assert_rejected, run_cli

import torchstone as ts
from torchstone.errors import BadInput

TINY = {
    "num_games": 4,
    "num_moves": 1,
    "gradient_steps": 1,
    "batch_size": 8,
    "learning_starts": 1,
    "steps": 1,
}
TINY |= {"buffer_size": 64, "eval_games": 2, "eval_positions": 0, "opponent": "random", "num_simulations": 6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    ts.train("alphazero/smoke", out=folder / "a", quiet=True, **TINY)
    return folder


@pytest.fixture(scope="module")
def hex_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hex") / "hex"
    ts.train("alphazero/smoke", data="openspiel:hex(board_size=3)", out=folder, quiet=True, **TINY)
    return folder


@pytest.fixture(scope="module")
def learned_model(tmp_path_factory):
    """A run of MuZero, whose search makes moves that the rules forbid."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    sizes = {"num_envs": 4, "num_steps": 1, "gradient_steps": 1, "batch_size": 8, "reanalyse": 4}
    sizes |= {"buffer_size": 256, "learning_starts": 64, "total_timesteps": 4, "num_simulations": 20}
    options = {name: TINY[name] for name in ("eval_games", "eval_positions", "opponent")}
    ts.train("muzero/tictactoe", out=folder, quiet=True, **options, **sizes)
    return folder


def type_words(monkeypatch, *words):
    given = iter(words)

    def read(prompt=""):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def test_a_person_plays(capsys, runs, monkeypatch, tmp_path):
    type_words(monkeypatch, "b2", "z9", *(f"{c}{r}" for r in "123" for c in "abc"))
    picture = tmp_path / "search.png"
    code, out, _ = run_cli(capsys, "play", runs / "a", "--picture", picture, "--simulations", 8)
    assert code == 0
    assert "legal moves: a3 b3 c3 a2 b2 c2 a1 b1 c1" in out
    assert "'z9' is no legal move: " in out
    assert "of 8 visits, value" in out
    assert "expects" in out
    assert out.count("2 . x .") >= 1
    assert any(line in out for line in ("you win", "you lose", "a draw"))
    assert picture.stat().st_size > 10_000


def test_a_person_plays_an_agent_that_does_not_know_the_rules(
    capsys, learned_model, runs, monkeypatch, tmp_path
):
    type_words(monkeypatch, *(f"{c}{r}" for r in "123" for c in "abc"))
    picture = tmp_path / "search.png"
    code, out, _ = run_cli(capsys, "play", learned_model, "--picture", picture)
    assert code == 0
    assert "of 20 visits, value" in out
    assert "?" in out.split("expects", 1)[1]  # beyond its own game's end
    assert picture.stat().st_size > 10_000
    code, out, _ = run_cli(capsys, "play", learned_model, "--against", runs / "a", "--episodes", 4, "--json")
    assert code == 0
    assert len(json.loads(out)["returns"]) == 4


@pytest.mark.sweep
def test_a_person_plays_a_game_of_open_spiel(capsys, hex_run, monkeypatch):
    type_words(monkeypatch, "b2", "c2", "quit")
    code, out, _ = run_cli(capsys, "play", hex_run)
    assert code == 0
    assert "legal moves: a1 b1 c1 a2 b2 c2 a3 b3 c3" in out


@pytest.mark.parametrize(
    "against",
    ["run", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("random", "perfect", "mcts:5"))],
)
def test_returns_against_others(capsys, runs, against, tmp_path):
    other = runs / "a" if against == "run" else against
    words = ("play", runs / "a", "--against", other, "--episodes", 4, "--json")
    code, out, _ = run_cli(capsys, *words, "--picture", tmp_path / "a.png")
    summary = json.loads(out)
    assert code == 0
    assert len(summary["returns"]) == 4
    assert set(summary["returns"]) <= {-1.0, 0.0, 1.0}
    assert "-0.0" not in out
    if against == "perfect":
        assert max(summary["returns"]) <= 0
    assert (tmp_path / "a.png").exists()
    assert json.loads(run_cli(capsys, *words)[1])["returns"] == summary["returns"]


def test_what_is_won_is_said(capsys, runs):
    _, out, _ = run_cli(capsys, "play", runs / "a", "--against", "random", "--episodes", 6)
    assert "over 6 games" in out
    assert "won, " in out
    assert "against random" in out


def test_what_cannot_be_played_is_refused(capsys, runs, tmp_path):
    for words, why in {
        ("--against", "nobody"): "no opponent 'nobody': perfect, random, mcts:N",
        ("--json",): "give --against random",
        ("--video", "a.gif"): "a game has no video",
        ("--against", "random", "--video", "a.gif"): "a game has no video",
        ("--picture", "a.gif", "--against", "random"): "writes .png files",
        ("--simulations", "0"): "no whole number of at least 1",
    }.items():
        assert why in assert_rejected(capsys, "play", runs / "a", *words)
    why = assert_rejected(capsys, "eval", runs / "a", "--data", "connect_four")
    assert "this agent plays tic_tac_toe, not connect_four" in why


@pytest.mark.sweep
def test_an_agent_of_another_game_is_refused(capsys, runs, hex_run):
    why = assert_rejected(capsys, "play", runs / "a", "--against", hex_run)
    assert "plays tic_tac_toe, and the other one openspiel:hex(board_size=3)" in why
    why = assert_rejected(capsys, "play", hex_run, "--against", "perfect")
    assert "nothing here plays openspiel:hex" in why


@pytest.mark.sweep
def test_an_agent_of_an_environment_plays_no_game(capsys, tmp_path):
    ts.train("reinforce/smoke", out=tmp_path / "pole", quiet=True, total_episodes=8, eval_episodes=1)
    why = assert_rejected(capsys, "play", tmp_path / "pole", "--against", "random")
    assert "plays alone in its environment" in why
    with pytest.raises(BadInput, match="has no 'table'"):
        ts.play_person(tmp_path / "pole")
    sizes = {"total_timesteps": 4, "num_simulations": 2, "gradient_steps": 1, "eval_episodes": 1}
    ts.train("muzero/smoke", out=tmp_path / "learned", quiet=True, **sizes)
    assert "plays alone in its environment" in assert_rejected(
        capsys, "play", tmp_path / "learned", "--against", "random"
    )
    with pytest.raises(BadInput, match="plays alone in CartPole-v0, and that is no game"):
        ts.play_person(tmp_path / "learned")


def test_in_python_a_game_takes_two(runs):
    with pytest.raises(BadInput, match="a game takes two"):
        ts.play(runs / "a")
    lines = []
    returns = ts.play_person(runs / "a", read=lambda prompt: "quit", write=lines.append)
    assert returns == []
    assert lines[0] == "game 1 of 1: you move first"
