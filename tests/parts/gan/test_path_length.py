"""Path lengths against the Jacobian, column by column."""

import torch

from torchstone.parts.gan.path_length import path_lengths


def test_path_lengths_equal_the_jacobians_by_hand():
    weight = torch.randn(3, 8, 2 * 3 * 4, dtype=torch.float64)

    def images(styles):
        return torch.einsum("bls,lsp->bp", styles.sin(), weight).tanh().view(-1, 2, 3, 4)

    styles = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    ours = path_lengths(images(styles), styles, noise)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda s: images(s[None])[0].flatten(), styles[i].detach()
        )  # (pixels, layers, style)
        product = torch.einsum("p,pls->ls", noise[i].flatten() / 12**0.5, jacobian)
        expected = product.square().sum(1).mean().sqrt()
        assert torch.allclose(ours[i], expected, atol=1e-10)
    ours.sum().backward()  # it has a gradient itself
    assert bool(styles.grad.any())
