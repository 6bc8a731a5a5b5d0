"""The codec against transformers' EnCodec: codes at every bandwidth, sounds, chunks and levels."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.audio.codec import NeuralCodec, overlap_add
from torchstone.references.encodec import ours_of, random_encodecs
from torchstone.references.transformers import import_transformers


def test_codes_at_every_bandwidth_and_the_sound_are_transformers():
    for number, theirs in enumerate(random_encodecs(4, seed=3)):
        ours = ours_of(theirs)
        x = torch.randn(2, theirs.config.audio_channels, 50 + number, dtype=torch.float64)
        for bandwidth in theirs.config.target_bandwidths:
            expected = theirs(x, bandwidth=bandwidth)
            encoded = ours.encode(x, ours.config.books_at(bandwidth))
            assert torch.equal(encoded.codes[0], expected.audio_codes[0])
            y = ours.decode(encoded)
            assert (y - expected.audio_values[..., : x.shape[-1]]).abs().max() < 1e-10


def test_chunks_and_levels_are_transformers():
    """As at 48 kHz: each chunk is divided by its level, and they are faded into each other."""
    torch.manual_seed(0)
    config = import_transformers().EncodecConfig(
        audio_channels=2,
        sampling_rate=100,
        hidden_size=3,
        num_filters=2,
        upsampling_ratios=[3, 2],
        norm_type="time_group_norm",
        use_causal_conv=False,
        codebook_size=8,
        target_bandwidths=[0.06, 0.2],
        normalize=True,
        chunk_length_s=0.3,
        overlap=0.2,
    )
    theirs = import_transformers().EncodecModel(config).double().eval()
    for layer in theirs.quantizer.layers:
        layer.codebook.embed.normal_()
    ours, x = ours_of(theirs), torch.randn(1, 2, 100, dtype=torch.float64)
    coded = theirs.encode(x, bandwidth=0.2)
    encoded = ours.encode(x)
    lengths = [codes.shape[2] for codes in encoded.codes]
    print(f"{len(lengths)} chunks of {lengths} frames")
    assert len(lengths) == 5
    for codes, expected, count in zip(encoded.codes, coded.audio_codes, lengths, strict=True):
        assert torch.equal(codes, expected[..., :count])
    assert encoded.scales is not None
    for scale, expected in zip(encoded.scales, coded.audio_scales, strict=True):
        assert torch.allclose(scale, expected[:, 0], atol=1e-12)
    expected = theirs.decode(
        coded.audio_codes, coded.audio_scales, last_frame_pad_length=coded.last_frame_pad_length
    ).audio_values[..., :100]
    assert (ours.decode(encoded) - expected).abs().max() < 1e-10


def test_equal_overlapping_chunks_are_not_changed():
    x = torch.randn(1, 1, 20)
    chunks = [x[..., first : first + 8] for first in (0, 6, 12)]
    assert torch.allclose(overlap_add(chunks, 6), x, atol=1e-6)


def test_the_first_convolution_keeps_the_power():
    """torch's own initialization lets a signal fade away through the layers."""
    torch.manual_seed(0)
    codec = NeuralCodec.from_kwargs(filters=16, dim=16, ratios=[2, 2], num_books=1, num_codes=4)
    z = codec.encoder(torch.randn(4, 1, 400))
    print(f"deviation of the vectors {float(z.std()):.2f}")
    assert 0.3 < float(z.std()) < 5


def test_an_unknown_bandwidth_is_refused():
    with pytest.raises(BadInput, match=r"1\.5, 3, 6, 12, 24 kbit/s, not 5"):
        NeuralCodec.from_kwargs(filters=2, dim=2, num_books=1, num_codes=4).config.books_at(5.0)
