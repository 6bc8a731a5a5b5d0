"""Crops and token rows: by seed and position, whole recordings, pairs of one speaker, shares of a batch."""

import torch

from torchstone.data.audio.codec_batches import IGNORED, TokenBatches, WaveBatches

CPU = torch.device("cpu")
WAVES = [torch.arange(1.0, n + 1) + 100 * n for n in (3, 5, 8, 12)]


def wave_batches(**changes):
    return WaveBatches(WAVES, 5, 4, **{"books": 2, "codes": 3, "seed": 0, "device": CPU} | changes)


def test_crops_are_pieces_of_the_sounds_and_short_ones_get_silence():
    stream, firsts = wave_batches(), set()
    for _ in range(30):
        batch = next(stream)
        assert batch.waveforms.shape == (4, 1, 5)
        assert batch.candidates.shape == (2, 3)
        lengths = sorted(int(row[0, 0] // 100) for row in batch.waveforms)
        assert lengths == [3, 5, 8, 12], "an epoch is each sound once"
        for row in batch.waveforms[:, 0]:
            n, first = int(row[0] // 100), int(row[0] % 100) - 1
            piece = WAVES[[3, 5, 8, 12].index(n)][first : first + 5]
            assert torch.equal(row[: len(piece)], piece)
            assert not row[len(piece) :].any()
            assert len(piece) == min(n, 5)
            firsts.add((n, first))
    assert {first for n, first in firsts if n == 12} == set(range(8))


def test_waves_go_on_where_they_stopped_and_are_shared():
    stream, other = wave_batches(), wave_batches()
    batches = [next(stream) for _ in range(3)]
    other.load_state_dict({"position": 8})
    for ours, theirs in zip(batches[2], next(other), strict=True):
        assert torch.equal(ours, theirs)
    halves = [next(wave_batches(rank=rank, world_size=2)).waveforms for rank in range(2)]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), batches[0].waveforms)


SPEAKERS = list("aababbbaab")


def build(index, generator):
    """A row that says which recordings it is of."""
    row = torch.tensor([i for i in index for _ in range(i + 1)])
    return row, row + 1


def token_batches(**changes):
    settings = {"pair_probability": 0.5, "seed": 0, "device": CPU} | changes
    return TokenBatches(SPEAKERS, build, 2, **settings)


def test_rows_are_of_one_speaker_and_padding_has_no_loss():
    stream, pairs, firsts = token_batches(), 0, []
    for _ in range(80):
        tokens, targets = next(stream)
        for row, target in zip(tokens, targets, strict=True):
            valid = target != IGNORED
            assert torch.equal(target[valid], row[valid] + 1)
            assert not row[~valid].any()
            index = row[valid].unique_consecutive().tolist()
            assert len({SPEAKERS[i] for i in index}) == 1
            pairs += len(index) > 1 or int(valid.sum()) > index[0] + 1
            firsts.append(index[0])
    print(f"{pairs} of 160 rows are pairs")
    assert 55 < pairs < 105
    counts = torch.bincount(torch.tensor(firsts), minlength=10)
    assert counts.min() >= 14, "not each recording as often"


def test_rows_go_on_where_they_stopped_and_are_shared():
    stream, other = token_batches(), token_batches()
    batches = [next(stream) for _ in range(12)]
    other.load_state_dict({"position": 20})
    for ours, theirs in zip(batches[10:], (next(other), next(other)), strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
    shares = [next(token_batches(rank=rank, world_size=2)).tokens[0] for rank in range(2)]
    for share, row in zip(shares, batches[0].tokens, strict=True):
        assert torch.equal(share, row[: len(share)])
    assert not torch.equal(next(token_batches(seed=1)).tokens, batches[0].tokens)
