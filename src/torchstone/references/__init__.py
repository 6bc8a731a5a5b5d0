"""The libraries our networks are held against. Only checks need them: `pip install torchstone[test]`."""

import importlib
import random
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchstone.errors import BadInput
from torchstone.parts.facts import ParityCase
from torchstone.parts.recurrent.layers import Recurrent


def torchvision() -> ModuleType:
    """torchvision, also where its wheel was built for another torch than this one.

    Importing it registers shapes for two of its compiled operators; where those could not be loaded
    they are declared (not implemented) first. The networks need neither.
    """
    try:
        torch.ops.torchvision.nms  # noqa: B018  there, if torchvision was imported before
    except (AttributeError, RuntimeError):
        try:
            return _imported("torchvision")
        except RuntimeError:  # operator torchvision::nms does not exist
            torch.library.define("torchvision::nms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
            torch.library.define("torchvision::qnms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
    return _imported("torchvision")


def timm() -> ModuleType:
    """timm, which imports torchvision."""
    torchvision()
    return _imported("timm")


def transformers() -> ModuleType:
    """transformers, whose picture code looks for torchvision."""
    torchvision()
    return _imported("transformers")


def diffusers() -> ModuleType:
    """diffusers, whose picture code looks for torchvision."""
    torchvision()
    return _imported("diffusers")


def torchmetrics() -> ModuleType:
    """torchmetrics, whose picture code looks for torchvision."""
    torchvision()
    return _imported("torchmetrics")


class Answering(nn.Module):
    """A library's network, answering with tensors: `take(network, *inputs)`. Its weights are `net.…`."""

    def __init__(self, net: nn.Module, take: Callable[..., Any]):
        super().__init__()
        self.net, self.take = net, take

    def forward(self, *inputs: Any) -> Any:
        return self.take(self.net, *inputs)


def ours(published: Callable[[str, dict[str, Tensor]], dict[str, Tensor]]) -> Callable:
    """From the names of an `Answering` network's tensors to ours."""
    return lambda tensors: published("", {n.removeprefix("net."): t for n, t in tensors.items()})


def vits(count: int, seed: int = 0) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Vision transformers drawn with a fixed seed: torchvision's, timm's, and transformers' with and
    without classes, in turn; each with its config (transformers') or our arguments."""
    draw = random.Random(seed)
    for number in range(count):
        heads, depth, patch = draw.choice([1, 2, 3, 5]), draw.randint(1, 3), draw.choice([2, 4, 7])
        width, size, classes = (
            heads * draw.choice([4, 8]),
            patch * draw.randint(2, 4),
            number % 5 + 2,
        )
        inner, bias = draw.choice([2, 3]) * width, draw.random() < 0.5
        shape = {"width": width, "depth": depth, "heads": heads, "inner": inner, "size": size}
        shape |= {"patch": patch, "num_classes": classes}
        if number % 4 == 0:
            make = torchvision().models.VisionTransformer
            yield make(size, patch, depth, heads, width, inner, num_classes=classes), shape
        elif number % 4 == 1:
            more = {"embed_dim": width, "depth": depth, "num_heads": heads, "qkv_bias": bias}
            make = timm().models.VisionTransformer
            net = make(size, patch, 3, classes, mlp_ratio=inner / width, **more)
            yield net, {**shape, "qkv_bias": bias}
        else:
            made = "ViTModel" if number % 4 == 2 else "ViTForImageClassification"
            config = transformers().ViTConfig(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=inner,
                hidden_act=draw.choice(["gelu", "relu", "gelu_new", "silu"]),
                image_size=size,
                patch_size=patch,
                qkv_bias=bias,
                num_labels=classes,
                architectures=[made],
            )
            pooler = {"add_pooling_layer": False} if number % 4 == 2 else {}
            yield getattr(transformers(), made)(config, **pooler), config.to_dict()


def gpts(count: int, seed: int = 0) -> Iterator[Any]:
    """transformers' GPT-2 and GPT-1 with their heads, drawn with a fixed seed, in turn."""
    draw = random.Random(seed)
    for number in range(count):
        heads, vocabulary = draw.choice([1, 2, 3, 5]), draw.randint(11, 60)
        common: dict[str, Any] = {
            "n_head": heads,
            "n_embd": heads * draw.choice([4, 6, 8]),
            "n_layer": draw.randint(1, 3),
            "n_positions": draw.randint(8, 20),
            "vocab_size": vocabulary,
            "layer_norm_epsilon": draw.choice([1e-5, 1e-4]),
            "bos_token_id": None,
            "eos_token_id": None,
        }
        if number % 3 == 2:
            activation = draw.choice(["gelu", "relu", "silu"])
            config = transformers().OpenAIGPTConfig(**common, afn=activation)
            yield transformers().OpenAIGPTLMHeadModel(config)
        else:
            config = transformers().GPT2Config(
                **common,
                activation_function=draw.choice(["gelu_new", "gelu", "relu", "silu", "tanh"]),
                n_inner=draw.choice([None, 3 * common["n_embd"] + 1]),
                tie_word_embeddings=draw.random() < 0.5,
                scale_attn_weights=draw.random() < 0.7,
                scale_attn_by_inverse_layer_idx=draw.random() < 0.5,
            )
            yield transformers().GPT2LMHeadModel(config)


def unets(count: int, seed: int = 0) -> Iterator[Any]:
    """diffusers' U-Nets drawn with a fixed seed: every kind of block, one to three grids."""
    draw = random.Random(seed)
    for number in range(count):
        groups, grids = draw.choice([2, 4]), draw.choice([1, 2, 2, 3])
        # two channels a group or more: with one, the bias before a norm has no gradient
        widths = [2 * groups * draw.randint(1, 3) for _ in range(grids)]
        heads = draw.choice([None, 1, groups // 2])
        down = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
        up = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
        yield diffusers().UNet2DModel(
            sample_size=4 * 2 ** (grids - 1),
            in_channels=draw.choice([1, 3]),
            out_channels=draw.choice([1, 3]),
            block_out_channels=tuple(widths),
            down_block_types=tuple(draw.choice(down) for _ in widths),
            up_block_types=tuple(draw.choice(up) for _ in widths),
            downsample_type=draw.choice(["conv", "resnet"]),
            upsample_type=draw.choice(["conv", "resnet"]),
            layers_per_block=draw.choice([1, 2]),
            downsample_padding=draw.choice([0, 1]),
            mid_block_scale_factor=draw.choice([1, 2**0.5]),
            norm_num_groups=groups,
            attn_norm_num_groups=draw.choice([None, 1]),
            norm_eps=draw.choice([1e-6, 1e-4]),
            attention_head_dim=heads,
            resnet_time_scale_shift=draw.choice(["default", "scale_shift"]),
            add_attention=draw.random() < 0.8,
            act_fn=draw.choice(["silu", "gelu", "relu"]),
            freq_shift=draw.choice([0, 1]),
            flip_sin_to_cos=draw.random() < 0.5,
            center_input_sample=draw.random() < 0.3,
            time_embedding_dim=draw.choice([None, 20]),
            num_class_embeds=5 if number % 3 == 2 else None,
        )


class _Exact(nn.Module):
    """The norm of T5, whose own class takes the mean square in float32 whatever it is given."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


def t5s(count: int, exact: int, seed: int = 0) -> Iterator[Any]:
    """transformers' T5 drawn with a fixed seed: 1.0 and 1.1 in turn, the first `exact` in float64.

    Version 1.1 is given the output matrix of its own that this class no longer makes.
    """
    draw = random.Random(seed)
    for number in range(count):
        second = number % 3 > 0
        config = transformers().T5Config(
            vocab_size=draw.randint(11, 60),
            d_model=draw.choice([8, 12, 20]),
            d_kv=draw.choice([3, 4, 8]),
            d_ff=draw.choice([16, 30]),
            num_layers=draw.randint(1, 3),
            num_decoder_layers=draw.randint(1, 3),
            num_heads=draw.choice([1, 2, 3, 5]),
            relative_attention_num_buckets=draw.choice([8, 32]),
            relative_attention_max_distance=draw.choice([20, 128]),
            layer_norm_epsilon=draw.choice([1e-6, 1e-4]),
            feed_forward_proj=draw.choice(["gated-gelu", "gated-silu"]) if second else "relu",
            tie_word_embeddings=not second,
            decoder_start_token_id=draw.choice([0, 3]),
            dropout_rate=0.0,
        )
        net = transformers().T5ForConditionalGeneration(config)
        if second and number % 2:
            net.lm_head.weight = nn.Parameter(torch.empty_like(net.lm_head.weight))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(std=0.3)
        if number < exact:
            for module in list(net.modules()):
                for name, child in list(module.named_children()):
                    if type(child).__name__ == "T5LayerNorm":
                        setattr(module, name, _Exact(child))
            net = net.double()
        yield net


def recurrent(cell: Any, theirs: type[nn.Module]) -> Iterator[ParityCase]:
    """A cell on either path beside torch's own module, drawn with a fixed seed: layers, directions,
    lengths, dropout (the same numbers are dropped), projections, with biases and without."""
    draw = random.Random(0)
    for number in range(12):
        layers, both = draw.randint(1, 3), number % 2 == 1
        inputs, hidden, time = draw.randint(1, 6), draw.randint(3, 8), draw.randint(2, 12)
        how: dict[str, Any] = {"bidirectional": both, "bias": number % 5 > 0}
        how["dropout"] = 0.4 if layers > 1 and number % 3 else 0.0
        project = draw.randint(1, hidden - 1) if cell.states == 2 and number % 4 > 1 else 0
        path = "written" if number % 3 else "fast"
        torch.manual_seed(number)
        ours = Recurrent(cell, inputs, hidden, layers, projection=project, path=path, **how)
        net = theirs(
            inputs,
            hidden,
            layers,
            batch_first=True,
            **how,
            **({"proj_size": project} if project else {}),
        )
        net.load_state_dict(ours.state_dict())
        x = torch.randn(4, time, inputs)
        rows = (torch.randint(1, time + 1, (4,)),) if number % 4 else ()
        answering = Answering(net, _padded)
        if number < 8:
            x, ours, answering = x.double(), ours.double(), answering.double()
        label = f"{path}, {layers} layers, {'both ways' if both else 'one way'}"
        label += f"{', lengths' if rows else ''}{', dropout' if how['dropout'] else ''}"
        yield ParityCase(ours, answering, (x, *rows), label=label + (", projected" if project else ""))


def actors(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's actors and critics: two networks, a continuous policy, one network that sees."""
    _imported("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.common import policies

    row = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    frames = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    two, some = gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    sides: dict[str, Any] = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    plain, seeing = policies.ActorCriticPolicy, policies.ActorCriticCnnPolicy
    tried: list[tuple[Any, Any, Any, dict[str, Any]]] = [
        (plain, row, two, sides),
        (plain, row, some, sides),
        (seeing, frames, gymnasium.spaces.Discrete(6), {}),
    ]
    for form, seen, chosen, options in tried:
        torch.manual_seed(seed)
        theirs = form(seen, chosen, lambda _: 1e-3, **options)
        continuous = chosen is some
        net = ours(seen.shape, int(chosen.shape[0] if continuous else chosen.n), continuous=continuous)
        net.load_state_dict(of_actor(dict(theirs.named_parameters())))
        generator = torch.Generator().manual_seed(seed)
        if net.is_image:
            x = torch.randint(256, (3, *seen.shape), generator=generator, dtype=torch.uint8)
        else:
            x = torch.randn(16, *seen.shape, generator=generator)
        label = "frames" if net.is_image else "continuous" if continuous else "discrete"
        yield ParityCase(net, Answering(theirs, _acted), x, _of_answering, label=label)


def critics(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's Q-networks: of rows, and of frames."""
    _imported("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.dqn.policies import CnnPolicy, MlpPolicy

    row = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    frames = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    for form, seen, count in ((MlpPolicy, row, 2), (CnnPolicy, frames, 6)):
        torch.manual_seed(seed)
        options: dict[str, Any] = {} if seen is frames else {"net_arch": [256, 256]}
        theirs = form(seen, gymnasium.spaces.Discrete(count), lambda _: 1e-3, **options).q_net
        net = _alike(ours(seen.shape, count), theirs)
        generator = torch.Generator().manual_seed(seed)
        if seen is frames:
            x = torch.randint(256, (3, *seen.shape), generator=generator, dtype=torch.uint8)
        else:
            x = torch.randn(16, *seen.shape, generator=generator)
        yield ParityCase(net, theirs, x, label="frames" if seen is frames else "rows")


def deterministic(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's actor of DDPG with its critic: Q of what the actor does, and what that is."""
    _imported("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.td3.policies import MlpPolicy

    seen = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    chosen = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    torch.manual_seed(seed)
    whole = MlpPolicy(seen, chosen, lambda _: 1e-3, net_arch=[256, 256], n_critics=1)
    theirs = nn.ModuleList([whole.actor, whole.critic])
    net = _alike(ours((11,), 3), theirs)
    x = torch.randn(16, 11, generator=torch.Generator().manual_seed(seed))
    yield ParityCase(net, Answering(theirs, _judged), x, label="actor and critic")


def _judged(nets: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    action = nets[0](x)
    return action, nets[1](x, action)[0][:, 0]


@torch.no_grad()
def _alike(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Ours with the weights of theirs, in their order."""
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.copy_(other)
    return ours


def of_actor(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the names of stable-baselines3's `ActorCriticPolicy` to those of our `ActorCritic`."""
    renamed = {"mlp_extractor.policy_net.": "actor.", "mlp_extractor.value_net.": "critic."}
    renamed |= {"features_extractor.cnn.": "body.", "features_extractor.linear.0": "body.7"}
    last = 0 if any(name.startswith("features_extractor.") for name in tensors) else 4
    renamed |= {"action_net.": f"actor.{last}.", "value_net.": f"critic.{last}."}
    found = {}
    for name, tensor in tensors.items():
        new = next((o for t, o in renamed.items() if name.startswith(t)), "")
        old = next((t for t in renamed if name.startswith(t)), "")
        found[new + name.removeprefix(old)] = tensor
    return found


def _of_answering(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return of_actor({name.removeprefix("net."): tensor for name, tensor in tensors.items()})


def _acted(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    chosen = net.action_net(net.mlp_extractor.forward_actor(net.extract_features(x)))
    value = net.predict_values(x)[:, 0]
    log_std = getattr(net, "log_std", None)
    return (chosen, value) if log_std is None else (chosen, log_std, value)


def _padded(net: nn.Module, x: Tensor, lengths: Tensor | None = None) -> tuple:
    """A torch module's outputs side by side, and its state as a tuple."""
    if lengths is None:
        y, state = net(x)
    else:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = net(packed)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return y, state if isinstance(state, tuple) else (state,)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"this check needs {error.name}: pip install -c constraints.txt 'torchstone[test]'"
        ) from None
