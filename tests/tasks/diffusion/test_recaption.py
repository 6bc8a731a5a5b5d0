"""Re-captioning: captions are the captioner's own greedy ones, and samples are evaluated by prompts and
classifiers that neither captioner nor decoder has a part in."""

import dataclasses
import json

import pytest
import torch

import torchstone as ts
from torchstone.data.text.tokenizers import from_metadata, to_metadata
from torchstone.data.vision.captioned import word_tokenizer
from torchstone.data.vision.dataset import ImageSplit, normalize
from torchstone.data.vision.descriptions import load_described, spaced
from torchstone.data.vision.question_batches import ASSISTANT_ID, END_ID, IMAGE_ID, SPECIAL_TOKENS, USER_ID
from torchstone.errors import BadInput
from torchstone.metrics.classifier_features import ClassifierFeatures
from torchstone.systems.generative import CLASSIFIER, dalle3
from torchstone.systems.generative.ddpm import p_sample
from torchstone.tasks.diffusion import recaption
from torchstone.tasks.diffusion.recaption import Captions, upsample, upsampled_prompt


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run("dalle3")


@pytest.fixture(scope="module")
def model(run):
    return ts.load(run)


@pytest.fixture(scope="module")
def data():
    return load_described("shapes", size=8)


def greedy(model, image, question):
    """One token at a time, everything read anew for each, without a cache or a batch."""
    captions = Captions.from_metadata(model, model.metadata)
    tokenizer = captions.conversations.tokenizer
    tokens = [IMAGE_ID] * model.captioner.image_tokens
    tokens += [USER_ID, *tokenizer.encode(question).ids, ASSISTANT_ID]
    words = []
    for _ in range(captions.most):
        with torch.no_grad():
            scores = model.captioner(image[None], torch.tensor([tokens]))[0, -1].tolist()
        best = scores.index(max(scores))
        if best == END_ID:
            break
        tokens.append(best)
        if best >= len(SPECIAL_TOKENS):
            words.append(tokenizer.id_to_token(best))
    return " ".join(words)


def test_written_captions_are_the_captioners_own_greedy_ones(run, model, data):
    lines = [line.split("\t") for line in (run / recaption.CAPTIONS_FILE).read_text().splitlines()]
    assert lines[0] == ["short", "written", "description"]
    rows = [*data.train.labels.tolist(), *data.val.labels.tolist()]
    assert [line[2] for line in lines[1:]] == [data.long[row] for row in rows]
    images = torch.cat([data.train.images, data.val.images])
    for i in (0, 7, 50, len(rows) - 1):
        x = normalize(images[i : i + 1], data.metadata)[0]
        assert spaced(lines[i + 1][1]) == greedy(model, x, recaption.DESCRIBE)
    written = [spaced(line[1]) for line in lines[1:]]
    truth = [spaced(line[2]) for line in lines[1:]]
    same = sum(a == b for a, b in zip(written, truth, strict=True))
    print(f"{same} of {len(truth)} captions are their description, {len(set(written))} different ones")
    assert same < len(truth), "descriptions were copied, not written"


def test_upsampling_writes_details_without_an_image_and_keeps_the_words(model):
    captions, picture = Captions.from_metadata(model, model.metadata), model.metadata["picture"]
    prompts = ["circle", "cross", "circle cross"]
    texts = upsample(model, prompts, captions, picture)
    blank = normalize(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), picture)[0]
    for prompt, text in zip(prompts, texts, strict=True):
        own = greedy(model, blank, recaption.EXPAND.format(prompt))
        assert text == f"{own.partition(':')[0].strip()} : {prompt}"


def test_a_decoder_of_long_captions_gets_an_upsampled_prompt(model):
    metadata = model.metadata
    assert metadata["synthetic_caption_ratio"] == 0.95
    assert ":" in upsampled_prompt(model, metadata, "circle", "auto")
    assert upsampled_prompt(model, metadata, "circle", "never") == "circle"
    described = "red, small, on the left: circle"
    assert upsampled_prompt(model, metadata, described, "auto") == described
    short = metadata | {"synthetic_caption_ratio": 0.0}
    assert upsampled_prompt(model, short, "circle", "auto") == "circle"
    assert upsampled_prompt(model, short, "circle", "always") == upsampled_prompt(
        model, metadata, "circle", "auto"
    )
    for prompt, how, message in (
        ("circle", "sometimes", "unknown --upsample 'sometimes'"),
        ("", "auto", "the prompt is empty"),
        ("circel", "never", "no caption had the word 'circel'.*circle"),
        ("red " * 30, "never", "at most 11 words, not 30"),
        ("red " * 11, "always", "too long to be upsampled"),
    ):
        with pytest.raises(BadInput, match=message):
            upsampled_prompt(model, metadata, prompt, how)


def test_the_captioner_is_trained_on_its_own_part_alone(data):
    first = next(dalle3.build(dalle3.RECIPES["smoke"]))
    pixels = first.stream.batches.split.images
    own = len(data.captioner)
    assert torch.equal(pixels[:own], data.captioner.images)
    assert (pixels[own:] == 255).all()
    assert len(pixels) == 2 * own
    tokenizer = from_metadata(first.metadata["captioner"]["tokenizer"])
    known = {word for row in data.captioner.labels.tolist() for word in spaced(data.long[row]).split()}
    assert known < set(tokenizer.get_vocab())


class Oracle:
    """A classifier that finds what it is given to find, in place of one that is trained."""

    def __init__(self, classes, find):
        self.classes, self.find = classes, find

    def extract(self, pixels):
        probabilities = torch.nn.functional.one_hot(self.find(pixels), len(self.classes)).float()
        return ClassifierFeatures(probabilities, probabilities)


@pytest.fixture
def evaluated(monkeypatch, model, data):
    """`evaluate_prompts` with samples that show the color of their prompt, and a classifier that finds it."""
    colors, tokenizer = data.attributes["color"], word_tokenizer(list(data.long))
    vocab = tokenizer.get_vocab()  # of every color: a captioner of few updates does not write of all
    prompts_given = []

    def paint(step, net, count, config, *, context, **_):
        prompts_given.append(context)
        pixels = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
        for i, row in enumerate(context.tolist()):
            said = [k for k, name in enumerate(colors.classes) if vocab.get(name, -1) in row]
            pixels[i] = said[0] if said else 255
        return pixels

    def find(pixels):
        shown = pixels[:, 0, 0, 0].long()
        return torch.where(shown < len(colors.classes), shown, 0)

    def oracle(labeled, spec):
        assert len(labeled.train) == len(data.captioner) + len(data.train)  # none of the test
        is_color = len(labeled.classes) > 2
        return Oracle(labeled.classes, find if is_color else lambda pixels: pixels[:, 0, 0, 0].long() * 0)

    monkeypatch.setattr(recaption, "sample_images", paint)
    monkeypatch.setattr(recaption, "train_or_load_classifier", oracle)

    def measure(changed=data):
        prompts_given.clear()
        metadata = model.metadata | {"eval_prompts": 36, "tokenizer": to_metadata(tokenizer)}
        loss = dalle3.decoder_loss
        numbers, rows = recaption.evaluate_prompts(
            model, metadata, changed, p_sample, CLASSIFIER, training_loss=loss
        )
        return numbers, rows, list(prompts_given)

    return measure


def test_samples_are_evaluated_by_descriptions_that_no_captioner_wrote(evaluated, data):
    numbers, rows, given = evaluated()
    print({name: round(value, 3) for name, value in numbers.items()})
    assert numbers["color_accuracy"] == 1.0
    left = (data.attributes["side"].labels[data.test.labels] == 0).double().mean()
    assert numbers["side_accuracy"] == pytest.approx(float(left))
    assert numbers["attribute_accuracy"] == pytest.approx((1 + float(left)) / 2)
    assert numbers["short_color_accuracy"] < 0.5
    tokenizer = word_tokenizer(list(data.long))
    expected = [data.long[row] for row in data.test.labels.tolist()]
    words = [spaced(tokenizer.decode([t for t in row if t > 2])) for row in given[0].tolist()]
    assert words == [spaced(text) for text in expected]
    assert [row.prompt for row in rows if row.kind == "description"] == expected
    assert {row.kind for row in rows} == {"description", "short", "upsampled"}
    wrong = [row for row in rows if row.kind == "description" and row.expected["color"] != row.found["color"]]
    assert not wrong


def test_real_images_and_the_most_frequent_value_are_the_levels_to_compare_with(evaluated, data):
    numbers, _, _ = evaluated()
    colors = data.attributes["color"]
    trained = torch.cat([data.captioner.labels, data.train.labels])
    frequent = torch.bincount(colors.labels[trained], minlength=10).argmax()
    share = (colors.labels[data.test.labels] == frequent).double().mean()
    assert numbers["majority_color_accuracy"] == pytest.approx(float(share))
    images = torch.full_like(data.test.images, 3)
    with_threes = ImageSplit(data.test.labels, images)
    changed = dataclasses.replace(data, test=with_threes)
    threes = (colors.labels[data.test.labels] == 3).double().mean()
    assert evaluated(changed)[0]["real_color_accuracy"] == pytest.approx(float(threes))


def test_prompts_and_what_was_found_are_written(tmp_path, evaluated):
    _, rows, _ = evaluated()
    recaption.save_prompts(rows, tmp_path / "prompts.tsv")
    lines = (tmp_path / "prompts.tsv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 36
    kind, prompt, expected_values, found = lines[1].split("\t")
    assert (kind, prompt) == ("description", rows[0].prompt)
    assert (json.loads(expected_values), json.loads(found)) == (rows[0].expected, rows[0].found)
