"""Learning curves whose evaluations cost no training time."""

from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization, unwrap_vec_normalize

EVALUATION_SEED = 1000


class LearningCurve(BaseCallback):
    """
    Evaluate now and then, on the same episodes.

    :param env: Id of the task, or what makes a seeded environment
    :param every: Number of steps between two evaluations
    :param n_episodes: Number of evaluation episodes
    :param success: Whether to evaluate success (1 or 0 per episode) in place of the return
    """

    def __init__(self, env: str | Callable[[], VecEnv], every: int, n_episodes: int, success: bool = False):
        super().__init__()
        self.env, self.every, self.n_episodes, self.success = env, every, n_episodes, success
        self.steps: list[int] = []
        self.returns: list[float] = []
        self.wall_seconds: list[float] = []  # of training alone
        self.cpu_seconds: list[float] = []
        self.seconds = np.zeros(2)

    def _on_training_start(self) -> None:
        self.start = clocks()

    def _on_step(self) -> bool:
        if self.num_timesteps // self.every > len(self.steps):
            start = clocks()
            self.steps.append(self.num_timesteps)
            wall_seconds, cpu_seconds = start - self.start - self.seconds
            self.wall_seconds.append(float(wall_seconds))
            self.cpu_seconds.append(float(cpu_seconds))
            self.returns.append(float(np.mean(self.evaluate(self.n_episodes))))
            self.seconds += clocks() - start
        return True

    def evaluate(self, n_episodes: int) -> list[float]:
        """
        :param n_episodes: Number of episodes
        :return: Return or success of each
        """
        return evaluation_returns(self.model, self.env, n_episodes, self.success)


def evaluation_env(model: BaseAlgorithm, env: str | Callable[[], VecEnv]) -> VecEnv:
    """
    :param model: The model
    :param env: Id of the task, or what makes a seeded environment
    :return: An environment to evaluate it in, normalized as the one it is trained in is now
    """
    vec_env = make_vec_env(env, 1, seed=EVALUATION_SEED) if isinstance(env, str) else env()
    if model.get_vec_normalize_env() is not None:
        if unwrap_vec_normalize(vec_env) is None:
            vec_env = VecNormalize(vec_env, training=False, norm_reward=False)
        sync_envs_normalization(model.get_env(), vec_env)  # type: ignore[arg-type]
    return vec_env


def evaluation_returns(
    model: BaseAlgorithm, env: str | Callable[[], VecEnv], n_episodes: int, success: bool = False
) -> list[float]:
    """
    :param model: The model
    :param env: Id of the task, or what makes a seeded environment; its episodes depend on the seed only, not on what the
        model does
    :param n_episodes: Number of episodes
    :param success: Whether success is asked for, ``info["is_success"]`` at the end of the episode
    :return: Return (or success, 1 or 0) of each of them, deterministic, the same episodes at every call
    """
    vec_env = evaluation_env(model, env)
    successes: list[float] = []

    def note_success(variables: dict[str, Any], _: dict[str, Any]) -> None:
        if success and variables["done"]:
            successes.append(float(variables["info"]["is_success"]))

    returns, _ = evaluate_policy(
        model, vec_env, n_eval_episodes=n_episodes, return_episode_rewards=True, callback=note_success
    )
    return successes if success else [float(value) for value in returns]  # type: ignore[union-attr]


def clocks() -> np.ndarray:
    """:return: Seconds of the clock on the wall and of this process, whose zeros mean nothing"""
    return np.array([perf_counter(), process_time()])
