"""The Python interface: what `import torchstone as ts` offers. The command line is made of the same."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torchstone import systems
from torchstone.engine.field_ranges import check_range
from torchstone.engine.recipe_fields import checked, field_paths, replace_fields
from torchstone.errors import BadInput, did_you_mean
from torchstone.runs.evaluate import refuse_unknown, system_use
from torchstone.runs.execute import execute, more_steps, refuse_occupied, steps_of
from torchstone.runs.load import (
    create,
    export_hf,
    load,
    load_any,
    load_run,
    load_tokenizer,
    load_weights_file,
)
from torchstone.runs.lock import locked, locked_free
from torchstone.runs.recipes import (
    check,
    checked_intervals,
    optimizer_fields,
    read_recipe,
    read_recipe_file,
    recipe_of,
    today,
)
from torchstone.runs.seeds import create_fold_folder, create_seed_folder, holds_several, resume_seeds, runs_of
from torchstone.systems import System

if TYPE_CHECKING:  # they import torch
    import torchstone.engine.run
    import torchstone.verify

__all__ = [
    "augment",
    "compare",
    "create",
    "diagnose",
    "evaluate",
    "export",
    "export_hf",
    "find_lr",
    "list_data",
    "list_systems",
    "load",
    "load_tokenizer",
    "play",
    "play_person",
    "predict",
    "recipe_of",
    "resume",
    "sample",
    "train",
    "verify",
]


def list_systems(chapter: str | None = None) -> list[System]:
    """The catalogue's entries: name, chapter, paper, year, variants, recipes."""
    chapters = sorted({entry.chapter for entry in systems.CATALOGUE})
    chapter = checked("chapter", str | None, chapter)
    if chapter is not None and chapter not in chapters:
        raise BadInput(f"unknown chapter {chapter!r}: {did_you_mean(chapter, chapters)}")
    return [entry for entry in systems.CATALOGUE if chapter in (None, entry.chapter)]


def list_data() -> list[dict[str, Any]]:
    """The bundled data sets: name, kind, size, licence, where they are, `cached`, and the recipes that use
    them."""
    from torchstone.data.bundled import BUNDLED

    used: dict[str, list[str]] = {}
    for entry in systems.CATALOGUE:
        for recipe_name, recipe in entry.module().RECIPES.items():
            word = re.split("[:/]", str(recipe.data))[0]
            if recipe_name != "smoke":
                used.setdefault(word, []).append(f"{entry.name}/{recipe_name}")
    return [
        {key: getattr(each, key) for key in ("name", "kind", "size", "licence")}
        | {"where": each.where(), "cached": each.is_cached, "used_by": used.get(each.name, [])}
        for each in BUNDLED
    ]


@overload
def train(
    name: str | None = None,
    *,
    config: str | Path | None = ...,
    out: str | Path | None = ...,
    overwrite: bool = ...,
    epochs: float | None = ...,
    intervals: Mapping[str, Any] | None = ...,
    patience: int | None = ...,
    best_metric: str | None = ...,
    quiet: bool = ...,
    seeds: None = ...,
    folds: None = ...,
    **fields: Any,
) -> "torchstone.engine.run.Run": ...


@overload
def train(
    name: str | None = None,
    *,
    config: str | Path | None = ...,
    out: str | Path | None = ...,
    overwrite: bool = ...,
    epochs: float | None = ...,
    intervals: Mapping[str, Any] | None = ...,
    patience: int | None = ...,
    best_metric: str | None = ...,
    quiet: bool = ...,
    seeds: int,
    folds: None = ...,
    **fields: Any,
) -> dict[str, Any]: ...


@overload
def train(
    name: str | None = None,
    *,
    config: str | Path | None = ...,
    out: str | Path | None = ...,
    overwrite: bool = ...,
    epochs: float | None = ...,
    intervals: Mapping[str, Any] | None = ...,
    patience: int | None = ...,
    best_metric: str | None = ...,
    quiet: bool = ...,
    seeds: None = ...,
    folds: int,
    **fields: Any,
) -> dict[str, Any]: ...


def train(
    name: str | None = None,
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    epochs: float | None = None,
    intervals: Mapping[str, Any] | None = None,
    patience: int | None = None,
    best_metric: str | None = None,
    quiet: bool = False,
    seeds: int | None = None,
    folds: int | None = None,
    **fields: Any,
) -> "torchstone.engine.run.Run | dict[str, Any]":
    """Train `SYSTEM[/RECIPE]` and return its (last) `Run`, with `results` and `folder` filled in; with
    `seeds` that many runs, one after another, and the record of them all (`runs/seeds.py`) instead; with
    `folds` one run for each fold of cross-validation, likewise.

    Args:
        config: a run's `recipe.json`, in place of the name: its fields and intervals, so that the run is had
            again; other arguments go before it.
        out: the run folder; without it `runs/SYSTEM-RECIPE`, numbered if there is one.
        overwrite: replace a run that is already there.
        epochs: how often each training example is used on average, in place of the field `steps`.
        intervals: `log`, `evaluate`, `save` in steps and `seconds` between checkpoints.
        patience: stop early, after so many evaluations without a better one.
        best_metric: metric of validation that the best weights are kept by; by default the system's.
        fields: fields of the recipe, such as `steps=500`.

    Raises:
        BadInput: something asked for is wrong; nothing is written then.
    """
    saved: dict[str, Any] = {}
    name, config, out = (
        checked(word, str | None, value)
        for word, value in (("the system", name), ("config", config), ("out", out))
    )
    overwrite, quiet = checked("overwrite", bool, overwrite), checked("quiet", bool, quiet)
    if not isinstance(intervals, Mapping | None):
        raise BadInput(f"intervals are given as {{'evaluate': 100, …}}, not as {intervals!r}")
    if config is not None:
        if name is not None:
            raise BadInput(f"a recipe file names its system: leave out {name!r}, or leave out the file")
        entry, recipe_name, recipe, saved = read_recipe_file(Path(config))
        recipe = replace_fields(recipe, optimizer_fields(recipe, today(entry, recipe, fields)))
        check(recipe, entry)
    elif name is None:
        raise BadInput("train what? Give a system, or config, the recipe.json of a run")
    else:
        entry, recipe_name, recipe = recipe_of(name, fields)
    stopping = {"patience": patience, "best_metric": best_metric}
    given = {name: value for name, value in stopping.items() if value is not None}
    intervals = checked_intervals({**saved.get("intervals", {}), **(intervals or {}), **given})
    seeds, folds = _positive("seeds", seeds), _positive("folds", folds)
    if folds == 1 or (folds and seeds):
        raise BadInput("cross-validation has at least two folds" if folds == 1 else "give folds or seeds")
    from torchstone.engine import parallel
    from torchstone.engine.console import notify
    from torchstone.engine.device import select_device

    if epochs is not None and "epochs" in field_paths(recipe):  # PPO's: passes over a rollout
        recipe = replace_fields(recipe, today(entry, recipe, {"epochs": epochs}))
        check(recipe, entry)
    elif epochs is not None:
        if "steps" in fields:
            raise BadInput("give steps or epochs, not both")
        recipe = dataclasses.replace(recipe, steps=steps_of(entry, recipe, checked("epochs", float, epochs)))
    with parallel.process_group(select_device(recipe.device)), contextlib.ExitStack() as stack:
        if out is not None:
            refuse_occupied(Path(out), overwrite)
        parallel.barrier()  # all have looked before the first one writes
        folder = Path()
        if parallel.rank() == 0:
            several = f"-{folds}-folds" if folds else "" if seeds is None else f"-{seeds}-seeds"
            default = Path("runs") / f"{entry.name}-{recipe_name}{several}"
            folder = stack.enter_context(locked_free(default) if out is None else locked(Path(out)))
        folder = parallel.gather(folder)[0]
        if out is not None:
            refuse_occupied(folder, overwrite)  # another process may have been faster
        if seeds is not None:
            if parallel.world_size() > 1:
                raise BadInput("several seeds are trained by one process each: leave torchrun out")
            create_seed_folder(folder, entry, recipe_name, recipe, intervals, seeds)
            return resume_seeds(folder, quiet=quiet)
        if folds is not None:
            if parallel.world_size() > 1:
                raise BadInput("several folds are trained by one process each: leave torchrun out")
            create_fold_folder(folder, entry, recipe_name, recipe, intervals, folds)
            return resume_seeds(folder, quiet=quiet)
        if saved.get("changes"):
            notify(
                f"{config} was changed while it ran (see `changes` in it): this run has the last values from "
                "step 0 on"
            )
        run = execute(
            entry, recipe_name, recipe, folder, intervals, quiet, fresh=True, data=saved.get("data")
        )
        run.predict = partial(predict, folder)
        return run


def find_lr(name: str, *, out: str | Path | None = None, **fields: Any) -> dict[str, Any]:
    """Train `SYSTEM[/RECIPE]` while its learning rate grows, see where the loss falls fastest, and train
    nothing else: `lr`, the `rates`, `losses` and `smoothed` losses of the curve, and `picture`, its file.

    Args:
        out: a folder for the picture and the curve (`lr_finder.png`, `lr_finder.json`); without it
            `runs/SYSTEM-RECIPE-lr`, numbered if there is one.
        fields: fields of the recipe, such as `batch_size=64`.

    Raises:
        BadInput: something asked for is wrong, or the system has not one optimizer; nothing is written then.
    """
    from torchstone.engine.lr_finder import find_lr as curve_of
    from torchstone.plots.lr_finder import draw_lr_curve
    from torchstone.runs.folder import write_json

    entry, recipe_name, recipe = recipe_of(name, fields)
    if not hasattr(recipe, "optim"):
        raise BadInput(f"{entry.name} has no optimizer whose learning rate could be looked for")
    if out is not None:
        refuse_occupied(Path(out), False)
    curve = curve_of(next(iter(entry.module().build(recipe))))
    default = Path("runs") / f"{entry.name}-{recipe_name}-lr"
    with locked_free(default) if out is None else locked(Path(out)) as folder:
        picture = folder / "lr_finder.png"
        title = f"{entry.name}/{recipe_name}, {recipe.optim.optimizer}"
        draw_lr_curve(curve, recipe.optim.lr, title, picture)
        found = {"lr": curve.suggestion, "recipe_lr": recipe.optim.lr, **curve._asdict()}
        del found["suggestion"]
        write_json(folder / "lr_finder.json", found)
    return {**found, "picture": picture}


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    data: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> "torchstone.engine.run.Run | dict[str, Any]":
    """Go on with a run that was stopped or killed; it ends as if it had not been. Of a folder of
    several seeds, all that are not trained yet; their record is returned then.

    Args:
        steps: train longer: the new total (of agents, in environment steps). From here on the learning rate
            follows the schedule of a run of so many steps.
        data: go on with these data: those that the run was begun with at another place, or others of the
            same kind, with the same classes.

    Raises:
        BadInput: no run; the data have changed since, and `data` does not say that this is meant.
    """
    folder, steps = _path(path), _positive("steps", steps)
    data, device = checked("data", str | None, data), checked("device", str | None, device)
    if holds_several(folder):
        if data is not None or steps is not None:
            raise BadInput(f"{folder} holds several runs: resume one of them with other data or more steps")
        with locked(folder):
            return resume_seeds(folder, device=device, quiet=quiet)
    entry, recipe_name, recipe = read_recipe(folder)
    if device is not None:
        recipe = dataclasses.replace(recipe, device=device)
    from torchstone.engine import parallel
    from torchstone.engine.device import select_device
    from torchstone.runs.folder import read_intervals

    intervals = read_intervals(folder)
    changes: dict[str, Any] = {} if data is None else {"data": data}
    if steps is not None:
        changes |= more_steps(folder, recipe, steps, quiet=quiet)
    recipe = dataclasses.replace(recipe, **changes)
    with parallel.process_group(select_device(recipe.device)), contextlib.ExitStack() as stack:
        if parallel.rank() == 0:
            stack.enter_context(locked(folder))
        run = execute(entry, recipe_name, recipe, folder, intervals, quiet, fresh=False, changes=changes)
        run.predict = partial(predict, folder)
        return run


def evaluate(
    path: str | Path,
    *,
    data: str | Path | None = None,
    device: str = "auto",
    last: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure a run's model on its test split, or on other data with the same classes; a published model
    (a folder in Hugging Face layout) on all of `data`.

    Data are the run's own if their content is, wherever they are: then the test split is evaluated. Of other
    data all examples are. A line on the error stream says which split of what, and how many examples.

    Args:
        last: evaluate the weights of the last step, not the best ones by validation.
        options: the system's own: image generators take `inception`, a file of Inception weights,
            to compare samples by its features too. Causal language models take `shots`, numbers of examples
            in the context, and with it `label_words`, `draws`, `max_examples` and `seed`
            (`tasks/text/few_shot.py`).

    Raises:
        BadInput: no run; the run's own data have changed since.
    """
    from torchstone.engine.console import notify
    from torchstone.runs.evaluate import evaluate as evaluate_run
    from torchstone.runs.evaluate import evaluate_few_shot

    data = checked("data", str | None, data)
    if options.get("shots") is not None:
        metrics, evaluated_on, _ = evaluate_few_shot(_path(path), data, device, options, last=last)
        notify(evaluated_on.line())
        return metrics
    metrics, evaluated_on = evaluate_run(_path(path), data, device, options, last=last)
    notify(evaluated_on.line())
    return metrics


def predict(
    path: str | Path,
    inputs: str | Path | Sequence[str | Path],
    *,
    device: str = "auto",
    last: bool = False,
    explain: str | Path | None = None,
    keep_going: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """A run's or a published model's predictions, one per input (for classifiers: image files or folders of
    them); a single name or text is one input.

    Args:
        last: use the weights of the last step, not the best ones by validation.
        explain: a `.png` file for Grad-CAM and saliency over each image.
        keep_going: an input that is refused gets an answer with its `error`, beside those of the others.
        options: the system's own, such as `fill=True` of `bert`, or of forecasts `horizon=48` and
            `out="forecast.png"`.

    Raises:
        BadInput: an input is missing or of another kind; the drawing has no folder, or is no `.png`.
    """
    explain, inputs = checked("explain", str | None, explain), _inputs(inputs)
    if explain is not None:
        _writable(Path(explain), (".png",), "explain")
    model, metadata, entry = load_any(_path(path), device, last=last)
    if options.get("out") is not None:
        _writable(Path(options["out"]), (".png", ".csv"), "predict")
    answer, options = system_use(entry, "predict"), _today(options)
    refuse_unknown(answer, options, f"{entry.name} predicts")
    draw_explanation = getattr(entry.module(), "explain", None)
    if explain is not None and draw_explanation is None:
        raise BadInput(f"{path} is not an image model: there is nothing to explain by drawing")
    use = partial(answer, model, metadata, **options)
    # one file cannot be written for several inputs: then they are answered or refused together
    keep_going = keep_going and options.get("out") is None and "search" not in options
    answers = _answer_each(use, inputs, metadata) if keep_going else use(inputs)
    good = [each["input"] for each in answers if "error" not in each] if keep_going else inputs
    if explain is not None and draw_explanation is not None and good:
        draw_explanation(model, metadata, good, Path(explain))
    return answers


def _path(path: Any) -> Path:
    """The folder of a run."""
    return Path(checked("the run", str, path))


def _inputs(inputs: Any) -> list[str]:
    """Inputs of `predict`; a single one is one, not its letters.

    Raises:
        BadInput: something else than names of files and texts.
    """
    several = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    if not isinstance(several, Sequence) and not hasattr(several, "__iter__"):
        raise BadInput(f"inputs are a list of files or texts, not {type(inputs).__name__}")
    for each in several:
        if not isinstance(each, str | os.PathLike):
            raise BadInput(
                f"an input is the name of a file or a text, not {type(each).__name__}: for what is in memory "
                "there are the network and its `preprocess`, see ts.load"
            )
    return [os.fspath(each) for each in several]


def _answer_each(
    use: Callable[[list], list[dict[str, Any]]], inputs: Sequence[str], metadata: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The answers to all inputs; where one is refused, each input (or file of a folder) on its own.

    Raises:
        BadInput: the first, where every input is refused for the same reason, whatever it holds.
    """
    from torchstone.tasks.inference import files_in

    sources: list[tuple[str, BadInput | None]] = []  # a file or text; or a folder, and why it is refused
    for each in inputs:
        try:
            sources += [(file, None) for file in files_in(metadata, each)]
        except BadInput as error:
            sources.append((each, error))
    first = next((error for _, error in sources if error is not None), None)
    if first is None:
        try:
            return use([name for name, _ in sources])
        except BadInput as error:
            if len(sources) == 1:
                raise
            first = error
    answers, reasons = [], set()
    for name, error in sources:
        try:
            if error is not None:
                raise error
            answers += use([name])
        except BadInput as refused:
            answers.append({"input": name, "error": str(refused)})
            reasons.add(str(refused))
    if len(reasons) == 1 and all("error" in answer for answer in answers):
        raise first
    return answers


def sample(
    path: str | Path,
    *,
    device: str = "auto",
    last: bool = False,
    weights: str | Path | None = None,
    **options: Any,
) -> list[Any]:
    """Samples of a run's model, or a published one's: texts, or images (uint8, or with `out` the name of the
    image grid).

    Args:
        last: use the weights of the last step, not the best ones by validation.
        weights: a published file; `path` then is the name of a network (`stylegan2_ffhq`).
        options: the system's own, such as `prompt`, `num_samples`, `seed`, `max_new_tokens`, `temperature`,
            `top_k` and `top_p` of `gpt`; of music `tempo` and `out="piece.mid"`; of images `label`,
            `truncation` and `out="sheet.png"`, or a film, `out="film.gif"`; of sound `out="seven.wav"`.
    """
    if options.get("out") is not None:
        _writable(Path(options["out"]), (".mid", ".midi", ".wav", ".png", ".gif"), "sample")
    if weights is None:
        model, metadata, entry = load_any(_path(path), device, last=last)
    else:
        model, metadata, entry = load_weights_file(checked("the network", str, path), weights, device)
    function, options = system_use(entry, "sample"), _today(options)
    refuse_unknown(function, options, f"{entry.name} samples")
    try:
        return function(model, metadata, **options)
    except OSError as error:
        out = options.get("out")
        if out is None or error.filename not in (None, str(out)):
            raise
        why = error.strerror or error
        raise BadInput(f"cannot write {options['out']} ({why}): choose another --out") from None


def augment(
    path: str | Path,
    *,
    per_class: int,
    out: str | Path,
    data: str | Path | None = None,
    measure: int | None = None,
    seed: int = 0,
    device: str = "auto",
    last: bool = False,
) -> dict[str, Any]:
    """Balance classes with a class-conditional generator: a folder of the run's training images in which
    every class has at least `per_class`, those that rare classes lack being generated.

    Validation and test images are written too, all real, so that a classifier can be trained on the folder.

    Args:
        out: the folder, new or empty.
        data: other images than the run's own, with the same classes.
        measure: train the classifier that samples are scored with so many times on the generated images, and
            on as many repeated ones, and compare its recall on the test split.
        seed: of the generated images.
        last: use the weights of the last step, not the best ones by validation.

    Returns:
        `folder`, and for each of `classes` its `class`, and how many images are `real` and `generated`. With
        `measure` `recall_repeated` and `recall_generated`, means over the seeds, the `gain`, which is their
        difference, and `gain_margin`, half of its 95 % interval by seed (None of one seed); beside
        the `classes` `accuracy_repeated` and `accuracy_generated`.

    Raises:
        BadInput: a run that generates no images, or none of a class asked for; a folder that has something in
            it; other classes; no class that lacks images.
    """
    from torchstone.runs.augment import augment as augment_run

    return augment_run(
        _path(path),
        per_class=_positive("per_class", per_class),
        out=Path(checked("out", str, out)),
        data=checked("data", str | None, data),
        measure=_positive("measure", measure),
        seed=checked("seed", int, seed),
        device=device,
        last=last,
    )


def play(
    path: str | Path,
    *,
    episodes: int = 10,
    against: str | Path | None = None,
    simulations: int | None = None,
    picture: str | Path | None = None,
    video: str | Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    last: bool = False,
) -> list[float]:
    """The returns of `episodes` that a run's agent plays, each action the one it thinks best; of one that
    plays a game, its returns of games against someone, every other one begun by it.

    Args:
        against: of games: `random`, `perfect` (tic_tac_toe; connect_four with the extra `solver`), `mcts:N`,
            a search with N random play-outs, or another run.
        simulations: of games: simulations of a move, by default as many as in training.
        picture: of games: a `.png` file for the search in the middle of the first game; of an
            application, such as a data centre's cooling or a traffic light: for an episode beside its field's
            controllers.
        video: an `.mp4` or `.gif` to film the first one into.
        seed: of where episodes begin, or of the opponent.
        last: play with the weights of the last step, not the best ones by validation.

    Raises:
        BadInput: the run's system plays no game; no such opponent, or an agent of another game; the film has
            no folder or another ending.
    """
    from torchstone.runs.load import draws_application, plays_game

    folder, episodes = _path(path), _positive("episodes", episodes)
    options = _play_options(seed, simulations, picture)
    video, against = checked("video", str | None, video), checked("against", str | None, against)
    if video is not None:
        _writable(Path(video), (".mp4", ".gif"), "play")
    if plays_game(folder):
        if against is None:
            raise BadInput(
                "a game takes two: against random, perfect, mcts:200 or another run, or `play_person`"
            )
    else:
        given = [name for name in ("simulations", "picture") if name in options] + ["against"] * bool(against)
        if given and (given != ["picture"] or not draws_application(folder)):
            raise BadInput(f"{given[-1]} is of games, and {folder} plays alone in its environment")
    model, metadata, entry = load_run(folder, device, last=last)
    function = system_use(entry, "play")
    if against is not None:
        options["against"] = _rival(against, device)
    return function(model, metadata, episodes=episodes, video=video, **options)


def _play_options(seed: Any, simulations: Any, picture: Any) -> dict[str, Any]:
    """Those that were given, checked."""
    seed, simulations = checked("seed", int | None, seed), _positive("simulations", simulations)
    check_range("seed", seed)
    picture = checked("picture", str | None, picture)
    if picture is not None:
        _writable(Path(picture), (".png",), "play")
    given = {"seed": seed, "simulations": simulations, "picture": picture}
    return {name: value for name, value in given.items() if value is not None}


def _rival(against: str, device: str) -> Any:
    """An opponent by name; or the agent of a run."""
    if not (Path(against) / "recipe.json").exists():
        return against
    model, metadata, entry = load_run(Path(against), device)
    return system_use(entry, "rival")(model, metadata)


def play_person(
    path: str | Path,
    *,
    games: int = 1,
    simulations: int | None = None,
    picture: str | Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    last: bool = False,
    read: Callable[[str], str] | None = None,
    write: Callable[[str], None] = print,
) -> list[float]:
    """A run's agent against a person, who types moves in the game's notation: its returns of the games that
    were finished.

    Args:
        read: a prompt -> what the person typed; by default `input`.
        write: what the person reads: the board, the legal moves, the agent's moves.
        picture: a `.png` file that shows the search for the agent's last move.

    Raises:
        BadInput: the run's system plays no game.
    """
    from torchstone.tasks.selfplay.terminal import play_person as play_at

    games, options = _positive("games", games), _play_options(seed, simulations, picture)
    model, metadata, entry = load_run(_path(path), device, last=last)
    make = system_use(entry, "table")
    refuse_unknown(make, options, f"{entry.name} plays")
    return play_at(make(model, metadata, **options), games, read or input, write)


# options of `sample` and `predict` by their names in earlier versions
OLD_OPTIONS = {
    "count": "num_samples",
    "length": "max_new_tokens",
    "guidance": "guidance_scale",
    "steer": "classifier_scale",
    "steps": "sampling_steps",
    "known": "inpaint_image",
    "beams": "beam_size",
}


# what options of `sample` and `predict` must be, as on the command line
COUNTS = ("num_samples", "max_new_tokens", "sampling_steps", "beam_size", "horizon", "attention_slices")
TYPES: dict[str, Any] = {
    **dict.fromkeys(
        (
            "temperature",
            "top_p",
            "guidance_scale",
            "classifier_scale",
            "eta",
            "tempo",
            "truncation",
            "strength",
        ),
        float,
    ),
    **dict.fromkeys(("top_k", "seed"), int),
    **dict.fromkeys(("prompt", "sampler", "out", "examples", "inpaint_image", "mask", "search"), str),
    **dict.fromkeys(("negative_prompt", "init_image", "to_image", "from_prompt", "precision"), str),
    **dict.fromkeys(("image", "from_label", "to_label", "to", "mix_styles"), str),
}


def _today(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by today's names, with one line for each old one.

    Raises:
        BadInput: a value of another type than an option's.
    """
    from torchstone.engine.console import notify

    for old in options.keys() & OLD_OPTIONS.keys():
        notify(f"{old} is called {OLD_OPTIONS[old]} now")
    today = {OLD_OPTIONS.get(name, name): value for name, value in options.items()}
    for name, value in today.items():
        if name in COUNTS:
            today[name] = _positive(name, value)
        elif name in TYPES:
            today[name] = checked(name, TYPES[name] | None, value)
            check_range(name, today[name])
    return today


def _positive(name: str, value: Any) -> Any:
    """A whole number of at least 1, or None."""
    value = checked(name, int | None, value)
    if value is not None and value < 1:
        raise BadInput(f"{name} must be at least 1, not {value}")
    return value


def export(
    path: str | Path, *, out: str | Path, format: str | None = None, last: bool = False
) -> dict[str, Any]:
    """Write a run's model for other programs: `model.onnx` (ONNX), `model.pt2` (torch.export), or with
    the format `hf` a folder that transformers loads (`export_hf`).

    The file takes images as uint8, 0 to 255, and normalizes them itself; its batch may be of any size;
    class names and preprocessing are stored in it. It is put in place after it has been read back
    and found within 1e-4 of the model.

    Args:
        last: the weights of the last step, not the best ones by validation.

    Returns:
        `file`, `bytes`, `relative_error` against the model, `facts` (the metadata of the file).

    Raises:
        BadInput: no run, another ending, no such folder, or the packages for ONNX are not there.
    """
    from torchstone.runs import export

    path, out = _path(path), checked("out", str, out)
    if format == "hf":
        return {"file": str(export_hf(path, out, last=last))}
    if format not in (None, *(ending[1:] for ending in export.ENDINGS)):
        raise BadInput(f"no format {format!r}: known are onnx, pt2 and hf")
    if format is not None and Path(out).suffix.lower() != f".{format}":
        raise BadInput(f"{format} is written to a file that ends in .{format}, not {out}")
    _writable(Path(out), export.ENDINGS, "export")
    model, metadata, entry = load_any(path, last=last)
    return export.export(model, metadata, entry.name, Path(out))


def _writable(file: Path, endings: tuple[str, ...], verb: str) -> None:
    """A name that a file can be written under."""
    if file.suffix.lower() not in endings:
        raise BadInput(f"{verb} writes {' or '.join(endings)} files, not {file.name!r}")
    if file.is_dir():
        raise BadInput(f"{file} is a folder: give the name of a file")
    if not file.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {file.parent}: make it, or choose another")


def compare(
    paths: str | Path | Sequence[str | Path], *, out: str | Path | None = None
) -> list[dict[str, Any]]:
    """The figures of several runs as rows, and their curves in one picture, if `out` is given. A folder
    of several seeds stands for its runs."""
    from torchstone.plots.compare_runs import compare as draw

    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    out = checked("out", str | None, out)
    if out is not None:
        _writable(Path(out), (".png", ".pdf", ".svg", ".jpg"), "compare")
    folders = [run for path in several for run in runs_of(_path(path))]
    return draw(folders, None if out is None else Path(out))


def diagnose(path: str | Path, *, out: str | Path | None = None, batches: int = 16) -> dict[str, Any]:
    """Draw what a run's network looks like in training: the loss around its last weights, activations and
    gradients by layer, and the noise scale of the gradient, in rows of a batch (`interpret/
    training_diagnostics.py`). Returns `loss`, `noise_scale` (None where the batches cannot tell), `batch` and
    the `pictures`.

    Raises:
        BadInput: no run, none with one network and one optimizer, or its data have changed since.
    """
    from torchstone.runs.diagnose import diagnose as diagnose_run

    out = checked("out", str | None, out)
    return diagnose_run(_path(path), None if out is None else Path(out), batches=batches)


def verify(name: str | None = None) -> "list[torchstone.verify.Check]":
    """Check published facts and reference parity of a system (or all): checks with their figures."""
    from torchstone.verify import verify_by_name

    return verify_by_name(checked("the system", str | None, name))
