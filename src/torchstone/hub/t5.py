"""T5 in transformers' format: its config to our arguments, its parameter names to ours, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, rename_keys, split_qkv
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

CLASSES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")  # the second is its old name
# ours: theirs, and the default of their class
NUMBERS = {
    "width": ("d_model", 512),
    "layers": ("num_layers", 6),
    "heads": ("num_heads", 8),
    "head_dim": ("d_kv", 64),
    "d_ff": ("d_ff", 2048),
    "vocab_size": ("vocab_size", 32_128),
    "num_buckets": ("relative_attention_num_buckets", 32),
    "max_distance": ("relative_attention_max_distance", 128),
    "eps": ("layer_norm_epsilon", 1e-6),
    "dropout": ("dropout_rate", 0.1),
    "pad_id": ("pad_token_id", 0),
    "end_id": ("eos_token_id", 1),
}
USED = {theirs for theirs, _ in NUMBERS.values()} | {
    "num_decoder_layers",
    "feed_forward_proj",
    "decoder_start_token_id",
    "tie_word_embeddings",
    "scale_decoder_outputs",
}
# settings of other classes, and those that follow from `feed_forward_proj`
IMPLIED = {"n_positions", "classifier_dropout", "num_labels", "dense_act_fn", "is_gated_act"}

# names of the one embedding, the last two of its copies
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

TO_OURS = (
    (r"^shared\.", "token_embedding."),
    (r"^lm_head\.", "head."),
    (
        r"^(en|de)coder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"\1coder_position_bias.",
    ),
    (r"^(en|de)coder\.final_layer_norm\.", r"\1coder_norm."),
    (r"^(en|de)coder\.block\.", r"\1coder."),
    (r"\.layer\.0\.SelfAttention\.", ".attention."),
    (r"\.layer\.1\.EncDecAttention\.", ".cross."),
    (r"\.layer\.\d\.DenseReluDense\.", ".feed_forward."),
    (r"\.layer\.0\.layer_norm\.", ".attention_norm."),
    (r"^(encoder.*)\.layer\.1\.layer_norm\.", r"\1.feed_forward_norm."),
    (r"^(decoder.*)\.layer\.1\.layer_norm\.", r"\1.cross_norm."),
    (r"\.layer\.2\.layer_norm\.", ".feed_forward_norm."),
    (r"\.(attention|cross)\.o\.", r".\1.out."),
    (r"\.feed_forward\.wi_0\.", ".feed_forward.gate."),
    (r"\.feed_forward\.wi(_1)?\.", ".feed_forward.up."),
    (r"\.feed_forward\.wo\.", ".feed_forward.down."),
)
TO_THEIRS = (
    (r"^token_embedding\.", "shared."),
    (r"^head\.", "lm_head."),
    (r"^(en|de)coder_position_bias\.", r"\1coder.block.0.layer.0.SelfAttention.relative_attention_bias."),
    (r"^(en|de)coder_norm\.", r"\1coder.final_layer_norm."),
    (r"^(en|de)coder\.(?=\d)", r"\1coder.block."),
    (r"\.attention\.out\.", ".attention.o."),
    (r"\.cross\.out\.", ".cross.o."),
    (r"\.attention\.", ".layer.0.SelfAttention."),
    (r"\.cross\.", ".layer.1.EncDecAttention."),
    (r"\.attention_norm\.", ".layer.0.layer_norm."),
    (r"\.cross_norm\.", ".layer.1.layer_norm."),
    (r"^(encoder.*)\.feed_forward_norm\.", r"\1.layer.1.layer_norm."),
    (r"^(decoder.*)\.feed_forward_norm\.", r"\1.layer.2.layer_norm."),
    (r"^(encoder.*)\.feed_forward\.", r"\1.layer.1.DenseReluDense."),
    (r"^(decoder.*)\.feed_forward\.", r"\1.layer.2.DenseReluDense."),
    (r"DenseReluDense\.gate\.", "DenseReluDense.wi_0."),
    (r"DenseReluDense\.down\.", "DenseReluDense.wo."),
)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From transformers' names to ours, without the copies of the shared embedding."""
    shared, is_tied = _embedding(tensors), _is_tied(tensors)
    shared = tensors.get("lm_head.weight") if shared is None and is_tied else shared
    unused = set(EMBEDDINGS[1:])
    # some files have a position bias for cross-attention, which no version of the network has used
    unused.add("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")
    if shared is not None and is_tied:
        unused.add("lm_head.weight")
    used = {name: tensor for name, tensor in tensors.items() if name not in unused}
    return fuse_qkv(rename_keys(used if shared is None else {**used, "shared.weight": shared}, TO_OURS))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to those that transformers saves."""
    is_gated = any(name.endswith(".feed_forward.gate.weight") for name in tensors)
    up = (r"DenseReluDense\.up\.", "DenseReluDense.wi_1." if is_gated else "DenseReluDense.wi.")
    return rename_keys(split_qkv(tensors), [*TO_THEIRS, up])


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    only = {"is_encoder_decoder": True, "architectures": (*([name] for name in CLASSES), None)}
    hf_folder.reject_unsupported(config, USED | IMPLIED, only)
    model_config = {
        ours: hf_folder.get_number(config, theirs, default) for ours, (theirs, default) in NUMBERS.items()
    }
    projection = config.get("feed_forward_proj", "relu")
    gate, _, activation = str(projection).rpartition("-")
    activation = "gelu_new" if projection == "gated-gelu" else activation
    if gate not in ("", "gated") or activation not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise BadInput(
            f"the config sets feed_forward_proj = {projection!r}; implemented are {supported}, and gated-…"
        )
    for name, value in (("dense_act_fn", activation), ("is_gated_act", bool(gate))):
        if config.get(name, value) != value:
            raise BadInput(f"the config sets {name} = {config[name]!r}, which contradicts {projection!r}")
    start_id = config.get("decoder_start_token_id")
    decoder_layers = config.get("num_decoder_layers")
    tie_weights = config.get("tie_word_embeddings", True)
    return "t5_small", {
        **model_config,
        "decoder_layers": model_config["layers"] if decoder_layers is None else decoder_layers,
        "start_id": model_config["pad_id"] if start_id is None else start_id,
        "activation": activation,
        "gated": bool(gate),
        "tie_weights": tie_weights,
        "scale_logits": config.get("scale_decoder_outputs", tie_weights),
    }


def match_weights(model_config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments with the head that the weights have: version 5 of transformers declares every
    network as tied, those of T5 1.1 included."""
    if _embedding(tensors) is None and not model_config["tie_weights"]:
        raise BadInput(f"the weights lack {EMBEDDINGS[0]}, and the config says that the head is not it")
    return {**model_config, "tie_weights": _is_tied(tensors)}


def _is_tied(tensors: Mapping[str, Tensor]) -> bool:
    """Whether embedding and head are one tensor; a file may hold it once, by any of its names."""
    head, shared = tensors.get("lm_head.weight"), _embedding(tensors)
    return head is None or shared is None or head.equal(shared)


def _embedding(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The embedding that encoder and decoder share, by any of its names.

    Raises:
        BadInput: these differ.
    """
    held = [name for name in EMBEDDINGS if name in tensors]
    for name in held[1:]:
        if not tensors[name].equal(tensors[held[0]]):
            raise BadInput(f"the weights have a {name} other than {held[0]}; implemented is one embedding")
    return tensors[held[0]] if held else None


def to_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of the same network.

    One without scaled logits is written as untied, by which transformers decides.
    """
    activation, gated = model_config.get("activation", "relu"), model_config.get("gated", False)
    activation = "gelu" if gated and activation == "gelu_new" else activation
    layers = model_config.get("layers", 6)
    tie_weights = model_config.get("tie_weights", True)
    return {
        "model_type": "t5",
        "architectures": [CLASSES[0]],
        "is_encoder_decoder": True,
        **{theirs: model_config.get(ours, default) for ours, (theirs, default) in NUMBERS.items()},
        "num_decoder_layers": model_config.get("decoder_layers") or layers,
        "feed_forward_proj": f"gated-{activation}" if gated else activation,
        "decoder_start_token_id": model_config.get("start_id", 0),
        "tie_word_embeddings": tie_weights and model_config.get("scale_logits", tie_weights),
    }
