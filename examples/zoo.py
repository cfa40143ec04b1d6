"""Training runs with RL Zoo's settings, its own or those of ``zoo_configs/``."""

import contextlib
import copy
import io
import tempfile
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rl_zoo3
import torch as th
import yaml
from common import LearningCurve, TimeLimit, learn
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_s2pg.zoo import default_config, register
from sb3_s2pg.zoo.experiment import S2PGExperimentManager

register()

ZOO_CONFIGS = {
    **{name: Path(default_config(name) or "") for name in ("s2pg_sac", "s2pg_ppo")},
    "sac": Path(rl_zoo3.__file__).parent / "hyperparams" / "sac.yml",
    "ppo": Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml",
    "ppo_lstm": Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo_lstm.yml",
}


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
    return yaml.safe_load(ZOO_CONFIGS[algorithm].read_text())[entry]


def newest_entry(algorithm: str, task: str) -> str:
    """
    :param algorithm: Algorithm, as RL Zoo calls it
    :param task: Name of a task without version
    :return: Entry of the task in the algorithm's hyperparameter file, the newest version that it has
    """
    entries = yaml.safe_load(ZOO_CONFIGS[algorithm].read_text())
    return max(entry for entry in entries if entry.rpartition("-v")[0] == task)


def make_model(run: ZooRun) -> BaseAlgorithm:
    """
    :param run: What to train
    :return: The model, with its environments, made by RL Zoo
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Path(folder) / "config.yml"
        config.write_text(yaml.safe_dump({run.env: copy.deepcopy(run.settings)}))
        manager = S2PGExperimentManager(
            Namespace(), run.algorithm, run.env, folder, n_timesteps=run.steps, seed=run.seed, device="cpu", config=str(config)
        )
        manager.verbose = 0
        experiment = manager.setup_experiment()
    assert experiment is not None
    return experiment[0]


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
