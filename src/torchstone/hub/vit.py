"""Vision transformers as torchvision, timm and transformers publish them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, split_qkv, rename_keys
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

CLASSES = ("ViTModel", "ViTForImageClassification")
USED = {  # and what they are where a config leaves them out
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "pooler_output_size": None,
    "num_labels": None,
    "id2label": None,
    "encoder_stride": 16,  # of a decoder that is another class
}

# torchvision's, timm's and transformers' (as it saves them, and as it holds them) to ours; no name of
# one means something else in another
TO_OURS = (
    (r"^(module\.)?(vit\.)?", ""),
    (r"^(embeddings\.)?cls_token$", "class_token"),
    (r"^(encoder\.pos_embedding|pos_embed|embeddings\.position_embeddings)$", "positions"),
    (r"^(conv_proj|patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.", "patches."),
    (r"^(encoder\.layers\.encoder_layer_|encoder\.layer\.|blocks\.)(?=\d)", "layers."),
    (r"^(encoder\.ln|layernorm)\.", "norm."),
    (r"^(heads\.head|classifier)\.", "head."),
    (r"^pooler\.dense\.", "pooler."),
    (r"\.(ln_1|norm1|layernorm_before)\.", ".attention_norm."),
    (r"\.(ln_2|norm2|layernorm_after)\.", ".feed_norm."),
    (r"\.self_attention\.in_proj_|\.attn\.qkv\.", ".attention.qkv."),
    (
        r"\.(self_attention\.out_proj|attn\.proj|attention\.o_proj|attention\.output\.dense)\.",
        ".attention.out.",
    ),
    (r"\.attention\.(?:attention\.)?([qkv])(?:_proj|uery|ey|alue)\.", r".attention.\1."),
    (r"\.mlp\.(0|linear_1|fc1)\.|\.intermediate\.dense\.", ".feed.up."),
    (r"\.mlp\.(3|linear_2|fc2)\.|\.output\.dense\.", ".feed.down."),
)
TO_THEIRS = (
    (r"^class_token$", "embeddings.cls_token"),
    (r"^positions$", "embeddings.position_embeddings"),
    (r"^patches\.", "embeddings.patch_embeddings.projection."),
    (r"^pooler\.", "pooler.dense."),
    (r"^norm\.", "layernorm."),
    (r"^head\.", "classifier."),
    (r"^layers\.", "encoder.layer."),
    (r"\.attention_norm\.", ".layernorm_before."),
    (r"\.feed_norm\.", ".layernorm_after."),
    (r"\.attention\.q\.", ".attention.attention.query."),
    (r"\.attention\.k\.", ".attention.attention.key."),
    (r"\.attention\.v\.", ".attention.attention.value."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.feed\.up\.", ".intermediate.dense."),
    (r"\.feed\.down\.", ".output.dense."),
)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours from torchvision's, timm's or transformers' names; its q, k and v become one product."""
    return fuse_qkv(rename_keys(tensors, TO_OURS))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that transformers saves, from ours; a network with classes keeps the rest in `vit`."""
    whole = [(r"^(?!classifier)", "vit.")] if "head.weight" in tensors else []
    return rename_keys(split_qkv(tensors), [*TO_THEIRS, *whole])


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Variant and arguments of the network that a transformers `vit` config describes.

    Raises:
        BadInput: it asks for something that is not implemented, by its name.
    """
    hf_folder.reject_unsupported(
        config,
        USED.keys() - {"hidden_act"},
        only={
            "architectures": tuple([name] for name in CLASSES),
            "hidden_act": tuple(ACTIVATIONS),
            "pooler_act": "tanh",
            "is_encoder_decoder": False,
            "tie_word_embeddings": (True, False),  # of a decoder that is another class
        },
    )
    said = {name: config.get(name, default) for name, default in USED.items()}
    head = config.get("architectures", [CLASSES[0]]) == [CLASSES[1]]
    labels = said["num_labels"] or len(said["id2label"] or (0, 1))  # two where it names none
    return "vit_b_16", {
        "width": hf_folder.get_number(said, "hidden_size"),
        "depth": hf_folder.get_number(said, "num_hidden_layers"),
        "heads": hf_folder.get_number(said, "num_attention_heads"),
        "inner": hf_folder.get_number(said, "intermediate_size"),
        "size": said["image_size"],
        "patch": said["patch_size"],
        "channels": hf_folder.get_number(said, "num_channels"),
        "num_classes": labels if head else 0,
        "pooler": 0 if head else said["pooler_output_size"] or said["hidden_size"],
        "activation": said["hidden_act"],
        "qkv_bias": said["qkv_bias"],
        "eps": hf_folder.get_number(said, "layer_norm_eps"),
        "dropout": hf_folder.get_number(said, "hidden_dropout_prob"),
        "attention_dropout": hf_folder.get_number(said, "attention_probs_dropout_prob"),
        "inner_dropout": 0.0,
    }


def match_weights(arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments without a pooler where the weights have none, which no config says."""
    held = any(name.endswith("pooler.dense.weight") for name in tensors)
    return {**arguments, "pooler": arguments["pooler"] if held else 0}


def to_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers config of a network made with all these arguments."""
    width, count = arguments["width"], arguments.get("num_classes", 1000)
    config = {
        "model_type": "vit",
        "architectures": [CLASSES[1] if count else CLASSES[0]],
        "hidden_size": width,
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["heads"],
        "intermediate_size": arguments.get("inner") or 4 * width,
        "hidden_act": arguments.get("activation", "gelu"),
        "hidden_dropout_prob": arguments.get("dropout", 0.0),
        "attention_probs_dropout_prob": arguments.get("attention_dropout", 0.0),
        "layer_norm_eps": arguments.get("eps", 1e-6),
        "image_size": arguments.get("size", 224),
        "patch_size": arguments.get("patch", 16),
        "num_channels": arguments.get("channels", 3),
        "qkv_bias": arguments.get("qkv_bias", True),
        "pooler_output_size": arguments.get("pooler") or width,
    }
    if count:
        config["num_labels"] = count
    return config
