"""The state of an environment in plain containers: what a checkpoint needs to resume bit for bit.

Gymnasium has no API for an environment's state. It is nearly always in three places: plain attributes of
the environment and of its wrappers, numpy generators among them; and, where a simulator written in C holds
it, MuJoCo's data or ALE's emulator. An environment whose state cannot be read has `replay`, which plays the
episode again from attributes. `snapshot` copies those, `restore` writes them back. Whether that is the
whole state, `torchstone.envs.vector_env.is_snapshot_exact` tests by trying.
"""

import importlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

IGNORED = {"env", "spec", "metadata", "render_mode", "recorded_frames", "frames_per_sec"}
_ABSENT = object()


def snapshot(env: Any) -> list[dict[str, Any]]:
    """The state of `env`, one entry per wrapper, outermost first: tensors, numbers, strings, lists, dicts."""
    return [_layer(layer) for layer in layers(env)]


def restore(env: Any, state: list[dict[str, Any]]) -> None:
    """Write a `snapshot` of an environment made in the same way into `env`, which must have been reset."""
    for layer, saved in zip(layers(env), state, strict=True):
        renamed = getattr(type(layer), "OLD_ATTRIBUTES", {})  # of our own wrappers, in old checkpoints
        for name, value in saved["plain"].items():
            setattr(layer, renamed.get(name, name), _decode(value))
        if "mujoco" in saved:
            _set_mujoco(layer, saved["mujoco"])
        if "ale" in saved:
            from ale_py import ALEState

            layer.ale.restoreSystemState(ALEState(saved["ale"].numpy().tobytes()))
        if hasattr(type(layer), "replay"):  # its state is what the actions lead to
            layer.replay()


def layers(env: Any) -> Iterator[Any]:
    """An environment's wrappers, outermost first, and itself."""
    while True:
        yield env
        if env is env.unwrapped:
            return
        env = env.env


def _layer(layer: Any) -> dict[str, Any]:
    plain = {n: _encode(v) for n, v in vars(layer).items() if n not in IGNORED}
    state: dict[str, Any] = {"plain": {n: v for n, v in plain.items() if v is not _ABSENT}}
    if hasattr(type(layer), "do_simulation"):
        state["mujoco"] = _mujoco(layer)
    if hasattr(getattr(layer, "ale", None), "cloneSystemState"):
        serialized = layer.ale.cloneSystemState().serialize()
        state["ale"] = torch.frombuffer(bytearray(serialized), dtype=torch.uint8)
    return state


def _encode(value: Any) -> Any:
    """`value` as tensors and containers tagged with its type, or `_ABSENT` where it is not a plain value."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if type(value) in (type(None), bool, int, float, str) else _scalar(value)
    if isinstance(value, np.generic):
        return _scalar(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return _ABSENT
        return {"array": torch.from_numpy(np.ascontiguousarray(value).copy())}
    if isinstance(value, np.random.Generator):
        return {"generator": _encode(value.bit_generator.state)}
    if isinstance(value, dict):
        pairs = [[_encode(k), _encode(v)] for k, v in value.items()]
        return _ABSENT if any(x is _ABSENT for pair in pairs for x in pair) else {"dict": pairs}
    if type(value) in (list, tuple, deque):
        items = [_encode(v) for v in value]
        if any(x is _ABSENT for x in items):
            return _ABSENT
        return {type(value).__name__: items, "length": getattr(value, "maxlen", None)}
    return _ABSENT


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"scalar": value.item(), "dtype": value.dtype.str}
    return _ABSENT


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return value["array"].numpy().copy()
    if "scalar" in value:
        return np.dtype(value["dtype"]).type(value["scalar"])
    if "generator" in value:
        state = _decode(value["generator"])
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = state
        return np.random.Generator(bits)
    if "dict" in value:
        return {_decode(k): _decode(v) for k, v in value["dict"]}
    if "deque" in value:
        return deque(map(_decode, value["deque"]), value["length"])
    return [_decode(v) for v in value["list"]] if "list" in value else tuple(map(_decode, value["tuple"]))


def _mujoco(env: Any) -> dict[str, torch.Tensor]:
    """MuJoCo's integration state, and every array of fixed size derived from it: some observations read
    positions of bodies from before the last integration."""
    mujoco: Any = importlib.import_module("mujoco")
    full = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, full))
    mujoco.mj_getState(env.model, env.data, state, full)
    derived = {n: torch.from_numpy(a.copy()) for n, a in _arrays(env.data)}
    return {"state": torch.from_numpy(state), **derived}


def _set_mujoco(env: Any, saved: dict[str, torch.Tensor]) -> None:
    mujoco: Any = importlib.import_module("mujoco")
    full = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(env.model, env.data, saved["state"].numpy(), full)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, saved["state"].numpy(), full)  # the warm start too
    for name, array in _arrays(env.data):
        array[...] = saved[name].numpy()


def _arrays(data: Any) -> Iterator[tuple[str, np.ndarray]]:
    prefixes = ("x", "c", "subtree", "geom", "site", "actuator_", "qfrc", "qacc", "sensordata")
    for name in dir(data):
        if name.startswith(prefixes) and name not in ("contact", "crb"):
            array = getattr(data, name)
            if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size:
                yield name, array
