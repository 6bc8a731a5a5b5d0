"""The oracle of attention that scales: dense attention under the mask that defines it, and what memory it needs."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone.parts.transformer.attention import attention_weights

TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5}


def numbers(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def inputs(batch, heads, length, width, dtype=torch.float64, values=None, seed=0):
    """q, k and v that want a gradient, laid out as a joint projection leaves them: (batch, length, heads, width)."""
    widths = (width, width, values or width)
    made = (numbers(batch, length, heads, w, seed=seed + i, dtype=dtype) for i, w in enumerate(widths))
    return [x.transpose(1, 2).detach().requires_grad_() for x in made]


def dense(q, k, v, visible, scale=None):
    """softmax over the visible keys, all length × length of it; zeros for a query that sees none."""
    return attention_weights(q, k, mask=visible, scale=scale) @ v


def compare(ours, oracle, leaves, dtype=torch.float64):
    """Output and the gradient of every leaf: the largest relative difference is printed and within rounding."""
    results = []
    for function in (ours, oracle):
        out = function()
        weight = numbers(*out.shape, seed=99, dtype=out.dtype)
        results.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    errors = [
        float(((a - b).norm() / b.norm().clamp(min=0.1)).detach()) for a, b in zip(*results, strict=True)
    ]
    print(f"{dtype}: relative error of the output {errors[0]:.1e}, of gradients {max(errors[1:]):.1e}")
    assert all(bool(x.isfinite().all()) for x in results[0])
    assert max(errors) < TOLERANCE[dtype]
    return results[0][0].detach()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns, in both passes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and not func.is_view:
                self.elements = max(self.elements, leaf.numel())
        return out


def saved_elements(function):
    """How many elements the graph of `function()` keeps for the backward pass, each storage once."""
    storages = {}

    def keep(x):
        storages[x.untyped_storage().data_ptr()] = (x, x.untyped_storage().nbytes() // x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = function()
    assert out.requires_grad
    return sum(size for _, size in storages.values())


def assert_linear_memory(attend, heads=1, width=8):
    """Twice the length: at most twice the largest tensor and what is kept, and nothing of length × length."""
    largest, kept = [], []
    for length in (512, 1024):
        leaves = inputs(1, heads, length, width, torch.float32)
        kept.append(saved_elements(lambda leaves=leaves: attend(*leaves)))
        with Largest() as mode:
            attend(*leaves).sum().backward()
        largest.append(mode.elements)
    print(f"largest tensor {largest}, kept for the backward pass {kept}, elements")
    assert largest[1] <= 2.05 * largest[0]
    assert kept[1] <= 2.05 * kept[0]
    assert largest[1] < 1024**2 / 4
