"""Who sees what: the actor's and the critic's part of an observation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs

PRIVILEGED_KEY = "privileged"
ObservationSelection = Sequence[str] | Sequence[int] | None


class ObservationSubset:
    """
    A part of the observation: some keys of a Dict, or some entries of a one-dimensional Box.

    :param space: The full observation space
    :param selection: Keys or indices; None for everything
    :param name: The argument that the selection came from, for error messages
    :raises ValueError: if keys or indices do not exist, or nothing is selected
    """

    def __init__(self, space: spaces.Space, selection: ObservationSelection, name: str):
        self.keys: list[str] | None = None
        self.indices: list[int] | None = None
        self._index: slice | list[int] | None = None
        self.space = space
        if isinstance(selection, str):
            raise ValueError(f"{name}={selection!r} must be a list: [{selection!r}]")
        # What is seen, comparable between two subsets of one space
        self.entries: set[Any] = set()

        if isinstance(space, spaces.Dict):
            self.keys = _checked(list(space.spaces) if selection is None else list(selection), space.spaces, name, "keys")
            self.space = spaces.Dict({key: space[key] for key in self.keys})
            self.entries = set(self.keys)
        elif selection is not None:
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"{name}={selection!r} needs a Dict or a one-dimensional Box observation, not {space}")
            size = space.shape[0]
            self.indices = _checked(list(selection), range(size), name, "indices")
            self.space = spaces.Box(space.low[self.indices], space.high[self.indices], dtype=space.dtype)
            self.entries = set(self.indices)
            # A run of neighbours needs no copy
            is_run = self.indices == list(range(self.indices[0], self.indices[0] + len(self.indices)))
            self._index = slice(self.indices[0], self.indices[-1] + 1) if is_run else self.indices
        elif isinstance(space, spaces.Box) and len(space.shape) == 1:
            self.entries = set(range(space.shape[0]))

    def __call__(self, observations: PyTorchObs) -> PyTorchObs:
        """
        :param observations: Batch of observations; a Dict may have more keys than the subset
        :return: The part of them that belongs to the subset
        """
        if self.keys is not None:
            return {key: observations[key] for key in self.keys}  # type: ignore[index]
        if self.indices is not None:
            return observations[..., self._index]  # type: ignore[index]
        return observations

    def is_same_as(self, other: "ObservationSubset") -> bool:
        """
        :param other: A subset of the same space
        :return: Whether both see the same, in the same order
        """
        return (self.keys, self.indices) == (other.keys, other.indices)

    def select_keys(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        """
        Drop the keys that are not needed: at deployment a privileged sensor does not exist.

        :param observation: Observation(s) as an environment returns them
        :return: The same, without superfluous keys
        :raises ValueError: if a key that is needed is missing
        """
        if self.keys is None:
            return observation
        if not isinstance(observation, dict):
            raise ValueError(f"The policy needs a dict observation with the keys {self.keys}, not {type(observation)}")
        missing = [key for key in self.keys if key not in observation]
        if missing:
            raise ValueError(
                f"The observation lacks the keys {missing}: the policy needs {self.keys}, got {list(observation)}"
            )
        return {key: observation[key] for key in self.keys}


def _checked(selection: list[Any], known: Any, name: str, kind: str) -> list[Any]:
    """
    :param selection: Selected keys or indices
    :param known: Those that exist
    :param name: The argument that the selection came from
    :param kind: "keys" or "indices"
    :return: The selection
    :raises ValueError: if something in it does not exist, or it is empty or has doubles
    """
    unknown = [entry for entry in selection if isinstance(entry, bool) or entry not in known]
    if unknown:
        raise ValueError(f"{name}={selection!r}: {kind} {unknown} do not exist, the observation has {list(known)}")
    if len(set(selection)) != len(selection):
        raise ValueError(f"{name}={selection!r} names some {kind} twice")
    if not selection:
        raise ValueError(f"{name}={selection!r} selects nothing: leave at least one of the {kind} {list(known)}")
    return selection


def actor_and_critic_observation(
    space: spaces.Space,
    actor_observation: ObservationSelection = None,
    critic_observation: ObservationSelection = None,
) -> tuple[ObservationSubset, ObservationSubset]:
    """
    :param space: The observation space
    :param actor_observation: Keys or indices that the actor sees; None for all keys but ``privileged``
    :param critic_observation: Keys or indices that the critic sees; None for everything
    :return: what the actor and what the critic sees
    """
    if actor_observation is None and isinstance(space, spaces.Dict):
        actor_observation = [key for key in space.spaces if key != PRIVILEGED_KEY]
    return (
        ObservationSubset(space, actor_observation, "actor_observation"),
        ObservationSubset(space, critic_observation, "critic_observation"),
    )


def map_observations(function: Callable[[Any], Any], observations: Any) -> Any:
    """
    :param function: Function of one array or tensor
    :param observations: One array or tensor, or a dict of them
    :return: Its result, or a dict of its results
    """
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def batch_size_of(observations: PyTorchObs) -> int:
    """
    :param observations: A batch of observations
    :return: Their number
    """
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def flatten_observations(observations: PyTorchObs, n_leading: int) -> th.Tensor:
    """
    :param observations: Preprocessed observations, a tensor or a dict of tensors
    :param n_leading: Number of leading (batch, time) dimensions to keep
    :return: One tensor, the other dimensions flattened and the keys concatenated
    """
    if isinstance(observations, dict):
        return th.cat([flatten_observations(value, n_leading) for value in observations.values()], dim=-1)
    return observations.flatten(start_dim=n_leading)
