"""Tokenizers: encoding, the same in every process, and published ones against their library."""

import json
import random
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, models

from torchstone.data.text import tokenizers
from torchstone.errors import BadInput
from torchstone.references.transformers import import_transformers

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "with",
    "his",
    "hat",
    "and",
    "that",
    "was",
    "all",
    "he",
    "had",
]
draw = random.Random(0)
TEXTS = [" ".join(draw.choices(WORDS, k=12)).capitalize() + ".\n" for _ in range(200)]


def test_train_characters_sorts_vocabulary():
    tokenizer = tokenizers.train("characters", ["ba\n", "c b"], vocab_size=100)
    assert tokenizer.get_vocab() == {"\n": 0, " ": 1, "a": 2, "b": 3, "c": 4}
    ids = tokenizers.encode(tokenizer, "cab\n")
    assert ids.tolist() == [4, 2, 3, 0]
    assert ids.dtype == torch.int64
    assert tokenizer.decode(ids.tolist()) == "cab\n"


def test_train_characters_drops_rarest():
    tokenizer = tokenizers.train(
        "characters", ["aaabbbcd" * 3 + "ccc"], vocab_size=4, special_tokens=("[UNK]",)
    )
    assert tokenizer.get_vocab() == {"[UNK]": 0, "a": 1, "b": 2, "c": 3}
    assert tokenizers.encode(tokenizer, "adb").tolist() == [1, 0, 2]


def test_encode_long_and_short_texts_alike():
    tokenizer = tokenizers.train("characters", TEXTS, vocab_size=100)
    text = "".join(TEXTS)
    pieces = torch.cat([tokenizers.encode(tokenizer, text[i : i + 500]) for i in range(0, len(text), 500)])
    assert torch.equal(tokenizers.encode(tokenizer, text), pieces)
    assert tokenizer.decode(pieces.tolist()) == text


@pytest.mark.parametrize("length", [1, 5000])
def test_encode_names_unknown_character(length):
    tokenizer = tokenizers.train("characters", TEXTS, vocab_size=100)
    with pytest.raises(BadInput, match="the character 'é' is none of the"):
        tokenizers.encode(tokenizer, "cat" * length + "é")


def test_bpe_encodes_any_text():
    tokenizer = tokenizers.train("bpe", TEXTS, vocab_size=300, special_tokens=("<|end|>",))
    assert tokenizer.token_to_id("<|end|>") == 0
    for text in ("naïve 😀\n\n\tThe cat", "  two  spaces ", "\x01"):
        ids = tokenizers.encode(tokenizer, text)
        assert tokenizer.decode(ids.tolist()) == text
    text = "".join(TEXTS)
    assert len(tokenizers.encode(tokenizer, text)) < len(text) / 2


@pytest.mark.sweep
def test_train_is_deterministic_across_processes():
    program = (
        "import sys, json; from torchstone.data.text import tokenizers as tokens\n"
        "texts = json.load(sys.stdin)\n"
        "options = {'vocab_size': 290, 'special_tokens': ('<pad>',)}\n"
        "print(json.dumps([tokens.to_metadata(tokens.train(k, texts, **options)) for k in sys.argv[1:]]))"
    )
    kinds = ["characters", "bpe", "wordpiece", "unigram"]
    # processes could break ties differently: all words are equally frequent
    texts = [f"{a}{b}{c} {c}{a}" for a in "abcdxyzAQ" for b in "efgé" for c in "hijkLM"] * 2
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, *kinds],
            input=json.dumps(texts),
            text=True,
            capture_output=True,
            check=True,
        ).stdout
        for _ in range(3)
    ]
    assert outputs[0] == outputs[1] == outputs[2]
    for kind, metadata in zip(kinds, json.loads(outputs[0]), strict=True):
        tokenizer = tokenizers.from_metadata(metadata)
        print(kind, tokenizer.get_vocab_size(), tokenizer.encode("abc xyz").tokens)
        assert tokenizer.token_to_id("<pad>") == 0
        assert len(tokenizer.get_added_tokens_decoder()) <= 2
        ids = tokenizer.get_vocab().values()
        assert sorted(ids) == list(range(len(ids)))


def test_scores_of_unlikely_characters_do_not_depend_on_their_order():
    """As the trainer's hash tables would have them: one step of 0.0001 after another, in any order."""

    def trained(order):
        scores = {each: -9.0 + 1e-4 * rank for rank, each in enumerate(order)}
        vocabulary = [("<pad>", 0.0), ("ab", -1.0), ("c", -2.0), *scores.items()]
        return tokenizers._make_deterministic(Tokenizer(models.Unigram(vocabulary, 0)), 1).to_str()

    assert trained("xyz") == trained("zxy") == trained("yzx")
    vocabulary = json.loads(trained("zxy"))["model"]["vocab"]
    assert [name for name, _ in vocabulary] == ["<pad>", "ab", "c", "z", "y", "x"]
    assert [score for _, score in vocabulary] == pytest.approx([0, -1, -2, -8.9998, -8.9999, -9.0])


def test_wordpiece_and_unigram_pieces_and_unknown_token():
    tokenizer = tokenizers.train("wordpiece", TEXTS, vocab_size=60, special_tokens=("[PAD]", "[UNK]"))
    tokens = tokenizer.encode("The CATS sat", add_special_tokens=False).tokens
    print(tokens)
    assert tokens[0] == "the"
    assert tokens[1] == "cat"
    assert tokens[2].startswith("##")
    assert tokenizer.encode("日", add_special_tokens=False).ids == [1]
    pieces = tokenizers.train("unigram", TEXTS, vocab_size=60, special_tokens=("<pad>", "</s>", "<unk>"))
    ids = tokenizers.encode(pieces, "the cat sat")
    assert pieces.decode(ids.tolist()) == "the cat sat"
    assert pieces.token_to_id("<unk>") == 2
    assert tokenizers.encode(pieces, "the 日")[-1] == 2


def test_metadata_round_trip():
    tokenizer = tokenizers.train("bpe", TEXTS, vocab_size=280)
    again = tokenizers.from_metadata(tokenizers.to_metadata(tokenizer))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(tokenizers.encode(again, TEXTS[0]), tokenizers.encode(tokenizer, TEXTS[0]))
    with pytest.raises(BadInput, match="cannot be read"):
        tokenizers.from_metadata("{}")


def test_load_published_files_like_transformers(tmp_path):
    trained = tokenizers.train("bpe", TEXTS, vocab_size=290)
    (tmp_path / "new").mkdir()
    trained.save(str(tmp_path / "new" / "tokenizer.json"))
    model = json.loads(trained.to_str())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(model["vocab"] | {"<|endoftext|>": 290}))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (old / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    theirs = import_transformers().GPT2TokenizerFast(
        vocab=model["vocab"] | {"<|endoftext|>": 290}, merges=[tuple(p) for p in model["merges"]]
    )
    text = "The cat's hat\n\n  sat on 17 mats <|endoftext|> with é"
    expected = theirs(text)["input_ids"]
    print(expected)
    assert tokenizers.encode(tokenizers.load(old), text).tolist() == expected
    for path in (tmp_path / "new", tmp_path / "new" / "tokenizer.json"):
        assert tokenizers.load(path).to_str() == trained.to_str()
    words = tokenizers.train(
        "wordpiece", TEXTS, vocab_size=80, special_tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    )
    bert = tmp_path / "bert"
    bert.mkdir()
    names = sorted(words.get_vocab(), key=words.get_vocab().__getitem__)
    (bert / "vocab.txt").write_text("\n".join(names) + "\n")
    theirs = import_transformers().BertTokenizerFast(vocab=words.get_vocab())
    text = "The CAT, with hats! [SEP] ünder"
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizers.encode(tokenizers.load(bert), text).tolist() == expected
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert tokenizers.encode(tokenizers.load(bert), "Cat").tolist() == [1]


def test_load_gpt1_vocabulary_with_end_of_word_marks(tmp_path):
    vocabulary = {"<unk>": 0, "c": 1, "a": 2, "t</w>": 3, "at</w>": 4, "cat</w>": 5, "!</w>": 6, "t": 7}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t</w>\nc at</w>\n")
    tokenizer = tokenizers.load(tmp_path)
    ids = tokenizers.encode(tokenizer, "Cat at!")
    assert ids.tolist() == [5, 4, 6]
    assert tokenizer.decode(ids.tolist()) == "cat at !"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "no tokenizer that can be read"), (None, "holds no tokenizer"), ("{}", "no tokenizer")],
)
def test_load_rejects_unreadable_file_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadInput, match=message) as error:
        tokenizers.load(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="there is no"):
        tokenizers.load(tmp_path / "nowhere.json")


def test_train_rejects_bad_arguments():
    for arguments, message in (
        (("letters", ["a"], 10), "unknown tokenizer 'letters': characters"),
        (("bpe", [], 300), "no text to train"),
        (("bpe", ["a"], 200), "at least 256"),
    ):
        kind, texts, vocab_size = arguments
        with pytest.raises(BadInput, match=message):
            tokenizers.train(kind, texts, vocab_size=vocab_size)


def test_load_rejects_ids_far_beyond_the_vocabulary(tmp_path):
    """The library counts up to the largest one when it writes the tokenizer."""
    content = json.loads(tokenizers.train("characters", ["ab"], vocab_size=10).to_str())
    content["model"]["vocab"]["a"] = 2**32 - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="has ids up to 4294967295: ") as caught:
        tokenizers.load(tmp_path)
    print(caught.value)


@pytest.mark.parametrize("files", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"unk_token": "a"},
    ],
    ids=str,
)
def test_load_follows_the_settings_of_a_folder_like_transformers(settings, files, tmp_path):
    """Those of `tokenizer_config.json` go before what `tokenizer.json` holds."""
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["a", "A", "day", "Day", "e", "é", "日本", "日", "本"],
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    if files == "tokenizer.json":
        tokenizers.load(tmp_path).save(str(tmp_path / "tokenizer.json"))
        if "unk_token" in settings:
            return  # it is in the file
    stated = {"tokenizer_class": "BertTokenizer", **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    theirs = import_transformers().AutoTokenizer.from_pretrained(tmp_path)
    text = "a A day Day é E 日本 x"
    found = tokenizers.load(tmp_path).encode(text, add_special_tokens=False).tokens
    print(settings, found)
    assert found == theirs.tokenize(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "holds a list"),
        ('{"do_basic_tokenize": false}', "sets do_basic_tokenize = False"),
        ("{", "no tokenizer"),
    ],
)
def test_load_refuses_other_settings_of_a_folder(config, message, tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n")
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(BadInput, match=message) as caught:
        tokenizers.load(tmp_path)
    print(caught.value)
