"""Law 10, read from the source: what is drawn at random comes from a generator that is named.

A draw from a global generator is reproducible too, as long as nothing else draws from it in between. It then
depends on the order of everything that does, and no test of one seed sees the difference.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("parts", "data", "envs", "engine", "hub", "plots", "metrics", "interpret", "tasks", "runs")
FUNCTIONS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
FUNCTIONS |= {f"{name}_like" for name in ("rand", "randn", "randint")}
METHODS = {
    "normal_",
    "uniform_",
    "bernoulli_",
    "exponential_",
    "random_",
    "log_normal_",
    "geometric_",
    "cauchy_",
}
OWN_GENERATOR = {"RandomState", "Generator", "default_rng", "SeedSequence", "PCG64", "Random"}
STATE = {
    "seed",
    "get_state",
    "set_state",
    "getstate",
    "setstate",
}  # of the global generators, kept by `engine.rng`

# initial values and noise inside a network's forward pass: both follow torch's global generator, as in torch
# itself, which the run seeds and keeps in its checkpoint
GLOBAL = {
    ("parts/init.py", "weight.normal_"),
    ("parts/flow/invertible_conv.py", "torch.randn"),  # the first rotation
    ("parts/gan/spectral_norm.py", "matrix.new_empty(side).normal_"),  # the first singular vector
    ("parts/recurrent/sequence_model.py", "parameter[n:2 * n].uniform_"),  # chrono initialization
    ("parts/conv/stochastic_depth.py", "x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_"),
    ("parts/diffusion/text_encoder.py", "torch.rand"),  # dropout of words
    ("parts/recurrent/encoder_decoder.py", "torch.rand_like"),  # scheduled sampling
    ("parts/transformer/block_attention.py", "torch.randint"),  # the seed of the blocks of a new network
    ("parts/dropout.py", "x.new_empty(x.shape).bernoulli_"),
    ("parts/dropout.py", "x.new_empty(*x.shape[:2], rows, columns).bernoulli_"),  # of blocks
    ("parts/audio/codec.py", "torch.randn_like"),  # initial weights
    ("engine/update.py", "torch.randn_like"),  # noise in the gradient, on the device that it is on
}


def wrongs(root: Path) -> list[str]:
    """Every draw in the tree under `root` that names no generator and is not of `GLOBAL`; each unused exemption."""
    found, unused = [], set(GLOBAL)
    for room in ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            name = file.relative_to(root).as_posix()
            for line, function in draws(ast.parse(file.read_text())):
                unused.discard((name, function))
                if (name, function) not in GLOBAL:
                    found.append(f"{name}:{line} {function} draws from a global generator")
    return found + [f"{name}: {function} is exempt and does not occur" for name, function in sorted(unused)]


def draws(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that draw from a global generator of torch, NumPy or Python, with their lines."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules = {alias.asname or alias.name for node in imports for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        named = any(keyword.arg == "generator" for keyword in node.keywords)
        of_torch = owner == "torch" and name in FUNCTIONS
        in_place = name in METHODS and owner not in ("nn.init", "init")
        of_numpy = owner in ("np.random", "numpy.random") and name not in OWN_GENERATOR | STATE
        of_python = owner == "random" and "random" in modules and name not in OWN_GENERATOR | STATE
        if ((of_torch or in_place) and not named) or of_numpy or of_python:
            yield node.lineno, ast.unparse(node.func)
