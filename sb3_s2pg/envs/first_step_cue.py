from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class FirstStepCue(gym.Env):
    """
    A task that needs long memory, and nothing else: one of several cues is shown at the first step only; after
    ``length`` steps of distraction the action has to name it. Guessing is right once in ``n_cues`` times.

    The observation is the cue (one-hot at the first step, zero afterwards) and noise in [-1, 1], new at every step.
    There is no clock in it and no sign that the end has come, so that the policy has to know the cue all the time.
    Only the action at the last step counts: reward 1 and ``info["is_success"]`` if it is the cue's number.
    Turn the previous action off (``use_previous_action=False``), or a policy can remember the cue by acting it out.

    :param length: Number of steps from the cue to the action that counts
    :param n_cues: Number of cues
    :param n_distractors: Number of noise entries
    :param continuous: Whether the action is a Box with a number per cue, the largest of which names it: for algorithms
        that need one
    :param render_mode: None or ``"rgb_array"``
    :raises ValueError: if a number is too small, or if there is no such mode
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self,
        length: int = 20,
        n_cues: int = 4,
        n_distractors: int = 2,
        render_mode: str | None = None,
        continuous: bool = False,
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} must be None or 'rgb_array'")
        self.render_mode = render_mode
        for name, value, least in (("length", length, 1), ("n_cues", n_cues, 2), ("n_distractors", n_distractors, 1)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer >= {least}")
        self.length, self.n_cues, self.n_distractors = length, n_cues, n_distractors
        self.observation_space = spaces.Box(-1.0, 1.0, (n_cues + n_distractors,), dtype=np.float32)
        self.full_observation_space = self.observation_space
        self.continuous = continuous
        self.action_space = spaces.Box(-1.0, 1.0, (n_cues,), dtype=np.float32) if continuous else spaces.Discrete(n_cues)

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self.n_cues + self.n_distractors, dtype=np.float32)
        if self.steps == 0:
            observation[self.cue] = 1.0
        observation[self.n_cues :] = self.np_random.uniform(-1.0, 1.0, self.n_distractors)
        self.shown = observation
        return observation

    @property
    def full_observation(self) -> np.ndarray:
        """:return: The present observation, with the cue in it at every step"""
        full = self.shown.copy()
        full[self.cue] = 1.0
        return full

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.cue = int(self.np_random.integers(self.n_cues))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        at_the_end = self.steps == self.length
        self.steps += 1
        if not at_the_end:
            return self._observation(), 0.0, False, False, {}
        success = int(np.argmax(action) if self.continuous else action) == self.cue
        return self._observation(), float(success), True, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        """
        :return: A picture of the observation, shape (40, 40 * entries, 3): a square per entry, black for -1, white for 1
        """
        if self.render_mode is None:
            return None
        squares = np.repeat((self.shown + 1) * 127.5, 40).astype(np.uint8)
        return np.broadcast_to(squares[None, :, None], (40, len(squares), 3)).copy()
