"""What BERT is held against: transformers' classes, with settings and weights drawn at random."""

from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.hub.bert import HEADS, published

CLASSES = 3
UNLABELLED = -100


def drawn(library: ModuleType, seed: int = 2018) -> Iterator[tuple[str, dict, Any, tuple]]:
    """(class, config, network, inputs) of each class in float64 and in float32; inputs are tokens,
    mask and segments of rows that are not all of one length."""
    random = Random(seed)
    for kind in HEADS:
        for dtype in (torch.float64, torch.float32):
            heads, time = random.choice((1, 3, 4)), random.randint(5, 12)
            settings = {
                "hidden_size": heads * random.choice((4, 6)),
                "num_hidden_layers": random.randint(1, 3),
                "num_attention_heads": heads,
                "intermediate_size": random.randint(8, 40),
                "vocab_size": random.randint(20, 60),
                "max_position_embeddings": time + random.randint(0, 3),
                "type_vocab_size": random.randint(2, 3),
                "layer_norm_eps": random.choice((1e-12, 1e-5)),
                "hidden_act": random.choice(("gelu", "relu", "gelu_new", "silu")),
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "tie_word_embeddings": random.random() < 0.6,
                "num_labels": CLASSES,
            }
            torch.manual_seed(random.randrange(2**31))
            theirs = getattr(library, kind)(library.BertConfig(**settings)).to(dtype).train()
            for parameter in theirs.parameters():  # as made, their biases are zero
                nn.init.normal_(parameter, std=0.3)
            tokens = torch.randint(1, settings["vocab_size"], (3, time))
            mask = torch.arange(time) < torch.tensor([[time], [time - 1], [random.randint(3, time)]])
            segments = torch.randint(settings["type_vocab_size"], (3, time))
            config = {**theirs.config.to_dict(), "architectures": [kind]}
            yield kind, config, theirs, (tokens * mask, mask, segments)


def answers(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What is to be told of a row, for every head: an arbitrary function of its tokens."""
    hidden = mask & (tokens % 3 == 1)
    hidden[:, 1] = True
    return {
        "words": torch.where(hidden, (tokens * 7) % 19 + 1, UNLABELLED),
        "stray": tokens[:, 0] % 2,
        "sentence": tokens[:, 0] % CLASSES,
        "tokens": torch.where(mask, tokens % CLASSES, UNLABELLED),
    }


class Asked(nn.Module):
    """One of transformers' networks, asked for its loss and its logits (or hidden states)."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, ...]:
        told, kind = answers(tokens, mask), type(self.model).__name__
        labels = {
            "BertModel": {},
            "BertForPreTraining": {
                "labels": told["words"],
                "next_sentence_label": told["stray"],
            },
            "BertForMaskedLM": {"labels": told["words"]},
            "BertForSequenceClassification": {"labels": told["sentence"]},
            "BertForTokenClassification": {"labels": told["tokens"]},
        }[kind]
        output = self.model(
            tokens, attention_mask=mask.long(), token_type_ids=segments, return_dict=True, **labels
        )
        return output.to_tuple()


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From `Asked`'s names for weights, or their gradients, to those of ours inside a module."""
    inner = {key.removeprefix("model."): value for key, value in tensors.items()}
    return {f"model.{key}": value for key, value in published("", inner).items()}
