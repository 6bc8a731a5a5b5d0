"""Names of earlier versions, so that their run folders are read and their options understood.

A run folder from before the renaming says `optimiser`, `clip` or `told`. What it says is translated when it is
read. The command line answers an old option with one line that gives the new name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

# recipe fields of every system, unless it says otherwise below
FIELDS = {
    "optimiser": "optimizer",
    "batch": "batch_size",
    "clip": "max_grad_norm",
    "schedule": "lr_schedule",
    "warmup": "warmup_ratio",
    "floor": "min_lr_ratio",
    "accumulate": "grad_accum_steps",
    "ema": "ema_decay",
}
# recipe fields of one system
SYSTEM_FIELDS: dict[str, dict[str, str]] = {}
# (system, field of today): what an old value is called now
VALUES: dict[tuple[str, str], dict[Any, Any]] = {}
# arguments of a system's networks, as checkpoints hold them
MODEL_CONFIG: dict[str, dict[str, str]] = {}
# keys of a checkpoint's metadata; of every system under "*"
METADATA: dict[str, dict[str, str]] = {"*": {"arguments": "model_config"}}
# entries of a run's state, also behind a prefix: `critic_optimiser` of old is `critic_optimizer`
STATE = {"optimiser": "optimizer", "schedule": "lr_schedule"}


def new_fields(system: str, fields: Iterable[str], known: Iterable[str], old: bool = False) -> dict[str, str]:
    """Old to new name, for those of `fields` that have another name today.

    Args:
        known: names of today's fields.
        old: the fields are an old run's; else a name that is one of today's means that field.
    """
    known, table = set(known), {**FIELDS, **SYSTEM_FIELDS.get(system, {})}
    return {name: table[name] for name in fields if table.get(name) in known and (old or name not in known)}


def new_values(system: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """An old run's fields, by names of today, with what their values are called today."""
    return {name: VALUES.get((system, name), {}).get(value, value) for name, value in fields.items()}


def new_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's `meta.json` by today's names; earlier versions called its metadata `card`."""
    if "card" not in meta:
        return meta
    system = meta.get("system", "")
    table = {**METADATA["*"], **METADATA.get(system, {})}
    metadata = {table.get(name, name): value for name, value in meta.pop("card").items()}
    if "model_config" in metadata:
        names = MODEL_CONFIG.get(system, {})
        config = metadata["model_config"]
        metadata["model_config"] = {names.get(name, name): value for name, value in config.items()}
    return {**meta, "metadata": metadata}


def new_entry(name: str) -> str:
    """An entry of an old run's state by today's name."""
    for old, new in STATE.items():
        if name == old or (name.endswith(f"_{old}") and not name.endswith(new)):
            return name.removesuffix(old) + new
    return name
