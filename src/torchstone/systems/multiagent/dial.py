"""DIAL: differentiable inter-agent learning, and RIAL: agents that learn what to say to each other.

Paper: Foerster, Assael, de Freitas and Whiteson, "Learning to communicate with deep multi-agent reinforcement
learning", 2016, arXiv:1605.06676 (NeurIPS 2016), sections 5.1, 5.2 and 6.1.

The idea: agents that see parts of a problem must invent a language to solve it. If a message is one more
action, a listener who does badly cannot tell the speaker what it would rather have heard (RIAL). In training,
though, all networks are in one computer: a message may be a real number, and the listener's gradient passes
back through it into the speaker (DIAL). Noise on the channel keeps the numbers apart, so that in use a bit is
enough.

    Q_a(o_t, m_{t-1}, h_{t-1}, u_{t-1}, a, u),   m_t^a                 section 6.1: two outputs
    m̂           = σ(m + N(0, σ²)) in training, 1[m > 0] in use         section 5.2, the DRU
    L           = Σ_t Σ_a (r_t + max_u Q⁻_a(t+1, u) - Q_a(t, u_t))²    γ = 1
    ∂L/∂m_t     = what the loss of the one who reads m̂_t says          DIAL; RIAL learns Q of messages too

Shapes: the switch riddle with n prisoners; all share one network that knows which one it is. Each day all
prisoners' networks take a step: `(game, prisoner, …)`. `forward` reads rows of what a prisoner knows,
`(batch, time, 5 + n)`: whether it is in the room, the bulb, its last action (none yet, nothing, tell), and
who it is; it gives Q of both actions `(batch, time, 2)` and the message `(batch, time, 2)`: its first
number is m, and both are the values of the two messages in RIAL.

What differs from the paper: Adam instead of RMSprop with momentum, larger batches and fewer of them, and no
batch normalization of messages. Target networks read the messages of the network that learns. `silence` sends
nothing. Evaluation tries all 729 courses of three prisoners' six days.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchstone.data import identity
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Examples, Run
from torchstone.envs.switch_riddle import (
    ENUMERATED,
    Riddle,
    all_courses,
    everyone_was_there,
    oracle_returns,
    random_courses,
    read_riddle,
)
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.masked import masked_mean
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.discretize_regularize import discretize_regularize
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.target_network import make_target, polyak_update
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.plots.strategy_table import draw_strategies
from torchstone.systems import Variant
from torchstone.tasks.multiagent.team import TEST, refuse_video
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "switch_riddle:3"  # switch_riddle:N, of N prisoners
    variant: str = "dial"  # network
    channel: Literal["dial", "rial", "silence"] = "dial"  # messages: differentiable, actions, or none
    hidden: int = 64  # width of the network
    sigma: float = 2.0  # standard deviation σ of the channel's noise in training
    epsilon: float = 0.05  # probability of a random action, and in RIAL of a random message
    batch_size: int = 64  # games in an update
    target_update_interval: int = 50  # updates between synchronizations of the target network
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    max_grad_norm: float = 10.0  # gradient clipping: largest norm
    steps: int = 1200  # updates
    seed: int = 0  # random seed of weights, games, noise and actions
    device: str = "auto"  # device: auto, cpu, cuda or mps


SWITCH = Recipe()
RECIPES = {
    # torchstone train dial   half a minute of one core; 0.85 to 1.00 of the oracle's return (5 seeds)
    "switch": SWITCH,
    # torchstone train dial/rial   messages are actions; 0.78 of the oracle's return (2 seeds)
    "rial": replace(SWITCH, channel="rial"),
    # torchstone train dial/silence   nobody says anything: 0.64 of the oracle's return (2 seeds)
    "silence": replace(SWITCH, channel="silence"),
    # for tests: seconds
    "smoke": replace(SWITCH, hidden=16, lr=5e-3, batch_size=32, steps=120),
}

MARGIN = ("return", 0.15)
PRISONERS = 3


class DIAL(nn.Module):
    """The network that all prisoners share: two recurrent layers, Q of both actions, and a message.

    Args:
        prisoners: n.
        hidden: width of all layers.
    """

    def __init__(self, prisoners: int = PRISONERS, hidden: int = 64):
        super().__init__()
        self.prisoners, self.hidden = prisoners, hidden
        self.message_layer = nn.Linear(1, hidden)
        self.known_layer = nn.Linear(4 + prisoners, hidden)  # room, last action and who it is
        self.gru = nn.GRU(hidden, hidden, num_layers=2, batch_first=True)
        self.output = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 4))

    def advance(
        self, row: Float[Tensor, "batch time known"], state: Tensor | None
    ) -> tuple[Float[Tensor, "batch time 2"], Float[Tensor, "batch time 2"], Tensor]:
        """Q, message and the recurrent state after some steps."""
        known = torch.cat([row[..., :1], row[..., 2:]], -1)
        z = self.known_layer(known) + torch.relu(self.message_layer(row[..., 1:2]))
        hidden, state = self.gru(z, state)
        q, message = self.output(hidden).chunk(2, -1)
        return q, message, state

    def forward(
        self, row: Float[Tensor, "batch time known"]
    ) -> tuple[Float[Tensor, "batch time 2"], Float[Tensor, "batch time 2"]]:
        q, message, _ = self.advance(row, None)
        return q, message


VARIANTS = {"dial": Variant(DIAL, (6, 5 + PRISONERS))}


class Games(NamedTuple):
    """Games, and all chance of their training."""

    room: Int64[Tensor, "game day"]  # who is in the room
    noise: Float[Tensor, "game day"]  # of the channel, standard normal
    explores: Float[Tensor, "game day 2"]  # uniform: a random action where below ε, and a random message
    random: Int64[Tensor, "game day 2"]  # which ones


class GameStream:
    """Endless batches of games. They follow from the seed and the number of batches so far."""

    def __init__(self, riddle: Riddle, batch_size: int, seed: int):
        self.riddle, self.batch_size, self.seed, self.position = riddle, batch_size, seed, 0

    def __iter__(self) -> "GameStream":
        return self

    def __next__(self) -> Games:
        shape = (self.batch_size, self.riddle.days)
        episodes = derive_generator(self.seed, SeedStream.EPISODES, self.position)
        chance = derive_generator(self.seed, SeedStream.EXPLORATION, self.position)
        self.position += 1
        return Games(
            random_courses(self.riddle, self.batch_size, episodes),
            torch.randn(shape, generator=chance),
            torch.rand((*shape, 2), generator=chance),
            torch.randint(2, (*shape, 2), generator=chance),
        )

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Trace(NamedTuple):
    """What happened: day by day, of games that were still on."""

    q: Float[Tensor, "game day prisoner"]  # Q of what each did
    message_q: Float[Tensor, "game day"]  # value of the message that was left, in RIAL
    value: Float[Tensor, "game day prisoner"]  # max Q⁻, of the actions that each had
    message_value: Float[Tensor, "game day"]  # max Q⁻ over messages
    reward: Float[Tensor, "game day"]
    is_on: Tensor  # (game, day): the game was not over before
    tells: Tensor  # (game, day)
    bulb: Float[Tensor, "game day"]  # as the prisoner found it
    left: Float[Tensor, "game day"]  # as the prisoner left it


def simulate(model: DIAL, games: Games, recipe: Recipe, target_network: DIAL | None = None) -> Trace:
    """The games under the network's own actions: with a target network as in training, with noise and random
    actions; without one as in use, greedy and with bits for messages."""
    target = model if target_network is None else target_network
    room, n = games.room, model.prisoners
    count, days = room.shape
    device, dtype = room.device, model.message_layer.weight.dtype
    is_right = everyone_was_there(room, n)
    is_training = target_network is not None
    names = torch.eye(n, device=device, dtype=dtype).expand(count, n, n)
    last = torch.zeros(count, n, dtype=torch.long, device=device)
    state: Tensor | None = None
    target_state: Tensor | None = None
    bulb = torch.zeros(count, device=device, dtype=dtype)
    is_on = torch.ones(count, dtype=torch.bool, device=device)
    rows = []
    for day in range(days):
        here = one_hot(room[:, day], n).to(bulb.dtype)
        known = [here[..., None], (here * bulb[:, None])[..., None], one_hot(last, 3).to(bulb.dtype), names]
        row = torch.cat(known, 2).flatten(0, 1)[:, None]
        q, message, state = model.advance(row, state)
        q, message = q.view(count, n, 2), message.view(count, n, 2)
        target_q, target_message = q.detach(), message.detach()
        if is_training:
            with torch.no_grad():
                target_q, target_message, target_state = target.advance(row, target_state)
                target_q, target_message = target_q.view(count, n, 2), target_message.view(count, n, 2)
        own = room[:, day, None, None].expand(-1, 1, 2)
        own_q, own_message = q.gather(1, own)[:, 0], message.gather(1, own)[:, 0]
        tells = own_q.detach().argmax(1)
        if is_training:
            tells = torch.where(games.explores[:, day, 0] < recipe.epsilon, games.random[:, day, 0], tells)
        action = here.long() * tells[:, None]  # only who is in the room can tell
        left, message_q = leave(own_message, games, day, recipe, is_training)
        best = torch.where(here.bool(), target_q.amax(2), target_q[..., 0])
        best_message = target_message.gather(1, own)[:, 0].amax(1)
        reward = tells * torch.where(is_right[:, day], 1.0, -1.0) * is_on
        chosen = q.gather(2, action[..., None])[..., 0]
        rows.append((chosen, message_q, best, best_message, reward, is_on, tells.bool(), bulb, left))
        is_on = is_on & (tells == 0)
        bulb, last = left, action + 1
    return Trace(*(torch.stack(column, 1) for column in zip(*rows, strict=True)))


def leave(
    message: Float[Tensor, "game 2"], games: Games, day: int, recipe: Recipe, is_training: bool
) -> tuple[Float[Tensor, " game"], Float[Tensor, " game"]]:
    """How the bulb is left, and in RIAL the value of that."""
    nothing = torch.zeros_like(message[:, 0])
    if recipe.channel == "silence":
        return nothing, nothing
    if recipe.channel == "dial":
        noise = games.noise[:, day] if is_training else None
        return discretize_regularize(message[:, 0], noise, recipe.sigma), nothing
    choice = message.detach().argmax(1)
    if is_training:
        choice = torch.where(games.explores[:, day, 1] < recipe.epsilon, games.random[:, day, 1], choice)
    return choice.to(message.dtype), message.gather(1, choice[:, None])[:, 0]


def loss(model: DIAL, target_network: DIAL, games: Games, recipe: Recipe) -> dict[str, Tensor]:
    """L, the mean over all days and prisoners of games that are on."""
    trace = simulate(model, games, recipe, target_network)
    ends = trace.tells | (
        torch.arange(trace.tells.shape[1], device=trace.tells.device) == trace.tells.shape[1] - 1
    )
    # r + max Q⁻ of the next day; nothing comes after the end
    following = trace.value[:, 1:]
    following = torch.cat([following, torch.zeros_like(following[:, :1])], 1)
    y = trace.reward[..., None] + following.masked_fill(ends[..., None], 0.0)
    total = masked_mean((y - trace.q).square().sum(2), trace.is_on)
    if recipe.channel == "rial":
        # the one who is in the room next has the value of what was left there
        after = torch.cat([trace.message_value[:, 1:], torch.zeros_like(trace.reward[:, :1])], 1)
        y = trace.reward + after.masked_fill(ends, 0.0)
        total = total + masked_mean((y - trace.message_q).square(), trace.is_on)
    return {"loss": total, "episodic_return": trace.reward.sum(1).mean()}


def courses_to_evaluate(riddle: Riddle) -> Int64[Tensor, "game day"]:
    """All of them, or where these are too many a sample, the same for every run."""
    if riddle.prisoners**riddle.days <= ENUMERATED:
        return all_courses(riddle)
    return random_courses(riddle, ENUMERATED, derive_generator(TEST, SeedStream.SEPARATE_ENVS, 0))


@torch.no_grad()
def use(model: DIAL, room: Int64[Tensor, "game day"], recipe: Recipe) -> Trace:
    """Games without noise or random actions."""
    device = model.message_layer.weight.device
    nothing = torch.zeros(0, device=device)
    with eval_mode(model):
        return simulate(model, Games(room.to(device), nothing, nothing, nothing.long()), recipe)


def riddle_metrics(model: DIAL, spec: str, recipe: Recipe) -> dict[str, float]:
    """Mean return, and as a share of what someone has who knows everything."""
    riddle = read_riddle(spec)
    room = courses_to_evaluate(riddle)
    found = use(model, room, recipe).reward.sum(1).double().mean().item()
    best = oracle_returns(room, riddle.prisoners).mean().item()
    return {"return": found, "oracle_return": best, "oracle_share": found / best}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    riddle = read_riddle(recipe.data)
    identity.record(recipe.data, environment={"prisoners": riddle.prisoners, "days": riddle.days})
    model_config = {"prisoners": riddle.prisoners, "hidden": recipe.hidden}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    target_network = make_target(model)
    step = FlatGradientUpdate(
        lambda games: loss(model, target_network, games, recipe),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.steps) if recipe.anneal_lr else None,
    )
    stream = GameStream(riddle, recipe.batch_size, recipe.seed)

    def update(games: Games) -> dict:
        number = stream.position - 1
        if number % max(recipe.target_update_interval, 1) == 0:
            polyak_update(target_network, model, 1.0)
        step.schedule_lr(number)
        return step(Games(*(column.to(device) for column in games)))

    def evaluate_now() -> dict[str, float]:
        return riddle_metrics(model, recipe.data, recipe)

    games = len(courses_to_evaluate(riddle))
    metadata = {"task": "riddle", "variant": recipe.variant, "model_config": model_config}
    metadata |= {"riddle": recipe.data, "channel": recipe.channel}
    metadata["data"] = f"{recipe.data}: {riddle.days} days, evaluated on {games:,} courses of them"
    yield Run(
        stream=stream,
        update=update,
        evaluate=evaluate_now,
        test=evaluate_now,
        best_metric="return",
        state={
            "model": model,
            "optimizer": step.optimizer,
            "target_network": target_network,
            "stream": stream,
        },
        steps=recipe.steps,
        examples=Examples(recipe.batch_size, None, unit="games", evaluation=float(games)),
        metadata=metadata,
        report=lambda folder: draw_protocol(model, recipe, folder / "protocol.png"),
    )


def draw_protocol(model: DIAL, recipe: Recipe, file: Path) -> None:
    """What a prisoner does in the room, by the day, whether it has been there before, and the bulb."""
    riddle = read_riddle(recipe.data)
    room = courses_to_evaluate(riddle)
    trace = Trace(*(column.cpu() for column in use(model, room, recipe)))
    before = torch.nn.functional.one_hot(room, riddle.prisoners).cumsum(1)
    been = before.gather(2, room[..., None])[..., 0] > 1
    names, lights, tells = [], [], []
    for day in range(riddle.days):
        for again in (False, True):
            for bulb in (0, 1):
                mine = trace.is_on[:, day] & (been[:, day] == again) & (trace.bulb[:, day] == bulb)
                if not bool(mine.any()):
                    continue
                lit, share = trace.left[mine, day].mean(), trace.tells[mine, day].float().mean()
                when = "again" if again else "first visit"
                names.append(f"day {day + 1}, {when}, bulb {('off', 'on')[bulb]} ({int(mine.sum())} courses)")
                lights.append(torch.stack([lit, 1 - lit]))
                tells.append(torch.stack([share, 1 - share]))
    tables = {"leaves the bulb": torch.stack(lights), "tells": torch.stack(tells)}
    title = f"{recipe.data}, {recipe.channel}: the protocol"
    # one list of names serves both tables: yes for on, and for telling
    draw_strategies(tables, names, [["yes", "no"]] * len(names), file, title)


def evaluate(model: DIAL, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """The mean return of the riddle, which must have as many prisoners.

    Raises:
        BadInput: it has not.
    """
    riddle = read_riddle(data)
    identity.record(data, environment={"prisoners": riddle.prisoners, "days": riddle.days})
    _check_same(model, riddle)
    return riddle_metrics(model, data, Recipe(channel=metadata["channel"]))


def _check_same(model: DIAL, riddle: Riddle) -> None:
    if riddle.prisoners != model.prisoners:
        raise BadInput(
            f"these agents were trained as {model.prisoners} prisoners, not {riddle.prisoners}: train some "
            "for it"
        )


def play(
    model: DIAL,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    seed: int = TEST,
) -> list[float]:
    """Returns of random games: 1 where everyone is freed, -1 where all are lost, 0 where nobody told."""
    refuse_video(video, metadata["riddle"])
    generator = derive_generator(seed, SeedStream.SEPARATE_ENVS, 1)
    room = random_courses(read_riddle(metadata["riddle"]), episodes, generator)
    return use(model, room, Recipe(channel=metadata["channel"])).reward.sum(1).tolist()


def _oracle() -> float:
    return oracle_returns(all_courses(Riddle(3)), 3).mean().item()


FACTS = [
    # 1 - 3 (2/3)⁶ + 3 (1/3)⁶
    Fact("everyone was there in six days, of three prisoners", _oracle, 540 / 729, 1e-12),
    Fact("days of four prisoners", lambda: Riddle(4).days, 10),
    Fact("dial parameters", lambda: count_parameters(DIAL()), 54_980),
]


def reference() -> Iterator[ParityCase]:
    """The network in plain products, gate by gate; the tests play the riddle in plain loops."""
    from torchstone.references.team_learning import dial_cases

    yield from dial_cases(DIAL)
