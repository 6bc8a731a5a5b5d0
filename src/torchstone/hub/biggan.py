"""BigGAN's published generators: from the names and layouts of their files to ours.

`G_ema.pth` of the authors' PyTorch code, and `pytorch_model.bin` of Hugging Face's port of BigGAN-deep, whose
first layer lies with channels last, as in TensorFlow.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from torchstone.hub.state_dict_names import rename_keys

FIRST_SIDE = 4  # of the grid that the first layer makes
ORIGINAL, VECTORS = "parametrizations.weight.original", "parametrizations.weight.0"

AUTHORS = (
    (r"^linear\.", "first."),
    # batch norm across devices keeps its statistics one level further down
    (r"\.bn\.(stored|running)_", r".\1_"),
    (r"\.(stored|running)_", r".norm.running_"),
    (r"^output_layer\.0\.gain$", "norm.weight"),
    (r"^output_layer\.0\.", "norm."),
    (r"^output_layer\.2\.", "to_image."),
    (r"^blocks\.(\d+)\.0\.", r"blocks.\1."),
    (r"^blocks\.\d+\.1\.", "attention."),
    (r"\.bn([12])\.", r".norm\1."),
    (r"(\.norm[12])\.gain\.", r"\1.scale."),
    (r"(\.norm[12])\.bias\.", r"\1.shift."),
    (r"\.conv_sc\.", ".skip."),
    (r"^attention\.theta\.", "attention.query."),
    (r"^attention\.phi\.", "attention.key."),
    (r"^attention\.g\.", "attention.value."),
    (r"^attention\.o\.", "attention.output."),
)
HUGGING_FACE = (
    (r"^embeddings\.", "shared."),
    (r"^generator\.", ""),
    (r"^gen_z\.", "first."),
    (r"^bn\.running_(mean|var)s$", r"norm.norm.running_\1"),
    (r"^bn\.", "norm."),
    (r"^conv_to_rgb\.", "to_image."),
    (r"\.bn_(\d)\.", r".norms.\1."),
    (r"\.conv_(\d)\.", r".convs.\1."),
    (r"\.running_(mean|var)s$", r".norm.running_\1"),
    (r"\.offset\.", ".shift."),
    (r"^layers\.\d+\.gamma$", "attention.gamma"),
    (r"^layers\.\d+\.snconv1x1_theta\.", "attention.query."),
    (r"^layers\.\d+\.snconv1x1_phi\.", "attention.key."),
    (r"^layers\.\d+\.snconv1x1_g\.", "attention.value."),
    (r"^layers\.\d+\.snconv1x1_o_conv\.", "attention.output."),
    (r"\.weight_orig$", f".{ORIGINAL}"),
    (r"\.weight_([uv])$", rf".{VECTORS}.\1"),
)


def from_authors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`G_ema.pth` by our names; embeddings become linear maps of one-hot classes.

    Spectral norm stores u alone there, and takes one step of power iteration from it in evaluation: it is
    taken here, and its vectors are stored.
    """
    new: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind in ("sv0", "accumulation_counter", "num_batches_tracked"):
            continue
        if kind == "u0":
            weight = tensors[f"{layer}.weight"].flatten(1)
            v = F.normalize(weight.mT @ tensor.flatten(), dim=0)
            new[f"{layer}.{VECTORS}.v"], new[f"{layer}.{VECTORS}.u"] = v, F.normalize(weight @ v, dim=0)
        elif kind == "weight" and f"{layer}.u0" in tensors:
            new[f"{layer}.{ORIGINAL}"] = tensor
        elif kind == "weight" and tensor.ndim == 2:
            new[name] = tensor.mT
        elif kind.endswith(("_mean", "_var")):
            new[name] = tensor[None]
        else:
            new[name] = tensor
    return rename_keys(new, AUTHORS)


def from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's `pytorch_model.bin` by our names; the first layer's outputs in the order of ours."""
    new = rename_keys(tensors, HUGGING_FACE)
    gates = [name for name in tensors if name.endswith(".gamma")]
    position = int(gates[0].split(".")[2]) if gates else len(tensors)
    blocks: dict[str, Tensor] = {}
    for name, tensor in new.items():
        if name.startswith("layers."):  # attention is one of them there
            _, index, rest = name.split(".", 2)
            name = f"blocks.{int(index) - (int(index) > position)}.{rest}"
        elif name == "attention.gamma":
            tensor = tensor.reshape(())
        elif name.startswith("first.") and not name.endswith(".v"):
            grid = tensor.unflatten(0, (FIRST_SIDE, FIRST_SIDE, -1))
            tensor = grid.movedim(2, 0).flatten(0, 2)
        blocks[name] = tensor
    return blocks
