"""LOLA: learning with opponent-learning awareness.

Paper: Foerster, Chen, Al-Shedivat, Whiteson, Abbeel and Mordatch, "Learning with opponent-learning
awareness", 2017, arXiv:1709.04326 (AAMAS 2018), sections 4.1, 4.2 and 5.1.

The idea: an agent that climbs its own return takes its opponent for a part of the environment, and in the
iterated prisoner's dilemma two such agents end in defection. But the opponent learns too. LOLA climbs the
return that it will have after the opponent's next step of learning, so its gradient has a term for how its
own policy shapes that step. Two such agents find tit-for-tat: what one does to the other comes back.

    V_i(θ_1, θ_2) = p₀ᵀ (I - γP)⁻¹ r_i                                          section 5.1, exact
    Δθ_j          = η ∇_θj V_j(θ_1, θ_2)                                        what the opponent learns
    V_i(θ_i, θ_j + Δθ_j) ≈ V_i + (Δθ_j)ᵀ ∇_θj V_i                               equation 4.3
    f_i           = ∇_θi V_i + (∇_θj V_i)ᵀ ∇_θi ∇_θj V_j · δη                   equation 4.5
    naive         = ∇_θi V_i                                                    equation 4.1

Shapes: many independent pairs learn side by side. The logits of action 0 are `(pair, player, state)`, the
states being the start and after the actions 00, 01, 10, 11 of player 1 and player 2. Both players read the
states in this one order: a player that took its own action for the first one would not be noticed in the
symmetric dilemma, and in an asymmetric game it would learn nonsense. `forward` reads states as one-hot rows
`(batch, state)` and gives the logits `(batch, pair, player)`.

What differs from the paper: gradients are exact throughout (LOLA-Ex); its policy gradient from samples
(LOLA-PG) is not here. η·δ is one step size `lookahead`, and 0 gives naive learners. Naive learners that begin
at the same policies learn beside the others, so that one run has both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data import identity
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Examples, Run
from torchstone.envs.matrix_games import COOPERATION, PREFIX, describe, payoff_of
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase
from torchstone.parts.rl.iterated_games import STATES, mean_payoffs, visits
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.plots.strategy_table import draw_strategies
from torchstone.systems import Variant
from torchstone.tasks.multiagent.team import refuse_video

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "matrix:ipd"  # game of two players and actions: matrix:ipd, asymmetric_ipd, matching_pennies
    variant: str = "lola"  # learning rule
    pairs: int = 100  # pairs of learners, each from policies of its own
    lookahead: float = (
        1.0  # step size η of the opponent's learning that is looked ahead; 0 for naive learners
    )
    gamma: float = 0.96  # discount factor γ
    lr: float = 1.0  # step size δ of gradient ascent on the discounted sum of payoffs
    init_std: float = 1.0  # standard deviation of the initial logits
    steps: int = 200  # steps of learning, of both players at once
    seed: int = 0  # random seed of the initial policies
    device: str = "auto"  # device: auto, cpu, cuda or mps


IPD = Recipe()
RECIPES = {
    # torchstone train lola   three seconds; mean payoff -1.03, where naive learners have -1.99 (3 seeds)
    "ipd": IPD,
    # torchstone train lola/asymmetric   other stakes for player 2; -1.33, naive learners -2.49
    "asymmetric": replace(IPD, data="matrix:asymmetric_ipd"),
    # for tests: seconds
    "smoke": replace(IPD, pairs=12, steps=120),
}

MARGIN = ("return", 0.25)
# what of the paper is written out here
STORY = ("LOLA", "lola_gradients")
PLAY, MOVES = 20_011, 100  # seed of games that are played, and their steps
VIEWS = ("start", "both cooperate", "only I cooperate", "only the other", "nobody")


class LOLA(nn.Module):
    """Policies of `pairs` pairs with memory of one step: logits of action 0 by player and state.

    Args:
        init_std: standard deviation of the initial logits.
    """

    def __init__(self, pairs: int = 100, init_std: float = 1.0):
        super().__init__()
        self.policy_logits = nn.Parameter(torch.randn(pairs, 2, STATES) * init_std)

    @property
    def policy(self) -> Float[Tensor, "pair player state"]:
        """Probability of action 0, in double precision."""
        return self.policy_logits.detach().double().sigmoid()

    def forward(self, state: Float[Tensor, "batch state"]) -> Float[Tensor, "batch pair player"]:
        return torch.einsum("bs,kps->bkp", state, self.policy_logits)


VARIANTS = {"lola": Variant(partial(LOLA, pairs=4), (STATES,))}

Logits = Float[Tensor, "pair player state"]


def discounted_values(
    own: list[Tensor], payoff: Float[Tensor, "player first second"], gamma: float
) -> Float[Tensor, "pair player"]:
    """V_1 and V_2 of two players' logits."""
    return mean_payoffs(torch.stack(own, 1).sigmoid(), payoff, gamma) / (1 - gamma)


def lola_gradients(
    logits: Logits, payoff: Float[Tensor, "player first second"], gamma: float, lookahead: float
) -> tuple[Logits, Float[Tensor, "pair player"]]:
    """f of both players, and V; with `lookahead` 0 the naive gradients."""
    theta = [each.detach().clone().requires_grad_() for each in logits.unbind(1)]
    value = discounted_values(theta, payoff, gamma)
    total = value.sum(0)  # pairs are independent: the gradient of a sum is each one's own
    gradients = []
    for i, j in ((0, 1), (1, 0)):
        objective = total[i]
        if lookahead:
            # Δθ_j, which depends on θ_i, and ∇_θj V_i, which is taken as constant
            (learned,) = torch.autograd.grad(total[j], theta[j], create_graph=True)
            (influence,) = torch.autograd.grad(total[i], theta[j], retain_graph=True)
            objective = objective + lookahead * (influence.detach() * learned).sum()
        (gradient,) = torch.autograd.grad(objective, theta[i], retain_graph=True)
        gradients.append(gradient)
    return torch.stack(gradients, 1), value.detach()


class Counter:
    """The stream of a rule that needs no data: numbers of updates."""

    def __init__(self):
        self.position = 0

    def __iter__(self) -> "Counter":
        return self

    def __next__(self) -> Tensor:
        self.position += 1
        return torch.tensor(self.position - 1)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def game_of(spec: str) -> Float[Tensor, "player first second"]:
    """
    Raises:
        BadInput: no such game, or one of more actions.
    """
    payoff = payoff_of(spec)
    if payoff.shape != (2, 2, 2):
        raise BadInput(
            f"{spec} has {payoff.shape[1]} × {payoff.shape[2]} actions, and lola's policies two for each "
            f"player: {PREFIX}ipd, or qmix for a team's game of more"
        )
    identity.record(spec, environment=describe(spec))
    return payoff.double()


def policy_metrics(
    policy: Float[Tensor, "pair player state"], spec: str, gamma: float, prefix: str = ""
) -> dict[str, float]:
    """Exact, mean over pairs: payoff per step of both players, and how often both cooperate."""
    payoff = game_of(spec)
    value = mean_payoffs(policy, payoff, gamma)
    metrics = {"return": value.mean().item()}
    metrics |= {f"return_{player}": value[:, player - 1].mean().item() for player in (1, 2)}
    if (both := COOPERATION.get(spec.removeprefix(PREFIX))) is not None:
        share = visits(policy, gamma)[:, 2 * both[0] + both[1]]
        metrics |= {"cooperation": share.mean().item()}
        metrics |= {"cooperating_pairs": (share > 0.9).double().mean().item()}
    return {f"{prefix}{name}": number for name, number in metrics.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.gamma >= 1:
        raise BadInput("gamma must be below 1: the sum of payoffs of an endless game is infinite")
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    payoff = game_of(recipe.data).float().to(device)
    model_config = {"pairs": recipe.pairs, "init_std": recipe.init_std}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    naive = LOLA(recipe.pairs).to(device)
    naive.load_state_dict(model.state_dict())
    stream = Counter()

    @torch.no_grad()
    def update(_: Tensor) -> dict:
        metrics = {}
        for learner, lookahead in ((model, recipe.lookahead), (naive, 0.0)):
            with torch.enable_grad():
                gradient, value = lola_gradients(learner.policy_logits, payoff, recipe.gamma, lookahead)
            learner.policy_logits.add_(gradient, alpha=recipe.lr)
            prefix = "" if learner is model else "naive_"
            metrics[f"{prefix}loss"] = -value.mean() * (1 - recipe.gamma)
        return metrics

    def evaluate_both() -> dict[str, float]:
        ours = policy_metrics(model.policy.cpu(), recipe.data, recipe.gamma)
        return ours | policy_metrics(naive.policy.cpu(), recipe.data, recipe.gamma, "naive_")

    def report(folder: Path) -> None:
        draw_policies(model, naive, recipe.data, folder / "policies.png")

    metadata: dict[str, Any] = {"task": "iterated", "variant": recipe.variant, "model_config": model_config}
    metadata |= {"game": recipe.data, "gamma": recipe.gamma}
    metadata["data"] = f"{recipe.data}, {recipe.pairs} pairs of learners; payoffs are means per step"
    yield Run(
        stream=stream,
        update=update,
        evaluate=evaluate_both,
        test=evaluate_both,
        state={"model": model, "naive": naive, "stream": stream},
        steps=recipe.steps,
        examples=Examples(2 * recipe.pairs, None, unit="policies", evaluation=2.0 * recipe.pairs),
        metadata=metadata,
        report=report,
    )


def draw_policies(model: LOLA, naive: LOLA, spec: str, file: Path) -> None:
    """How likely each player cooperates after what both did, mean over pairs, each as it sees it itself."""
    first, second = COOPERATION.get(spec.removeprefix(PREFIX), (0, 0))
    tables = {}
    for name, learner in (("LOLA", model), ("naive", naive)):
        for player in range(2):
            # states by (player 1 cooperates, player 2 cooperates), as the player sees them
            both = [2 * (first ^ a) + (second ^ b) for a, b in ((0, 0), (0, 1), (1, 0), (1, 1))]
            if player:
                both = [both[0], both[2], both[1], both[3]]
            policy = learner.policy[:, player, [0, *(1 + state for state in both)]].mean(0).cpu()
            cooperates = policy if (first, second)[player] == 0 else 1 - policy
            tables[f"{name}, player {player + 1}"] = torch.stack([cooperates, 1 - cooperates], 1)
    rows = [f"{view}" if view == "start" else f"after {view}" for view in VIEWS]
    title = f"{spec}: policies after learning, mean of {len(model.policy_logits)} pairs"
    draw_strategies(tables, rows, [["coop", "defect"]] * STATES, file, title)


def evaluate(model: LOLA, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """The exact mean payoffs of all pairs.

    Raises:
        BadInput: no such game.
    """
    return policy_metrics(model.policy.cpu(), data, metadata["gamma"])


@torch.no_grad()
def play(
    model: LOLA,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    seed: int = PLAY,
) -> list[float]:
    """Both players' mean payoff per step in games of 100 steps, of one pair after the other."""
    refuse_video(video, metadata["game"])
    payoff, policy = game_of(metadata["game"]), model.policy.cpu()
    policy = policy[torch.arange(episodes) % len(policy)]
    generator = derive_generator(seed, SeedStream.ROLLOUT_ACTIONS, 0)
    state, total = torch.zeros(episodes, dtype=torch.long), torch.zeros(episodes, dtype=torch.double)
    for _ in range(MOVES):
        index = state[:, None, None].expand(-1, 2, 1)
        uniform = torch.rand(episodes, 2, generator=generator, dtype=torch.double)
        first, second = (uniform >= policy.gather(2, index)[..., 0]).long().unbind(1)
        total += payoff[:, first, second].mean(0)
        state = 1 + 2 * first + second
    return (total / MOVES).tolist()


def _tit_for_tat() -> float:
    """Two that repeat the other's last action, and begin by cooperating."""
    policy = torch.tensor([[[1.0, 1, 0, 1, 0], [1.0, 1, 1, 0, 0]]], dtype=torch.double)
    return mean_payoffs(policy, game_of("matrix:ipd"), 0.96).mean().item()


def _uniform(player: int) -> float:
    policy = torch.full((1, 2, STATES), 0.5, dtype=torch.double)
    return mean_payoffs(policy, game_of("matrix:asymmetric_ipd"), 0.96)[0, player].item()


FACTS = [
    Fact("two of tit-for-tat in the prisoner's dilemma", _tit_for_tat, -1.0, 1e-12),
    Fact("player 1 of two at random in the asymmetric dilemma", partial(_uniform, 0), -1.5, 1e-12),
    Fact("player 2 of two at random in the asymmetric dilemma", partial(_uniform, 1), -2.25, 1e-12),
]


def reference() -> Iterator[ParityCase]:
    """The logits by plain lookup; and exact values and LOLA's gradients against sums over steps and
    matrices of second derivatives."""
    from torchstone.references.team_learning import lola_cases

    yield from lola_cases(LOLA, lola_gradients)
