"""CLIP's folders of transformers: read and written with tokenizer and image processor, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import models

import torchstone as ts
from torchstone.data.text.pretrained_tokenizers import clip_tokenizer, load
from torchstone.data.vision.image_text_batches import END, START, encode_texts
from torchstone.errors import BadInput
from torchstone.hub import clip, hf_export
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.verify import relative_error

TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 16},
    "crop_size": {"height": 16, "width": 16},
    "resample": 3,
    "image_mean": list(clip.OPENAI_MEAN),
    "image_std": list(clip.OPENAI_STD),
}
TEXTS = ["A Red  apple", "it's a cat's toy, 42", "naïve Größe"]


def letters():
    """A vocabulary of CLIP's form: bytes, bytes at the end of a word, a merge, and the two ends last."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "ap", "app", "le</w>", START, END]
    return {token: i for i, token in enumerate(tokens)}, [("a", "p"), ("ap", "p"), ("l", "e</w>")]


def save(folder, *, files="tokenizer.json", vision=(), text=(), **settings):
    """A network of theirs with its tokenizer and image processor."""
    torch.manual_seed(1)
    library = import_transformers()
    vocab, merges = letters()
    config = library.CLIPConfig(
        vision_config={**TOWER, "image_size": 16, "patch_size": 8, **dict(vision)},
        text_config={
            **TOWER,
            "vocab_size": len(vocab),
            "max_position_embeddings": 20,
            "bos_token_id": vocab[START],
            "eos_token_id": vocab[END],
            **dict(text),
        },
        projection_dim=10,
        **settings,
    )
    model = library.CLIPModel(config).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder)
    if files == "tokenizer.json":
        clip_tokenizer(models.BPE(vocab, merges, end_of_word_suffix="</w>")).save(str(folder / files))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in merges))
    # as published, with every setting
    stated = PROCESSOR | {"do_resize": True, "do_center_crop": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return model


def inputs(ours, theirs):
    size, channels = theirs.config.vision_config.image_size, theirs.config.vision_config.num_channels
    images = torch.randn(3, channels, size, size)
    tokens = torch.randint(0, ours.config.text.vocab_size - 2, (3, 9))
    tokens[:, 6:] = ours.config.text.vocab_size - 1
    return images, tokens


@torch.no_grad()
def error(ours, theirs) -> float:
    images, tokens = inputs(ours, theirs)
    other = theirs(pixel_values=images, input_ids=tokens).logits_per_image
    return relative_error(ours(images, tokens), other)


def test_load_and_write_a_folder(tmp_path):
    theirs = save(tmp_path / "a")
    ours = ts.load(tmp_path / "a")
    assert error(ours, theirs) < 1e-5
    fields = clip.from_config(json.loads((tmp_path / "a" / "config.json").read_text()))[1]
    hf_export.write(tmp_path / "b", clip.to_config(fields), clip.unpublished("", ours.state_dict()))
    again = import_transformers().CLIPModel.from_pretrained(tmp_path / "b").eval()
    difference = error(ours, again)
    print(f"written and read by transformers, {difference:.1e} apart")
    assert difference < 1e-5
    assert theirs.state_dict().keys() == again.state_dict().keys()
    for name in ("vision_config", "text_config"):
        before, after = (getattr(each.config, name).to_dict() for each in (theirs, again))
        different = {k for k in before if before[k] != after[k]} - {
            "pad_token_id",
            "dtype",
            "bos_token_id",
            "projection_dim",
        }
        assert not different, different


@pytest.mark.sweep
@pytest.mark.parametrize(
    "settings",
    [
        {"vision": {"hidden_act": "gelu"}, "text": {"hidden_act": "gelu"}},
        {"vision": {"hidden_act": "gelu"}},
        {"vision": {"layer_norm_eps": 0.1}},
        {"text": {"layer_norm_eps": 0.1}},
        {"text": {"eos_token_id": 2}},
        {"vision": {"num_channels": 1}},
        {"vision": {"image_size": 24, "hidden_size": 36}},
    ],
    ids=str,
)
def test_load_honors_every_setting(settings, tmp_path):
    theirs = save(tmp_path, **settings)
    # a processor of three channels is no hindrance to the network
    model = ts.load(tmp_path)
    difference = error(model, theirs)
    print(f"{settings}: {difference:.1e} apart")
    assert difference < 1e-5


@pytest.mark.sweep
def test_load_takes_the_wrong_activation_for_another_network(tmp_path):
    """The trap: weights made with quick gelu load under gelu, and only the config tells."""
    theirs = save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("vision_config", "text_config"):
        config[name]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    difference = error(ts.load(tmp_path), theirs)
    print(f"gelu in place of quick gelu: {difference:.1e} apart")
    assert difference > 1e-4


@pytest.mark.sweep
def test_load_reads_the_old_second_config_first(tmp_path):
    theirs = save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config_dict"] = {"num_attention_heads": 3}
    config["text_config"]["num_attention_heads"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert error(ts.load(tmp_path), theirs) < 1e-5


@pytest.mark.sweep
@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json"])
def test_a_folder_tokenizes_as_theirs(files, tmp_path):
    save(tmp_path, files=files)
    theirs = import_transformers().CLIPTokenizer.from_pretrained(tmp_path)
    expected = theirs(TEXTS, padding="max_length", max_length=40, truncation=True, return_tensors="pt")
    own = encode_texts(load(tmp_path), TEXTS, 40)
    print(own[0].tolist())
    assert torch.equal(own, expected["input_ids"])
    short = theirs(TEXTS, padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    assert torch.equal(encode_texts(load(tmp_path), TEXTS, 8), short["input_ids"])


def test_a_folder_labels_pictures_as_theirs(tmp_path):
    """From a picture's file and texts to probabilities: framing, normalization, tokens and pooling."""
    theirs = save(tmp_path / "clip")
    library = import_transformers()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (23, 31, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    (answer,) = ts.predict(tmp_path / "clip", [tmp_path / "a.png"], labels=TEXTS)
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path / "clip")(image, return_tensors="pt")
    tokens = library.CLIPTokenizer.from_pretrained(tmp_path / "clip")(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**pixels, **tokens).logits_per_image.softmax(1)[0]
    own = torch.tensor([answer["probabilities"][text] for text in TEXTS])
    print(own.tolist(), expected.tolist())
    assert (own - expected).abs().max() < 1e-5


def test_published_config_of_openai_is_read():
    """The settings of `openai/clip-vit-large-patch14`, which many generation settings stand in."""
    both = {"attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "initializer_factor": 1.0}
    both |= {"max_length": 20, "num_beams": 1, "top_k": 50, "torch_dtype": None, "use_bfloat16": False}
    both |= {"projection_dim": 768, "layer_norm_eps": 1e-5, "tie_word_embeddings": True, "sep_token_id": None}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 2}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    vision |= {"num_hidden_layers": 24, "patch_size": 14, "image_size": 224}
    config = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": both | text | {"model_type": "clip_text_model", "bos_token_id": 0, "pad_token_id": 1},
        "text_config_dict": None,
        "vision_config": both | vision | {"model_type": "clip_vision_model"},
        "vision_config_dict": None,
    }
    variant, fields = clip.from_config(config)
    with torch.device("meta"):
        model = ts.create(variant, **fields)
    assert sum(p.numel() for p in model.parameters()) == 427_616_513


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {"hidden_act": "mish"}}, "text_config: .*hidden_act"),
        ({"vision_config": {"patch_size": [8, 4]}}, "squares"),
        ({"vision_config": {"attention_bias": True}}, "vision_config: .*attention_bias"),
        ({"architectures": ["CLIPForImageClassification"]}, "architectures"),
        ({"text_config": {"eos_token_id": 7}}, "ends texts with token"),
        ({"text_config": {"num_hidden_layers": 4000}}, "layers"),
    ],
    ids=str,
)
def test_what_a_folder_asks_for_and_is_not_there_is_refused(change, message, tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=message) as raised:
        ts.predict(tmp_path, [tmp_path], labels="a,b")
    assert "\n" not in str(raised.value)


@pytest.mark.sweep
@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer.json"])
def test_a_folder_without_its_preprocessing_says_what_is_missing(missing, tmp_path):
    save(tmp_path)
    (tmp_path / missing).unlink()
    word = "normalized" if "preprocessor" in missing else "tokenizer"
    with pytest.raises(BadInput, match=word):
        ts.predict(tmp_path, [tmp_path], labels="a,b")
    assert ts.load(tmp_path).metadata["task"] == "none"
