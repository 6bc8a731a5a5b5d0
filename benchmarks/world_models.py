"""The temperature of the dream: controllers that only ever lived in dreams of several temperatures, in the dream and
in the world (table 2 of the World Models paper), drawn in one picture.

    python benchmarks/world_models.py [RECIPE] [PICTURE] [name=value ...]

V and M are trained once, C anew for each temperature. The last line compares M with a network without memory.
"""

import dataclasses
import sys
import time
from functools import partial

import torch

from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.plots.canvas import PALETTE, canvas, save
from torchstone.systems.planning import world_models
from torchstone.tasks.rl import world_model as task

TEMPERATURES = (0.1, 0.5, 1.0, 1.15, 1.3, 2.0)
# Dodge with more of everything than the smoke recipe has
DODGE = {
    "episodes": 300,
    "frames": 4000,
    "vae_steps": 400,
    "rnn_steps": 1200,
    "steps": 25,
    "dream_steps": 200,
}
DODGE |= {"rollouts": 16, "eval_episodes": 100, "eval_dreams": 256, "rnn_lr": 5e-3}


def main(recipe_name: str, picture: str, fields: dict) -> None:
    torch.set_num_threads(1)
    recipe = world_models.RECIPES[recipe_name]
    recipe = replace_fields(recipe, {"device": "cpu", **(DODGE if recipe_name == "smoke" else {}), **fields})
    began, runs = time.process_time(), world_models.build(recipe)
    vision, memory = next(runs), None
    fit(vision, intervals=Intervals(evaluate=vision.steps), quiet=True)
    memory = next(runs)
    fit(memory, intervals=Intervals(evaluate=memory.steps), quiet=True)
    print(
        f"V {vision.results}\nM {memory.results}; {time.process_time() - began:.0f} CPU-seconds", flush=True
    )
    model = vision.state["model"]
    config = vision.metadata["model_config"]
    untrained, rows = model.controller_weights(), []
    for temperature in TEMPERATURES:
        model.set_controller(untrained)
        own = dataclasses.replace(recipe, temperature=temperature)
        lives = partial(world_models.dream, model, temperature=temperature, limit=recipe.dream_steps)
        run = task.train_controller(task.prepare(model, own, config), lives, memory.results)
        fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
        found = {name.removeprefix("test/"): x for name, x in run.results.items() if name.startswith("test/")}
        rows.append((temperature, found["dream_return"], found["return"], found["return_std"]))
        print("τ {:g}: dream {:.1f}, world {:.1f} ± {:.1f}".format(*rows[-1]), flush=True)
    model.set_controller(untrained)
    # as in the random episodes that V and M learned from
    lengths = [len(episode.frames) for episode in task.prepare(model, recipe, config).play(range(100))]
    print(f"random actions {sum(lengths) / len(lengths):.1f}; {time.process_time() - began:.0f} CPU-seconds")
    nll, memoryless = memory.results["test/nll"], memory.results["test/memoryless_nll"]
    print(f"nats per latent: {nll:.4f}, without memory {memoryless:.4f}")
    figure = canvas(5.5, 3.5)
    axes = figure.add_subplot()
    for column, label, color in ((1, "in the dream", PALETTE[0]), (2, "in the world", PALETTE[1])):
        axes.plot([r[0] for r in rows], [r[column] for r in rows], "o-", color=color, label=label)
    axes.axhline(sum(lengths) / len(lengths), color="0.5", linestyle=":", label="random actions, world")
    axes.set(xlabel="temperature of the dream τ", ylabel="steps alive", title=recipe.data)
    axes.set_ylim(bottom=0)
    axes.grid(True, color="0.9")
    axes.legend(frameon=False, fontsize=8)
    save(figure, picture)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if "=" not in word]
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    numbers = {name: float(text) if "." in text or "e" in text else int(text) for name, text in given.items()}
    main(*(words + ["smoke", "docs/images/dream_temperature.png"][len(words) :]), numbers)
