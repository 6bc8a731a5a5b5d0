"""Names of earlier versions, so that their run folders are read and their options understood.

A run folder from before the renaming says `optimiser`, `clip` or `told`. What it says is translated when it
is read. The command line answers an old option with one line that gives the new name.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def _names(text: str) -> dict[str, str]:
    """`"told:prediction_type levels:timesteps"` as a dictionary: long tables are easier to read so."""
    return dict(pair.split(":") for pair in text.split())


IMPLEMENTATIONS = {"fast": "fused", "written": "reference"}
BINARIZATIONS = {"drawn": "stochastic", "grey": "none"}

# recipe fields of every system, unless it says otherwise below
FIELDS = _names(
    """optimiser:optimizer batch:batch_size clip:max_grad_norm schedule:lr_schedule warmup:warmup_ratio
    floor:min_lr_ratio accumulate:grad_accum_steps ema:ema_decay"""
)
CELL_FIELDS = _names(
    """use:task path:implementation tied:tie_weights start:recurrent_init forget:forget_bias
    vocabulary:vocab_size most:max_examples length:seq_len ahead:forecast_mode together:multivariate
    frame:frame_beats rate:sample_rate jitter:input_noise_std"""
)
AGENT_FIELDS = _names(
    """limit:max_episode_steps worlds:num_envs anneal:anneal_lr episodes:eval_episodes film:record_video"""
)
POLICY_FIELDS = AGENT_FIELDS | _names("deviation:init_log_std value:vf_coef entropy:ent_coef")
ROLLOUT_FIELDS = POLICY_FIELDS | _names("length:num_steps lam:gae_lambda norm:max_grad_norm")
REPLAY_FIELDS = AGENT_FIELDS | _names(
    """length:num_steps gradients:gradient_steps memory:buffer_size first:learning_starts n:n_step"""
)
TRANSLATION_FIELDS = _names(
    """vocabulary:vocab_size longest:max_length smoothing:label_smoothing beams:beam_size
    penalty:length_penalty judged:eval_examples"""
)
GAN_FIELDS = _names(
    "penalty:gp_weight critic_steps:discriminator_steps critic_lr:discriminator_lr samples:eval_samples"
)
CONVOLUTIONAL_GAN_FIELDS = GAN_FIELDS | _names("width:base_channels critic_norm:discriminator_norm")
# recipe fields of one system
SYSTEM_FIELDS: dict[str, dict[str, str]] = {
    "ddpm": _names(
        """told:prediction_type levels:timesteps noise:beta_schedule drop:cond_drop_prob
        sampled:sampling_steps guidance:guidance_scale judged:eval_samples surveyed:guidance_sweep_samples"""
    ),
    "rnn": CELL_FIELDS,
    "lstm": CELL_FIELDS,
    "gru": CELL_FIELDS,
    "ctc": _names(
        """rate:sample_rate bands:n_mels window:window_ms hop:hop_ms count:recordings_per_utterance
        speed:speed_change noise:snr_db beams:beam_size"""
    ),
    "seq2seq": TRANSLATION_FIELDS
    | _names("feeding:input_feeding forcing:teacher_forcing_ratio path:implementation"),
    "reinforce": POLICY_FIELDS,
    "a2c": ROLLOUT_FIELDS,
    "ppo": ROLLOUT_FIELDS | _names("scaled:normalize clip:clip_coef clip_value:clip_vloss"),
    "dqn": REPLAY_FIELDS
    | _names(
        """duelling:dueling double:double_q target:target_update_interval clip:clip_rewards
        alpha:per_alpha beta:per_beta epsilon:final_epsilon explore:exploration_steps norm:max_grad_norm"""
    ),
    "ddpg": REPLAY_FIELDS,
    "gpt": _names("vocabulary:vocab_size"),
    "transformer": TRANSLATION_FIELDS,
    "vit": _names("patch:patch_size"),
    "bert": _names(
        """goal:task most:max_examples vocabulary:vocab_size length:max_length pretrain:pretrain_steps
        pretrain_batch:pretrain_batch_size pairs:next_sentence hidden:mask_prob"""
    ),
    "t5": _names(
        """vocabulary:vocab_size length:max_length density:noise_density span:mean_span_length
        beams:beam_size judged:eval_samples"""
    ),
    "vae": _names(
        """latent:latent_dim pixels:binarization samples:latent_samples weighted:use_iwae
        judged:eval_samples"""
    ),
    "gan": GAN_FIELDS,
    "cgan": CONVOLUTIONAL_GAN_FIELDS,
    "dcgan": CONVOLUTIONAL_GAN_FIELDS,
    "realnvp": _names("levels:pixel_levels judged:eval_samples"),
    "efficientnet": _names("stride:output_stride drop_branches:drop_path_rate"),
    "mobilenet": _names("stride:output_stride"),
    "perceptron": _names("standardise:standardize"),
}
# (system, field of today): what an old value is called now
VALUES: dict[tuple[str, str], dict[Any, Any]] = {
    **{(system, "implementation"): IMPLEMENTATIONS for system in ("rnn", "lstm", "gru", "seq2seq")},
    **{(system, "forecast_mode"): {"steps": "autoregressive"} for system in ("rnn", "lstm", "gru")},
    **{(system, "data"): {"drawn": "synthetic"} for system in ("rnn", "lstm", "gru")},
    ("ctc", "features"): {"cepstra": "mfcc"},
    ("a2c", "actors"): {"together": "sync", "stale": "async"},
    ("dqn", "variant"): {"dqn_duelling": "dqn_dueling"},
    ("bert", "task"): {"labels": "classify", "words": "masked_lm"},
    ("vae", "binarization"): BINARIZATIONS,
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
CELL_CONFIG = _names("tied:tie_weights path:implementation")
Q_CONFIG = _names("observations:observation_shape actions:num_actions")
POLICY_CONFIG = Q_CONFIG | _names("deviation:init_log_std")
# arguments of a system's networks, as checkpoints hold them, and what old values of theirs are called
MODEL_CONFIG: dict[str, dict[str, str]] = {
    "ddpm": _names(
        """outputs:out_channels inner:time_embed_dim middle_attention:mid_attention
        middle_groups:mid_norm_groups shift:freq_shift cosine_first:flip_sin_to_cos centred:center_input
        classes:num_classes null:null_label reader:text_encoder sketch:coarse_head"""
    ),
    "rnn": CELL_CONFIG,
    "lstm": CELL_CONFIG,
    "gru": CELL_CONFIG,
    "seq2seq": _names(
        """source:source_vocab_size target:target_vocab_size feeding:input_feeding
        forcing:teacher_forcing_ratio path:implementation turned:reverse_source"""
    ),
    "ctc": _names("path:implementation"),
    "reinforce": POLICY_CONFIG,
    "a2c": POLICY_CONFIG,
    "ppo": POLICY_CONFIG | _names("scaled:normalize"),
    "dqn": Q_CONFIG | _names("duelling:dueling"),
    "ddpg": Q_CONFIG,
    "gpt": _names(
        """vocabulary:vocab_size inner:d_ff tied:tie_embeddings scaled:scale_attention
        scaled_by_layer:scale_attention_by_layer"""
    ),
    "transformer": _names("vocabulary:vocab_size inner:d_ff longest:max_length"),
    "vit": _names(
        """inner:mlp_dim size:image_size patch:patch_size inner_dropout:mlp_dropout place:position_std
        pooler:pooler_dim"""
    ),
    "bert": _names(
        """vocabulary:vocab_size inner:d_ff places:max_length segments:num_segments pad:pad_id
        tied:tie_weights pooler:use_pooler"""
    ),
    "t5": _names(
        """vocabulary:vocab_size inner:d_ff head_width:head_dim tied:tie_weights scaled:scale_logits
        buckets:num_buckets furthest:max_distance start:start_id pad:pad_id end:end_id"""
    ),
    "vae": _names("latent:latent_dim"),
    "cgan": _names("classes:num_classes width:base_channels"),
    "dcgan": _names("width:base_channels"),
    "efficientnet": SYSTEM_FIELDS["efficientnet"],
    "mobilenet": SYSTEM_FIELDS["mobilenet"],
}
MODEL_CONFIG_VALUES: dict[tuple[str, str], dict[Any, Any]] = {
    (system, "implementation"): IMPLEMENTATIONS for system in ("rnn", "lstm", "gru", "ctc", "seq2seq")
}
BERT_METADATA = _names("words:has_word_labels most:max_examples")
CELL_METADATA = BERT_METADATA | _names("sound:audio_features deviation:std how:forecast frame:frame_beats")
GAN_METADATA = _names("judge:classifier_accuracy judged:eval_samples")
# keys of a checkpoint's metadata, of every system under "*", and old values
METADATA: dict[str, dict[str, str]] = {
    "*": _names("arguments:model_config"),
    "rnn": CELL_METADATA,
    "lstm": CELL_METADATA,
    "gru": CELL_METADATA,
    "ctc": _names("sound:audio_features manner:augmentation deviation:std"),
    "bert": BERT_METADATA,
    "t5": _names("beams:beam_size"),
    "gan": GAN_METADATA,
    "cgan": GAN_METADATA,
    "dcgan": GAN_METADATA,
    "vae": _names("pixels:binarization judged:eval_samples usual:score_quantiles"),
    "realnvp": _names("levels:pixel_levels judged:eval_samples usual:score_quantiles"),
}
METADATA_VALUES: dict[tuple[str, str], dict[Any, Any]] = {("vae", "binarization"): BINARIZATIONS}
# entries of a run's state: of every system, also behind a prefix (`g_optimiser`); of one system
STATE = _names("optimiser:optimizer schedule:lr_schedule")
GAN_STATE = _names(
    """critic:discriminator critic_optimiser:discriminator_optimizer watch:mode_collapse
    critic_schedule:discriminator_lr_schedule critic_update:discriminator_update"""
)
SYSTEM_STATE: dict[str, dict[str, str]] = {
    **dict.fromkeys(("rnn", "lstm", "gru"), _names("carried:hidden_state")),
    **dict.fromkeys(("gan", "cgan", "dcgan"), GAN_STATE),
    "ppo": _names("rewards:reward_normalizer"),
    "dqn": _names("frozen:target_network"),
    "ddpg": _names("copy:target_network critic_optimiser:critic_optimizer actor_optimiser:actor_optimizer"),
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
    names = {**METADATA["*"], **METADATA.get(system, {})}
    metadata = _renamed(meta.pop("card"), names, system, METADATA_VALUES)
    if "model_config" in metadata:
        config, names = metadata["model_config"], MODEL_CONFIG.get(system, {})
        metadata["model_config"] = _renamed(config, names, system, MODEL_CONFIG_VALUES)
    if "variant" in metadata:
        metadata["variant"] = _new_value(VALUES, system, "variant", metadata["variant"])
    return {**meta, "metadata": metadata}


def _renamed(
    config: Mapping[str, Any], names: Mapping[str, str], system: str, values: Mapping[tuple[str, str], Any]
) -> dict[str, Any]:
    renamed = {names.get(name, name): value for name, value in config.items()}
    return {name: _new_value(values, system, name, value) for name, value in renamed.items()}


def _new_value(values: Mapping[tuple[str, str], Any], system: str, name: str, value: Any) -> Any:
    table = values.get((system, name), {})
    return table.get(value, value) if isinstance(value, str) else value


def new_entry(name: str, system: str = "") -> str:
    """An entry of an old run's state by today's name."""
    if name in SYSTEM_STATE.get(system, {}):
        return SYSTEM_STATE[system][name]
    for old, new in STATE.items():
        if name == old or (name.endswith(f"_{old}") and not name.endswith(new)):
            return name.removesuffix(old) + new
    return name
