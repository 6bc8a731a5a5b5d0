"""Natural gradient: the Fisher-vector product is the Hessian of the KL divergence, and CG solves its system."""

import pytest
import torch
from torch import nn

from torchstone.parts.flat_gradient import flat_gradient
from torchstone.parts.rl.distributions import Categorical, Gaussian
from torchstone.parts.rl.natural_gradient import conjugate_gradient, hessian_vector_product


def kl_of(kind: str):
    """Parameters, and the mean KL divergence between the policy of a fixed and of the given parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    log_std = torch.full((3,), -0.3, dtype=torch.float64)
    x = torch.randn(20, 4).double()
    parameters = [p.detach().clone() for p in net.parameters()]
    if kind == "gaussian":
        parameters.append(log_std)

    def policy(theta):
        outputs = torch.func.functional_call(
            net, dict(zip(dict(net.named_parameters()), theta, strict=False)), x
        )
        return Categorical(outputs) if kind == "categorical" else Gaussian(outputs, theta[-1])

    old = type(policy(parameters))(*(part.detach() for part in policy(parameters)))
    return parameters, lambda *theta: old.kl_divergence(policy(theta)).mean()


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_fisher_vector_product_equals_hessian_of_kl(kind):
    parameters, kl = kl_of(kind)
    sizes = [p.numel() for p in parameters]

    def of_vector(vector):
        return kl(*(v.view_as(p) for v, p in zip(vector.split(sizes), parameters, strict=True)))

    hessian = torch.autograd.functional.hessian(of_vector, torch.cat([p.flatten() for p in parameters]))
    leaves = [p.clone().requires_grad_() for p in parameters]
    product = hessian_vector_product(kl(*leaves), leaves, damping=0.1)
    v = torch.randn(len(hessian)).double()
    difference = (product(v) - hessian @ v - 0.1 * v).abs().max().item()
    print(kind, "largest entry of H", hessian.abs().max().item(), "difference", difference)
    assert hessian.abs().max() > 0.01
    assert difference < 1e-10
    # and F is the mean of the squared scores
    gradient = flat_gradient(kl(*leaves), leaves)
    assert gradient.abs().max() < 1e-12
    assert torch.linalg.eigvalsh(hessian).min() > -1e-12


def test_conjugate_gradient_solves_system():
    torch.manual_seed(0)
    a = torch.randn(30, 30).double()
    a, b = a @ a.T + torch.eye(30), torch.randn(30).double()
    x = conjugate_gradient(lambda v: a @ v, b, 200, tolerance=1e-24)
    print("residual", (a @ x - b).abs().max().item())
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=0, atol=1e-9)
    assert (a @ conjugate_gradient(lambda v: a @ v, b, 3) - b).norm() > 1e-3
    assert torch.equal(conjugate_gradient(lambda v: a @ v, torch.zeros_like(b), 5), torch.zeros_like(b))


def test_natural_gradient_step_has_divergence_delta_on_a_quadratic():
    """With sqrt(2 δ / xᵀ F x) x, the quadratic ½ Δᵀ F Δ is δ; so is the KL of a Gaussian's mean, exactly."""
    mean = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor([0.3, -0.5, 0.0, 1.0]).double()
    old = Gaussian(torch.zeros(1, 4).double(), log_std)
    product = hessian_vector_product(old.kl_divergence(Gaussian(mean[None], log_std)).mean(), [mean])
    gradient, delta = torch.randn(4).double(), 0.01
    x = conjugate_gradient(product, gradient, 10, tolerance=1e-20)
    step = (2 * delta / x.dot(product(x))).sqrt() * x
    kl = old.kl_divergence(Gaussian(step[None], log_std)).mean().item()
    print("KL of the step", kl)
    assert kl == pytest.approx(delta, abs=1e-12)
