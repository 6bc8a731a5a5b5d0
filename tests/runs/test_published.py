"""Published models in Hugging Face layout through predict, eval and export, against transformers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import torchstone as ts
from torchstone.api import export_hf
from torchstone.errors import BadInput
from torchstone.references.transformers import import_transformers
from torchstone.runs.published import class_names


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
    config = {"id2label": {"1": "dog", "0": "cat", "10": "emu"}}
    assert class_names(config, 3) == ["cat", "dog", "LABEL_2"]
    assert class_names({}, 2) == ["LABEL_0", "LABEL_1"]
