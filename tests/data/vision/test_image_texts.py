"""Pictures with all their captions: OpenMoji's names and languages, shapes, folders with captions.tsv, batches."""

import pytest
import torch
from PIL import Image

from torchstone.data.text import tokenizers
from torchstone.data.vision import image_texts
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.image_text_batches import (
    END,
    START,
    ImageTextBatches,
    check_tokenizer,
    encode_texts,
    positive_pairs,
)
from torchstone.data.vision.image_texts import LANGUAGES, load_image_texts
from torchstone.errors import BadInput


def write(folder, count=24, lines=None):
    """Pictures whose color is their number; two captions of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (12, 12), (10 * i, 0, 200)).save(folder / f"p{i:02d}.png")
    own = [f"p{i:02d}.png\t{text}" for i in range(count) for text in (f"Picture {i}", f"number {i}")]
    (folder / "captions.tsv").write_text("\n".join(own if lines is None else lines) + "\n")
    return folder


def test_load_image_texts_of_a_folder_keeps_every_caption(tmp_path):
    data = load_image_texts(write(tmp_path / "mine"), size=8)
    rows = []
    for split in (data.train, data.val, data.test):
        for image, row in zip(split.images, split.labels.tolist(), strict=True):
            number = int(image[0].float().mean()) // 10
            assert data.texts[row] == (f"picture {number}", f"number {number}")
            rows.append(row)
    assert sorted(rows) == list(range(24))
    assert "24 images with 48 captions" in data.description
    assert data.captions(data.test)[0].startswith("picture ")
    assert bool(data.is_novel(data.test).all())


def test_captions_tsv_may_have_the_names_of_its_columns(tmp_path):
    folder = write(tmp_path / "mine", 12)
    table = folder / "captions.tsv"
    table.write_text("file\tcaption\n" + table.read_text())
    assert len(load_image_texts(folder, size=8).texts) == 12


LINES = [f"p{i:02d}.png\ttext {i}" for i in range(12)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p99.png\tnowhere", "captions.tsv, line 4 names p99.png, which is not there"),
        ("p03.png no tab", "captions.tsv, line 4: give an image's name, a tab and its caption"),
        ("\tno name", "captions.tsv, line 4: give an image's name"),
        ("p03.png\t ", "line 4: .*p03.png has an empty caption"),
    ],
)
def test_captions_tsv_with_a_wrong_line_is_one_clear_line(line, message, tmp_path):
    folder = write(tmp_path / "mine", 12, [*LINES[:3], line, *LINES[4:]])
    with pytest.raises(BadInput, match=message) as raised:
        load_image_texts(folder, size=8)
    assert "\n" not in str(raised.value)
    if "p99" in line:
        assert len(load_image_texts(f"skip-bad:{folder}", size=8).texts) == 11


def test_load_image_texts_of_shapes_holds_out_what_their_words_describe():
    data = load_image_texts("shapes", size=16)
    assert len(data.texts) == 240 == len({each[0] for each in data.texts})
    assert all(each[0].split()[1:3] == each[1].split() for each in data.texts)
    again = load_image_texts("shapes", size=16)
    assert torch.equal(data.test.images, again.test.images)


@pytest.fixture
def emoji(monkeypatch):
    """Twenty drawings without an archive, two of them flags, one known in English only; five are one family."""
    codes = [f"1F4{i:02X}" for i in range(0x90, 0xA2)] + ["1F1E9-1F1EA", "1F3F4-E0067"]
    english = {code: {"en": f":Thing_{i}:", "alias": [f":alias_{i}:"]} for i, code in enumerate(codes)}
    german = {code: f":ding_{i}:" for i, code in enumerate(codes) if i}

    def names(language=""):
        return german if language else english

    def drawings(size, known):
        own = [code for code in codes if code in known]
        images = torch.arange(len(own), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, size, size)
        families = ["all" if i < 5 else code for i, code in enumerate(own)]
        return images.numpy(), own, families

    monkeypatch.setattr(image_texts, "read_unicode_names", names)
    monkeypatch.setattr(image_texts, "load_named_drawings", drawings)
    monkeypatch.setattr(image_texts, "NUM_TEST", 3)
    monkeypatch.setattr(image_texts, "NUM_VAL", 2)


def test_load_image_texts_of_openmoji_has_aliases_and_languages(emoji):
    data = load_image_texts("openmoji", size=4, languages=("en", "de"))
    assert len(data.texts) == 18  # flags are left out
    assert data.texts[3] == ("thing 3", "alias 3")
    assert data.translations[0] == ()
    assert data.translations[3] == ("ding 3",)
    assert [len(split) for split in (data.train, data.val, data.test)] == [13, 2, 3]
    german = load_image_texts("openmoji", size=4, languages=("de", "en"))
    assert len(german.texts) == 17
    assert german.texts[2] == ("ding 3",)
    known = {data.families[row] for row in data.train.labels.tolist()}
    expected = [data.families[row] not in known for row in data.test.labels.tolist()]
    assert data.is_novel(data.test).tolist() == expected


def test_load_image_texts_refuses_unknown_languages(emoji):
    with pytest.raises(BadInput, match="no names in the language 'eo': there are en, ar"):
        load_image_texts("openmoji", size=4, languages=("en", "eo"))
    assert len(LANGUAGES) == 14


# ------------------------------------------------------------------------------------------ batches


def batches(data, *, translation_prob=0.5, seed=0, batch_size=8, **share):
    texts = [text for group in (*data.texts, *data.translations) for text in group]
    tokenizer = tokenizers.train("wordpiece", texts, vocab_size=200, special_tokens=(START, END))
    images = ImageBatches(data.train, batch_size, seed=seed, metadata=data.metadata, **share)
    stream = ImageTextBatches(images, data, tokenizer, max_length=8, translation_prob=translation_prob)
    return stream, tokenizer


def read(tokenizer, tokens):
    return [tokenizer.decode(row.tolist()) for row in tokens]


@pytest.mark.parametrize(("probability", "german"), [(0.0, 0.0), (1.0, 0.9), (0.5, 0.45)])
def test_image_text_batches_draw_a_caption_of_each_picture(emoji, probability, german):
    data = load_image_texts("openmoji", size=4, languages=("en", "de"))
    stream, tokenizer = batches(data, translation_prob=probability)
    found = []
    for _ in range(60):
        batch = next(stream)
        assert batch.images.shape == (8, 3, 4, 4)
        assert batch.tokens.shape == (8, 8)
        for picture, text in zip(batch.pictures.tolist(), read(tokenizer, batch.tokens), strict=True):
            assert text in (*data.texts[picture], *data.translations[picture])
            found.append(text)
    share = sum(text.startswith("ding") for text in found) / len(found)
    print(f"{share:.2f} in the second language")
    assert abs(share - german) < 0.1
    if probability < 1:
        aliases = sum(text.startswith("alias") for text in found) / len(found)
        assert abs(aliases - (1 - probability) / 2) < 0.1


def test_image_text_batches_resume_and_share(emoji):
    data = load_image_texts("openmoji", size=4, languages=("en", "de"))
    whole = [next(batches(data)[0])]
    stream, _ = batches(data)
    whole = [next(stream) for _ in range(3)]
    resumed, _ = batches(data)
    resumed.load_state_dict({"position": 16})
    again = next(resumed)
    assert all(torch.equal(a, b) for a, b in zip(again, whole[2], strict=True))
    parts = [next(batches(data, rank=rank, world_size=2)[0]) for rank in (0, 1)]
    for name in ("tokens", "pictures", "texts"):
        joint = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joint, getattr(whole[0], name))
    other = next(batches(data, seed=1)[0])
    assert not torch.equal(other.tokens, whole[0].tokens)


def test_positive_pairs_have_a_picture_or_a_text_in_common():
    data = load_image_texts("shapes", size=4)
    stream, tokenizer = batches(data, batch_size=64)
    batch = next(stream)
    texts = read(tokenizer, batch.tokens)
    positive = positive_pairs((batch.pictures, batch.pictures), (batch.texts, batch.texts))
    expected = [[a == b for a in texts] for b in texts]
    print(f"{int(positive.sum()) - 64} pairs beside the diagonal")
    assert positive.tolist() == expected
    assert int(positive.sum()) > 64


def test_encode_texts_keeps_the_end_where_it_cuts_off():
    tokenizer = tokenizers.train("wordpiece", ["a b c d"], vocab_size=50, special_tokens=(START, END))
    rows = encode_texts(tokenizer, ["a b c d", "a", ""], 4)
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    a, b = (tokenizer.token_to_id(letter) for letter in "ab")
    assert rows.tolist() == [[start, a, b, end], [start, a, end, end], [start, end, end, end]]
    with pytest.raises(BadInput, match=r"no <\|startoftext\|>"):
        encode_texts(tokenizers.train("wordpiece", ["a"], vocab_size=50), ["a"], 4)


def test_check_tokenizer_refuses_another_networks():
    tokenizer = tokenizers.train("wordpiece", ["a b"], vocab_size=50, special_tokens=(START, END))
    count = tokenizer.get_vocab_size()
    check_tokenizer(tokenizer, count, 1, "here")
    with pytest.raises(BadInput, match=f"ids up to {count - 1}, but the network knows {count - 1}"):
        check_tokenizer(tokenizer, count - 1, 1, "here")
    with pytest.raises(BadInput, match="ends texts with token 1, but the network reads token 5"):
        check_tokenizer(tokenizer, count, 5, "here")
    plain = tokenizers.train("wordpiece", ["a b"], vocab_size=50)
    with pytest.raises(BadInput, match=r"here has no <\|startoftext\|>"):
        check_tokenizer(plain, count, 1, "here")
