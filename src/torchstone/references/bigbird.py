"""transformers' BigBird with random configurations and weights."""

from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import torch

from torchstone.hub import bigbird
from torchstone.references import randomize_weights
from torchstone.references.bert import NUM_CLASSES


def random_bigbirds(library: ModuleType, seed: int = 2007) -> Iterator[tuple[str, dict, Any, tuple]]:
    """(class, config, network, inputs) of each of BigBird's classes, in training and in evaluation, in
    float64 and in float32.

    Inputs are tokens, mask and segments of rows of different lengths. Some are so short that the network
    turns to full attention.
    """
    rng = Random(seed)
    for kind in bigbird.HEADS:
        for number in range(4):
            dtype, is_training = (torch.float64, torch.float32)[number % 2], number in (0, 3)
            heads, size, count = rng.choice((1, 2, 3)), rng.choice((2, 3, 4)), rng.randint(1, 3)
            shortest = (5 + 2 * count) * size + 1  # of sparse attention
            time = shortest + rng.randint(0, 15)
            if rng.random() < 0.15 or (number == 1 and kind == "BigBirdModel"):
                time = rng.randint(size, shortest - 1)
            vocab_size, num_segments = rng.randint(20, 60), rng.randint(1, 3)
            own: dict[str, Any] = {
                "hidden_size": heads * rng.choice((4, 6)),
                "num_hidden_layers": rng.randint(1, 3),
                "num_attention_heads": heads,
                "intermediate_size": rng.randint(8, 40),
                "block_size": size,
                "num_random_blocks": count,
                "type_vocab_size": num_segments,
                "layer_norm_eps": rng.choice((1e-12, 1e-5)),
                "hidden_act": rng.choice(("gelu", "relu", "gelu_new", "silu")),
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "use_bias": rng.random() < 0.7,
                "rescale_embeddings": rng.random() < 0.3,
                "vocab_size": vocab_size,
                "sep_token_id": None,
                "pad_token_id": (pad_id := rng.choice((0, 1, 3))),
                "max_position_embeddings": -(-time // size) * size + rng.randint(0, 3),
                "tie_word_embeddings": rng.random() < 0.6,
            }
            if kind.endswith("Classification"):
                own["num_labels"] = NUM_CLASSES
            torch.manual_seed(rng.randrange(2**31))
            theirs = getattr(library, kind)(library.BigBirdConfig(**own)).to(dtype).train(is_training)
            randomize_weights(theirs, 0.3)  # as created, their biases are zero
            if kind not in ("BigBirdModel", "BigBirdForPreTraining"):
                theirs.bert.pooler.requires_grad_(False)  # which nothing reads
            tokens = torch.randint(pad_id + 1, vocab_size, (3, time))
            mask = torch.arange(time) < torch.tensor([[time], [time - 1], [rng.randint(size, time)]])
            segments = torch.randint(num_segments, (3, time))
            config = {**theirs.config.to_dict(), "architectures": [kind]}
            yield kind, config, theirs, (tokens.masked_fill(~mask, pad_id), mask, segments)
