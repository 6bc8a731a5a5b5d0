"""State dicts of earlier versions, whose modules had other names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def with_new_names(state: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """A state of an earlier version with its entries under today's names."""
    return {renamed.get(name, name): value for name, value in state.items()}


def accept_old_keys(module: nn.Module, renamed: Mapping[str, str]) -> None:
    """Let `module` load state dicts that name its own parts as they were called before.

    Args:
        renamed: beginning of an old key, below `module`, to the beginning that took its place:
            `{"places.": "position_embedding."}`.
    """

    def rename(_: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            own = key[len(prefix) :]
            for old, new in renamed.items():
                if own.startswith(old):
                    state_dict.setdefault(f"{prefix}{new}{own[len(old) :]}", state_dict[key])
                    del state_dict[key]
                    break

    module.register_load_state_dict_pre_hook(rename)
    module.__dict__.setdefault("old_key_hooks", []).append(rename)


def rename_old_keys(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the names that `model` has for them today, for code that compares names itself."""
    tensors = dict(tensors)
    for name, module in model.named_modules():
        for rename in module.__dict__.get("old_key_hooks", ()):
            rename(module, tensors, f"{name}." if name else "")
    return tensors
