"""BigBird in transformers' format: its config to our arguments, its parameter names to ours, and back; and
the random blocks that transformers takes."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.hub import bert, hf_folder
from torchstone.hub.encoder_format import EncoderFormat

# our head for each of their classes, each of which has a pooler, though two alone use it
HEADS = {
    "BigBirdModel": ("none", True),
    "BigBirdForPreTraining": ("pretraining", True),
    "BigBirdForMaskedLM": ("masked", True),
    "BigBirdForSequenceClassification": ("sentence", True),
    "BigBirdForTokenClassification": ("tokens", True),
}
# defaults of transformers' classes, for what a config leaves out
DEFAULTS: dict[str, Any] = {
    "num_segments": 2,
    "max_length": 4096,
    "block_size": 64,
    "random_blocks": 3,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "classifier_dropout": None,
    "eps": 1e-12,
    "activation": "gelu_new",
    "pad_id": 0,
    "tie_weights": True,
    "use_pooler": True,
    "head": "none",
    "num_classes": 2,
}
ATTENTION = ("block_sparse", "original_full")
# our own settings in a config, which transformers ignores: what the random blocks are
PATTERN, SEED = "random_pattern", "random_seed"
PATTERNS = ("stored", "transformers")
FORMAT: EncoderFormat = replace(
    bert.FORMAT,
    model_type="big_bird",
    prefix="bert",
    heads=HEADS,
    numbers={**bert.NUMBERS, "block_size": "block_size", "random_blocks": "num_random_blocks"},
    defaults=DEFAULTS,
    outside=(*bert.FORMAT.outside[:-1], ("pooler", "pooler")),
    head=(
        *bert.FORMAT.head[:-1],
        ("pre_classifier", "classifier.dense"),
        ("classifier", "classifier"),  # of words
        ("classifier", "classifier.out_proj"),  # of texts
    ),
    only={"position_embedding_type": ("absolute", None), "is_encoder_decoder": False},
    unused=frozenset({"attention_type", "use_bias", "rescale_embeddings", PATTERN, SEED}),
)
STORED = re.compile(r"layers\.(\d+)\.attention\.random_blocks\.uniform")
THEIR_STORED = re.compile(r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.self\.random_blocks")


def check_blocks(
    block_size: Any, random_blocks: Any, names: tuple[str, str] = ("block_size", "random_blocks")
):
    """The sizes that block-sparse attention needs.

    Raises:
        BadInput: a block of no token; a number of random blocks below 0; one that is no whole number.
    """
    for name, value, least in zip(names, (block_size, random_blocks), (1, 0), strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadInput(f"{name} is {value!r}: it must be a whole number of at least {least}")


def from_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our variant and its arguments; `random_pattern` is `transformers` unless the config was written here.

    Raises:
        BadInput: a setting that is not implemented; the message names it.
    """
    arguments = FORMAT.from_config(config)
    check_blocks(arguments["block_size"], arguments["random_blocks"], ("block_size", "num_random_blocks"))
    attention = config.get("attention_type", ATTENTION[0])
    pattern = config.get(PATTERN, "transformers")
    for name, value, known in (("attention_type", attention, ATTENTION), (PATTERN, pattern, PATTERNS)):
        if value not in known:
            raise BadInput(f"the config sets {name} = {value!r}; implemented are {' and '.join(known)}")
    arguments |= {
        "attention_type": attention,
        "use_bias": hf_folder.get_flag(config, "use_bias", True),
        "rescale_embeddings": hf_folder.get_flag(config, "rescale_embeddings", False),
        "random_pattern": pattern,
        "random_seed": int(hf_folder.get_number(config, SEED, 0)),
    }
    return "bigbird_base", arguments


def to_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of the same network; its random blocks there are transformers' own."""
    config = FORMAT.to_config(model_config)
    own: dict[str, Any] = {"attention_type": "block_sparse", "use_bias": True, "rescale_embeddings": False}
    own |= {PATTERN: "stored", SEED: 0}
    return {**config, **{name: model_config.get(name, value) for name, value in own.items()}}


def match_weights(model_config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments for weights that hold more, or less, than the config's class."""
    matched = FORMAT.match_weights(model_config, tensors)
    has_pooler = any("pooler." in name for name in tensors)
    return {**matched, "use_pooler": has_pooler or matched["head"] == "pretraining"}


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to ours."""
    stored = {name: match[1] for name in tensors if (match := THEIR_STORED.fullmatch(name))}
    ours = FORMAT.published({name: value for name, value in tensors.items() if name not in stored})
    return ours | {f"layers.{i}.attention.random_blocks.uniform": tensors[name] for name, i in stored.items()}


def unpublished(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names to the published ones; random blocks that are stored get a name that transformers has
    not."""
    stored = {name: match[1] for name in tensors if (match := STORED.fullmatch(name))}
    theirs = FORMAT.unpublished({name: value for name, value in tensors.items() if name not in stored})
    prefix = "bert." if any(name.startswith("bert.") for name in theirs) else ""
    theirs |= {
        f"{prefix}encoder.layer.{i}.attention.self.random_blocks": tensors[name] for name, i in stored.items()
    }
    if "pre_classifier.weight" in tensors:
        return theirs
    return {name.replace("classifier.out_proj.", "classifier."): value for name, value in theirs.items()}


# ---- the random blocks of transformers

# lengths at which random blocks are drawn as the paper's experiments did: among those of the first tokens
PAPER_LENGTHS, PAPER_TOKENS = (1024, 3072, 4096), 1024


def is_full(length: int, block_size: int, random_blocks: int) -> bool:
    """Whether a text of `length` tokens, padding included, turns transformers' network to full attention."""
    return length <= (5 + 2 * random_blocks) * block_size


@lru_cache(maxsize=256)
def transformers_blocks(
    layer: int, heads: int, blocks: int, block_size: int, random_blocks: int, max_length: int
) -> Int64[Tensor, "heads blocks random"]:
    """The random blocks of a layer of transformers' network in training: the same ones at every call.

    There NumPy's global generator is seeded with the layer's number each time; here one of its own is. A
    block may be a neighbor or global too, and then counts twice. The first and the last block have none.

    Args:
        blocks: of the text with its padding.
        max_length: of the network, which decides what is drawn at the lengths of the paper.
    """
    found = torch.full((heads, blocks, random_blocks), -1)
    if not random_blocks:
        return found
    generator = np.random.RandomState(layer)
    if blocks * block_size in PAPER_LENGTHS:
        # drawn for the longest text, head by head, of which the first rows are used
        longest = max_length // block_size
        end = PAPER_TOKENS // block_size if 2 * block_size < PAPER_TOKENS else longest
        inner = np.arange(1, min(end, longest - 1))
        for head in range(heads):
            for row in range(1, longest - 1):
                # the last two rows may have their neighbors again
                is_near = (abs(inner - row) <= 1) & (row < longest - 3)
                sampled = generator.permutation(inner[~is_near])[:random_blocks]
                if row < blocks - 1:
                    found[head, row, : len(sampled)] = torch.from_numpy(sampled)
        return found
    # drawn among the first blocks alone, as many as are sparse at least, row by row
    first = 5 + 2 * random_blocks
    for row in range(1, blocks - 1):
        excluded = {0, first - 1, row - 1, row, row + 1}
        excluded |= {first - 2} if row == 1 else {1} if row == first - 2 else set()
        for head in range(heads):
            sampled = [block for block in generator.permutation(first).tolist() if block not in excluded]
            found[head, row] = torch.tensor(sampled[:random_blocks])
    return found
