"""Questions about images: folders with questions.tsv, digits, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data import identity
from torchstone.data.vision.questions import DIGITS, load_questions
from torchstone.errors import BadInput


def save_folder(folder, count=20, header=True):
    """Images whose color is their number, with two questions each."""
    folder.mkdir(parents=True)
    lines = ["picture\tquestion\tanswer"] * header
    for i in range(count):
        Image.new("RGB", (12, 12), (10 * i, 0, 200)).save(folder / f"p{i:02d}.png")
        lines += [
            f"p{i:02d}.png\tWhich number?\tNumber {i}",
            f"p{i:02d}.png\tis it even?\t{('yes', 'no')[i % 2]}",
        ]
    (folder / "questions.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("header", [True, False])
def test_each_question_of_a_folder_stays_with_its_image(header, tmp_path):
    data = load_questions(save_folder(tmp_path / "mine", header=header), size=8)
    found = []
    for split in (data.train, data.val, data.test):
        assert split.pixels.shape[1:] == (3, 8, 8)
        for each in split.questions:
            number = round(float(split.pixels[each.image, 0].float().mean()) / 10)
            if each.question == "which number?":
                assert each.answer == f"number {number}"
                found.append(number)
            else:
                assert (each.question, each.answer) == ("is it even?", ("yes", "no")[number % 2])
    assert sorted(found) == list(range(20))
    assert "20 images" in data.description
    sizes = [len(split.pixels) for split in (data.train, data.val, data.test)]
    assert sizes == [16, 2, 2]


def broken(folder, fault):
    """A folder with one thing wrong."""
    if fault == "none":
        return folder / "nowhere"
    if fault == "bare":
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "a.png")
        return folder
    save_folder(folder, 9 if fault == "few" else 12)
    listing = folder / "questions.tsv"
    if fault == "lost":
        (folder / "p03.png").unlink()
    elif fault == "columns":
        listing.write_text(listing.read_text().replace("Which number?\tNumber 3", "Which number? Number 3"))
    elif fault == "empty":
        listing.write_text(listing.read_text().replace("Number 3\n", " \n"))
    elif fault == "corrupt":
        (folder / "p03.png").write_bytes(b"\x89PNG nothing")
    return folder


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("none", "no data .*questions.tsv"),
        ("bare", "has no questions.tsv: give a folder with questions.tsv"),
        ("few", "names 9 images; at least 10"),
        ("lost", "questions.tsv names p03.png, which is not there"),
        ("columns", "line 8: give an image, a question and an answer"),
        ("empty", "line 8: give an image, a question and an answer"),
        ("corrupt", "p03.png is not a readable image"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(fault, message, tmp_path):
    with pytest.raises(BadInput, match=message) as refused:
        load_questions(broken(tmp_path / "mine", fault), size=8)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_read_is_left_out_on_request(tmp_path):
    data = load_questions(f"skip-bad:{broken(tmp_path / 'mine', 'lost')}", size=8)
    assert "1 left out" in data.description
    assert "11 images" in data.description


def test_digits_know_their_own_answers():
    from sklearn.datasets import load_digits

    data = load_questions("digits", size=8)
    pixels, target = load_digits(return_X_y=True)
    label_of = {
        np.round(row * (255 / 16)).astype(np.uint8).tobytes(): y
        for row, y in zip(pixels, target, strict=True)
    }
    for each in data.test.questions[:50]:
        digit = int(label_of[data.test.pixels[each.image, 1].numpy().tobytes()])
        assert each.answer == {"digit": DIGITS[digit], "parity": ("even", "odd")[digit % 2]}[each.kind]
    assert len(data.train.pixels) + len(data.val.pixels) + len(data.test.pixels) == len(target)


def test_a_changed_answer_is_other_data(tmp_path):
    folder, heard = save_folder(tmp_path / "mine"), []
    for answer in ("Number 3", "Number 4"):
        listing = folder / "questions.tsv"
        listing.write_text(listing.read_text().replace("Number 3\n", f"{answer}\n"))
        with identity.listen() as found:
            load_questions(folder, size=8)
        heard.append(found.sources)
    assert identity.differences(*heard) is not None


def test_images_on_the_asked_for_device(tmp_path):
    data = load_questions(save_folder(tmp_path / "mine"), size=8, device="cpu")
    assert data.train.pixels.device == torch.device("cpu")
