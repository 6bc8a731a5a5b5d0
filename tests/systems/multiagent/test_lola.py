"""LOLA: its gradient, what it learns and what naive learners learn, and that players keep their positions."""

import dataclasses

import pytest
import torch

from torchstone.engine.run import fit
from torchstone.envs.matrix_games import payoff_of
from torchstone.errors import BadInput
from torchstone.parts.rl.iterated_games import STATES
from torchstone.references.team_learning import plain_lola_gradient
from torchstone.systems.multiagent import lola

IPD = dataclasses.replace(lola.RECIPES["ipd"], device="cpu")


@pytest.mark.parametrize(
    ("seed", "lookahead", "gamma"),
    [
        (0, 1.0, 0.6),
        (1, 0.0, 0.5),
        *(pytest.param(s, 0.3 * s, 0.8, marks=pytest.mark.sweep) for s in range(2, 8)),
    ],
)
def test_gradient_is_the_papers(seed, lookahead, gamma):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 2, STATES, generator=generator, dtype=torch.double)
    payoff = torch.randn(2, 2, 2, generator=generator, dtype=torch.double)
    ours, _ = lola.lola_gradients(logits, payoff, gamma, lookahead)
    theirs = torch.stack([plain_lola_gradient(each, payoff, gamma, lookahead) for each in logits])
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.fixture(scope="module")
def trained():
    found = {}
    for name in ("ipd", "asymmetric"):
        run = next(lola.build(dataclasses.replace(lola.RECIPES[name], pairs=40, device="cpu")))
        found[name] = fit(run, quiet=True), run
    return found


def test_the_published_returns(trained):
    """Naive learners end in defection, -2.00 a step; LOLA's pairs near cooperation, most above -1.1."""
    results, run = trained["ipd"]
    print(results)
    assert results["test/naive_return"] == pytest.approx(-2.0, abs=0.02)
    assert results["test/naive_cooperation"] < 0.02
    assert results["test/return"] == pytest.approx(-1.07, abs=0.08)
    assert results["test/cooperating_pairs"] >= 0.75
    # tit-for-tat: in most pairs each answers as the other did, and begins by cooperating
    policy = run.state["model"].policy.median(0).values
    assert (policy[0, [0, 1, 3]] > 0.7).all()
    assert (policy[0, [2, 4]] < 0.3).all()
    assert (policy[1, [0, 1, 2]] > 0.7).all()
    assert (policy[1, [3, 4]] < 0.3).all()


def test_the_asymmetric_game(trained):
    results, _ = trained["asymmetric"]
    print(results)
    assert results["test/naive_cooperation"] < 0.05
    assert results["test/cooperation"] > results["test/naive_cooperation"] + 0.5
    assert results["test/return_2"] > results["test/naive_return_2"] + 0.5


def test_two_players_that_are_exchanged_learn_the_same():
    """Players and payoffs exchanged, with the states they see: the same pair, only the other way round."""
    logits = torch.randn(3, 2, STATES, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    payoff = payoff_of("matrix:asymmetric_ipd").double()
    gradient, _ = lola.lola_gradients(logits, payoff, 0.96, 1.0)
    order = [0, 1, 3, 2, 4]
    exchanged = logits.flip(1)[:, :, order]
    found, _ = lola.lola_gradients(exchanged, payoff.flip(0).mT, 0.96, 1.0)
    assert torch.allclose(found.flip(1)[:, :, order], gradient, rtol=1e-9, atol=1e-12)


def test_other_games_are_refused():
    with pytest.raises(BadInput, match="3 × 3 actions"):
        next(lola.build(dataclasses.replace(IPD, data="matrix:climbing")))
    with pytest.raises(BadInput, match="did you mean matrix:ipd"):
        next(lola.build(dataclasses.replace(IPD, data="matrix:idp")))
    with pytest.raises(BadInput, match="gamma"):
        next(lola.build(dataclasses.replace(IPD, gamma=1.0)))


def test_play_gives_the_mean_payoff_of_the_policies(tmp_path, trained):
    _, run = trained["ipd"]
    model = run.state["model"]
    returns = lola.play(model, run.metadata, episodes=40)
    expected = lola.evaluate(model, run.metadata, "matrix:ipd", held_out=True)["return"]
    print(sum(returns) / 40, expected)
    assert sum(returns) / 40 == pytest.approx(expected, abs=0.15)
    run.report(tmp_path)
    assert (tmp_path / "policies.png").stat().st_size > 10_000
    with pytest.raises(BadInput, match="nothing to film"):
        lola.play(model, run.metadata, video="x.mp4")
