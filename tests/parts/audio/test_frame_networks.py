"""Frames there and back, against torch's own transform; what the encoder hears; lengths; a codec of them."""

import math

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.audio.codec import NeuralCodec
from torchstone.parts.audio.codec_networks import (
    FrameEncoder,
    VocosConfig,
    VocosDecoder,
    overlap_frames,
    pad_frames,
)

SMALL = {"dim": 3, "hop": 6, "width": 8, "inner": 12, "encoder_blocks": 1, "decoder_blocks": 2, "taps": 3}


def short_time_frames(x, window, hop):
    """Windowed frames, one every `hop` samples."""
    return pad_frames(x, window, hop).unfold(-1, window, hop) * torch.hann_window(window, dtype=x.dtype)


@pytest.mark.parametrize(("window", "hop"), [(16, 4), (24, 6), (20, 10)])
def test_frames_are_torchs(window, hop):
    """torch centers its frames on multiples of the hop, we on half a hop later."""
    x = torch.randn(2, 12 * hop, dtype=torch.float64)
    ours = torch.fft.rfft(short_time_frames(x, window, hop))
    surplus = window - hop
    padded = torch.nn.functional.pad(x, (surplus // 2, surplus // 2))
    hann = torch.hann_window(window, dtype=torch.float64)
    theirs = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)
    assert (ours - theirs.transpose(1, 2)).abs().max() < 1e-12


@pytest.mark.parametrize(("window", "hop"), [(16, 4), (24, 6)])
def test_overlapping_undoes_framing(window, hop):
    x = torch.randn(2, 12 * hop, dtype=torch.float64)
    assert (overlap_frames(short_time_frames(x, window, hop), hop) - x).abs().max() < 1e-12


def test_what_comes_back_is_the_nearest_sound():
    """Least squares: the normal equations hold, written out as a matrix."""
    window, hop, count = 16, 4, 9
    hann = torch.hann_window(window, dtype=torch.float64)
    frames = torch.randn(1, count, window, dtype=torch.float64)
    rows = torch.zeros(count * window, (count - 1) * hop + window, dtype=torch.float64)
    for t in range(count):
        for i in range(window):
            rows[t * window + i, t * hop + i] = hann[i]
    nearest = torch.linalg.lstsq(rows[:, 1:], frames.flatten()[:, None]).solution[:, 0]
    first = (window - hop) // 2
    found = overlap_frames(frames, hop)[0]
    # the first sample has weight 0, and is in no solution
    assert (found - nearest[first - 1 : first - 1 + count * hop]).abs().max() < 1e-10


@pytest.mark.parametrize("length", [1, 6, 7, 12, 29])
def test_a_vector_for_each_hop(length):
    config = VocosConfig(**SMALL)
    z = FrameEncoder(config)(torch.randn(2, 1, length))
    assert z.shape == (2, 3, -(-length // 6))
    assert VocosDecoder(config)(z).shape == (2, 1, 6 * z.shape[2])


def test_phases_are_not_heard():
    """A sinusoid far from both ends has the same power whatever its phase."""
    encoder = FrameEncoder(VocosConfig(**{**SMALL, "hop": 8, "encoder_blocks": 0})).double()
    t = torch.arange(800, dtype=torch.float64)
    waves = torch.stack([(2 * math.pi * t / 4 + phase).sin() for phase in (0.0, 0.7)])[:, None]
    with torch.no_grad():
        a, b = encoder(waves)[..., 10:-10]
        quiet = encoder(0.1 * waves)[..., 10:-10]
    assert (a - b).abs().max() < 1e-3
    assert (a - quiet[0]).abs().max() > 0.1, "but its power is"


def test_the_decoder_is_the_inverse_transform_of_magnitudes_and_phases():
    config = VocosConfig(**SMALL)
    decoder = VocosDecoder(config).double()
    z = torch.randn(1, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        m, p = decoder.network(z.transpose(1, 2))[0].chunk(2, -1)
        found = decoder(z)[0, 0]
    n, k = torch.arange(24).double()[:, None], torch.arange(13)[None]
    angles = 2 * math.pi * n * k / 24
    twice = torch.where((k == 0) | (k == 12), 1.0, 2.0).double()  # bins that stand for two
    inside = ((k > 0) & (k < 12)).double()  # the two others are real
    frames = torch.stack(
        [
            (m_t.exp() * twice * (p_t.cos() * angles.cos() - inside * p_t.sin() * angles.sin())).sum(1) / 24
            for m_t, p_t in zip(m, p, strict=True)
        ]
    )
    assert (found - overlap_frames(frames[None], 6)[0]).abs().max() < 1e-10


def test_a_codec_of_frames_has_a_gradient_in_every_parameter():
    torch.manual_seed(0)
    codec = NeuralCodec.from_kwargs(**SMALL, sample_rate=600, num_books=2, num_codes=4, bandwidths=[0.2, 0.4])
    assert codec.config.frame_rate == 100
    x = torch.randn(2, 1, 60)
    output = codec(x)
    assert output.reconstruction.shape == x.shape
    (output.reconstruction.square().mean() + output.quantized.commitment_loss).backward()
    for name, each in codec.named_parameters():
        assert each.grad is not None, name
        assert each.grad.abs().max() > 0, name
    codes = codec.encode_frames(x)
    assert codes.shape == (2, 2, 10)
    assert torch.equal(codec.decode_frames(codes), codec.decoder(codec.quantizer.decode(codes)))


def test_impossible_windows_are_refused():
    with pytest.raises(BadInput, match="at least two hops"):
        VocosConfig(hops=1)
    with pytest.raises(BadInput, match="two halves"):
        VocosConfig(hop=5, hops=4)
