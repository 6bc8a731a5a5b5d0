"""Up- and downsampling against the definition: zeros in between, padding, a plain convolution, every n-th pixel."""

import pytest
import torch

from torchstone.parts.gan.resample import fir_filter, upfirdn2d, upsample2d


def by_definition(x, fir, up, down, padding, gain):
    batch, channels, height, width = x.shape
    stuffed = x.new_zeros(batch, channels, height * up, width * up)
    stuffed[:, :, ::up, ::up] = x
    before, after = padding
    canvas = x.new_zeros(batch, channels, height * up + before + after, width * up + before + after)
    canvas[:, :, before : before + height * up, before : before + width * up] = stuffed
    taps = len(fir)
    rows, columns = canvas.shape[2] - taps + 1, canvas.shape[3] - taps + 1
    y = x.new_zeros(batch, channels, rows, columns)
    for i in range(taps):
        for j in range(taps):  # a convolution: the filter's last tap meets the first pixel
            y += gain * fir[taps - 1 - i, taps - 1 - j] * canvas[:, :, i : i + rows, j : j + columns]
    return y[:, :, ::down, ::down]


@pytest.mark.parametrize(
    ("up", "down", "padding"),
    [(1, 1, (1, 1)), (1, 1, (2, 0)), (1, 2, (1, 1)), (1, 2, (0, 3)), (2, 1, (2, 1)), (2, 1, (3, 3)), (3, 2, (2, 0))],
)  # fmt: skip
def test_upfirdn2d_equals_definition(up, down, padding):
    fir = torch.randn(4, 4, dtype=torch.float64)  # not symmetric: a flipped filter shows
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    ours = upfirdn2d(x, fir, up=up, down=down, padding=padding, gain=1.7)
    assert torch.allclose(ours, by_definition(x, fir, up, down, padding, 1.7), atol=1e-12)


def test_filter_has_sum_1_and_upsampling_keeps_a_constant():
    assert float(fir_filter().sum()) == pytest.approx(1)
    assert fir_filter()[0].tolist() == pytest.approx([1 / 64, 3 / 64, 3 / 64, 1 / 64])
    y = upsample2d(torch.full((1, 2, 6, 6), 3.0), fir_filter())
    assert y.shape == (1, 2, 12, 12)
    assert torch.allclose(y[:, :, 2:-2, 2:-2], torch.tensor(3.0))
