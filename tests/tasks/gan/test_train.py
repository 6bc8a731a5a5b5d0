"""GAN training: each step against a reference, which network learns from what, and what is measured."""

import copy
import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch.utils._pytree import tree_map

from torchstone.data.vision.dataset import load_images
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.gan import losses
from torchstone.systems.generative import CLASSIFIER, cgan, dcgan, gan
from torchstone.tasks.gan import inference
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier

MODULES = {"gan": gan, "dcgan": dcgan, "cgan": cgan}


def built(name: str, **fields):
    module = MODULES[name]
    recipe = replace_fields(module.RECIPES["smoke"], {"device": "cpu", **fields})
    return next(module.build(recipe)), recipe


# --------------------------------------------------------------------------- a step, by definition


def log_sigmoid(x):
    return -torch.log(1 + torch.exp(-x))


def reference_discriminator_loss(loss, real, fake):
    if loss in ("non_saturating", "minimax"):  # log(1 − σ(x)) = log σ(−x)
        return -log_sigmoid(real).mean() - log_sigmoid(-fake).mean()
    if loss == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    return fake.mean() - real.mean()


def reference_generator_loss(loss, fake):
    if loss == "minimax":
        return log_sigmoid(-fake).mean()
    return -log_sigmoid(fake).mean() if loss == "non_saturating" else -fake.mean()


class Adam:
    """Kingma and Ba 2014, algorithm 1."""

    def __init__(self, weights, lr, beta1, beta2=0.999, eps=1e-8):
        self.weights, self.lr, self.betas, self.eps, self.t = (list(weights), lr, (beta1, beta2), eps, 0)
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
    """The same two networks, each step as in the papers; all steps of the discriminator come first."""

    def __init__(self, run, recipe):
        self.model, self.discriminator = (copy.deepcopy(run.state[n]) for n in ("model", "discriminator"))
        self.average = copy.deepcopy(self.model)
        self.recipe, self.rounds = recipe, 0
        rates = recipe.optim.lr, recipe.discriminator_lr or recipe.optim.lr
        players = self.model, self.discriminator
        self.mine, self.theirs = (
            Adam(net.parameters(), lr, recipe.optim.beta1) for net, lr in zip(players, rates, strict=True)
        )

    def condition(self, labels):
        return (labels,) if hasattr(self.discriminator, "num_classes") else ()

    def penalty(self, step_batch, fake):
        """Picture by picture, (‖∇ D(x̂)‖ − 1)²."""
        each = []
        for i in range(len(fake)):
            weight = step_batch.interpolation[i]
            x = (weight * step_batch.real[i] + (1 - weight) * fake[i])[None]
            x.requires_grad_()
            logits = self.discriminator(x, *self.condition(step_batch.labels[i : i + 1]))
            slope = torch.autograd.grad(logits.sum(), x, create_graph=True)[0]
            each.append((slope.square().sum().sqrt() - 1) ** 2)
        return torch.stack(each).mean()

    def round(self, batch) -> dict[str, torch.Tensor]:
        loss = self.recipe.loss
        for step_batch in batch.discriminator_batches:
            fake = self.model(step_batch.z, *self.condition(step_batch.labels)).detach()
            extra = self.recipe.gp_weight * self.penalty(step_batch, fake) if loss == "wgan_gp" else 0
            condition = self.condition(step_batch.labels)
            real_logits = self.discriminator(step_batch.real, *condition)
            fake_logits = self.discriminator(fake, *condition)
            discriminator_loss = reference_discriminator_loss(loss, real_logits, fake_logits) + extra
            discriminator_gradients = torch.autograd.grad(
                discriminator_loss, list(self.discriminator.parameters())
            )
            self.theirs.step(discriminator_gradients)
        generator_batch = batch.generator_batch
        condition = self.condition(generator_batch.labels)
        fooled = self.discriminator(self.model(generator_batch.z, *condition), *condition)
        generator_loss = reference_generator_loss(loss, fooled)
        model_gradients = torch.autograd.grad(generator_loss, list(self.model.parameters()))
        self.mine.step(model_gradients)
        self.rounds += 1
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for mean, now in pairs:  # the first round's weights are its first mean
            share = self.recipe.optim.ema_decay if self.rounds > 1 else 0.0
            mean.data = share * mean.data + (1 - share) * now.data
        self.gradients = discriminator_gradients, model_gradients
        return {
            "loss": generator_loss,
            "discriminator_loss": discriminator_loss,
            "real_logit": real_logits.mean(),
            "fake_logit": fake_logits.mean(),
        }


NARROW = {"variant": "dcgan_mnist", "base_channels": 4}  # whose discriminator has norms
CASES = {
    "gan": ("gan", {}),
    "gan minimax": ("gan", {"loss": "minimax", "discriminator_steps": 2}),
    "dcgan": ("dcgan", NARROW),
    "dcgan hinge spectral": ("dcgan", NARROW | {"loss": "hinge", "discriminator_norm": "spectral"}),
    "dcgan penalty": (
        "dcgan",
        NARROW
        | {
            "loss": "wgan_gp",
            "discriminator_norm": "layer",
            "discriminator_steps": 2,
            "discriminator_lr": 3e-3,
        },
    ),
    "cgan": ("cgan", {"variant": "cgan", "base_channels": 4}),
    "cgan_paper penalty": ("cgan", {"variant": "cgan_paper", "loss": "wgan_gp", "gp_weight": 3.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_gan_update_matches_reference_steps(case):
    name, fields = CASES[case]
    run, recipe = built(name, batch_size=6, **fields)
    for net in ("model", "discriminator", "ema"):
        run.state[net].double()
    if case == "cgan_paper penalty":
        run.state["discriminator"].eval()  # without dropout, which would be drawn in another order there
    reference = ByHand(run, recipe)
    worst = {}
    for step in range(3):
        batch = tree_map(lambda x: x.double() if x.is_floating_point() else x, next(run.stream))
        torch.manual_seed(step)  # dropout
        metrics = run.update(batch)
        torch.manual_seed(step)
        wanted = reference.round(batch)
        pairs = {f"{n} of step {step}": (metrics[n], wanted[n]) for n in wanted}
        nets = {"model": reference.model, "discriminator": reference.discriminator}
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
    print(f"{case}: {len(worst)} compared, largest error {most}, {worst[most]:.1e}")
    assert worst[most] < 1e-6, most
    assert len(worst) > 30


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gan", {}),
        ("dcgan", {}),
        ("cgan", {}),
        ("dcgan", NARROW | {"loss": "wgan_gp", "discriminator_norm": "none", "grad_accum_steps": 2}),
    ],
)
def test_gan_update_gradients_stay_in_own_network(name, fields):
    run, _ = built(name, batch_size=8, **fields)
    players = {"optimizer": run.state["model"], "discriminator_optimizer": run.state["discriminator"]}
    steps_taken = []

    def gradients(net):
        return [None if p.grad is None else p.grad.clone() for p in net.parameters()]

    def check_steps_of(network):
        other = next(net for which, net in players.items() if which != network)
        before = []

        optimizer = run.state[network]
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
            assert all(same), f"{network}'s step changed the other's gradient"
            assert all(p.grad is not None for p in players[network].parameters())
            steps_taken.append(network)

        optimizer.zero_grad = begins
        optimizer.register_step_post_hook(ends)

    for network in players:
        check_steps_of(network)
    for _ in range(2):
        run.update(next(run.stream))
    assert steps_taken == ["discriminator_optimizer", "optimizer"] * 2


def test_gan_optimizers_have_own_lr_and_schedule():
    run, recipe = built(
        "dcgan", steps=10, discriminator_steps=3, discriminator_lr=1e-4, lr_schedule="linear", batch_size=4
    )
    for _ in range(5):
        run.update(next(run.stream))
    rates = [run.state[n].param_groups[0]["lr"] for n in ("optimizer", "discriminator_optimizer")]
    assert run.state["lr_schedule"].last_epoch == 5
    assert run.state["discriminator_lr_schedule"].last_epoch == 15
    assert rates == pytest.approx([recipe.optim.lr / 2, 1e-4 / 2])
    assert run.state["stream"].state_dict() == {"position": 60}


# -------------------------------------------------------------------------------- what is measured


def test_gan_metrics_use_ema_and_untrained_generator():
    """By scipy, from samples generated here: the trained and averaged network's, and the one it began as."""
    run, recipe = built("cgan", steps=12, eval_samples=30)
    untrained = copy.deepcopy(run.state["model"])
    fit(run, intervals=Intervals(evaluate=12), quiet=True)
    data = load_images("digits", size=8, channels=1, device="cpu")
    classifier = train_or_load_classifier(data, CLASSIFIER)
    real = classifier.extract_split(data.test)[0].features.double()

    def distance(net):
        fake = classifier.extract(
            inference.sample_images(net, 150, run.metadata["picture"])
        ).features.double()
        covs = [x.T.cov().numpy() for x in (fake, real)]
        mean_distance = float((fake.mean(0) - real.mean(0)).square().sum())
        return mean_distance + covs[0].trace() + covs[1].trace() - 2 * sqrtm(covs[0] @ covs[1]).real.trace()

    nets = (run.state["ema"].module, untrained, run.state["model"])
    averaged, before, last = map(distance, nets)
    results = {n.removeprefix("test/"): v for n, v in run.results.items() if n.startswith("test/")}
    print(averaged, before, last, results)
    assert results["frechet_distance"] == pytest.approx(averaged, rel=1e-4)
    assert results["frechet_distance_untrained"] == pytest.approx(before, rel=1e-4)
    assert results["fd_ratio_vs_untrained"] == pytest.approx(before / averaged, rel=1e-3)
    assert abs(last - averaged) > 1e-3 * averaged
    fake = classifier.extract(inference.sample_images(nets[0], 150, run.metadata["picture"]))
    right = (fake.labels == torch.arange(150) % 10).float().mean()
    assert results["label_accuracy"] == pytest.approx(float(right))
    assert 0 < results["frechet_distance_train"] < results["frechet_distance"]
    again = cgan.evaluate(nets[0], run.metadata, recipe.data, held_out=True)
    counts = [results[f"frechet_{each}"] for each in ("features", "samples", "images")]
    assert counts == [84, 150, len(data.test)]
    assert 0 < results["frechet_distance_floor"] < results["frechet_distance"]
    for name in (
        "frechet_distance",
        "frechet_distance_floor",
        "label_accuracy",
        "precision",
        "recall",
        "relative_variance",
        "min_class_share",
    ):
        assert again[name] == pytest.approx(results[name]), name
    assert (again["samples"], again["images"]) == (150, len(data.test))
    on_all_images = cgan.evaluate(nets[0], run.metadata, recipe.data, held_out=False)
    assert on_all_images["images"] == sum(map(len, (data.train, data.val, data.test)))


def test_gan_evaluation_leaves_training_unchanged():
    """The weights do not depend on how often the run is evaluated."""
    weights = []
    for every in (2, 6):
        run, _ = built("gan", steps=6, eval_samples=10)
        fit(run, intervals=Intervals(evaluate=every), quiet=True)
        weights.append([p.clone() for p in run.state["model"].parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dcgan", NARROW | {"loss": "wgan_gp"}, "choose discriminator_norm layer"),
        ("dcgan", {"loss": "wgan_gp", "discriminator_norm": "none", "compile": True}, "leave compile off"),
        (
            "dcgan",
            {"loss": "wgan_gp", "discriminator_norm": "none", "gp_weight": math.nan},
            "gp_weight must be",
        ),
        ("gan", {"discriminator_steps": 0}, "discriminator_steps must be at least 1"),
        ("gan", {"discriminator_lr": 0.0}, "lr must be a positive number"),
        ("gan", {"eval_samples": 3}, "more of them are needed"),
        ("cgan", {"augment": "affin"}, "did you mean affine"),
    ],
)
def test_train_gan_rejects_invalid_recipe(name, fields, message):
    with pytest.raises(BadInput, match=message) as refused:
        built(name, **fields)
    assert "\n" not in str(refused.value)


def test_train_gan_trains_with_every_loss():
    assert set(losses.GAN_LOSSES) == {"non_saturating", "minimax", "hinge", "wgan_gp"}
    for loss in losses.GAN_LOSSES:
        run, _ = built("dcgan", loss=loss, discriminator_norm="spectral", batch_size=8, base_channels=8)
        before = [p.detach().clone() for p in run.state["model"].parameters()]
        for _ in range(3):
            metrics = run.update(next(run.stream))
        assert all(math.isfinite(float(v)) for v in metrics.values()), loss
        pairs = zip(before, run.state["model"].parameters(), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs), loss
