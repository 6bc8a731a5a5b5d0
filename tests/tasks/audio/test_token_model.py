"""Token numbers: sections do not overlap, and each way back is exact."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.tasks.audio.token_model import TokenLayout, deinterleave, interleave

LAYOUT = TokenLayout(fine0=4, fine1=4, end=1, label=3)


def test_offsets_invert_exactly():
    seen = []
    for section, size in LAYOUT.sizes.items():
        ids = torch.arange(size)
        tokens = LAYOUT.tokens(section, ids)
        assert torch.equal(LAYOUT.ids(section, tokens), ids)
        assert (tokens[0], tokens[-1] + 1) == LAYOUT.span(section)
        seen += tokens.tolist()
    assert seen == list(range(LAYOUT.size))
    assert LAYOUT.sections().tolist() == [0] * 4 + [1] * 4 + [2] + [3] * 3
    assert LAYOUT.token("label", 2) == LAYOUT.size - 1


def test_codes_frame_by_frame_invert_exactly():
    codes = torch.tensor([[0, 1, 3], [2, 0, 1]])
    tokens = interleave(LAYOUT, "fine", codes)
    assert tokens.tolist() == [0, 6, 1, 4, 3, 5]
    assert torch.equal(deinterleave(LAYOUT, "fine", tokens, 2), codes)
    with pytest.raises(BadInput, match="fine0 has the tokens 0 to 3, not 6"):
        deinterleave(LAYOUT, "fine", tokens.roll(1), 2)
    with pytest.raises(BadInput, match="5 tokens are no whole frames of 2"):
        deinterleave(LAYOUT, "fine", tokens[:5], 2)


def test_numbers_of_other_sections_are_refused():
    with pytest.raises(BadInput, match="label has the numbers 0 to 2, not 3"):
        LAYOUT.tokens("label", torch.tensor([0, 3]))
    with pytest.raises(BadInput, match="end has the tokens 8 to 8, not 7"):
        LAYOUT.ids("end", torch.tensor([7]))
