"""Export to a folder in Hugging Face layout, all or nothing."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from torchstone.errors import BadInput, NotSaved, first_line
from torchstone.files import atomic_write

# roles of special tokens, by their usual spelling
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
# where there is a `<|startoftext|>`, the tokens of CLIP
CLIP_ROLES = {**ROLES, "<|startoftext|>": ("bos_token",), "<|endoftext|>": ("eos_token", "pad_token")}
# where there is a `<mask>`, the tokens of RoBERTa
ROBERTA_ROLES = {
    **ROLES,
    "<s>": ("bos_token", "cls_token"),
    "</s>": ("eos_token", "sep_token"),
    "<mask>": ("mask_token",),
}


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    tokenizer: str | None = None,
    length: int | None = None,
    preprocessor: Mapping[str, Any] | None = None,
    check: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write `config.json`, `model.safetensors` and, if there is one, the tokenizer's files.

    Args:
        config, tensors: with transformers' names.
        tokenizer: the JSON of a `tokenizers.Tokenizer`.
        length: maximum number of tokens that the network takes.
        preprocessor: settings of the image processor.
        check: called with the folder before it gets its name; raises if it is not right.

    Raises:
        BadInput: `folder` is not empty.
        NotSaved: the disk is full or cannot be written; nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} already exists and is not empty: choose another --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder) as new:
            new.mkdir()
            _write_json(new / "config.json", config)
            # a tensor that has two names is written under each, since a reader may ask for either
            copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
            save_file(copies, new / "model.safetensors", metadata={"format": "pt"})
            if tokenizer is not None:
                (new / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
                _write_json(new / "tokenizer_config.json", _tokenizer_config(tokenizer, length))
            if preprocessor is not None:
                _write_json(new / "preprocessor_config.json", preprocessor)
            check(new)
            if folder.exists():
                folder.rmdir()
    except (OSError, SafetensorError) as error:  # safetensors raises the latter if the disk is full
        reason = first_line(error)
        raise NotSaved(f"could not write {folder} ({reason}): nothing is left of it") from None


def _tokenizer_config(tokenizer: str, length: int | None) -> dict[str, Any]:
    """The class that reads `tokenizer.json`, and the roles of its special tokens."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if length is not None:
        config["model_max_length"] = length
    tokens = [token["content"] for token in json.loads(tokenizer).get("added_tokens", [])]
    roles = ROBERTA_ROLES if "<mask>" in tokens else CLIP_ROLES if "<|startoftext|>" in tokens else ROLES
    for token in tokens:
        for role in roles.get(token, ()):
            config.setdefault(role, token)
    return config


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
