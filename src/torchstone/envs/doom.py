"""Take Cover, a scenario of VizDoom: fireballs fly at a player who can only step aside.

The reward is 1 for each step alive, and an episode is cut after 2,100 of them, a minute of the game, as in Ha
and Schmidhuber (2018). The game runs in a process of its own, whose state cannot be read. It is a function of
an episode's seed and the actions since, so that a checkpoint holds those, and they are played again.
"""

import contextlib
import os
import tempfile
from typing import Any

import numpy as np

from torchstone.envs.make import gym

SIZE = 64
LEFT_BEHIND = "_vizdoom"  # an empty folder that the game makes in the current one
BUTTONS = ([1.0, 0.0], [0.0, 0.0], [0.0, 1.0])  # left, stay, right


def take_cover(render_mode: str | None = None) -> Any:
    """Frames `(3, 64, 64)` of bytes; three actions: left, stay, right.

    Raises:
        ModuleNotFoundError: VizDoom is not installed.
    """
    import vizdoom
    from PIL import Image

    gymnasium = gym()

    class TakeCover(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 35}  # noqa: RUF012

        def __init__(self):
            self.render_mode = render_mode
            self.observation_space = gymnasium.spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
            self.action_space = gymnasium.spaces.Discrete(len(BUTTONS))
            self.episode_seed, self.actions = 0, []
            self.game: Any = None
            self.folder: Any = None

        def reset(self, *, seed: int | None = None, options: Any = None):
            super().reset(seed=seed)
            self.episode_seed, self.actions = int(self.np_random.integers(2**31)), []
            return self._begin(), {}

        def _begin(self) -> np.ndarray:
            if self.game is None:
                self.folder = tempfile.TemporaryDirectory()
                self.game = make_game(vizdoom, self.folder.name)
            self.game.set_seed(self.episode_seed)
            self.game.new_episode()
            return self._frame()

        def _frame(self) -> np.ndarray:
            state = self.game.get_state()
            if state is None:  # after the last action there is no picture
                return np.zeros((3, SIZE, SIZE), np.uint8)
            small = Image.fromarray(state.screen_buffer).resize((SIZE, SIZE), Image.Resampling.BOX)
            return np.ascontiguousarray(np.moveaxis(np.asarray(small), 2, 0))

        def step(self, action):
            self.actions.append(int(action))
            reward = self.game.make_action(BUTTONS[int(action)])
            return self._frame(), reward, self.game.is_episode_finished(), False, {}

        def replay(self) -> None:
            """Play the actions since the episode's seed again."""
            self._begin()
            for action in self.actions:
                self.game.make_action(BUTTONS[action])

        def render(self):
            state = self.game.get_state()
            return np.zeros((120, 160, 3), np.uint8) if state is None else state.screen_buffer.copy()

        def close(self):
            if self.game is not None:
                self.game.close()
                self.folder.cleanup()
                self.game = None

    return TakeCover()


def make_game(vizdoom: Any, folder: str) -> Any:
    """The scenario of the wheel, without window or sound. VizDoom reads settings of earlier games from the
    current folder, and leaves its own there, unless it has another `folder`."""
    game = vizdoom.DoomGame()
    game.load_config(os.path.join(vizdoom.scenarios_path, "take_cover.cfg"))
    game.set_doom_config_path(os.path.join(folder, "vizdoom.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    before = os.path.isdir(LEFT_BEHIND)
    game.init()
    if not before:
        with contextlib.suppress(OSError):  # unless there is something in it
            os.rmdir(LEFT_BEHIND)
    return game
