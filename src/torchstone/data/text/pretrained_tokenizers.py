"""Published tokenizers: `tokenizer.json`, and the older vocabulary formats of GPT-2, GPT-1 and BERT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from torchstone.errors import BadInput, first_line
from torchstone.files import parse_json

MAX_ID = 2**24  # the library counts up to the largest id when it writes a tokenizer
# settings of a tokenizer that cleans texts as BERT's: theirs, and the library's attribute
NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
PUBLISHED = "tokenizer.json, vocab.json with merges.txt, or vocab.txt"


def byte_level_tokenizer(model: models.BPE) -> Tokenizer:
    """A tokenizer over bytes, where words include the space before them, as GPT-2's."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bert_tokenizer(model: models.WordPiece | models.BPE, *, lowercase: bool) -> Tokenizer:
    """A tokenizer over words and punctuation marks, as BERT's."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def clip_tokenizer(model: models.BPE) -> Tokenizer:
    """A tokenizer over bytes that marks the end of each word, in lower case, as CLIP's."""
    tokenizer = Tokenizer(model)
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Split(Regex(words), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return tokenizer


def load(path: str | Path) -> Tokenizer:
    """A published tokenizer: its file, or the folder of a model that has one.

    Raises:
        BadInput: there is none, or the file is damaged or of another kind.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    file = path / "tokenizer.json" if path.is_dir() else path
    config = folder / "tokenizer_config.json"
    try:
        settings = parse_json(config.read_text(encoding="utf-8")) if config.exists() else {}
        if not isinstance(settings, dict):
            raise BadInput(f"{config} holds a {type(settings).__name__}, not a JSON object")
        if not path.is_dir() and not file.exists():
            raise BadInput(f"there is no {path}: give {PUBLISHED}, or their folder")
        if file.name in ("vocab.json", "merges.txt", "vocab.txt") or not file.exists():
            tokenizer = _load_vocabulary(folder, settings)
        else:
            tokenizer = Tokenizer.from_file(str(file))
        tokenizer = _as_stated(tokenizer, settings)
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if not 0 <= largest < MAX_ID:
            raise BadInput(f"{file} has ids up to {largest}: at least one token, and ids below {MAX_ID}")
        return tokenizer
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 -- the library raises plain exceptions
        reason = first_line(error)
        raise BadInput(f"{file} is no tokenizer that can be read ({reason}): {PUBLISHED}") from None


def _as_stated(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer that cleans texts as BERT's, by the settings of its folder's `tokenizer_config.json`, which
    in transformers go before those of `tokenizer.json`."""
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        for name, own in NORMALIZER.items():
            if isinstance(settings.get(name), bool):
                setattr(normalizer, own, settings[name])
        tokenizer.normalizer = normalizer
    return tokenizer


def _content(token: Any) -> str:
    """A special token as a configuration states it: a string, or an object with its `content`."""
    return str(token.get("content") if isinstance(token, dict) else token)


def _load_vocabulary(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer from a vocabulary older than `tokenizer.json`: GPT-2's, CLIP's, GPT-1's or BERT's."""
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if vocabulary.exists() and merges.exists():
        tokens, pairs = models.BPE.read_file(str(vocabulary), str(merges))
        if not any(token.endswith("</w>") for token in tokens):
            tokenizer = byte_level_tokenizer(models.BPE(tokens, pairs))
            tokenizer.add_special_tokens([t for t in ("<|endoftext|>",) if t in tokens])
            return tokenizer
        if "<|startoftext|>" in tokens:
            return clip_tokenizer(models.BPE(tokens, pairs, end_of_word_suffix="</w>"))
        # GPT-1's marks the end of each word
        model = models.BPE(tokens, pairs, unk_token="<unk>", end_of_word_suffix="</w>")
        tokenizer = bert_tokenizer(model, lowercase=True)
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
        return tokenizer
    if (folder / "vocab.txt").exists():
        tokens = models.WordPiece.read_file(str(folder / "vocab.txt"))
        roles = {role: _content(settings.get(role, default)) for role, default in BERT_ROLES.items()}
        if settings.get("do_basic_tokenize") is False:
            raise BadInput(f"{folder} sets do_basic_tokenize = False, which is not implemented here")
        tokenizer = bert_tokenizer(models.WordPiece(tokens, unk_token=roles["unk_token"]), lowercase=True)
        tokenizer.add_special_tokens([token for token in roles.values() if token in tokens])
        return tokenizer
    raise BadInput(f"{folder} holds no tokenizer: {PUBLISHED} should be there")
