"""Training runs with RL Zoo's settings, its own or those of ``zoo_configs/``."""

from dataclasses import asdict, dataclass
from typing import Any

import torch as th
from common import LearningCurve, TimeLimit, learn
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_s2pg.zoo import models, register
from sb3_s2pg.zoo.models import config_path, read_entries

register()

ZOO_CONFIGS = {name: config_path(name) for name in ("s2pg_sac", "s2pg_ppo", "sac", "ppo", "ppo_lstm")}


@dataclass
class ZooRun:
    """One training run with settings as RL Zoo writes them."""

    label: str
    algorithm: str  # as RL Zoo calls it
    env: str
    seed: int
    settings: dict[str, Any]
    steps: int
    curve_points: int = 10
    curve_episodes: int = 5
    n_episodes: int = 20
    seconds: float = 1e9  # of the processor: what is over first, these or the steps, ends training
    success: bool = False  # whether success is evaluated in place of the return


def zoo_settings(algorithm: str, entry: str) -> dict[str, Any]:
    """
    :param algorithm: Algorithm, as RL Zoo calls it
    :param entry: Entry of its hyperparameter file
    :return: The settings
    """
    return read_entries(algorithm)[entry]


def newest_entry(algorithm: str, task: str) -> str:
    """
    :param algorithm: Algorithm, as RL Zoo calls it
    :param task: Name of a task without version
    :return: Entry of the task in the algorithm's hyperparameter file, the newest version that it has
    """
    entries = read_entries(algorithm)
    return max(entry for entry in entries if entry.rpartition("-v")[0] == task)


def make_model(run: ZooRun) -> BaseAlgorithm:
    """
    :param run: What to train
    :return: The model, with its environments, made by RL Zoo
    """
    return models.make_model(run.algorithm, run.env, run.settings, run.steps, run.seed)[0]


def train_zoo(run: ZooRun) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, its learning curve, and the returns of the final model
    """
    th.set_num_threads(1)
    model = make_model(run)
    curve = LearningCurve(run.env, run.steps // run.curve_points, run.curve_episodes, run.success)
    result = learn(model, run.steps, curve, run.n_episodes, callback=TimeLimit(run.seconds, curve))
    return {**asdict(run), **result, "trained_steps": model.num_timesteps}
