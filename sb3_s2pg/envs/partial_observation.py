from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_s2pg.envs.segments import observation_segments


class PartialObservation(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Hide some entries of a Box observation from the policy.

    Hidden entries are set to zero and the shape is kept, as RL Zoo's ``MaskVelocityWrapper`` does, or they are dropped.
    With ``privileged=True`` the observation becomes a Dict: ``observation`` is what the policy may see,
    ``privileged`` is the full observation, for the critic alone.

    Names stand for segments of the observation of gymnasium's MuJoCo tasks: ``"positions"``, ``"velocities"``,
    ``"contact_forces"``, and in Humanoid ``"com_inertia"``, ``"com_velocity"`` and ``"actuator_forces"``. Where they lie is
    asked from the task. ``"velocities"`` is known for CartPole, MountainCar, Pendulum and LunarLander as well.

    ``full_observation`` is the last one with nothing hidden.

    :param env: Environment with a one-dimensional Box observation
    :param hidden: What is hidden: indices of the observation (negative ones count from the end), names of its
        segments, or both; one alone needs no list
    :param privileged: Whether to add the full observation under the key ``privileged``
    :param drop: Whether to drop hidden entries instead of setting them to zero
    :raises ValueError: if the observation is not a one-dimensional Box, if an index or a name does not exist,
        or if nothing would be left to see
    """

    def __init__(self, env: gym.Env, hidden: int | str | Sequence[int | str], privileged: bool = False, drop: bool = False):
        gym.utils.RecordConstructorArgs.__init__(self, hidden=hidden, privileged=privileged, drop=drop)
        gym.Wrapper.__init__(self, env)

        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"PartialObservation needs a one-dimensional Box observation, not {space}")
        size = space.shape[0]
        entries = [hidden] if isinstance(hidden, (int, np.integer, str)) else list(hidden)
        names = [entry for entry in entries if isinstance(entry, str)]
        indices = [entry for entry in entries if not isinstance(entry, str)]
        wrong = [entry for entry in indices if isinstance(entry, (bool, np.bool_)) or not isinstance(entry, (int, np.integer))]
        if wrong:
            raise ValueError(f"hidden={entries}: {wrong} are neither indices nor names of segments")
        out_of_range = [index for index in indices if not -size <= index < size]
        if out_of_range:
            raise ValueError(f"hidden={entries}: indices {out_of_range} do not exist in an observation of size {size}")
        segments = observation_segments(env) if names else {}
        for name in names:
            if name not in segments:
                known = f"which has {', '.join(segments)}" if segments else "of which no segments are known: hide indices"
                raise ValueError(f"hidden={entries}: there is no {name!r} in the observation of {env}, {known}")
            indices.extend(segments[name])

        self._visible = np.ones(size, dtype=bool)
        self._visible[indices] = False
        if not self._visible.any():
            raise ValueError(f"hidden={entries} hides the whole observation of size {size}: leave at least one entry")

        if drop:
            partial_space = spaces.Box(space.low[self._visible], space.high[self._visible], dtype=space.dtype)
        else:
            # As RL Zoo does, keep the bounds (models move between the two), but zero has to lie inside them
            partial_space = spaces.Box(
                np.where(self._visible, space.low, np.minimum(space.low, 0)).astype(space.dtype),
                np.where(self._visible, space.high, np.maximum(space.high, 0)).astype(space.dtype),
                dtype=space.dtype,
            )
        self.privileged, self.drop = privileged, drop
        self.full_observation_space = space
        self.observation_space = (
            spaces.Dict({"observation": partial_space, "privileged": space}) if privileged else partial_space
        )

    def observation(self, observation: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """
        :param observation: The full observation, or a batch of them
        :return: What the agent gets to see of it
        """
        if self.drop:
            partial = observation[..., self._visible]
        else:
            partial = np.where(self._visible, observation, 0).astype(observation.dtype)
        return {"observation": partial, "privileged": observation} if self.privileged else partial

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.full_observation, info = self.env.reset(seed=seed, options=options)
        return self.observation(self.full_observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.full_observation, reward, terminated, truncated, info = self.env.step(action)
        return self.observation(self.full_observation), reward, terminated, truncated, info
