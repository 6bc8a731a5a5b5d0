"""CLIP in transformers' format: config, parameter names and image processor to ours, and back."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

# settings of a tower: theirs, ours, and the default of transformers' class
SHARED: dict[str, tuple[str, Any]] = {
    "num_hidden_layers": ("layers", 12),
    "hidden_act": ("activation", "quick_gelu"),
    "layer_norm_eps": ("eps", 1e-5),
    "attention_dropout": ("attention_dropout", 0.0),
}
VISION = {
    **SHARED,
    "hidden_size": ("width", 768),
    "intermediate_size": ("d_ff", 3072),
    "num_attention_heads": ("heads", 12),
    "num_channels": ("channels", 3),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
}
TEXT = {
    **SHARED,
    "hidden_size": ("width", 512),
    "intermediate_size": ("d_ff", 2048),
    "num_attention_heads": ("heads", 8),
    "vocab_size": ("vocab_size", 49_408),
    "max_position_embeddings": ("max_length", 77),
    "eos_token_id": ("eos_id", 49_407),
}
# what transformers reads elsewhere, or not at all
UNUSED = ("projection_dim", "dropout", "pad_token_id", "bos_token_id", "is_decoder", "use_return_dict")
# whole configs that older versions wrote beside those that count; they go first
OLD = {"text_config": "text_config_dict", "vision_config": "vision_config_dict"}
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that OpenAI's networks were trained on
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

MODEL_SETTINGS = {
    "architectures": (["CLIPModel"], None),
    "is_encoder_decoder": False,
    "tie_word_embeddings": (True, False),  # of a decoder, which it has not
}
TOWER_SETTINGS = {
    "hidden_act": tuple(ACTIVATIONS),
    **{name: MODEL_SETTINGS[name] for name in ("is_encoder_decoder", "tie_word_embeddings")},
}

TO_OURS = (
    (r"^vision_model\.embeddings\.class_embedding$", "vision.class_token"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "vision.position_embedding"),
    (r"^vision_model\.embeddings\.", "vision."),
    (r"^vision_model\.pre_layrnorm\.", "vision.pre_norm."),
    (r"^vision_model\.post_layernorm\.", "vision.post_norm."),
    (r"^text_model\.embeddings\.", "text."),
    (r"^text_model\.final_layer_norm\.", "text.final_norm."),
    (r"^(vision|text)_model\.encoder\.", r"\1."),
    (r"^visual_projection\.", "image_projection."),
    (r"\.self_attn\.([qkv])_proj\.", r".attention.\1."),
    (r"\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.mlp\.fc1\.", ".feed_forward.up."),
    (r"\.mlp\.fc2\.", ".feed_forward.down."),
)
TO_THEIRS = (
    (r"^vision\.class_token$", "vision_model.embeddings.class_embedding"),
    (r"^vision\.position_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^vision\.patch_embedding\.", "vision_model.embeddings.patch_embedding."),
    (r"^vision\.pre_norm\.", "vision_model.pre_layrnorm."),  # so misspelled there
    (r"^vision\.post_norm\.", "vision_model.post_layernorm."),
    (r"^text\.(token|position)_embedding\.", r"text_model.embeddings.\1_embedding."),
    (r"^text\.final_norm\.", "text_model.final_layer_norm."),
    (r"^(vision|text)\.layers\.", r"\1_model.encoder.layers."),
    (r"^image_projection\.", "visual_projection."),
    (r"\.attention\.([qkv])\.", r".self_attn.\1_proj."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.feed_forward\.up\.", ".mlp.fc1."),
    (r"\.feed_forward\.down\.", ".mlp.fc2."),
)


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    towers = {each: _tower_config(config, each) for each in OLD}
    used = {*OLD, *OLD.values(), "projection_dim", "logit_scale_init_value"}
    hf_folder.reject_unsupported(config, used, only=MODEL_SETTINGS)
    vision = _tower(towers["vision_config"], VISION, "vision_config")
    text = _tower(towers["text_config"], TEXT, "text_config")
    for name in ("image_size", "patch_size"):
        if isinstance(vision[name], list | tuple) and len(set(vision[name])) == 1:
            vision[name] = vision[name][0]
        if not isinstance(vision[name], int):
            raise BadInput(f"the config sets {name} = {vision[name]!r}; implemented here are squares")
    if isinstance(text["eos_id"], list):
        raise BadInput(f"the config sets eos_token_id = {text['eos_id']!r}; implemented here is one number")
    # embeddings are of one width, whatever the towers' own configs say
    return "clip_b_32", {
        "vision": vision,
        "text": text,
        "embed_dim": hf_folder.get_number(config, "projection_dim", 512),
        "logit_scale": hf_folder.get_number(config, "logit_scale_init_value", 2.6592),
    }


def text_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text tower of a folder that holds nothing else, as Stable Diffusion's `text_encoder` does.

    Raises:
        BadInput: another network; a setting that is not implemented; the message names it.
    """
    family = config.get("model_type", "clip_text_model")
    if family != "clip_text_model":
        raise BadInput(f"text_encoder is of model_type {family!r}; implemented here is clip_text_model")
    stated = {key: value for key, value in config.items() if key != "architectures" and value is not None}
    text = _tower(stated, TEXT, "text_encoder")
    if isinstance(text["eos_id"], list):
        raise BadInput(f"text_encoder sets eos_token_id = {text['eos_id']!r}; implemented here is one number")
    return text


def _tower_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    stated = {**(config.get(name) or {}), **(config.get(OLD[name]) or {})}
    return {key: value for key, value in stated.items() if value is not None}


def _tower(stated: Mapping[str, Any], settings: Mapping[str, tuple[str, Any]], name: str) -> dict[str, Any]:
    try:
        hf_folder.reject_unsupported(stated, {*settings, *UNUSED} - {"hidden_act"}, only=TOWER_SETTINGS)
        fields = {}
        for theirs, (ours, default) in settings.items():
            value = stated.get(theirs, default)
            is_number = theirs not in ("hidden_act", "image_size", "patch_size", "eos_token_id")
            fields[ours] = hf_folder.get_number({theirs: value}, theirs) if is_number else value
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    return fields


def to_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of the same network.

    Raises:
        BadInput: it has a convolutional stem, or reads the mean of its patches, which transformers' CLIP has
            not.
    """
    vision, text = model_config.get("vision", {}), model_config.get("text", {})
    if vision.get("stem") or vision.get("pooling", "class") != "class":
        raise BadInput(
            "transformers' CLIP has no convolutional stem, and reads the class token: train a variant "
            "without, such as clip_emoji_vit"
        )
    embed_dim = model_config.get("embed_dim", 512)
    end = text.get("eos_id", TEXT["eos_token_id"][1])
    both: dict[str, Any] = {"projection_dim": embed_dim}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": embed_dim,
        "logit_scale_init_value": model_config.get("logit_scale", math.log(1 / 0.07)),
        "vision_config": {"model_type": "clip_vision_model", **both, **_theirs(vision, VISION)},
        "text_config": {"model_type": "clip_text_model", **both, **_theirs(text, TEXT), "pad_token_id": end},
    }


def _theirs(fields: Mapping[str, Any], settings: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {theirs: fields.get(ours, default) for theirs, (ours, default) in settings.items()}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, from transformers'; q, k and v become one projection."""
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    return fuse_qkv(rename_keys(tensors, TO_OURS))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that transformers saves."""
    return rename_keys(split_qkv(tensors), TO_THEIRS)


def preprocessor_config(picture: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' image processor for pictures that are framed and normalized by `picture`."""
    size = picture["size"]
    framing = picture.get("framing") or {"resize": size, "resample": 2, "crop": [size, size]}
    resize, crop = framing["resize"], framing["crop"]
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": resize is not None,
        "resample": framing["resample"],
        "do_center_crop": crop is not None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(picture["mean"]),
        "image_std": list(picture["std"]),
        "do_convert_rgb": True,
    }
    if resize is not None:
        is_shorter = isinstance(resize, int)
        settings["size"] = {"shortest_edge": resize} if is_shorter else _sides(resize)
    if crop is not None:
        settings["crop_size"] = _sides(crop)
    return settings


def _sides(sides: Any) -> dict[str, int]:
    height, width = sides
    return {"height": height, "width": width}
