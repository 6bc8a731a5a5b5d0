"""Vision transformers of torchvision, timm and transformers: configs, and names of the weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

CLASSES = ("ViTModel", "ViTForImageClassification")
USED = {  # and their defaults
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

# torchvision's, timm's and transformers' names (as saved, and as in memory) to ours; no library uses
# another's name for something else
TO_OURS = (
    (r"^(vit\.)?", ""),
    (r"^(embeddings\.)?cls_token$", "class_token"),
    (r"^(encoder\.pos_embedding|pos_embed|embeddings\.position_embeddings)$", "position_embedding"),
    (r"^(conv_proj|patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.", "patch_embedding."),
    (r"^(encoder\.layers\.encoder_layer_|encoder\.layer\.|layers\.|blocks\.)(?=\d)", "blocks."),
    (r"^(encoder\.ln|layernorm|norm)\.", "final_norm."),
    (r"^(heads\.head|classifier)\.", "head."),
    (r"^pooler\.dense\.", "pooler."),
    (r"\.(ln_1|norm1|layernorm_before)\.", ".attention_norm."),
    (r"\.(ln_2|norm2|layernorm_after)\.", ".mlp_norm."),
    (r"\.self_attention\.in_proj_|\.attn\.qkv\.", ".attention.qkv."),
    (
        r"\.(self_attention\.out_proj|attn\.proj|attention\.o_proj|attention\.output\.dense)\.",
        ".attention.out.",
    ),
    (r"\.attention\.(?:attention\.)?([qkv])(?:_proj|uery|ey|alue)\.", r".attention.\1."),
    (r"\.mlp\.(0|linear_1|fc1)\.|\.intermediate\.dense\.", ".mlp.up."),
    (r"\.mlp\.(3|linear_2|fc2)\.|\.output\.dense\.", ".mlp.down."),
)
TO_THEIRS = (
    (r"^class_token$", "embeddings.cls_token"),
    (r"^position_embedding$", "embeddings.position_embeddings"),
    (r"^patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"^pooler\.", "pooler.dense."),
    (r"^final_norm\.", "layernorm."),
    (r"^head\.", "classifier."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attention_norm\.", ".layernorm_before."),
    (r"\.mlp_norm\.", ".layernorm_after."),
    (r"\.attention\.q\.", ".attention.attention.query."),
    (r"\.attention\.k\.", ".attention.attention.key."),
    (r"\.attention\.v\.", ".attention.attention.value."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, from torchvision's, timm's or transformers'; q, k and v become one projection."""
    return fuse_qkv(rename_keys(tensors, TO_OURS))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that transformers saves; a network with a head has all others in `vit`."""
    prefix = [(r"^(?!classifier)", "vit.")] if "head.weight" in tensors else []
    return rename_keys(split_qkv(tensors), [*TO_THEIRS, *prefix])


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The variant and the `ViTConfig` fields that a transformers `vit` config describes.

    Raises:
        BadInput: a setting that is not implemented, by its name.
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
    settings = {name: config.get(name, default) for name, default in USED.items()}
    has_head = config.get("architectures", [CLASSES[0]]) == [CLASSES[1]]
    labels = hf_folder.num_labels(config)
    return "vit_b_16", {
        "width": hf_folder.get_number(settings, "hidden_size"),
        "depth": hf_folder.get_number(settings, "num_hidden_layers"),
        "heads": hf_folder.get_number(settings, "num_attention_heads"),
        "mlp_dim": hf_folder.get_number(settings, "intermediate_size"),
        "image_size": settings["image_size"],
        "patch_size": settings["patch_size"],
        "channels": hf_folder.get_number(settings, "num_channels"),
        "num_classes": labels if has_head else 0,
        "pooler_dim": 0 if has_head else settings["pooler_output_size"] or settings["hidden_size"],
        "activation": settings["hidden_act"],
        "qkv_bias": settings["qkv_bias"],
        "eps": hf_folder.get_number(settings, "layer_norm_eps"),
        "dropout": hf_folder.get_number(settings, "hidden_dropout_prob"),
        "attention_dropout": hf_folder.get_number(settings, "attention_probs_dropout_prob"),
        "mlp_dropout": 0.0,
    }


def match_weights(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields without a pooler where the weights have none, which no config says."""
    has_pooler = any(name.endswith("pooler.dense.weight") for name in tensors)
    return {**fields, "pooler_dim": fields["pooler_dim"] if has_pooler else 0}


def to_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers config of a network with these `ViTConfig` fields."""
    width, classes = fields["width"], fields.get("num_classes", 1000)
    config = {
        "model_type": "vit",
        "architectures": [CLASSES[1] if classes else CLASSES[0]],
        "hidden_size": width,
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["heads"],
        "intermediate_size": fields.get("mlp_dim") or 4 * width,
        "hidden_act": fields.get("activation", "gelu"),
        "hidden_dropout_prob": fields.get("dropout", 0.0),
        "attention_probs_dropout_prob": fields.get("attention_dropout", 0.0),
        "layer_norm_eps": fields.get("eps", 1e-6),
        "image_size": fields.get("image_size", 224),
        "patch_size": fields.get("patch_size", 16),
        "num_channels": fields.get("channels", 3),
        "qkv_bias": fields.get("qkv_bias", True),
        "pooler_output_size": fields.get("pooler_dim") or width,
    }
    if classes:
        config["num_labels"] = classes
    return config
