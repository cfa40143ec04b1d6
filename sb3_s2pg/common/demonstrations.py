"""Demonstrations as they come in: trajectories or transitions of ``imitation``, checked before anything is trained."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from imitation.data import types
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.common.observations import map_observations


def as_trajectories(demonstrations: Any) -> list[types.Trajectory]:
    """
    :param demonstrations: Trajectories, or transitions that follow each other as they happened
    :return: Trajectories
    :raises ValueError: if they are something else, or the transitions do not follow each other
    """
    if isinstance(demonstrations, types.Transitions):
        return split_transitions(demonstrations)
    if isinstance(demonstrations, types.TransitionsMinimal) or not isinstance(demonstrations, Iterable):
        raise ValueError(
            f"demonstrations of type {type(demonstrations).__name__} do not say what follows what, which memory needs: "
            "pass trajectories"
        )
    trajectories = list(demonstrations)
    for number, trajectory in enumerate(trajectories):
        if not isinstance(trajectory, types.Trajectory):
            raise ValueError(
                f"demonstrations[{number}] is a {type(trajectory).__name__}: pass trajectories "
                "(imitation.data.types.Trajectory), or contiguous transitions; memory needs whole sequences, not batches"
            )
    return trajectories


def split_transitions(transitions: types.Transitions) -> list[types.Trajectory]:
    """
    :param transitions: Transitions, one episode after the other
    :return: A trajectory per episode; the last one is a fragment if it does not end with ``done``
    :raises ValueError: if a transition neither ends an episode nor is followed by the one that starts where it ends
    """
    obs, next_obs = (types.maybe_unwrap_dictobs(value) for value in (transitions.obs, transitions.next_obs))
    follows = np.ones(len(transitions) - 1, dtype=bool)
    parts = obs if isinstance(obs, dict) else {"": obs}
    next_parts = next_obs if isinstance(next_obs, dict) else {"": next_obs}
    for key in parts:
        equal = next_parts[key][:-1] == parts[key][1:]
        follows &= equal.reshape(len(equal), -1).all(axis=1)
    broken = np.flatnonzero(~follows & ~transitions.dones[:-1])
    if len(broken) > 0:
        raise ValueError(
            f"demonstrations: transition {broken[0]} is not done, yet transition {broken[0] + 1} does not start where it ends "
            f"({len(broken)} such places in {len(transitions)} transitions). They are shuffled, or fragments were joined; "
            "memory needs the order in which they happened: pass trajectories"
        )
    ends = [*(np.flatnonzero(transitions.dones[:-1]) + 1), len(transitions)]
    trajectories, start = [], 0
    for end in ends:
        until, last = rows(obs, slice(start, end)), rows(next_obs, slice(end - 1, end))
        together: Any
        if isinstance(until, dict):
            together = {key: np.concatenate([value, last[key]]) for key, value in until.items()}
        else:
            together = np.concatenate([until, last])
        trajectories.append(
            types.Trajectory(
                obs=types.maybe_wrap_in_dictobs(together),
                acts=transitions.acts[start:end],
                infos=transitions.infos[start:end],
                terminal=bool(transitions.dones[end - 1]),
            )
        )
        start = end
    return trajectories


def rows(observations: Any, at: int | slice) -> Any:
    """
    :param observations: An array with a row per step, or a dict of them
    :param at: Which rows
    :return: These rows, or a dict of them
    """
    return map_observations(operator.itemgetter(at), observations)


def check_demonstrations(
    trajectories: Sequence[types.Trajectory], observation_space: spaces.Space, action_space: spaces.Space
) -> None:
    """
    :param trajectories: Demonstrations
    :param observation_space: Observation space of the environment that is learned from
    :param action_space: Its action space
    :raises ValueError: if there are none, one is shorter than two steps, or does not fit the spaces
    """
    if len(trajectories) == 0:
        raise ValueError("demonstrations are empty: at least one trajectory is needed")
    for number, trajectory in enumerate(trajectories):
        name = f"demonstrations[{number}]"
        if len(trajectory) < 2:
            raise ValueError(f"{name} has {len(trajectory)} step: memory needs sequences, at least two steps each")
        _check_observations(name, types.maybe_unwrap_dictobs(trajectory.obs), observation_space)
        _check_actions(name, trajectory.acts, action_space)


def _check_observations(name: str, observations: Any, space: spaces.Space) -> None:
    """
    :param name: The trajectory, for the message
    :param observations: Its observations
    :param space: The observation space
    :raises ValueError: if they do not fit
    """
    hint = "demonstrations have to be recorded in, or derived for, the learner's environment"
    parts = observations if isinstance(observations, dict) else {"": observations}
    part_spaces = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    if parts.keys() != part_spaces.keys():
        kinds = [f"the keys {sorted(keys)}" if "" not in keys else "no keys" for keys in (parts, part_spaces)]
        raise ValueError(f"{name}: the observations have {kinds[0]}, the environment's have {kinds[1]}: {hint}")
    for key, part in parts.items():
        what = f"{name}: observations" + (f"[{key!r}]" if key else "")
        shape = part_spaces[key].shape
        if part.shape[1:] != shape:
            raise ValueError(f"{what} have the shape {part.shape[1:]}, the environment's have {shape}: {hint}")
        if not np.can_cast(part.dtype, np.float64) or not np.isfinite(part).all():
            raise ValueError(f"{what} hold something that is not a finite number ({part.dtype}): leave that trajectory out")


def _check_actions(name: str, actions: np.ndarray, space: spaces.Space) -> None:
    """
    :param name: The trajectory, for the message
    :param actions: Its actions
    :param space: The action space
    :raises ValueError: if they do not fit
    """
    if actions.shape[1:] != space.shape:
        raise ValueError(f"{name}: actions have the shape {actions.shape[1:]}, the environment's have {space.shape}")
    if not np.can_cast(actions.dtype, np.float64) or not np.isfinite(actions).all():
        raise ValueError(f"{name}: actions hold something that is not a finite number ({actions.dtype})")
    if isinstance(space, spaces.Box):
        # Rounding of an action at the bound is no mistake
        tolerance = 1e-5 * np.maximum(1, np.abs([space.low, space.high])).max(axis=0)
        inside = (actions >= space.low - tolerance) & (actions <= space.high + tolerance)
        inside = inside.reshape(len(actions), -1).all(axis=1)
    else:
        inside = np.array([space.contains(action) for action in actions])
    if not inside.all():
        step = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"{name}: the action of step {step}, {actions[step]}, lies outside of {space}. "
            "Record what the environment was given: clipped, and not scaled to [-1, 1]"
        )


def time_limit_of(venv: VecEnv) -> int | None:
    """
    :param venv: Environments
    :return: Steps until their time-limit, None if they do not say
    """
    limits = {getattr(spec, "max_episode_steps", None) for spec in venv.get_attr("spec")}
    return limits.pop() if len(limits) == 1 else None


def ends_at_time_limit(trajectory: types.Trajectory, time_limit: int | None) -> bool:
    """
    Whether a trajectory was cut by a time-limit. ``imitation`` marks these as terminal, too, and drops by default the infos
    that know better; then the length has to tell.

    :param trajectory: A trajectory
    :param time_limit: Steps until the environment's time-limit, None if it is not known
    :return: Whether it was cut
    """
    if trajectory.infos is not None and "TimeLimit.truncated" in trajectory.infos[-1]:
        return bool(trajectory.infos[-1]["TimeLimit.truncated"])
    return time_limit is not None and len(trajectory) >= time_limit
