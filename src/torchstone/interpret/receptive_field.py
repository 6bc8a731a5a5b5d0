"""Receptive fields: the side of the image region that one location of a feature map depends on.

André Araujo, Wade Norris and Jack Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill 2019, doi:10.23915/distill.00021. Along an axis, location i of a map depends on the pixels from
low + jump·i to high + jump·i. The image itself has low = high = 0, jump = 1; a kernel of k taps with
stride s, dilation d and padding p makes of that

    low ← low − p·jump      high ← high + (d (k − 1) − p)·jump      jump ← s·jump

and where branches meet, the lowest low and the highest high count. The field is high − low + 1 pixels.
Padding is included, so that a field can be larger than the image.

After a mean over all locations the field is the whole image. Gates that pool globally (squeeze-excitation)
are ignored where they are multiplied onto a map, and so is what is broadcast over a map and concatenated:
it is the same at every location, so the location's own information comes from the field of the map alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary


class Field(NamedTuple):
    """The receptive field of location 0 of a map along one axis, and its shift per location."""

    low: float
    high: float
    jump: float

    @property
    def size(self) -> int:
        return round(self.high - self.low) + 1

    def through(self, kernel: int, stride: float = 1, padding: int = 0, dilation: int = 1) -> "Field":
        low, reach = self.low - padding * self.jump, dilation * (kernel - 1) - padding
        return Field(low, self.high + reach * self.jump, stride * self.jump)


FieldPair = tuple[Field, Field]  # of the rows and of the columns
GLOBAL = None  # mixed over all locations


class ReceptiveFieldTracker(TorchDispatchMode):
    """Follows an image (batch, channel, height, width) through all that is computed from it.

    >>> with torch.no_grad(), ReceptiveFieldTracker(images) as tracker:
    ...     maps = model(images)
    >>> tracker.of(maps)
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.fields: Any = WeakIdKeyDictionary()
        self.fields[images] = (Field(0, 0, 1), Field(0, 0, 1))

    def of(self, tensor: Tensor) -> int | str | None:
        """Side in pixels (the longer of two); "all" after mixing over all locations; None if the tensor
        does not depend on the image."""
        if tensor not in self.fields:
            return None
        pair: FieldPair | None = self.fields[tensor]
        return "all" if pair is GLOBAL else max(field.size for field in pair)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = [a for a in _tensors(args) if a in self.fields]
        if inputs:
            outputs = [t for t in _tensors((result,)) if t.ndim]
            name = func.overloadpacket.__name__
            for output in outputs:
                self.fields[output] = self._output_field(name, args, inputs, output)
        return result

    def _output_field(self, name: str, args: Sequence[Any], inputs: list[Tensor], output: Tensor):
        local = [t for t in inputs if self.fields[t] is not GLOBAL]
        if not local:
            return GLOBAL
        first, pair = local[0], self.fields[local[0]]
        if name in WINDOW_OPS and first.ndim >= 3:
            if (windows := WINDOW_OPS[name](args, first, output)) is GLOBAL:
                return GLOBAL
            return tuple(field.through(*window) for field, window in zip(pair, windows, strict=True))
        # pointwise, or across channels; a smaller tensor was broadcast over the map
        same_size = [self.fields[t] for t in local if t.ndim >= 3 and t.shape[-2:] == output.shape[-2:]]
        if output.ndim < 3 or not same_size:
            return GLOBAL
        return tuple(
            Field(min(f.low for f in axis), max(f.high for f in axis), max(f.jump for f in axis))
            for axis in zip(*same_size, strict=True)
        )


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    tensors = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, tuple | list):
            tensors += _tensors(value)
    return tensors


# Each returns (kernel, stride, padding, dilation) for rows and for columns, or GLOBAL.
def _convolution(args, x, output):
    weight, stride, padding, dilation, transposed = args[1], *args[3:7]
    kernel = weight.shape[2:]
    if not transposed:
        return _axes(kernel, stride, padding, dilation)
    # an output location depends on at most ⌈k/s⌉ locations
    return [(-(-k // s), 1 / s) for k, s in zip(kernel, stride, strict=True)]


def _max_pool(args, x, output):
    kernel, stride, padding, dilation = (*args[1:5], *((), 0, 1)[max(len(args) - 2, 0) :])
    return _axes(kernel, stride or kernel, padding, dilation)


def _avg_pool(args, x, output):
    kernel, stride, padding = (*args[1:4], *((), 0)[max(len(args) - 2, 0) :])
    return _axes(kernel, stride or kernel, padding, 1)


def _adaptive_pool(args, x, output):
    """Location i pools from ⌊i·n/m⌋ to ⌈(i + 1)·n/m⌉, of n locations to m."""
    if output.shape[-2:].numel() == 1 < x.shape[-2:].numel():
        return GLOBAL
    axes = []
    for n, m in zip(x.shape[-2:], output.shape[-2:], strict=True):
        longest = max(-(-(i + 1) * n // m) - i * n // m for i in range(m))
        axes.append((longest, n / m))
    return axes


def _upsample_bilinear(args, x, output):
    """Between two locations per axis, so both count."""
    return [(2, n / m) for n, m in zip(x.shape[-2:], output.shape[-2:], strict=True)]


def _upsample_nearest(args, x, output):
    return [(1, n / m) for n, m in zip(x.shape[-2:], output.shape[-2:], strict=True)]


def _pad(args, x, output):
    left, _, top, _ = (*args[1], 0, 0)[:4]
    return [(1, 1, top), (1, 1, left)]


def _slice(args, x, output):
    _, dim, start, _, step = (*args, *(0, None, None, 1)[len(args) - 1 :])
    first = range(x.shape[dim])[slice(start, None)].start
    axes = [(1, 1, 0), (1, 1, 0)]
    if (axis := dim % x.ndim - x.ndim + 2) >= 0:
        axes[axis] = (1, step, -first)
    return axes


def _axes(*settings: Any) -> list[tuple[int, ...]]:
    """Settings that are one number or one for each axis; of three axes, the last two."""
    pairs = [(s, s) if isinstance(s, int) else (s[-1], s[-1]) if len(s) == 1 else s[-2:] for s in settings]
    return list(zip(*pairs, strict=True))


WINDOW_OPS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "avg_pool3d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "upsample_bilinear2d": _upsample_bilinear,
    "upsample_nearest2d": _upsample_nearest,
    "constant_pad_nd": _pad,
    "slice": _slice,
}
