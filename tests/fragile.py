"""A task whose runs do what the environment variable FRAGILE tells them to, by seed: ``FRAGILE=1:memory,2:kill``."""

import os
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Fragile(gym.Env):
    """Episodes of ten steps; at the third one something may happen. Notes its processes in the folder FRAGILE_LOG."""

    observation_space = spaces.Box(-1, 1, (2,), dtype=np.float32)
    action_space = spaces.Box(-1, 1, (1,), dtype=np.float32)
    seed_of_run = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        if seed is not None:
            self.seed_of_run = seed
            if "FRAGILE_LOG" in os.environ:
                (Path(os.environ["FRAGILE_LOG"]) / f"{seed}.txt").write_text(f"{os.getpid()} {os.getppid()}")
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        fates = dict(fate.split(":") for fate in os.environ.get("FRAGILE", "").split(",") if fate)
        fate = fates.get(str(self.seed_of_run)) if self.steps == 3 else None
        if fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "memory":
            np.ones(10**15)
        if fate is not None and fate.startswith("sleep"):
            time.sleep(float(fate.removeprefix("sleep")))
        return self.observation_space.sample(), float(action[0]), False, self.steps >= 10, {}


gym.register("Fragile-v0", entry_point=Fragile)
