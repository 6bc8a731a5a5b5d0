"""transformers' Longformer with random configurations and weights."""

from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import torch

from torchstone.hub import longformer
from torchstone.references import randomize_weights
from torchstone.references.bert import NUM_CLASSES


def random_longformers(library: ModuleType, seed: int = 2020) -> Iterator[tuple[str, dict, Any, tuple]]:
    """(class, config, network, inputs) of each of Longformer's classes, twice in float64 and in float32.

    Inputs are tokens, mask and segments of rows of different lengths and, in all cases but those where the
    first token is global by default, the global tokens: none in one row, several in others.
    """
    rng = Random(seed)
    for kind in longformer.HEADS:
        for number in range(4):
            dtype = (torch.float64, torch.float32)[number % 2]
            heads, layers, time = rng.choice((1, 3, 4)), rng.randint(1, 3), rng.randint(11, 37)
            vocab_size, num_segments = rng.randint(20, 60), rng.randint(1, 2)
            # transformers pads to a multiple of the widest window, which each must divide, and fails at 2
            windows = [rng.choice((4, 8, 16)) for _ in range(layers)]
            own: dict[str, Any] = {
                "hidden_size": heads * rng.choice((4, 6)),
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "intermediate_size": rng.randint(8, 40),
                "attention_window": windows,
                "type_vocab_size": num_segments,
                "layer_norm_eps": rng.choice((1e-12, 1e-5)),
                "hidden_act": rng.choice(("gelu", "relu", "gelu_new", "silu")),
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "vocab_size": vocab_size,
                "pad_token_id": (pad_id := rng.choice((0, 1, 3))),
                "max_position_embeddings": time + pad_id + 1 + rng.randint(0, 3),
                "tie_word_embeddings": rng.random() < 0.6,
            }
            if kind.endswith("Classification"):
                own["num_labels"] = NUM_CLASSES
            torch.manual_seed(rng.randrange(2**31))
            theirs = getattr(library, kind)(library.LongformerConfig(**own)).to(dtype).train()
            randomize_weights(theirs, 0.3)  # as created, their biases are zero
            tokens = torch.randint(pad_id + 1, vocab_size, (3, time))
            mask = torch.arange(time) < torch.tensor([[time], [time - 1], [rng.randint(5, time - 2)]])
            segments = torch.randint(num_segments, (3, time))
            inputs = (tokens.masked_fill(~mask, pad_id), mask, segments)
            if kind != "LongformerForSequenceClassification" or number > 1:
                is_global = torch.zeros_like(mask)
                is_global[0, [0, 3, time - 1]] = True
                is_global[2, rng.randint(1, 4)] = True
                inputs = (*inputs, is_global)
            yield kind, {**theirs.config.to_dict(), "architectures": [kind]}, theirs, inputs
