"""Published models in Hugging Face layout through predict, eval and export, against transformers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

import torchstone as ts
from torchstone.api import export_hf
from torchstone.data.text import tokenizers
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.hub.hf_folder import class_names
from torchstone.references import randomize_weights
from torchstone.references.diffusers import random_unets
from torchstone.references.transformers import import_transformers
from torchstone.runs import published
from torchstone.systems.generative.ddpm import p_sample
from torchstone.tasks.diffusion.sampler import SamplingConfig, sample_images


@pytest.fixture
def vit(tmp_path):
    """A small ViT with class names and a preprocessor, images of two classes, and transformers' network."""
    torch.manual_seed(0)
    library = import_transformers()
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    config = library.ViTConfig(image_size=16, patch_size=8, **sizes, **names)
    theirs = library.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path / "vit")
    own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(own))
    numbers = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = numbers.randint(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path, theirs, own


def test_published_vit_predicts_evaluates_and_is_exported(vit, tmp_path):
    folder, theirs, own = vit
    files = sorted((folder / "images").rglob("*.png"))
    answers = ts.predict(folder / "vit", files)
    mean, std = (torch.tensor(own[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in files]
    with torch.no_grad():
        wanted = theirs(torch.stack([(each - mean) / std for each in pixels])).logits.softmax(1)
    found = torch.tensor([[answer["probabilities"][name] for name in ("cat", "dog")] for answer in answers])
    print(float((found - wanted).abs().max()), "apart")
    assert torch.allclose(found, wanted, atol=1e-5)
    metrics = ts.evaluate(folder / "vit", data=str(folder / "images"))
    labels = torch.tensor([file.parent.name == "dog" for file in files]).long()
    print(metrics)
    assert metrics["images"] == 12
    assert metrics["accuracy"] == pytest.approx((wanted.argmax(1) == labels).double().mean().item())
    facts = ts.export(folder / "vit", out=tmp_path / "vit.pt2")["facts"]
    assert facts["classes"] == ["cat", "dog"]
    assert facts["picture"]["mean"] == own["image_mean"]


def test_published_vit_messages(vit):
    folder, _, _ = vit
    with pytest.raises(BadInput, match="no run with data of its own: say which with --data"):
        ts.evaluate(folder / "vit")
    (folder / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(BadInput, match="does not say how images are normalized") as caught:
        ts.predict(folder / "vit", [folder / "images"])
    print(caught.value)


def test_published_gpt_continues_texts_as_the_run_that_it_is_of(trained_run, tmp_path):
    folder = export_hf(trained_run("gpt"), tmp_path / "out")
    answers, wanted = (ts.predict(each, ["ab", "ba"]) for each in (folder, trained_run("gpt")))
    print(answers)
    assert answers == wanted


@pytest.mark.parametrize("head", ["sentence", "tokens", "masked"])
def test_published_bert_prepares_its_texts(head, tmp_path):
    """Labels of texts and of words, and words for [MASK], with the tokenizer of the folder."""
    library = import_transformers()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "day"]
    kind = {"sentence": "SequenceClassification", "tokens": "TokenClassification", "masked": "MaskedLM"}[head]
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = library.BertConfig(vocab_size=len(words), id2label={0: "bad", 1: "fine"}, **sizes)
    torch.manual_seed(0)
    theirs = getattr(library, f"BertFor{kind}")(config).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (answer,) = ts.predict(tmp_path, ["a good [MASK]" if head == "masked" else "a good day"])
    tokens = torch.tensor([[2, 5, 6, 4 if head == "masked" else 7, 3]])
    with torch.no_grad():
        chances = theirs(tokens).logits.softmax(-1)[0]
    print(answer, chances)
    if head == "sentence":
        assert list(answer["probabilities"].values()) == pytest.approx(chances.tolist(), abs=1e-5)
        assert list(answer["probabilities"]) == ["bad", "fine"]
    elif head == "tokens":
        assert answer["labels"] == [("bad", "fine")[i] for i in chances[1:4].argmax(1).tolist()]
    else:
        first = answer["candidates"][0][0]
        of_words = chances[3, 5:] / chances[3, 5:].sum()  # special tokens fill no gap
        assert first["probability"] == pytest.approx(of_words.max().item(), abs=1e-5)


def test_class_names_by_number():
    config = {"id2label": {"1": "dog", "0": "cat", "2": None}}
    assert class_names(config, 4) == ["cat", "dog", "LABEL_2", "LABEL_3"]
    in_order_of_text = {str(i): f"c{i}" for i in sorted(range(12), key=str)}
    assert class_names({"id2label": in_order_of_text}, 12) == [f"c{i}" for i in range(12)]
    assert class_names({}, 2) == ["LABEL_0", "LABEL_1"]
    assert class_names({"id2label": ["a", "b"]}, 2) == ["a", "b"]
    twice = {"0": "crane", "1": "dog", "2": "crane"}  # as ImageNet's have it
    assert class_names({"id2label": twice}, 3) == ["crane (0)", "dog", "crane (2)"]
    for wrong, said in {
        "10": r"names output 10 \('emu'\), but the network has 3",
        "a": "no object from",
    }.items():
        with pytest.raises(BadInput, match=said) as caught:
            class_names({"id2label": {"0": "cat", wrong: "emu"}}, 3)
        print(caught.value)


SQUARE = {"height": 16, "width": 16}


@pytest.mark.parametrize(
    "settings",
    [
        {"size": SQUARE},
        {"size": SQUARE, "resample": 3},
        {"size": SQUARE, "do_normalize": False},
        {"size": SQUARE, "do_rescale": False},
        {"size": SQUARE, "rescale_factor": 1 / 127.5},
        {"size": {"height": 20, "width": 20}, "do_center_crop": True, "crop_size": SQUARE},
        {"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": SQUARE},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_published_vit_frames_images_as_its_preprocessor(settings, vit):
    """An image that is no square, through transformers' own preprocessor, by path and from a folder."""
    folder, theirs, own = vit
    preprocessor = import_transformers().ViTImageProcessor(**own, **settings)
    preprocessor.save_pretrained(folder / "vit")
    pixels = np.random.RandomState(1).randint(0, 256, (20, 44, 3), dtype=np.uint8)
    file = folder / "images" / "cat" / "0.png"
    Image.fromarray(pixels).save(file)
    made = preprocessor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = theirs(made).logits.softmax(1)[0]
    (answer,) = ts.predict(folder / "vit", [file])
    found = torch.tensor(list(answer["probabilities"].values()))
    print(settings, float((found - wanted).abs().max()), "apart")
    assert torch.allclose(found, wanted, atol=2e-4)
    model = ts.load(folder / "vit")
    assert torch.allclose(model.preprocess(file), made, atol=0.05 * float(made.std()))
    framed = load_images(folder / "images", size=16, channels=3, model=model.metadata["picture"])
    images = torch.cat(
        [split.take(torch.arange(len(split))) for split in (framed.train, framed.val, framed.test)]
    )
    own = preprocess(file, model.metadata["picture"])
    assert any(torch.equal(image, own[0]) for image in images)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": {"height": 8, "width": 8}}, "makes images of 8×8, but the network takes 16×16"),
        ({"size": {"longest_edge": 16}}, "sets size = {'longest_edge': 16}"),
        ({"do_flip_channel_order": True}, "sets do_flip_channel_order = True"),
        ({"resample": 9}, "sets resample = 9"),
        ({"rescale_factor": 0}, "rescales pixels by 0"),
        ({"image_mean": [0.5], "image_std": [0.5]}, "normalizes 1 channels, but its network takes 3"),
        ({"do_resize": False}, "it has 20×16 pixels, but the model takes 16×16"),
    ],
)
def test_published_vit_refuses_preprocessing_that_is_not_implemented(settings, said, vit):
    folder, _, own = vit
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps({**own, **settings}))
    Image.new("RGB", (20, 16)).save(folder / "a.png")
    with pytest.raises(BadInput, match=said) as caught:
        ts.predict(folder / "vit", [folder / "a.png"])
    print(caught.value)


def test_published_vit_is_evaluated_by_names_of_classes(vit):
    """The outputs are in another order than the folders."""
    folder, _, _ = vit
    config = json.loads((folder / "vit" / "config.json").read_text())
    swapped = {"id2label": {"0": "dog", "1": "cat"}, "label2id": {"dog": 0, "cat": 1}}
    for number in (3, 4, 5):
        (folder / "images" / "dog" / f"{number}.png").unlink()
    before = ts.evaluate(folder / "vit", data=str(folder / "images"))
    assert before["accuracy"] != 0.5
    (folder / "vit" / "config.json").write_text(json.dumps({**config, **swapped}))
    after = ts.evaluate(folder / "vit", data=str(folder / "images"))
    print(before, after)
    assert after["accuracy"] == pytest.approx(1 - before["accuracy"])


def test_published_network_of_one_output_is_no_classifier(tmp_path):
    library = import_transformers()
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    library.BertForSequenceClassification(
        library.BertConfig(vocab_size=5, num_labels=1, **sizes)
    ).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    with pytest.raises(BadInput, match="one output, a number"):
        ts.predict(tmp_path, ["a"])
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "more"]))
    with pytest.raises(BadInput, match="a tokenizer of 6 tokens, but a network that knows 5"):
        ts.predict(tmp_path, ["a"])


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A small T5 with a tokenizer, pairs of texts, and transformers' network."""
    folder, library = tmp_path_factory.mktemp("t5"), import_transformers()
    words = ["the", "a", "red", "green", "cat", "dog", "sees", "hears"]
    pairs = [(f"{a} {b}", f"{b} {a}") for a in words for b in words]
    texts = [text for pair in pairs for text in pair]
    tokenizer = tokenizers.train("unigram", texts, vocab_size=60, special_tokens=("<pad>", "</s>", "<unk>"))
    end = ("</s>", 1)  # as T5's own: a text that is encoded ends with it
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[end])
    (folder / "t5").mkdir()
    tokenizer.save(str(folder / "t5" / "tokenizer.json"))
    torch.manual_seed(0)
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3}
    config = library.T5Config(vocab_size=tokenizer.get_vocab_size(), **sizes, decoder_start_token_id=0)
    theirs = library.T5ForConditionalGeneration(config).eval()
    randomize_weights(theirs, 0.5)
    theirs.save_pretrained(folder / "t5")
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    return folder, theirs, tokenizer, pairs


def test_published_t5_answers_as_transformers(t5, monkeypatch):
    monkeypatch.setattr(published, "MAX_LENGTH", 8)
    folder, theirs, tokenizer, pairs = t5
    texts = [pairs[0][0], pairs[9][0]]
    answers = ts.predict(folder / "t5", texts)
    for text, answer in zip(texts, answers, strict=True):
        source = torch.tensor([[*tokenizer.encode(text, add_special_tokens=False).ids, 1]])
        ids = theirs.generate(source, max_new_tokens=16, do_sample=False)[0].tolist()[1:]
        ids = ids[: ids.index(1)] if 1 in ids else ids
        print(text, "->", answer["text"])
        assert answer["text"] == tokenizer.decode([i for i in ids if i > 1], skip_special_tokens=False)


def test_published_t5_prepares_texts_with_one_end(t5):
    folder, _, tokenizer, pairs = t5
    (row,) = ts.load(folder / "t5").preprocess(pairs[0][0]).tolist()
    assert row == [*tokenizer.encode(pairs[0][0], add_special_tokens=False).ids, 1]


def test_network_without_a_tokenizer_says_so_when_asked_to_prepare(tmp_path):
    library = import_transformers()
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    library.BertForMaskedLM(library.BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path)
    model = ts.load(tmp_path)
    with pytest.raises(BadInput, match=r"no preprocessing .*holds no tokenizer"):
        model.preprocess("a")


def test_published_t5_is_evaluated_as_by_transformers(t5):
    folder, theirs, tokenizer, pairs = t5
    metrics = ts.evaluate(folder / "t5", data=str(folder / "pairs.tsv"))
    total = count = right = 0
    for a, b in pairs:
        source, target = (
            torch.tensor([[*tokenizer.encode(text, add_special_tokens=False).ids, 1]]) for text in (a, b)
        )
        with torch.no_grad():
            logits = theirs(input_ids=source, labels=target).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits, target[0], reduction="sum"))
        right += int((logits.argmax(1) == target[0]).sum())
        count += target.numel()
    print(metrics, total / count)
    assert metrics["texts"] == len(pairs)
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(right / count)


def test_published_gpt_is_evaluated_and_sampled_as_the_run_that_it_is_of(trained_run, tmp_path):
    folder, run = export_hf(trained_run("gpt"), tmp_path / "out"), trained_run("gpt")
    (tmp_path / "text.txt").write_text("ab ba ab\n" * 40)
    found, wanted = (ts.evaluate(each, data=str(tmp_path / "text.txt")) for each in (folder, run))
    print(found)
    assert found == wanted
    found, wanted = (ts.sample(each, prompt="ab", num_samples=2, max_new_tokens=9) for each in (folder, run))
    assert found == wanted


def test_published_unet_draws_samples(tmp_path, capsys):
    """The images of the same noise by the network in Python."""
    net = next(iter(random_unets(1)))
    net.save_pretrained(tmp_path)
    images = ts.sample(tmp_path, num_samples=2, sampling_steps=3)
    assert "states no scheduler: DDPM's" in capsys.readouterr().err
    model = ts.load(tmp_path)
    wanted = sample_images(p_sample, model, 2, SamplingConfig(3), progress=False)
    assert torch.equal(torch.stack(images), wanted)
    with pytest.raises(BadInput, match="published network has no data to train a classifier"):
        ts.sample(tmp_path, num_samples=1, classifier_scale=1.0, label="0")
