"""Translation: loss per token, BLEU against sacrebleu, use of a trained run, bad input."""

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
from torchstone.plots import attention_maps
from torchstone.runs import load
from torchstone.systems.transformer import transformer
from torchstone.tasks.text.translate import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    bleu,
    bleu_tokenizer,
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


class LookupTranslator(nn.Module):
    """Generates a stored text for each source; its logits are a fixed function of the target."""

    max_length = 40

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


def test_measure_is_per_token_for_any_batches(tokenizer, monkeypatch):
    model = LookupTranslator(tokenizer, {})
    pairs = [pair for pair in PAIRS if pair[0]] * 3
    metrics = measure(model, pairs, tokenizer)
    total, count = 0.0, 0
    for source, target in encode_pairs(pairs, tokenizer):
        logits = model(torch.tensor([source]), torch.tensor([target[:-1]]))
        log_probs = logits[0].log_softmax(1)
        total -= sum(log_probs[i, token].item() for i, token in enumerate(target[1:]))
        count += len(target) - 1
    monkeypatch.setattr("torchstone.tasks.text.translation_inference.EVAL_BATCH_TOKENS", 60)
    small = measure(model, pairs, tokenizer)
    print(metrics, small, total / count)
    assert math.isclose(metrics["loss"], total / count, rel_tol=1e-5)
    assert math.isclose(small["loss"], metrics["loss"], rel_tol=1e-6)
    assert model.training


def test_bleu_equals_sacrebleu_and_translations_keep_their_order(tokenizer):
    answers = {"ein Hund läuft .": "a dog runs .", "das Gras": "The Grass", "": "x"}
    answers["zwei Hunde laufen über das Gras ."] = "two dogs run on the grass ."
    model = LookupTranslator(tokenizer, answers)
    translations = translate_texts(model, tokenizer, [source for source, _ in PAIRS])
    assert translations == [answers[source] for source, _ in PAIRS]
    results = bleu(model, tokenizer, PAIRS)
    expected = sacrebleu.corpus_bleu(translations, [[target for _, target in PAIRS]])
    print(results, expected)
    assert results["bleu"] == expected.score
    assert 0 < results["bleu"] < results["bleu_lowercase"] < 100
    perfect = LookupTranslator(tokenizer, dict(PAIRS))
    assert math.isclose(bleu(perfect, tokenizer, PAIRS)["bleu"], 100)


REFERENCES = {
    "13a": ["two dogs run .", "Hunde laufen", "Она читает книгу", "我 in an English text of many words"],
    "zh": ["我喜欢吃苹果。", "两只狗在草地上跑。 OK"],
    "char": ["私はリンゴが好きです。", "สุนัขสองตัววิ่ง", "개가 달린다"],
}


@pytest.mark.parametrize("name", REFERENCES)
def test_bleu_tokenizer_of_the_target_script(name):
    for text in REFERENCES[name]:
        found = bleu_tokenizer([text])
        print(text, found)
        by_words = "ja-mecab" if "は" in text else "ko-mecab" if "개" in text else name
        assert found in (name, by_words)
    assert bleu_tokenizer(["", "1, 2"]) == "13a"


def test_bleu_of_chinese_is_not_of_whole_sentences():
    """All but two of 25 characters are right: by spaces not one token is."""
    pairs = [("a", "两只棕色的狗在绿色的草地上奔跑。"), ("b", "一个男人正在弹吉他。")]
    own = tokenizers.train(
        "bpe", [t for pair in pairs for t in pair], vocab_size=300, special_tokens=SPECIAL_TOKENS
    )
    answers = {"a": "两只黑色的狗在绿色的草地上奔跑。", "b": "一个女人正在弹吉他。"}
    found = bleu(LookupTranslator(own, answers), own, pairs)
    wanted = sacrebleu.corpus_bleu(list(answers.values()), [[b for _, b in pairs]], tokenize="zh").score
    print(found, wanted)
    assert found["bleu"] == wanted
    assert wanted > 60


def test_attention_map_sums_over_the_tokens_of_a_word():
    source, target = "ein Haus!", "a big  house"
    offsets = [(0, 3), (3, 6), (6, 9)], [(0, 1), (1, 5), (6, 9), (9, 12)]
    weights = torch.rand(2, 5, 4)
    weights /= weights.sum(2, keepdim=True)
    found = attention_maps.merge_word_pieces(weights, (source, offsets[0]), (target, offsets[1]))
    assert found.source_words == ["ein", "Haus!", attention_maps.END_OF_SENTENCE]
    assert found.target_words == ["a", "big", "house", attention_maps.END_OF_SENTENCE]
    assert torch.allclose(found.weights.sum(2), torch.ones(2, 4))
    assert torch.allclose(found.weights[:, 1, 1], weights[:, 1, 1:3].sum(1))  # to both tokens of Haus!
    assert torch.allclose(found.weights[:, 2, 0], weights[:, 2:4, 0].mean(1))  # from both tokens of house
    print(found.weights[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the smoke recipe, through the command line."""
    folder = tmp_path_factory.mktemp("translate") / "run"
    assert main(["train", "transformer/smoke", "--steps", "70", "--out", str(folder)]) == 0
    return folder


def test_run_has_plots_translations_and_tokenizer(run):
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


def test_trained_run_translates_and_evaluates(run, capsys):
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
    assert results["bleu_tokenizer"] == "13a"
    assert math.isclose(results["loss"], recorded["test/loss"], rel_tol=1e-5)


def test_predict_rejects_empty_and_long_sentences(run):
    with pytest.raises(BadInput, match="give a sentence"):
        api.predict(run, ["a b", "  "])
    with pytest.raises(BadInput, match=r"1101 tokens, but the model takes 1024: cut it up"):
        api.predict(run, ["a" + " b" * 1099])


def test_predict_options_choose_the_search(run):
    model, metadata, _ = load.load_run(run)
    calls = []
    generate = model.generate
    model.generate = lambda *a, **k: calls.append(k) or generate(*a, **k)
    predict(model, metadata, ["a b c"], beam_size=3, length_penalty=1.0)
    predict(model, metadata, ["a b c"])
    # as runs of earlier versions have it
    predict(model, metadata | {"search": {"beams": 2, "penalty": 0.5}}, ["a b c"])
    searches = [(k["beam_size"], k["length_penalty"]) for k in calls]
    assert searches == [(3, 1.0), (1, 0.6), (2, 0.5)]


def write_pair(folder, german, english):
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
def test_train_rejects_bad_files_in_one_line(name, tmp_path, capsys):
    german, english, message = BAD[name]
    spec = write_pair(tmp_path, german, english)
    out = tmp_path / "out"
    assert main(["train", "transformer", "--data", spec, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    print(error)
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_translate_rejects_impossible_recipes():
    def build(**fields):
        entry, _, recipe = api.recipe_of("transformer/smoke", fields)
        return next(entry.module().build(recipe))

    with pytest.raises(BadInput, match="longer than 3 tokens: raise max_length"):
        build(max_length=3)
    with pytest.raises(BadInput, match="raise batch_size"):
        build(batch_size=8)
    with pytest.raises(BadInput, match="vocabulary of 99 is too small"):
        build(vocab_size=99)
    description = build(max_length=6).metadata["data"]
    print(description)
    assert "of more than 6 tokens not trained on" in description


def test_micro_batches_give_the_gradient_of_the_batch():
    """Sentences differ in length, so micro-batches are weighted by their tokens."""
    gradients = []
    for grad_accum_steps in (1, 4):
        recipe = api.recipe_of(
            "transformer/smoke", {"grad_accum_steps": grad_accum_steps, "eval_examples": 0}
        )[2]
        run = next(transformer.build(recipe))
        model = run.state["model"].double()
        model.positions.copy_(transformer.sinusoidal_positions(1024, 64))
        batch = next(run.stream)
        run.update(batch)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    full, parts = gradients
    worst = max(
        float((parts[n] - g).abs().max() / g.abs().max()) for n, g in full.items() if g.abs().max() > 1e-12
    )
    print("largest relative error", worst)
    assert worst < 1e-9
