"""Pictures of what a network looks for: its first filters, and one picture's way through it."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.facts import layers
from torchstone.plots.canvas import canvas, plain, save
from torchstone.plots.classification import show_image

LAYERS = 24  # rows of feature maps at most
FILTERS = 64
SILENT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten)


def plot_filters(
    weight: Float[Tensor, "out inputs kernel_h kernel_w"] | Float[Tensor, "out inputs"],
    file: str | Path,
    shape: tuple[int, int, int] | None = None,
) -> None:
    """Draws a first layer's filters: in colour for three inputs, else blue (−) to red (+).

    A dense layer's weight `(out, c*h*w)` is drawn as pictures of `shape` `(c, h, w)`. Filters of
    neither one nor three inputs are drawn as their mean over the inputs. 64 at most are drawn,
    those with the largest norms.

    Raises:
        BadInput: the weight does not fit the shape, or is flat and no shape is given.
    """
    bank = weight.detach().float().cpu()
    if bank.ndim == 2:
        if shape is None or math.prod(shape) != bank.shape[1]:
            raise BadInput(f"a weight of {bank.shape[1]} inputs cannot be drawn in the shape {shape}")
        bank = bank.unflatten(1, shape)
    count, inputs, high, wide = bank.shape
    said = f"{count} filters of {inputs}×{high}×{wide}"
    if count > FILTERS:
        bank = bank[bank.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:FILTERS]]
        said = f"{FILTERS} of {count} filters of {inputs}×{high}×{wide}, largest norms first"
    if inputs not in (1, 3):
        bank = bank.mean(1, keepdim=True)
        said += f"\nmean over the {inputs} inputs"
    # One scale for all: a weak filter looks weak. A stray weight in a thousand may overflow it.
    limit = float(bank.abs().flatten().kthvalue(math.ceil(0.999 * bank.numel())).values) or 1.0

    columns = next((c for c in (8, 7, 6, 5, 4) if len(bank) % c == 0), 8)
    mosaic = _mosaic(bank, columns, side=72, gap=8)
    rows = math.ceil(len(bank) / columns)
    figure = canvas(0.85 * columns + 1.5, max(2.0, 0.85 * rows * high / wide + 0.6))
    axes = figure.subplots()
    axes.set_axis_off()
    if inputs == 3:
        axes.imshow(np.nan_to_num(0.5 + mosaic / (2 * limit), nan=1.0).clip(0, 1))
        said += f"\ngrey is 0, full colour ±{limit:.2g}"
    else:
        shown = axes.imshow(mosaic[..., 0], cmap=_colormap("RdBu_r", "0.78"), vmin=-limit, vmax=limit)
        over = "both" if float(bank.abs().max()) > limit else "neither"
        bar = figure.colorbar(shown, ax=axes, fraction=0.04, extend=over)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("weight", fontsize=8)
    figure.suptitle(said, fontsize=10)
    save(figure, file)


def plot_feature_maps(
    model: nn.Module,
    image: Float[Tensor, "1 channel height width"],
    file: str | Path,
    most: int = 16,
) -> None:
    """Draws one picture's way through the model: the output of each layer in order of execution.

    Maps (channel, height, width) are a row of the first `most` channels, vectors are bars, tokens
    (time, width) a sheet. Each row has a scale of its own, written at its right; where a layer's
    output has both signs, white is zero. Dropout, identity and flatten are left out; of more than
    24 layers, 24 are drawn, evenly picked. The model is left as it was: its hooks, and the mode of
    each of its modules.
    """
    outputs = _record_outputs(model, image)
    picked = np.linspace(0, len(outputs) - 1, min(len(outputs), LAYERS)).round().astype(int)
    rows = [("input", image[0].detach().float().cpu()), *(outputs[i] for i in picked)]
    title = f"one picture through {len(outputs)} layers"
    title += f", {LAYERS} of them drawn" if len(outputs) > LAYERS else ""

    height, head, left, wide, right = 0.72, 0.6, 2.3, 9.4, 1.2
    width, tall = left + wide + right, height * len(rows) + head
    figure = canvas(width, tall, layout=None)
    figure.suptitle(
        f"{title}\nred +, blue −, white 0; grey from 0 (black) where nothing is negative",
        fontsize=10,
        y=1 - 0.08 / tall,
        va="top",
    )
    for place, (label, values) in enumerate(rows):
        bottom = 1 - (head + (place + 1) * height - 0.06) / tall
        box = (left / width, bottom, wide / width, (height - 0.12) / tall)
        axes = figure.add_axes(box)
        values = values.flatten() if values.ndim == 3 and values.shape[1:] == (1, 1) else values
        size = "×".join(map(str, values.shape)) or "1"
        if place and values.ndim == 3 and len(values) > most:
            size += f"  (first {most})"
        figure.text(0.1 / width, bottom + box[3] / 2, f"{label}\n{size}", fontsize=8, va="center")
        if values.ndim == 3 and values.numel():
            values = values[:most] if place else values
        span = f"{float(values.min()):.3g}\nto {float(values.max()):.3g}" if values.numel() else ""
        figure.text((left + wide + 0.12) / width, bottom + box[3] / 2, span, fontsize=8, va="center")
        _draw_output(axes, values, place == 0)
    save(figure, file)


def _record_outputs(model: nn.Module, image: Tensor) -> list[tuple[str, Tensor]]:
    """(label, output) of each leaf layer in order of execution, batch dimension taken off."""
    heard: list[tuple[str, Tensor]] = []

    def listener(label: str):
        def hook(module, args, output):
            while isinstance(output, tuple | list) and output:
                output = output[0]
            if isinstance(output, Tensor) and output.ndim > 1 and len(output) == 1:
                # A copy: a layer that works in place would write over it.
                heard.append((label, output[0].detach().to("cpu", torch.float32, copy=True)))

        return hook

    hooks, modes = [], [(module, module.training) for module in model.modules()]
    try:
        for name, module in layers(model):
            if not isinstance(module, SILENT):
                label = f"{plain(name, 30)}\n{type(module).__name__}" if name else type(module).__name__
                hooks.append(module.register_forward_hook(listener(label)))
        weight = next(iter(model.parameters()), image)
        model.eval()
        with torch.no_grad():
            model(image.to(weight.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return heard


def _draw_output(axes, values: Tensor, first: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if not values.numel():
        return
    limit = float(values.abs().max()) or 1.0
    signed = bool((values < 0).any())
    look = {
        "cmap": _colormap("RdBu_r", "0.78") if signed else _colormap("gray", "white"),
        "vmin": -limit if signed else 0.0,
        "vmax": limit,
    }
    if first:
        low, high = float(values.min()), float(values.max())
        show_image(axes, (values - low) / max(high - low, 1e-12))
        axes.set_anchor("W")
    elif values.ndim == 3:
        tiles = values[:, None]
        mosaic = _mosaic(tiles, len(tiles), side=64, gap=5)[..., 0]
        axes.imshow(mosaic, interpolation="nearest", **look)
        axes.set_anchor("W")
    elif values.ndim == 1 and len(values) <= 64:
        colours = ["#b2182b" if value > 0 else "#2166ac" for value in values.tolist()]
        axes.bar(range(len(values)), values.tolist(), color=colours if signed else "0.35", width=0.8)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xlim(-0.6, max(len(values), 12) - 0.4)
    else:
        sheet = values[None] if values.ndim == 1 else values.flatten(0, -2)
        axes.imshow(sheet.numpy(), aspect="auto", interpolation="nearest", **look)


def _mosaic(bank: Tensor, columns: int, side: int, gap: int) -> np.ndarray:
    """Tiles (n, c, h, w), each with its longer side `side`, as one (height, width, c); NaN between."""
    high, wide = bank.shape[2:]
    scale = side / max(high, wide)
    size = (max(4, round(high * scale)), max(4, round(wide * scale)))
    bank = nn.functional.interpolate(bank, size=size, mode="nearest" if scale >= 1 else "area")
    rows = math.ceil(len(bank) / columns)
    cell = (size[0] + gap, size[1] + gap)
    sheet = np.full((rows * cell[0] - gap, columns * cell[1] - gap, bank.shape[1]), np.nan)
    for place, tile in enumerate(bank.permute(0, 2, 3, 1).numpy()):
        top, left = place // columns * cell[0], place % columns * cell[1]
        sheet[top : top + size[0], left : left + size[1]] = tile
    return sheet


def _colormap(name: str, between: str):
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=between)
