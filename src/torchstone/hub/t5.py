"""T5 as transformers writes it: what its configs say, and its names for the weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import fuse_qkv, split_qkv, rename_keys
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

CLASSES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")  # the second is its old name
# ours: theirs, and what their class takes where nothing is said
NUMBERS = {
    "width": ("d_model", 512),
    "layers": ("num_layers", 6),
    "heads": ("num_heads", 8),
    "head_width": ("d_kv", 64),
    "inner": ("d_ff", 2048),
    "vocabulary": ("vocab_size", 32_128),
    "buckets": ("relative_attention_num_buckets", 32),
    "furthest": ("relative_attention_max_distance", 128),
    "eps": ("layer_norm_epsilon", 1e-6),
    "dropout": ("dropout_rate", 0.1),
    "pad": ("pad_token_id", 0),
    "end": ("eos_token_id", 1),
}
USED = {theirs for theirs, _ in NUMBERS.values()} | {
    "num_decoder_layers",
    "feed_forward_proj",
    "decoder_start_token_id",
    "tie_word_embeddings",
    "scale_decoder_outputs",
}
# of other classes, and what follows from `feed_forward_proj`
BESIDE = {"n_positions", "classifier_dropout", "num_labels", "dense_act_fn", "is_gated_act"}

TO_OURS = (
    (r"^shared\.", "tokens."),
    (r"^lm_head\.", "head."),
    (r"^(en|de)coder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.", r"\1coder_places."),
    (r"^(en|de)coder\.final_layer_norm\.", r"\1coder_norm."),
    (r"^(en|de)coder\.block\.", r"\1coder."),
    (r"\.layer\.0\.SelfAttention\.", ".attention."),
    (r"\.layer\.1\.EncDecAttention\.", ".cross."),
    (r"\.layer\.\d\.DenseReluDense\.", ".feed."),
    (r"\.layer\.0\.layer_norm\.", ".attention_norm."),
    (r"^(encoder.*)\.layer\.1\.layer_norm\.", r"\1.feed_norm."),
    (r"^(decoder.*)\.layer\.1\.layer_norm\.", r"\1.cross_norm."),
    (r"\.layer\.2\.layer_norm\.", ".feed_norm."),
    (r"\.(attention|cross)\.o\.", r".\1.out."),
    (r"\.feed\.wi_0\.", ".feed.gate."),
    (r"\.feed\.wi(_1)?\.", ".feed.up."),
    (r"\.feed\.wo\.", ".feed.down."),
)  # fmt: skip
TO_THEIRS = (
    (r"^tokens\.", "shared."),
    (r"^head\.", "lm_head."),
    (r"^(en|de)coder_places\.", r"\1coder.block.0.layer.0.SelfAttention.relative_attention_bias."),
    (r"^(en|de)coder_norm\.", r"\1coder.final_layer_norm."),
    (r"^(en|de)coder\.(?=\d)", r"\1coder.block."),
    (r"\.attention\.out\.", ".attention.o."),
    (r"\.cross\.out\.", ".cross.o."),
    (r"\.attention\.", ".layer.0.SelfAttention."),
    (r"\.cross\.", ".layer.1.EncDecAttention."),
    (r"\.attention_norm\.", ".layer.0.layer_norm."),
    (r"\.cross_norm\.", ".layer.1.layer_norm."),
    (r"^(encoder.*)\.feed_norm\.", r"\1.layer.1.layer_norm."),
    (r"^(decoder.*)\.feed_norm\.", r"\1.layer.2.layer_norm."),
    (r"^(encoder.*)\.feed\.", r"\1.layer.1.DenseReluDense."),
    (r"^(decoder.*)\.feed\.", r"\1.layer.2.DenseReluDense."),
    (r"DenseReluDense\.gate\.", "DenseReluDense.wi_0."),
    (r"DenseReluDense\.down\.", "DenseReluDense.wo."),
)


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours from transformers' names; what is the embedding once more is left out."""
    shared = tensors.get("shared.weight", tensors.get("encoder.embed_tokens.weight"))
    again = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    # some files have a table for attention across, which no version of the network has used
    again.add("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")
    if shared is not None and _tied(tensors):
        again.add("lm_head.weight")
    kept = {name: tensor for name, tensor in tensors.items() if name not in again}
    return fuse_qkv(rename_keys(kept if shared is None else {**kept, "shared.weight": shared}, TO_OURS))


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that transformers saves, from ours."""
    gated = any(name.endswith(".feed.gate.weight") for name in tensors)
    up = (r"DenseReluDense\.up\.", "DenseReluDense.wi_1." if gated else "DenseReluDense.wi.")
    return rename_keys(split_qkv(tensors), [*TO_THEIRS, up])


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Variant and arguments of the network that a transformers `t5` config describes.

    Raises:
        BadInput: it asks for something that is not implemented, by its name.
    """
    only = {
        "is_encoder_decoder": True,
        "architectures": (*([name] for name in CLASSES), None),
    }
    hf_folder.reject_unsupported(config, USED | BESIDE, only)
    arguments = {
        ours: hf_folder.get_number(config, theirs, usual) for ours, (theirs, usual) in NUMBERS.items()
    }
    said = config.get("feed_forward_proj", "relu")
    gate, _, name = str(said).rpartition("-")
    name = "gelu_new" if said == "gated-gelu" else name
    if gate not in ("", "gated") or name not in ACTIVATIONS:
        able = ", ".join(ACTIVATIONS)
        raise BadInput(f"the config sets feed_forward_proj = {said!r}; implemented are {able}, and gated-…")
    for beside, value in (("dense_act_fn", name), ("is_gated_act", bool(gate))):
        if config.get(beside, value) != value:
            raise BadInput(f"the config sets {beside} = {config[beside]!r} beside {said!r}")
    start = config.get("decoder_start_token_id")
    depth = config.get("num_decoder_layers")
    tied = config.get("tie_word_embeddings", True)
    return "t5_small", {
        **arguments,
        "decoder_layers": arguments["layers"] if depth is None else depth,
        "start": arguments["pad"] if start is None else start,
        "activation": name,
        "gated": bool(gate),
        "tied": tied,
        "scaled": config.get("scale_decoder_outputs", tied),
    }


def match_weights(arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments with the head that the weights have: version 5 of transformers says of every
    network that it is tied, those of T5 1.1 included."""
    return {**arguments, "tied": _tied(tensors)}


def _tied(tensors: Mapping[str, Tensor]) -> bool:
    head = tensors.get("lm_head.weight")
    shared = tensors.get("shared.weight", tensors.get("encoder.embed_tokens.weight"))
    return head is None or (shared is not None and head.equal(shared))


def to_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers config of a network made with these arguments.

    One without scaled outputs is written as untied, which is how transformers knows.
    """
    act, gated = arguments.get("activation", "relu"), arguments.get("gated", False)
    act = "gelu" if gated and act == "gelu_new" else act
    layers = arguments.get("layers", 6)
    tied = arguments.get("tied", True)
    return {
        "model_type": "t5",
        "architectures": [CLASSES[0]],
        "is_encoder_decoder": True,
        **{theirs: arguments.get(ours, usual) for ours, (theirs, usual) in NUMBERS.items()},
        "num_decoder_layers": arguments.get("decoder_layers") or layers,
        "feed_forward_proj": f"gated-{act}" if gated else act,
        "decoder_start_token_id": arguments.get("start", 0),
        "tie_word_embeddings": tied and arguments.get("scaled", tied),
    }
