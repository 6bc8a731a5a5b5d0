"""World Models: an agent that learns a model of its world, and then to act inside of it, in a dream.

Paper: David Ha and Jürgen Schmidhuber, "World Models", 2018, arXiv:1803.10122 (NeurIPS 2018, as "Recurrent
world models facilitate policy evolution"); the figures are of its appendix A and of the authors' code.

The idea: most of an agent can be learned without rewards. V, a VAE, makes a few numbers of a frame. M, an
LSTM, predicts the next ones. What is left to learn is C, a linear controller of some hundred weights, which
evolution can find. And since M predicts how an episode goes on, and when it ends, C can live in M alone: it
dreams.

    z_t ~ q(z|x_t) = N(μ(x_t), σ²(x_t))                                           V
    P(z_{t+1} | z_t, a_t, h_{t-1}) = Π_i Σ_k π_ik N(μ_ik, σ_ik²),  P(d_{t+1})     M: 5 Gaussians, and the end
    h_t, c_t = LSTM([z_t, a_t, r_t], h_{t-1}, c_{t-1})                            r_t: an episode begins
    a_t = W [z_t, h_{t-1}, c_{t-1}] + b                                           C, by CMA-ES
    π ∝ exp(log π / τ),  σ² → τ σ²                                                the dream's temperature τ

Three stages of one run: V on frames of random episodes; M on sequences of latents that are sampled anew for
each batch, so that it never learns one encoding by heart; C in the dream (`controller_env dream`) or in the
world. The higher τ, the harder it is for C to live on what M gets wrong.

    world_models       Take Cover: z 64, 512 units, action and restart flag into M, the end of an episode out
                       of it, C of [z, h, c]: V 4,446,915, M 1,678,785, C 1,088 parameters
    world_models_car   CarRacing: z 32, 256 units, three actions, C of [z, h] and a bias:
                       V 4,348,547, M 422,368, C 867
    world_models_small 8 × 8, for tests

The LSTM has one bias, as the authors' has: torch's two would be 4 more for each unit.

What differs from the paper. Frames and episodes are far fewer than 10,000 episodes'. Learning rates are
higher and decay. An action is one of three, as the world has it, for M too, which has C's number there. A
dream ends by chance, by P(d), where the authors' ends at P(d) > 1/2 with tenfold weight on ends in training.
The frame after an end is not predicted. In the world C sees μ for z. CarRacing's actions are tanh, stretched
to their bounds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.mixture_density import MixtureDensity
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.vae.elbo import kl_to_prior, reparameterize
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer
from torchstone.tasks.rl import world_model as task
from torchstone.tasks.rl.evaluate import evaluate
from torchstone.tasks.rl.world_model import LatentBatch, play

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]

# what of the paper is written out here
STORY = ("vae_loss", "rnn_loss", "dream")


@dataclass(frozen=True)
class Recipe:
    data: str = (
        "TakeCover-v0"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    )
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "world_models"  # network
    episodes: int = 400  # number of random episodes that V and M learn from
    frames: int = 30_000  # number of frames that V learns from, at most 100 of an episode
    eval_fraction: float = 0.05  # random episodes beyond those, to validate with, as a fraction of them
    vae_steps: int = 3000  # number of updates of V
    vae_batch_size: int = 32  # frames per update of V
    optimizer: VectorOptimizer = "adam"  # optimizer of V and M
    vae_lr: float = 1e-3  # peak learning rate of V
    kl_tolerance: float = 0.5  # nats of KL per latent that are not penalized
    rnn_steps: int = 400  # number of updates of M
    rnn_batch_size: int = 32  # sequences per update of M
    seq_len: int = 128  # steps of a sequence
    rnn_lr: float = 2e-3  # peak learning rate of M
    max_grad_norm: float | None = 1.0  # gradient clipping of M: largest norm, none for no limit
    controller_env: Literal["dream", "world"] = "dream"  # where the controller is trained
    temperature: float = 1.0  # temperature τ of the dream
    dream_steps: int = 1000  # steps after which a dream is cut
    population: int = 16  # candidates of a generation of CMA-ES
    rollouts: int = 8  # episodes of a candidate
    sigma: float = 0.1  # initial standard deviation of the controller's weights
    is_diagonal: bool = True  # adapt variances alone in CMA-ES, not the full covariance matrix
    steps: int = 60  # number of generations, the updates of C
    eval_dreams: int = 128  # dreams of an evaluation
    eval_episodes: int = 100  # episodes of the test; a tenth of them in training
    record_video: bool = True  # record a video of reality and a dream at the end
    seed: int = 0  # random seed of weights, episodes, batches, dreams and evolution
    device: str = "auto"  # device: auto, cpu, cuda or mps


TAKE_COVER = Recipe()
RECIPES = {
    # torchstone train world_models   the paper's second; not measured yet
    "take_cover": TAKE_COVER,
    # torchstone train world_models/car_racing   the paper's first: 10,000 episodes of a slow simulator
    "car_racing": replace(
        TAKE_COVER,
        data="CarRacing-v3",
        wrappers=("ResizeFrames:size=64",),
        variant="world_models_car",
        episodes=10_000,
        frames=1_000_000,
        eval_fraction=0.01,
        vae_steps=100_000,
        vae_batch_size=100,
        vae_lr=1e-4,
        rnn_steps=40_000,
        rnn_batch_size=100,
        seq_len=1000,
        rnn_lr=1e-3,
        controller_env="world",
        population=64,
        rollouts=16,
        is_diagonal=False,
        steps=1800,
    ),
    # for tests: seconds
    "smoke": replace(
        TAKE_COVER,
        data="Dodge-v0",
        variant="world_models_small",
        episodes=60,
        frames=1000,
        eval_fraction=0.2,
        vae_steps=200,
        vae_lr=1e-2,
        kl_tolerance=2.0,
        rnn_steps=150,
        rnn_batch_size=16,
        seq_len=32,
        rnn_lr=2e-2,
        dream_steps=60,
        sigma=0.5,
        steps=12,
        eval_dreams=32,
        eval_episodes=40,
        record_video=False,
    ),
}

MARGIN = ("return", 3.0)


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of the three networks."""

    observation_shape: Sequence[int] = (3, 64, 64)
    num_actions: int = 3  # number of discrete actions, or the dimension of continuous ones
    continuous: bool = False
    low: Sequence[float] = ()  # bounds of continuous actions
    high: Sequence[float] = ()
    observation_scale: float = BYTE  # what frames are divided by
    latent_dim: int = 64
    hidden: int = 512  # LSTM units
    components: int = 5  # Gaussians of a latent
    channels: Sequence[int] = (32, 64, 128, 256)  # of the encoder's convolutions, 4 × 4 with stride 2
    kernels: Sequence[int] = (5, 5, 6, 6)  # of the decoder's
    has_end: bool = True  # the restart flag goes into M, and the end of an episode comes out
    uses_cell: bool = True  # C sees the LSTM's cell too
    has_bias: bool = False  # of C
    num_initial: int = 256  # first latents that dreams begin with


class ConvVAE(nn.Module):
    """V (appendix A.1)."""

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        image, sizes = config.observation_shape[0], (config.observation_shape[1],)
        layers: list[nn.Module] = []
        for width in config.channels:
            layers += [nn.Conv2d(image, width, 4, 2), nn.ReLU()]
            image, sizes = width, (*sizes, (sizes[-1] - 4) // 2 + 1)
        features = image * sizes[-1] ** 2
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(features, config.latent_dim)
        self.logvar = nn.Linear(features, config.latent_dim)
        widths = (*config.channels[-2::-1][: len(config.kernels) - 1], config.observation_shape[0])
        layers = [nn.Linear(config.latent_dim, features), nn.Unflatten(1, (features, 1, 1))]
        for width, kernel in zip(widths, config.kernels, strict=True):
            layers += [nn.ConvTranspose2d(features, width, kernel, 2), nn.ReLU()]
            features = width
        self.decoder = nn.Sequential(*layers[:-1], nn.Sigmoid())

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor]:
        """μ and log σ² of frames from 0 to 1."""
        features = self.encoder(x)
        return self.mean(features), self.logvar(features)

    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Frames from 0 to 1."""
        return self.decoder(z)


State = tuple[Tensor, Tensor]  # h and c, each (1, batch, units)


class Prediction(NamedTuple):
    """What M expects next."""

    z: MixtureDensity
    end: Tensor | None  # logits that the episode ends


class MDNRNN(nn.Module):
    """M (appendix A.2): an LSTM with one bias and a mixture-density output."""

    zero: Tensor

    def __init__(self, config: WorldModelConfig, dims: int):
        super().__init__()
        self.config = config
        inputs, units = config.latent_dim + dims + config.has_end, config.hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * units, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * units, units))
        self.bias = nn.Parameter(torch.zeros(4 * units))
        self.register_buffer("zero", torch.zeros(4 * units), persistent=False)  # torch's second bias
        self.head = nn.Linear(units, 3 * config.components * config.latent_dim + config.has_end)
        for weight in (self.weight_ih, self.weight_hh):
            nn.init.uniform_(weight, -1 / math.sqrt(units), 1 / math.sqrt(units))
        with torch.no_grad():
            self.bias[units : 2 * units] = 1.0  # forget gate, as in TensorFlow's cell

    def initial_state(self, batch: int) -> State:
        zeros = self.bias.new_zeros(1, batch, self.config.hidden)
        return zeros, zeros

    def inputs(self, z: Tensor, action: Tensor, restart: Tensor) -> Tensor:
        """[z, a, r]."""
        return torch.cat([z, action, *([restart[..., None]] if self.config.has_end else [])], -1)

    def predict(self, h: Float[Tensor, "*batch units"]) -> Prediction:
        return split_prediction(self.head(h), self.config)

    def forward(
        self,
        z: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time dims"],
        restart: Float[Tensor, "batch time"],
        state: State | None = None,
    ) -> Prediction:
        """Predictions of the next latents, after each step."""
        weights = [self.weight_ih, self.weight_hh, self.bias, self.zero]
        state = self.initial_state(len(z)) if state is None else state
        x = self.inputs(z, action, restart)
        y, *_ = torch.lstm(x, list(state), weights, True, 1, 0.0, self.training, False, True)
        return self.predict(y)

    def step(self, z: Tensor, action: Tensor, restart: Float[Tensor, " batch"], state: State) -> State:
        """h_t and c_t."""
        h, c = torch.lstm_cell(
            self.inputs(z, action, restart),
            [state[0][0], state[1][0]],
            *(self.weight_ih, self.weight_hh, self.bias, self.zero),
        )
        return h[None], c[None]


def split_prediction(y: Float[Tensor, "*batch outputs"], config: WorldModelConfig) -> Prediction:
    end = y[..., -1] if config.has_end else None
    y = y[..., : 3 * config.components * config.latent_dim]
    y = y.unflatten(-1, (3, config.latent_dim, config.components))
    return Prediction(MixtureDensity(*y.unbind(-3)), end)


class MemorylessMDN(nn.Module):
    """What M is compared with: the same output of z_t and a_t alone, through two hidden layers."""

    def __init__(self, config: WorldModelConfig, dims: int):
        super().__init__()
        self.config, units = config, config.hidden
        inputs = config.latent_dim + dims + config.has_end
        outputs = 3 * config.components * config.latent_dim + config.has_end
        self.layers = nn.Sequential(
            *(nn.Linear(inputs, units), nn.Tanh(), nn.Linear(units, units), nn.Tanh()),
            nn.Linear(units, outputs),
        )

    inputs = MDNRNN.inputs

    def forward(self, z: Tensor, action: Tensor, restart: Tensor) -> Prediction:
        return split_prediction(self.layers(self.inputs(z, action, restart)), self.config)


class WorldModel(nn.Module):
    """V, M and C; and the first latents of some episodes, with which dreams begin.

    Its recurrent state is h and c, and whether the episode has begun.
    """

    low: Tensor
    high: Tensor
    initial_mean: Tensor
    initial_logvar: Tensor

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        self.config = config
        self.dims = config.num_actions if config.continuous else 1
        self.vae = ConvVAE(config)
        self.mdn_rnn = MDNRNN(config, self.dims)
        features = config.latent_dim + config.hidden * (1 + config.uses_cell)
        self.controller = nn.Linear(features, self.dims, bias=config.has_bias)
        for weight in self.controller.parameters():
            nn.init.zeros_(weight)
        for name, default in (("low", -1.0), ("high", 1.0)):
            bounds = torch.tensor(list(getattr(config, name)) or [default] * self.dims)
            self.register_buffer(name, bounds, persistent=False)
        for name in ("initial_mean", "initial_logvar"):
            self.register_buffer(name, torch.zeros(config.num_initial, config.latent_dim))

    def discretize(self, action: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch dims"]:
        """Actions from -1 to 1 as M and the world have them: of n discrete ones, the middle of an n-th."""
        if self.config.continuous:
            return action
        n = self.config.num_actions
        return 2 * ((action + 1) / 2 * n).floor().clamp(0, n - 1) / (n - 1) - 1

    def env_action(self, action: Float[Tensor, "batch dims"]) -> Tensor:
        """What the environment takes for such an action."""
        if self.config.continuous:
            return self.low + (action + 1) / 2 * (self.high - self.low)
        return ((action[:, 0] + 1) / 2 * (self.config.num_actions - 1)).round().long()

    def control(
        self, z: Tensor, state: State, weights: Float[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch dims"]:
        """C's action; with the weights of another controller in each row."""
        features = [z, state[0][0], *([state[1][0]] if self.config.uses_cell else [])]
        x = torch.cat(features, 1)
        if weights is None:
            return self.discretize(self.controller(x).tanh())
        matrix = weights[:, : self.controller.weight.numel()].view(len(x), self.dims, -1)
        action = (matrix @ x[..., None])[..., 0]
        if self.config.has_bias:
            action = action + weights[:, -self.dims :]
        return self.discretize(action.tanh())

    def controller_weights(self) -> Float[Tensor, " n"]:
        """C as one vector."""
        return nn.utils.parameters_to_vector(self.controller.parameters()).detach()

    def set_controller(self, weights: Float[Tensor, " n"]) -> None:
        """Set C from one vector."""
        nn.utils.vector_to_parameters(weights.to(self.low), self.controller.parameters())

    def frames(self, observation: Tensor) -> Tensor:
        """Observations as frames from 0 to 1."""
        return scale_observations(observation, self.config.observation_scale)

    def initial_state(self, num_envs: int) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.mdn_rnn.initial_state(num_envs)
        return h, c, h.new_zeros(1, num_envs, 1)

    def greedy(self, observation: Tensor, action_mask: None, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the environment takes, and the next recurrent state."""
        *memory, has_begun = state
        z, _ = self.vae.encode(self.frames(observation))
        action = self.control(z, (memory[0], memory[1]))
        memory = self.mdn_rnn.step(z, action, 1 - has_begun[0, :, 0], (memory[0], memory[1]))
        return self.env_action(action), (*memory, torch.ones_like(has_begun))

    def imagine(
        self, z: Float[Tensor, "1 latent"], steps: int, temperature: float, generator: torch.Generator
    ) -> Float[Tensor, "time latent"]:
        """Latents of a dream that begins with `z`, for so many steps or until it ends."""
        state, restart, latents = self.mdn_rnn.initial_state(1), z.new_ones(1), [z]
        one = torch.zeros(1, dtype=torch.int64, device=z.device)
        for _ in range(steps):
            state = self.mdn_rnn.step(z, self.control(z, state), restart, state)
            z, ends = self.next_latent(state, generator, temperature, one, 1)
            if ends.any():
                break
            latents.append(z)
            restart = torch.zeros_like(restart)
        return torch.cat(latents)

    def next_latent(
        self,
        state: State,
        generator: torch.Generator,
        temperature: float,
        rollout: Int64[Tensor, " batch"],
        rollouts: int,
    ) -> tuple[Float[Tensor, "batch latent"], Bool[Tensor, " batch"]]:
        """A sample of M's prediction, and whether the episode ends.

        Args:
            generator: of all chance, on the CPU.
            rollout: number of each row's episode, one of `rollouts`; rows of the same have the same noise.
        """
        prediction = self.mdn_rnn.predict(state[0][0])
        uniform = torch.rand(rollouts, self.config.latent_dim + 1, generator=generator).to(self.low)[rollout]
        normal = torch.randn(rollouts, self.config.latent_dim, generator=generator).to(self.low)[rollout]
        z = prediction.z.sample(uniform[:, :-1], normal, temperature)
        if prediction.end is None:
            return z, torch.zeros(len(z), dtype=torch.bool, device=z.device)
        return z, uniform[:, -1] < prediction.end.sigmoid()

    def forward(self, observation: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, ...]:
        """Reconstruction, μ and log σ²; what M predicts after two steps at the frame; C's next output."""
        mean, logvar = self.vae.encode(observation)
        action, restart = mean.new_zeros(len(mean), self.dims), mean.new_ones(len(mean))
        state = self.mdn_rnn.initial_state(len(mean))
        for _ in range(2):
            state = self.mdn_rnn.step(mean, action, restart, state)
        prediction = self.mdn_rnn.predict(state[0][0])
        features = torch.cat([mean, state[0][0], *([state[1][0]] if self.config.uses_cell else [])], 1)
        end = () if prediction.end is None else (prediction.end,)
        return self.vae.decode(mean), mean, logvar, *prediction.z, *end, self.controller(features)


def make_world_model(**fields: Any) -> WorldModel:
    return WorldModel(WorldModelConfig(**fields))


CAR = {
    "num_actions": 3,
    "continuous": True,
    "latent_dim": 32,
    "hidden": 256,
    "has_end": False,
    "uses_cell": False,
    "has_bias": True,
}
SMALL = {
    "observation_shape": (3, 8, 8),
    "latent_dim": 8,
    "hidden": 32,
    "components": 3,
    "channels": (16,),
    "kernels": (8,),
    "num_initial": 32,
}
VARIANTS = {
    "world_models": Variant(make_world_model, (3, 64, 64)),
    "world_models_car": Variant(partial(make_world_model, **CAR), (3, 64, 64)),
    "world_models_small": Variant(partial(make_world_model, **SMALL), (3, 8, 8)),
}


def vae_loss(
    vae: ConvVAE, x: Float[Tensor, "batch channels height width"], noise: Tensor, kl_tolerance: float
) -> dict[str, Tensor]:
    """Σ (x - x̂)² + max(KL, tolerance · latents), the mean over frames."""
    mean, logvar = vae.encode(x)
    error = (vae.decode(reparameterize(mean, logvar, noise)) - x).square().sum((1, 2, 3)).mean()
    kl = kl_to_prior(mean, logvar).sum(1)
    loss = error + kl.clamp(min=kl_tolerance * mean.shape[1]).mean()
    return {"loss": loss, "reconstruction_error": error, "kl": kl.mean()}


def rnn_loss(network: nn.Module, batch: LatentBatch) -> dict[str, Tensor]:
    """-log P(z_{t+1}) in nats per latent where the episode goes on, and -log P(d_{t+1})."""
    prediction = network(batch.z[:, :-1], batch.action, batch.restart)
    nll = -prediction.z.log_prob(batch.z[:, 1:]).mean(-1)
    nll = (nll * batch.goes_on).sum() / batch.goes_on.sum()
    if prediction.end is None:
        return {"loss": nll, "nll": nll}
    end_loss = F.binary_cross_entropy_with_logits(prediction.end, batch.end)
    return {"loss": nll + end_loss, "nll": nll, "end_loss": end_loss}


@torch.no_grad()
def dream(
    model: WorldModel,
    candidates: Float[Tensor, "population n"],
    *,
    rollouts: int,
    temperature: float,
    limit: int,
    generator: torch.Generator,
) -> Float[Tensor, "population rollouts"]:
    """How many steps each controller lives in M; chance is the same for all of them.

    Args:
        limit: steps after which a dream is cut.
        generator: of all chance, on the CPU.
    """
    device, latent_dim = model.low.device, model.config.latent_dim
    population = len(candidates)
    first = torch.randint(len(model.initial_mean), (rollouts,), generator=generator).to(device)
    noise = torch.randn(rollouts, latent_dim, generator=generator).to(device)
    z = reparameterize(model.initial_mean[first], model.initial_logvar[first], noise)
    # rows of those that live, by candidate and rollout
    rollout = torch.arange(rollouts, device=device).repeat(population)
    rows = torch.arange(population * rollouts, device=device)
    weights, z = candidates.to(device).repeat_interleave(rollouts, 0), z[rollout]
    steps = torch.full((population * rollouts,), float(limit), device=device)
    state, restart = model.mdn_rnn.initial_state(len(z)), z.new_ones(len(z))
    for t in range(1, limit + 1):
        state = model.mdn_rnn.step(z, model.control(z, state, weights), restart, state)
        z, ends = model.next_latent(state, generator, temperature, rollout, rollouts)
        restart = torch.zeros_like(restart)
        if not ends.any():
            continue
        steps[rows[ends]] = float(t)
        live = ~ends
        if not live.any():
            break
        rows, rollout, weights, z, restart = (x[live] for x in (rows, rollout, weights, z, restart))
        state = state[0][:, live], state[1][:, live]
    return steps.view(population, rollouts)


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    variant = VARIANTS[recipe.variant]
    model_config = task.model_config(recipe, variant.shape, "world_models")
    model = variant.make(**model_config).to(device)
    if recipe.controller_env == "dream" and not model.config.has_end:
        raise BadInput(
            f"{recipe.variant} does not predict when an episode ends, so no dream of it has a return: "
            "--controller-env world, or --variant world_models"
        )
    setup = task.prepare(model, recipe, model_config)
    yield task.train_vae(setup, lambda x, noise: vae_loss(model.vae, x, noise, recipe.kl_tolerance))
    memoryless = MemorylessMDN(model.config, model.dims).to(device)
    run = task.train_rnn(setup, memoryless, rnn_loss)
    yield run
    lives = partial(dream, model, temperature=recipe.temperature, limit=recipe.dream_steps)
    yield task.train_controller(setup, lives, run.results)


def count(part: str, variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(getattr(VARIANTS[variant].make(), part))


# V, M and C of the paper's two tasks, by the tables of its appendix A
COUNTS = {"world_models": (4_446_915, 1_678_785, 1_088), "world_models_car": (4_348_547, 422_368, 867)}
FACTS = [
    Fact(f"{variant} {part} parameters", partial(count, part, variant), number)
    for variant, numbers in COUNTS.items()
    for part, number in zip(("vae", "mdn_rnn", "controller"), numbers, strict=True)
]


def reference() -> Iterator[ParityCase]:
    """M and its loss by torch's own LSTM and mixtures, V's by sums over pixels and torch's divergence."""
    from torchstone.references.world_models import cases

    yield from cases(WorldModelConfig, ConvVAE, MDNRNN, vae_loss, rnn_loss, LatentBatch)
