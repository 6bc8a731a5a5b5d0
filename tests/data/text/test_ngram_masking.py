"""N-gram masking: whole words, the paper's lengths, the count of tokens, and the rows it makes."""

from collections import Counter

import pytest
import torch

from torchstone.data.text import tokenizers
from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.ngram_masking import (
    NGrams,
    choose_ngrams,
    draw_lengths,
    piece_text,
    word_starts,
    words,
)
from torchstone.data.text.sentence_batches import ALBERT_TOKENS, IGNORE_INDEX, SPECIAL_TOKENS, SpecialTokens

# ids 5 to 49 begin a word, 50 to 59 continue one
IS_START = torch.arange(60) < 50
SPECIAL = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), 42)


def rows(count=200, time=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 60, (count, time), generator=generator)
    is_word = torch.ones_like(tokens, dtype=torch.bool)
    is_word[:, [0, 17, time - 1]] = False  # special tokens, one in the middle
    return tokens, is_word


def chosen(tokens, is_word, counts, max_length=3, seed=1):
    ngrams = NGrams(max_length, IS_START)
    return choose_ngrams(tokens, is_word, counts, ngrams, torch.Generator().manual_seed(seed))


def test_choose_ngrams_takes_whole_words_up_to_the_count():
    tokens, is_word = rows()
    counts = torch.full((len(tokens),), 6)
    found = chosen(tokens, is_word, counts)
    starts = IS_START[tokens]
    split, sizes = 0, Counter()
    for row, positions in enumerate(found):
        assert positions == sorted(set(positions))
        assert is_word[row, positions].all()
        taken = set(positions)
        sizes[len(positions)] += 1
        for position in range(1, tokens.shape[1]):
            both = is_word[row, position] and is_word[row, position - 1]
            if both and not starts[row, position]:  # two pieces of one word
                split += (position in taken) != (position - 1 in taken)
    print(f"{split} words split; rows by number of tokens: {dict(sizes)}")
    assert not split
    assert max(sizes) == 6
    assert sizes[6] > 0.9 * len(tokens)


def test_draw_lengths_is_harmonic():
    """p(n) = (1/n) / (1 + 1/2 + 1/3)."""
    lengths = draw_lengths(60_000, 3, torch.Generator().manual_seed(0))
    shares = {n: float((lengths == n).double().mean()) for n in (1, 2, 3)}
    print(shares)
    for n, share in shares.items():
        assert share == pytest.approx(6 / 11 / n, abs=0.01)
    assert set(draw_lengths(99, 1, torch.Generator()).tolist()) == {1}


def test_choose_ngrams_reaches_across_no_special_token():
    """Two words, a special token, two words: where two are masked, they are neighbors or of either side."""
    tokens = torch.full((900, 5), 7)
    is_word = torch.tensor([[True, True, False, True, True]]).expand(900, 5)
    found = Counter(map(tuple, chosen(tokens, is_word, torch.full((900,), 2))))
    print(found)
    assert all(2 not in positions for positions in found)
    # a bigram from the second word on would be (1, 3) far more often than two single words are
    pairs = found[(1, 3)] / found.total()
    assert 0 < pairs < found[(0, 1)] / found.total()


def test_choose_ngrams_takes_the_shortest_word_where_none_fits():
    tokens = torch.tensor([[7, 50, 51, 8, 52, 9, 53, 54]])
    found = chosen(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor([1]))
    assert found == [[3, 4]]


def test_words_of_a_row():
    assert words([True, False, False, True, False], [True, True, False, True, True]) == [(0, 2), (3, 5)]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_word_starts_join_to_the_words_of_a_text(kind):
    special = SPECIAL_TOKENS if kind == "wordpiece" else ALBERT_TOKENS
    text = "walking talking walked talked sing singing walk talk"
    tokenizer = tokenizers.train(kind, [text] * 5, vocab_size=30, special_tokens=special, lowercase=True)
    ids = tokenizer.encode(text.title(), add_special_tokens=False).ids
    is_start = word_starts(tokenizer, tokenizer.get_vocab_size() + 3)
    found: list[str] = []
    for i in ids:
        piece = piece_text(tokenizer.id_to_token(i)).removeprefix("##").removeprefix("▁")
        if is_start[i]:
            found.append(piece)
        else:
            found[-1] += piece
    print(kind, [tokenizer.id_to_token(i) for i in ids])
    assert found == text.split()
    assert len(ids) > len(found)
    assert is_start[-3:].all()


def documents():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, 60, (int(n),), generator=generator).tolist() for n in (90, 200, 35, 60)]


def stream(**options):
    settings = {"seed": 0, "sentence_order": True, "ngrams": NGrams(3, IS_START), **options}
    return MLMBatches(documents(), 64, SPECIAL, 60, **settings)


def test_mlm_batches_of_sentence_order_are_two_parts_of_one_span():
    """The parts, put in order, are a span of a document; label 1 where they have changed places."""
    texts, labels = [" ".join(map(str, d)) for d in documents()], Counter()
    batches = stream()
    for _ in range(5):
        batch = next(batches)
        for i, label in enumerate(batch.is_random_next.tolist()):
            tokens = batch.rows.tokens[i].clone()
            is_target = batch.targets[i] != IGNORE_INDEX
            tokens[batch.positions[i][is_target]] = batch.targets[i][is_target]
            row = tokens[batch.rows.mask[i]].tolist()
            end = row.index(SPECIAL.sep)
            a, b = row[1:end], row[end + 1 : -1]
            in_order, swapped = (any(" ".join(map(str, x)) in t for t in texts) for x in (a + b, b + a))
            assert (in_order, swapped) == (not label, bool(label))
            assert IS_START[(a if label else b)[0]]  # no word is divided
            labels[label] += 1
    print(labels)
    assert labels[1] / labels.total() == pytest.approx(0.5, abs=0.1)


def test_mlm_batches_with_ngrams_mask_about_15_percent():
    batches, masked, total, neighbors = stream(sentence_order=False, next_sentence=False), 0, 0, 0
    for _ in range(5):
        batch = next(batches)
        is_target = batch.targets != IGNORE_INDEX
        is_word = batch.rows.mask & ~torch.isin(batch.rows.tokens, torch.tensor([2, 3]))
        masked, total = masked + int(is_target.sum()), total + int(is_word.sum())
        by_rows = (torch.ones_like(batch.weights) * batch.weights).sum(1).mean()
        assert float(by_rows) == pytest.approx(1, rel=1e-5)
        for positions, own in zip(batch.positions, is_target, strict=True):
            taken = set(positions[own].tolist())
            neighbors += sum(p + 1 in taken for p in taken)
    print(f"{masked} of {total} masked, {neighbors} beside another")
    assert masked / total == pytest.approx(0.15, abs=0.01)
    assert neighbors / masked > 0.35  # tokens one by one: 0.13


def test_mlm_batches_token_weights_are_means_over_tokens():
    batch = next(stream())
    losses = torch.rand(batch.rows.tokens.shape)
    mean = (losses * batch.token_weights).sum(1).mean()
    assert float(mean) == pytest.approx(float(losses[batch.rows.mask].mean()), rel=1e-5)
