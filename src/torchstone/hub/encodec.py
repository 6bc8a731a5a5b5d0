"""EnCodec in transformers' layout: configs, and names of the weights."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.state_dict_names import rename_keys

# transformers' settings to the fields of `CodecConfig` and `SEANetConfig`, and their defaults
FIELDS = {
    "audio_channels": ("channels", 1),
    "sampling_rate": ("sample_rate", 24_000),
    "hidden_size": ("dim", 128),
    "num_filters": ("filters", 32),
    "num_residual_layers": ("residual_layers", 1),
    "upsampling_ratios": ("ratios", [8, 5, 4, 2]),
    "norm_type": ("norm", "weight_norm"),
    "kernel_size": ("kernel_size", 7),
    "last_kernel_size": ("last_kernel_size", 7),
    "residual_kernel_size": ("residual_kernel_size", 3),
    "dilation_growth_rate": ("dilation_growth", 2),
    "use_causal_conv": ("causal", True),
    "pad_mode": ("pad_mode", "reflect"),
    "compress": ("compress", 2),
    "num_lstm_layers": ("lstm_layers", 2),
    "trim_right_ratio": ("trim_right_ratio", 1.0),
    "use_conv_shortcut": ("conv_shortcut", True),
    "codebook_size": ("num_codes", 1024),
    "target_bandwidths": ("bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0]),
    "normalize": ("normalize", False),
    "chunk_length_s": ("chunk_seconds", None),
    "overlap": ("overlap", None),
}
# as transformers writes them today, and as earlier versions did
TO_OURS = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.embed_avg$", r"quantizer.books.\1.sums"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.embed$", r"quantizer.books.\1.codebook"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.cluster_size$", r"quantizer.books.\1.counts"),
)
TO_THEIRS = (
    (r"^quantizer\.books\.(\d+)\.sums$", r"quantizer.layers.\1.codebook.embed_avg"),
    (r"^quantizer\.books\.(\d+)\.codebook$", r"quantizer.layers.\1.codebook.embed"),
    (r"^quantizer\.books\.(\d+)\.counts$", r"quantizer.layers.\1.codebook.cluster_size"),
)
STARTED = ".inited"  # whether a codebook has been started by k-means, which its use does not depend on


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, from transformers'."""
    return rename_keys({n: t for n, t in tensors.items() if not n.endswith(STARTED)}, TO_OURS)


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that transformers saves.

    Raises:
        BadInput: they are not those of a codec alone.
    """
    if any(not name.startswith(("encoder.", "decoder.", "quantizer.")) for name in tensors):
        raise BadInput("transformers has no form of this network, only of a codec")
    started = {
        name.replace(".codebook", STARTED): tensor.new_ones(1)
        for name, tensor in tensors.items()
        if name.startswith("quantizer.") and name.endswith(".codebook")
    }
    started = {
        name.replace("books", "layers").replace(STARTED, f".codebook{STARTED}"): t
        for name, t in started.items()
    }
    return rename_keys(tensors, TO_THEIRS) | started


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The variant and the fields that a transformers `encodec` config describes.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    hf_folder.reject_unsupported(
        config,
        {*FIELDS, "codebook_dim", "feature_extractor_type"},
        only={"architectures": (["EncodecModel"], None), "is_encoder_decoder": False},
    )
    fields = {ours: config.get(theirs, default) for theirs, (ours, default) in FIELDS.items()}
    for theirs, (ours, default) in FIELDS.items():
        if type(default) is int:
            hf_folder.get_number(config, theirs, default)
        elif type(default) is bool:
            hf_folder.get_flag(config, theirs, default)
        if isinstance(default, list) and not fields[ours]:
            raise BadInput(f"the config sets {theirs} = {config[theirs]!r}, which holds no number")
    if config.get("codebook_dim") not in (None, fields["dim"]):
        raise BadInput(
            f"the config sets codebook_dim = {config['codebook_dim']}; implemented here is hidden_size, "
            f"{fields['dim']}"
        )
    hop = math.prod(fields["ratios"])
    bits = math.ceil(math.log2(fields["num_codes"])) * math.ceil(fields["sample_rate"] / hop)
    fields["num_books"] = int(1000 * fields["bandwidths"][-1] // bits)
    return "encodec_24khz", fields


def to_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers config of a codec with these fields."""
    config = {theirs: fields.get(ours, default) for theirs, (ours, default) in FIELDS.items()}
    return {"model_type": "encodec", "architectures": ["EncodecModel"], **config}
