"""Writing a folder in Hugging Face layout, whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from torchstone.errors import BadInput, NotSaved

# what a special token is for, by the ways it is usually written
ROLES = {
    "[PAD]": ("pad_token",),
    "[UNK]": ("unk_token",),
    "[CLS]": ("cls_token",),
    "[SEP]": ("sep_token",),
    "[MASK]": ("mask_token",),
    "<pad>": ("pad_token",),
    "<unk>": ("unk_token",),
    "<s>": ("bos_token",),
    "</s>": ("eos_token",),
    "<|endoftext|>": ("bos_token", "eos_token"),
}


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    tokenizer: str | None = None,
    length: int | None = None,
    check: Callable[[Path], None] = lambda written: None,
) -> None:
    """`config.json`, `model.safetensors` and, if there is one, the tokenizer's files.

    Args:
        config, tensors: by the names that transformers has for them.
        tokenizer: the JSON of a `tokenizers.Tokenizer`.
        length: the most tokens that the network takes.
        check: looks at the folder before it takes its name, and raises if it is not right.

    Raises:
        BadInput: `folder` holds something already.
        NotSaved: the disk is full or cannot be written; nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is there already and not empty: choose another --out")
    beside = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        _json(beside / "config.json", config)
        # a tensor that has two names is written under each, since a reader may ask for either
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(plain, beside / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            (beside / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
            _json(beside / "tokenizer_config.json", _described(tokenizer, length))
        check(beside)
        if folder.exists():
            folder.rmdir()
        os.replace(beside, folder)
    except (OSError, SafetensorError) as error:  # the latter is how a full disk is told
        said = str(error).splitlines()[0]
        raise NotSaved(f"could not write {folder} ({said}): nothing is left of it") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _described(tokenizer: str, length: int | None) -> dict[str, Any]:
    """What says which class reads `tokenizer.json`, and what its special tokens are for."""
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if length is not None:
        said["model_max_length"] = length
    for token in json.loads(tokenizer).get("added_tokens", []):
        for role in ROLES.get(token["content"], ()):
            said.setdefault(role, token["content"])
    return said


def _json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
