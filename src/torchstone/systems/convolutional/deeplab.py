"""DeepLab v3: a class for every pixel, by convolutions with holes in them.

Paper: Liang-Chieh Chen, George Papandreou, Florian Schroff and Hartwig Adam, "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587.

The idea. A classifier halves its grid five times, and where things are is lost. Leave the last halvings
out, and its filters see too little of the picture; so spread their weights, with r − 1 zeros between
them, and they see as much as before, on a finer grid, with the same weights:

    y[i] = Σ_k x[i + r·k] w[k]     the rate r is doubled for each halving that is left out

Things come in many sizes, so the last grid is read at several rates side by side and as a whole
(atrous spatial pyramid pooling), joined, and turned into logits, which are drawn up to the picture:

    ASPP(x) = project [1×1 · x; 3×3 at rates 12, 24, 36 · x; mean over places · x]

Training, the forward pass gives (logits, auxiliary logits), the second from the middle of the backbone
through a small head (Zhao et al. 2016, arXiv:1612.01105); in evaluation mode, the logits.

    loss = L(logits, y) + 0.5 L(auxiliary, y),   L the mean cross-entropy over labelled pixels

`deeplab_resnet50`, `deeplab_resnet101` and `deeplab_mobilenet_v3_large` (Howard et al. 2019,
arXiv:1905.02244) are the networks whose weights torchvision publishes, by its names; `fcn_resnet50` has
the older head of two convolutions in place of ASPP (Long et al. 2014, arXiv:1411.4038). `deeplab_small`
is for 64×64 drawings on a CPU: three stages of ResNet, the last dilated, and rates 2, 4, 8.

What differs from the paper. The grid is an eighth of the picture in training too, with rates 12, 24, 36
(the paper: a sixteenth with 6, 12, 18, an eighth in its final training), all blocks of a stage have one
rate (no multi-grid), and there is the auxiliary head: so are the published weights. They begin a
training; ours starts from random weights. Momentum is Nesterov's; evaluation is at one scale.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.segmentation import load_scenes
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.conv import mobilenet_v3
from torchstone.parts.conv.convolution import conv_norm_act
from torchstone.parts.conv.dilated import dilated, without_holes
from torchstone.parts.facts import Fact, macs, parameters
from torchstone.references.resnet import resnet_cases
from torchstone.systems import Variant
from torchstone.systems.convolutional.resnet import DEPTHS, Basic, Bottleneck, ResNet
from torchstone.tasks.vision.segment import evaluate, explain, predict, segment

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict"]
__all__ += ["reference"]

HEAD = ("classifier.4.", "aux_classifier.4.")
MARGIN = ("miou", 0.3)  # what the smoke recipe gains over the untrained network


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # openmoji, digits, or a folder with images/ and masks/
    size: int = 64  # pixels a side
    variant: str = "deeplab_small"  # which network
    steps: int = 1350  # updates
    batch_size: int = 8  # pictures an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=3e-3, weight_decay=0.01, lr_schedule="poly", warmup_ratio=0.05
    )  # optimizer, schedule, precision
    augment: str = "flip"  # none, or flip, scale0.5-2, shift0.1 joined by +
    seed: int = 0  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train deeplab        about 4.5 min of one core   test mIoU 0.806
    "openmoji": Recipe(),
    # torchstone train deeplab/voc --data DIR   (the paper, from trained weights: test mIoU 0.857)
    "voc": Recipe(
        data="voc",
        size=513,
        variant="deeplab_resnet101",
        steps=30_000,
        batch_size=16,
        optim=replace(Recipe.optim, optimizer="sgd", lr=0.007, weight_decay=1e-4, warmup_ratio=0.0),
        augment="flip+scale0.5-2",
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits", size=16, steps=80, batch_size=16, optim=replace(Recipe.optim, lr=0.01), augment="none"
    ),
}


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, 3×3 at each rate, and the mean, side by side (section 3.3)."""

    def __init__(self, inputs: int, rates: Sequence[int], outputs: int = 256):
        super().__init__()
        atrous = [conv_norm_act(inputs, outputs, 3, dilation=rate) for rate in rates]
        pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm_act(inputs, outputs, 1))
        self.convs = nn.ModuleList([conv_norm_act(inputs, outputs, 1), *atrous, pooling])
        joined = conv_norm_act(len(self.convs) * outputs, outputs, 1)
        self.project = nn.Sequential(*joined, nn.Dropout(0.5))

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        *local, whole = (branch(x) for branch in self.convs)
        return self.project(torch.cat([*local, whole.expand_as(local[0])], 1))


def deeplab_head(
    inputs: int, num_classes: int, rates: Sequence[int] = (12, 24, 36), width: int = 256
) -> nn.Sequential:
    pyramid = ASPP(inputs, rates, width)
    return nn.Sequential(pyramid, *conv_norm_act(width, width, 3), nn.Conv2d(width, num_classes, 1))


def fcn_head(inputs: int, num_classes: int) -> nn.Sequential:
    """Two convolutions: what a fully convolutional network ends in, and the auxiliary classifier."""
    width = inputs // 4
    layers = conv_norm_act(inputs, width, 3)
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1))


class Segmenter(nn.Module):
    """A backbone, a head on its last maps, and in training one on earlier maps; logits for each pixel.

    Args:
        maps: (backbone, images) -> (early maps, last maps).
    """

    def __init__(
        self,
        backbone: nn.Module,
        maps: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
        classifier: nn.Module,
        aux_classifier: nn.Module | None,
    ):
        super().__init__()
        self.backbone, self.maps = backbone, maps
        self.classifier, self.aux_classifier = classifier, aux_classifier
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:  # the logits: all classes alike at first
                    nn.init.normal_(layer.weight, 0, 0.01)
                    nn.init.zeros_(layer.bias)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> (
        Float[Tensor, "batch classes height width"] | tuple[Float[Tensor, "batch classes height width"], ...]
    ):
        def enlarged(logits: Tensor) -> Tensor:
            return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

        early, last = self.maps(self.backbone, images)
        logits = enlarged(self.classifier(last))
        if not self.training or self.aux_classifier is None:
            return logits
        return logits, enlarged(self.aux_classifier(early))


def residual(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of the last two stages."""
    early = last = net.maxpool(F.relu(net.bn1(net.conv1(images)), inplace=True))
    for stage in net.stages:
        early, last = last, getattr(net, stage)(last)
    return early, last


def resnet(layers: int, num_classes: int = 21, aux: bool = True, head: Callable = deeplab_head) -> Segmenter:
    """Stages three and four at the second's grid, an eighth of the picture."""
    # a stage's first block still reads the grid as the stage before left it
    backbone = ResNet(dilated(Bottleneck, {256: (1, 2), 512: (2, 4)}), DEPTHS[layers])
    del backbone.fc
    extra = fcn_head(1024, num_classes) if aux else None
    return Segmenter(backbone, residual, head(2048, num_classes), extra)


def small(num_classes: int = 5, aux: bool = False) -> Segmenter:
    """Three stages on the whole, the half and the half grid."""
    block = dilated(Basic, {64: (1, 2)})
    backbone = ResNet(block, (1, 2, 2), widths=(16, 32, 64), stem="cifar")
    del backbone.fc
    head = deeplab_head(64, num_classes, (2, 4, 8), 32)
    return Segmenter(backbone, residual, head, fcn_head(32, num_classes) if aux else None)


def mobilenet(num_classes: int = 21, aux: bool = True) -> Segmenter:
    """The last three blocks at rate 2, on a sixteenth of the picture."""
    heard, outputs = mobilenet_v3.HEARD
    extra = fcn_head(heard, num_classes) if aux else None
    head = deeplab_head(outputs, num_classes)
    return Segmenter(mobilenet_v3.body(rate=2), mobilenet_v3.maps, head, extra)


PICTURE = (3, 520, 520)
VARIANTS = {
    "deeplab_small": Variant(small, (3, 64, 64)),
    "deeplab_resnet50": Variant(partial(resnet, 50), PICTURE),
    "deeplab_resnet101": Variant(partial(resnet, 101), PICTURE),
    "deeplab_mobilenet_v3_large": Variant(mobilenet, PICTURE),
    "fcn_resnet50": Variant(partial(resnet, 50, head=fcn_head), PICTURE),
}


def published(variant: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names are ours; some files were saved from inside `DataParallel`."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.batch_size // max(1, recipe.optim.grad_accum_steps) // parallel.world_size() < 2:
        raise BadInput(
            f"a batch of {recipe.batch_size} leaves one picture a pass, which batch norm cannot do with "
            "the mean over places: give at least 2 for each micro-batch and process"
        )
    device = select_device(recipe.device)
    data = load_scenes(recipe.data, size=recipe.size, device=device)
    model_config = {"num_classes": len(data.classes)}
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield segment(model, recipe, data, model_config=model_config)


# parameters and multiply-accumulates, the auxiliary head's among them
COUNTS = {
    "deeplab_resnet50": (42_004_074, 178_721_945_088),
    "deeplab_resnet101": (60_996_202, 258_743_039_488),
    "deeplab_mobilenet_v3_large": (11_029_328, 10_452_447_938),
    "fcn_resnet50": (35_322_218, 152_716_512_000),
}
ALONE = {"deeplab_resnet50": 39_638_869, "deeplab_resnet101": 58_630_997}


def unmade(variant: str, **model_config) -> Any:
    """The network without memory for its weights, to be counted."""
    with torch.device("meta"):
        return VARIANTS[variant].make(**model_config)


def both_heads(variant: str) -> int:
    """Multiply-accumulates of the network on 520×520 and of its auxiliary head on the 65×65 it hears."""
    model = unmade(variant)
    heard = (1, model.aux_classifier[0].in_channels, 65, 65)
    return macs(model, (1, *PICTURE)) + macs(model.aux_classifier, heard)


FACTS = [
    *(Fact(f"{v} parameters", lambda v=v: parameters(unmade(v)), n) for v, (n, _) in COUNTS.items()),
    *(
        Fact(
            f"{v} parameters without the auxiliary head",
            lambda v=v: parameters(unmade(v, aux=False)),
            n,
        )
        for v, n in ALONE.items()
    ),
    *(Fact(f"{v} multiply-accumulates", lambda v=v: both_heads(v), n) for v, (_, n) in COUNTS.items()),
]


def reference():
    """torchvision's networks; the small one without holes; ASPP on a grid larger than its rates."""
    from torchstone.references import torchvision

    zoo = torchvision().models.segmentation
    makers = {
        "deeplab_resnet50": zoo.deeplabv3_resnet50,
        "deeplab_resnet101": zoo.deeplabv3_resnet101,
        "deeplab_mobilenet_v3_large": zoo.deeplabv3_mobilenet_v3_large,
        "fcn_resnet50": zoo.fcn_resnet50,
    }
    for variant, make in makers.items():

        def theirs(make=make) -> Any:
            model = make(weights=None, weights_backbone=None, num_classes=10, aux_loss=True)
            model.register_forward_hook(unnamed)
            return model

        mobile, make_ours = "mobile" in variant, VARIANTS[variant].make
        for pair in resnet_cases(variant, make_ours, theirs, published, size=96 if mobile else 48):
            models: Any = pair[:2]
            for model in models:
                named(model, variant).aux_classifier.requires_grad_(model.training)
                for block in list(model.backbone.children())[1:-1] if mobile else ():
                    # a shift that the next norm takes out again: its gradient is rounding alone
                    block.block[-1][1].bias.requires_grad_(not model.training)
            yield pair
    torch.manual_seed(0)
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    for training in (False, True):
        one = small(10, aux=training).double().train(training)
        yield named(one, "deeplab_small"), without_holes(one), images
    one, other = ASPP(4, (12, 24, 36), 256).double(), zoo.deeplabv3.ASPP(4, [12, 24, 36]).double()
    one.load_state_dict(other.state_dict())
    yield one, other, torch.randn(2, 4, 40, 40, dtype=torch.float64)


def named(model: Any, variant: str) -> Any:
    if type(model) is Segmenter:
        model.__name__ = f"{variant}, {'train' if model.training else 'eval'}"
    return model


def unnamed(model: Any, _: Any, output: Mapping[str, Tensor]) -> Any:
    """torchvision's dictionary as ours: logits, with the auxiliary ones in training."""
    return (output["out"], output["aux"]) if model.training else output["out"]
