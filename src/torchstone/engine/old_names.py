"""Names of earlier versions, so that their run folders are read and their options understood.

A run folder from before the renaming says `optimiser`, `clip` or `told`. What it says is translated when it is
read. The command line answers an old option with one line that gives the new name.
"""

from collections.abc import Callable, Iterable, Mapping
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
SYSTEM_FIELDS: dict[str, dict[str, str]] = {
    "reinforce": {
        "limit": "max_episode_steps",
        "deviation": "init_log_std",
        "worlds": "num_envs",
        "anneal": "anneal_lr",
        "episodes": "eval_episodes",
        "film": "record_video",
        "value": "vf_coef",
        "entropy": "ent_coef",
    },
    "a2c": {
        "limit": "max_episode_steps",
        "deviation": "init_log_std",
        "worlds": "num_envs",
        "anneal": "anneal_lr",
        "episodes": "eval_episodes",
        "film": "record_video",
        "length": "num_steps",
        "lam": "gae_lambda",
        "entropy": "ent_coef",
        "value": "vf_coef",
        "norm": "max_grad_norm",
    },
    "ppo": {
        "limit": "max_episode_steps",
        "deviation": "init_log_std",
        "worlds": "num_envs",
        "anneal": "anneal_lr",
        "episodes": "eval_episodes",
        "film": "record_video",
        "length": "num_steps",
        "scaled": "normalize",
        "lam": "gae_lambda",
        "clip": "clip_coef",
        "clip_value": "clip_vloss",
        "entropy": "ent_coef",
        "value": "vf_coef",
        "norm": "max_grad_norm",
    },
    "dqn": {
        "limit": "max_episode_steps",
        "worlds": "num_envs",
        "anneal": "anneal_lr",
        "episodes": "eval_episodes",
        "film": "record_video",
        "length": "num_steps",
        "duelling": "dueling",
        "double": "double_q",
        "n": "n_step",
        "gradients": "gradient_steps",
        "memory": "buffer_size",
        "first": "learning_starts",
        "target": "target_update_interval",
        "clip": "clip_rewards",
        "alpha": "per_alpha",
        "beta": "per_beta",
        "epsilon": "final_epsilon",
        "explore": "exploration_steps",
        "norm": "max_grad_norm",
    },
    "ddpg": {
        "limit": "max_episode_steps",
        "worlds": "num_envs",
        "anneal": "anneal_lr",
        "episodes": "eval_episodes",
        "film": "record_video",
        "length": "num_steps",
        "gradients": "gradient_steps",
        "memory": "buffer_size",
        "first": "learning_starts",
        "n": "n_step",
    },
}
# (system, field of today): what an old value is called now
VALUES: dict[tuple[str, str], dict[Any, Any]] = {
    ("a2c", "actors"): {"together": "sync", "stale": "async"},
    ("dqn", "variant"): {"dqn_duelling": "dqn_dueling"},
}
# systems whose `steps` counted updates: the field that replaced it, and how many of those an update makes
PER_UPDATE: dict[str, tuple[str, Callable[[Mapping[str, Any]], int]]] = {
    "reinforce": ("total_episodes", lambda fields: fields["num_envs"]),
    "a2c": (
        "total_timesteps",
        lambda fields: fields["num_steps"] * (fields["num_envs"] if fields["actors"] == "sync" else 1),
    ),
    "ppo": ("total_timesteps", lambda fields: fields["num_envs"] * fields["num_steps"]),
    "dqn": ("total_timesteps", lambda fields: fields["num_envs"] * fields["num_steps"]),
    "ddpg": ("total_timesteps", lambda fields: fields["num_envs"] * fields["num_steps"]),
}
# arguments of a system's networks, as checkpoints hold them
MODEL_CONFIG: dict[str, dict[str, str]] = {
    "reinforce": {
        "observations": "observation_shape",
        "actions": "num_actions",
        "deviation": "init_log_std",
    },
    "a2c": {
        "observations": "observation_shape",
        "actions": "num_actions",
        "deviation": "init_log_std",
    },
    "ppo": {
        "observations": "observation_shape",
        "actions": "num_actions",
        "deviation": "init_log_std",
        "scaled": "normalize",
    },
    "dqn": {
        "observations": "observation_shape",
        "actions": "num_actions",
        "duelling": "dueling",
    },
    "ddpg": {
        "observations": "observation_shape",
        "actions": "num_actions",
    },
}
# keys of a checkpoint's metadata; of every system under "*"
METADATA: dict[str, dict[str, str]] = {"*": {"arguments": "model_config"}}
# entries of a run's state, also behind a prefix: `critic_optimiser` of old is `critic_optimizer`
STATE = {
    "optimiser": "optimizer",
    "schedule": "lr_schedule",
    "rewards": "reward_normalizer",
    "frozen": "target_network",
    "copy": "target_network",
}


def new_fields(system: str, fields: Iterable[str], known: Iterable[str], old: bool = False) -> dict[str, str]:
    """Old to new name, for those of `fields` that have another name today.

    Args:
        known: names of today's fields.
        old: the fields are an old run's; else a name that is one of today's means that field.
    """
    known, table = set(known), {**FIELDS, **SYSTEM_FIELDS.get(system, {})}
    return {name: table[name] for name in fields if table.get(name) in known and (old or name not in known)}


def new_values(system: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """An old run's fields, by names of today, with what their values are called today.

    `steps` of reinforcement learning counted updates; it becomes environment steps or episodes.
    """
    fields = {
        name: VALUES[system, name].get(value, value) if (system, name) in VALUES else value
        for name, value in fields.items()
    }
    if system in PER_UPDATE and "steps" in fields:
        name, per_update = PER_UPDATE[system]
        fields[name] = fields.pop("steps") * per_update(fields)
    return fields


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
    if "variant" in metadata:
        variant = metadata["variant"]
        metadata["variant"] = VALUES.get((system, "variant"), {}).get(variant, variant)
    return {**meta, "metadata": metadata}


def new_entry(name: str) -> str:
    """An entry of an old run's state by today's name."""
    for old, new in STATE.items():
        if name == old or (name.endswith(f"_{old}") and not name.endswith(new)):
            return name.removesuffix(old) + new
    return name
