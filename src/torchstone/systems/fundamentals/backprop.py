"""Back-propagation by hand: the chain rule as a backward pass.

Paper: David Rumelhart, Geoffrey Hinton and Ronald Williams, "Learning representations by
back-propagating errors", Nature 323, 1986.

The idea. The data have no targets for hidden units, but how much the error would change with each can be
computed: the error's derivative at each layer follows from that of the layer above it through the same
weights, transposed. So a second pass, as cheap as the first, gives the derivative by every weight.

The equations, for layers l = 1 … L, a_0 the image, d the desired output (1 for its class, else 0):

    z_l = W_l a_{l−1} + b_l         a_l = f(z_l)          y = g(z_L)
    squared         E = ½ Σ (y_i − d_i)²
    cross-entropy   E = −Σ d_i log y_i                              g softmax
                    E = −Σ d_i log y_i + (1 − d_i) log(1 − y_i)     g sigmoid
    δ_L = ∂E/∂z_L                   δ_{l−1} = (W_lᵀ δ_l) ⊙ f′(z_{l−1})
    ∂E/∂W_l = δ_l a_{l−1}ᵀ          ∂E/∂b_l = δ_l
    Δw(t) = −ε ∂E/∂w(t) + α Δw(t−1)

Shapes: images (batch, channels, size, size), flattened; logits z_L (batch, classes). E and its
derivatives are means over the batch. Only the checks use automatic differentiation.

What differs from the paper. Its units are sigmoid throughout and its error squared (`--output sigmoid
--loss squared`); the recipes have softmax and cross-entropy at the output. It sums the derivatives of all
examples before a step; here a step is taken after each batch. Its weights are initialized uniform in
±0.3; here their variance is 1/fan-in, since layers are wider.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.init import init_
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import classify, evaluate_by, explain, predict

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "digits"  # data set: digits, mnist5k, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "backprop"  # network variant: backprop
    steps: int = 1500  # number of training steps
    batch_size: int = 32  # batch size
    size: int = 8  # image side length in pixels
    widths: tuple[int, ...] = (30,)  # hidden layer widths
    activation: Literal["sigmoid", "tanh", "relu", "leaky_relu"] = "sigmoid"  # hidden activation f
    output: Literal["softmax", "sigmoid"] = "softmax"  # output activation g
    loss: Literal["cross_entropy", "squared"] = "cross_entropy"  # loss E
    lr: float = 0.3  # learning rate ε
    momentum: float = 0.9  # momentum α
    augment: str = "none"  # augmentation: none, or steps such as shift2 or affine
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train backprop                  1 s on 2 cores   test accuracy 0.982
    "digits": Recipe(),
    # torchstone train backprop/paper            1 s on 2 cores   test accuracy 0.972
    "paper": Recipe(output="sigmoid", loss="squared", lr=0.1, steps=3000),
    # torchstone train backprop/mnist5k          3 s on 2 cores   test accuracy 0.966
    "mnist5k": Recipe(data="mnist5k", size=28, widths=(100,), lr=0.05, steps=3000, augment="affine"),
    # for tests: seconds
    "smoke": Recipe(steps=150),
}


class Backprop(nn.Module):
    """Weights and biases of a fully connected network; `forward` returns the logits z_L."""

    def __init__(
        self,
        num_classes: int = 10,
        features: int = 784,
        widths: tuple[int, ...] | list[int] = (30,),
        activation: str = "sigmoid",
    ):
        super().__init__()
        self.f, self.derivative = ACTIVATIONS[activation]
        sizes = [features, *widths, num_classes]
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList([init_(torch.empty(b, a), "fan_in") for a, b in pairs])
        self.biases = nn.ParameterList([torch.zeros(b) for _, b in pairs])

    def forward(self, images: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch classes"]:
        return self.layers(images)[0][-1]

    def layers(self, images: Float[Tensor, "batch *image"]) -> tuple[list[Tensor], list[Tensor]]:
        """z_1 … z_L, and a_0 … a_{L−1}."""
        a, z = [images.flatten(1)], []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if z:
                # a_l = f(z_l)
                a.append(self.f(z[-1]))
            # z_l = W_l a_{l−1} + b_l, one image per row
            z.append(a[-1] @ weight.T + bias)
        return z, a


# f(z), and f′(z) from z and a = f(z)
ACTIVATIONS = {
    "sigmoid": (torch.sigmoid, lambda z, a: a * (1 - a)),
    "tanh": (torch.tanh, lambda z, a: 1 - a * a),
    "relu": (lambda z: z.clamp(min=0), lambda z, a: (z > 0).to(z.dtype)),
    "leaky_relu": (
        lambda z: torch.where(z > 0, z, 0.01 * z),
        lambda z, a: (z > 0).to(z.dtype).clamp(min=0.01),
    ),
}

VARIANTS = {"backprop": Variant(Backprop, (1, 28, 28))}


def error(logits: Tensor, labels: Tensor, output: str, loss: str) -> Float[Tensor, ""]:
    """E, the mean over the batch."""
    d = F.one_hot(labels, logits.shape[1]).to(logits)  # 1 for the class, else 0
    if loss == "squared":
        y = logits.softmax(1) if output == "softmax" else logits.sigmoid()
        # E = ½ Σ (y_i − d_i)²
        return 0.5 * (y - d).square().sum(1).mean()
    if output == "softmax":
        # E = −Σ d_i log y_i
        return -(d * logits.log_softmax(1)).sum(1).mean()
    # E = −Σ d_i log y_i + (1 − d_i) log(1 − y_i), with 1 − σ(z) = σ(−z)
    return -(d * F.logsigmoid(logits) + (1 - d) * F.logsigmoid(-logits)).sum(1).mean()


def delta_at_output(logits: Tensor, labels: Tensor, output: str, loss: str) -> Tensor:
    """δ_L = ∂E/∂z_L of each image, (batch, classes)."""
    d = F.one_hot(labels, logits.shape[1]).to(logits)  # 1 for the class, else 0
    y = logits.softmax(1) if output == "softmax" else logits.sigmoid()
    if loss == "cross_entropy":
        # with either output g′ cancels:  δ_i = y_i − d_i
        return y - d
    e = y - d  # ∂E/∂y_i
    if output == "softmax":
        # ∂y_j/∂z_i = y_j (1[i=j] − y_i):  δ_i = y_i (e_i − Σ_j e_j y_j)
        return y * (e - (e * y).sum(1, keepdim=True))
    # δ_i = e_i y_i (1 − y_i)
    return e * y * (1 - y)


@torch.no_grad()
def gradients(
    model: Backprop, images: Tensor, labels: Tensor, output: str, loss: str
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Both passes: the logits, and ∂E/∂W_l and ∂E/∂b_l of every layer."""
    z, a = model.layers(images)
    weight_gradients, bias_gradients = [], []
    delta = delta_at_output(z[-1], labels, output, loss) / len(images)
    for layer in reversed(range(len(z))):
        # ∂E/∂W_l = δ_l a_{l−1}ᵀ, summed over the batch
        weight_gradients.append(delta.T @ a[layer])
        # ∂E/∂b_l = δ_l
        bias_gradients.append(delta.sum(0))
        if layer:
            # δ_{l−1} = (W_lᵀ δ_l) ⊙ f′(z_{l−1})
            delta = (delta @ model.weights[layer]) * model.derivative(z[layer - 1], a[layer])
    return z[-1], weight_gradients[::-1], bias_gradients[::-1]


class BackpropUpdate:
    """The update: both passes, then a step of gradient descent with momentum.

    `steps` are the Δw of every weight and bias.
    """

    def __init__(self, model: Backprop, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.parameters = [*model.weights, *model.biases]
        self.steps = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def __call__(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        recipe = self.recipe
        logits, *parts = gradients(self.model, images, labels, recipe.output, recipe.loss)
        for p, step, gradient in zip(self.parameters, self.steps, itertools.chain(*parts), strict=True):
            if parallel.world_size() > 1:
                torch.distributed.all_reduce(gradient)
                gradient /= parallel.world_size()
            # Δw(t) = −ε ∂E/∂w(t) + α Δw(t−1)
            step.mul_(recipe.momentum).sub_(gradient, alpha=recipe.lr)
            p.add_(step)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": error(logits, labels, recipe.output, recipe.loss), "accuracy": accuracy}

    def state_dict(self) -> dict:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.steps, state["steps"], strict=True):
            mine.copy_(saved)


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_images(recipe.data, size=recipe.size, channels=1, device=device)
    model_config = {
        "num_classes": len(data.classes),
        "features": recipe.size**2,
        "widths": list(recipe.widths),
        "activation": recipe.activation,
    }
    rng.seed(recipe.seed)
    model = Backprop(**model_config).to(device)
    update = BackpropUpdate(model, recipe)
    loss = partial(error, output=recipe.output, loss=recipe.loss)
    run = classify(model, recipe, data, model_config=model_config, loss=loss, update=update)
    run.state["update"] = update
    run.metadata["error"] = {"output": recipe.output, "loss": recipe.loss}
    yield run


def evaluate(model: Backprop, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Accuracy and E on the test split of `spec`, or on all of it."""
    loss = partial(error, **metadata.get("error", {"output": "softmax", "loss": "cross_entropy"}))
    return evaluate_by(loss, model, metadata, spec, held_out=held_out)


OUTPUTS, LOSSES = ("softmax", "sigmoid"), ("cross_entropy", "squared")
COMBINATIONS = list(itertools.product(ACTIVATIONS, OUTPUTS, LOSSES))


def example(activation: str) -> tuple[Backprop, Tensor, Tensor]:
    """A network of three layers, seven images and their labels, in double precision."""
    torch.manual_seed(0)
    model = Backprop(4, 6, (5, 5), activation).double()
    for bias in model.biases:
        nn.init.normal_(bias, 0, 0.5)
    return model, torch.randn(7, 1, 2, 3, dtype=torch.float64), torch.randint(4, (7,))


@torch.no_grad()
def finite_differences(activation: str, output: str, loss: str, h: float = 1e-6) -> float:
    """Largest |∂E/∂w − (E(w + h) − E(w − h)) / 2h| over all weights and biases."""
    model, images, labels = example(activation)
    _, *parts = gradients(model, images, labels, output, loss)
    largest = 0.0
    for p, gradient in zip([*model.weights, *model.biases], itertools.chain(*parts), strict=True):
        flat = p.detach().view(-1)
        for i, derivative in enumerate(gradient.flatten().tolist()):
            w, errors = flat[i].item(), []
            for perturbed in (w + h, w - h):
                flat[i] = perturbed
                errors.append(error(model(images), labels, output, loss).item())
            flat[i] = w
            largest = max(largest, abs((errors[0] - errors[1]) / (2 * h) - derivative))
    return largest


FACTS = [
    Fact("parameters of 784-30-10", lambda: count_parameters(Backprop()), 23_860),
    Fact("parameters of 784-100-10", lambda: count_parameters(Backprop(widths=(100,))), 79_510),
    Fact("parameters of 784-300-10", lambda: count_parameters(Backprop(widths=(300,))), 238_510),
    Fact(
        "largest deviation from finite differences, all activations, outputs and losses",
        lambda: max(finite_differences(*each) for each in COMBINATIONS),
        0.0,
        1e-8,
    ),
]


def reference():
    """Gradients against automatic differentiation, and steps against torch's SGD."""
    for each in COMBINATIONS:
        model, images, labels = example(each[0])
        label = ", ".join(each)
        yield ParityCase(
            manual_gradients(model, each), autograd_gradients(model, each), (images, labels), label=label
        )
    model, images, labels = example("tanh")
    yield ParityCase(five_steps(model, True), five_steps(model, False), (images, labels))


def manual_gradients(model: Backprop, combination: tuple[str, str, str]):
    def by_hand(images: Tensor, labels: Tensor) -> list[Tensor]:
        _, *parts = gradients(model, images, labels, *combination[1:])
        return list(itertools.chain(*parts))

    return by_hand


def autograd_gradients(model: Backprop, combination: tuple[str, str, str]):
    """The same network of torch's own functions, differentiated by autograd."""
    activation, output, loss = combination

    def autograd(images: Tensor, labels: Tensor) -> list[Tensor]:
        x, last = images.flatten(1), len(model.weights) - 1
        for layer, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
            x = F.linear(x, weight, bias)
            x = x if layer == last else getattr(F, activation)(x)
        d = F.one_hot(labels, x.shape[1]).double()
        if loss == "squared":
            y = F.softmax(x, 1) if output == "softmax" else F.sigmoid(x)
            e = F.mse_loss(y, d, reduction="sum") / 2
        elif output == "softmax":
            e = F.cross_entropy(x, labels, reduction="sum")
        else:
            e = F.binary_cross_entropy_with_logits(x, d, reduction="sum")
        return list(torch.autograd.grad(e / len(x), [*model.weights, *model.biases]))

    return autograd


def five_steps(model: Backprop, by_hand: bool):
    def momentum(images: Tensor, labels: Tensor) -> list[Tensor]:
        net = copy.deepcopy(model)
        update = BackpropUpdate(net, Recipe(lr=0.1, momentum=0.9))
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        for _ in range(5):
            if by_hand:
                update((images, labels))
            else:
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
        return update.parameters

    momentum.__name__ = "5 steps by hand" if by_hand else "torch.optim.SGD"
    return momentum
