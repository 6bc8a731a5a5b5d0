"""A function of small tensors on the CPU, traced once and from then on run as NumPy calls.

In a gradient of a network of a few dozen units the products take a fifth of the time: the rest is the
framework's way to each operation, forward and backward. So the operations of one call, gradients included,
are recorded (`make_fx`), those on constants are computed, and the others become a Python function whose lines
are NumPy's operations on the same memory. Recording takes a fifth of a second.

The lines are the framework's operations in their order, so results are equal up to rounding: NumPy has its
own tanh, exp and sums.
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
TOLERANCE = 1e-3  # of the largest number of a result: rounding is far below, a wrong line far above


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
    return x * x if exponent == 2 else np.power(x, exponent)


def total(x: Array, axis: Sequence[int] = (), keepdims: bool = False) -> Array:
    if x.ndim == 2 and tuple(axis) == (0,):  # over a batch: torch's is twice as fast
        y = torch.from_numpy(x).sum(0).numpy()
        return y[None] if keepdims else y
    return np.add.reduce(x, axis=tuple(axis) or None, keepdims=keepdims)


def mean(x: Array, axis: Sequence[int] = (), keepdims: bool = False) -> Array:
    y = np.add.reduce(x, axis=tuple(axis) or None, keepdims=keepdims)
    return y / (x.size // np.size(y))


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


def slice_of(x: Array, dim: int = 0, start: int = 0, end: int | None = None, step: int = 1) -> Array:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def to_dtype(x: Array, dtype: torch.dtype) -> Array:
    return x.astype(numpy_dtype(dtype))


@functools.lru_cache(16)
def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype


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
    "rsqrt": lambda x: 1 / np.sqrt(x),
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
    "bitwise_not": np.invert,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
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
    "slice": slice_of,
    "select": select,
    "select_backward": select_backward,
    "cat": lambda parts, dim=0: np.concatenate(parts, dim),
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
CREATION = (
    "new_zeros",
    "new_ones",
    "zeros",
    "ones",
    "zeros_like",
    "ones_like",
    "full",
    "full_like",
    "scalar_tensor",
)
IGNORED = ("layout", "device", "pin_memory", "memory_format", "non_blocking")


def trace(function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> Callable[..., list[Array]]:
    """`function` of tensors like those of `example`, which gives tensors, as a function of arrays.

    What else the function uses, such as weights, is read in place at each call; its control flow is that of
    the example.

    Raises:
        Unsupported: it does what cannot be recorded, or has no line here.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        graph = make_fx(lambda *leaves: list(function(*leaves)))(*example)
    except Exception as error:  # whatever cannot be recorded
        raise Unsupported(str(error)) from error
    _simplify(graph.graph)
    return _compile(graph)


def _simplify(graph: torch.fx.Graph) -> None:
    """Leave out what gives its argument again."""
    for node in list(graph.nodes):
        name, source = _name(node), node.args[0] if node.args else None
        is_same = name in ("detach", "alias") or (name == "pow" and node.args[1] == 1)
        if name == "t" and isinstance(source, torch.fx.Node) and _name(source) == "t":
            is_same, source = True, source.args[0]
        if is_same and isinstance(source, torch.fx.Node):
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()


def _name(node: Any) -> str:
    """aten's name of a node's operation."""
    return str(getattr(getattr(node, "target", None), "_opname", ""))


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
            weight = operator.attrgetter(node.target)(module).detach()
            if weight.device.type != "cpu" or not weight.dim():
                raise Unsupported("a weight on another device, or a number that may change")
            space[names[node]] = weight.numpy()
        elif node.op == "output":
            lines.append(f"return [{', '.join(source(item) for item in node.args[0])}]")
        else:
            _add_line(node, names, constants, space, lines, source)
        over = [arg for arg in node.all_input_nodes if last_use[arg] is node and node.op != "output"]
        dead = [names[arg] for arg in over if arg in names and names[arg][0] == "v"]
        if dead:
            lines.append(f"{' = '.join(dead)} = None")
    text = f"def run({', '.join(inputs)}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(text, space)
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
    name, kwargs = _name(node), dict(node.kwargs)
    if node.target is operator.getitem:
        names[node] = f"v{len(names)}"
        lines.append(f"{names[node]} = {source(node.args[0])}[{node.args[1]}]")
        return
    if name in CREATION or (node.all_input_nodes and all(arg in constants for arg in node.all_input_nodes)):
        if name in CREATION:
            constants[node] = _new(name, node)
            return
        if not name.endswith("_"):
            operation: Any = node.target
            constants[node] = operation(*_values(node.args, constants), **kwargs)
            return
    if name not in OPERATIONS:
        raise Unsupported(str(node.target))
    for ignored in IGNORED:
        kwargs.pop(ignored, None)
    arguments = [source(arg) for arg in node.args]
    arguments += [
        source(value) if name == "_to_copy" else f"{key}={source(value)}" for key, value in kwargs.items()
    ]
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
    like, args = node.meta["val"], tuple(node.args)
    value: Any = 1 if "ones" in name else 0
    if name in ("full", "full_like"):
        value = args[1]
    elif name == "scalar_tensor":
        value = args[0]
    return torch.full(tuple(like.shape), value, dtype=like.dtype)


def _values(args: Any, constants: dict[torch.fx.Node, Tensor]) -> Any:
    return torch.fx.map_arg(args, constants.__getitem__)


def checked_trace(
    function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]
) -> Callable[..., list[Array]] | None:
    """What `trace` gives, if it gives on `example` what torch does, up to rounding; else None."""
    try:
        program = trace(function, example)
        results = program(*[tensor.numpy() for tensor in example])
        for result, tensor in zip(results, function(*example), strict=True):
            error = np.abs(np.subtract(result, tensor.numpy(), dtype=np.float64)).max(initial=0)
            if not error <= TOLERANCE * float(tensor.abs().max()) + TOLERANCE**2:
                return None
    except Exception:  # noqa: BLE001  a line that does not fit its arguments: torch has them all
        return None
    return program


def as_tensor(result: Array) -> Tensor:
    """A tensor of the same memory; of a NumPy number, and of an array that cannot be written to, a new one."""
    is_array = isinstance(result, np.ndarray) and result.flags.writeable
    return torch.from_numpy(result) if is_array else torch.tensor(result)


class Traced:
    """`function` of tensors on the CPU, without gradients, by `trace`; as it is where that is not supported.

    Args:
        function: tensors -> a tensor, of them alone and of tensors that change in place, such as weights.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        self.programs: dict[
            tuple, Any
        ] = {}  # of tensors of each shape and type; None where it is not supported

    def __call__(self, *tensors: Tensor) -> Tensor:
        form = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if form not in self.programs:
            self.programs[form] = self._trace(tensors)
        program = self.programs[form]
        if program is None:
            return self.function(*tensors)
        (result,) = program(*[tensor.numpy() for tensor in tensors])
        return as_tensor(result)

    @torch.no_grad()
    def _trace(self, tensors: Sequence[Tensor]) -> Any:
        return checked_trace(lambda *leaves: [self.function(*leaves)], tensors)
