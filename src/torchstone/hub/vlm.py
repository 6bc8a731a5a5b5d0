"""LLaVA in transformers' format, with a CLIP vision tower and GPT-2: configs, and names of the weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import clip, gpt, hf_folder
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

USED = {"vision_config", "text_config", "image_token_index", "image_token_id", "image_seq_length"}
USED |= {"projector_hidden_act", "multimodal_projector_bias", "tie_word_embeddings"}
USED |= {"vision_feature_layer", "vision_feature_select_strategy", "pad_token_id", "ignore_index"}
PROJECTOR = {"linear_1": "up", "linear_2": "down"}
TOWER, LANGUAGE = "model.vision_tower.", "model.language_model."


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `VLMConfig` fields that a transformers config describes.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    if config.get("model_type") != "llava":
        raise BadInput(f"the config is of model_type {config.get('model_type')!r}, not llava")
    hf_folder.reject_unsupported(config, USED, {"is_encoder_decoder": False})
    vision, text = dict(config["vision_config"]), dict(config["text_config"])
    if (kind := text.get("model_type")) != "gpt2":
        raise BadInput(f"the config sets text_config.model_type = {kind!r}; implemented here is 'gpt2'")
    if (kind := vision.get("model_type")) != "clip_vision_model":
        raise BadInput(
            f"the config sets vision_config.model_type = {kind!r}; implemented here is 'clip_vision_model'"
        )
    layer, strategy = config.get("vision_feature_layer", -2), config.get("vision_feature_select_strategy")
    if not isinstance(layer, int):
        raise BadInput(f"the config sets vision_feature_layer = {layer!r}; implemented here is one layer")
    if strategy not in (None, "default", "full"):
        raise BadInput(
            f"the config sets vision_feature_select_strategy = {strategy!r}; implemented are default and full"
        )
    activation = config.get("projector_hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise BadInput(
            f"the config sets projector_hidden_act = {activation!r}; implemented are {', '.join(ACTIVATIONS)}"
        )
    language = gpt.from_config({**text, "architectures": None})[1]
    token = config.get("image_token_index", config.get("image_token_id"))
    return {
        "vision": clip.from_config({"vision_config": vision})[1]["vision"],
        "language": language,
        "vision_layer": layer,
        "class_token": strategy == "full",
        "image_id": 32_000 if token is None else token,
        "projector_activation": activation,
        "projector_bias": bool(config.get("multimodal_projector_bias", True)),
    }


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, from transformers' LLaVA."""
    tower, language, weights = {}, {}, {}
    for name, tensor in tensors.items():
        if name.startswith(TOWER):
            tower["vision_model." + name.removeprefix(TOWER).removeprefix("vision_model.")] = tensor
        elif name.startswith("model.multi_modal_projector."):
            _, _, layer, end = name.split(".")
            weights[f"projector.{PROJECTOR[layer]}.{end}"] = tensor
        else:
            language[name.removeprefix(LANGUAGE)] = tensor
    weights |= clip.published(variant, tower)
    return weights | {f"language.{name}": each for name, each in gpt.published(variant, language).items()}
