"""Classification of texts, of pairs, or of each word by a recurrent network, trained by `finetune`."""

from typing import Any

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import read_labeled
from torchstone.data.text.sentence_batches import SPECIAL_TOKENS, SpecialTokens
from torchstone.engine.run import Run
from torchstone.parts.recurrent.layers import Cell
from torchstone.tasks.recurrent import build_network
from torchstone.tasks.text.bert_data import BertSetup, all_texts
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune

__all__ = ["build", "evaluate", "predict"]


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to classify texts, on the WordPiece tokens of the training split.

    `seq_len` is the most tokens of a text. Metrics are those of `finetune`. Where each word has a label,
    it is predicted from the output at the word's first piece.
    """
    data = read_labeled(recipe.data, recipe.max_examples)
    texts = list(all_texts(data.train))
    tokenizer = tokenizers.train(
        "wordpiece", texts, vocab_size=recipe.vocab_size, special_tokens=SPECIAL_TOKENS
    )
    special = SpecialTokens.from_tokenizer(tokenizer, recipe.seq_len)
    model, model_config = build_network(
        recipe,
        cell,
        inputs=tokenizer.get_vocab_size(),
        outputs=len(data.classes),
        tokens=True,
        pool="each" if data.has_word_labels else recipe.pool,
    )
    metadata = {"variant": recipe.variant, "tokenizer": tokenizers.to_metadata(tokenizer)}
    metadata |= {"length": special.max_length, "data": data.description}
    setup = BertSetup(model_config, None, tokenizer, special, data, {}, metadata)
    run = finetune(model, recipe, setup, model_config=model_config)
    run.metadata["task"] = "label"
    return run
