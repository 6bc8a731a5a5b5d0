"""Conversations: only answers are predicted, turns come in any order, and resuming changes nothing."""

import pytest
import torch

from torchstone.data.vision.question_batches import (
    END_ID,
    IMAGE_ID,
    PAD_ID,
    Conversations,
    QuestionBatches,
    check_prompt,
    question_tokenizer,
)
from torchstone.data.vision.questions import Question, QuestionSplit
from torchstone.errors import BadInput

METADATA = {"mean": [0.5] * 3, "std": [0.5] * 3}
ASKED = [("what is it?", "a flag"), ("what color is it?", "red"), ("how many?", "two of them")]


def questions(count=12):
    """One to three about each image; the image's number is in one of the answers."""
    rows = []
    for image in range(count):
        rows += [Question(image, q, a) for q, a in ASKED[: 1 + image % 3]]
        rows.append(Question(image, "which?", f"n{image}"))
    return tuple(rows)


def split(count=12):
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 4, 4)
    return QuestionSplit(pixels.contiguous(), questions(count))


def conversations(image_tokens=3):
    return Conversations(question_tokenizer(questions()), image_tokens)


def stream(**options):
    return QuestionBatches(split(), 5, conversations(), seed=2, metadata=METADATA, **options)


def test_targets_are_the_next_tokens_of_answers_alone():
    talk = conversations(3)
    tokens, targets = talk.batch(
        [[talk.turn(Question(0, *each)) for each in ASKED[:2]], [talk.turn(Question(0, *ASKED[2]))]]
    )
    names = [[talk.tokenizer.id_to_token(i) for i in row] for row in tokens.tolist()]
    image = ["[IMAGE]"] * 3
    first = "[USER] what is it ? [ASSISTANT] a flag [END] [USER] what color is it ? [ASSISTANT] red"
    second = "[USER] how many ? [ASSISTANT] two of them"
    assert names[0] == [*image, *first.split()]
    assert names[1] == [*image, *second.split(), *["[PAD]"] * (len(names[0]) - 3 - len(second.split()))]
    for row, answers in zip(range(2), (["a flag [END]", "red [END]"], ["two of them [END]"]), strict=True):
        at = targets[row].nonzero()[:, 0]
        predicted = [talk.tokenizer.id_to_token(i) for i in targets[row, at].tolist()]
        assert " ".join(predicted) == " ".join(answers)
        # the target at a position is the token at the next one; the last of all is not read
        inside = at[at + 1 < tokens.shape[1]]
        following = tokens[row, inside + 1]
        assert torch.equal(following[following != PAD_ID], targets[row, inside][following != PAD_ID])
    assert targets[:, :3].eq(PAD_ID).all()
    assert (tokens == IMAGE_ID).sum(1).tolist() == [3, 3]


def test_the_end_of_an_answer_is_followed_by_no_target():
    talk = conversations(1)
    tokens, targets = talk.batch([[talk.turn(Question(0, *each)) for each in ASKED]])
    assert targets[tokens == END_ID].eq(PAD_ID).all()


def test_every_question_about_an_image_once_in_each_epoch_in_changing_order():
    batches, seen, orders = stream(), [], set()
    talk = batches.conversations
    for _ in range(24):
        batch = next(batches)
        for image, row in zip(batch.images, batch.tokens.tolist(), strict=True):
            number = round(float((image.mean() + 1) * 127.5))
            words = talk.tokenizer.decode(row, skip_special_tokens=False)
            turns = words.split("[USER]")[1:]
            assert len(turns) == 2 + number % 3
            assert f"n{number}" in words
            seen.append(number)
            if number == 2:
                orders.add(tuple(turn.split("[ASSISTANT]")[0].strip() for turn in turns))
    assert sorted(seen) == sorted(list(range(12)) * 10)
    assert len(orders) > 3


def test_resumed_streams_give_the_same_batches():
    first = stream()
    for _ in range(3):
        next(first)
    state, expected = first.state_dict(), next(first)
    again = stream()
    again.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(expected, next(again), strict=True))


def test_processes_share_a_batch_as_it_is():
    def share(rank):
        talk = conversations()
        return next(QuestionBatches(split(), 6, talk, seed=1, metadata=METADATA, rank=rank, world_size=2))

    talk = conversations()
    joint = next(QuestionBatches(split(), 6, talk, seed=1, metadata=METADATA))
    parts = [share(0), share(1)]
    assert torch.equal(torch.cat([part.images for part in parts]), joint.images)
    for row in range(6):
        own = parts[row // 3].tokens[row % 3]
        common = min(len(own), joint.tokens.shape[1])
        assert torch.equal(own[:common], joint.tokens[row, :common])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "the question is empty"),
        ("what colour is it?", "no question had the word 'colour': did you mean color"),
        ("what is it? " * 5, "at most 8 words.*not 20"),
    ],
)
def test_questions_that_cannot_be_read_are_refused_in_one_line(prompt, message):
    with pytest.raises(BadInput, match=message) as refused:
        check_prompt(question_tokenizer(questions()), prompt, 8)
    assert "\n" not in str(refused.value)


def test_words_are_read_whatever_their_case():
    tokenizer = question_tokenizer(questions())
    check_prompt(tokenizer, "What COLOR is it?", 8)
    assert tokenizer.encode("What COLOR is it?").ids == tokenizer.encode("what color is it ?").ids
