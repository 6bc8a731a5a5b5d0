"""Pictures of an image classifier: what it confuses, where it is wrong, what its layers see."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor, nn

from torchstone.engine.curves import canvas, plain, save
from torchstone.errors import BadInput

WRITTEN = 20  # classes up to which every count is written out
LAYERS = 24  # rows of feature maps at most
FILTERS = 64
SILENT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten)


def confusion(
    matrix: Int[Tensor, "classes classes"], classes: Sequence[str], file: str | Path
) -> None:
    """Draws counts (row: true class, column: predicted class), coloured by their share of the row.

    Each class's recall stands at the right; up to 20 classes, all counts are written.

    Raises:
        BadInput: there are not as many names as classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import FixedLocator

    counts = matrix.cpu().numpy()
    n = len(counts)
    if len(classes) != n:
        raise BadInput(f"{len(classes)} class names for a confusion matrix of {n} classes")
    total, right = int(counts.sum()), int(counts.trace())
    per_row = counts.sum(1, keepdims=True)
    share = counts / np.maximum(per_row, 1)
    written = n <= WRITTEN
    side = max(3.2, 0.46 * n) if written else 8.5
    names = [plain(name, 18) for name in classes]
    margin = 0.6 + 0.075 * max(map(len, names))
    figure = canvas(side + margin + 2.9, side + min(margin, 2.2) + 0.8)
    axes, recall = figure.subplots(1, 2, sharey=True, width_ratios=(side, 1.1))

    # The root lifts small shares: one mistake in a hundred can still be seen.
    shown = axes.imshow(
        share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest"
    )
    step = 1 if written else math.ceil(n / 25)
    axes.xaxis.set_major_locator(FixedLocator(range(0, n, step)))
    axes.yaxis.set_major_locator(FixedLocator(range(0, n, step)))
    upright = max(map(len, names)) > 3
    axes.set_xticklabels(names[::step], rotation=90 if upright else 0, fontsize=8)
    axes.set_yticklabels(names[::step], fontsize=8)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if written:
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.88", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[i, j] > 0.3 else "black"
            weight = "bold" if i == j else "normal"
            axes.text(j, i, f"{counts[i, j]}", color=colour, fontsize=8, fontweight=weight,
                      ha="center", va="center")  # fmt: skip

    diagonal = share.diagonal()
    recall.barh(range(n), diagonal, height=0.8 if written else 1.0, color="#7fb0d8")
    recall.set_xlim(0, 1)
    recall.set_xticks([0, 0.5, 1], ["0", "50", "100 %"], fontsize=8)
    recall.tick_params(axis="y", which="both", length=0, labelleft=False)
    recall.tick_params(which="minor", length=0)
    recall.spines[["top", "right"]].set_visible(False)
    recall.set_title("recall", fontsize=9)
    for i in range(n if written else 0):
        text = f"{100 * diagonal[i]:.1f} %" if per_row[i] else "none seen"
        recall.text(0.04, i, text, fontsize=8, va="center")
    bar = figure.colorbar(shown, ax=[axes, recall], fraction=0.03, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1", "5", "20", "50", "100 %"])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the true class", fontsize=8)
    figure.suptitle(
        f"accuracy {100 * right / max(total, 1):.2f} %  ({right:,} of {total:,})", fontsize=11
    )
    save(figure, file)


def worst(
    labels: Int64[Tensor, " n"],
    probabilities: Float[Tensor, "n classes"],
    most: int,
    predictions: Int64[Tensor, " n"] | None = None,
) -> Int64[Tensor, " shown"]:
    """Indices of the mistakes, highest confidence in the wrong class first; `most` at most.

    Equal confidences keep the data's order. `predictions` is by default the likeliest class.
    """
    predictions = probabilities.argmax(1) if predictions is None else predictions
    wrong = (predictions != labels).nonzero()[:, 0]
    confidence = probabilities[wrong, predictions[wrong]]
    return wrong[confidence.argsort(descending=True, stable=True)[:most]]


def mistakes(
    images: UInt8[Tensor, "n channel height width"],
    labels: Int64[Tensor, " n"],
    predictions: Int64[Tensor, " n"],
    probabilities: Float[Tensor, "n classes"],
    classes: Sequence[str],
    file: str | Path,
    most: int = 36,
) -> None:
    """Draws the worst mistakes, each with `true → predicted (confidence)`.

    Where there is no mistake, the right answers that were least certain, and the title says so.
    """
    index = worst(labels, probabilities, most, predictions)
    wrong, n = int((predictions != labels).sum()), len(labels)
    if wrong:
        title = (
            f"{wrong:,} mistakes in {n:,} pictures" if wrong > 1 else f"1 mistake in {n:,} pictures"
        )
        title += f": the {len(index)} most confident" if wrong > len(index) else ""
    else:
        index = probabilities.gather(1, labels[:, None])[:, 0].argsort(stable=True)[:most]
        title = f"no mistake in {n:,} pictures: the {len(index)} least certain right answers"
    title += "\ntrue → predicted (confidence)" if wrong else "\nclass (confidence)"

    columns = max(3, min(6, math.ceil(math.sqrt(len(index)))))
    rows = max(1, math.ceil(len(index) / columns))
    width, height, head = 1.75, 1.95, 0.65
    figure = canvas(width * columns, height * rows + head, layout=None)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / (height * rows + head), va="top")
    for place, i in enumerate(index.tolist()):
        left, top = (place % columns) * width, head + (place // columns) * height
        tile = figure.add_axes(
            (
                (left + 0.2) / (width * columns),
                1 - (top + 1.4) / (height * rows + head),
                1.35 / (width * columns),
                1.35 / (height * rows + head),
            )
        )
        pixels, grey = _pixels(images[i].cpu().float() / 255)
        tile.imshow(pixels, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")
        tile.set_axis_off()
        true, said = (classes[int(each[i])] for each in (labels, predictions))
        sure = 100 * float(probabilities[i, predictions[i]])
        # Never "100 %" of what is not sure.
        sure = f"({sure:.0f} %)" if sure < 99.5 else f"({min(sure, 99.9):.1f} %)"
        if not wrong:
            text = plain(true, 22) + ("\n" if len(true) > 12 else " ") + sure
        elif len(true) + len(said) <= 12:
            text = f"{plain(true)} → {plain(said)} {sure}"
        else:
            text = f"{plain(true, 20)} →\n{plain(said, 14)} {sure}"
        tile.text(0.5, -0.04, text, transform=tile.transAxes, fontsize=8, ha="center", va="top")
    save(figure, file)


def filters(
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
            raise BadInput(
                f"a weight of {bank.shape[1]} inputs cannot be drawn in the shape {shape}"
            )
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
        shown = axes.imshow(mosaic[..., 0], cmap=_diverging(), vmin=-limit, vmax=limit)
        over = "both" if float(bank.abs().max()) > limit else "neither"
        bar = figure.colorbar(shown, ax=axes, fraction=0.04, extend=over)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("weight", fontsize=8)
    figure.suptitle(said, fontsize=10)
    save(figure, file)


def feature_maps(
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
    outputs = _listen(model, image)
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
        figure.text(
            (left + wide + 0.12) / width, bottom + box[3] / 2, span, fontsize=8, va="center"
        )
        _draw_output(axes, values, place == 0)
    save(figure, file)


def _listen(model: nn.Module, image: Tensor) -> list[tuple[str, Tensor]]:
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
        for name, module in model.named_modules():
            inner = {child for child, _ in module.named_children()} - {"parametrizations"}
            leaf = not inner or isinstance(module, nn.MultiheadAttention)
            if leaf and not isinstance(module, SILENT) and "parametrizations" not in name:
                label = (
                    f"{plain(name, 30)}\n{type(module).__name__}" if name else type(module).__name__
                )
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
        "cmap": _diverging() if signed else _grey(),
        "vmin": -limit if signed else 0.0,
        "vmax": limit,
    }
    if first:
        low, high = float(values.min()), float(values.max())
        pixels, grey = _pixels((values - low) / max(high - low, 1e-12))
        axes.imshow(pixels, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")
        axes.set_anchor("W")
    elif values.ndim == 3:
        tiles = values[:, None]
        mosaic = _mosaic(tiles, len(tiles), side=64, gap=5)[..., 0]
        axes.imshow(mosaic, interpolation="nearest", **look)
        axes.set_anchor("W")
    elif values.ndim == 1 and len(values) <= 64:
        colours = ["#b2182b" if value > 0 else "#2166ac" for value in values.tolist()]
        axes.bar(
            range(len(values)), values.tolist(), color=colours if signed else "0.35", width=0.8
        )
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


def _pixels(picture: Tensor) -> tuple[np.ndarray, bool]:
    """A picture (c, h, w) on 0..1 as matplotlib takes it, and whether it is grey."""
    if len(picture) == 3:
        return picture.permute(1, 2, 0).clamp(0, 1).numpy(), False
    return picture.mean(0).clamp(0, 1).numpy(), True


def _diverging():
    import matplotlib

    return matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.78")


def _grey():
    import matplotlib

    return matplotlib.colormaps["gray"].with_extremes(bad="white")
