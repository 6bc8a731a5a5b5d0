"""Schedulers as diffusers writes them: which of our `Process`es a config means."""

from collections.abc import Mapping
from typing import Any

from torchstone.errors import BadInput
from torchstone.hub import hf_folder

SCHEDULERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
TOLD = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
# whether the variance is β, not β̃
VARIANCES = {"fixed_small": False, "fixed_small_log": False, "fixed_large": True}
USED = {
    "_class_name", "_diffusers_version", "num_train_timesteps", "beta_start", "beta_end",
    "beta_schedule", "prediction_type", "clip_sample", "clip_sample_range", "timestep_spacing",
    "steps_offset", "variance_type", "set_alpha_to_one", "dynamic_thresholding_ratio",
    "sample_max_value",
}  # fmt: skip
ONLY = {
    "trained_betas": None,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "skip_prk_steps": (True, False),  # left over from another scheduler
}


def process(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of our `Process` for those of a scheduler; theirs of DDPM where nothing is said.

    Raises:
        BadInput: a setting that is not implemented, by its name.
    """
    hf_folder.reject_unsupported(config, USED, ONLY)
    large = choice(config, "variance_type", VARIANCES, "fixed_small")
    limit = hf_folder.get_number(config, "clip_sample_range", 1.0)
    return {
        "sampler": choice(config, "_class_name", SCHEDULERS, "DDPMScheduler"),
        "schedule": choice(config, "beta_schedule", SCHEDULES, "linear"),
        "levels": hf_folder.get_number(config, "num_train_timesteps", 1000),
        "first": hf_folder.get_number(config, "beta_start", 1e-4),
        "last": hf_folder.get_number(config, "beta_end", 0.02),
        "told": choice(config, "prediction_type", TOLD, "epsilon"),
        "clip": limit if config.get("clip_sample", True) else None,
        "large": large,
        "rederive": False,
        "spacing": config.get("timestep_spacing", "leading"),
        "offset": hf_folder.get_number(config, "steps_offset", 0),
        "whole": bool(config.get("set_alpha_to_one", True)),
        "published": True,
    }


def choice(config: Mapping[str, Any], name: str, known: Mapping[str, Any], usual: str) -> Any:
    """What we call the value of a setting.

    Raises:
        BadInput: it has a value that is not implemented.
    """
    value = config.get(name, usual)
    if value not in known:
        able = ", ".join(known)
        raise BadInput(f"the config sets {name} = {value!r}; implemented are {able}")
    return known[value]
