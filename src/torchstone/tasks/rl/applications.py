"""What is drawn of an agent in the environment of an application, for people of that field.

An application's module has `report(model, env, folder, seed)`, for the end of a run, and `picture(model, env,
file, seed)`, for `play --picture`; `env` is that of a run's metadata.
"""

import importlib
from types import ModuleType

# prefixes of environments, as in `envs.make`
APPLICATIONS = {"sumo": "torchstone.tasks.rl.traffic", "energyplus": "torchstone.tasks.rl.cooling"}


def application(spec: str) -> ModuleType | None:
    """The module of the application that this environment is of; None of any other environment."""
    module = APPLICATIONS.get(spec.partition(":")[0]) if ":" in spec else None
    return importlib.import_module(module) if module is not None else None
