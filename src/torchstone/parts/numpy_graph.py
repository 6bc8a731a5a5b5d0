"""A function of small tensors on the CPU, traced once and from then on run as NumPy calls.

In a gradient of a network of a few dozen units the products take a fifth of the time: the rest is the
framework's way to each operation, forward and backward. So the operations of one call, gradients included,
are recorded once, and become a Python function whose lines are NumPy's operations on the same memory. That
takes some milliseconds.

The lines are the framework's operations in their order, so results are equal up to rounding: NumPy has its
own tanh, exp and sums.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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


class _Recorder(TorchDispatchMode):
    """Records the operations below autograd, gradients included, and computes them as always."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[str, Any, Any, Any, Any]] = []
        self.constants: dict[int, Array] = {}  # by the tensor's id: those that depend on no input or weight
        self.changed: set[int] = set()  # by an operation in place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._opname, kwargs or {}
        result = func(*args, **kwargs)
        fixed = self.constants.keys() - self.changed
        arguments = [id(arg) for arg in args if isinstance(arg, Tensor)]
        is_constant = name in CREATION or (bool(arguments) and fixed.issuperset(arguments))
        if name.endswith("_"):
            is_constant = False
            self.changed.add(id(result))
        is_constant = is_constant and isinstance(result, Tensor)
        if is_constant:
            self.constants[id(result)] = result.numpy().copy()
        # what is recorded is kept, so an id is of one tensor
        self.calls.append((name, args, kwargs, result, is_constant))
        return result


def trace(function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> Callable[..., list[Array]]:
    """`function` of tensors like those of `example`, which gives tensors, as a function of arrays.

    What else the function uses, such as weights, is read anew at each call, from the same tensors; its
    control flow is that of the example.

    Raises:
        Unsupported: it does what has no line here.
    """
    with _Recorder() as recorder:
        results = function(*example)
    lines = _Lines(example, recorder.constants)
    for name, args, kwargs, result, is_constant in recorder.calls:
        if not is_constant:
            lines.add(name, args, kwargs, result)
    return lines.compile(results)


class _Lines:
    """The source of a Python function: one line for each operation."""

    def __init__(self, inputs: Sequence[Tensor], constants: dict[int, Array]):
        self.inputs = [f"x{index}" for index in range(len(inputs))]
        self.names = {id(tensor): name for tensor, name in zip(inputs, self.inputs, strict=True)}
        self.constants, self.transposed = constants, {}
        self.space: dict[str, Any] = {"expand_dims": np.expand_dims}
        self.weights: dict[str, Tensor] = {}  # by the variable
        self.lines: list[tuple[str, str]] = []  # a variable, and what it is

    def add(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        known = self.names
        if name in ("detach", "alias") or (name == "pow" and args[1] == 1):  # the argument again
            known[id(result)] = self.source(args[0])
            return
        if name == "t" and id(args[0]) in self.transposed:
            known[id(result)] = self.transposed[id(args[0])]
            return
        if name not in OPERATIONS:
            raise Unsupported(name)
        kwargs = {key: value for key, value in kwargs.items() if key not in IGNORED}
        sources = [self.source(arg) for arg in args]
        if name == "_to_copy":
            sources += [self.source(value) for value in kwargs.values()]
        else:
            sources += [f"{key}={self.source(value)}" for key, value in kwargs.items()]
        if name.endswith("_") and id(args[0]) in self.constants and sources[0][0] == "c":
            sources[0] += ".copy()"
        if name in EXPRESSIONS and not kwargs and len(sources) == EXPRESSIONS[name].count("{"):
            line = EXPRESSIONS[name].format(*sources)
        else:
            self.space[name] = OPERATIONS[name]
            line = f"{name}({', '.join(sources)})"
        variable = f"v{len(self.lines)}"
        self.lines.append((variable, line))
        if isinstance(result, tuple | list):
            for index, item in enumerate(result):
                known[id(item)] = f"{variable}[{index}]"
        else:
            known[id(result)] = variable
        if name == "t":
            self.transposed[id(result)] = sources[0]

    def source(self, value: Any) -> str:
        """A value as it is written in a line."""
        if isinstance(value, Tensor):
            if id(value) not in self.names:
                self.names[id(value)] = self.outside(value)
            return self.names[id(value)]
        if isinstance(value, list | tuple):
            return f"({''.join(self.source(item) + ', ' for item in value)})"
        if isinstance(value, float) and not math.isfinite(value):
            return f"float('{value}')"
        if isinstance(value, torch.dtype):
            self.space[str(value).replace(".", "_")] = value
            return str(value).replace(".", "_")
        return repr(value)

    def outside(self, tensor: Tensor) -> str:
        """The variable of a constant, or of a weight, whose memory is read at each call."""
        array = self.constants.get(id(tensor))
        if array is not None:
            name = f"c{len(self.space)}"
            self.space[name] = array if array.ndim else array[()]
            return name
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu" or not tensor.dim():
            raise Unsupported("a weight on another device, or a number that may change")
        name = f"w{len(self.space)}"
        self.space[name] = None
        self.weights[name] = tensor
        return name

    def compile(self, results: Sequence[Tensor]) -> "_Program":
        returned = f"return [{', '.join(self.source(result) for result in results)}]"
        last_use = {}
        for index, (_, line) in enumerate(self.lines):
            last_use |= dict.fromkeys(re.findall(r"\bv\d+\b", line), index)
        for variable in re.findall(r"\bv\d+\b", returned):
            last_use.pop(variable, None)
        text = f"def run({', '.join(self.inputs)}):\n"
        for index, (variable, line) in enumerate(self.lines):
            text += f"    {variable} = {line}\n"
            free = [name for name, last in last_use.items() if last == index]
            text += f"    {' = '.join(free)} = None\n" if free else ""
        exec(f"{text}    {returned}\n", self.space)  # of a fixed list of operations
        return _Program(self.space, self.weights)


class _Program:
    """The function of `_Lines`, on the memory that the weights have at the moment."""

    def __init__(self, space: dict[str, Any], weights: dict[str, Tensor]):
        self.run, self.space, self.weights = space["run"], space, weights
        self.tensors, self.addresses = list(weights.values()), []

    def __call__(self, *arrays: Array) -> list[Array]:
        addresses = [tensor.data_ptr() for tensor in self.tensors]
        if addresses != self.addresses:  # `tensor.data = …`, as `vector_to_parameters` does
            self.addresses = addresses
            self.space |= {name: tensor.detach().numpy() for name, tensor in self.weights.items()}
        return self.run(*arrays)


def checked_trace(
    function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]
) -> Callable[..., list[Array]] | None:
    """What `trace` gives, if it gives what torch does, up to rounding; else None. They are compared on other
    numbers than were traced, so that one of these left in a line is found."""
    try:
        program = trace(function, example)
        others = [_other_numbers(tensor, index) for index, tensor in enumerate(example)]
        results = program(*[tensor.numpy() for tensor in others])
        for result, tensor in zip(results, function(*others), strict=True):
            error = np.abs(np.subtract(result, tensor.numpy(), dtype=np.float64)).max(initial=0)
            if not error <= TOLERANCE * float(tensor.abs().max()) + TOLERANCE**2:
                return None
    except Exception:  # noqa: BLE001  a line that does not fit its arguments: torch has them all
        return None
    return program


def _other_numbers(tensor: Tensor, index: int) -> Tensor:
    """A tensor of other numbers in the same range: other rows, and floats somewhat smaller."""
    tensor = tensor.roll(index + 1, 0) if tensor.dim() else tensor
    return 0.9 * tensor if tensor.is_floating_point() else tensor.clone()


def as_tensor(result: Array) -> Tensor:
    """A tensor of the same memory; of a NumPy number or an array that cannot be written to, a new one."""
    is_array = isinstance(result, np.ndarray) and result.flags.writeable
    return torch.from_numpy(result) if is_array else torch.tensor(result)


class Traced:
    """`function` of tensors on the CPU, without gradients, by `trace`; as it is where that is not supported.

    Args:
        function: tensors -> a tensor, of them alone and of tensors that change in place, such as weights.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        # of tensors of each shape and type; None where it is not supported
        self.programs: dict[tuple, Any] = {}

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
