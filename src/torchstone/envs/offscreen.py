"""Rendering without a screen: what the drivers of simulators are told by environment variables.

SDL (pygame, Box2D) and MuJoCo look for a display even where pictures go into memory. Without one SDL prints
an error and MuJoCo raises one, unless they are told of a driver that needs none.
"""

import contextlib
import os
import sys
from collections.abc import Generator, Mapping

SDL = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}  # no window is ever opened
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def renderers(platform: str = sys.platform) -> list[dict[str, str]]:
    """Variables to render with, in the order to try them; what the user has set stays.

    MuJoCo takes EGL where there is no display. Where there is one it is tried first: it may be another
    machine's, whose OpenGL is of no use.
    """
    egl = {**SDL, "MUJOCO_GL": "egl"}
    if "MUJOCO_GL" in os.environ or platform != "linux":
        return [SDL]
    return [SDL, egl] if any(map(os.environ.get, DISPLAYS)) else [egl]


@contextlib.contextmanager
def environment_variables(variables: Mapping[str, str]) -> Generator[None]:
    """Set those of `variables` that are not set, and remove them again."""
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
