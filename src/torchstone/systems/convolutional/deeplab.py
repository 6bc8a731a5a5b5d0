"""DeepLab v3: semantic segmentation by dilated (atrous) convolutions.

Paper: Liang-Chieh Chen, George Papandreou, Florian Schroff and Hartwig Adam, "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587.

The idea. A classifier halves its resolution five times, and locations are lost. Without the last strides
its filters would have too small a receptive field; so their weights are spread, with r − 1 zeros between
them, and they cover the same extent as before, at a higher resolution, with the same weights:

    y[i] = Σ_k x[i + r·k] w[k]     the rate r is doubled for each stride that is removed

Objects have many sizes, so the last feature map goes through several rates and a global pooling in
parallel (atrous spatial pyramid pooling), is concatenated, and turned into logits, which are upsampled to
the image:

    ASPP(x) = project [1×1 · x; 3×3 at rates 12, 24, 36 · x; mean over locations · x]

In training mode the forward pass returns (logits, auxiliary logits), the latter from the middle of the
backbone through a small head (Zhao et al. 2016, arXiv:1612.01105); in evaluation mode, the logits.

    loss = L(logits, y) + 0.5 L(auxiliary, y),   L the mean cross-entropy over labelled pixels

`deeplab_resnet50`, `deeplab_resnet101` and `deeplab_mobilenet_v3_large` (Howard et al. 2019,
arXiv:1905.02244) are the networks whose weights torchvision publishes, by its names; `fcn_resnet50` has
the older head of two convolutions in place of ASPP (Long et al. 2014, arXiv:1411.4038). `deeplab_small`
is for 64×64 drawings on a CPU: three stages of ResNet, the last dilated, and rates 2, 4, 8.

What differs from the paper. The output stride is 8 in training too, with rates 12, 24, 36 (the paper: 16
with 6, 12, 18, and 8 in its final training), all blocks of a stage have one rate (no multi-grid), and
there is the auxiliary head: as in the published weights. The paper starts from ImageNet weights; ours
starts from random ones. Momentum is Nesterov's; evaluation is at one scale.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.segmentation import load_segmentation
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.conv import mobilenet_v3
from torchstone.parts.conv.convolution import conv_norm_act
from torchstone.parts.conv.dilated import dilate, undilate
from torchstone.parts.facts import Fact, ParityCase, count_parameters, macs, on_meta, parameter_facts
from torchstone.systems import Variant
from torchstone.systems.convolutional.resnet import DEPTHS, BasicBlock, Bottleneck, ResNet
from torchstone.tasks.vision.segment import evaluate, explain, predict, segment

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

HEAD = ("classifier.4.", "aux_classifier.4.")
MARGIN = ("miou", 0.3)  # minimum gain of the smoke recipe over the untrained network
AUXILIARY_WEIGHT = 0.5  # of the auxiliary head's loss, as for the published weights


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, digits, or a folder with images/ and masks/
    size: int = 64  # image side length in pixels
    variant: str = "deeplab_small"  # network variant
    steps: int = 1350  # number of training steps
    batch_size: int = 8  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=3e-3, weight_decay=0.01, lr_schedule="poly", warmup_ratio=0.05
    )  # optimizer, schedule, precision
    augment: str = "flip"  # augmentation: none, or flip, scale0.5-2 and shift0.1 joined by +
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


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
    """Atrous spatial pyramid pooling: 1×1, 3×3 at each rate, and the mean, in parallel (section 3.3)."""

    def __init__(self, inputs: int, rates: Sequence[int], outputs: int = 256):
        super().__init__()
        atrous = [conv_norm_act(inputs, outputs, 3, dilation=rate) for rate in rates]
        pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm_act(inputs, outputs, 1))
        self.convs = nn.ModuleList([conv_norm_act(inputs, outputs, 1), *atrous, pooling])
        project = conv_norm_act(len(self.convs) * outputs, outputs, 1)
        self.project = nn.Sequential(*project, nn.Dropout(0.5))

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        *local, pooled = (branch(x) for branch in self.convs)
        return self.project(torch.cat([*local, pooled.expand_as(local[0])], 1))


def deeplab_head(
    inputs: int, num_classes: int, rates: Sequence[int] = (12, 24, 36), width: int = 256
) -> nn.Sequential:
    pyramid = ASPP(inputs, rates, width)
    return nn.Sequential(pyramid, *conv_norm_act(width, width, 3), nn.Conv2d(width, num_classes, 1))


def fcn_head(inputs: int, num_classes: int) -> nn.Sequential:
    """Two convolutions: the head of a fully convolutional network, and the auxiliary classifier."""
    width = inputs // 4
    layers = conv_norm_act(inputs, width, 3)
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1))


class Segmenter(nn.Module):
    """A backbone, a head on its last maps, and in training one on earlier maps; logits for each pixel.

    Args:
        features: (backbone, images) -> (early maps, last maps).
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
        classifier: nn.Module,
        aux_classifier: nn.Module | None,
    ):
        super().__init__()
        self.backbone, self.features = backbone, features
        self.classifier, self.aux_classifier = classifier, aux_classifier
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:  # the logits: near zero at first
                    nn.init.normal_(layer.weight, 0, 0.01)
                    nn.init.zeros_(layer.bias)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> (
        Float[Tensor, "batch classes height width"] | tuple[Float[Tensor, "batch classes height width"], ...]
    ):
        def upsample(logits: Tensor) -> Tensor:
            return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

        early, last = self.features(self.backbone, images)
        logits = upsample(self.classifier(last))
        if not self.training or self.aux_classifier is None:
            return logits
        return logits, upsample(self.aux_classifier(early))


def loss(
    output: Tensor | tuple[Tensor, ...], labels: Int64[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) over labeled pixels; plus that of the auxiliary logits, weighted."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels, ignore_index=IGNORE_INDEX)
    main, aux = (F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX) for logits in output)
    return main + AUXILIARY_WEIGHT * aux


def resnet_features(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of the last two stages."""
    early = last = net.maxpool(F.relu(net.bn1(net.conv1(images)), inplace=True))
    for stage in net.stages:
        early, last = last, getattr(net, stage)(last)
    return early, last


def resnet_segmenter(
    layers: int, num_classes: int = 21, aux: bool = True, head: Callable = deeplab_head
) -> Segmenter:
    """A ResNet with stages three and four at the resolution of the second, output stride 8."""
    # a stage's first block still has the rate of the stage before
    backbone = ResNet(dilate(Bottleneck, {256: (1, 2), 512: (2, 4)}), DEPTHS[layers])
    del backbone.fc
    aux_head = fcn_head(1024, num_classes) if aux else None
    return Segmenter(backbone, resnet_features, head(2048, num_classes), aux_head)


def small_segmenter(num_classes: int = 5, aux: bool = False) -> Segmenter:
    """Three stages of ResNet at output strides 1, 2 and 2."""
    block = dilate(BasicBlock, {64: (1, 2)})
    backbone = ResNet(block, (1, 2, 2), widths=(16, 32, 64), stem="cifar")
    del backbone.fc
    head = deeplab_head(64, num_classes, (2, 4, 8), 32)
    return Segmenter(backbone, resnet_features, head, fcn_head(32, num_classes) if aux else None)


def mobilenet_segmenter(num_classes: int = 21, aux: bool = True) -> Segmenter:
    """MobileNetV3 with the last three blocks at rate 2, output stride 16."""
    early, last = mobilenet_v3.FEATURE_CHANNELS
    aux_head = fcn_head(early, num_classes) if aux else None
    head = deeplab_head(last, num_classes)
    backbone = mobilenet_v3.mobilenet_v3_backbone(dilation=2)
    return Segmenter(backbone, mobilenet_v3.backbone_features, head, aux_head)


IMAGE_SHAPE = (3, 520, 520)
VARIANTS = {
    "deeplab_small": Variant(small_segmenter, (3, 64, 64)),
    "deeplab_resnet50": Variant(partial(resnet_segmenter, 50), IMAGE_SHAPE),
    "deeplab_resnet101": Variant(partial(resnet_segmenter, 101), IMAGE_SHAPE),
    "deeplab_mobilenet_v3_large": Variant(mobilenet_segmenter, IMAGE_SHAPE),
    "fcn_resnet50": Variant(partial(resnet_segmenter, 50, head=fcn_head), IMAGE_SHAPE),
}


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.batch_size // max(1, recipe.optim.grad_accum_steps) // parallel.world_size() < 2:
        raise BadInput(
            f"a batch of {recipe.batch_size} leaves one image per forward pass, which batch norm cannot do "
            "after global pooling: give at least 2 for each micro-batch and process"
        )
    device = select_device(recipe.device)
    data = load_segmentation(recipe.data, size=recipe.size, device=device)
    model_config = {"num_classes": len(data.classes)}
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield segment(model, recipe, data, loss=loss, model_config=model_config)


# parameters and multiply-accumulates, the auxiliary head's among them
COUNTS = {
    "deeplab_resnet50": (42_004_074, 178_721_945_088),
    "deeplab_resnet101": (60_996_202, 258_743_039_488),
    "deeplab_mobilenet_v3_large": (11_029_328, 10_452_447_938),
    "fcn_resnet50": (35_322_218, 152_716_512_000),
}
WITHOUT_AUX = {"deeplab_resnet50": 39_638_869, "deeplab_resnet101": 58_630_997}


def macs_with_aux(variant: str) -> int:
    """Multiply-accumulates of the network at 520×520 and of its auxiliary head on its 65×65 maps."""
    model = on_meta(VARIANTS[variant].make)
    maps = (1, model.aux_classifier[0].in_channels, 65, 65)
    return macs(model, (1, *IMAGE_SHAPE)) + macs(model.aux_classifier, maps)


FACTS = [
    *parameter_facts(VARIANTS, {variant: counts[:1] for variant, counts in COUNTS.items()}),
    *(
        Fact(
            f"{variant} parameters without the auxiliary head",
            lambda make=VARIANTS[variant].make: count_parameters(on_meta(make, aux=False)),
            count,
        )
        for variant, count in WITHOUT_AUX.items()
    ),
    *(
        Fact(f"{variant} multiply-accumulates", lambda v=variant: macs_with_aux(v), products)
        for variant, (_, products) in COUNTS.items()
    ),
]


def reference():
    """torchvision's networks; the small one without dilation; ASPP on a map larger than its rates."""
    from torchstone.parts.optional_imports import import_torchvision
    from torchstone.references.resnet import resnet_cases

    zoo = import_torchvision().models.segmentation
    makers = {
        "deeplab_resnet50": zoo.deeplabv3_resnet50,
        "deeplab_resnet101": zoo.deeplabv3_resnet101,
        "deeplab_mobilenet_v3_large": zoo.deeplabv3_mobilenet_v3_large,
        "fcn_resnet50": zoo.fcn_resnet50,
    }
    for variant, make_theirs in makers.items():

        def theirs(make=make_theirs) -> Any:
            model = make(weights=None, weights_backbone=None, num_classes=10, aux_loss=True)
            model.register_forward_hook(as_tuple)
            return model

        is_mobile, make = "mobile" in variant, VARIANTS[variant].make
        side = 96 if is_mobile else 48
        for make_case in resnet_cases(variant, make, theirs, lambda _, state: dict(state), side=side):
            yield partial(trainable_case, variant, make_case)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    for training in (False, True):
        ours = small_segmenter(10, aux=training).double().train(training)
        label = f"deeplab_small, {'train' if training else 'eval'}"
        yield ParityCase(ours, undilate(ours), images, label=label)
    ours, theirs = ASPP(4, (12, 24, 36), 256).double(), zoo.deeplabv3.ASPP(4, [12, 24, 36]).double()
    ours.load_state_dict(theirs.state_dict())
    yield ParityCase(ours, theirs, torch.randn(2, 4, 40, 40, dtype=torch.float64))


def trainable_case(variant: str, make_case: Callable[[], ParityCase]) -> ParityCase:
    """A case whose parameters have a gradient, each of them."""
    case = make_case()
    for model in (case.ours, case.theirs):
        model.aux_classifier.requires_grad_(model.training)
        for block in list(model.backbone.children())[1:-1] if "mobile" in variant else ():
            # a shift that the next norm removes: its gradient is rounding error
            block.block[-1][1].bias.requires_grad_(not model.training)
    return case._replace(label=f"{variant}, {'train' if case.ours.training else 'eval'}")


def as_tuple(model: Any, _: Any, output: Mapping[str, Tensor]) -> Any:
    """torchvision's dictionary as ours: logits, with the auxiliary ones in training."""
    return (output["out"], output["aux"]) if model.training else output["out"]
