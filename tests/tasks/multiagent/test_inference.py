"""Agents of games with hidden cards: exact evaluation, matches, and a person at the table."""

import pyspiel
import pytest
import torch

from torchstone.envs.game_tree import read_game_tree
from torchstone.errors import BadInput
from torchstone.parts.rl.game_tree import expected_returns
from torchstone.systems.multiagent.deep_cfr import DeepCFR
from torchstone.systems.multiagent.nfsp import NFSP
from torchstone.tasks.multiagent import inference, train
from torchstone.tasks.multiagent.poker_words import RANKS
from torchstone.tasks.selfplay.terminal import play_person

KUHN, LEDUC = "openspiel:kuhn_poker", "openspiel:leduc_poker"


def agent(game: str, kind=DeepCFR):
    tree = read_game_tree(game)
    torch.manual_seed(1)
    return kind(tree.features.shape[1], tree.num_actions, (16,)), {"game": game}


@pytest.mark.parametrize("kind", [DeepCFR, NFSP])
def test_evaluation_equals_open_spiels_exploitability(kind):
    model, metadata = agent(KUHN, kind)
    tree = read_game_tree(KUHN)
    metrics = inference.evaluate(model, metadata, KUHN, held_out=True)
    strategy = model.strategy(tree).tolist()
    policy = {name: list(enumerate(row)) for name, row in zip(tree.info_names, strategy, strict=True)}
    game = pyspiel.load_game("kuhn_poker")
    theirs = pyspiel.TabularPolicy(policy)
    assert metrics["exploitability"] == pytest.approx(pyspiel.exploitability(game, theirs), abs=1e-12)
    assert metrics["nash_conv"] == pytest.approx(pyspiel.nash_conv(game, theirs), abs=1e-12)
    expected = pyspiel.expected_returns(game.new_initial_state(), [theirs] * 2, -1, True, 0.0)[0]
    assert metrics["game_value"] == pytest.approx(expected, abs=1e-12)


def test_pictures_have_an_equilibrium_of_solved_iterations_beside_the_agent(tmp_path, monkeypatch):
    tree, drawn = read_game_tree(KUHN), {}
    monkeypatch.setattr(train, "draw_strategies", lambda both, *_: drawn.update(both))
    monkeypatch.setattr(train, "draw_exploitability", lambda curves, uniform, *_: drawn.update(curves))
    train.draw_pictures(tree, tree.uniform, KUHN, [(1, 0.4)], tmp_path)
    iterations, values = zip(*drawn["CFR+"], strict=True)
    print(
        f"exploitability {values[0]:.3f} after {iterations[0]} iterations, {values[-1]:.5f} after {iterations[-1]}"
    )
    assert iterations == train.SOLVED
    assert values[-1] < 0.01 < values[0]
    # whoever holds a king and is bet on calls, and with a jack passes
    assert drawn[f"CFR+, {train.SOLVED[-1]} iterations"].max() > 0.99
    assert drawn["learned"] == [(1, 0.4)]


def test_returns_are_those_that_the_tree_expects():
    model, metadata = agent(KUHN)
    tree = read_game_tree(KUHN)
    own, count = model.strategy(tree), 20_000
    returns = torch.tensor(inference.play(model, metadata, episodes=count, against="random"))
    expected = torch.zeros(2)
    for seat in range(2):
        mixed = torch.where((tree.info_player == seat)[:, None], own, tree.uniform)
        expected[seat] = expected_returns(tree, mixed)[seat]
    found = torch.stack([returns[0::2].mean(), returns[1::2].mean()])
    print("by seat", found.tolist(), "expected", expected.tolist())
    assert (found - expected).abs().max() < 5 * returns.std() / (count / 2) ** 0.5
    assert expected[0] != pytest.approx(expected[1].item(), abs=0.1)  # seats are told apart


def test_same_seed_same_games():
    model, metadata = agent(KUHN)
    first, again, other = (
        inference.play(model, metadata, episodes=50, against="random", seed=s) for s in (3, 3, 4)
    )
    assert first == again != other


def test_agents_of_one_game_meet_and_others_are_refused():
    model, metadata = agent(KUHN)
    rival = inference.rival(*agent(KUHN, NFSP))
    assert len(inference.play(model, metadata, episodes=6, against=rival)) == 6
    with pytest.raises(BadInput, match=r"plays kuhn_poker\(\), and the other one leduc_poker"):
        inference.play(model, metadata, against=inference.rival(*agent(LEDUC)))
    with pytest.raises(BadInput, match="this agent plays openspiel:kuhn_poker, not openspiel:leduc_poker"):
        inference.evaluate(model, metadata, LEDUC, held_out=False)
    with pytest.raises(BadInput, match="no opponent 'perfect': random, equilibrium"):
        inference.play(model, metadata, against="perfect")
    for option in ({"picture": "a.png"}, {"video": "a.gif"}, {"simulations": 3}):
        with pytest.raises(BadInput):
            inference.play(model, metadata, **option)


@pytest.mark.parametrize("game", [KUHN, LEDUC])
def test_person_plays_in_words(game):
    """Nonsense is asked again, the agent's card is not seen before the end, chips add up to the returns."""
    table = inference.table(*agent(game), seed=5)
    words = {"check", "bet", "fold", "call", "raise"}
    answers, lines = iter(range(1000)), []

    def read(prompt: str) -> str:
        legal = lines[-1].partition(": ")[2].split()
        assert set(legal) <= words
        number = next(answers)
        return "all in" if number % 3 == 0 else legal[number % len(legal)]

    def write(text: str) -> None:
        if text.startswith("'all in'"):
            assert "is no legal move" in text
            text = text.replace("'all in' is no legal move", "legal moves").replace("; or quit", "")
        lines.extend(text.split("\n"))

    returns = play_person(table, 8, read=read, write=write)
    chips = [line.split() for line in lines if line.startswith("you ") and "chip" in line]
    won = [-float(number) if verb == "lose" else float(number) for _, verb, number, _ in chips]
    print("\n".join(lines[:30]))
    ties = len(returns) - len(won)
    assert ties == sum("nobody wins" in line for line in lines)
    assert sorted([-r for r in returns if r]) == sorted(won)
    games = "\n".join(lines).split("game ")[1:]
    for text in games:
        *before, end = text.split("your card")
        assert "agent's card" not in "".join(before)
        assert "agent's card" in end
        assert end[2:].split(";")[0].strip() in RANKS[:3]


def test_agent_plays_its_average_strategy():
    """Its first move with each card, over many games."""
    model, metadata = agent(KUHN)
    table, tree = inference.table(model, metadata), read_game_tree(KUHN)
    counts = torch.zeros(3, 2)
    for _ in range(900):
        table.begin(1)
        card = int(table.history[0][1])
        counts[card, ["check", "bet"].index(table.reply())] += 1
    strategy = model.strategy(tree)
    for card in range(3):
        expected = strategy[tree.info_names.index(str(card)), 1].item()
        share = (counts[card, 1] / counts[card].sum()).item()
        assert abs(share - expected) < 4 * (0.25 / counts[card].sum().item()) ** 0.5


def test_other_games_are_played_in_their_own_words():
    table = inference.table(*agent("openspiel:liars_dice(numdice=1,dice_sides=2)"))
    table.begin(0)
    assert table.view() in ("1", "2")
    assert "1-1" in table.moves()
