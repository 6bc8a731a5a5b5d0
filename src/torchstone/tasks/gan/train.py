"""Generative adversarial training: from two networks, a recipe and pictures to a Run.

Each player has an optimiser of its own, and each step fills the gradients of its own player alone. What
the samples are worth is measured while they are trained (`metrics/classifier_features.py`), so that a collapse is seen
when it happens, and named (`tasks/gan/mode_collapse.py`).
"""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageDataset
from torchstone.data.vision.gan_batches import Round, Rounds, Turn, Wish
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput, did_you_mean
from torchstone.metrics.classifier_features import Seen, beside, compared, judge
from torchstone.parts.gan.losses import GAMES, Game, gradient_penalty
from torchstone.parts.metrics import fidelity_diversity
from torchstone.plots.sample_grid import watched
from torchstone.tasks.gan.inference import columns_of, drawn, every_label, told_of
from torchstone.tasks.gan.mode_collapse import Watch
from torchstone.tasks.optimization import gradient_update

SHOWN, PAIRS = 100, 48  # on a sheet; beside training pictures


class Sides(nn.Module):
    """The critic as one step asks it: of real and of made pictures, each a batch of its own."""

    def __init__(self, critic: nn.Module, penalised: bool):
        super().__init__()
        self.critic, self.penalised = critic, penalised

    def forward(self, turn: Turn, made: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        told = told_of(self.critic, turn.labels)
        slope = None
        if self.penalised:
            slope = gradient_penalty(lambda x: self.critic(x, *told), turn.real, made, turn.between)
        return self.critic(turn.real, *told), self.critic(made, *told), slope


def adversarial(
    model: Any,
    critic: nn.Module,
    recipe: Any,
    data: ImageDataset,
    *,
    model_config: dict[str, Any],
    picture: dict[str, Any],
    classifier: Any,
) -> Run:
    """A Run that trains `model` to make pictures that `critic` cannot tell from those of `data`.

    The recipe states loss, penalty, critic_steps, critic_lr, samples, batch, steps, seed, variant, augment,
    optimiser, lr, momentum, weight_decay, schedule, warmup, clip, accumulate, ema, precision, compile.
    `loss` is the generator's, `critic` the critic's, `real` and `made` the mean logits it gives; what is
    measured is in `quality.compared`, beside what training pictures and the untrained generator reach.

    Args:
        model: (z) -> pictures, or if it has `classes`, (z, labels); `latent` is the width of z.
        critic: (pictures), or if it has `classes`, (pictures, labels) -> logits.
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
        picture: the metadata that pictures are normalised by: `samples.centred`, or `samples.unit`.
        classifier: of `quality.judge`.

    Raises:
        BadInput: an unknown loss; one with a penalty, and batch norm or `compile`; too few steps of the
            critic, samples or pictures.
    """
    game = chosen(recipe, critic)
    if min(recipe.samples, len(data.val), len(data.test)) <= fidelity_diversity.NEIGHBOURS:
        raise BadInput(
            f"samples are measured by {fidelity_diversity.NEIGHBOURS} neighbours: more of them are needed, and of "
            f"pictures in each split, than {recipe.samples}, {len(data.val)} and {len(data.test)}"
        )
    if data.train.labels.device.type != "mps":
        model = model.to(memory_format=torch.channels_last)
        critic = critic.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    untrained = copy.deepcopy(model)
    judging = judge(data, classifier)

    def critic_loss(net: Any, turn: Turn) -> dict[str, Tensor]:
        with torch.no_grad():  # the generator takes no part in this step
            made = model(turn.z, *told_of(model, turn.labels))
        on_real, on_made, slope = net(turn, made)
        loss = game.critic(on_real, on_made)
        if slope is not None:
            loss = loss + recipe.penalty * slope
        return {"loss": loss, "real": on_real.mean(), "made": on_made.mean()}

    def generator_loss(net: Any, wish: Wish) -> Tensor:
        made = net(wish.z, *told_of(model, wish.labels))
        return game.generator(critic(made, *told_of(critic, wish.labels)))

    generator_step, state, judged = gradient_update(model, recipe.optim, generator_loss, steps=recipe.steps)
    turns, sides = recipe.critic_steps, Sides(critic, game.penalised)
    rate = recipe.optim.lr if recipe.critic_lr is None else recipe.critic_lr
    critic_step, theirs, _ = gradient_update(
        critic,
        dataclasses.replace(recipe.optim, lr=rate, ema_decay=0.0),
        critic_loss,
        steps=recipe.steps * turns,
        forward_module=sides,
    )
    state |= {f"critic_{name}": item for name, item in theirs.items()}
    state["critic"] = state.pop("critic_model")
    stream = state["stream"] = Rounds(
        ImageBatches(
            data.train,
            recipe.batch_size,
            seed=recipe.seed,
            metadata=picture,
            augment=make_augmentation(recipe.augment),
            rank=parallel.rank(),
            world_size=parallel.world_size(),
        ),
        model.latent,
        turns=turns,
    )
    watch = state["watch"] = Watch(data.classes)

    def update(both: Round) -> dict[str, Tensor]:
        said = [critic_step(turn) for turn in both.turns][-1]
        loss = generator_step(both.wish)["loss"]
        return {"loss": loss, "critic": said["loss"], "real": said["real"], "made": said["made"]}

    validation = judging.see_split(data.val)

    def measured(net: Any, real: tuple[Seen, Tensor], count: int) -> tuple[dict[str, float], Seen]:
        asked = every_label(net, count)
        made = judging.see(drawn(net, count, picture, labels=asked))
        return compared(made, *real, asked=asked), made

    def evaluate() -> dict[str, float]:
        numbers, made = measured(judged, validation, recipe.samples)
        share, wanted = (
            fidelity_diversity.shares(of, len(data.classes)) for of in (made.labels, validation[1])
        )
        there, done = fidelity_diversity.modes(share, wanted), state["lr_schedule"].last_epoch
        return numbers | {"collapse": watch.look(numbers, there, done, recipe.steps)}

    def test() -> dict[str, float]:
        real, count = judging.see_split(data.test), 5 * recipe.samples
        found = measured(judged, real, count)[0]
        before = measured(untrained, real, count)[0]["distance"]
        train = judging.see_split(data.train, count)[0]
        found["distance_untrained"] = before
        found["distance_training"] = float(fidelity_diversity.frechet(train.features, real[0].features))
        return found | {"times_nearer": before / max(found["distance"], 1e-9)}

    def report(folder: Path) -> None:
        beside(judging, drawn(judged, PAIRS, picture), data.train, folder / "nearest.png")

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "adversarial",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(data.classes),
            "picture": picture,
            "data": data.description,
            "judge": judging.accuracy,
            "judged": 5 * recipe.samples,
        },
    )
    return watched(run, lambda: drawn(judged, SHOWN, picture), columns=columns_of(judged))


def chosen(recipe: Any, critic: nn.Module) -> Game:
    """The recipe's game, if its critic can play it."""
    if recipe.loss not in GAMES:
        raise BadInput(f"unknown loss {recipe.loss!r}: {did_you_mean(recipe.loss, GAMES)}")
    game = GAMES[recipe.loss]
    if not 0 <= recipe.penalty < math.inf:
        raise BadInput(f"penalty must be a number of at least 0, not {recipe.penalty}")
    if recipe.critic_steps < 1:
        raise BadInput(f"critic_steps must be at least 1, not {recipe.critic_steps}")
    if game.penalised:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules()):
            raise BadInput(
                f"{recipe.loss} takes the slope at each picture by itself, which batch norm mixes: "
                "choose critic_norm layer, spectral or none"
            )
        if recipe.optim.compile:
            raise BadInput(f"{recipe.loss} takes a gradient of a gradient: leave compile off")
    return game
