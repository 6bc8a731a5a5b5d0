"""State dicts of earlier versions, whose modules had other names."""

from collections.abc import Mapping
from typing import Any

from torch import nn


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
