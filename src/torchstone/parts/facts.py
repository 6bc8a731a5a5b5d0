"""Published figures that need no training, and the counts they are checked with."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TOKENS = 8  # of a text that goes with a picture, where a network is only tried


class Fact(NamedTuple):
    """A published figure and the way to measure it. Equal to the unit unless `tolerance` says otherwise."""

    name: str
    measure: Callable[[], object]
    published: object
    tolerance: float = 0.0


class ParityCase(NamedTuple):
    """Two networks that must agree, for `reference()` where a plain tuple of the first three says too little.

    Where networks are large, `reference()` yields functions that make the case: what is left out is not made.

    Args:
        names: from theirs to ours: named tensors (weights, or their gradients) in, named tensors out.
            Without it, parameters are compared in their order.
        optimizer: the rule of the three steps; None for no steps.
        label: what is special about this pair.
    """

    ours: Any
    theirs: Any
    inputs: Any
    names: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] | None = torch.optim.SGD
    label: str = ""


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in `module`, tied ones once; running statistics are not counted."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def on_meta(make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> Any:
    """`make(*args, **kwargs)` without memory for its weights: for counting."""
    with torch.device("meta"):
        return make(*args, **kwargs)


def count_on_meta(make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> int:
    """Trainable parameters of `make(*args, **kwargs)`, without memory for them."""
    return count_parameters(on_meta(make, *args, **kwargs))


def parameter_facts(variants: Mapping[str, Any], counts: Mapping[str, tuple[int, ...]]) -> list[Fact]:
    """Facts of published counts, measured without memory for the weights.

    Args:
        variants: name to `Variant` (how to make the network, and the shape of one input).
        counts: name to parameters, or to (parameters, multiply-accumulates).
    """
    facts = []
    for variant, (weights, *products) in counts.items():
        make, shape = variants[variant]
        facts.append(Fact(f"{variant} parameters", lambda m=make: count_parameters(on_meta(m)), weights))
        for macs_of_one in products:
            facts.append(
                Fact(
                    f"{variant} multiply-accumulates",
                    lambda m=make, s=(1, *shape): macs(on_meta(m), s),
                    macs_of_one,
                )
            )
    return facts


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that compute, by name: those with no modules in them but lists of parameters,
    and attention, whose own projections are not called."""
    for name, module in model.named_modules():
        inner = [
            child
            for key, child in module.named_children()
            if key != "parametrizations" and not isinstance(child, nn.ParameterList)
        ]
        leaf = not inner or isinstance(module, nn.MultiheadAttention)
        if leaf and not isinstance(module, nn.ParameterList) and "parametrizations" not in name:
            yield name, module


def example(module: nn.Module, shape: tuple[int, ...], batch: int = 1) -> tuple[Tensor, ...]:
    """Inputs that `module` takes: zeros of `shape` (without the batch), one for each input it has to have.

    A network that looks up embeddings and is given rows, not pictures, gets tokens: int64, all id 0.
    An input named `t` is a time: one number for each of the batch; one named `tokens` beside pictures is a
    text of `TOKENS` tokens.
    """
    first = next(module.parameters())
    tokens = len(shape) == 1 and any(isinstance(m, nn.Embedding) for m in module.modules())
    wanted = inspect.signature(module.forward).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in wanted if each.default is each.empty and each.kind in plain]
    dtype = torch.int64 if tokens else first.dtype
    inputs = torch.zeros(batch, *shape, device=first.device, dtype=dtype)
    time = torch.zeros(batch, device=first.device)
    text = torch.zeros(batch, TOKENS, device=first.device, dtype=torch.int64)
    special = {"t": time, "tokens": inputs if len(shape) == 1 else text}
    return tuple(special.get(name, inputs) for name in names) or (inputs,)


def _of_a_recurrent_layer(x, into, back, *_: Any, **__: Any) -> int:
    """Operations of one fused layer and direction, by the shapes of input (time, batch, inputs) and of
    its two matrices."""
    return 2 * x[0] * x[1] * (into[0] * into[1] + back[0] * back[1])


# kernels that torch's counter passes over
FUSED = {torch.ops.aten.mkldnn_rnn_layer: _of_a_recurrent_layer}


def macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass on `shape` (with the batch), matrix products and
    convolutions only."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = example(module, shape[1:], shape[0])
    was_training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        module(*inputs)
    module.train(was_training)
    return counter.get_total_flops() // 2
