"""Labels of texts, of pairs, or of each word, by a recurrent network, as `tasks.sentences` trains them."""

from typing import Any

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import read_labelled
from torchstone.data.text.sentence_batches import SPECIAL, Frame
from torchstone.engine.run import Run
from torchstone.parts.recurrent.layers import Cell
from torchstone.tasks.build_network import build_network
from torchstone.tasks.text.bert_data import Start, texts_of
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune

__all__ = ["build", "evaluate", "predict"]


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to tell labels, by the words' pieces of the training split.

    The recipe states data, most, vocabulary, length (pieces a text may have), pool; metrics are
    `tasks.sentences.finetune`'s. Where each word has a label, each is told from the output at its
    first piece.
    """
    data = read_labelled(recipe.data, recipe.most)
    texts = list(texts_of(data.train))
    tokenizer = tokenizers.learn("wordpiece", texts, size=recipe.vocabulary, special=SPECIAL)
    frame = Frame.of(tokenizer, recipe.length)
    model, model_config = build_network(
        recipe,
        cell,
        inputs=tokenizer.get_vocab_size(),
        outputs=len(data.classes),
        tokens=True,
        pool="each" if data.words else recipe.pool,
    )
    metadata = {"variant": recipe.variant, "tokenizer": tokenizers.to_metadata(tokenizer)}
    metadata |= {"length": frame.length, "data": data.note}
    start = Start(model_config, None, tokenizer, frame, data, {}, metadata)
    run = finetune(model, recipe, start, model_config=model_config)
    run.metadata["task"] = "label"
    return run
