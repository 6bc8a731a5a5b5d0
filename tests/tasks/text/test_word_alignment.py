"""Alignment error rates against sets counted by hand, and attention drawn next to gold links."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from torchstone import api
from torchstone.cli.main import main
from torchstone.data.text import bible, tokenizers
from torchstone.errors import BadInput
from torchstone.plots import attention_maps
from torchstone.tasks.text import translation_inference, word_alignment
from torchstone.tasks.text.translation_inference import EOS, SPECIAL_TOKENS

PAIRS = [("eins zwei drei", "one two three"), ("vier", "number four"), ("fünf sechs sieben acht", "five six")]


class TableAttention(nn.Module):
    """Each token attends to the source token that its row of `table` names; tokens are words."""

    attends, longest = True, 100

    def __init__(self, table):
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.zeros(1)), table

    def attention_weights(self, source, target):
        shares = torch.full((*target.shape, source.shape[1]), 0.01)[:, None]
        for row, words in enumerate(source.tolist()):
            key = tuple(words[: words.index(EOS)])
            for i, j in enumerate(self.table[key]):
                shares[row, 0, i, j] = 1.0
        return shares


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(
        "wordpiece", [t for pair in PAIRS for t in pair], vocab_size=400, special_tokens=SPECIAL_TOKENS
    )


def table_attention(tokenizer, *rows):
    keys = [tuple(tokenizer.encode(a, add_special_tokens=False).ids) for a, _ in PAIRS]
    assert [len(key) for key in keys] == [3, 1, 4]
    return TableAttention(dict(zip(keys, rows, strict=True)))


def test_alignment_rates_match_counted_sets(tokenizer, monkeypatch):
    # rows: the words written, then their end; the last place of a source is its end
    model = table_attention(tokenizer, (0, 2, 2, 0), (1, 0, 0), (3, 4, 0)).train()
    links = {
        PAIRS[0]: frozenset({(0, 0), (1, 1), (2, 2)}),
        PAIRS[1]: frozenset({(0, 0), (0, 1)}),
        PAIRS[2]: frozenset({(3, 0), (2, 0), (1, 1)}),
    }
    # said: (0,0) (2,1) (2,2) | the end, so none; (0,1) | (3,0), none: 5 links, 4 of the 8 that are gold
    found = word_alignment.alignment_rates(model, tokenizer, PAIRS, links)
    print(found)
    assert found["alignment_precision"] == pytest.approx(4 / 5)
    assert found["alignment_recall"] == pytest.approx(4 / 8)
    assert found["alignment_error"] == pytest.approx(1 - 8 / 13)
    # the diagonal: (0,0) (1,1) (2,2) | (0,0) (0,1) | (1,0) (3,1): 7, of which 5
    assert found["diagonal_error"] == pytest.approx(1 - 10 / 15)
    assert model.training
    monkeypatch.setattr(translation_inference, "EVAL_BATCH_TOKENS", 1)  # one at a time
    assert word_alignment.alignment_rates(model, tokenizer, PAIRS, links) == found


def test_alignment_rates_of_perfect_attention(tokenizer):
    model = table_attention(tokenizer, (0, 1, 2, 3), (0, 0, 1), (3, 1, 4))
    links = {
        pair: frozenset((i, j) for j, i in enumerate(row))
        for pair, row in zip(PAIRS, ((0, 1, 2), (0, 0), (3, 1)), strict=True)
    }
    found = word_alignment.alignment_rates(model, tokenizer, PAIRS, links)
    assert (found["alignment_error"], found["alignment_recall"]) == (0, 1)


def test_alignment_maps_keep_order(tokenizer):
    model = table_attention(tokenizer, (0, 1, 2, 3), (0, 0, 1), (3, 1, 4))
    for (source, target), each in zip(
        PAIRS, word_alignment.alignment_maps(model, tokenizer, PAIRS), strict=True
    ):
        assert each.source_words == [*source.split(), attention_maps.END_OF_SENTENCE]
        assert each.target_words == [*target.split(), attention_maps.END_OF_SENTENCE]


def test_alignment_maps_reject_incomplete_tokenizer(tokenizer):
    model = table_attention(tokenizer, (0, 1, 2, 3), (0, 0, 1), (3, 1, 4))
    pair = ("eins \u200b zwei drei", "one two three")  # the mark in between becomes no token
    with pytest.raises(BadInput, match="leaves out whole words"):
        word_alignment.alignment_rates(model, tokenizer, [pair], {pair: frozenset()})


def test_plot_with_gold_links_draws_both(tokenizer, tmp_path):
    from PIL import Image

    model = table_attention(tokenizer, (0, 1, 2, 3), (0, 0, 1), (3, 1, 4))
    maps = word_alignment.alignment_maps(model, tokenizer, PAIRS)
    attention_maps.plot_with_gold_links(
        [(each, {(0, 0)}) for each in maps], tmp_path / "gold.png", max_plots=2
    )
    with Image.open(tmp_path / "gold.png") as picture:
        width, height = picture.size
        blue = torch.from_numpy(np.array(picture.convert("RGB"))).float()
    dark = (blue[..., 2] - blue[..., 0] > 60).float()
    halves = dark[:, : width // 2].sum(), dark[:, width // 2 :].sum()
    print(width, height, halves)
    assert min(width, height) > 500
    # on the left a square for each of 4 + 3 words; on the right one of each sentence's
    assert halves[0] > 2.5 * halves[1] > 0


@pytest.mark.sweep
def test_run_reports_and_plots_gold_alignments(tmp_path, monkeypatch):
    """Some verses, a few steps, through the command line; the network without attention too."""
    verses, note = bible.read()
    few = [verse for verse in verses if len(verse.target.split()) < 12][:60]
    monkeypatch.setattr(bible, "read", lambda *_: (few, note))
    small = ["--hidden", "16", "--embedding", "8", "--vocab_size", "500", "--steps", "3"]
    small += ["--batch_size", "300", "--maxout", "0", "--device", "cpu"]
    folder = tmp_path / "run"
    assert main(["train", "seq2seq/bible", *small, "--out", str(folder)]) == 0
    results = json.loads((folder / "result.json").read_text())["metrics"]
    print(results)
    wanted = {"alignment_error", "alignment_precision", "alignment_recall", "diagonal_error"}
    assert {f"test/{name}" for name in wanted} | {f"val/{name}" for name in wanted} <= set(results)
    assert 0 < results["test/diagonal_error"] < 1
    assert (folder / "pictures" / "gold.png").exists()
    measured = api.evaluate(folder, device="cpu")
    for name in wanted:
        assert measured[name] == pytest.approx(results[f"test/{name}"])
    plain = ["train", "seq2seq_plain/bible", *small, "--out", str(tmp_path / "plain")]
    assert main(plain) == 0
    results = json.loads((tmp_path / "plain" / "result.json").read_text())["metrics"]
    assert "test/bleu" in results
    assert "test/alignment_error" not in results
