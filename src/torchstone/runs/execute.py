"""A recipe's runs, fitted one after another in a run folder."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput, did_you_mean
from torchstone.files import atomic_write
from torchstone.runs.lock import holds_anything
from torchstone.systems import System

# metadata that give the weights their meaning
MEANING = ("classes", "tokenizer", "alphabet", "columns", "features", "languages", "model_config")


def execute(
    entry,
    recipe_name,
    recipe,
    folder: Path,
    intervals: dict,
    quiet: bool,
    *,
    fresh: bool,
    changes: Mapping[str, Any] = {},
    data: list[dict] | None = None,
):
    """Build the recipe's runs and fit them one after another.

    Args:
        fresh: begin, in place of what the folder holds; otherwise go on from its checkpoint.
        changes: fields of the recipe that change from here on, in going on; noted in the folder.
        data: identities of the data that are expected; others are said.

    Raises:
        BadInput: the data are others than those that were trained on, and `changes` does not say so.
    """
    from torchstone.data import identity
    from torchstone.engine import checkpoint, parallel, rng
    from torchstone.engine.console import activity, notify
    from torchstone.engine.run import Intervals, fit, skip_finished_stage
    from torchstone.runs.folder import create_run_folder, note_changes, without_sketch, write_result

    reached, meta, settings, is_finished = 0, {}, Intervals(**intervals), False
    if not fresh and checkpoint.any_at(folder / "checkpoint"):
        _, meta, _ = checkpoint.find(folder / "checkpoint")
        same_system(meta, entry, folder)
        reached = meta["stage"]
        is_finished = (folder / "result.json").exists() and is_done(meta) and not changes
        if getattr(recipe, "weights", None):  # its own are newer, and the first may be gone
            recipe = dataclasses.replace(recipe, weights=str(folder))
    offset = 0
    # a generator: a later stage is only built once the earlier one is trained
    stages = enumerate(entry.module().build(recipe))
    sources: list[dict] = []
    while True:
        with identity.listen() as heard:
            stage, run = next(stages, (0, None))
        if run is None:
            break
        sources += heard.sources
        run.metadata["data_identity"] = list(sources)
        if meta and stage == reached:
            check_data(meta, run.metadata, folder, is_new="data" in changes)
            if set(changes) == {"data"} and (folder / "result.json").exists() and is_done(meta):
                refuse_other_data(meta, run.metadata, folder, changes["data"])
            if changes and parallel.rank() == 0:
                note_changes(folder, changes, meta["step"], sources)
        its_settings = stage_settings(run, settings, entry.name, stage)
        if stage == 0 and fresh and parallel.rank() == 0:
            before = rng.snapshot()  # what these import draws from Python's
            create_run_folder(folder, entry.name, recipe_name, recipe, intervals, sources)
            if not quiet:
                other = data and identity.differences(data, without_sketch(sources))
                for line in [f"the data are not those of the recipe's run: {other}"] if other else []:
                    notify(line)
                for line in opening_lines(run, its_settings):
                    notify(line)
            rng.restore(before)
        elif stage and (fresh or stage > reached) and parallel.rank() == 0 and not quiet:
            for line in lengths(run, settings):
                notify(f"stage {stage + 1}: {line}")
        parallel.barrier()
        if stage < reached:
            skip_finished_stage(run, folder / "stages" / str(stage))
        else:
            if stage and parallel.rank() == 0:
                _keep(folder, stage - 1)
            fit(
                run,
                folder,
                intervals=its_settings,
                meta={"system": entry.name, "recipe": recipe_name},
                stage=stage,
                offset=offset,
                title=f"{entry.name}/{recipe_name}",
                quiet=quiet,
            )
        offset += run.steps
        last = run
    if parallel.rank() == 0:
        with activity("drawing pictures", quiet=quiet, announce=last.report is not None):
            write_result(folder, entry.name, recipe_name, last, offset - last.steps + last.step)
        if is_finished and not quiet:
            _, planned, unit = length_of(recipe)
            early = f", stopped early at {last.step:,}" if last.step < last.steps else ""
            notify(
                f"{folder} is finished ({planned:,} {unit}{early}): to train longer, give a larger total "
                "with --steps"
            )
    parallel.barrier()  # none leaves before the result is written
    return last


def is_done(meta: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a run's end; earlier versions did not say."""
    return meta.get("is_done", meta.get("step") == meta.get("steps"))


def opening_lines(run: Any, settings: Any) -> list[str]:
    """What a training begins with: its data, how many epochs the steps are, how often it is evaluated."""
    lines = [run.metadata[key] for key in ("data", "storage", "evaluation") if run.metadata.get(key)]
    return lines + lengths(run, settings)


def lengths(run: Any, settings: Any) -> list[str]:
    """How many epochs the steps are, how often they are evaluated, and what share of the work that is."""
    every, examples = settings.resolve(run.steps, run.examples), run.examples
    if examples is None:
        return []
    validation = (
        f"validation every {every.evaluate:,}" if every.evaluate < run.steps else "validation at the end"
    )
    if examples.val:
        validation += f" on {'at most ' * examples.is_at_most}{examples.val:,}"
    if every.share and not (examples.is_at_most and every.share > 1):
        validation += f", {'up to ' * examples.is_at_most}{every.share:.0%} of the work"
    if examples.is_at_most:
        return [f"{run.steps:,} updates of {examples.batch:,} {examples.unit}; {validation}"]
    epochs = examples.epochs(run.steps)
    begin = f"{run.steps:,} steps of {examples.batch:,} {examples.unit}"
    if epochs is None:
        return [f"{begin}, generated without end; {validation}"]
    lines = [f"{begin} are {epochs:.3g} epochs of {examples.train:,}; {validation}"]
    if epochs < 1:
        lines.append(
            f"warning: that is less than one epoch: most or some of the {examples.unit} are never trained on "
            "(--epochs 1 sees each once)"
        )
    return lines


def steps_of(entry: System, recipe: Any, epochs: float) -> int:
    """How many steps take so many epochs of the recipe's data.

    Raises:
        BadInput: no positive number; a system without steps or epochs.
    """
    if not 0 < epochs < math.inf:
        raise BadInput(f"epochs must be a positive number, not {epochs:g}")
    if not hasattr(recipe, "steps"):
        raise BadInput(f"{entry.name} has no epochs: it learns from experience")
    *_, run = entry.module().build(recipe)  # the recipe's steps are those of the last stage
    steps = None if run.examples is None else run.examples.steps(epochs)
    if steps is None:
        raise BadInput(f"{entry.name} has no epochs with {recipe.data}: give --steps")
    return steps


TOTALS = ("steps", "total_timesteps", "total_episodes")  # fields that say how long a run is


def length_of(recipe: Any) -> tuple[str, int, str]:
    """The field that says how long a run is, its value and its unit."""
    name = next(name for name in TOTALS if hasattr(recipe, name))
    unit = name.removeprefix("total_").replace("timesteps", "environment steps")
    return name, getattr(recipe, name), unit


def more_steps(folder: Path, recipe: Any, steps: int, *, quiet: bool) -> dict[str, int]:
    """The change of a recipe's field that makes its run so long, which is said.

    Raises:
        BadInput: no more steps than it has already; a run of several stages.
    """
    from torchstone.engine import checkpoint
    from torchstone.engine.console import notify

    name, planned, unit = length_of(recipe)
    if (folder / "stages").exists():
        raise BadInput(
            f"{folder} has several stages, whose lengths are its recipe's: train anew with more steps"
        )
    done = checkpoint.find(folder / "checkpoint")[1] if checkpoint.any_at(folder / "checkpoint") else {}
    reached = f"{done['step']:,} of {done['steps']:,} updates are done" if done else "nothing is done"
    if steps <= planned:
        raise BadInput(f"--steps is the new total: give more than {planned:,} {unit} ({reached})")
    if not quiet:
        notify(
            f"{steps:,} {unit} instead of {planned:,} ({reached}): from here on the learning rate follows "
            f"the schedule of {steps:,}"
        )
    return {name: steps}


def stage_settings(run: Any, settings: Any, system: str, stage: int) -> Any:
    """The intervals of a stage. A metric that validation does not measure is refused before anything is
    written; a later stage, for which it may not be meant, is kept by its own then, which is said.

    Raises:
        BadInput: with the metrics that there are.
    """
    from torchstone.engine import rng
    from torchstone.engine.console import notify
    from torchstone.parts.metrics.legend import legend

    metric, wrong = settings.best_metric, ""
    if metric in (None, run.best_metric):
        if settings.patience is not None and run.best_metric is None:
            wrong = "patience needs a metric of validation: name one with --best-metric"
        elif run.best_metric is None and any(
            getattr(item, "needs_validation", False) for item in run.state.values()
        ):
            wrong = "lr_schedule plateau needs a metric of validation: name one with --best-metric"
    else:
        before = rng.snapshot()
        measured = run.evaluate()
        rng.restore(before)
        meaning = legend(metric, system)
        if metric not in measured:
            wrong = f"validation has no metric {metric!r}: {did_you_mean(metric, measured)}"
        elif meaning is not None and not meaning.better:
            others = (name for name in measured if (each := legend(name, system)) is None or each.better)
            wrong = (
                f"{metric!r} ({meaning.line()}) only describes: neither more nor less of it is better; there "
                f"are: {', '.join(others) or 'none'}"
            )
    if not wrong:
        return settings
    if stage == 0:
        raise BadInput(wrong)
    own, patience = run.best_metric, settings.patience if run.best_metric else None
    fallback = "its last weights count" if own is None else f"it is kept by its own {own}"
    notify(f"stage {stage + 1}: {wrong}; {fallback}")
    return dataclasses.replace(settings, best_metric=own, patience=patience)


def check_data(
    meta: Mapping[str, Any], metadata: Mapping[str, Any], folder: Path, *, is_new: bool = False
) -> None:
    """Refuse to go on with data that are not those of the checkpoint.

    Args:
        meta: of the checkpoint.
        metadata: of the run that is to go on.
        is_new: other data are meant; they must still fit the network.
    """
    from torchstone.data import identity
    from torchstone.runs.folder import accepted_data

    saved = meta["metadata"]
    if is_new:
        for key in MEANING:
            if key in saved and saved[key] != json.loads(json.dumps(metadata.get(key))):
                raise BadInput(
                    f"the new data have another {key.replace('_', ' ')} than {folder} was trained with: "
                    "train anew on them (images and labelled texts: --weights RUN begins with its weights)"
                )
        return
    before = accepted_data(folder) or saved.get("data_identity")  # earlier versions wrote none
    change = None if before is None else identity.differences(before, metadata["data_identity"])
    if change is not None:
        if "env" in metadata:
            raise BadInput(
                f"the environment is not the one that {folder} was trained in ({change}); restore it, or "
                "resume with --data to go on in it"
            )
        raise BadInput(
            f"the data are not those that {folder} was trained on ({change}): test examples could have been "
            f"trained on; restore the data, or resume with --data to go on with them"
        )


def refuse_other_data(meta: Mapping[str, Any], metadata: Mapping[str, Any], folder: Path, spec: str) -> None:
    """Refuse other data for a finished run: nothing would be trained on them, and its pictures drawn of them.

    Raises:
        BadInput: they differ from those of the checkpoint.
    """
    from torchstone.data import identity

    before = meta["metadata"].get("data_identity")
    if before is None or identity.differences(before, metadata["data_identity"]) is not None:
        raise BadInput(
            f"{folder} is finished, and nothing would be trained on {spec}: give a larger total with --steps "
            f"too, or judge it on them with torchstone eval {folder} --data {spec}"
        )


def _keep(folder: Path, stage: int) -> None:
    """Keep a finished stage's checkpoint, which the next stage's will replace."""
    from torchstone.engine import checkpoint

    saved = folder / "stages" / str(stage)
    if not saved.exists():
        saved.parent.mkdir(exist_ok=True)
        with atomic_write(saved) as new:
            shutil.copytree(checkpoint.find(folder / "checkpoint")[0], new)


def same_system(meta: Mapping[str, Any], entry: System, folder: Path) -> None:
    if meta.get("system") != entry.name:
        raise BadInput(
            f"the checkpoint in {folder} is of {meta.get('system')!r}, its recipe of {entry.name!r}"
        )


def refuse_occupied(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that would lose a run, or that cannot be made."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise BadInput(f"{existing} is a file, so {folder} cannot be a run folder: choose another --out")
    if not folder.exists() or not holds_anything(folder):
        return
    if not (folder / "recipe.json").exists():
        raise BadInput(f"{folder} is not empty and holds no run: choose another --out")
    if not overwrite:
        raise BadInput(f"{folder} already holds a run: resume it, choose another --out, or --overwrite")
