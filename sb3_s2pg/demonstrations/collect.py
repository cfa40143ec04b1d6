"""Let an expert act, and record it."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from imitation.data import rollout, types
from imitation.data.wrappers import RolloutInfoWrapper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tqdm import tqdm

# By RL Zoo's names: module and class
EXPERTS: dict[str, tuple[str, str]] = {
    **{name: ("stable_baselines3", name.upper()) for name in ("a2c", "ddpg", "dqn", "ppo", "sac", "td3")},
    **{name: ("sb3_contrib", name.upper()) for name in ("ars", "tqc", "trpo")},
    "crossq": ("sb3_contrib", "CrossQ"),
    "ppo_lstm": ("sb3_contrib", "RecurrentPPO"),
    "qrdqn": ("sb3_contrib", "QRDQN"),
    "s2pg_ppo": ("sb3_s2pg", "S2PGPPO"),
    "s2pg_sac": ("sb3_s2pg", "S2PGSAC"),
    "s2pg_td3": ("sb3_s2pg", "S2PGTD3"),
    "s2pg_trpo": ("sb3_s2pg", "S2PGTRPO"),
}


def load_expert(algorithm: str, path: str | Path) -> BaseAlgorithm:
    """
    :param algorithm: Name of its algorithm, a key of ``EXPERTS``
    :param path: The saved model
    :return: The model, to act with
    :raises ValueError: if there is no such algorithm, or the file is not a model of it
    """
    if algorithm not in EXPERTS:
        raise ValueError(f"algo={algorithm!r} must be one of {sorted(EXPERTS)}")
    module, name = EXPERTS[algorithm]
    cls: type[BaseAlgorithm] | None = getattr(importlib.import_module(module), name, None)
    if cls is None:
        raise ValueError(f"algo={algorithm!r}: the installed {module} has no {name}")
    # A replay buffer of a single step: nothing is learned here
    kwargs: dict[str, Any] = {"buffer_size": 1} if issubclass(cls, OffPolicyAlgorithm) else {}
    try:
        return cls.load(path, **kwargs)
    except Exception as error:  # whatever is wrong with the file, it shows in many ways
        raise ValueError(f"model={str(path)!r} could not be loaded as a model of {name}: {error!r}") from error


def collect_demonstrations(
    expert: BaseAlgorithm,
    env: str,
    n_episodes: int,
    *,
    n_envs: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    vec_normalize: str | Path | None = None,
    env_kwargs: dict[str, Any] | None = None,
    progress_bar: bool = False,
) -> list[types.TrajectoryWithRew]:
    """
    Episodes of an expert, recorded as the task returns them: not normalized. An expert with memory keeps its state.

    :param expert: Model of Stable-Baselines3, sb3-contrib or this package
    :param env: Id of the task that the expert acts in
    :param n_episodes: Number of episodes
    :param n_envs: Number of environments side by side
    :param seed: Seed of the environments
    :param deterministic: Whether the expert acts without noise
    :param vec_normalize: The statistics of ``VecNormalize`` that the expert was trained with, a file
    :param env_kwargs: Arguments of the task
    :param progress_bar: Whether to show one
    :return: The episodes. Their infos hold whether a time-limit ended them, which ``imitation``'s ``terminal`` does not say
    :raises ValueError: if the expert does not fit the task, or a number is too small
    """
    for name, number in (("n_episodes", n_episodes), ("n_envs", n_envs)):
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1")
    venv: VecEnv = make_vec_env(env, n_envs, seed=seed, wrapper_class=_recorded, env_kwargs=env_kwargs)
    if vec_normalize is not None:
        venv = VecNormalize.load(str(vec_normalize), venv)
        venv.training, venv.norm_reward = False, False
    check_for_correct_spaces(venv, expert.observation_space, expert.action_space)
    enough = rollout.make_min_episodes(n_episodes)
    with tqdm(total=n_episodes, desc="episodes", disable=not progress_bar) as bar:

        def sample_until(trajectories: Sequence[types.TrajectoryWithRew]) -> bool:
            bar.update(min(len(trajectories), n_episodes) - bar.n)
            return enough(trajectories)

        trajectories = rollout.rollout(
            expert,
            venv,
            sample_until,
            rng=np.random.default_rng(seed),
            deterministic_policy=deterministic,
            exclude_infos=False,
            verbose=False,
        )
    venv.close()
    episodes = []
    for trajectory in trajectories[:n_episodes]:
        assert trajectory.infos is not None
        flags = [{"TimeLimit.truncated": bool(info["TimeLimit.truncated"])} for info in trajectory.infos]
        episodes.append(replace(trajectory, infos=np.array(flags)))
    return episodes


def _recorded(env: gym.Env) -> gym.Env:
    """
    :param env: Environment
    :return: The same, which records observations and rewards; ``imitation`` does not take rewards that are integers
    """
    return RolloutInfoWrapper(gym.wrappers.TransformReward(env, float))
