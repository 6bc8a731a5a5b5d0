"""What is drawn of an agent in the environment of an application, for people of that field.

An application's module has `report(model, env, folder, seed)`, for the end of a run, and `picture(model, env,
file, seed)`, for `play --picture`; `env` is that of a run's metadata. Where the environment's tables are
known it has `is_known(model, env)`, whether a network's value follows from them, and then
`simulated_return(model, seed)` to validate and `exact_metrics(model, seed)` to test with.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

# environments, or their prefixes, as in `envs.make`
APPLICATIONS = {
    "sumo": "torchstone.tasks.rl.traffic",
    "energyplus": "torchstone.tasks.rl.cooling",
    "ICU-Sepsis-v2": "torchstone.tasks.rl.treatment",
}


def application(spec: str) -> ModuleType | None:
    """The module of the application that this environment is of; None of any other environment."""
    module = APPLICATIONS.get(spec.partition(":")[0])
    return importlib.import_module(module) if module is not None else None


def known_tables(model: Any, env: Mapping[str, Any]) -> ModuleType | None:
    """The application's module, if its tables give this network's value; else it must be played."""
    use = application(env["spec"])
    return use if hasattr(use, "is_known") and use.is_known(model, env) else None
