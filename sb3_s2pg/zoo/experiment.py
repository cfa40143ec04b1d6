"""RL Zoo's experiment manager, with the hyperparameter files of this package."""

import contextlib
import inspect
import io
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from gymnasium import spaces
from rl_zoo3 import exp_manager, hyperparams_opt
from rl_zoo3.exp_manager import ExperimentManager
from sqlalchemy.exc import SQLAlchemyError
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.zoo.hyperparams import merged
from sb3_s2pg.zoo.registration import ZOO_ALGORITHMS, default_config


class TrialNumber(int):
    """RL Zoo asks whether the number is true, and the first trial of a study has the number 0."""

    def __bool__(self) -> bool:
        return True


class S2PGExperimentManager(ExperimentManager):
    """
    RL Zoo's ``ExperimentManager``, but that settings come from this package for S2PG's algorithms (unless ``config`` names a
    file), and that an optimisation of hyperparameters keeps what a file says of ``policy_kwargs`` and is not searched.

    :param args: As for ``ExperimentManager``
    :param algo: Algorithm, as ``--algo`` takes it
    :param other_args: As for ``ExperimentManager``
    :param config: Hyperparameter file; None for the one of the package that has the algorithm
    :param kwargs: As for ``ExperimentManager``
    """

    def __init__(self, args: Any, algo: str, *other_args: Any, config: str | None = None, **kwargs: Any):
        super().__init__(args, algo, *other_args, config=config or default_config(algo), **kwargs)  # type: ignore[misc]
        trial_id = getattr(self, "trial_id", None)  # older versions of RL Zoo have none
        if trial_id is not None:
            self.trial_id = TrialNumber(trial_id)
        if self.optimize_hyperparameters:
            # A search trains nothing that `enjoy` could load: what RL Zoo makes for a run must not look like the latest one
            self._scratch = tempfile.TemporaryDirectory()
            self.save_path = self._scratch.name
            self.params_path = f"{self.save_path}/{self.env_name}"

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        if isinstance(env.action_space, spaces.Box):
            # Older versions of RL Zoo leave it at zero for a file without noise; a search then samples noise of that size
            self.n_actions = env.action_space.shape[0]
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        for name in ("ent_coef_learning_rate", "state_ent_coef_learning_rate"):
            if isinstance(hyperparams.get(name), str):
                # RL Zoo makes schedules of the arguments that it knows by name
                schedule = ExperimentManager._preprocess_schedules({"learning_rate": hyperparams[name]})
                hyperparams[name] = schedule["learning_rate"]
        return ExperimentManager._preprocess_schedules(hyperparams)

    def setup_experiment(self) -> Any:
        """
        :return: As ``ExperimentManager``
        :raises ValueError: if the settings name an argument that the algorithm does not have
        """
        is_there = Path(self.save_path).exists()
        try:
            return super().setup_experiment()
        except Exception:
            # `enjoy` would take the folder for the latest run. With a config.yml it is one: that of another process
            if not is_there and not (Path(self.params_path) / "config.yml").exists():
                shutil.rmtree(self.save_path, ignore_errors=True)
            raise

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        result = super()._preprocess_hyperparams(hyperparams)
        if self.algo in ZOO_ALGORITHMS:
            known = inspect.signature(ZOO_ALGORITHMS[self.algo]).parameters
            # RL Zoo makes an action_noise of these
            unknown = [name for name in result[0] if name not in known and name not in ("noise_type", "noise_std")]
            if unknown:
                raise ValueError(
                    f"{', '.join(unknown)}: no argument of {ZOO_ALGORITHMS[self.algo].__name__}, nor a setting of RL Zoo. "
                    f"Correct {self.config} or what was given with --hyperparams; there are {', '.join(known)}"
                )
        return result

    def load_trial(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        sampled = super().load_trial(*args, **kwargs)
        if self.algo not in ZOO_ALGORITHMS or "policy_kwargs" not in sampled:
            return sampled
        # RL Zoo is about to replace the policy_kwargs of the file by these
        trial_id, self.trial_id = self.trial_id, None
        with contextlib.redirect_stdout(io.StringIO()):
            of_file = self.read_hyperparameters()[0].get("policy_kwargs", {})
        self.trial_id = trial_id
        if isinstance(of_file, str):
            # As RL Zoo does, with the names that it knows
            of_file = eval(of_file, vars(exp_manager))
        return merged({"policy_kwargs": of_file}, sampled)

    def hyperparameters_optimization(self) -> None:
        """
        :raises ValueError: if the study is to be kept in a journal, and this version of RL Zoo takes databases only
        """
        if self.storage is not None and "://" not in self.storage and not hasattr(ExperimentManager, "load_trial"):
            raise ValueError(f"--storage {self.storage}: this version of RL Zoo takes databases only, as sqlite:///study.db")
        if self.storage is not None and "://" in self.storage and self.study_name is not None:
            create_study(self.storage, self.study_name)
        if self.algo not in ZOO_ALGORITHMS:
            super().hyperparameters_optimization()
            return
        sample = hyperparams_opt.HYPERPARAMS_SAMPLER[self.algo]
        of_file = {"policy_kwargs": self._hyperparams.get("policy_kwargs") or {}}

        def sample_on_top_of_file(*args: Any) -> dict[str, Any]:
            return merged(of_file, sample(*args))

        hyperparams_opt.HYPERPARAMS_SAMPLER[self.algo] = sample_on_top_of_file  # type: ignore[assignment]
        try:
            super().hyperparameters_optimization()
        finally:
            hyperparams_opt.HYPERPARAMS_SAMPLER[self.algo] = sample


def create_study(storage: str, name: str, attempts: int = 10) -> None:
    """
    Create a study unless it is there. Several processes may do so at the same time: those that make the tables of a new
    database together get in each other's way, and have to try again.

    :param storage: URL of the database
    :param name: Name of the study
    :param attempts: How often to try
    """
    for attempt in range(attempts):
        try:
            optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
            return
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
            if attempt == attempts - 1:
                raise
            time.sleep(0.3 * (1 + attempt) * (1 + random.random()))
