"""Few-shot evaluation: labels are scored as a slow formula has it, contexts hold what they should."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from torch import nn

import torchstone as ts
from torchstone import systems
from torchstone.data.synthetic import in_context
from torchstone.data.text import tokenizers
from torchstone.data.text.classification import read_labeled
from torchstone.errors import BadInput
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.runs.evaluate import CAUSAL
from torchstone.systems.recurrent import lstm
from torchstone.systems.transformer.gpt import GPT
from torchstone.systems.transformer.performer import Performer
from torchstone.tasks.text import few_shot as module
from torchstone.tasks.text.few_shot import few_shot, label_log_likelihoods
from torchstone.tasks.text.rnn_language_model import NextTokenAdapter

SIZES = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 24, "context": 40, "init_std": 0.3}


def network(kind):
    torch.manual_seed(3)
    if kind == "gpt":
        return GPT.from_kwargs(**SIZES, dropout=0.5).double()
    if kind == "performer":
        return Performer.from_kwargs(**SIZES, features=16, dropout=0.5).double()
    cell = SequenceModel(lstm.CELL, 24, 24, tokens=True, hidden=16, pool="each")
    return NextTokenAdapter(cell.double())


def slow(model, prompt, label):
    """log p(label | prompt): a forward pass for each of its tokens, of one sequence without padding."""
    total = 0.0
    for index, token in enumerate(label):
        logits = model(torch.cat([prompt, label[:index]])[None])
        total += float(logits[0, -1].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("kind", ["gpt", "performer", "lstm"])
@pytest.mark.parametrize("max_logits", [1, 24 * 50, 10**9])
def test_label_log_likelihoods_equal_separate_forward_passes(kind, max_logits):
    """Prompts of several lengths in one batch, or each alone; labels of one token, of several, and such that
    begin alike."""
    model = network(kind)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(24, (n,), generator=generator) for n in (30, 1, 7, 30, 19)]
    labels = [torch.tensor(each) for each in ([4], [5], [6, 7], [6, 8], [5, 7], [9, 1, 2, 3], [6, 8, 1])]
    model.train()
    scores = label_log_likelihoods(model, prompts, labels, max_logits=max_logits)
    assert model.training, "the mode is put back"
    model.eval()
    with torch.no_grad():
        expected = [[slow(model, prompt, label) for label in labels] for prompt in prompts]
    difference = (scores - torch.tensor(expected, dtype=torch.float64)).abs().max().item()
    print(f"{kind}: {difference:.1e}")
    assert scores.shape == (5, 7)
    assert difference < 1e-10


class Lookup(nn.Module):
    """A model that has nothing learned, and looks the last symbol up in its context."""

    vocab_size, context = 24, 40

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, 24)
        for row, ids in enumerate(tokens):
            for t, token in enumerate(ids):
                earlier = (ids[:t] == token).nonzero()
                if len(earlier):
                    logits[row, t, ids[earlier[-1] + 1]] = 5.0
        return logits


def test_few_shot_of_lookup_reaches_the_optimum_and_without_examples_chance():
    metadata = {"tokenizer": tokenizers.to_metadata(in_context.make_tokenizer())}
    metrics = few_shot(Lookup(), metadata, "in_context", shots=(0, 1, 16), draws=2)
    print(metrics)
    for k in (0, 1, 16):
        best = metrics[f"optimal_accuracy/{k}"]
        assert abs(metrics[f"accuracy/{k}"] - best) < 3 * math.sqrt(best * (1 - best) / 400) + 0.005
    assert metrics["chance"] == 1 / 8
    assert abs(metrics["accuracy/0"] - 1 / 8) < 0.05


def test_same_seed_same_episodes_and_more_shots_keep_the_first():
    tokenizer = in_context.make_tokenizer()
    a, b, other = (module.episodes(tokenizer, 4, 5, 30, seed) for seed in (1, 1, 2))
    for one, two, three in zip(a(0, 3).prompts, b(0, 3).prompts, a(0, 5).prompts, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one[:-1], three[:6]), "3 examples are the first of 5"
        assert torch.equal(one[-1], three[-1]), "the same symbol is asked for"
    assert a(0, 3).answers == a(0, 5).answers == b(0, 0).answers
    different = [other(0, 3), a(1, 3)]
    for each in different:
        assert any(not torch.equal(*pair) for pair in zip(a(0, 3).prompts, each.prompts, strict=True))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """Labelled texts in two splits; one text has a letter that is nowhere else."""
    folder = tmp_path_factory.mktemp("reviews")
    rows = [(f"{word} {number}", label) for number in range(10) for word, label in (("up", 1), ("down", 0))]
    for split, part in (("train", rows[:14]), ("dev", rows[10:14]), ("test", [*rows[14:], ("Ωp", 1)])):
        (folder / f"{split}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in part))
    return str(folder)


@pytest.fixture(scope="module")
def alphabet():
    return tokenizers.train("characters", ["abcdefghijklmnopqrstuvwxyz 0123456789\n"], vocab_size=100)


def ask(reviews, alphabet, most, seed=0):
    dataset = read_labeled(reviews)
    return dataset, module.labeled_texts(alphabet, dataset, ("bad", "good"), most, 100, seed)


def test_labeled_texts_put_examples_before_each_text(reviews, alphabet):
    dataset, questions = ask(reviews, alphabet, 3)
    prompts, answers, empty = questions(0, 3)
    texts = [alphabet.decode(prompt.tolist()) for prompt in prompts]
    print(texts[0])
    assert answers == dataset.test.labels[:6]
    shared = texts[0].removesuffix(dataset.test.first[0] + "\n")
    for text, own in zip(texts, dataset.test.first[:6], strict=True):
        assert text == f"{shared}{own}\n", "all texts have the same examples"
    words = {0: "bad", 1: "good"}
    train = {*zip(dataset.train.first, (words[y] for y in dataset.train.labels), strict=True)}
    examples = [tuple(each.split("\n")) for each in shared.split("\n\n")[:-1]]
    assert len(examples) == len({*examples}) == 3
    assert {*examples} <= train, "they are training examples with their own labels"
    assert empty is not None
    assert alphabet.decode(empty.tolist()) == shared + "\n"
    fewer = [alphabet.decode(prompt.tolist()) for prompt in questions(0, 2).prompts]
    assert fewer[0].split("\n\n")[:2] == texts[0].split("\n\n")[:2]
    assert any(
        questions(0, 3).prompts[0].tolist() != questions(draw, 3).prompts[0].tolist() for draw in (1, 2)
    )
    again = ask(reviews, alphabet, 3)[1]
    assert torch.equal(again(1, 3).prompts[0], questions(1, 3).prompts[0])


def test_accuracies_compare_labels_by_sum_length_and_empty_text(monkeypatch):
    """Of scores that decide otherwise in each way; the last row is that of the empty text."""
    scores = torch.tensor([[-4.0, -6.0], [-4.0, -5.0], [-3.0, -9.0], [-2.0, -6.0]], dtype=torch.float64)
    monkeypatch.setattr(module, "label_log_likelihoods", lambda *_: scores)
    questions = module.Questions([torch.tensor([0])] * 3, [0, 1, 0], torch.tensor([0]))
    found = module._accuracies(None, questions, [], torch.tensor([2, 4]))
    # per character: −2 or −1.5; −2 or −1.25; −1.5 or −2.25; relative to no text: −2 or 0; −2 or 1; −1 or −3
    assert found == {"accuracy": 2 / 3, "normalized_accuracy": 2 / 3, "calibrated_accuracy": 2 / 3}
    questions = questions._replace(answers=[0, 0, 0])
    found = module._accuracies(None, questions, [], torch.tensor([2, 4]))
    assert found == {"accuracy": 1.0, "normalized_accuracy": 1 / 3, "calibrated_accuracy": 1 / 3}


def test_few_shot_of_text(reviews, alphabet):
    torch.manual_seed(0)
    size = alphabet.get_vocab_size()
    model = GPT.from_kwargs(**SIZES | {"vocab_size": size, "context": 64})
    metadata = {"tokenizer": tokenizers.to_metadata(alphabet)}
    words = ("bad", "good")
    metrics = few_shot(model, metadata, reviews, shots=(0, 3), label_words=words, draws=4)
    print(metrics)
    assert metrics["accuracy_std/0"] == 0.0, "without examples there is nothing to draw"
    assert metrics["majority_accuracy"] == 0.5
    assert metrics["chance"] == 0.5
    assert (metrics["texts"], metrics["left_out"], metrics["draws"]) == (6, 1, 4)
    assert metrics == few_shot(model, metadata, reviews, shots=(0, 3), label_words=words, draws=4)
    # the mean over draws, by separate forward passes
    _, questions = ask(reviews, alphabet, 3)
    labels = [tokenizers.encode(alphabet, word) for word in words]
    model.eval()
    right = []
    with torch.no_grad():
        for draw in range(4):
            prompts, answers, _ = questions(draw, 3)
            for prompt, answer in zip(prompts, answers, strict=True):
                scores = [slow(model, prompt, label) for label in labels]
                right.append(scores.index(max(scores)) == answer)
    assert metrics["accuracy/3"] == pytest.approx(sum(right) / len(right))
    fewer = few_shot(model, metadata, reviews, shots=(0,), label_words=words, max_examples=3)
    assert (fewer["texts"], fewer["left_out"]) == (2, 1), "the first, the middle and the last"


def test_few_shot_refuses_in_one_line(reviews, alphabet):
    metadata = {"tokenizer": tokenizers.to_metadata(alphabet)}
    model = GPT.from_kwargs(**SIZES | {"vocab_size": alphabet.get_vocab_size(), "context": 30})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"shots": (0, -1)}, "from 0 on that rise, such as 0,1,4,16, not 0,-1"),
        ({"shots": (-1, 0)}, "not -1,0"),
        ({"shots": (4, 1)}, "not 4,1"),
        ({"shots": (1, 1)}, "not 1,1"),
        ({"shots": ()}, "not none"),
        ({"shots": (0,), "draws": 1}, "draws must be at least 2"),
        ({"shots": (0,), "max_examples": 0}, "max_examples must be at least 1"),
        ({"shots": (15,)}, "training split of .* has 14 examples"),
        (
            {"shots": (0, 4)},
            r"4 examples, a text and its label take up to \d+ tokens, but the context holds 30",
        ),
        ({"shots": (0,), "label_words": ("good",)}, "has the labels 0, 1: give 2 different words"),
        ({"shots": (0,), "label_words": ("good", "good")}, "2 different words"),
        ({"shots": (0,), "label_words": ("good", "")}, "word is empty"),
        ({"shots": (0, 3), "label_words": ("good", "Ω")}, "the character 'Ω' is none of"),
    ]
    for options, line in cases:
        with pytest.raises(BadInput, match=line) as refused:
            few_shot(model, metadata, reviews, **options)
        print(refused.value)
    own = {"tokenizer": tokenizers.to_metadata(in_context.make_tokenizer())}
    with pytest.raises(BadInput, match=r"each text of .* has characters that the model does not know"):
        few_shot(network("gpt"), own, reviews, shots=(0,))
    with pytest.raises(BadInput, match="leave out label_words"):
        few_shot(network("gpt"), own, "in_context", shots=(0,), label_words=("a", "b"))
    with pytest.raises(BadInput, match="20 examples, a text and its label take up to 41 tokens"):
        few_shot(network("gpt"), own, "in_context", shots=(20,))
    few_shot(network("gpt"), own, "in_context", shots=(19,), draws=2, max_examples=1)  # 39 tokens of 40


def test_causal_systems_have_few_shot():
    """By their files: importing all of them takes seconds."""
    root = Path(systems.__file__).parent
    files = {e.name: (root / e.chapter / f"{e.name}.py").read_text() for e in systems.CATALOGUE}
    assert tuple(name for name, text in files.items() if '"few_shot",' in text) == CAUSAL


def test_eval_with_shots_writes_the_curve(trained_copy, reviews, capsys):
    run = trained_copy("gpt")
    said = assert_rejected(capsys, "eval", run, "--shots", "0,1")
    assert "give labelled --data" in said
    # the character model of Python's source has a context of 32
    code, out, _ = run_cli(
        capsys, *("eval", run, "--shots", "0,1", "--data", reviews, "--label-words", "n,y", "--json")
    )
    metrics = json.loads(out)
    print(metrics)
    assert code == 0
    assert {
        "accuracy/0",
        "accuracy_std/1",
        "normalized_accuracy/1",
        "calibrated_accuracy/1",
    } <= metrics.keys()
    assert metrics["data"]["split"] == "test"
    assert "1 more have characters" in metrics["data"]["note"]
    (picture,) = (run / "pictures").glob("few_shot_*.png")
    assert picture.stat().st_size > 5000
    assert (
        metrics["accuracy/1"]
        == ts.evaluate(run, data=reviews, shots=(0, 1), label_words=("n", "y"))["accuracy/1"]
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"shots": 4}, "shots is a list, not 4"),
        ({"shots": (0.5,)}, r"shots is a whole number, not 0\.5"),
        ({"shots": (0,), "drawings": 3}, "without 'drawings'"),
        ({"shots": (0,), "seed": -1}, "seed must be at least 0"),
    ]
    for options, line in cases:
        with pytest.raises(BadInput, match=line):
            ts.evaluate(run, data=reviews, **options)
    for wrong, line in [
        (("--shots", "1,0"), "not 1,0"),
        (("--shots", "-2"), "not -2"),
        (("--shots", "one"), "'one' is no list of whole numbers"),
        (("--shots", "9"), "but the context holds 32"),
        (("--draws", "3"), "--draws belongs to --shots"),
    ]:
        assert line in assert_rejected(capsys, "eval", run, "--data", reviews, *wrong)


def test_eval_with_shots_of_what_is_no_language_model(trained_run, capsys):
    said = assert_rejected(capsys, "eval", trained_run("lenet5"), "--shots", "0,1", "--data", "sentiment")
    assert "of causal language models (rnn, lstm, gru, gpt, performer), not of lenet5" in said
