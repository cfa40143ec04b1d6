"""Hand-made environments of the tests."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


class Counter(gym.Env):
    """
    Observations that tell where they come from: [environment, episode, step]; the reward is the step.
    Episodes of ``length`` steps, terminated or (``truncate=True``) cut by a time-limit.
    """

    observation_space = spaces.Box(-1000, 1000, (3,), dtype=np.float32)
    action_space = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32))

    def __init__(self, number: int = 0, length: int = 5, truncate: bool = False):
        self.number, self.length, self.truncate = number, length, truncate
        self.episode = -1

    def _observation(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.steps], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        end = self.steps >= self.length
        return self._observation(), float(self.steps), end and not self.truncate, end and self.truncate, {}


class Recall(gym.Env):
    """A cue of -1 or 1 is seen at the first step only; at the last step the action has to repeat it."""

    observation_space = spaces.Box(-1, 1, (2,), dtype=np.float32)
    action_space = spaces.Box(-1, 1, (1,), dtype=np.float32)

    def __init__(self, length: int = 4):
        self.length = length

    def _observation(self) -> np.ndarray:
        at_the_end = self.steps == self.length - 1
        return np.array([self.cue if self.steps == 0 else 0, at_the_end], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.steps = 0
        self.cue = float(self.np_random.choice([-1, 1]))
        return self._observation(), {}

    def step(self, action):
        reward = -abs(float(action[0]) - self.cue) if self.steps == self.length - 1 else 0.0
        self.steps += 1
        return self._observation(), reward, self.steps >= self.length, False, {}


class Images(gym.Env):
    """Images of a moving bar, channel last."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), dtype=np.uint8)
    action_space = spaces.Box(-1, 1, (1,), dtype=np.float32)

    def _observation(self) -> np.ndarray:
        image = np.zeros((36, 36, 1), dtype=np.uint8)
        image[:, self.position] = 255
        return image

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.position, self.steps = int(self.np_random.integers(36)), 0
        return self._observation(), {}

    def step(self, action):
        self.position = (self.position + (1 if action[0] > 0 else -1)) % 36
        self.steps += 1
        return self._observation(), -abs(self.position - 18) / 18, False, self.steps >= 20, {}


class MixedDict(gym.Env):
    """A Dict observation with an image, a vector, a discrete part and a privileged sensor."""

    observation_space = spaces.Dict(
        {
            "camera": Images.observation_space,
            "joints": spaces.Box(-1, 1, (3,), dtype=np.float32),
            "mode": spaces.Discrete(4),
            "privileged": spaces.Box(-1, 1, (2,), dtype=np.float32),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), dtype=np.float32)

    def __init__(self, with_camera: bool = True):
        keys = [key for key in self.observation_space if with_camera or key != "camera"]
        self.observation_space = spaces.Dict({key: self.observation_space[key] for key in keys})

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action[0]), False, self.steps >= 15, {}


class AnyAction(gym.Env):
    """Random observations in [-1, 1], any action space; episodes of ``length`` steps, terminated or truncated."""

    observation_space = spaces.Box(-1, 1, (3,), dtype=np.float32)

    def __init__(self, action_space: spaces.Space, length: int = 6, truncate: bool = False):
        self.action_space, self.length, self.truncate = action_space, length, truncate

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        end = self.steps >= self.length
        reward = float(np.mean(action)) + float(self.np_random.uniform(-1, 1))
        return self._observation(), reward, end and not self.truncate, end and self.truncate, {}


class Recorder(VecEnvWrapper):
    """Writes down, outside of the algorithm, what goes in and out: one dictionary per step in ``transitions``."""

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.transitions: list[dict[str, Any]] = []

    def reset(self):
        self.obs, self.starts = self.venv.reset(), np.ones(self.num_envs, dtype=bool)
        return self.obs

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions.copy()
        self.venv.step_async(actions)

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        terminal = {
            i: (infos[i]["terminal_observation"].copy(), infos[i]["TimeLimit.truncated"]) for i in np.flatnonzero(dones)
        }
        self.transitions.append(
            {"obs": self.obs, "actions": self.actions, "rewards": rewards.copy(), "starts": self.starts, "terminal": terminal}
        )
        self.obs, self.starts = obs.copy(), dones.copy()
        return obs, rewards, dones, infos
