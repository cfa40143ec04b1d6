"""What a policy without an internal state is given to see of a task: for comparisons."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_s2pg.common.actions import ActionEncoder
from sb3_s2pg.common.observations import PRIVILEGED_KEY, ObservationSubset, actor_and_critic_observation


class ActorObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """
    What the actor sees of a Dict observation: all keys but ``privileged``; if a single one is left, its value without the key.
    Other observations stay as they are.

    :param env: Environment
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self._seen: ObservationSubset | None = None
        if isinstance(env.observation_space, spaces.Dict) and PRIVILEGED_KEY in env.observation_space.spaces:
            self._seen, _ = actor_and_critic_observation(env.observation_space)
            self.observation_space = self._value(self._seen.space)

    @staticmethod
    def _value(seen: Any) -> Any:
        """
        :param seen: What the actor sees, or its space, by keys
        :return: The value of a single key, without it
        """
        return next(iter(seen.values())) if len(seen) == 1 else seen

    def observation(self, observation: Any) -> Any:
        return observation if self._seen is None else self._value(self._seen(observation))


class FullObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """
    A task with nothing hidden: of a Dict observation what is ``privileged``, else what ``PartialObservation`` or a task of
    this package hides (their ``full_observation``).

    :param env: Environment
    :raises ValueError: if nothing is known about what the task hides
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        self._is_privileged = False
        if isinstance(space, spaces.Dict) and PRIVILEGED_KEY in space.spaces:
            self._is_privileged = True
            self.observation_space = space[PRIVILEGED_KEY]
            return
        try:
            self.observation_space = env.get_wrapper_attr("full_observation_space")
        except AttributeError as error:
            raise ValueError(
                f"{env} does not say what it hides: FullObservation needs an observation with the key {PRIVILEGED_KEY!r}, "
                "PartialObservation, or a task of sb3_s2pg.envs"
            ) from error

    def observation(self, observation: Any) -> Any:
        return observation[PRIVILEGED_KEY] if self._is_privileged else self.env.get_wrapper_attr("full_observation")


class WindowObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """
    The last ``length`` observations and as many actions, oldest first, in one vector: (o_t-N+1 ... o_t, a_t-N ... a_t-1).
    Actions are scaled to [-1, 1] or one-hot, as S2PG's policies see the previous one. At the start of an episode the first
    observation fills the places of those before it, and zeros those of the actions.

    :param env: Environment with a one-dimensional Box observation
    :param length: Number of observations and of actions
    :raises ValueError: if the length is none, or the observation is something else
    """

    def __init__(self, env: gym.Env, length: int = 8):
        gym.utils.RecordConstructorArgs.__init__(self, length=length)
        gym.ObservationWrapper.__init__(self, env)
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length={length!r} of a window must be an integer of at least 1 step")
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"WindowObservation needs a one-dimensional Box observation, not {space}")
        self._encode = ActionEncoder(env.action_space)
        self._observations: deque[np.ndarray] = deque(maxlen=length)
        self._actions: deque[np.ndarray] = deque(maxlen=length)
        # Actions need not have bounds
        bound = np.full(length * self._encode.size, np.inf)
        self.observation_space = spaces.Box(
            np.concatenate([np.tile(space.low, length), -bound]).astype(np.float32),
            np.concatenate([np.tile(space.high, length), bound]).astype(np.float32),
            dtype=np.float32,
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        self._observations.append(observation)
        return np.concatenate([*self._observations, *self._actions]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(self._actions.maxlen or 0):
            self._observations.append(observation)
            self._actions.append(np.zeros(self._encode.size, dtype=np.float32))
        return self.observation(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._actions.append(self._encode(np.asarray(action)[None])[0])
        return super().step(action)
