"""BERT's data: documents, and rows with labels of words."""

from types import SimpleNamespace

import pytest

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledTexts
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SPECIAL_TOKENS, SpecialTokens
from torchstone.errors import BadInput
from torchstone.tasks.text.bert_data import build_rows, prepare, split_documents


def test_build_rows_labels_first_piece_of_each_word():
    tokenizer = tokenizers.train("wordpiece", ["ab ab ab c"], size=12, special=SPECIAL_TOKENS)
    special = SpecialTokens.from_tokenizer(tokenizer, 10)
    part = LabeledTexts([("ab", "cab", "c")], None, [[1, 2, 0]])
    (row,), (labels,) = build_rows(part, tokenizer, special)
    pieces = [tokenizer.id_to_token(i) for i in row[0]]
    print(list(zip(pieces, labels, strict=True)))
    assert len(pieces) == len(labels)
    begins = [not p.startswith("##") and p not in ("[CLS]", "[SEP]") for p in pieces]
    assert [label != IGNORE_INDEX for label in labels] == begins
    assert [label for label in labels if label != IGNORE_INDEX] == [1, 2, 0]


def test_split_documents_keeps_all_text():
    text = "\n\n".join(f"paragraph {i} of a text" for i in range(500))
    documents = split_documents(text)
    assert " ".join(documents) == text.replace("\n\n", " ")
    assert len(documents) > 4


def test_prepare_rejects_unknown_task():
    with pytest.raises(BadInput, match="task is classify or masked_lm, not 'words'"):
        prepare(SimpleNamespace(task="words"), {})
