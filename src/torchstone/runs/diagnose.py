"""Pictures of a run's network in training, drawn from its checkpoint and batches of its stream."""

import dataclasses
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput
from torchstone.runs.execute import same_system
from torchstone.runs.recipes import read_recipe
from torchstone.runs.seeds import holds_several, runs_of

BATCHES = 16


def diagnose(folder: Path, out: Path | None = None, *, batches: int = BATCHES) -> dict[str, Any]:
    """Draw `landscape.png`, `activations.png`, `gradients.png` and `noise_scale.png` of the last weights.

    Args:
        out: a folder for them; by default `diagnostics` in the run folder.
        batches: of the noise scale.

    Raises:
        BadInput: no run, none with one optimizer, or its data have changed since.
    """
    from torchstone.data import identity
    from torchstone.engine import checkpoint
    from torchstone.engine.run import skip_finished_stage
    from torchstone.interpret import training_diagnostics as diagnostics
    from torchstone.plots import diagnostics as plots
    from torchstone.runs.execute import check_data

    if holds_several(folder):
        raise BadInput(f"{folder} holds several runs: name one, such as {runs_of(folder)[0]}")
    if batches < 2:
        raise BadInput(f"the noise of a gradient takes at least 2 batches, not {batches}")
    entry, name, recipe = read_recipe(folder)
    if not checkpoint.any_at(folder / "checkpoint"):
        raise BadInput(f"{folder} has no checkpoint: train it first")
    found, meta, _ = checkpoint.find(folder / "checkpoint")
    same_system(meta, entry, folder)
    if meta["stage"]:
        stage = meta["stage"] + 1
        raise BadInput(f"{folder} is at stage {stage} of its training: these pictures are of one stage")
    if getattr(recipe, "weights", None):
        recipe = dataclasses.replace(recipe, weights=str(folder))
    with identity.listen() as heard:
        run = next(iter(entry.module().build(dataclasses.replace(recipe, device="cpu"))))
    run.metadata["data_identity"] = heard.sources
    check_data(meta, run.metadata, folder)
    diagnostics.update_of(run)  # what it cannot be drawn of is refused before anything is computed
    skip_finished_stage(run, found)
    several = [next(run.stream) for _ in range(batches)]
    out = folder / "diagnostics" if out is None else out
    title = f"{entry.name}/{name}, step {meta['step']:,}"
    landscape = diagnostics.loss_landscape(run, several[0])
    plots.draw_landscape(landscape, f"{title}: loss around the weights", out / "landscape.png")
    activations, gradients = diagnostics.layer_values(run, several[0])
    for kind, layers in (("activations", activations), ("gradients", gradients)):
        chosen, unit = diagnostics.evenly(layers), kind.removesuffix("s")
        plots.draw_histograms(chosen, f"{title}: {kind} by layer", unit, out / f"{kind}.png")
    scale = diagnostics.gradient_noise_scale(run, several)
    layers = diagnostics.evenly(list(scale.layers))
    plots.draw_noise_scale(scale, layers, f"{title}: gradient noise scale", out / "noise_scale.png")
    middle = len(landscape.offsets) // 2
    names = ("landscape", "activations", "gradients", "noise_scale")
    return {
        "noise_scale": scale.total,
        "batch": scale.batch,
        "loss": landscape.losses[middle][middle],
        "pictures": [out / f"{each}.png" for each in names],
    }
