"""Published models in Hugging Face layout, with the metadata that `predict`, `eval` and `export` use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from torchstone.engine.console import notify
from torchstone.errors import BadInput
from torchstone.hub.hf_folder import class_names
from torchstone.hub.weight_files import read_settings, stated_statistics
from torchstone.systems import System

MAX_LENGTH = 512  # tokens of a text, where the network has no largest


def load_published(folder: Path, device: str = "cpu") -> tuple[nn.Module, dict[str, Any], System]:
    """The model in a folder that `load` takes, its metadata, and its system's entry.

    Raises:
        BadInput: the folder is not whole, or lacks what its inputs are prepared with.
    """
    from torchstone.engine.device import select_device
    from torchstone.runs.load import from_layout

    loaded = from_layout(folder)
    metadata = metadata_of(folder, loaded)
    return loaded.model.to(select_device(device)).eval(), metadata, loaded.entry


def metadata_of(folder: Path, loaded: Any) -> dict[str, Any]:
    """The metadata of what `runs.load.from_layout` gives.

    Raises:
        BadInput: the folder lacks what its inputs are prepared with.
    """
    _, config, entry, variant, model_config = loaded
    metadata = {"variant": variant, "model_config": model_config, "data": f"published in {folder}"}
    if entry.name == "ldm":
        return metadata | _latent_metadata(folder, config, loaded.model)
    if entry.name == "clip":
        return metadata | _image_text_metadata(folder, config, model_config)
    if entry.name == "audiolm":
        raise BadInput(
            f"{folder} holds a codec, which only codes and decodes sounds: use it in Python, by ts.load"
        )
    if entry.name == "vit":
        return metadata | _image_metadata(folder, config, model_config)
    if entry.name in ("bert", "albert", "distilbert", "longformer", "bigbird", "gpt", "t5"):
        return metadata | _text_metadata(folder, entry.name, config, model_config)
    if entry.name == "dalle2":
        raise BadInput(
            f"{folder} holds a prior alone, without CLIP and a decoder: load it in Python, by ts.load"
        )
    if "scheduler" not in config:
        notify(f"{folder} states no scheduler: DDPM's of 1,000 steps with linear betas is assumed")
    return metadata | _diffusion_metadata(model_config, config)


def _diffusion_metadata(model_config: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a U-Net or a DiT: images of −1..1; labels, if it takes any, by their names or else by number."""
    channels, size = model_config["channels"], model_config["size"]
    picture = {"size": size, "channels": channels, "ink": False, "box": None, "native": size}
    picture |= {"mean": [0.5] * channels, "std": [0.5] * channels}
    names = config.get("id2label") or {}
    labels = [str(names.get(str(i), i)) for i in range(model_config["num_classes"])]
    return {"task": "diffuse", "picture": picture, "sampling": {}} | ({"classes": labels} if labels else {})


def _latent_metadata(folder: Path, config: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Of Stable Diffusion: pictures, prompts, and how samples are drawn.

    Raises:
        BadInput: its tokenizer lacks a token.
    """
    for note in config["notes"]:
        notify(f"{folder}: {note}")
    autoencoder = model.autoencoder.config
    size, channels = model.shape[1] * autoencoder.downsampling, autoencoder.channels
    picture = {"size": size, "channels": channels, "ink": False, "box": None, "native": size}
    picture |= {"mean": [0.5] * channels, "std": [0.5] * channels}
    return {
        "task": "diffuse",
        "picture": picture,
        # what published pipelines take where nothing is said
        "sampling": {"steps": 50, "sampler": config["solver"], "guidance_scale": 7.5},
        "num_samples": 1,
        "scheduler": config["scheduler"],
        **_prompt_tokenizer(folder, model.text.config.max_length),
    }


def _prompt_tokenizer(folder: Path, length: int) -> dict[str, Any]:
    """How texts become tokens: `tokenizer`, a JSON string, `length`, and the ids `start_id`, `end_id` and
    `pad_id`.

    Raises:
        BadInput: a token is missing from the vocabulary.
    """
    from torchstone.data.text import tokenizers

    tokenizer = tokenizers.load(folder / "tokenizer")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    stated = read_settings(folder / "tokenizer" / "special_tokens_map.json")
    stated |= read_settings(folder / "tokenizer" / "tokenizer_config.json")
    defaults = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings: dict[str, Any] = {"tokenizer": tokenizers.to_metadata(tokenizer), "length": length}
    for role, name in (("bos_token", "start_id"), ("eos_token", "end_id"), ("pad_token", "pad_id")):
        token = stated.get(role) or defaults[role]
        token = str(token.get("content") if isinstance(token, dict) else token)
        settings[name] = tokenizer.token_to_id(token)
        if settings[name] is None:
            raise BadInput(f"{folder}/tokenizer has no {token!r}, its {role}")
    return settings


def _image_metadata(folder: Path, config: Mapping[str, Any], model_config: dict[str, Any]) -> dict[str, Any]:
    size = model_config["image_size"]
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if not model_config["num_classes"]:
        raise BadInput(f"{folder} holds a network without classes: it is loaded in Python, by ts.load")
    if not isinstance(size, int):
        raise BadInput(f"{folder} holds a network for images of {size}: only squares are framed here")
    picture = _picture(folder, config, size, model_config["channels"])
    return {"task": "classify", "classes": _classes(folder, config, model_config), "picture": picture}


def _picture(folder: Path, config: Mapping[str, Any], size: int, channels: int) -> dict[str, Any]:
    """How a folder frames and normalizes images.

    Raises:
        BadInput: it does not say how they are normalized, or says so of other channels.
    """
    statistics = stated_statistics(folder / "config.json", config)
    if statistics is None:
        raise BadInput(
            f"{folder} does not say how images are normalized: preprocessor_config.json with image_mean and "
            "image_std is missing"
        )
    mean, std = statistics
    if len(mean) != channels:
        raise BadInput(f"{folder} normalizes {len(mean)} channels, but its network takes {channels}")
    picture = {"size": size, "channels": channels, "ink": False, "box": None, "native": size}
    return picture | {"mean": list(mean), "std": list(std), "framing": _framing(folder, size)}


def _image_text_metadata(
    folder: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a network of pictures and texts.

    Raises:
        BadInput: the folder lacks its tokenizer or its image processor.
    """
    from torchstone.data.text import tokenizers
    from torchstone.data.vision.image_text_batches import check_tokenizer

    vision, text = model_config["vision"], model_config["text"]
    tokenizer = tokenizers.load(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    check_tokenizer(tokenizer, text["vocab_size"], text["eos_id"], str(folder))
    return {
        "task": "image_text",
        "picture": _picture(folder, config, vision["image_size"], vision["channels"]),
        "tokenizer": tokenizers.to_metadata(tokenizer),
        "length": text["max_length"],
        "languages": "en",
    }


# settings of image preprocessors that say what `_framing` and `stated_statistics` follow, or nothing of it
FOLLOWED = (
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "size",
    "crop_size",
)
FOLLOWED += ("resample", "rescale_factor", "image_mean", "image_std", "data_format", "input_data_format")
FOLLOWED += ("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys")
FOLLOWED += ("return_tensors", "default_to_square", "image_seq_length", "disable_grouping", "device")


def _framing(folder: Path, size: int) -> dict[str, Any]:
    """How the folder's preprocessor frames images, as `data.vision.preprocess.fit_as_stated` takes it.

    Raises:
        BadInput: a setting that is not implemented, by its name; what it makes does not fit the network.
    """
    file = folder / "preprocessor_config.json"
    settings = read_settings(file)
    for name, value in settings.items():
        if name not in FOLLOWED and value not in (None, False):
            raise BadInput(f"{file} sets {name} = {value!r}, which is not implemented here")
    resample = settings.get("resample", 2)
    if resample not in range(6):
        raise BadInput(f"{file} sets resample = {resample!r}, which is no filter of Pillow")
    resize = _sides(file, settings, "size", size) if settings.get("do_resize", True) else None
    crop = _sides(file, settings, "crop_size", size) if settings.get("do_center_crop") else None
    crop = [crop, crop] if isinstance(crop, int) else crop
    framed = crop or resize
    if isinstance(framed, list) and framed != [size, size]:
        raise BadInput(f"{file} makes images of {framed[0]}×{framed[1]}, but the network takes {size}×{size}")
    return {"resize": resize, "resample": resample, "crop": crop}


def _sides(file: Path, settings: Mapping[str, Any], name: str, default: int) -> list[int] | int:
    """A size of a preprocessor: height and width, or the length of the shorter side."""
    value = settings.get(name) or default
    sides = value
    if isinstance(value, dict):
        sides = value.get("shortest_edge", [value.get("height"), value.get("width")])
    elif isinstance(value, int):  # of its first versions: a square
        sides = [value, value]
    if not all(
        isinstance(side, int) and 0 < side < 2**15 for side in (sides if isinstance(sides, list) else [sides])
    ):
        raise BadInput(f"{file} sets {name} = {value!r}; implemented are height and width, or shortest_edge")
    return sides


def _classes(folder: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]) -> list[str]:
    """The names of a classifier's outputs.

    Raises:
        BadInput: it has one output, which is a number and no class.
    """
    count = model_config["num_classes"]
    if count == 1:
        raise BadInput(
            f"{folder} holds a network of one output, a number: it is loaded in Python, by ts.load"
        )
    try:
        return class_names(config, count)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None


def _text_metadata(
    folder: Path, system: str, config: Mapping[str, Any], model_config: dict[str, Any]
) -> dict[str, Any]:
    from torchstone.data.text import tokenizers

    tokenizer = tokenizers.load(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    count, size = tokenizer.get_vocab_size(with_added_tokens=False), model_config["vocab_size"]
    if count > size:
        raise BadInput(f"{folder} has a tokenizer of {count} tokens, but a network that knows {size}")
    metadata: dict[str, Any] = {"tokenizer": tokenizers.to_metadata(tokenizer)}
    if system == "gpt":
        return metadata | {"task": "language"}
    if system == "t5":
        text = {"task": "texts", "max_length": MAX_LENGTH, "noise_density": 0.15, "mean_span_length": 3.0}
        return metadata | {"task": "texts", "beam_size": 1, "text": text}
    metadata["length"] = model_config["max_length"]
    head = model_config["head"]
    if head in ("masked", "pretraining"):
        masking = {"pair_task": "order", "max_ngram": 3} if system == "albert" else {}
        return metadata | {"task": "masked", "pairs": head == "pretraining", **masking}
    if head == "none":
        raise BadInput(f"{folder} holds a network without a head: it is loaded in Python, by ts.load")
    return metadata | {
        "task": "labels",
        "classes": _classes(folder, config, model_config),
        "has_word_labels": head == "tokens",
        "pairs": False,
        "max_examples": None,
    }
