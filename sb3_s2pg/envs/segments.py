"""Which entries of an observation mean what."""

from typing import Any

import gymnasium as gym

# Which entries of the observation are velocities (the same that RL Zoo's MaskVelocityWrapper hides)
VELOCITY_INDICES = {
    "CartPole": (1, 3),
    "LunarLander": (2, 3, 5),
    "LunarLanderContinuous": (2, 3, 5),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
}

# Names of what gymnasium's observation_structure calls by MuJoCo's names
SEGMENTS = {
    "qpos": "positions",
    "qvel": "velocities",
    "cinert": "com_inertia",
    "cvel": "com_velocity",
    "qfrc_actuator": "actuator_forces",
    "cfrc_ext": "contact_forces",
}


def observation_segments(env: gym.Env) -> dict[str, tuple[int, ...]]:
    """
    Find out which entries of a task's observation mean what.

    :param env: Environment with a one-dimensional Box observation
    :return: Indices of the observation by name, for MuJoCo tasks those of ``SEGMENTS`` that are there, for the tasks in
        ``VELOCITY_INDICES`` the ``velocities``; empty if nothing is known about the observation
    """
    assert isinstance(env.observation_space, gym.spaces.Box)
    size = env.observation_space.shape[0]
    task: Any = env.unwrapped
    if hasattr(getattr(task, "model", None), "nq"):
        lengths = _mujoco_lengths(task, size)
        if sum(lengths.values()) != size:
            # A wrapper has changed the observation, or the task has a layout of its own
            return {}
        segments, start = {}, 0
        for name, length in lengths.items():
            segments[name] = tuple(range(start, start + length))
            start += length
        return segments
    if task.spec is not None and task.spec.name in VELOCITY_INDICES and task.observation_space == env.observation_space:
        return {"velocities": VELOCITY_INDICES[task.spec.name]}
    return {}


def _mujoco_lengths(task: Any, size: int) -> dict[str, int]:
    """
    :param task: A MuJoCo task of gymnasium
    :param size: Size of its observation
    :return: Length of each segment, in their order; empty if the layout is unknown
    """
    structure = getattr(task, "observation_structure", None)
    if structure is not None:
        return {SEGMENTS[key]: int(length) for key, length in structure.items() if key in SEGMENTS and length > 0}
    # Before v5 tasks do not tell. All begin with qpos, less one or two coordinates of the root if these are left out,
    # and qvel; Ant may have contact forces, Humanoid has everything. So the size tells which of them this is.
    model = task.model
    contact_forces = {"contact_forces": 6 * model.nbody}
    everything = {"com_inertia": 10 * model.nbody, "com_velocity": 6 * model.nbody, "actuator_forces": model.nv}
    rests: tuple[dict[str, int], ...] = ({}, contact_forces, {**everything, **contact_forces})
    for rest in rests:
        positions = size - model.nv - sum(rest.values())
        if 0 <= model.nq - positions <= 2:
            return {"positions": positions, "velocities": model.nv, **rest}
    return {}
