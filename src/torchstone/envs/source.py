"""What can be known of an environment without playing it: so that another one is never taken for the same."""

import contextlib
import hashlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from torchstone.envs.env_state import layers

FRAMEWORK = ("torchstone", "gymnasium.core", "gymnasium.wrappers", "builtins", "abc", "typing")


def describe(env: Any, spec: str = "") -> dict[str, Any]:
    """Registered name and arguments, time limit, spaces, wrappers of other packages, and a digest of each
    source file that the environment's classes are written in (of a script's class, of the class alone).

    What a class merely calls (another module, a simulator in C) is not known.

    Args:
        spec: what it was made by; of `module:name` the module counts as source.
    """
    found, kinds = env.spec, [type(layer) for layer in layers(env)]
    classes = [kind for outer in kinds for kind in outer.__mro__ if not _is_framework(kind)]
    sources = {kind.__module__: _digest(kind) for kind in classes}
    module = sys.modules.get(spec.partition(":")[0]) if ":" in spec else None
    if module is not None:
        sources[module.__name__] = _file_digest(module)
    stated = getattr(env.unwrapped, "identity", None)  # as ours do that have files, or a simulator
    return {
        **({"stated": stated} if isinstance(stated, dict) and stated else {}),
        "id": found.id if found else None,
        "kwargs": _text(found.kwargs) if found else None,
        "time limit": found.max_episode_steps if found else None,
        "observation space": _text(env.observation_space),
        "action space": _text(env.action_space),
        "layers": [kind.__qualname__ for kind in kinds if not _is_framework(kind)],
        "source": {name: digest for name, digest in sorted(sources.items()) if digest},
    }


def _is_framework(kind: type) -> bool:
    return any(kind.__module__ == name or kind.__module__.startswith(f"{name}.") for name in FRAMEWORK)


def _digest(kind: type) -> str | None:
    module = sys.modules.get(kind.__module__)
    if kind.__module__ != "__main__":
        return _file_digest(module)
    with contextlib.suppress(OSError, TypeError):  # typed in, where there is no source
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    return None


def _file_digest(module: Any) -> str | None:
    file = getattr(module, "__file__", None)
    if file is None or Path(file).suffix != ".py":
        return None
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return None


def _text(value: Any) -> str:
    """The same text in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
