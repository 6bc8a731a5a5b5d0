"""Where in a picture a classifier sees its answer: class activation maps and saliency.

`grad_cam`: Ramprasaath Selvaraju, Michael Cogswell, Abhishek Das, Ramakrishna Vedantam, Devi Parikh and
Dhruv Batra, "Grad-CAM", ICCV 2017, arXiv:1610.02391, section 3. `saliency`: Karen Simonyan, Andrea Vedaldi
and Andrew Zisserman, "Deep inside convolutional networks", 2013, arXiv:1312.6034, section 3.
"""

import contextlib
import math
from collections.abc import Generator
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.parts.facts import layers
from torchstone.plots.canvas import canvas, plain, save
from torchstone.plots.classification import overlay_heatmap, show_image

SHOWN = 60  # pictures in a drawing
TALL = 12  # of them in a column


@torch.enable_grad()
def grad_cam(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    classes: Int64[Tensor, " batch"],
    layer: str,
) -> Float[Tensor, "batch rows columns"]:
    """ReLU(Σ_k α_k A_k), α_k the mean over places of ∂y/∂A_k: what speaks for a class, and where.

    A_k are the maps of the layer, and the answer has their rows and columns; y is the class's score
    (logit). In evaluation mode; the model is left as it was.

    Args:
        classes: of each picture, the class to be explained.
        layer: a module's name in the model, such as `last_grid` gives.

    Raises:
        BadInput: the model has no such layer, or it gives no maps.
    """
    if layer not in dict(model.named_modules()):
        raise BadInput(f"the model has no layer {layer!r}: torchstone show lists them")
    kept: list[Tensor] = []

    def keep(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise BadInput(f"{layer} gives no maps (batch, channel, height, width)")
        kept[:] = [output.detach().requires_grad_()]
        return kept[0].clone()  # what comes next may work in place

    with _still(model):
        hook = model.get_submodule(layer).register_forward_hook(keep)
        try:
            (slope,) = torch.autograd.grad(_score(model, images, classes), kept)
        finally:
            hook.remove()
    maps = kept[0].detach()
    # α_k = 1/Z Σ_ij ∂y/∂A_kij                                    (1)
    alpha = slope.mean((2, 3), keepdim=True)
    # L = ReLU(Σ_k α_k A_k)                                       (2)
    return (alpha * maps).sum(1).relu()


@torch.enable_grad()
def saliency(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    classes: Int64[Tensor, " batch"],
) -> Float[Tensor, "batch height width"]:
    """max over channels of |∂y/∂x|: how much a pixel moves the class's score (logit) y.

    In evaluation mode; the model is left as it was.
    """
    with _still(model):
        pixels = images.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(_score(model, pixels, classes), pixels)
    return slope.abs().amax(1)


def _score(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The sum of the pictures' scores, each in its class: none depends on another picture."""
    return model(images).gather(1, classes[:, None]).sum()


@torch.no_grad()
def last_feature_layer(model: nn.Module, image: Float[Tensor, "1 channel height width"]) -> str | None:
    """The name of the layer whose maps say most about where; None where no layer gives maps.

    It is the last output on the grid of the last convolution that has more than one place: with what
    follows on that grid (norm, activation, the sum of a residual block, the joined branches), before it
    is pooled. Of a convolution whose activation is no layer, it is what it is pooled to.
    """
    filters = {name for name, m in layers(model) if any(p.ndim > 2 for p in m.parameters())}
    grids: list[tuple[str, tuple[int, ...]]] = []
    hooks = []
    for name, module in model.named_modules():

        def note(module, inputs, output, name=name):
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
                grids.append((name, tuple(output.shape[2:])))

        hooks.append(module.register_forward_hook(note))
    try:
        with _still(model):
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    sides = [grid for name, grid in grids if name in filters]
    if not sides:
        return None
    found = [name for name, grid in grids if grid == sides[-1]][-1]
    return grids[-1][0] if found in filters else found


@contextlib.contextmanager
def _still(model: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode, and afterwards each module in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def explain(model: nn.Module, metadata: dict, answers: list[dict], file: Path | str) -> None:
    """Draws a row a picture: as the model gets it, its Grad-CAM and its saliency for the likeliest class.

    A network without maps (full layers alone) has no Grad-CAM. 60 pictures at most are drawn, in as
    many columns as keep the drawing on a screen.

    Args:
        answers: what the system's `predict` said of the pictures.
    """
    drawn, device = answers[:SHOWN], next(model.parameters()).device
    layer, rows = None, []
    for place, answer in enumerate(drawn):
        pixels = preprocess(answer["input"], metadata["picture"])
        image = normalize(pixels.to(device), metadata["picture"])
        chosen = torch.tensor([metadata["classes"].index(answer["label"])], device=device)
        if not place:
            layer = last_feature_layer(model, image)
        heats = {}
        if layer is not None:
            cam = grad_cam(model, image, chosen, layer)
            size = image.shape[2:]
            larger = F.interpolate(cam[None], size, mode="bilinear", align_corners=False)
            heats[f"Grad-CAM, {layer}"] = larger[0, 0].cpu()
        heats["saliency"] = saliency(model, image, chosen)[0].cpu()
        rows.append((answer, pixels[0].cpu().float() / 255, heats))
    _draw(rows, len(answers), file)


def _draw(rows: list[tuple[dict, Tensor, dict[str, Tensor]]], given: int, file: Path | str) -> None:
    columns = 1 + len(rows[0][2])
    abreast = math.ceil(len(rows) / TALL)  # pictures beside one another
    down = math.ceil(len(rows) / abreast)
    side, gap, top = 2.0, 0.12, 0.5 if given > len(rows) else 0.3
    block = max(columns * (side + gap) + 3 * gap, 4.6)
    wide, tall = abreast * block, top + down * (side + 0.36) + 0.05
    figure = canvas(wide, tall, layout=None)
    title = f"the first {len(rows)} of {given} pictures" if given > len(rows) else ""
    figure.text(0.5, 1 - 0.05 / tall, title, fontsize=9, ha="center", va="top")
    for number, (answer, picture, heats) in enumerate(rows):
        begin, line = block * (number // down) + gap, number % down
        bottom = tall - top - (line + 1) * (side + 0.36) + 0.36
        for column, (name, heat) in enumerate({"picture": None, **heats}.items()):
            left = begin + column * (side + gap)
            axes = figure.add_axes((left / wide, bottom / tall, side / wide, side / tall))
            axes.set_axis_off()
            if not line:
                axes.set_title(plain(name, 34), fontsize=8)
            if heat is None:
                show_image(axes, picture)
            else:
                axes.imshow(overlay_heatmap(picture, heat), interpolation="nearest")
                if not heat.any():
                    axes.text(0.5, 0.5, "nothing speaks for it", transform=axes.transAxes,
                              color="white", fontsize=8, ha="center")  # fmt: skip
        sure = f"{min(answer['probability'], 0.999):.1%}"  # never "100 %" of what is not sure
        words = f"{plain(Path(answer['input']).name, 28)}: {plain(answer['label'], 24)} ({sure})"
        figure.text(begin / wide, (bottom - 0.05) / tall, words, fontsize=9, va="top")
    save(figure, file)
