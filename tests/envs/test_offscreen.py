"""Rendering without a screen: the driver that is chosen, and what is left of the environment's variables."""

import os
import subprocess
import sys
from ctypes.util import find_library

import pytest

from torchstone.envs.offscreen import SDL, environment_variables, renderers

EGL = {**SDL, "MUJOCO_GL": "egl"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", *SDL):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, [EGL]),
        ("linux", {"DISPLAY": ":0"}, [SDL, EGL]),
        ("linux", {"DISPLAY": ""}, [EGL]),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, [SDL, EGL]),
        ("linux", {"MUJOCO_GL": "osmesa"}, [SDL]),
        ("darwin", {}, [SDL]),
        ("win32", {}, [SDL]),
    ],
)
def test_renderers_take_egl_without_a_display(platform, variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = renderers(platform)
    print(platform, variables, "->", found)
    assert found == expected


def test_environment_variables_keep_what_the_user_set(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    with environment_variables(EGL):
        inside = {name: os.environ[name] for name in EGL}
    after = {name: os.environ.get(name) for name in EGL}
    print(inside, after)
    assert inside == {**EGL, "SDL_VIDEODRIVER": "x11"}
    assert after == {"SDL_VIDEODRIVER": "x11", "SDL_AUDIODRIVER": None, "MUJOCO_GL": None}


NO_EGL = pytest.mark.skipif(sys.platform != "linux" or not find_library("EGL"), reason="there is no EGL here")


@pytest.mark.parametrize(
    "spec", ["CartPole-v1", pytest.param("Hopper-v5", marks=[NO_EGL, pytest.mark.sweep])]
)
def test_play_records_a_video_without_a_display_or_a_word(spec, tmp_path):
    """In a process of its own, where neither SDL nor MuJoCo has looked for a display yet."""
    script = f"""
import torch
from torchstone.envs.make import spaces
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.tasks.rl.evaluate import play
observation, action = spaces({spec!r})
model = ActorCritic(observation.shape, 2 if hasattr(action, "n") else action.shape[0], continuous=not hasattr(action, "n"))
env = dict(spec={spec!r}, wrappers=[], max_episode_steps=4)
print(play(model, dict(env=env), episodes=1, video="{tmp_path}/episode.mp4"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    print(done.returncode, done.stdout, done.stderr)
    assert done.returncode == 0
    assert done.stderr == ""
    assert (tmp_path / "episode.mp4").stat().st_size > 1000
