"""Receptive fields: how much of the picture one place of a map can see.

André Araujo, Wade Norris and Jack Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill 2019, doi:10.23915/distill.00021. Along an axis, place i of a map sees the pixels from
low + jump·i to high + jump·i. The picture itself has low = high = 0, jump = 1; a kernel of k taps with
stride s, dilation d and padding p makes of that

    low ← low − p·jump      high ← high + (d (k − 1) − p)·jump      jump ← s·jump

and where branches meet, the lowest low and the highest high count. The field is high − low + 1 pixels.
Padding counts as seen, so that a field can be larger than the picture.

What has been through a mean over all places sees everything. A gate that does (squeeze-excitation) is
not counted where it is multiplied onto a map, nor what is drawn out over a map and joined to it: it is
the same at every place, so what a place has of its own comes from the field of the map alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary


class Field(NamedTuple):
    """What place 0 of a map sees along one axis, and by how much the next place sees further on."""

    low: float
    high: float
    jump: float

    @property
    def size(self) -> int:
        return round(self.high - self.low) + 1

    def through(self, kernel: int, stride: float = 1, padding: int = 0, dilation: int = 1) -> "Sight":
        low, reach = self.low - padding * self.jump, dilation * (kernel - 1) - padding
        return Field(low, self.high + reach * self.jump, stride * self.jump)


FieldPair = tuple[Field, Field]  # of the rows and of the columns
GLOBAL = None  # it has been mixed over all places


class ReceptiveFieldTracker(TorchDispatchMode):
    """Follows a picture (batch, channel, height, width) through all that is computed from it.

    >>> with torch.no_grad(), Receptive(images) as sight:
    ...     maps = model(images)
    >>> sight.of(maps)
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.views: Any = WeakIdKeyDictionary()
        self.views[images] = (Field(0, 0, 1), Field(0, 0, 1))

    def of(self, tensor: Tensor) -> int | str | None:
        """Pixels a side (of two, the longer); "all" after mixing over all places; None if the tensor
        does not depend on the picture."""
        if tensor not in self.views:
            return None
        view: FieldPair | None = self.views[tensor]
        return "all" if view is GLOBAL else max(sight.size for sight in view)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = [a for a in _tensors(args) if a in self.views]
        if inputs:
            outputs = [t for t in _tensors((result,)) if t.ndim]
            name = func.overloadpacket.__name__
            for output in outputs:
                self.views[output] = self._view(name, args, inputs, output)
        return result

    def _view(self, name: str, args: Sequence[Any], inputs: list[Tensor], output: Tensor):
        local = [t for t in inputs if self.views[t] is not GLOBAL]
        if not local:
            return GLOBAL
        first, view = local[0], self.views[local[0]]
        if name in STEPS and first.ndim >= 3:
            if (steps := STEPS[name](args, first, output)) is GLOBAL:
                return GLOBAL
            return tuple(sight.through(*step) for sight, step in zip(view, steps, strict=True))
        # pixel by pixel, or across channels; what is smaller was drawn out over the map
        alike = [self.views[t] for t in local if t.ndim >= 3 and t.shape[-2:] == output.shape[-2:]]
        if output.ndim < 3 or not alike:
            return GLOBAL
        return tuple(
            Field(min(s.low for s in axis), max(s.high for s in axis), max(s.jump for s in axis))
            for axis in zip(*alike, strict=True)
        )


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found


# Each gives (kernel, stride, padding, dilation) for rows and for columns, or WHOLE.
def _convolution(args, x, output):
    weight, stride, padding, dilation, transposed = args[1], *args[3:7]
    kernel = weight.shape[2:]
    if not transposed:
        return _axes(kernel, stride, padding, dilation)
    # an output place hears ⌈k/s⌉ places at most
    return [(-(-k // s), 1 / s) for k, s in zip(kernel, stride, strict=True)]


def _maximum(args, x, output):
    kernel, stride, padding, dilation = (*args[1:5], *((), 0, 1)[max(len(args) - 2, 0) :])
    return _axes(kernel, stride or kernel, padding, dilation)


def _mean(args, x, output):
    kernel, stride, padding = (*args[1:4], *((), 0)[max(len(args) - 2, 0) :])
    return _axes(kernel, stride or kernel, padding, 1)


def _adaptive(args, x, output):
    """Place i is the mean from ⌊i·n/m⌋ to ⌈(i + 1)·n/m⌉, of n places to m."""
    if output.shape[-2:].numel() == 1 < x.shape[-2:].numel():
        return GLOBAL
    axes = []
    for n, m in zip(x.shape[-2:], output.shape[-2:], strict=True):
        longest = max(-(-(i + 1) * n // m) - i * n // m for i in range(m))
        axes.append((longest, n / m))
    return axes


def _enlarged(args, x, output):
    """Between two places a side, so both are seen."""
    return [(2, n / m) for n, m in zip(x.shape[-2:], output.shape[-2:], strict=True)]


def _repeated(args, x, output):
    return [(1, n / m) for n, m in zip(x.shape[-2:], output.shape[-2:], strict=True)]


def _padded(args, x, output):
    left, _, top, _ = (*args[1], 0, 0)[:4]
    return [(1, 1, top), (1, 1, left)]


def _sliced(args, x, output):
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


STEPS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _maximum,
    "avg_pool2d": _mean,
    "avg_pool3d": _mean,
    "_adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive,
    "upsample_bilinear2d": _enlarged,
    "upsample_nearest2d": _repeated,
    "constant_pad_nd": _padded,
    "slice": _sliced,
}
