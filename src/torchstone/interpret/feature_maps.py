"""Plots of a network: its first filters, and the outputs of its layers for one image."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.facts import layers
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.plots.canvas import canvas, place_image, plain, save, whole_axes
from torchstone.plots.classification import displayed

MAX_LAYERS = 24  # rows of feature maps
MAX_FILTERS = 64
SKIPPED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten)


def plot_filters(
    weight: Float[Tensor, "out inputs kernel_h kernel_w"] | Float[Tensor, "out inputs"],
    file: str | Path,
    shape: tuple[int, int, int] | None = None,
) -> None:
    """Plots a first layer's filters: in color for three inputs, else blue (−) to red (+).

    A dense layer's weight `(out, c*h*w)` is plotted as images of `shape` `(c, h, w)`. Filters of
    neither one nor three inputs are plotted as their mean over the inputs. At most 64 are plotted,
    those with the largest norms.

    Raises:
        BadInput: the weight does not fit the shape, or is flat and no shape is given.
    """
    bank = weight.detach().float().cpu()
    if bank.ndim == 2:
        if shape is None or math.prod(shape) != bank.shape[1]:
            raise BadInput(f"a weight of {bank.shape[1]} inputs cannot be plotted in the shape {shape}")
        bank = bank.unflatten(1, shape)
    count, inputs, height, width = bank.shape
    title = f"{count} filters of {inputs}×{height}×{width}"
    if count > MAX_FILTERS:
        bank = bank[bank.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:MAX_FILTERS]]
        title = f"{MAX_FILTERS} of {count} filters of {inputs}×{height}×{width}, largest norms first"
    if inputs not in (1, 3):
        bank = bank.mean(1, keepdim=True)
        title += f"\nmean over the {inputs} inputs"
    # One scale for all, so that a weak filter looks weak. One outlier in a thousand may overflow it.
    limit = float(bank.abs().flatten().kthvalue(math.ceil(0.999 * bank.numel())).values) or 1.0

    columns = next((c for c in (8, 7, 6, 5, 4) if len(bank) % c == 0), 8)
    mosaic = _mosaic(bank, columns, side=72, gap=8)
    rows = math.ceil(len(bank) / columns)
    figure = canvas(0.85 * columns + 1.5, max(2.0, 0.85 * rows * height / width + 0.6))
    axes = figure.subplots()
    axes.set_axis_off()
    if inputs == 3:
        axes.imshow(np.nan_to_num(0.5 + mosaic / (2 * limit), nan=1.0).clip(0, 1))
        title += f"\ngray is 0, full color ±{limit:.2g}"
    else:
        mappable = axes.imshow(mosaic[..., 0], cmap=_colormap("RdBu_r", "0.78"), vmin=-limit, vmax=limit)
        extend = "both" if float(bank.abs().max()) > limit else "neither"
        bar = figure.colorbar(mappable, ax=axes, fraction=0.04, extend=extend)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("weight", fontsize=8)
    figure.suptitle(title, fontsize=10)
    save(figure, file)


def plot_feature_maps(
    model: nn.Module, image: Float[Tensor, "1 channel height width"], file: str | Path, max_channels: int = 16
) -> None:
    """Plots the output of each layer for one image, in order of execution.

    Maps (channel, height, width) are a row of the first `max_channels` channels, vectors are bars, tokens
    (time, width) an image. Each row has its own scale, stated on its right; where a layer's output has
    both signs, white is zero. Dropout, identity and flatten are left out; of more than 24 layers, 24 are
    plotted, evenly spaced. The model is left unchanged: its hooks, and the mode of each of its modules.
    """
    outputs = _record_outputs(model, image)
    selected = evenly_spaced(len(outputs), MAX_LAYERS).tolist()
    rows = [("input", image[0].detach().float().cpu()), *(outputs[i] for i in selected)]
    title = f"one image through {len(outputs)} layers"
    title += f", {MAX_LAYERS} of them plotted" if len(outputs) > MAX_LAYERS else ""

    row_height, head, left, row_width, right = 0.72, 0.6, 2.3, 9.4, 1.2
    width, height = left + row_width + right, row_height * len(rows) + head
    figure = canvas(width, height, layout=None)
    figure.suptitle(
        f"{title}\nred +, blue −, white 0; gray from 0 (black) where nothing is negative",
        fontsize=10,
        y=1 - 0.08 / height,
        va="top",
    )
    sheet = whole_axes(figure)
    for row, (label, values) in enumerate(rows):
        bottom = height - head - (row + 1) * row_height + 0.06
        box = (left, bottom, row_width, row_height - 0.12)
        values = values.flatten() if values.ndim == 3 and values.shape[1:] == (1, 1) else values
        size = "×".join(map(str, values.shape)) or "1"
        if row and values.ndim == 3 and len(values) > max_channels:
            size += f"  (first {max_channels})"
        middle = bottom + box[3] / 2
        sheet.text(0.1, middle, f"{label}\n{size}", fontsize=8, va="center")
        if values.numel():
            values = values[:max_channels] if row and values.ndim == 3 else values
            span = f"{float(values.min()):.3g}\nto {float(values.max()):.3g}"
            sheet.text(left + row_width + 0.12, middle, span, fontsize=8, va="center")
            _plot_output(sheet, values, box, row == 0)
    save(figure, file)


def _record_outputs(model: nn.Module, image: Tensor) -> list[tuple[str, Tensor]]:
    """(label, output) of each leaf layer in order of execution, without the batch dimension."""
    outputs: list[tuple[str, Tensor]] = []

    def listener(label: str):
        def hook(module, args, output):
            while isinstance(output, tuple | list) and output:
                output = output[0]
            if isinstance(output, Tensor) and output.ndim > 1 and len(output) == 1:
                # A copy: a layer that works in place would write over it.
                outputs.append((label, output[0].detach().to("cpu", torch.float32, copy=True)))

        return hook

    hooks = []
    try:
        for name, module in layers(model):
            if not isinstance(module, SKIPPED):
                label = f"{plain(name, 30)}\n{type(module).__name__}" if name else type(module).__name__
                hooks.append(module.register_forward_hook(listener(label)))
        weight = next(iter(model.parameters()), image)
        with eval_mode(model), torch.no_grad():
            model(image.to(weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _plot_output(sheet, values: Tensor, box: tuple[float, float, float, float], first: bool) -> None:
    """A row: its image, bars or tokens, in a box (left, bottom, width, height) in inches."""
    left, bottom, width, height = box
    limit = float(values.abs().max()) or 1.0
    has_negative = bool((values < 0).any())
    scale = {
        "cmap": _colormap("RdBu_r", "0.78") if has_negative else _colormap("gray", "white"),
        "vmin": -limit if has_negative else 0.0,
        "vmax": limit,
    }
    if first:
        low, high = float(values.min()), float(values.max())
        pixels, gray = displayed((values - low) / max(high - low, 1e-12))
        place_image(sheet, pixels, box, centered=False, **gray)
    elif values.ndim == 3:
        tiles = values[:, None]
        mosaic = _mosaic(tiles, len(tiles), side=64, gap=5)[..., 0]
        place_image(sheet, mosaic, box, centered=False, **scale)
    elif values.ndim == 1 and len(values) <= 64:
        colors = ["#b2182b" if value > 0 else "#2166ac" for value in values.tolist()]
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        unit = height / ((high - low) or 1.0)
        zero, step = bottom - low * unit, width / max(len(values), 12)
        centers = [left + (i + 0.5) * step for i in range(len(values))]
        heights = (values * unit).tolist()
        sheet.bar(centers, heights, bottom=zero, width=0.8 * step, color=colors if has_negative else "0.35")
        sheet.plot([left, left + width], [zero, zero], color="0.4", linewidth=0.8)
    else:
        rows = values[None] if values.ndim == 1 else values.flatten(0, -2)
        extent = (left, left + width, bottom, bottom + height)
        sheet.imshow(rows.numpy(), extent=extent, aspect="auto", interpolation="nearest", **scale)


def _mosaic(bank: Tensor, columns: int, side: int, gap: int) -> np.ndarray:
    """Tiles (n, c, h, w), each with its longer side `side`, as one (height, width, c); NaN between."""
    height, width = bank.shape[2:]
    scale = side / max(height, width)
    size = (max(4, round(height * scale)), max(4, round(width * scale)))
    bank = nn.functional.interpolate(bank, size=size, mode="nearest" if scale >= 1 else "area")
    rows = math.ceil(len(bank) / columns)
    cell = (size[0] + gap, size[1] + gap)
    sheet = np.full((rows * cell[0] - gap, columns * cell[1] - gap, bank.shape[1]), np.nan)
    for i, tile in enumerate(bank.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * cell[0], i % columns * cell[1]
        sheet[top : top + size[0], left : left + size[1]] = tile
    return sheet


def _colormap(name: str, between: str):
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=between)
