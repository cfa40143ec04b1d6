from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class PartialObservation(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Hide some entries of a Box observation from the policy.

    Hidden entries are set to zero and the shape is kept, as RL Zoo's ``MaskVelocityWrapper`` does.
    With ``privileged=True`` the observation becomes a Dict: ``observation`` is what the policy may see,
    ``privileged`` is the full observation, for the critic alone.

    :param env: Environment with a one-dimensional Box observation
    :param hidden: Indices of the observation that are hidden; negative indices count from the end
    :param privileged: Whether to add the full observation under the key ``privileged``
    :raises ValueError: if the observation is not a one-dimensional Box, if an index does not exist,
        or if nothing would be left to see
    """

    def __init__(self, env: gym.Env, hidden: Sequence[int], privileged: bool = False):
        gym.utils.RecordConstructorArgs.__init__(self, hidden=hidden, privileged=privileged)
        gym.Wrapper.__init__(self, env)

        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"PartialObservation needs a one-dimensional Box observation, not {space}")
        size = space.shape[0]
        out_of_range = [index for index in hidden if not -size <= index < size]
        if out_of_range:
            raise ValueError(f"hidden={list(hidden)}: indices {out_of_range} do not exist in an observation of size {size}")

        self._visible = np.ones(size, dtype=bool)
        self._visible[list(hidden)] = False
        if not self._visible.any():
            raise ValueError(f"hidden={list(hidden)} hides the whole observation of size {size}: leave at least one entry")

        # As RL Zoo does, keep the bounds (models move between the two), but zero has to lie inside them
        partial_space = spaces.Box(
            np.where(self._visible, space.low, np.minimum(space.low, 0)).astype(space.dtype),
            np.where(self._visible, space.high, np.maximum(space.high, 0)).astype(space.dtype),
            dtype=space.dtype,
        )
        self.privileged = privileged
        self.observation_space = (
            spaces.Dict({"observation": partial_space, "privileged": space}) if privileged else partial_space
        )

    def observation(self, observation: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """
        :param observation: The full observation
        :return: What the agent gets to see of it
        """
        partial = np.where(self._visible, observation, 0).astype(observation.dtype)
        return {"observation": partial, "privileged": observation} if self.privileged else partial

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self.observation(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self.observation(observation), reward, terminated, truncated, info
