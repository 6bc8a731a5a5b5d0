"""Five toy systems, one for each kind of learning: the proof that the contract carries them all.

Each is a function `(seed, steps) -> Run`; the staged one is a `build` that yields two. None of them
needed a change of the engine. What `evaluate` measures is on data, noise or worlds that training
never draws from.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchstone import systems
from torchstone.engine import checkpoint, rng
from torchstone.engine.meter import read_rows
from torchstone.engine.run import Run
from torchstone.engine.update import GradientUpdate
from torchstone.parts.ema import make_ema
from torchstone.runs import folder as pages


class Draws:
    """A generator with a state; as a stream, what `draw` makes of it, endlessly."""

    def __init__(self, seed: int, draw: Callable[[torch.Generator], object] | None = None):
        self.generator, self.draw = torch.Generator().manual_seed(seed), draw

    def __iter__(self):
        return self

    def __next__(self):
        return self.draw(self.generator)

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"])


def mlp(*widths: int) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.SiLU())))[:-1]


# ------------------------------------------------------------------------------------- perceptron


def perceptron(seed: int, steps: int) -> Run:
    """No gradient: Rosenblatt's rule, w ← w + Σ y·x over the mistaken."""
    torch.manual_seed(seed)
    teacher = torch.randn(20)
    model = nn.Linear(20, 1, bias=False).requires_grad_(False)

    def draw(generator, n=16):
        x = torch.randn(n, 20, generator=generator)
        return x, (x @ teacher).sign()

    def update(batch):
        x, y = batch
        wrong = model(x)[:, 0] * y <= 0
        model.weight += (x * y[:, None])[wrong].sum(0)
        return {"error": wrong.float().mean()}

    x, y = draw(torch.Generator().manual_seed(seed + 1), 2000)
    stream = Draws(seed, draw)

    def evaluate():
        return {"accuracy": float((model(x)[:, 0] * y > 0).float().mean())}

    return Run(stream, update, evaluate, {"model": model, "stream": stream}, steps)


# -------------------------------------------------------------------------------------------- GAN


def ring(generator: torch.Generator, n: int) -> Tensor:
    """Five spots on a circle; their centre is empty."""
    angle = torch.randint(5, (n,), generator=generator) * (2 * math.pi / 5)
    centre = torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.05 * torch.randn(n, 2, generator=generator)


def sliced_distance(a: Tensor, b: Tensor) -> float:
    """Mean Wasserstein-1 distance over 32 directions: forgetting a spot costs, copying one too."""
    angle = torch.arange(32) * (math.pi / 32)
    directions = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ directions).sort(0)[0] - (b @ directions).sort(0)[0]).abs().mean())


def gan(seed: int, steps: int) -> Run:
    """Two players, two optimisers; each `descend` fills its own parameters' gradients only."""
    torch.manual_seed(seed)
    model, critic = mlp(2, 32, 32, 2), mlp(2, 32, 32, 1)
    ema = make_ema(model, 0.98)
    g_optimiser = torch.optim.Adam(model.parameters(), 3e-3, betas=(0.5, 0.9))
    d_optimiser = torch.optim.Adam(critic.parameters(), 3e-3, betas=(0.5, 0.9))

    def d_loss(batch):
        x, z = batch
        return softplus(-critic(x)).mean() + softplus(critic(model(z))).mean()

    def g_loss(z):
        return softplus(-critic(model(z))).mean()

    d_step = GradientUpdate(d_loss, d_optimiser)
    g_step = GradientUpdate(g_loss, g_optimiser, ema=(ema, model))

    def update(batch):
        return {"critic": d_step(batch)["loss"], "loss": g_step(batch[1])["loss"]}

    def draw(generator):
        return ring(generator, 64), torch.randn(64, 2, generator=generator)

    held_out = torch.Generator().manual_seed(seed + 1)
    real, z = ring(held_out, 2000), torch.randn(2000, 2, generator=held_out)
    stream = Draws(seed, draw)

    @torch.no_grad()
    def evaluate():
        return {"distance": sliced_distance(ema(z), real)}

    state = {"model": model, "critic": critic, "ema": ema, "g_optimizer": g_optimiser}
    state |= {"d_optimizer": d_optimiser, "stream": stream}
    return Run(stream, update, evaluate, state, steps)


# -------------------------------------------------------------------------------------- diffusion


def diffusion(seed: int, steps: int, levels: int = 40) -> Run:
    """DDPM: x_t = √ᾱ_t x + √(1-ᾱ_t) ε, and the model says ε; samples come from its average."""
    torch.manual_seed(seed)
    model = mlp(6, 64, 64, 64, 2)
    ema = make_ema(model, 0.98)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    beta = torch.linspace(1e-3, 0.2, levels)
    kept = (1 - beta).cumprod(0)

    def noise(net, x, t):
        time = t / levels * math.pi
        waves = [f(k * time) for k in (1, 2) for f in (torch.sin, torch.cos)]
        return net(torch.cat([x, torch.stack(waves, 1)], 1))

    def loss(batch):
        x, t, eps = batch
        a = kept[t][:, None]
        return (noise(model, a.sqrt() * x + (1 - a).sqrt() * eps, t) - eps).square().mean()

    def draw(generator):
        x = ring(generator, 128)
        t = torch.randint(levels, (128,), generator=generator)
        return x, t, torch.randn(128, 2, generator=generator)

    held_out = torch.Generator().manual_seed(seed + 1)
    real = ring(held_out, 2000)
    path = torch.randn(levels + 1, 2000, 2, generator=held_out)
    stream = Draws(seed, draw)

    @torch.no_grad()
    def evaluate():
        x = path[-1]
        for t in reversed(range(levels)):
            eps = noise(ema, x, torch.full((len(x),), t))
            x = (x - beta[t] / (1 - kept[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
            x = x + beta[t].sqrt() * path[t] * (t > 0)
        return {"distance": sliced_distance(x, real)}

    state = {"model": model, "ema": ema, "optimizer": optimizer, "stream": stream}
    update = GradientUpdate(loss, optimizer, ema=(ema, model))
    return Run(stream, update, evaluate, state, steps)


# -------------------------------------------------------------------------------------------- PPO


class Points:
    """Points in the plane that a push moves; the reward is minus the distance to the origin."""

    def __init__(self, n: int, seed: int, length: int = 16):
        self.generator, self.length = torch.Generator().manual_seed(seed), length
        self.place = self._start(n)
        self.time = torch.randint(length, (n,), generator=self.generator)

    def _start(self, n: int) -> Tensor:
        return 2 * torch.randn(n, 2, generator=self.generator)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        self.place = self.place + 0.5 * action.clamp(-1, 1)
        self.time = self.time + 1
        reward, done = -self.place.norm(dim=1), self.time == self.length
        fresh = self._start(len(done))
        self.place = torch.where(done[:, None], fresh, self.place)
        self.time = torch.where(done, 0, self.time)
        return reward, done.float()

    def state_dict(self) -> dict:
        return {"place": self.place, "time": self.time, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.place, self.time = state["place"], state["time"]
        self.generator.set_state(state["generator"])


class Rollouts:
    """Experience as a stream: k steps of every point under the policy as it is at that moment."""

    def __init__(self, actor: nn.Module, spread: Tensor, world: Points, seed: int, k: int = 16):
        self.actor, self.spread, self.world, self.k = actor, spread, world, k
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        return self

    @torch.no_grad()
    def __next__(self) -> dict[str, Tensor]:
        rows = []
        for _ in range(self.k):
            place = self.world.place
            mean, std = self.actor(place), self.spread.exp()
            action = mean + std * torch.randn(mean.shape, generator=self.generator)
            rows.append((place, action, *self.world.step(action)))
        names = ("place", "action", "reward", "done")
        batch = {n: torch.stack(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}
        return batch | {"last": self.world.place}

    def state_dict(self) -> dict:
        return {"world": self.world.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.world.load_state_dict(state["world"])
        self.generator.set_state(state["generator"])


def ppo(seed: int, steps: int, gamma: float = 0.95, lam: float = 0.9) -> Run:
    """The update changes the policy that the stream plays: the one back edge."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"actor": mlp(2, 32, 2), "critic": mlp(2, 32, 1)})
    model.register_parameter("spread", nn.Parameter(torch.zeros(2)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    stream = Rollouts(model["actor"], model.spread, Points(32, seed), seed)
    shuffle = Draws(seed + 2)

    def log_prob(place, action):
        policy = torch.distributions.Normal(model["actor"](place), model.spread.exp())
        return policy.log_prob(action).sum(-1)

    def loss(batch):
        place, action, old, advantage, target = batch
        ratio = (log_prob(place, action) - old).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        return 0.5 * (model["critic"](place)[:, 0] - target).square().mean() - gain

    step = GradientUpdate(loss, optimizer, max_grad_norm=0.5)

    def update(batch):
        with torch.no_grad():
            value = model["critic"](torch.cat([batch["place"], batch["last"][None]]))[..., 0]
            going, advantage = 1 - batch["done"], torch.zeros_like(batch["reward"])
            ahead = torch.zeros_like(batch["last"][:, 0])
            for t in reversed(range(len(advantage))):  # Â_t = δ_t + γλ Â_{t+1}
                delta = batch["reward"][t] + gamma * going[t] * value[t + 1] - value[t]
                advantage[t] = ahead = delta + gamma * lam * going[t] * ahead
            scaled = (advantage - advantage.mean()) / advantage.std()
            old = log_prob(batch["place"], batch["action"])
            columns = (batch["place"], batch["action"], old, scaled, advantage + value[:-1])
            rows = [column.flatten(0, 1) for column in columns]
        for _ in range(3):
            for chosen in torch.randperm(len(rows[0]), generator=shuffle.generator).chunk(4):
                metrics = step([row[chosen] for row in rows])
        return metrics | {"reward": batch["reward"].mean()}

    @torch.no_grad()
    def evaluate():
        world = Points(500, seed + 1)
        world.time.zero_()
        rewards = [world.step(model["actor"](world.place))[0].mean() for _ in range(16)]
        return {"return": float(sum(rewards))}

    state = {"model": model, "optimizer": optimizer, "stream": stream, "shuffle": shuffle}
    return Run(stream, update, evaluate, state, steps)


# ------------------------------------------------------------------------------------- two stages


def physics(s: Tensor, a: Tensor) -> Tensor:
    """A pendulum that wants to fall: s = (angle, speed), a push a."""
    angle, speed = s.unbind(-1)
    speed = 0.95 * speed + 0.3 * angle.sin() + 0.6 * a
    return torch.stack([angle + 0.3 * speed, speed], -1)


def upright(step: Callable[[Tensor, Tensor], Tensor], control: Tensor, s: Tensor) -> Tensor:
    """Mean return of controllers (k, 3) from starts (n, 2): minus the squared angle, 12 steps on."""
    s = s.expand(len(control), -1, -1)
    total = 0.0
    for _ in range(12):
        a = torch.tanh((s * control[:, None, :2]).sum(-1) + control[:, None, 2])
        s = step(s, a)
        total = total - s[..., 0].clamp(-3, 3).square()
    return total.mean(1)


def world_model(seed: int, steps: int) -> Run:
    """Stage one: learn how the world moves from random pushes."""
    torch.manual_seed(seed)
    model = mlp(3, 32, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.995**n)

    def draw(generator, n=64):
        s = 1.5 * torch.randn(n, 2, generator=generator)
        return s, 2 * torch.rand(n, generator=generator) - 1

    def loss(batch):
        s, a = batch
        return (model(torch.cat([s, a[:, None]], 1)) + s - physics(s, a)).square().mean()

    def noisy_loss(batch):  # as dropout does, from torch's own generator: in no state of ours
        s, a = batch
        return loss((s + 0.01 * torch.randn_like(s), a))

    held_out = draw(torch.Generator().manual_seed(seed + 1), 1000)

    @torch.no_grad()
    def evaluate():
        return {"loss": float(loss(held_out))}

    stream = Draws(seed, draw)
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "stream": stream}
    return Run(stream, GradientUpdate(noisy_loss, optimizer, lr_scheduler=schedule), evaluate, state, steps)


def controller(seed: int, steps: int, world: nn.Module) -> Run:
    """Stage two: random search inside the learnt world; judged in the true one.

    The starts it practises from are drawn once, from the global generator, after stage one: they
    are in no state, so resuming must come back to them.
    """
    model = nn.ParameterDict({"control": nn.Parameter(torch.zeros(3), requires_grad=False)})
    starts = torch.randn(64, 2)
    stream = Draws(seed, lambda generator: torch.randn(16, 3, generator=generator))

    def imagined(s, a):
        return world(torch.cat([s, a[..., None]], -1)) + s

    @torch.no_grad()
    def update(noise):
        tried = model["control"] + 0.3 * torch.cat([noise, -noise])
        scores = upright(imagined, tried, starts)
        weight = (4 * (scores - scores.max()) / scores.std()).softmax(0)
        model["control"] += 0.5 * (weight @ tried - model["control"])
        return {"return": scores.mean()}

    true_starts = torch.randn(500, 2, generator=torch.Generator().manual_seed(seed + 1))

    def evaluate():
        return {"return": float(upright(physics, model["control"][None], true_starts))}

    state = {"model": model, "world": world, "stream": stream}
    return Run(stream, update, evaluate, state, steps)


def staged(seed: int, steps: int) -> Iterator[Run]:
    first = world_model(seed, steps)
    yield first
    yield controller(seed, steps, first.state["model"])


def second_stage(seed: int, steps: int) -> Run:
    """Stage two by itself, in a world that is not learnt: for the laws, which ask nothing of it."""
    return controller(seed, steps, world_model(seed, steps).state["model"])


TOYS = {toy.__name__: toy for toy in (perceptron, gan, diffusion, ppo, world_model, second_stage)}


# ---------------------------------------------------------------------- as the catalogue has them


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    steps: int = 8
    device: str = "cpu"


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    yield from staged(recipe.seed, recipe.steps)


class Entry(systems.System):
    """A catalogue entry whose file is this one."""

    def module(self):
        return SimpleNamespace(VARIANTS={}, RECIPES={"smoke": Recipe()}, build=build)


def enter(monkeypatch) -> None:
    """Make the two stages the catalogue's only system; pictures of runs have their own tests."""
    entry = Entry("toy", "toy_systems", "Toy", "none", 2026, ("toy",), ("smoke",))
    monkeypatch.setattr(systems, "CATALOGUE", (entry,))
    monkeypatch.setattr(pages, "draw_curves", lambda *_: None)


# --------------------------------------------------------------------------- for looking and cutting


class Crash(Exception):
    """What the tests throw into a run."""


def cut(run: Run, after: int) -> Run:
    """`run`, whose stream breaks after so many batches."""
    whole = run.stream

    def stream():
        for _ in range(after):
            yield next(whole)
        raise Crash

    run.stream = stream()
    return run


def flat(value: object, path: str = "") -> dict[str, bytes]:
    """Every tensor and number of nested containers, by path, as bytes."""
    if isinstance(value, Tensor):
        return {path: value.detach().cpu().contiguous().numpy().tobytes()}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {path: repr(value).encode()}
    found: dict[str, bytes] = {}
    for key, item in value.items():
        found |= flat(item, f"{path}.{key}" if path else str(key))
    return found


def fingerprint(run: Run) -> dict[str, bytes]:
    """A run's whole state."""
    return flat({name: item.state_dict() for name, item in run.state.items()})


def saved(folder: Path) -> dict[str, bytes]:
    """All that the checkpoint of a run folder holds, what the engine itself remembers included."""
    newest, meta, _ = checkpoint.find(folder / "checkpoint")
    files = {"weights": load_file(newest / "model.safetensors")}
    rest = checkpoint.read_pickle(newest / "state.pt")
    return flat({**files, **rest, "stage": meta["stage"], "results": meta["results"]})


def rows(folder: Path) -> list[dict]:
    """What a run wrote down, less the clock's part."""
    return [
        {k: v for k, v in row.items() if k not in ("time", "steps_per_second")}
        for row in read_rows(folder / "metrics.jsonl")
    ]


def differing(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
