"""Which pixels a classifier bases its prediction on: class activation maps and saliency.

`grad_cam`: Ramprasaath Selvaraju, Michael Cogswell, Abhishek Das, Ramakrishna Vedantam, Devi Parikh and
Dhruv Batra, "Grad-CAM", ICCV 2017, arXiv:1610.02391, section 3. `saliency`: Karen Simonyan, Andrea Vedaldi
and Andrew Zisserman, "Deep inside convolutional networks", 2013, arXiv:1312.6034, section 3.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.parts.facts import layers
from torchstone.parts.modes import eval_mode
from torchstone.plots.canvas import canvas, percent, plain, save
from torchstone.plots.classification import overlay_heatmap, show_image

MAX_SHOWN = 60  # images in a plot
MAX_ROWS = 12  # images in a column of a plot


@torch.enable_grad()
def grad_cam(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    classes: Int64[Tensor, " batch"],
    layer: str,
) -> Float[Tensor, "batch rows columns"]:
    """ReLU(Σ_k α_k A_k), α_k the mean over locations of ∂y/∂A_k: the evidence for a class, by location.

    A_k are the maps of the layer, whose rows and columns the result has; y is the class's score (logit).
    In evaluation mode; the model is left unchanged.

    Args:
        classes: the class to explain, for each image.
        layer: a module's name in the model, such as `last_feature_layer` returns.

    Raises:
        BadInput: the model has no such layer, or it outputs no maps.
    """
    if layer not in dict(model.named_modules()):
        raise BadInput(f"the model has no layer {layer!r}: torchstone show lists them")
    outputs: list[Tensor] = []

    def record(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise BadInput(f"{layer} outputs no maps (batch, channel, height, width)")
        outputs[:] = [output.detach().requires_grad_()]
        return outputs[0].clone()  # the next layer may work in place

    with eval_mode(model):
        hook = model.get_submodule(layer).register_forward_hook(record)
        try:
            (gradient,) = torch.autograd.grad(_class_score(model, images, classes), outputs)
        finally:
            hook.remove()
    maps = outputs[0].detach()
    # α_k = 1/Z Σ_ij ∂y/∂A_kij                                    (1)
    alpha = gradient.mean((2, 3), keepdim=True)
    # L = ReLU(Σ_k α_k A_k)                                       (2)
    return (alpha * maps).sum(1).relu()


@torch.enable_grad()
def saliency(
    model: nn.Module, images: Float[Tensor, "batch channel height width"], classes: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch height width"]:
    """max over channels of |∂y/∂x|: the sensitivity of the class's score (logit) y to each pixel.

    In evaluation mode; the model is left unchanged.
    """
    with eval_mode(model):
        pixels = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_class_score(model, pixels, classes), pixels)
    return gradient.abs().amax(1)


def _class_score(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The sum of the images' scores, each for its class: none depends on another image."""
    return model(images).gather(1, classes[:, None]).sum()


@torch.no_grad()
def last_feature_layer(model: nn.Module, image: Float[Tensor, "1 channel height width"]) -> str | None:
    """The name of the layer to explain; None where no layer outputs maps.

    It is the last output at the resolution of the last convolution with more than one location: after
    what follows at that resolution (norm, activation, the sum of a residual block, concatenated
    branches), before pooling. For a convolution whose activation is no module, it is the pooling.
    """
    convolutions = {name for name, m in layers(model) if any(p.ndim > 2 for p in m.parameters())}
    sizes: list[tuple[str, tuple[int, ...]]] = []
    hooks = []
    for name, module in model.named_modules():

        def record(module, inputs, output, name=name):
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
                sizes.append((name, tuple(output.shape[2:])))

        hooks.append(module.register_forward_hook(record))
    try:
        with eval_mode(model):
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    conv_sizes = [size for name, size in sizes if name in convolutions]
    if not conv_sizes:
        return None
    last = [name for name, size in sizes if size == conv_sizes[-1]][-1]
    return sizes[-1][0] if last in convolutions else last


def explain(model: nn.Module, metadata: dict, predictions: list[dict], file: Path | str) -> None:
    """Plots each image as the model gets it, its Grad-CAM and its saliency for the predicted class.

    A network without maps (fully connected layers alone) has no Grad-CAM. At most 60 images are plotted,
    in as many columns as keep the plot on a screen.

    Args:
        predictions: what the system's `predict` returned for the images.
    """
    shown, device = predictions[:MAX_SHOWN], next(model.parameters()).device
    layer, rows = None, []
    for i, prediction in enumerate(shown):
        pixels = preprocess(prediction["input"], metadata["picture"])
        image = normalize(pixels.to(device), metadata["picture"])
        label = torch.tensor([metadata["classes"].index(prediction["label"])], device=device)
        if not i:
            layer = last_feature_layer(model, image)
        heatmaps = {}
        if layer is not None:
            cam = grad_cam(model, image, label, layer)
            upsampled = F.interpolate(cam[None], image.shape[2:], mode="bilinear", align_corners=False)
            heatmaps[f"Grad-CAM, {layer}"] = upsampled[0, 0].cpu()
        heatmaps["saliency"] = saliency(model, image, label)[0].cpu()
        rows.append((prediction, pixels[0].cpu().float() / 255, heatmaps))
    _plot(rows, len(predictions), file)


def _plot(rows: list[tuple[dict, Tensor, dict[str, Tensor]]], total: int, file: Path | str) -> None:
    columns = 1 + len(rows[0][2])
    blocks = math.ceil(len(rows) / MAX_ROWS)  # columns of images
    images_per_block = math.ceil(len(rows) / blocks)
    side, gap, top = 2.0, 0.12, 0.5 if total > len(rows) else 0.3
    block_width = max(columns * (side + gap) + 3 * gap, 4.6)
    width, height = blocks * block_width, top + images_per_block * (side + 0.36) + 0.05
    figure = canvas(width, height, layout=None)
    title = f"the first {len(rows)} of {total} images" if total > len(rows) else ""
    figure.text(0.5, 1 - 0.05 / height, title, fontsize=9, ha="center", va="top")
    for number, (prediction, image, heatmaps) in enumerate(rows):
        block_left = block_width * (number // images_per_block) + gap
        row = number % images_per_block
        bottom = height - top - (row + 1) * (side + 0.36) + 0.36
        for column, (name, heatmap) in enumerate({"image": None, **heatmaps}.items()):
            left = block_left + column * (side + gap)
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axes.set_axis_off()
            if not row:
                axes.set_title(plain(name, 34), fontsize=8)
            if heatmap is None:
                show_image(axes, image)
            else:
                axes.imshow(overlay_heatmap(image, heatmap), interpolation="nearest")
                if not heatmap.any():
                    axes.text(
                        0.5,
                        0.5,
                        "no evidence for it",
                        transform=axes.transAxes,
                        color="white",
                        fontsize=8,
                        ha="center",
                    )
        probability = percent(prediction["probability"])
        name, label = plain(Path(prediction["input"]).name, 28), plain(prediction["label"], 24)
        text = f"{name}: {label} ({probability})"
        figure.text(block_left / width, (bottom - 0.05) / height, text, fontsize=9, va="top")
    save(figure, file)
