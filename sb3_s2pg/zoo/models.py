"""Models with the settings of a hyperparameter file, made by RL Zoo and not trained yet."""

import contextlib
import copy
import io
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import rl_zoo3
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_s2pg.zoo.experiment import S2PGExperimentManager
from sb3_s2pg.zoo.registration import default_config


def config_path(algorithm: str) -> Path:
    """
    :param algorithm: Algorithm, as RL Zoo calls it
    :return: Its hyperparameter file, in this package or in RL Zoo
    """
    return Path(default_config(algorithm) or Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml")


def read_entries(algorithm: str) -> dict[str, dict[str, Any]]:
    """
    :param algorithm: Algorithm, as RL Zoo calls it
    :return: The entries of its hyperparameter file, by task
    """
    return yaml.safe_load(config_path(algorithm).read_text())


def make_model(
    algorithm: str, env: str, settings: dict[str, Any], steps: int, seed: int, device: str = "cpu"
) -> tuple[BaseAlgorithm, S2PGExperimentManager]:
    """
    :param algorithm: Algorithm, as RL Zoo calls it
    :param env: Id of the task
    :param settings: Settings, as an entry of a hyperparameter file has them
    :param steps: Number of steps that it is going to be trained
    :param seed: Seed
    :param device: Device of the networks
    :return: The model, with its environments, and the manager that has made both
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Path(folder) / "config.yml"
        config.write_text(yaml.safe_dump({env: copy.deepcopy(settings)}))
        manager = S2PGExperimentManager(
            Namespace(), algorithm, env, folder, n_timesteps=steps, seed=seed, device=device, config=str(config)
        )
        manager.verbose = 0
        experiment = manager.setup_experiment()
    assert experiment is not None
    return experiment[0], manager
