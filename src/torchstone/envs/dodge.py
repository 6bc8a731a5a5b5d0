"""A Take Cover of 8 × 8 pixels, for tests: balls fall, and a paddle at the bottom must not be under one.

It costs microseconds a step and needs no simulator. A frame shows where a ball is, not how fast it falls.
"""

from typing import Any

import numpy as np

from torchstone.envs.make import gym

SIZE, BALL, WIDTH = 8, 2, 2  # of a frame, the ball and the paddle, in pixels


def dodge(render_mode: str | None = None) -> Any:
    """Frames `(3, 8, 8)` of bytes; three actions: left, stay, right. The reward is 1 for each step alive.

    A ball falls one or two rows a step, aimed at the paddle or beside it; the next one begins
    when it has left.
    """
    gymnasium = gym()

    class Dodge(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

        def __init__(self):
            self.render_mode = render_mode
            self.observation_space = gymnasium.spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
            self.action_space = gymnasium.spaces.Discrete(3)
            self.paddle = self.row = self.column = self.speed = 0

        def reset(self, *, seed: int | None = None, options: Any = None):
            super().reset(seed=seed)
            self.paddle = int(self.np_random.integers(SIZE - WIDTH + 1))
            self._new_ball()
            return self.frame(), {}

        def _new_ball(self) -> None:
            aim = self.paddle + self.np_random.integers(-1, 2)
            self.row, self.column = 0, int(np.clip(aim, 0, SIZE - BALL))
            self.speed = int(self.np_random.integers(1, 3))

        def frame(self) -> np.ndarray:
            frame = np.zeros((3, SIZE, SIZE), np.uint8)
            frame[1:, SIZE - 2 :, self.paddle : self.paddle + WIDTH] = 255
            frame[:, self.row : self.row + BALL, self.column : self.column + BALL] = 255
            return frame

        def step(self, action):
            self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, SIZE - WIDTH))
            self.row += self.speed
            is_low = self.row + BALL > SIZE - 1
            is_hit = is_low and self.paddle - BALL < self.column < self.paddle + WIDTH
            frame = self.frame()
            if is_low and not is_hit:
                self._new_ball()
                frame = self.frame()
            return frame, 1.0, bool(is_hit), False, {}

        def render(self):
            return np.kron(np.moveaxis(self.frame(), 0, 2), np.ones((16, 16, 1), np.uint8))

    return Dodge()
