"""transformers' BERT and its relatives with random configurations and weights, and the losses of both
sides."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.text.mlm_batches import MLMBatch
from torchstone.data.text.sentence_batches import IGNORE_INDEX, Rows
from torchstone.hub import albert, bert, distilbert
from torchstone.references import randomize_weights

NUM_CLASSES = 3


def random_berts(library: ModuleType, seed: int = 2018) -> Iterator[tuple[str, dict, Any, tuple]]:
    """(class, config, network, inputs) of each of BERT's classes in float64 and in float32.

    Inputs are tokens, mask and segments of rows of different lengths.
    """

    def settings(rng: Random, time: int) -> dict[str, Any]:
        heads = rng.choice((1, 3, 4))
        return {
            "hidden_size": heads * rng.choice((4, 6)),
            "num_hidden_layers": rng.randint(1, 3),
            "num_attention_heads": heads,
            "intermediate_size": rng.randint(8, 40),
            "type_vocab_size": rng.randint(2, 3),
            "layer_norm_eps": rng.choice((1e-12, 1e-5)),
            "hidden_act": rng.choice(("gelu", "relu", "gelu_new", "silu")),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }

    yield from _random_encoders(library, bert.HEADS, library.BertConfig, settings, seed)


def random_alberts(library: ModuleType, seed: int = 2019) -> Iterator[tuple[str, dict, Any, tuple]]:
    """The same of ALBERT's classes, with one or several groups of layers."""

    def settings(rng: Random, time: int) -> dict[str, Any]:
        heads, groups = rng.choice((1, 3, 4)), rng.choice((1, 1, 2))
        return {
            "embedding_size": rng.randint(5, 12),
            "hidden_size": heads * rng.choice((4, 6)),
            "num_hidden_layers": groups + rng.randint(1, 3),
            "num_hidden_groups": groups,
            "inner_group_num": rng.choice((1, 1, 2)),
            "num_attention_heads": heads,
            "intermediate_size": rng.randint(8, 40),
            "type_vocab_size": rng.randint(2, 3),
            "layer_norm_eps": rng.choice((1e-12, 1e-5)),
            "hidden_act": rng.choice(("gelu_new", "gelu", "relu")),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "classifier_dropout_prob": 0.0,
        }

    yield from _random_encoders(library, albert.HEADS, library.AlbertConfig, settings, seed)


def random_distilberts(library: ModuleType, seed: int = 1910) -> Iterator[tuple[str, dict, Any, tuple]]:
    """The same of DistilBERT's classes, which ignore the segments."""

    def settings(rng: Random, time: int) -> dict[str, Any]:
        heads = rng.choice((1, 3, 4))
        return {
            "dim": heads * rng.choice((4, 6)),
            "n_layers": rng.randint(1, 3),
            "n_heads": heads,
            "hidden_dim": rng.randint(8, 40),
            "activation": rng.choice(("gelu", "relu", "silu")),
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "seq_classif_dropout": 0.0,
        }

    yield from _random_encoders(library, distilbert.HEADS, library.DistilBertConfig, settings, seed)


def _random_encoders(
    library: ModuleType, kinds: Iterable[str], make_config: Any, settings: Callable, seed: int
) -> Iterator[tuple[str, dict, Any, tuple]]:
    rng = Random(seed)
    for kind in kinds:
        for dtype in (torch.float64, torch.float32):
            time, vocab_size = rng.randint(5, 12), rng.randint(20, 60)
            own = {
                **settings(rng, time),
                "vocab_size": vocab_size,
                "max_position_embeddings": time + rng.randint(0, 3),
                "tie_word_embeddings": rng.random() < 0.6,
            }
            if kind.endswith("Classification"):
                own["num_labels"] = NUM_CLASSES
            torch.manual_seed(rng.randrange(2**31))
            theirs = getattr(library, kind)(make_config(**own)).to(dtype).train()
            randomize_weights(theirs, 0.3)  # as created, their biases are zero
            tokens = torch.randint(1, vocab_size, (3, time))
            mask = torch.arange(time) < torch.tensor([[time], [time - 1], [rng.randint(3, time)]])
            segments = torch.randint(own.get("type_vocab_size", 2), (3, time))
            config = {**theirs.config.to_dict(), "architectures": [kind]}
            yield kind, config, theirs, (tokens * mask, mask, segments)


def make_labels(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Labels for every head: an arbitrary function of a row's tokens."""
    is_masked = mask & (tokens % 3 == 1)
    is_masked[:, 1] = True
    return {
        "masked": torch.where(is_masked, (tokens * 7) % 19 + 1, IGNORE_INDEX),
        "is_random_next": tokens[:, 0] % 2,
        "sentence": tokens[:, 0] % NUM_CLASSES,
        "tokens": torch.where(mask, tokens % NUM_CLASSES, IGNORE_INDEX),
    }


@contextlib.contextmanager
def softmax_in_own_precision() -> Generator[None, None, None]:
    """Within it float64 stays what it is, where transformers' Longformer takes its softmax in float32."""
    plain = F.softmax

    def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return plain(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype)

    F.softmax = softmax  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        F.softmax = plain


LOGGER = logging.getLogger("transformers.models.big_bird.modeling_big_bird")


@contextlib.contextmanager
def unobtrusive() -> Generator[None, None, None]:
    """Within it transformers' BigBird is quiet, and NumPy's global generator, which it seeds, comes out as it
    was."""
    state, level = np.random.get_state(), LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        np.random.set_state(state)
        LOGGER.setLevel(level)


class TransformersEncoder(nn.Module):
    """One of transformers' networks: its loss, and its logits (or hidden states)."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, mask: Tensor, segments: Tensor, global_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        labels, kind = make_labels(tokens, mask), type(self.model).__name__
        pair = "sentence_order_label" if kind.startswith("Albert") else "next_sentence_label"
        arguments: dict[str, Tensor] = {}
        if kind.endswith(("ForPreTraining", "ForMaskedLM")):
            arguments["labels"] = labels["masked"]
        if kind.endswith("ForPreTraining"):
            arguments[pair] = labels["is_random_next"]
        if kind.endswith("Classification"):
            arguments["labels"] = labels["sentence" if "Sequence" in kind else "tokens"]
        if not kind.startswith("DistilBert"):  # which has no segments
            arguments["token_type_ids"] = segments
        if global_mask is not None:
            arguments["global_attention_mask"] = global_mask.long()
        with softmax_in_own_precision(), unobtrusive():
            output = self.model(tokens, attention_mask=mask.long(), return_dict=True, **arguments)
        return output.to_tuple()


class EncoderWithLoss(nn.Module):
    """Our network: its loss by our objective, and its logits (or hidden states).

    Args:
        pretraining_loss: (output of a pre-training head, batch) -> metrics with `loss`.
    """

    def __init__(self, model: nn.Module, pretraining_loss: Callable[[Any, MLMBatch], dict[str, Tensor]]):
        super().__init__()
        self.model, self.pretraining_loss = model, pretraining_loss

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """`more` are global masks, of networks that have global tokens."""
        model: Any = self.model
        rows, labels = Rows(tokens, mask, segments), make_labels(tokens, mask)
        options = dict(zip(("global_mask",), more, strict=False))
        output = model.logits(*rows, **options)
        if model.head == "none":
            return output if isinstance(output, tuple) else (output,)
        if model.head in ("sentence", "tokens"):
            flat = labels[model.head].flatten()
            return F.cross_entropy(output.flatten(0, -2), flat, ignore_index=IGNORE_INDEX), output
        is_masked = labels["masked"] != IGNORE_INDEX
        count = is_masked.sum(1)
        positions = is_masked.int().argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
        targets = labels["masked"].gather(1, positions)
        weights = (targets != IGNORE_INDEX).to(next(model.parameters()).dtype)
        weights = weights * len(tokens) / is_masked.sum()
        batch = MLMBatch(rows, positions, targets, weights, labels["is_random_next"])
        loss = self.pretraining_loss(model.logits(*rows, positions, **options), batch)["loss"]
        return (loss, *output) if isinstance(output, tuple) else (loss, output)
