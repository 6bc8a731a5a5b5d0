"""Translation: losses against the definition, BLEU against sacrebleu, use of a trained run, bad input."""

import gzip
import json
import math

import pytest
import sacrebleu
import torch
from torch import nn

from torchstone import api
from torchstone.cli.main import main
from torchstone.data.text import tokenizers
from torchstone.data.text.parallel import read_pairs
from torchstone.errors import BadInput
from torchstone.parts.transformer.token_loss import token_loss
from torchstone.plots import attention_maps
from torchstone.runs import load
from torchstone.systems.transformer import transformer
from torchstone.tasks.text.translate import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    bleu,
    encode_pairs,
    measure,
    predict,
    translate_texts,
)

PAIRS = [
    ("ein Hund läuft .", "a dog runs ."),
    ("zwei Hunde laufen über das Gras .", "two dogs run over the grass ."),
    ("das Gras", "the grass"),
    ("", "nothing"),
]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for pair in PAIRS for text in pair]
    return tokenizers.train("bpe", texts, vocab_size=300, special_tokens=SPECIAL_TOKENS)


class Knowing(nn.Module):
    """Writes a text that it was given for each source; its logits are a fixed function of the target."""

    longest = 40

    def __init__(self, tokenizer, answers):
        super().__init__()
        self.answers = answers
        self.tokenizer = tokenizer
        self.table = nn.Embedding(tokenizer.get_vocab_size(), tokenizer.get_vocab_size())

    def forward(self, source, target):
        return self.table(target) + (source != PAD).sum(1)[:, None, None] * self.table(target) / 9

    def generate(self, source, max_new_tokens, *, bos, eos, beam_size, length_penalty):
        assert (bos, eos) == (BOS, EOS)
        rows = []
        for row in source.tolist():
            text = self.tokenizer.decode(row[: row.index(EOS)])
            rows.append([*self.tokenizer.encode(self.answers[text]).ids, EOS, 5, 6])
        longest = max(map(len, rows))
        return torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])


def test_smoothed_loss_is_its_definition():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 7), torch.randint(1, 7, (3, 4))
    labels[1, 2:] = labels[2, 1:] = PAD
    logits[labels == PAD] += 100 * torch.randn(5, 7)  # what stands there must not count
    smoothing, losses, right = 0.1, [], 0
    for row, label in zip(logits.flatten(0, 1), labels.flatten().tolist(), strict=True):
        if label == PAD:
            continue
        logs = row - row.exp().sum().log()
        wanted = [smoothing / 7 + (1 - smoothing) * (i == label) for i in range(7)]
        losses.append(-sum(p * x for p, x in zip(wanted, logs.tolist(), strict=True)))
        right += int(row.argmax()) == label
    found = token_loss(logits, labels, pad=0, label_smoothing=smoothing)
    print(found, sum(losses) / len(losses))
    assert found["weight"] == len(losses) == 7
    assert math.isclose(found["loss"], sum(losses) / len(losses), rel_tol=1e-5)
    assert math.isclose(found["accuracy"], right / 7, rel_tol=1e-6)


def test_a_split_is_measured_per_token_whatever_the_batches(tokenizer, monkeypatch):
    model = Knowing(tokenizer, {})
    pairs = [pair for pair in PAIRS if pair[0]] * 3
    found = measure(model, pairs, tokenizer)
    total, count = 0.0, 0
    for source, target in encode_pairs(pairs, tokenizer):
        logits = model(torch.tensor([source]), torch.tensor([target[:-1]]))
        logs = logits[0].log_softmax(1)
        total -= sum(logs[i, token].item() for i, token in enumerate(target[1:]))
        count += len(target) - 1
    monkeypatch.setattr("torchstone.tasks.translations.TOGETHER", 60)
    small = measure(model, pairs, tokenizer)
    print(found, small, total / count)
    assert math.isclose(found["loss"], total / count, rel_tol=1e-5)
    assert math.isclose(small["loss"], found["loss"], rel_tol=1e-6)
    assert model.training


def test_bleu_is_sacrebleus_and_answers_keep_their_places(tokenizer):
    answers = {"ein Hund läuft .": "a dog runs .", "das Gras": "The Grass", "": "x"}
    answers["zwei Hunde laufen über das Gras ."] = "two dogs run on the grass ."
    model = Knowing(tokenizer, answers)
    found = translate_texts(model, tokenizer, [source for source, _ in PAIRS])
    assert found == [answers[source] for source, _ in PAIRS]
    results = bleu(model, tokenizer, PAIRS)
    expected = sacrebleu.corpus_bleu(found, [[target for _, target in PAIRS]])
    print(results, expected)
    assert results["bleu"] == expected.score
    assert 0 < results["bleu"] < results["bleu_lowercase"] < 100
    perfect = Knowing(tokenizer, dict(PAIRS))
    assert math.isclose(bleu(perfect, tokenizer, PAIRS)["bleu"], 100)


def test_words_gather_what_their_tokens_look_at():
    source, target = "ein Haus!", "a big  house"
    places = [(0, 3), (3, 6), (6, 9)], [(0, 1), (1, 5), (6, 9), (9, 12)]
    shares = torch.rand(2, 5, 4)
    shares /= shares.sum(2, keepdim=True)
    found = attention_maps.merge_word_pieces(shares, (source, places[0]), (target, places[1]))
    assert found.source_words == ["ein", "Haus!", attention_maps.END_OF_SENTENCE]
    assert found.target_words == ["a", "big", "house", attention_maps.END_OF_SENTENCE]
    assert torch.allclose(found.weights.sum(2), torch.ones(2, 4))
    assert torch.allclose(found.weights[:, 1, 1], shares[:, 1, 1:3].sum(1))  # onto both of Haus!
    assert torch.allclose(found.weights[:, 2, 0], shares[:, 2:4, 0].mean(1))  # by both of house
    print(found.weights[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the smoke recipe, through the command line."""
    folder = tmp_path_factory.mktemp("translate") / "run"
    assert main(["train", "transformer/smoke", "--steps", "70", "--out", str(folder)]) == 0
    return folder


def test_a_run_has_its_pictures_translations_and_tokenizer(run):
    from PIL import Image

    for name in ("attention.png", "attention_heads.png"):
        with Image.open(run / "pictures" / name) as picture:
            assert min(picture.size) > 300
    lines = (run / "pictures" / "translations.txt").read_text().splitlines()
    pairs = read_pairs("copy").test
    assert lines[0].split(maxsplit=1) == ["source", pairs[0][0]]
    assert lines[1].split(maxsplit=1) == ["reference", pairs[0][1]]
    assert lines[2].startswith("translation")
    tokenizer = tokenizers.load(run / "tokenizer.json")
    assert tokenizer.encode("a b").tokens == ["a", "Ġb"]
    assert tokenizer.token_to_id("</s>") == EOS
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    print(metrics)
    assert {"val/loss", "val/accuracy", "val/bleu", "test/bleu", "test/loss"} <= metrics.keys()


def test_what_was_trained_translates(run, capsys):
    answers = api.predict(run, ["a b c d", "h g f"])
    print(answers)
    assert [each["input"] for each in answers] == ["a b c d", "h g f"]
    model = api.load(run)
    tokenizer = api.load_tokenizer(run)
    assert answers[0]["text"] == translate_texts(model, tokenizer, ["a b c d"])[0]
    assert main(["predict", str(run), "a b c d"]) == 0
    assert answers[0]["text"] in capsys.readouterr().out
    results = api.evaluate(run)
    recorded = json.loads((run / "result.json").read_text())["metrics"]
    assert results["bleu"] == recorded["test/bleu"]
    assert math.isclose(results["loss"], recorded["test/loss"], rel_tol=1e-5)


def test_sentences_that_cannot_be_translated(run):
    with pytest.raises(BadInput, match="give a sentence"):
        api.predict(run, ["a b", "  "])
    with pytest.raises(BadInput, match=r"1101 tokens, but the model takes 1024: cut it up"):
        api.predict(run, ["a" + " b" * 1099])


def test_options_choose_the_search(run):
    model, metadata, _ = load.load_run(run)
    asked = []
    generate = model.generate
    model.generate = lambda *a, **k: asked.append(k) or generate(*a, **k)
    predict(model, metadata, ["a b c"], beams=3, penalty=1.0)
    predict(model, metadata, ["a b c"])
    assert [(k["beams"], k["penalty"]) for k in asked] == [(3, 1.0), (1, 0.6)]


def bad(folder, name, german, english):
    (folder / "x.de").write_bytes(german)
    (folder / "x.en.gz").write_bytes(gzip.compress(english))
    return f"{folder}/x.de,{folder}/x.en.gz"


BAD = {
    "unaligned": (b"eins\nzwei\n" * 9, b"one\n" * 9, "line i of one must be the translation"),
    "empty line": (b"eins\nzwei\n" * 9, b"one\n\n" * 8 + b"one\ntwo\n", "line 2 of"),
    "no text": (b"\xff\xfe\n" * 9, b"one\n" * 9, "is not UTF-8"),
    "nothing": (b"", b"", "is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_line_and_leave_nothing(name, tmp_path, capsys):
    german, english, said = BAD[name]
    spec = bad(tmp_path, name, german, english)
    out = tmp_path / "out"
    assert main(["train", "transformer", "--data", spec, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    print(error)
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_recipes_that_cannot_be():
    def build(**fields):
        entry, _, recipe = api.recipe_of("transformer/smoke", fields)
        return next(entry.module().build(recipe))

    with pytest.raises(BadInput, match="longer than 3 tokens: raise longest"):
        build(longest=3)
    with pytest.raises(BadInput, match="raise batch"):
        build(batch=8)
    with pytest.raises(BadInput, match="vocabulary of 99 is too small"):
        build(vocabulary=99)
    left = build(longest=6).metadata["data"]
    print(left)
    assert "of more than 6 tokens not trained on" in left


def test_micro_batches_give_the_gradient_of_the_whole():
    """Sentences differ in length, so the parts count by their tokens."""
    gradients = []
    for accumulate in (1, 4):
        recipe = api.recipe_of("transformer/smoke", {"accumulate": accumulate, "judged": 0})[2]
        run = next(transformer.build(recipe))
        model = run.state["model"].double()
        model.positions.copy_(transformer.sinusoids(1024, 64))
        batch = next(run.stream)
        run.update(batch)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    whole, parts = gradients
    worst = max(float((parts[n] - g).abs().max() / g.abs().max().clamp(min=1e-12)) for n, g in whole.items() if g.abs().max() > 1e-12)  # fmt: skip
    print("furthest apart", worst)
    assert worst < 1e-9
