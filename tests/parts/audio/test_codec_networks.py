"""SEANet against transformers' EnCodec, causality, and lengths."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.audio.codec_networks import SEANetConfig, SEANetDecoder, SEANetEncoder, pad_signal
from torchstone.references.encodec import ours_of, random_encodecs

SMALL = {"dim": 3, "filters": 2, "ratios": (3, 2), "lstm_layers": 1}


def compare(count, seed):
    for number, theirs in enumerate(random_encodecs(count, seed)):
        ours, channels = ours_of(theirs), theirs.config.audio_channels
        # 5 samples are fewer than reflections need
        for length in (5, 41 + number):
            x = torch.randn(2, channels, length, dtype=torch.float64)
            z = theirs.encoder(x)
            assert (ours.encoder(x) - z).abs().max() < 1e-10
            assert (ours.decoder(z) - theirs.decoder(z)).abs().max() < 1e-10


def test_it_is_transformers_network():
    compare(4, seed=1)


@pytest.mark.sweep
def test_it_is_transformers_network_in_many_configurations():
    compare(16, seed=2)


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_network_does_not_look_ahead(causal):
    torch.manual_seed(0)
    config = SEANetConfig(**SMALL, causal=causal, pad_mode="constant")
    encoder, decoder = SEANetEncoder(config).double(), SEANetDecoder(config).double()
    x = torch.randn(1, 1, 60, dtype=torch.float64)
    later = x.clone()
    later[..., 36:] += 1  # six vectors lie before
    with torch.no_grad():
        same = (encoder(x) - encoder(later))[..., :6].abs().max()
        z = encoder(x)
        other = z.clone()
        other[..., 5:] += 1
        same = max(float(same), float((decoder(z) - decoder(other))[..., :30].abs().max()))
    print(f"causal {causal}: earlier outputs change by {same:.2e}")
    assert (same < 1e-14) == causal


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 6, 7, 12, 29])
def test_a_vector_for_each_hop(causal, length):
    config = SEANetConfig(**SMALL, causal=causal)
    assert config.hop == 6
    z = SEANetEncoder(config)(torch.randn(2, 1, length))
    assert z.shape == (2, 3, -(-length // 6))
    assert SEANetDecoder(config)(z).shape == (2, 1, 6 * z.shape[2])


def test_padding_by_reflection_of_what_is_too_short():
    x = torch.tensor([[[1.0, 2]]])
    assert pad_signal(x, 3, 0, "reflect").tolist() == [[[0, 0, 2, 1, 2]]]
    assert pad_signal(x, 1, 0, "reflect").tolist() == [[[2, 1, 2]]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "norms are weight_norm and time_group_norm"),
        ({"causal": False, "trim_right_ratio": 0.5}, "is for causal convolutions"),
        ({"ratios": ()}, "at least one number"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        SEANetConfig(**settings)
