"""Networks by name, out of run folders, and in and out of folders in Hugging Face layout."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torchstone import systems
from torchstone.engine.recipe_fields import checked
from torchstone.errors import BadInput, first_line
from torchstone.runs.execute import same_system
from torchstone.runs.recipes import read_recipe
from torchstone.runs.seeds import holds_several, runs_of
from torchstone.systems import System

if TYPE_CHECKING:  # they take seconds to import
    import tokenizers
    import torch

    class LoadedModel(torch.nn.Module):
        """What `load` adds to a run's network, for editors and type checkers."""

        metadata: dict[str, Any]
        classes: list[str] | None
        preprocess: Callable[[Any], torch.Tensor]


# what comes of settings of another type than they should have
MISMATCHED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def create(name: str, *, weights: str | Path | None = None, **arguments) -> "torch.nn.Module":
    """A system's network (or a variant's) as a plain `nn.Module`: random weights, or a published file's.

    Args:
        weights: a state dict, `.safetensors` or `.pth` (read without running code), the folder that holds it,
            or `hf:ORG/NAME`; of a file with several `FILE:NAME`.
        arguments: the network's own, such as `num_classes`.

    Raises:
        BadInput: unknown name or argument; a file that does not fit, with the keys.
    """
    entry, variant = systems.find(checked("the system", str, name))
    make = entry.module().VARIANTS[variant].make
    try:
        model = make(**arguments)
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of sizes that are none
        raise BadInput(f"{name} cannot be made so: {first_line(error)}") from None
    if weights is not None:
        from torchstone.tasks.transfer import load_weights, read_published

        module = entry.module()
        if hasattr(module, "read_tensors"):  # files of layouts that no other system has
            load_weights(model, module.read_tensors(weights, model), f"{weights} does not fit {name}")
            return model
        file = read_published(weights, model)
        if hasattr(module, "file_statistics"):  # refuses a file of another network with the same names
            module.file_statistics(variant, file)
        tensors = file.tensors
        if hasattr(module, "published"):  # from the published file's names to ours
            tensors = module.published(variant, tensors)
        load_weights(model, tensors, f"{weights} does not fit {name}", getattr(module, "HEAD", ()))
    return model


def load(path: str | Path, *, last: bool = False) -> "LoadedModel":
    """The model of a run folder, or of one in Hugging Face layout (`hf:ORG/NAME` is fetched), in
    evaluation mode on the CPU. It has its `metadata`, its `classes` (or None), and `preprocess`: from images,
    rows, texts or sounds to its input (`tasks.preprocess`), which raises BadInput where it has none.

    Args:
        last: of a run the weights of the last step, not the best ones by validation.

    Raises:
        BadInput: the folder is neither, or not whole; its config asks for what is not implemented.
    """
    from torchstone.runs.published import metadata_of
    from torchstone.tasks.preprocess import preprocessor

    path = checked("the run", str, path)
    folder = _layout_of(path)
    if folder is None:
        model, metadata, _ = load_run(Path(path), last=last)
    else:
        loaded = from_layout(folder)
        model = loaded.model
        try:
            metadata = metadata_of(folder, loaded)
        except BadInput as error:  # a network without a tokenizer, say, is one to use in Python
            metadata = {"task": "none", "unprepared": str(error)}
    attributes = {"metadata": metadata, "classes": metadata.get("classes")}
    vars(model).update(attributes, preprocess=preprocessor(metadata))
    return cast("LoadedModel", model)


def load_tokenizer(path: str | Path) -> "tokenizers.Tokenizer":
    """The `tokenizers.Tokenizer` that belongs to what `load` gives.

    Raises:
        BadInput: there is none.
    """
    from torchstone.data.text import tokenizers as readers

    path = checked("the run", str, path)
    folder = _layout_of(path)
    if folder is not None:
        return readers.load(folder)
    metadata = _metadata(Path(path))
    if "tokenizer" not in metadata:
        raise BadInput(f"the model in {path} takes no text: it has no tokenizer")
    return readers.from_metadata(metadata["tokenizer"])


def _metadata(folder: Path) -> dict:
    from torchstone.engine import checkpoint

    read_recipe(folder)
    return checkpoint.find(folder / "checkpoint")[1]["metadata"]


def load_any(path: str | Path, device: str = "cpu", *, last: bool = False):
    """What `load_run` gives, of a run folder or of one in Hugging Face layout."""
    from torchstone.runs.published import load_published

    folder = _layout_of(path)
    return load_run(Path(path), device, last=last) if folder is None else load_published(folder, device)


def load_weights_file(name: str, weights: str | Path, device: str = "cpu"):
    """What `load_run` gives, of a network by name with a published file's weights.

    Raises:
        BadInput: no such network, or none that is used without a run; a file that does not fit.
    """
    from torchstone.engine.device import select_device

    entry, variant = systems.find(checked("the network", str, name))
    module = entry.module()
    if not hasattr(module, "published_metadata"):
        raise BadInput(f"{name} is used with a run: give its folder, or load the weights by ts.create")
    model: Any = create(variant, weights=weights)
    metadata = module.published_metadata(variant, model)
    return model.to(select_device(device)).eval(), metadata, entry


def is_published(path: str | Path) -> bool:
    """Whether `path` is a folder in Hugging Face layout, or the name of one."""
    return _layout_of(path) is not None


def _layout_of(path: str | Path) -> Path | None:
    """The folder, if it is one in Hugging Face layout."""
    from torchstone.hub import diffusers, dit, hf_folder, stable_diffusion

    folder = hf_folder.fetch(str(path)) if str(path).startswith("hf:") else Path(path)
    layouts = (diffusers, dit, stable_diffusion)
    there = (folder / "config.json").exists() or any(each.holds(folder) for each in layouts)
    published = there and not (folder / "recipe.json").exists()
    return folder if published else None


class Published(NamedTuple):
    """The model of a folder in Hugging Face layout, its config, and what follows from that."""

    model: "torch.nn.Module"
    config: dict[str, Any]
    entry: System
    variant: str
    arguments: dict[str, Any]  # of the network


def from_layout(folder: Path) -> Published:
    """The model that a folder in Hugging Face layout describes.

    Raises:
        BadInput: its config asks for what is not implemented; its weights do not fit.
    """
    from torchstone.hub import diffusers, dit, hf_folder, stable_diffusion

    if stable_diffusion.holds(folder):
        return _latent_diffusion(folder)
    reader = next((each for each in (dit, diffusers) if each.holds(folder)), hf_folder)
    config, tensors = reader.read(folder)
    try:
        entry = systems.find(hf_folder.system_of_config(config))[0]
        module = entry.module()
        variant, arguments = module.from_config(config)
        if hasattr(module, "match_weights"):  # what the weights hold beyond what the config says
            arguments = module.match_weights(arguments, tensors)
        _refuse_huge(variant, arguments, tensors)
        model = create(variant, **arguments)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    except MISMATCHED as error:
        raise BadInput(f"{folder}: its config does not go together ({first_line(error)})") from None
    from torchstone.tasks.transfer import load_weights

    load_weights(model, module.published(variant, tensors), f"the weights in {folder} do not fit")
    return Published(model.eval(), config, entry, variant, arguments)


def _latent_diffusion(folder: Path) -> Published:
    """The model of a Stable Diffusion folder: a part at a time, since all of it twice takes too much memory.

    Raises:
        BadInput: as `from_layout`.
    """
    import warnings

    import torch

    from torchstone.hub import stable_diffusion
    from torchstone.tasks.transfer import load_weights

    entry = systems.find("ldm")[0]
    try:
        contents = stable_diffusion.read(folder)
        with torch.device("meta"):
            model = entry.module().latent_diffusion(**contents.model_config)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    except MISMATCHED as error:
        raise BadInput(f"{folder}: its config does not go together ({first_line(error)})") from None
    for part, name in (("text_encoder", "text"), ("vae", "autoencoder"), ("unet", "unet")):
        tensors, module = stable_diffusion.read_part(folder, part), getattr(model, name)
        with warnings.catch_warnings():  # loading what has no memory yet only checks
            warnings.simplefilter("ignore")
            load_weights(module, tensors, f"the weights in {folder / part} do not fit")
        module.load_state_dict(tensors, assign=True)
    return Published(model.eval(), contents._asdict(), entry, "sd1", contents.model_config)


def _refuse_huge(variant: str, arguments: dict[str, Any], tensors: "dict[str, torch.Tensor]") -> None:
    """Refuse a config of a far larger network than the weights are of, before it takes memory and time."""
    import torch

    for fields in (arguments, *(each for each in arguments.values() if isinstance(each, dict))):
        for name in ("layers", "decoder_layers", "depth"):
            value = fields.get(name)
            if isinstance(value, int) and value > len(tensors):
                raise BadInput(
                    f"its config describes {value} layers, but its weights are {len(tensors)} tensors"
                )
    with torch.device("meta"):
        described = sum(each.numel() for each in create(variant, **arguments).state_dict().values())
    held = sum(each.numel() for each in tensors.values())
    if described > 2 * held + 2**20:
        raise BadInput(f"its config describes {described:,} parameters, but its weights are {held:,}")


def export_hf(path: str | Path, out: str | Path, *, last: bool = False) -> Path:
    """Write a run's model, and its tokenizer, as a folder that transformers loads.

    The folder is read again before it is called done: the network must come back the same.

    Raises:
        BadInput: the system has no form there; `out` is not empty.
        NotSaved: it could not be written; nothing is left behind.
    """
    from torchstone.hub.hf_export import write

    model, metadata, entry = load_run(Path(path), last=last)
    module = entry.module()
    if not hasattr(module, "to_config"):
        raise BadInput(f"{entry.name} has no form that transformers loads: use --format onnx")
    config = module.to_config(metadata["model_config"])
    if len(metadata.get("classes", ())) == config.get("num_labels"):
        config["id2label"] = dict(enumerate(metadata["classes"]))
        config["label2id"] = {name: i for i, name in enumerate(metadata["classes"])}
    folder, length = Path(out), config.get("n_positions")
    if "max_position_embeddings" in config:  # some positions of RoBERTa's kin are of no token
        length = metadata["model_config"].get("max_length", config["max_position_embeddings"])
    preprocessor = None
    if hasattr(module, "preprocessor_config"):
        preprocessor, length = module.preprocessor_config(metadata["picture"]), metadata["length"]

    def same(written: Path) -> None:
        own, back = model.state_dict(), from_layout(written).model.state_dict()
        if wrong := [k for k in own if k not in back or not own[k].equal(back[k])]:
            raise BadInput(f"{folder} would not give back {wrong[0]}: nothing was written")

    write(
        folder,
        config,
        module.unpublished(metadata["variant"], model.state_dict()),
        tokenizer=metadata.get("tokenizer"),
        length=length,
        preprocessor=preprocessor,
        check=same,
    )
    return folder


def load_run(folder: Path, device: str = "cpu", *, last: bool = False):
    """A run folder's model with its best weights by validation, metadata, and its catalogue entry.

    Args:
        last: with the weights of the last step instead.
    """
    from torchstone.engine import checkpoint
    from torchstone.engine.console import notify
    from torchstone.engine.device import select_device
    from torchstone.tasks.transfer import load_weights

    entry, _, _ = read_recipe(folder)
    if holds_several(folder):
        runs = runs_of(folder)
        raise BadInput(f"{folder} holds {len(runs)} runs: name one, such as {runs[0]}")
    found, meta, complaints = checkpoint.find(folder / "checkpoint")
    for complaint in complaints:
        notify(f"{complaint}: using {found.name}, step {meta['step']}")
    same_system(meta, entry, folder)
    tensors, metadata = checkpoint.weights(found, meta, last=last)
    model = create(metadata["variant"], **metadata["model_config"])
    load_weights(model, tensors, f"the checkpoint in {folder} does not fit {metadata['variant']}")
    return model.to(select_device(device)).eval(), metadata, entry


def plays_game(path: str | Path) -> bool:
    """Whether a run's agent plays a game against others: its system has a `table`, and where it learns other
    environments too, `is_game(data)` says that this is one.

    Raises:
        BadInput: no run.
    """
    entry, _, recipe = read_recipe(Path(path))
    module = entry.module()
    return hasattr(module, "table") and getattr(module, "is_game", lambda data: True)(recipe.data)


def draws_application(path: str | Path) -> bool:
    """Whether a run's agent is of an application, which has pictures of its field.

    Raises:
        BadInput: no run.
    """
    from torchstone.tasks.rl.applications import application

    entry, _, recipe = read_recipe(Path(path))
    return hasattr(entry.module(), "HAS_PICTURE") or application(str(recipe.data)) is not None
