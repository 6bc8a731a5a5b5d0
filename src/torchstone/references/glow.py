"""nflows' invertible layers put together to a Glow, which ours is compared with.

Three conventions differ, and are met without touching what nflows computes. Its actnorm is s ⊙ x + b, whose
inverse is the published code's (x + b) ⊙ s with the signs of both parameters changed. Its 1 × 1 convolution
permutes before it multiplies, and has a bias, which is held at zero. Its squeeze orders channels otherwise.
Two are replaced through the methods that it offers for that: the scale of a coupling and the diagonal of U.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.parts.optional_imports import import_optional
from torchstone.references import randomize_weights

Tensors = dict[str, Tensor]

CASES = 9


def glow_cases(make: Callable[..., Any]) -> Iterator[ParityCase]:
    """Flows of random configurations with a fixed seed, at weights that are not the identity.

    Args:
        make: `Glow`, with its arguments.
    """
    choice = random.Random(0)
    for number in range(CASES):
        scales = 1 + number % 3
        config = {
            "shape": (choice.choice((1, 2, 3)), 2**scales * choice.choice((1, 2)), 2**scales),
            "width": choice.randint(3, 8),
            "depth": choice.randint(1, 3),
            "scales": scales,
            "is_affine": number % 4 < 3,
            "use_lu": number % 2 == 0,
            "learn_top": number % 5 < 4,
        }
        torch.manual_seed(number)
        # 0.1: the inputs of four scales of exponentials stay within float32
        ours = randomize_weights(make(**config), 0.1, add=True)
        dtype = torch.float64 if number < CASES - 2 else torch.float32
        x = torch.randn(3, *config["shape"])
        theirs, names = nflows_glow(ours)
        label = ", ".join(f"{name} {value}" for name, value in config.items())
        yield ParityCase(ours.to(dtype), theirs.to(dtype), x.to(dtype), names, torch.optim.AdamW, label)


def import_transforms() -> Any:
    """nflows.transforms."""
    import_optional("nflows")
    import nflows.transforms

    return nflows.transforms


def nflows_glow(ours: Any) -> tuple[nn.Module, Callable[[Tensors], Tensors]]:
    """The same map in nflows' layers with copies of the weights of `ours`, and the names of its parameters.

    Returns:
        A flow: images to (latents, log |det|); and from its named parameters (or their gradients) to ours.
    """
    transforms, stages = import_transforms(), list(ours.flow.stages)
    flow = transforms.MultiscaleCompositeTransform(len(stages))
    pairs: list[tuple[str, str, nn.Module, nn.Module]] = []  # prefixes of both, and both layers
    shape = ours.shape
    for number, stage in enumerate(stages):
        shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
        layers: list[nn.Module] = []
        for index, layer in enumerate(stage.layers):
            converted = convert_layer(layer, shape[0])
            there = f"_transforms.{number}._transforms.{len(layers)}"
            pairs.append((f"flow.stages.{number}.layers.{index}", there, layer, converted[0]))
            layers += converted
        shape = flow.add_transform(transforms.CompositeTransform(layers), shape) or shape

    def names(tensors: Tensors) -> Tensors:
        return {
            f"{here}.{name}": tensor
            for here, there, layer, _ in pairs
            for name, tensor in layer_names(layer, _below(tensors, there)).items()
        }

    with torch.no_grad():
        for _, _, layer, converted in pairs:
            copy_weights(layer, converted)
    return flow, names


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def convert_layer(layer: Any, channels: int) -> list[nn.Module]:
    """nflows' layers in place of one of ours; the first of them has its parameters."""
    t, half = import_transforms(), channels // 2
    match type(layer).__name__:
        case "Squeeze":
            order = torch.arange(channels).view(-1, 4)[:, layer.ORDER].T.flatten()
            return [t.SqueezeTransform(), t.Permutation(order)]
        case "ActNorm":
            return [t.InverseTransform(t.ActNorm(channels))]
        case "InvertibleConv1x1" if layer.use_lu:
            return [lu_convolution(channels, layer.sign), t.Permutation(layer.permutation.clone())]
        case "InvertibleConv1x1":
            return [plain_convolution(channels)]
        case "ChannelCoupling":
            width = len(layer.net.conv1.weight)
            mask = [0] * half + [1] * half
            make = lambda channels, outputs: ReferenceNet(channels, width, outputs)  # noqa: E731
            if not layer.is_affine:
                return [t.AdditiveCouplingTransform(mask, make)]
            return [affine_coupling(mask, make, lambda raw: torch.sigmoid(raw + 2))]
        case "SplitPrior":
            coupling = affine_coupling([1] * half + [0] * half, ReferenceZeroConv, torch.exp)
            return [t.InverseTransform(coupling)]
        case "TopPrior":
            coupling = affine_coupling([1] * channels, lambda _, outputs: ReferenceTop(outputs), torch.exp)
            return [t.InverseTransform(coupling)]
    raise ValueError(f"no layer in place of {type(layer).__name__}")


def affine_coupling(mask: list[int], make: Callable[[int, int], nn.Module], scale: Callable) -> nn.Module:
    """nflows' affine coupling with another function for the scale."""
    transforms = import_transforms()

    class Coupling(transforms.AffineCouplingTransform):
        def _scale_and_shift(self, transform_params: Tensor) -> tuple[Tensor, Tensor]:
            count = self.num_transform_features
            return scale(transform_params[:, count:]), transform_params[:, :count]

    return Coupling(mask, make)


def lu_convolution(channels: int, sign: Tensor) -> nn.Module:
    """nflows' 1 × 1 convolution without bias and permutation, the diagonal of U a signed exponential."""
    transforms = import_transforms()

    class Convolution(transforms.OneByOneConvolution):
        @property
        def upper_diag(self) -> Tensor:
            return self.sign * self.unconstrained_upper_diag.exp()

        def logabsdet(self) -> Tensor:
            return self.upper_diag.abs().log().sum()

    made_of = Convolution(channels)
    made_of.register_buffer("sign", sign.clone())
    made_of.permutation = transforms.Permutation(torch.arange(channels))
    made_of.bias.requires_grad_(False)
    return made_of


def plain_convolution(channels: int) -> nn.Module:
    """nflows' linear layer at each pixel, without bias."""
    transforms = import_transforms()

    class Convolution(transforms.NaiveLinear):
        def forward(self, inputs: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
            b, c, h, w = inputs.shape
            outputs, each = super().forward(inputs.permute(0, 2, 3, 1).reshape(-1, c), context)
            return outputs.view(b, h, w, c).permute(0, 3, 1, 2), each.view(b, -1).sum(1)

    convolution = Convolution(channels)
    convolution.bias.requires_grad_(False)
    return convolution


class ReferenceZeroConv(nn.Module):
    """3 × 3 with a log-scale of each output, its weights drawn like any other's."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, channels, 3, 3))
        self.bias, self.log_scale = (nn.Parameter(torch.zeros(outputs)) for _ in range(2))

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        patches = F.unfold(x, 3, padding=1).transpose(1, 2)
        y = patches @ self.weight.flatten(1).T + self.bias
        return (y * torch.exp(3 * self.log_scale)).transpose(1, 2).unflatten(2, x.shape[2:])


class ReferenceTop(nn.Module):
    """The same of a constant in place of the input, whose channels are as many as the outputs."""

    def __init__(self, outputs: int):
        super().__init__()
        self.conv = ReferenceZeroConv(outputs, outputs)

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        count = len(self.conv.bias)
        return self.conv(torch.ones(len(x), count, *x.shape[2:], dtype=x.dtype) / count)


class ReferenceNet(nn.Module):
    """The coupling network with nflows' actnorm."""

    def __init__(self, channels: int, width: int, outputs: int):
        super().__init__()
        transforms = import_transforms()
        self.conv1 = nn.Conv2d(channels, width, 3, padding="same", bias=False)
        self.norm1 = transforms.InverseTransform(transforms.ActNorm(width))
        self.conv2 = nn.Linear(width, width, bias=False)
        self.norm2 = transforms.InverseTransform(transforms.ActNorm(width))
        self.last = ReferenceZeroConv(width, outputs)

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        h = self.norm1(self.conv1(x))[0].clamp(min=0)
        h = self.norm2(self.conv2(h.movedim(1, -1)).movedim(-1, 1))[0].clamp(min=0)
        return self.last(h)


def layer_names(layer: Any, tensors: Tensors) -> Tensors:
    """From the named parameters of a converted layer to those of ours: linear, so it holds of gradients."""

    def norm(prefix: str, axes: int) -> Tensors:
        inner = _below(tensors, prefix) if prefix else tensors
        view = (-1, *[1] * axes)
        return {
            "scale": -inner["_transform.log_scale"].view(view),
            "shift": -inner["_transform.shift"].view(view),
        }

    def zero_conv(prefix: str) -> Tensors:
        inner = _below(tensors, prefix)
        log_scale = inner["log_scale"][:, None, None]
        return {"conv.weight": inner["weight"], "conv.bias": inner["bias"], "log_scale": log_scale}

    def within(prefix: str, inner: Tensors) -> Tensors:
        return {f"{prefix}.{name}": tensor for name, tensor in inner.items()}

    match type(layer).__name__:
        case "ActNorm":
            return norm("", 2)
        case "InvertibleConv1x1" if layer.use_lu:
            diagonal = tensors["unconstrained_upper_diag"]
            factors, c = diagonal.diag(), len(diagonal)
            for name, (rows, columns) in {
                "lower_entries": torch.tril_indices(c, c, -1),
                "upper_entries": torch.triu_indices(c, c, 1),
            }.items():
                factors = factors.index_put((rows, columns), tensors[name])
            return {"factors": factors}
        case "InvertibleConv1x1":
            return {"weight": tensors["_weight"]}
        case "ChannelCoupling":
            net = {
                "conv1.weight": tensors["transform_net.conv1.weight"],
                "conv2.weight": tensors["transform_net.conv2.weight"][:, :, None, None],
                **within("norm1", norm("transform_net.norm1", 2)),
                **within("norm2", norm("transform_net.norm2", 2)),
                **within("last", zero_conv("transform_net.last")),
            }
            return within("net", net)
        case "SplitPrior":
            return within("conv", zero_conv("_transform.transform_net"))
        case "TopPrior":
            return within("conv", zero_conv("_transform.transform_net.conv"))
    return {}


def copy_weights(layer: nn.Module, converted: nn.Module) -> None:
    """The weights of `layer` into its counterpart. `layer_names` is linear and one to one: its inverse is its
    transpose, which is the gradient of its product with them."""
    trained = {name: p for name, p in converted.named_parameters() if p.requires_grad}
    parameters = {name: torch.zeros_like(p) for name, p in trained.items()}
    for tensor in parameters.values():
        tensor.requires_grad_()
    ours = dict(layer.named_parameters())
    if not ours:
        return
    with torch.enable_grad():
        image = layer_names(layer, parameters)
        products = [(image[name] * value.detach()).sum() for name, value in ours.items()]
        product = torch.stack(products).sum()
        values = torch.autograd.grad([product], list(parameters.values()))
    assert image.keys() == ours.keys(), (sorted(image), sorted(ours))
    for parameter, value in zip(parameters, values, strict=True):
        converted.get_parameter(parameter).copy_(value)
