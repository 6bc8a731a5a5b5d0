"""Translations: written by a trained model, judged by BLEU, and laid out to be looked at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import PackedSequences
from torchstone.data.text.parallel import Pairs
from torchstone.plots import attention_maps

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS = range(3)
MAX_EXTRA_TOKENS = (
    50  # tokens by which a translation may outgrow its source (Vaswani et al. 2017, section 6.1)
)
EVAL_BATCH_TOKENS = 6_000  # tokens in a batch that is only looked at
MAX_SHOWN = 20  # translations written out


def encode_batch(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each text, without what a tokenizer may put around it."""
    found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [each.ids for each in found]


def group_by_length(lengths: Tensor) -> list[Tensor]:
    """Rows in groups of like length, the longest first."""
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
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    sources = PackedSequences([[*ids, EOS] for ids in encode_batch(list(texts), tokenizer)], device)
    found = [""] * len(texts)
    for rows in group_by_length(sources.lengths * beam_size):
        source = sources.pad_rows(rows, PAD)
        most = min(source.shape[1] + MAX_EXTRA_TOKENS, model.max_length)
        answers = model.generate(
            source, most, bos=BOS, eos=EOS, beam_size=beam_size, length_penalty=length_penalty
        ).tolist()
        for row, answer in zip(rows.tolist(), answers, strict=True):
            found[row] = tokenizer.decode([*answer, EOS][: [*answer, EOS].index(EOS)])
    model.train(was_training)
    return found


def bleu(
    model: Any, tokenizer: Tokenizer, pairs: Pairs, *, beam_size: int = 1, length_penalty: float = 0.0
) -> dict[str, float]:
    """BLEU (Papineni et al. 2002) of the translations as sacrebleu has it, 0 to 100; also with case
    ignored; and the share of them that are what was wanted, letter by letter."""
    import sacrebleu

    answers = translate_texts(model, tokenizer, [source for source, _ in pairs], beam_size=beam_size, length_penalty=length_penalty)  # fmt: skip
    wanted = [[target for _, target in pairs]]
    exact = sum(a == b for a, b in zip(answers, wanted[0], strict=True))
    return {
        "bleu": sacrebleu.corpus_bleu(answers, wanted).score,
        "bleu_lowercase": sacrebleu.corpus_bleu(answers, wanted, lowercase=True).score,
        "exact": exact / len(pairs),
    }


def report(model: Any, tokenizer: Tokenizer, pairs: Pairs, folder: Path, **search: Any) -> None:
    """Write translations beside what was wanted, and draw where each word looks, if any does."""
    tokenizers.save_tokenizer(tokenizers.to_metadata(tokenizer), folder)
    some = pairs[:MAX_SHOWN]
    answers = translate_texts(model, tokenizer, [source for source, _ in some], **search)
    blocks = [
        f"source       {source}\nreference    {target}\ntranslation  {answer}\n"
        for (source, target), answer in zip(some, answers, strict=True)
    ]
    (folder / "translations.txt").write_text("\n".join(blocks), encoding="utf-8")
    if not getattr(model, "attends", True):
        return
    maps = []
    for (source, _), answer in zip(some, answers, strict=True):
        if answer.strip():
            maps.append(_looked(model, tokenizer, source, answer))
    if maps:
        attention_maps.plot_mean_attention(maps, folder / "attention.png")
        if len(maps[0].weights) > 1:
            attention_maps.plot_heads(maps[0], folder / "attention_heads.png")


@torch.no_grad()
def _looked(model: Any, tokenizer: Tokenizer, source: str, answer: str) -> attention_maps.AttentionMap:
    device = next(model.parameters()).device
    a, b = (tokenizer.encode(text, add_special_tokens=False) for text in (source, answer))
    ids = torch.tensor([[*a.ids, EOS]], device=device), torch.tensor([[BOS, *b.ids]], device=device)
    was_training = model.training
    model.eval()
    shares = model.attention_weights(*ids)[0].float().cpu()
    model.train(was_training)
    return attention_maps.merge_word_pieces(shares, (source, a.offsets), (answer, b.offsets))
