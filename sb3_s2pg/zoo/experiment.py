"""RL Zoo's experiment manager, with the hyperparameter files of this package."""

import contextlib
import io
from typing import Any

from gymnasium import spaces
from rl_zoo3 import hyperparams_opt
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_s2pg.zoo.hyperparams import merged
from sb3_s2pg.zoo.registration import ZOO_ALGORITHMS, default_config


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

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        if isinstance(env.action_space, spaces.Box):
            # Older versions of RL Zoo leave it at zero for a file without noise; a search then samples noise of that size
            self.n_actions = env.action_space.shape[0]
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)

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
            # As RL Zoo does; the names that hyperparameter files use
            of_file = eval(of_file, {"nn": nn})
        return {**sampled, "policy_kwargs": merged({"policy_kwargs": of_file}, sampled)["policy_kwargs"]}

    def hyperparameters_optimization(self) -> None:
        if self.algo in ZOO_ALGORITHMS:
            sample = hyperparams_opt.HYPERPARAMS_SAMPLER[self.algo]
            of_file = {"policy_kwargs": self._hyperparams.get("policy_kwargs") or {}}

            def sample_on_top_of_file(*args: Any) -> dict[str, Any]:
                return merged(of_file, sample(*args))

            hyperparams_opt.HYPERPARAMS_SAMPLER[self.algo] = sample_on_top_of_file  # type: ignore[assignment]
        super().hyperparameters_optimization()
