"""What is drawn of an agent in the environment of an application, for people of that field.

An application's module has `report(model, env, folder, seed)`, for the end of a run, and `picture(model, env,
file, seed)`, for `play --picture`; `env` is that of a run's metadata.
"""

import importlib
from types import ModuleType

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
