"""The game as it is trained: each step against one written out, who learns from what, what is measured."""

import copy
import dataclasses
import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch.utils._pytree import tree_map

from torchstone.data.vision.dataset import load_pictures
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.metrics.classifier_features import judge
from torchstone.systems.convolutional import lenet5
from torchstone.systems.generative import cgan, dcgan, gan
from torchstone.tasks.gan import inference, train

MODULES = {"gan": gan, "dcgan": dcgan, "cgan": cgan}


def built(name: str, **fields):
    module = MODULES[name]
    recipe = dataclasses.replace(module.RECIPES["smoke"], device="cpu", **fields)
    return next(module.build(recipe)), recipe


# ---------------------------------------------------------------------------- a step, written out


def log_sigmoid(x):
    return -torch.log(1 + torch.exp(-x))


def critic_says(loss, real, made):
    if loss in ("non_saturating", "minimax"):  # log(1 − σ(x)) = log σ(−x)
        return -log_sigmoid(real).mean() - log_sigmoid(-made).mean()
    if loss == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + made).clamp(min=0).mean()
    return made.mean() - real.mean()


def generator_says(loss, made):
    if loss == "minimax":
        return log_sigmoid(-made).mean()
    return -log_sigmoid(made).mean() if loss == "non_saturating" else -made.mean()


class Adam:
    """Kingma and Ba 2014, algorithm 1."""

    def __init__(self, weights, lr, beta1, beta2=0.999, eps=1e-8):
        self.weights, self.lr, self.betas, self.eps, self.t = (
            list(weights),
            lr,
            (beta1, beta2),
            eps,
            0,
        )
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.v = [torch.zeros_like(w) for w in self.weights]

    @torch.no_grad()
    def step(self, gradients):
        self.t += 1
        b1, b2 = self.betas
        for w, g, m, v in zip(self.weights, gradients, self.m, self.v, strict=True):
            m.copy_(b1 * m + (1 - b1) * g)
            v.copy_(b2 * v + (1 - b2) * g * g)
            w -= self.lr * (m / (1 - b1**self.t)) / ((v / (1 - b2**self.t)).sqrt() + self.eps)


class ByHand:
    """The same two networks, each step as the papers say it; the critic has all its turns first."""

    def __init__(self, run, recipe):
        self.model, self.critic = (copy.deepcopy(run.state[n]) for n in ("model", "critic"))
        self.average = copy.deepcopy(self.model)
        self.recipe, self.rounds = recipe, 0
        rates = recipe.lr, recipe.critic_lr or recipe.lr
        players = self.model, self.critic
        self.mine, self.theirs = (
            Adam(net.parameters(), lr, recipe.momentum) for net, lr in zip(players, rates, strict=True)
        )

    def told(self, labels):
        return (labels,) if hasattr(self.critic, "classes") else ()

    def penalty(self, turn, made):
        """Picture by picture, (‖∇ D(x̂)‖ − 1)²."""
        each = []
        for i in range(len(made)):
            x = (turn.between[i] * turn.real[i] + (1 - turn.between[i]) * made[i])[None]
            x.requires_grad_()
            said = self.critic(x, *self.told(turn.labels[i : i + 1]))
            slope = torch.autograd.grad(said.sum(), x, create_graph=True)[0]
            each.append((slope.square().sum().sqrt() - 1) ** 2)
        return torch.stack(each).mean()

    def round(self, both) -> dict[str, torch.Tensor]:
        loss = self.recipe.loss
        for turn in both.turns:
            made = self.model(turn.z, *self.told(turn.labels)).detach()
            extra = self.recipe.penalty * self.penalty(turn, made) if loss == "wgan_gp" else 0
            real, fake = (self.critic(x, *self.told(turn.labels)) for x in (turn.real, made))
            critic_loss = critic_says(loss, real, fake) + extra
            of_critic = torch.autograd.grad(critic_loss, list(self.critic.parameters()))
            self.theirs.step(of_critic)
        wish = both.wish
        fooled = self.critic(self.model(wish.z, *self.told(wish.labels)), *self.told(wish.labels))
        generator_loss = generator_says(loss, fooled)
        of_model = torch.autograd.grad(generator_loss, list(self.model.parameters()))
        self.mine.step(of_model)
        self.rounds += 1
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for mean, now in pairs:  # the first round's weights are its first mean
            share = self.recipe.ema if self.rounds > 1 else 0.0
            mean.data = share * mean.data + (1 - share) * now.data
        self.gradients = of_critic, of_model
        return {
            "loss": generator_loss,
            "critic": critic_loss,
            "real": real.mean(),
            "made": fake.mean(),
        }


NARROW = {"variant": "dcgan_mnist", "width": 4}  # whose critic has norms
CASES = {
    "gan": ("gan", {}),
    "gan minimax": ("gan", {"loss": "minimax", "critic_steps": 2}),
    "dcgan": ("dcgan", NARROW),
    "dcgan hinge spectral": ("dcgan", NARROW | {"loss": "hinge", "critic_norm": "spectral"}),
    "dcgan penalty": (
        "dcgan",
        NARROW | {"loss": "wgan_gp", "critic_norm": "layer", "critic_steps": 2, "critic_lr": 3e-3},
    ),
    "cgan": ("cgan", {"variant": "cgan", "width": 4}),
    "cgan_paper penalty": ("cgan", {"variant": "cgan_paper", "loss": "wgan_gp", "penalty": 3.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_rounds_of_training_are_the_ones_written_out(case):
    name, fields = CASES[case]
    run, recipe = built(name, batch=6, **fields)
    for net in ("model", "critic", "ema"):
        run.state[net].double()
    if case == "cgan_paper penalty":
        run.state["critic"].eval()  # without dropout, which would be drawn in another order there
    reference = ByHand(run, recipe)
    worst = {}
    for step in range(3):
        both = tree_map(lambda x: x.double() if x.is_floating_point() else x, next(run.stream))
        torch.manual_seed(step)  # dropout
        said = run.update(both)
        torch.manual_seed(step)
        wanted = reference.round(both)
        pairs = {f"{n} of step {step}": (said[n], wanted[n]) for n in wanted}
        nets = {"model": reference.model, "critic": reference.critic}
        for (net, module), gradients in zip(nets.items(), reversed(reference.gradients), strict=True):
            ours = dict(run.state[net].named_parameters())
            for (n, p), g in zip(module.named_parameters(), gradients, strict=True):
                pairs |= {f"{net}.{n}": (ours[n], p), f"{net}.{n}'s gradient": (ours[n].grad, g)}
            for (n, b), ours_ in zip(module.named_buffers(), run.state[net].buffers(), strict=True):
                pairs[f"{net}.{n}"] = (ours_, b)
        for (n, p), ours_ in zip(
            reference.average.named_parameters(), run.state["ema"].module.parameters(), strict=True
        ):
            pairs[f"ema.{n}"] = (ours_, p)
        for what, (a, b) in pairs.items():
            size = max(float(b.detach().abs().max()), 1e-6)
            worst[what] = max(worst.get(what, 0), float((a - b).detach().abs().max()) / size)
    most = max(worst, key=worst.__getitem__)
    print(f"{case}: {len(worst)} compared, furthest apart {most}, {worst[most]:.1e}")
    assert worst[most] < 1e-6, most
    assert len(worst) > 30


@pytest.mark.parametrize(("name", "fields"), [("gan", {}), ("dcgan", {}), ("cgan", {}),
    ("dcgan", NARROW | {"loss": "wgan_gp", "critic_norm": "none", "accumulate": 2})])  # fmt: skip
def test_in_neither_player_s_step_does_a_gradient_reach_the_other(name, fields):
    run, _ = built(name, batch=8, **fields)
    players = {"optimiser": run.state["model"], "critic_optimiser": run.state["critic"]}
    asked = []

    def gradients(net):
        return [None if p.grad is None else p.grad.clone() for p in net.parameters()]

    def watch(own):
        other = next(net for which, net in players.items() if which != own)
        before = []

        optimizer = run.state[own]
        plain = optimizer.zero_grad

        def begins(*args, **kwargs):
            before[:] = gradients(other)
            plain(*args, **kwargs)

        def ends(*_):
            after = gradients(other)
            same = [
                (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
                for a, b in zip(before, after, strict=True)
            ]
            assert all(same), f"{own}'s step changed the other's gradient"
            assert all(p.grad is not None for p in players[own].parameters())
            asked.append(own)

        optimizer.zero_grad = begins
        optimizer.register_step_post_hook(ends)

    for own in players:
        watch(own)
    for _ in range(2):
        run.update(next(run.stream))
    assert asked == ["critic_optimiser", "optimiser"] * 2


def test_each_player_has_its_own_rate_and_its_own_clock():
    run, recipe = built("dcgan", steps=10, critic_steps=3, critic_lr=1e-4, schedule="linear", batch=4)
    for _ in range(5):
        run.update(next(run.stream))
    rates = [run.state[n].param_groups[0]["lr"] for n in ("optimiser", "critic_optimiser")]
    assert run.state["schedule"].last_epoch == 5
    assert run.state["critic_schedule"].last_epoch == 15
    assert rates == pytest.approx([recipe.lr / 2, 1e-4 / 2])
    assert run.state["stream"].state_dict() == {"position": 60}


# -------------------------------------------------------------------------------- what is measured


def test_figures_are_of_samples_from_the_average_and_of_the_untrained_generator():
    """By scipy, from pictures drawn here: the trained and averaged network's, and the one it began as."""
    run, recipe = built("cgan", steps=12, samples=30)
    untrained = copy.deepcopy(run.state["model"])
    fit(run, intervals=Intervals(evaluate=12), quiet=True)
    data = load_pictures("digits", size=8, channels=1, device="cpu")
    judging = judge(data, lenet5)
    real = judging.see_split(data.test)[0].features.double()

    def distance(net):
        made = judging.see(inference.drawn(net, 150, run.metadata["picture"])).features.double()
        covs = [x.T.cov().numpy() for x in (made, real)]
        apart = float((made.mean(0) - real.mean(0)).square().sum())
        return apart + covs[0].trace() + covs[1].trace() - 2 * sqrtm(covs[0] @ covs[1]).real.trace()

    nets = (run.state["ema"].module, untrained, run.state["model"])
    averaged, before, last = map(distance, nets)
    found = {n.removeprefix("test/"): v for n, v in run.results.items() if n.startswith("test/")}
    print(averaged, before, last, found)
    assert found["distance"] == pytest.approx(averaged, rel=1e-4)
    assert found["distance_untrained"] == pytest.approx(before, rel=1e-4)
    assert found["times_nearer"] == pytest.approx(before / averaged, rel=1e-3)
    assert abs(last - averaged) > 1e-3 * averaged
    made = judging.see(inference.drawn(nets[0], 150, run.metadata["picture"]))
    right = (made.labels == torch.arange(150) % 10).float().mean()
    assert found["agreement"] == pytest.approx(float(right))
    assert 0 < found["distance_training"] < found["distance"]
    again = cgan.evaluate(nets[0], run.metadata, recipe.data, held_out=True)
    for name in ("distance", "agreement", "precision", "recall", "variety", "least_share"):
        assert again[name] == pytest.approx(found[name]), name
    assert (again["samples"], again["pictures"]) == (150, len(data.test))
    everything = cgan.evaluate(nets[0], run.metadata, recipe.data, held_out=False)
    assert everything["pictures"] == sum(map(len, (data.train, data.val, data.test)))


def test_looking_changes_nothing_that_is_trained():
    """However often it is evaluated, the weights are the same."""
    weights = []
    for every in (2, 6):
        run, _ = built("gan", steps=6, samples=10)
        fit(run, intervals=Intervals(evaluate=every), quiet=True)
        weights.append([p.clone() for p in run.state["model"].parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("dcgan", NARROW | {"loss": "wgan_gp"}, "choose critic_norm layer"),
        ("dcgan", {"loss": "wgan_gp", "critic_norm": "none", "compile": True}, "leave compile off"),
        (
            "dcgan",
            {"loss": "wgan_gp", "critic_norm": "none", "penalty": math.nan},
            "penalty must be",
        ),
        ("gan", {"critic_steps": 0}, "critic_steps must be at least 1"),
        ("gan", {"critic_lr": 0.0}, "lr must be a positive number"),
        ("gan", {"samples": 3}, "more of them are needed"),
        ("cgan", {"augment": "affin"}, "did you mean affine"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused(name, fields, said):
    with pytest.raises(BadInput, match=said) as refused:
        built(name, **fields)
    assert "\n" not in str(refused.value)


def test_every_game_can_be_played():
    assert set(train.GAMES) == {"non_saturating", "minimax", "hinge", "wgan_gp"}
    for loss in train.GAMES:
        run, _ = built("dcgan", loss=loss, critic_norm="spectral", batch=8, width=8)
        before = [p.detach().clone() for p in run.state["model"].parameters()]
        for _ in range(3):
            said = run.update(next(run.stream))
        assert all(math.isfinite(float(v)) for v in said.values()), loss
        pairs = zip(before, run.state["model"].parameters(), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs), loss
