"""The invertible 1 × 1 convolution: its matrix, determinant and inverse against automatic differentiation."""

import pytest
import torch

from torchstone.parts.flow.invertible_conv import HalvesConv1x1, InvertibleConv1x1

BOTH = pytest.mark.parametrize("use_lu", [True, False], ids=["LU", "plain"])


def layer_of(channels: int, use_lu: bool, *, seed: int = 0, dtype=torch.float64) -> InvertibleConv1x1:
    """One that is no rotation any more: a rotation's log-determinant is 0."""
    torch.manual_seed(seed)
    layer = InvertibleConv1x1(channels, use_lu).to(dtype)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return layer


@BOTH
@pytest.mark.parametrize("channels", [1, 2, 5, 12])
def test_conv1x1_log_det_and_inverse(channels, use_lu):
    layer = layer_of(channels, use_lu)
    x = torch.randn(2, channels, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = layer(x)
        back, log_back = layer.inverse(z)
        by_hand = torch.einsum("oc,bchw->bohw", layer.matrix(), x)
    slow = torch.stack(
        [
            torch.linalg.slogdet(
                torch.autograd.functional.jacobian(
                    lambda v, like=row: layer(v.view_as(like)[None])[0].flatten(), row.flatten()
                )
            )[1]
            for row in x
        ]
    )
    print(f"{channels} channels: log |det| {log_det.tolist()}, {slow.tolist()} by autograd")
    assert float(log_det.abs().min()) > 1e-3
    assert torch.allclose(z, by_hand, atol=1e-12)
    assert torch.allclose(log_det, slow, atol=1e-10)
    assert torch.allclose(back, x, atol=1e-10)
    assert torch.equal(log_back, -log_det)


@BOTH
def test_conv1x1_inverts_in_float32_at_the_papers_width(use_lu):
    torch.manual_seed(1)
    layer = InvertibleConv1x1(48, use_lu)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.02 * torch.randn(weight.shape))
        x = torch.randn(2, 48, 8, 8)
        error = float((layer.inverse(layer(x)[0])[0] - x).abs().max())
    print(f"there and back: {error:.1e}")
    assert error < 1e-5


def test_conv1x1_starts_as_the_same_random_rotation_in_both_forms():
    matrices = []
    for use_lu in (True, False):
        torch.manual_seed(3)
        layer = InvertibleConv1x1(7, use_lu)
        matrices.append(layer.matrix().detach())
        assert sum(p.numel() for p in layer.parameters()) == 49
    lu, plain = matrices
    assert torch.allclose(lu, plain, atol=1e-6)
    assert torch.allclose(plain @ plain.T, torch.eye(7), atol=1e-6)
    assert not torch.allclose(plain, torch.eye(7), atol=0.1)


def test_conv1x1_factors_keep_permutation_and_signs():
    """What training cannot change: with all factors zero W is P · diag(signs)."""
    torch.manual_seed(5)
    layer = InvertibleConv1x1(6)
    with torch.no_grad():
        layer.factors.zero_()
        w = layer.matrix()
    assert torch.equal(w, layer.sign.diag()[layer.permutation])
    assert torch.equal(w @ w.T, torch.eye(6))
    assert {"permutation", "sign"} <= layer.state_dict().keys()
    other = InvertibleConv1x1(6)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.matrix(), w)


@BOTH
def test_conv1x1_keeps_its_precision_under_autocast(use_lu):
    layer, x = layer_of(4, use_lu, dtype=torch.float32), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        z, log_det = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            z_, log_det_ = layer(x)
            back, _ = layer.inverse(z_)
    assert torch.equal(z, z_)
    assert torch.equal(log_det, log_det_)
    assert torch.allclose(back, x, atol=1e-5)


def test_halves_have_a_matrix_each_that_starts_as_the_identity_with_noise():
    torch.manual_seed(0)
    fresh = HalvesConv1x1(40, 0.001).weight.detach() - torch.eye(20)
    assert fresh.std().item() == pytest.approx(0.001, rel=0.1)
    layer = HalvesConv1x1(4, 0.5).double()
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = layer(x)
        back, log_back = layer.inverse(z)
        both = torch.block_diag(*layer.weight)
    assert torch.allclose(z, torch.einsum("oc,bchw->bohw", both, x), atol=1e-12)
    assert torch.allclose(log_det, 6 * torch.linalg.slogdet(both)[1].expand(2), atol=1e-12)
    assert torch.allclose(back, x, atol=1e-10)
    assert torch.equal(log_back, -log_det)
