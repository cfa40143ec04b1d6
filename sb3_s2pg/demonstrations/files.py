"""Demonstrations on disk: the folder that ``imitation.data.serialize`` writes, and a description beside the data."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from imitation.data import serialize, types

from sb3_s2pg.common.demonstrations import check_demonstrations
from sb3_s2pg.envs import PartialObservation

DESCRIPTION = "sb3_s2pg.json"
VERSION = 1


def save_demonstrations(path: str | Path, trajectories: Sequence[types.Trajectory], **about: Any) -> None:
    """
    Save trajectories in ``imitation``'s format. That has no Dict observations: their keys are stored side by side in one
    row, and ``load_demonstrations`` takes them apart again.

    :param path: Folder to write, which must not exist
    :param trajectories: The trajectories
    :param about: What else to write into the description (it has to fit into JSON)
    :raises ValueError: if there are none, or the folder exists; nothing is written then
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists: remove it or choose another name, demonstrations are not overwritten")
    if len(trajectories) == 0:
        raise ValueError("demonstrations are empty: there is nothing to save")
    first = types.maybe_unwrap_dictobs(trajectories[0].obs)
    description = {
        "version": VERSION,
        "lengths": [len(trajectory) for trajectory in trajectories],
        "observation": {key: _layout(value) for key, value in first.items()} if isinstance(first, dict) else _layout(first),
        "is_dict": isinstance(first, dict),
        "action": _layout(trajectories[0].acts),
        **about,
    }
    flat = [replace(trajectory, obs=_flat(types.maybe_unwrap_dictobs(trajectory.obs))) for trajectory in trajectories]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written elsewhere first: what lies at the path is complete
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        serialize.save(temporary, flat)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        temporary.chmod(0o755)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_demonstrations(
    path: str | Path, env: str | gym.Env | None = None, derive: Callable[[Any], Any] | None = None
) -> list[types.Trajectory]:
    """
    Load all of the trajectories in a folder, or none.

    :param path: Folder that ``save_demonstrations`` or ``imitation.data.serialize.save`` has written
    :param env: The learner's task: observations are derived for it (see ``derive_observations``), and have to fit it.
        None to return what was recorded
    :param derive: Function that derives the learner's observations from those of a trajectory instead:
        arrays with a row per step, or dicts of them
    :return: The trajectories
    :raises ValueError: if there is nothing, something else or only a part of it, or it does not fit the task
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder: demonstrations are saved as folders (imitation.data.serialize)")
    try:
        trajectories = _read(path)
    except Exception as error:  # damage shows in many ways, as errors of json, datasets, pyarrow, imitation and our own
        raise ValueError(f"{path} does not hold complete demonstrations: {error!r}") from error
    if env is None and derive is None:
        return trajectories

    made = gym.make(env) if isinstance(env, str) else env
    try:
        if derive is None:
            assert made is not None
            derive = _deriving(made)
        trajectories = [
            replace(trajectory, obs=types.maybe_wrap_in_dictobs(derive(types.maybe_unwrap_dictobs(trajectory.obs))))
            for trajectory in trajectories
        ]
        if made is not None:
            check_demonstrations(trajectories, made.observation_space, made.action_space)
    finally:
        if isinstance(env, str) and made is not None:
            made.close()
    return trajectories


def derive_observations(observations: Any, env: gym.Env) -> Any:
    """
    What a partially observable task shows of a full state. The task hides it with ``PartialObservation``, which is
    found among its wrappers; observations that are not a full state are returned as they are.

    :param observations: Full observations of the underlying task, a row per step
    :param env: The partially observable task
    :return: Observations of that task: an array, or with a privileged key a dict of arrays
    """
    return _deriving(env)(observations)


def _deriving(env: gym.Env) -> Callable[[Any], Any]:
    """
    :param env: A task
    :return: A function that derives its observations
    """
    wrapper: Any = env
    while not isinstance(wrapper, PartialObservation):
        if not isinstance(wrapper, gym.Wrapper):
            return lambda observations: observations
        wrapper = wrapper.env
    full_shape = wrapper.env.observation_space.shape

    def derive(observations: Any) -> Any:
        is_full = not isinstance(observations, dict) and observations.shape[1:] == full_shape
        return wrapper.observation(observations) if is_full else observations

    return derive


def _read(path: Path) -> list[types.Trajectory]:
    """
    :param path: Folder
    :return: The trajectories in it
    :raises Exception: if something is wrong with it
    """
    about = json.loads((path / DESCRIPTION).read_text()) if (path / DESCRIPTION).exists() else None
    if about is not None and about["version"] != VERSION:
        raise ValueError(f"version {about['version']} is unknown, this package reads version {VERSION}")
    trajectories = []
    # All at once: the library would read (and fail) when a trajectory is looked at
    for trajectory in serialize.load(str(path)):
        assert isinstance(trajectory.obs, np.ndarray) and trajectory.infos is not None
        obs: Any = trajectory.obs
        acts = trajectory.acts
        if about is not None:
            obs = _unflat(obs, about["observation"]) if about["is_dict"] else _shaped(obs, about["observation"])
            acts = _shaped(acts, about["action"])
        infos = np.array([dict(info) for info in trajectory.infos])
        trajectories.append(replace(trajectory, obs=types.maybe_wrap_in_dictobs(obs), acts=acts, infos=infos))
        for name, values in (("observations", trajectory.obs), ("actions", acts)):
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of trajectory {len(trajectories) - 1} are not finite")
    if len(trajectories) == 0:
        raise ValueError("there is no trajectory in it")
    lengths = [len(trajectory) for trajectory in trajectories]
    if about is not None and about["lengths"] != lengths:
        raise ValueError(f"trajectories of lengths {about['lengths']} were saved, those of lengths {lengths} are there")
    return trajectories


def _layout(values: np.ndarray) -> dict[str, Any]:
    """
    :param values: An array with a row per step
    :return: Shape and type of a row
    """
    return {"shape": list(values.shape[1:]), "dtype": values.dtype.name}


def _shaped(values: np.ndarray, layout: dict[str, Any]) -> np.ndarray:
    """
    :param values: An array with a row per step, as it was read
    :param layout: What ``_layout`` returned
    :return: The array as it was saved
    """
    return np.asarray(values).reshape(len(values), *layout["shape"]).astype(layout["dtype"])


def _flat(observations: Any) -> np.ndarray:
    """
    :param observations: An array with a row per step, or a dict of them
    :return: One array, the keys side by side
    """
    if not isinstance(observations, dict):
        return observations
    return np.concatenate([value.reshape(len(value), -1) for value in observations.values()], axis=1)


def _unflat(rows: np.ndarray, layouts: dict[str, Any]) -> dict[str, np.ndarray]:
    """
    :param rows: What ``_flat`` returned
    :param layouts: Layout of every key
    :return: The dict
    """
    sizes = [int(np.prod(layout["shape"])) for layout in layouts.values()]
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    if sum(sizes) != rows.shape[1]:
        raise ValueError(f"rows of {sum(sizes)} numbers were saved, they have {rows.shape[1]}")
    return {key: _shaped(part, layout) for (key, layout), part in zip(layouts.items(), parts, strict=True)}
