"""The internal states that a policy would have had along trajectories that it has not made itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from imitation.data.types import Trajectory, maybe_unwrap_dictobs

from sb3_s2pg.common.observations import map_observations
from sb3_s2pg.common.policies import StatefulPolicy


def roll_states(policy: StatefulPolicy, trajectories: Sequence[Trajectory], deterministic: bool = False) -> list[np.ndarray]:
    """
    Roll z along trajectories with the policy's kernel as it is now, from z_0 on; the previous action is the trajectory's.

    :param policy: The policy
    :param trajectories: Trajectories from the start of an episode on, in the spaces of the policy
    :param deterministic: Whether to roll the mean of z' instead of samples
    :return: One array per trajectory: the state before each of its actions, shape (n_steps, state_dim + action features)
    """
    # The longest first: those that go on are always the first rows
    order = sorted(range(len(trajectories)), key=lambda index: -len(trajectories[index]))
    longest_first = [trajectories[index] for index in order]
    observations: list[Any] = [maybe_unwrap_dictobs(trajectory.obs) for trajectory in longest_first]
    lengths = np.array([len(trajectory) for trajectory in longest_first])
    state = policy.initial_state(len(order))
    rolled = [np.zeros((length, state.shape[1]), dtype=np.float32) for length in lengths]
    for step in range(lengths.max(initial=0)):
        going_on = range((lengths > step).sum())
        state = state[: len(going_on)]
        for row in going_on:
            rolled[row][step] = state[row]
        now = [map_observations(lambda values: values[step], observations[row]) for row in going_on]  # noqa: B023
        obs: Any = (
            {key: np.stack([part[key] for part in now]) for key in now[0]} if isinstance(now[0], dict) else np.stack(now)
        )
        _, next_state = policy.predict(obs, state=state, deterministic=deterministic)
        actions = np.stack([longest_first[row].acts[step] for row in going_on])
        state = policy.make_state(next_state[:, : policy.state_dim], policy.encode_actions(actions))
    by_index = dict(zip(order, rolled, strict=True))
    return [by_index[index] for index in range(len(order))]
