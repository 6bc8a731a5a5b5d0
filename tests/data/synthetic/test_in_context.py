"""Episodes of in-context classification: labels follow from the episode alone, and from nothing else."""

import pytest
import torch

from torchstone.data.synthetic.in_context import (
    IGNORED,
    LABELS,
    SYMBOLS,
    InContextEpisodes,
    draw_episodes,
    is_in_context,
    make_tokenizer,
    optimal_accuracy,
    symbols_per_episode,
)
from torchstone.data.text import tokenizers
from torchstone.errors import BadInput


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_draw_episodes_maps_each_symbol_to_one_label():
    symbols, labels = draw_episodes(400, 60, symbols=4, generator=generator())
    mappings = []
    for episode in range(400):
        pairs = {*zip(symbols[episode].tolist(), labels[episode].tolist(), strict=True)}
        mappings.append(tuple(sorted(pairs)))
        assert len(pairs) == len({symbol for symbol, _ in pairs}) == 4
    assert len(set(mappings)) > 390, "fresh in each episode"
    counts = torch.bincount(symbols.flatten() * len(LABELS) + labels.flatten(), minlength=64).double()
    share = counts.view(8, 8) / counts.view(8, 8).sum(1, keepdim=True)
    print(share.min(), share.max())
    assert (share - 1 / 8).abs().max() < 0.12, "over episodes a symbol tells nothing of its label"


@pytest.mark.parametrize(("shots", "symbols"), [(0, 4), (1, 4), (4, 4), (16, 4), (3, 8), (2, 1)])
def test_optimal_accuracy_is_that_of_looking_it_up(shots, symbols):
    episodes = draw_episodes(20_000, shots + 1, symbols=symbols, generator=generator())
    match = episodes.symbols[:, :-1] == episodes.symbols[:, -1:]
    is_known = match.any(1)
    found = episodes.labels[:, :-1].gather(1, match.long().argmax(1, keepdim=True))[:, 0] if shots else 0
    guess = torch.randint(8, (20_000,), generator=generator(1))
    answers = torch.where(is_known, found, guess)
    accuracy = (answers == episodes.labels[:, -1]).double().mean().item()
    print(accuracy, optimal_accuracy(shots, symbols))
    assert abs(accuracy - optimal_accuracy(shots, symbols)) < 0.012


def test_in_context_episodes_ask_for_labels_only():
    x, y = next(InContextEpisodes(33, 50, seed=3))
    assert x.shape == y.shape == (50, 33)
    text = [make_tokenizer().decode(row.tolist()).replace(" ", "") for row in x]
    print(text[0])
    assert all(set(each[::2]) <= set(SYMBOLS) and set(each[1::2]) <= set(LABELS) for each in text)
    assert torch.equal(y[:, :-1:2], x[:, 1::2]), "a symbol's target is the label after it"
    assert (y[:, 1::2] == IGNORED).all()
    assert (y[:, -1] >= 0).all(), "the last label is predicted, and not read"
    assert next(InContextEpisodes(64, 2, seed=3))[0].shape == (2, 63)


def test_episodes_texts_are_what_the_stream_encodes():
    stream = InContextEpisodes(9, 3, symbols=2, seed=0)
    x, _ = next(stream)
    from torchstone.parts.seeding import SeedStream, derive_generator

    episodes = draw_episodes(
        3, 5, symbols=2, generator=derive_generator(0, SeedStream.IN_CONTEXT_EPISODES, 0)
    )
    for row, text in zip(x, episodes.texts(), strict=True):
        assert torch.equal(row, tokenizers.encode(make_tokenizer(), text)[:-1])


def test_in_context_episodes_resume_and_share():
    a, b, other = (InContextEpisodes(12, 6, seed=seed) for seed in (1, 1, 2))
    for _ in range(3):
        next(a)
    b.load_state_dict(a.state_dict())
    shares = [InContextEpisodes(12, 6, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for share in shares:
        share.load_state_dict(a.state_dict())
    x, y = next(a)
    assert torch.equal(next(b)[1], y)
    assert torch.equal(torch.cat([next(share)[0] for share in shares]), x)
    assert not torch.equal(next(other)[0], x)
    assert not torch.equal(next(a)[0], x)


def test_in_context_refuses_what_is_no_episode():
    assert is_in_context("in_context")
    assert is_in_context("in_context:3")
    assert not is_in_context("in_contexts")
    assert symbols_per_episode("in_context") == 4
    assert symbols_per_episode("in_context:8") == 8
    for spec in ("in_context:0", "in_context:9", "in_context:", "in_context:x", "in_context:-1"):
        with pytest.raises(BadInput, match="1 to 8 symbols"):
            symbols_per_episode(spec)
    with pytest.raises(BadInput, match="no room for an example"):
        InContextEpisodes(2, 4, seed=0)
