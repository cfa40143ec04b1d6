"""Demonstrations: what has to be true of them, and the internal states that a policy would have had along them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_s2pg.common.observations import map_observations
from sb3_s2pg.common.policies import StatefulPolicy

# Rounding errors of actions that were recorded as float32
ACTION_TOLERANCE = 1e-4
RECORD_WITH = "Record the demonstrations in an environment with the same spaces as the one that is given for training"


def check_demonstrations(
    trajectories: Sequence[Any],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    min_length: int = 2,
    name: str = "demonstrations",
) -> None:
    """
    :param trajectories: Trajectories of ``imitation``: observations of one step more than actions
    :param observation_space: Observation space of the learner
    :param action_space: Action space of the learner
    :param min_length: Smallest number of actions of a trajectory
    :param name: The argument that they came from, for messages
    :raises ValueError: if there are none, if one is too short, or does not fit the spaces
    """
    if len(trajectories) == 0:
        raise ValueError(f"{name} holds no trajectory: record at least one (imitation.data.rollout.rollout)")
    for number, trajectory in enumerate(trajectories):
        where = f"{name}[{number}]"
        length = len(trajectory.acts)
        if length < min_length:
            raise ValueError(
                f"{where} has {length} step(s), at least {min_length} are needed: leave it out, or record whole episodes"
            )
        check_transitions(arrays_of(trajectory.obs), trajectory.acts, observation_space, action_space, where)


def check_transitions(
    obs: Any, acts: np.ndarray, observation_space: spaces.Space, action_space: spaces.Space, where: str
) -> None:
    """
    :param obs: Observations, an array or a dict of arrays, one per row
    :param acts: Actions, one per row
    :param observation_space: Observation space of the learner
    :param action_space: Action space of the learner
    :param where: What they are, for messages
    :raises ValueError: if they do not fit the spaces
    """
    is_dict = isinstance(observation_space, spaces.Dict)
    if is_dict != isinstance(obs, dict) or (is_dict and set(obs) != set(observation_space)):  # type: ignore[call-overload]
        kind = f"a dict with the keys {sorted(obs)}" if isinstance(obs, dict) else f"an array of the shape {obs.shape}"
        raise ValueError(f"The observations of {where} are {kind}, the environment has {observation_space}. {RECORD_WITH}")
    parts = observation_space.spaces if is_dict else {"": observation_space}  # type: ignore[attr-defined]
    for key, space in parts.items():
        _check_shape(f"observations{f'[{key!r}]' if key else ''} of {where}", obs[key] if is_dict else obs, space)
    _check_shape(f"actions of {where}", acts, action_space)
    bounds = _bounds(action_space)
    if bounds is not None:
        low, high = bounds
        margin = ACTION_TOLERANCE * np.maximum(1, np.abs(high - low)) if isinstance(action_space, spaces.Box) else 0
        outside = ((acts < low - margin) | (acts > high + margin)).reshape(len(acts), -1).any(axis=1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"Action {row} of {where}, {acts[row]}, lies outside of {action_space}: record what the environment executes "
                "(after clipping and scaling)"
            )


def _check_shape(what: str, values: np.ndarray, space: spaces.Space) -> None:
    values = np.asarray(values)
    if values.shape[1:] != space.shape:
        raise ValueError(f"The {what} have the shape {values.shape[1:]}, the environment has {space}. {RECORD_WITH}")
    discrete = isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
    if discrete and not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"The {what} are {values.dtype}, the environment has {space}. {RECORD_WITH}")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise ValueError(f"The {what} are not finite at step {row}: {values[row]}. Leave the trajectory out")


def _bounds(space: spaces.Space) -> tuple[Any, Any] | None:
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return np.zeros_like(space.nvec), space.nvec - 1
    return (0, 1) if isinstance(space, spaces.MultiBinary) else None


def arrays_of(obs: Any) -> Any:
    """
    :param obs: Observations, maybe a ``DictObs`` of ``imitation``
    :return: An array, or a dict of arrays
    """
    return obs.unwrap() if hasattr(obs, "unwrap") else obs


def roll_states(policy: StatefulPolicy, trajectories: Sequence[Any], deterministic: bool = False) -> list[np.ndarray]:
    """
    The states that the policy would have had along the trajectories: z is rolled with its kernel as it is now, from z_0 on,
    and the previous action is the one in the trajectory.

    :param policy: The policy
    :param trajectories: Whole episodes of ``imitation``, in the spaces of the policy
    :param deterministic: Whether to roll the mean of z' instead of samples
    :return: One array per trajectory: the state before each of its actions, shape (n_steps, state_dim + action features)
    """
    # The longest first: those that go on are always the first rows
    order = sorted(range(len(trajectories)), key=lambda index: -len(trajectories[index].acts))
    observations = [arrays_of(trajectories[index].obs) for index in order]
    lengths = np.array([len(trajectories[index].acts) for index in order])
    states = [np.zeros((length, policy.initial_state().shape[1]), dtype=np.float32) for length in lengths]
    state = policy.initial_state(len(order))
    for step in range(lengths.max(initial=0)):
        n_going_on = int((lengths > step).sum())
        state = state[:n_going_on]
        for row in range(n_going_on):
            states[row][step] = state[row]
        now = [map_observations(lambda values: values[step], part) for part in observations[:n_going_on]]  # noqa: B023
        obs: Any = (
            {key: np.stack([part[key] for part in now]) for key in now[0]} if isinstance(now[0], dict) else np.stack(now)
        )
        _, next_state = policy.predict(obs, state=state, deterministic=deterministic)
        actions = np.stack([trajectories[index].acts[step] for index in order[:n_going_on]])
        state = policy.make_state(next_state[:, : policy.state_dim], policy.encode_actions(actions))
    rolled = dict(zip(order, states, strict=True))
    return [rolled[index] for index in range(len(order))]
