"""A function of small tensors on the CPU, traced once and from then on run as NumPy calls.

For a network of a few dozen units the products are a fifth of a gradient's time: the rest is the framework's
way to each operation, forward and backward. So the operations of one call, gradients included, are recorded
(`make_fx`), what is constant in them is computed, and the others become one Python function whose lines are
NumPy's operations on the same memory. Recording takes a quarter of a second.

The lines are the framework's own operations in their order, so results are equal up to rounding: NumPy has its own
tanh, exp and sums.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # np.ndarray, or a NumPy scalar where the tensor has no dimensions
LARGEST_PRODUCT = 2**18  # multiplications that NumPy does with one thread; torch has the larger ones
MEAN, NONE = 1, 0  # torch's numbers for reductions
TOLERANCE = 1e-3  # relative to the largest number of a result: rounding is far below, an error far above


class Unsupported(Exception):
    """An operation that has no line here."""


def product(a: Array, b: Array) -> Array:
    """a b: a large one by torch, which has the threads, a small one by NumPy, whose call costs less."""
    if len(a) * b.size > LARGEST_PRODUCT:
        return torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return a @ b


def addmm(bias: Array, a: Array, b: Array) -> Array:
    y = product(a, b)
    y += bias
    return y


def tanh_backward(g: Array, y: Array) -> Array:
    slope = y * y
    np.subtract(1, slope, out=slope)
    slope *= g
    return slope


def threshold_backward(g: Array, x: Array, threshold: float) -> Array:
    return g * (x > threshold)


def clamp(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def power(x: Array, exponent: float) -> Array:
    if exponent == 1:
        return x
    return x * x if exponent == 2 else np.power(x, exponent)


def total(x: Array, axis: tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    if axis == (0,) and x.ndim == 2 and not keepdims or x.ndim == 1 and not keepdims:
        return torch.from_numpy(x).sum(0).numpy() if x.ndim == 2 else np.add.reduce(x)
    return np.add.reduce(x, axis=axis or None, keepdims=keepdims)


def mean(x: Array) -> Array:
    return np.add.reduce(x, axis=None) / x.size


def log_softmax(x: Array, dim: int, _half: bool) -> Array:
    x = x - np.maximum.reduce(x, axis=dim, keepdims=True)
    x -= np.log(np.add.reduce(np.exp(x), axis=dim, keepdims=True))
    return x


def log_softmax_backward(g: Array, output: Array, dim: int, _dtype: Any) -> Array:
    return g - np.exp(output) * np.add.reduce(g, axis=dim, keepdims=True)


@functools.lru_cache(64)
def rows(count: int) -> Array:
    return np.arange(count)


def is_column(x: Array, dim: int, index: Array) -> bool:
    """Whether one entry of each row is meant."""
    return x.ndim == 2 and dim in (1, -1) and index.shape == (len(x), 1)


def gather(x: Array, dim: int, index: Array) -> Array:
    if is_column(x, dim, index):
        return x[rows(len(x)), index[:, 0]][:, None]
    return np.take_along_axis(x, index, dim)


def scatter_add(x: Array, dim: int, index: Array, source: Array) -> Array:
    if not is_column(x, dim, index):
        raise Unsupported("scatter_add of several entries of a row")
    y = x.copy()
    y[rows(len(x)), index[:, 0]] += source[:, 0]
    return y


def nll_loss(x: Array, target: Array, weight: Any, reduction: int, _ignored: int) -> tuple[Array, Array]:
    if weight is not None or reduction != NONE:
        raise Unsupported("nll_loss with weights or a reduction")
    return -x[rows(len(x)), target], np.float32(0)


def nll_loss_backward(
    g: Array, x: Array, target: Array, _weight: Any, _reduction: int, _ignored: int, _total: Array
) -> Array:
    y = np.zeros_like(x)
    y[rows(len(x)), target] = -g
    return y


def smooth_l1_loss(x: Array, y: Array, reduction: int = MEAN, beta: float = 1.0) -> Array:
    difference = np.abs(x - y)
    loss = np.where(difference < beta, 0.5 / beta * difference * difference, difference - 0.5 * beta)
    return mean(loss) if reduction == MEAN else loss


def smooth_l1_loss_backward(g: Array, x: Array, y: Array, reduction: int, beta: float) -> Array:
    slope = np.maximum(np.minimum((x - y) / beta, 1), -1)
    return slope * (g / slope.size if reduction == MEAN else g)


def mse_loss(x: Array, y: Array, reduction: int = MEAN) -> Array:
    difference = x - y
    square = difference * difference
    return mean(square) if reduction == MEAN else square


def mse_loss_backward(g: Array, x: Array, y: Array, reduction: int) -> Array:
    return 2 * (x - y) * (g / x.size if reduction == MEAN else g)


def masked_fill_(x: Array, mask: Array, value: Any) -> Array:
    np.copyto(x, value, where=mask)
    return x


def select(x: Array, dim: int, index: int) -> Array:
    return x[:, index] if dim in (1, -1) and x.ndim == 2 else x.take(index, dim)


def select_backward(g: Array, shape: Sequence[int], dim: int, index: int) -> Array:
    if shape[dim] == 1:
        return g.reshape(shape)
    y = np.zeros(shape, g.dtype)
    y[(slice(None),) * (dim % len(shape)) + (index,)] = g
    return y


def to_dtype(x: Array, dtype: torch.dtype) -> Array:
    return x.astype(numpy_dtype(dtype))


@functools.lru_cache(16)
def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype


def same(x: Array) -> Array:
    return x


# aten's name, with its overload where there is another -> the function of its arguments
OPERATIONS: dict[str, Callable] = {
    "mm": product,
    "addmm": addmm,
    "tanh": np.tanh,
    "tanh_backward": tanh_backward,
    "relu": lambda x: np.maximum(x, 0),
    "threshold_backward": threshold_backward,
    "exp": np.exp,
    "log": np.log,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "add": np.add,
    "sub": np.subtract,
    "rsub": lambda x, y: np.subtract(y, x),
    "mul": np.multiply,
    "div": np.divide,
    "pow": power,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "clamp": clamp,
    "clamp_min": np.maximum,
    "clamp_max": np.minimum,
    "where": np.where,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_and_": lambda x, y: np.logical_and(x, y, out=x),
    "logical_not": np.logical_not,
    "bitwise_not": np.logical_not,
    "masked_fill": lambda x, mask, value: masked_fill_(x.copy(), mask, value),
    "masked_fill_": masked_fill_,
    "mean": mean,
    "sum": total,
    "amax": lambda x, axis, keepdims=False: np.maximum.reduce(x, axis=axis, keepdims=keepdims),
    "amin": lambda x, axis, keepdims=False: np.minimum.reduce(x, axis=axis, keepdims=keepdims),
    "argmax": lambda x, dim=None, keepdims=False: x.argmax(dim, keepdims=keepdims),
    "_log_softmax": log_softmax,
    "_log_softmax_backward_data": log_softmax_backward,
    "gather": gather,
    "scatter_add": scatter_add,
    "nll_loss_forward": nll_loss,
    "nll_loss_backward": nll_loss_backward,
    "smooth_l1_loss": smooth_l1_loss,
    "smooth_l1_loss_backward": smooth_l1_loss_backward,
    "mse_loss": mse_loss,
    "mse_loss_backward": mse_loss_backward,
    "t": np.transpose,
    "view": np.reshape,
    "_unsafe_view": np.reshape,
    "unsqueeze": np.expand_dims,
    "squeeze": lambda x, dim: x if x.shape[dim] != 1 else np.squeeze(x, dim),
    "expand": np.broadcast_to,
    "select": select,
    "select_backward": select_backward,
    "cat": lambda parts, dim=0: np.concatenate(parts, dim),
    "detach": same,
    "alias": same,
    "clone": np.copy,
    "_to_copy": to_dtype,
}
# faster than a call
EXPRESSIONS = {
    "t": "{0}.T",
    "view": "{0}.reshape({1})",
    "unsqueeze": "expand_dims({0}, {1})",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
}
# new tensors that depend on shapes alone
CREATION = ("new_zeros", "new_ones", "zeros", "ones", "zeros_like", "ones_like", "full", "full_like", "scalar_tensor")
IGNORED = ("layout", "device", "pin_memory", "memory_format", "non_blocking")


def trace(function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> Callable[..., list[Array]]:
    """`function` of tensors like those of `example`, which gives tensors, as a function of arrays that gives arrays.

    What else the function uses, such as weights, is read in place at each call; its control flow is that of the
    example.

    Raises:
        Unsupported: it does what cannot be recorded, or has no line here.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        graph = make_fx(lambda *leaves: list(function(*leaves)))(*example)
    except Exception as error:  # whatever cannot be recorded
        raise Unsupported(str(error)) from error
    graph.graph.eliminate_dead_code()
    return _compile(graph)


def _compile(module: torch.fx.GraphModule) -> Callable[..., list[Array]]:
    names: dict[torch.fx.Node, str] = {}
    constants: dict[torch.fx.Node, Tensor] = {}  # their values
    space: dict[str, Any] = {"expand_dims": np.expand_dims}
    inputs: list[str] = []
    lines: list[str] = []
    last_use = {arg: node for node in module.graph.nodes for arg in node.all_input_nodes}

    def source(value: Any) -> str:
        if isinstance(value, torch.fx.Node):
            if value in constants and value not in names:
                names[value] = f"c{len(names)}"
                array = constants[value].numpy()
                space[names[value]] = array if array.ndim else array[()]
            return names[value]
        if isinstance(value, list | tuple):
            return f"({''.join(source(item) + ', ' for item in value)})"
        if isinstance(value, float) and not math.isfinite(value):
            return f"float('{value}')"
        if isinstance(value, torch.dtype):
            space[str(value).replace(".", "_")] = value
            return str(value).replace(".", "_")
        return repr(value)

    for node in module.graph.nodes:
        if node.op == "placeholder":
            names[node] = f"x{len(inputs)}"
            inputs.append(names[node])
        elif node.op == "get_attr":
            names[node] = f"w{len(names)}"
            array = operator.attrgetter(node.target)(module).detach().numpy()
            space[names[node]] = array if array.ndim else array[()]
            if not array.ndim:
                raise Unsupported("a number outside of the function may change")
        elif node.op == "output":
            lines.append(f"return [{', '.join(source(item) for item in node.args[0])}]")
        else:
            _add_line(node, names, constants, space, lines, source)
        over = [arg for arg in node.all_input_nodes if last_use[arg] is node and node.op != "output"]
        dead = [names[arg] for arg in over if arg in names and names[arg][0] == "v"]
        if dead:
            lines.append(f"{' = '.join(dead)} = None")
    text = f"def run({', '.join(inputs)}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(text, space)  # noqa: S102  the lines above, of a fixed list of operations
    space["run"].source = text
    return space["run"]


def _add_line(
    node: torch.fx.Node,
    names: dict[torch.fx.Node, str],
    constants: dict[torch.fx.Node, Tensor],
    space: dict[str, Any],
    lines: list[str],
    source: Callable[[Any], str],
) -> None:
    name, kwargs = str(getattr(node.target, "_opname", "")), dict(node.kwargs)
    if node.target is operator.getitem:
        names[node] = f"v{len(names)}"
        lines.append(f"{names[node]} = {source(node.args[0])}[{node.args[1]}]")
        return
    if name in CREATION or (node.all_input_nodes and all(arg in constants for arg in node.all_input_nodes)):
        if name in CREATION:
            constants[node] = _new(name, node)
            return
        if not name.endswith("_"):
            constants[node] = node.target(*_values(node.args, constants), **kwargs)
            return
    if name not in OPERATIONS:
        raise Unsupported(str(node.target))
    for ignored in IGNORED:
        kwargs.pop(ignored, None)
    arguments = [source(arg) for arg in node.args]
    arguments += [source(value) if name == "_to_copy" else f"{key}={source(value)}" for key, value in kwargs.items()]
    if name.endswith("_") and node.args[0] in constants:
        arguments[0] += ".copy()"
    names[node] = f"v{len(names)}"
    if name in EXPRESSIONS and not kwargs and len(arguments) == EXPRESSIONS[name].count("{"):
        line = EXPRESSIONS[name].format(*arguments)
    else:
        space[name] = OPERATIONS[name]
        line = f"{name}({', '.join(arguments)})"
    lines.append(f"{names[node]} = {line}")


def _new(name: str, node: torch.fx.Node) -> Tensor:
    like = node.meta["val"]
    fill: Any = 1 if "ones" in name else 0
    if name in ("full", "full_like"):
        fill = node.args[1]
    elif name == "scalar_tensor":
        fill = node.args[0]
    return torch.full(tuple(like.shape), fill, dtype=like.dtype)


def _values(args: Any, constants: dict[torch.fx.Node, Tensor]) -> Any:
    return torch.fx.map_arg(args, constants.__getitem__)


class TracedGradient:
    """The gradient of a loss and its metrics, by `trace`, from the third batch of a form on.

    A form is the tensors' shapes and types. What `trace` does not support, and what it has wrong (each form is
    compared once), is left to autograd.

    Args:
        loss: batch -> metrics with `loss`, scalars, and a tensor or None; of the batch's tensors alone, and of
            tensors that change in place. A batch is tuples of tensors, None, and tuples.
        parameters: what to differentiate by, the first to have gradients in `gradients`, and so on.
        gradients: where to put them, on the CPU.
    """

    def __init__(self, loss: Callable[[Any], tuple[dict, Any]], parameters: list[Tensor], gradients: list[Tensor]):
        self.loss, self.parameters, self.gradients = loss, parameters, gradients
        self.arrays = [gradient.numpy() for gradient in gradients]
        self.programs: dict[tuple, Any] = {}  # of each form; None where it is left to autograd
        self.seen: dict[tuple, int] = {}
        self.names: list[str] = []  # of the metrics

    def __call__(self, batch: Any) -> tuple[dict[str, Tensor], Any]:
        leaves = list(_leaves(batch))
        form = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        program = self.programs.get(form)
        if program is not None:
            results = program(*[leaf.numpy() for leaf in leaves])
            for array, result in zip(self.arrays, results, strict=False):
                array[...] = result
            return self._named([_tensor(result) for result in results[len(self.arrays) :]])
        self.seen[form] = self.seen.get(form, 0) + 1
        if self.seen[form] == FIRST and form not in self.programs and len(self.programs) < FORMS:
            self.programs[form] = self._trace(batch, leaves)
        return self._named(self._autograd(batch))

    def _named(self, numbers: Sequence[Tensor]) -> tuple[dict[str, Tensor], Any]:
        metrics = dict(zip(self.names, numbers, strict=False))
        return metrics, numbers[len(metrics)] if len(numbers) > len(metrics) else None

    def _compute(self, batch: Any) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Gradients, and the metrics with what comes beside them."""
        metrics, aux = self.loss(batch)
        self.names = list(metrics)
        found = torch.autograd.grad(metrics["loss"], self.parameters, allow_unused=True, materialize_grads=True)
        return found, [value.detach() for value in (*metrics.values(), *([] if aux is None else [aux]))]

    def _autograd(self, batch: Any) -> list[Tensor]:
        found, numbers = self._compute(batch)
        torch._foreach_copy_(self.gradients, found)
        return numbers

    def _trace(self, batch: Any, leaves: list[Tensor]) -> Any:
        def function(*tensors: Tensor) -> list[Tensor]:
            found, numbers = self._compute(_rebuild(batch, iter(tensors)))
            return [*found, *numbers]

        try:
            program = trace(function, leaves)
            results = program(*[leaf.numpy() for leaf in leaves])
        except Unsupported:
            return None
        expected = function(*leaves)
        for result, tensor in zip(results, expected, strict=True):
            error = float(np.abs(result - tensor.numpy()).max(initial=0))
            if not error <= TOLERANCE * float(tensor.abs().max()) + TOLERANCE**2:
                return None
        return program


FIRST, FORMS = 3, 4  # a form is traced at its third batch, and four forms at most


def _leaves(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        yield batch
    elif batch is not None:
        for item in batch:
            yield from _leaves(item)


def _rebuild(batch: Any, leaves: Any) -> Any:
    if isinstance(batch, Tensor):
        return next(leaves)
    if batch is None:
        return None
    items = [_rebuild(item, leaves) for item in batch]
    return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)


def _tensor(result: Array) -> Tensor:
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else torch.tensor(result)
