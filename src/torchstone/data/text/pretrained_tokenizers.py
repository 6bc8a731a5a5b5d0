"""Published tokenizers: `tokenizer.json` as it is, and the vocabularies from before there was one."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from torchstone.errors import BadInput

PUBLISHED = "tokenizer.json, vocab.json with merges.txt, or vocab.txt"


def byte_level_tokenizer(model: models.BPE) -> Tokenizer:
    """Over bytes, words with the space before them, as GPT-2's."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bert_tokenizer(model: models.WordPiece | models.BPE, *, lowercase: bool) -> Tokenizer:
    """Over words and punctuation marks, as BERT's."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def load(path: str | Path) -> Tokenizer:
    """A published tokenizer: its file, or the folder of a model that has one.

    Raises:
        BadInput: there is none, or the file is damaged or of another kind.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if path.is_dir() and not file.exists():
            return _older(folder)
        if not file.exists():
            raise BadInput(f"there is no {path}: give {PUBLISHED}, or their folder")
        if file.name in ("vocab.json", "merges.txt", "vocab.txt"):
            return _older(folder)
        return Tokenizer.from_file(str(file))
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 -- the library raises plain exceptions
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{file} is no tokenizer that can be read ({said}): {PUBLISHED}") from None


def _older(folder: Path) -> Tokenizer:
    """Vocabularies from before `tokenizer.json`: GPT-2's, GPT-1's, BERT's."""
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if vocabulary.exists() and merges.exists():
        known, pairs = models.BPE.read_file(str(vocabulary), str(merges))
        if not any(token.endswith("</w>") for token in known):
            tokenizer = byte_level_tokenizer(models.BPE(known, pairs))
            tokenizer.add_special_tokens([t for t in ("<|endoftext|>",) if t in known])
            return tokenizer
        # GPT-1's ends each word with a mark
        model = models.BPE(known, pairs, unk_token="<unk>", end_of_word_suffix="</w>")
        tokenizer = bert_tokenizer(model, lowercase=True)
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
        return tokenizer
    if (folder / "vocab.txt").exists():
        known = models.WordPiece.read_file(str(folder / "vocab.txt"))
        said = folder / "tokenizer_config.json"
        settings = json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}
        model = models.WordPiece(known, unk_token="[UNK]")
        tokenizer = bert_tokenizer(model, lowercase=settings.get("do_lower_case", True))
        marks = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        tokenizer.add_special_tokens([mark for mark in marks if mark in known])
        return tokenizer
    raise BadInput(f"{folder} holds no tokenizer: {PUBLISHED} should be there")
