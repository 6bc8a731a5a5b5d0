"""Read folders in Hugging Face layout: `config.json`, weights in one file or in shards, tokenizer files.

Every setting of the config is honored or rejected: one that a system does not implement is an error with
its name, since a network that ignores it would silently give other outputs.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput, first_line
from torchstone.hub.weight_files import WEIGHTS, find_weights, read_json, read_whole, strip_prefixes

# `model_type` of a config to our system
SYSTEMS = {"bert": "bert", "gpt2": "gpt", "openai-gpt": "gpt", "t5": "t5", "vit": "vit"}
SYSTEMS |= {"albert": "albert", "distilbert": "distilbert", "longformer": "longformer", "clip": "clip"}
SYSTEMS |= {"big_bird": "bigbird", "encodec": "audiolm"}
SYSTEMS |= {"UNet2DModel": "ddpm", "PriorTransformer": "dalle2"}  # diffusers gives a class name instead
SYSTEMS |= {"DiTTransformer2DModel": "dit", "Transformer2DModel": "dit"}
# settings that do not affect the network's output
NEUTRAL = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "_num_labels",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "loss_type",
    "mask_token_id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "tf_legacy_loss",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
}
# of generation: earlier versions of transformers wrote them beside the network's own
NEUTRAL |= {
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
}
# settings that every system implements at one value (or several) only
FIXED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "problem_type": (None, "single_label_classification"),
    "pruned_heads": ({}, None),
    "quantization_config": None,
    "tie_encoder_decoder": False,
}


def system_of_config(config: Mapping[str, Any]) -> str:
    """The system that a config belongs to.

    Raises:
        BadInput: it has no `model_type`, or one that is not supported.
    """
    family = config.get("model_type", config.get("_class_name"))
    if family is None and "architecture" in config:
        name = config["architecture"]
        raise BadInput(
            f"it is timm's folder of {name!r}: give it as weights, to train or to ts.create, of the system "
            "that has this network"
        )
    if family not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        problem = "has no model_type" if family is None else f"is of model_type {family!r}"
        raise BadInput(f"the config {problem}; supported are {known}")
    return SYSTEMS[family]


def reject_unsupported(
    config: Mapping[str, Any], used: Collection[str], only: Mapping[str, Any] = {}
) -> None:
    """Check that every setting of a config is used, has no effect, or has the value we implement.

    Args:
        used: settings that the system honors.
        only: settings with the value that the system implements, or a tuple of several.

    Raises:
        BadInput: there is another one; the message names the first with its value.
    """
    only = {**FIXED, **only}
    for name, value in config.items():
        if name in used or (name in NEUTRAL and name not in only):
            continue
        if name not in only and value is None:
            continue  # what is not set is of other classes
        if name not in only:
            raise BadInput(f"the config sets {name} = {value!r}, which is not implemented here")
        allowed = only[name] if isinstance(only[name], tuple) else (only[name],)
        if value not in allowed:
            supported = " or ".join(map(repr, allowed))
            raise BadInput(f"the config sets {name} = {value!r}; implemented here is {supported}")


def get_number(config: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A setting that must be a finite number of at least 0; `default` if it is not set.

    Raises:
        BadInput: it is not set and has no default, or is no such number.
    """
    value = config.get(name, default)
    if value is None:
        raise BadInput(f"the config does not set {name}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        raise BadInput(f"the config sets {name} = {value!r}, which is no number of at least 0")
    return value


def get_flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """A setting that must be true or false; `default` if it is not set.

    Raises:
        BadInput: it is neither.
    """
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise BadInput(f"the config sets {name} = {value!r}, which is neither true nor false")
    return value


def num_labels(config: Mapping[str, Any]) -> int:
    """The number of labels of a classifier, under any of the names that it had; two where it has none."""
    stated = config.get("num_labels") or config.get("_num_labels")
    return int(stated or len(config.get("id2label") or {}) or 2)


def class_names(config: Mapping[str, Any], count: int) -> list[str]:
    """The names of `id2label`, in the order of the outputs; where there is none `LABEL_i`. Outputs of one
    name get their number beside it.

    Raises:
        BadInput: it names outputs by what is no number, or some that the network does not have.
    """
    stated = config.get("id2label") or {}
    if isinstance(stated, list):
        stated = dict(enumerate(stated))
    try:
        names = {int(number): str(name) for number, name in stated.items() if name is not None}
    except (ValueError, AttributeError, TypeError):
        raise BadInput(f"the config's id2label is no object from output numbers to names: {stated}") from None
    if beyond := [i for i in names if not 0 <= i < count]:
        raise BadInput(
            f"the config's id2label names output {beyond[0]} ({names[beyond[0]]!r}), but the network has "
            f"{count}, from 0 on"
        )
    counts = Counter(names.values())
    unique = {i: f"{name} ({i})" if counts[name] > 1 else name for i, name in names.items()}
    return [unique.get(i, f"LABEL_{i}") for i in range(count)]


def read(folder: Path, weights: Sequence[str] = WEIGHTS) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a folder, with the names they have there; of `weights` the first existing file.

    Raises:
        BadInput: no such folder; a file is missing (the message says which), damaged, or holds code.
    """
    config = read_json(folder / "config.json")
    return config, strip_prefixes(read_whole(find_weights(folder, weights)))


def fetch(spec: str) -> Path:
    """Download `hf:ORG/NAME`, unless it is cached, and return its folder; safetensors are preferred.

    Raises:
        BadInput: huggingface_hub is not installed; the name does not exist or cannot be reached.
    """
    name = spec.removeprefix("hf:")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BadInput(f"{spec} needs huggingface_hub: pip install 'torchstone[hf]'") from None
    configs = ["*.json", "*.txt", "*.model"]
    try:
        tensors = ["model*.safetensors", "*diffusion_pytorch_model*.safetensors"]
        tensors.append("text_encoder/model*.safetensors")
        folder = Path(snapshot_download(name, allow_patterns=[*configs, *tensors]))
        if not any(folder.rglob("*model*.safetensors")):
            pickles = ["pytorch_model*.bin", "*diffusion_pytorch_model*.bin"]
            pickles.append("text_encoder/pytorch_model*.bin")
            folder = Path(snapshot_download(name, allow_patterns=[*configs, *pickles]))
    except Exception as error:  # noqa: BLE001 -- any of a dozen kinds, often of several lines
        reason = first_line(error)
        raise BadInput(f"cannot fetch {spec}: {reason}") from None
    return folder
