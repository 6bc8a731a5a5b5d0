"""The Python interface: what `import torchstone as ts` offers. The command line is made of the same."""

import dataclasses
import functools
import inspect
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone import systems
from torchstone.errors import BadInput, nearest
from torchstone.systems import System


def list_systems(chapter: str | None = None) -> list[System]:
    """The catalogue's entries: name, chapter, paper, year, variants, recipes."""
    chapters = sorted({entry.chapter for entry in systems.CATALOGUE})
    if chapter is not None and chapter not in chapters:
        raise BadInput(f"unknown chapter {chapter!r}: {nearest(chapter, chapters)}")
    return [entry for entry in systems.CATALOGUE if chapter in (None, entry.chapter)]


def create(name: str, *, weights: str | Path | None = None, **arguments):
    """A system's network (or a variant's) as a plain `nn.Module`: random weights, or a published file's.

    Args:
        weights: a state dict, `.safetensors` or `.pth` (read without running code).
        arguments: the network's own, such as `num_classes`.

    Raises:
        BadInput: unknown name or argument; a file that does not fit, with the keys.
    """
    entry, variant = systems.find(name)
    make = entry.module().VARIANTS[variant].make
    try:
        model = make(**arguments)
    except TypeError as error:
        raise BadInput(f"{name} cannot be made so: {error}") from None
    if weights is not None:
        from torchstone.engine.checkpoint import read_weights
        from torchstone.tasks.transfer import fill

        module, tensors = entry.module(), read_weights(Path(weights))
        if hasattr(module, "published"):  # from the published file's names to ours
            tensors = module.published(variant, tensors)
        fill(model, tensors, f"{weights} does not fit {name}", getattr(module, "HEAD", ()))
    return model


def load(path: str | Path):
    """The model of a run folder, or of one in Hugging Face layout (`hf:ORG/NAME` is fetched), in
    evaluation mode on the CPU.

    Raises:
        BadInput: the folder is neither, or not whole; its config asks for what is not implemented.
    """
    folder = _layout(path)
    return _opened(Path(path))[0] if folder is None else _published(folder)


def load_tokenizer(path: str | Path):
    """The `tokenizers.Tokenizer` that belongs to what `load` gives.

    Raises:
        BadInput: there is none.
    """
    from torchstone.streams import tokens

    folder = _layout(path)
    if folder is not None:
        return tokens.read(folder)
    card = _card(Path(path))
    if "tokenizer" not in card:
        raise BadInput(f"the model in {path} takes no text: it has no tokenizer")
    return tokens.from_card(card["tokenizer"])


def _card(folder: Path) -> dict:
    from torchstone.engine import checkpoint

    read_recipe(folder)
    return checkpoint.find(folder / "checkpoint")[1]["card"]


def _layout(path: str | Path) -> Path | None:
    """The folder, if it is one in Hugging Face layout."""
    from torchstone.hub import layout

    folder = layout.fetch(str(path)) if str(path).startswith("hf:") else Path(path)
    published = (folder / "config.json").exists() and not (folder / "recipe.json").exists()
    return folder if published else None


def _published(folder: Path):
    """The model that a folder in Hugging Face layout describes."""
    from torchstone.hub import layout

    config, tensors = layout.read(folder)
    try:
        module = systems.find(layout.system(config))[0].module()
        variant, arguments = module.from_config(config)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    if hasattr(module, "suited"):  # what the weights hold beyond what the config says
        arguments = module.suited(arguments, tensors)
    try:
        model = create(variant, **arguments)
    except ValueError as error:
        raise BadInput(f"{folder}: its config does not go together ({error})") from None
    from torchstone.tasks.transfer import fill

    fill(model, module.published(variant, tensors), f"the weights in {folder} do not fit")
    return model.eval()


def export_hf(path: str | Path, out: str | Path) -> Path:
    """Write a run's model, and its tokenizer, as a folder that transformers loads.

    The folder is read again before it is called done: the network must come back the same.

    Raises:
        BadInput: the system has no form there; `out` is not empty.
        NotSaved: it could not be written; nothing is left behind.
    """
    from torchstone.hub.writing import write

    model, card, entry = _opened(Path(path))
    module = entry.module()
    if not hasattr(module, "to_config"):
        raise BadInput(f"{entry.name} has no form that transformers loads: use --format onnx")
    config = module.to_config(card["arguments"])
    if len(card.get("classes", ())) == config.get("num_labels"):
        config["id2label"] = dict(enumerate(card["classes"]))
        config["label2id"] = {name: i for i, name in enumerate(card["classes"])}
    folder = Path(out)

    def same(written: Path) -> None:
        own, back = model.state_dict(), _published(written).state_dict()
        if wrong := [k for k in own if k not in back or not own[k].equal(back[k])]:
            raise BadInput(f"{folder} would not give back {wrong[0]}: nothing was written")

    write(
        folder,
        config,
        module.unpublished(card["variant"], model.state_dict()),
        tokenizer=card.get("tokenizer"),
        length=config.get("max_position_embeddings", config.get("n_positions")),
        check=same,
    )
    return folder


def _opened(folder: Path, device: str = "cpu"):
    """A run folder's model and card, and its catalogue entry."""
    from torchstone.engine import checkpoint
    from torchstone.engine.device import pick
    from torchstone.tasks.transfer import fill

    entry, _, _ = read_recipe(folder)
    found, meta, complaints = checkpoint.find(folder / "checkpoint")
    for complaint in complaints:
        _say(f"{complaint}: using {found.name}, step {meta['step']}")
    _same_system(meta, entry, folder)
    card = meta["card"]
    model = create(card["variant"], **card["arguments"])
    average = checkpoint.tensors(found, "ema.module")
    tensors = average or checkpoint.tensors(found, "model")
    fill(model, tensors, f"the checkpoint in {folder} does not fit {card['variant']}")
    return model.to(pick(device)).eval(), card, entry


def recipe_of(name: str, fields: Mapping[str, Any], *, saved: bool = False):
    """`SYSTEM[/RECIPE]` with some fields changed: catalogue entry, recipe's name, recipe.

    With weights to start from and no recipe named, it is one that suits them, named `transfer`.
    `saved` fields are all there are, and the weights need not be there any more.
    """
    system, _, wanted = name.partition("/")
    entry, variant = systems.find(system)
    recipes, weights = entry.module().RECIPES, fields.get("weights")
    first = next(iter(recipes))
    from torchstone.tasks import transfer

    transfers = weights and hasattr(
        recipes[first], "freeze"
    )  # BERT's recipes begin in their own way
    wanted = wanted or (transfer.NAME if transfers else first)
    starts = wanted == transfer.NAME and transfers
    if wanted not in recipes and not starts:
        raise BadInput(f"{entry.name} has no recipe {wanted!r}: {nearest(wanted, recipes)}")
    recipe = recipes[first if starts else wanted]
    if starts and weights and not saved:
        named = fields.get("variant", variant if system != entry.name else None)
        frozen = fields.get("freeze") == "backbone"
        recipe = transfer.settings(recipe, Path(weights), named, entry.module(), frozen)
    known = {field.name for field in dataclasses.fields(recipe)}
    for field in fields:
        if field not in known:
            raise BadInput(f"{entry.name} has no field {field!r}: {nearest(field, sorted(known))}")
    if system != entry.name and "variant" not in fields:
        fields = {**fields, "variant": variant}
    recipe = dataclasses.replace(recipe, **fields)
    check(recipe, entry)
    return entry, wanted, recipe


def check(recipe, entry: System) -> None:
    """What holds for every recipe."""
    if getattr(recipe, "variant", entry.variants[0]) not in entry.variants:
        raise BadInput(
            f"{entry.name} has no variant {recipe.variant!r}: {nearest(recipe.variant, entry.variants)}"
        )
    for name in ("steps", "batch"):
        if getattr(recipe, name, 1) < 1:
            raise BadInput(f"{name} must be at least 1, not {getattr(recipe, name)}")


def train(
    name: str,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    clock: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **fields,
):
    """Train `SYSTEM[/RECIPE]` and return its (last) `Run`, with `results` and `folder` filled in.

    Args:
        out: the run folder; without it `runs/SYSTEM-RECIPE`, numbered if there is one.
        overwrite: replace a run that is already there.
        clock: `log`, `evaluate`, `save` in steps and `seconds` between checkpoints.
        fields: fields of the recipe, such as `steps=500`.

    Raises:
        BadInput: something asked for is wrong; nothing is written then.
    """
    entry, recipe_name, recipe = recipe_of(name, fields)
    from torchstone.engine import device, parallel

    with parallel.together(device.pick(recipe.device)):
        default = Path("runs") / f"{entry.name}-{recipe_name}"
        folder = Path(out) if out is not None else _free(default)
        _refuse_occupied(folder, overwrite)
        folder = parallel.gather(folder)[0]  # all have looked before the first one writes
        return _execute(entry, recipe_name, recipe, folder, dict(clock or {}), quiet, fresh=True)


def resume(path: str | Path, *, device: str | None = None, quiet: bool = False):
    """Go on with a run that was stopped or killed; it ends as if it had not been."""
    folder = Path(path)
    entry, recipe_name, recipe = read_recipe(folder)
    if device is not None:
        recipe = dataclasses.replace(recipe, device=device)
    clock = json.loads((folder / "recipe.json").read_text())["clock"]
    from torchstone.engine import device as devices
    from torchstone.engine import parallel

    with parallel.together(devices.pick(recipe.device)):
        return _execute(entry, recipe_name, recipe, folder, clock, quiet, fresh=False)


def read_recipe(folder: Path):
    """Catalogue entry, recipe's name and recipe of a run folder."""
    file = folder / "recipe.json"
    if not file.exists():
        raise BadInput(f"{folder} is not a run folder (it has no recipe.json): give what --out was")
    try:
        saved = json.loads(file.read_text())
        name, fields = f"{saved['system']}/{saved['recipe']}", saved["fields"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read ({error!r}): restore it, or train anew") from None
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return recipe_of(name, fields, saved=True)


def _execute(entry, recipe_name, recipe, folder: Path, clock: dict, quiet: bool, *, fresh: bool):
    """Build the recipe's runs and fit them one after another."""
    from torchstone.engine import checkpoint, generators, parallel
    from torchstone.engine.folder import finish, start
    from torchstone.engine.run import Clock, fit, pass_over

    reached = 0
    if not fresh and checkpoint.any_at(folder / "checkpoint"):
        _, meta, _ = checkpoint.find(folder / "checkpoint")
        _same_system(meta, entry, folder)
        reached = meta["stage"]
        if getattr(recipe, "weights", None):  # its own are newer, and the first may be gone
            recipe = dataclasses.replace(recipe, weights=str(folder))
    offset = 0
    # a generator: a later stage is only built once the earlier one is trained
    for stage, run in enumerate(entry.module().build(recipe)):
        if stage == 0 and fresh and parallel.rank() == 0:
            before = generators.snapshot()  # what these import draws from Python's
            start(folder, entry.name, recipe_name, recipe, clock)
            if not quiet and "data" in run.card:
                _say(run.card["data"])
            generators.restore(before)
        parallel.barrier()
        if stage < reached:
            pass_over(run, folder / "stages" / str(stage))
        else:
            if stage and parallel.rank() == 0:
                _keep(folder, stage - 1)
            fit(
                run,
                folder,
                clock=Clock(**clock),
                meta={"system": entry.name, "recipe": recipe_name},
                stage=stage,
                offset=offset,
                title=f"{entry.name}/{recipe_name}",
                quiet=quiet,
            )
        offset += run.steps
    if parallel.rank() == 0:
        finish(folder, entry.name, recipe_name, run, offset)
    parallel.barrier()  # none leaves before the result is written
    return run


def _keep(folder: Path, stage: int) -> None:
    """Keep a finished stage's checkpoint, which the next stage's will replace."""
    from torchstone.engine import checkpoint

    kept = folder / "stages" / str(stage)
    if not kept.exists():
        beside = kept.with_name(f"{stage}.new")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(checkpoint.find(folder / "checkpoint")[0], beside)
        beside.rename(kept)


def _same_system(meta: Mapping[str, Any], entry: System, folder: Path) -> None:
    if meta.get("system") != entry.name:
        raise BadInput(
            f"the checkpoint in {folder} is of {meta.get('system')!r}, its recipe of {entry.name!r}"
        )


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "recipe.json").exists():
        raise BadInput(f"{folder} is not empty and holds no run: choose another --out")
    if not overwrite:
        raise BadInput(
            f"{folder} already holds a run: resume it, choose another --out, or --overwrite"
        )


def _free(folder: Path) -> Path:
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def evaluate(
    path: str | Path, *, data: str | None = None, device: str = "auto"
) -> dict[str, float]:
    """Measure a run's model on its test split, or on other data with the same classes."""
    model, card, entry = _opened(Path(path), device)
    _, _, recipe = read_recipe(Path(path))
    return _use(entry, "evaluate")(
        model, card, data or recipe.data, held_out=data in (None, recipe.data)
    )


def predict(
    path: str | Path,
    inputs: Sequence[str | Path],
    *,
    device: str = "auto",
    explain: str | Path | None = None,
    **options,
) -> list[dict]:
    """What a run's model says of each input (for classifiers: image files or folders of them).

    Args:
        explain: a `.png` file to draw where in each picture the model sees its answer.
        options: the system's own, such as `fill=True` of `bert`, or of forecasts `horizon=48` and
            `out="forecast.png"`.

    Raises:
        BadInput: an input is missing or of another kind; the drawing has no folder, or is no `.png`.
    """
    if explain is not None:
        _writable(Path(explain), (".png",), "explain")
    model, card, entry = _opened(Path(path), device)
    if options.get("out") is not None:
        _writable(Path(options["out"]), (".png", ".csv"), "predict")
    answer, draw = _use(entry, "predict"), None
    _takes(answer, options, f"{entry.name} predicts")
    if explain is not None:
        draw = getattr(entry.module(), "explain", None)
        if draw is None and card.get("task") == "classify":
            from torchstone.tasks.explain import explain as classifier

            draw = functools.partial(classifier, predict=answer)
        if draw is None:
            raise BadInput(
                f"{path} is no model of pictures: there is nothing to explain by drawing"
            )
    answers = answer(model, card, list(inputs), **options)
    if draw is not None and explain is not None:
        draw(model, card, list(inputs), Path(explain))
    return answers


def sample(path: str | Path, *, device: str = "auto", **options) -> list:
    """What a run's model makes of nothing, or of a beginning: texts, for language models.

    Args:
        options: the system's own, such as `prompt`, `count`, `seed`, `length`, `temperature`, `top_k`
            and `top_p` of `gpt`, or of music `tempo` and `out="piece.mid"`.
    """
    if options.get("out") is not None:
        _writable(Path(options["out"]), (".mid", ".midi"), "sample")
    model, card, entry = _opened(Path(path), device)
    function = _use(entry, "sample")
    _takes(function, options, f"{entry.name} samples")
    return function(model, card, **options)


def _takes(function: Callable[..., Any], options: Mapping[str, Any], does: str) -> None:
    """Refuse an option that a system's function has no use for."""
    known = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        names = [p.name for p in known]
        if unknown := [name for name in options if name not in names]:
            raise BadInput(f"{does} without {unknown[0]!r}")


def export(path: str | Path, *, out: str | Path, format: str | None = None) -> dict[str, Any]:
    """Write a run's model for other programs: `model.onnx` (ONNX), `model.pt2` (torch.export), or with
    the format `hf` a folder that transformers loads (`export_hf`).

    The file takes pictures as uint8, 0 to 255, and normalises them itself; its batch is of any size;
    its classes and how to frame a picture stand in it. It is put in place after it has been read back
    and found within 1e-4 of the model.

    Returns:
        `file`, `bytes`, `apart` (its distance from the model), `facts` (what stands in it).

    Raises:
        BadInput: no run, another ending, no such folder, or the packages for ONNX are not there.
    """
    from torchstone import exports

    if format == "hf":
        return {"file": str(export_hf(path, out))}
    if format not in (None, *(ending[1:] for ending in exports.ENDINGS)):
        raise BadInput(f"no format {format!r}: known are onnx, pt2 and hf")
    if format is not None and Path(out).suffix.lower() != f".{format}":
        raise BadInput(f"{format} is written to a file that ends in .{format}, not {out}")
    _writable(Path(out), exports.ENDINGS, "export")
    model, card, entry = _opened(Path(path))
    return exports.export(model, card, entry.name, Path(out))


def _writable(file: Path, endings: tuple[str, ...], verb: str) -> None:
    """A name that a file can be written under."""
    if file.suffix.lower() not in endings:
        raise BadInput(f"{verb} writes {' or '.join(endings)} files, not {file.name!r}")
    if file.is_dir():
        raise BadInput(f"{file} is a folder: give the name of a file")
    if not file.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {file.parent}: make it, or choose another")


def _use(entry: System, verb: str):
    function = getattr(entry.module(), verb, None)
    if function is None:
        raise BadInput(f"{entry.name} has no {verb!r}")
    return function


def compare(paths: Sequence[str | Path], *, out: str | Path | None = None) -> list[dict]:
    """The figures of several runs as rows, and their curves in one picture, if `out` is given."""
    from torchstone.engine.comparison import compare as draw

    return draw([Path(path) for path in paths], Path(out) if out is not None else None)


def verify(name: str | None = None) -> list:
    """Check published facts and reference parity of a system (or all): checks with their figures."""
    from torchstone.checks import verify as checks

    entries = [systems.find(name)[0]] if name else systems.CATALOGUE
    return [check for entry in entries for check in checks(entry)]


def _say(line: str) -> None:
    from torchstone.engine import generators

    before = generators.snapshot()  # what it imports draws from Python's
    from rich.console import Console

    generators.restore(before)
    Console(stderr=True).print(line, markup=False, soft_wrap=True)
