"""What all algorithms with an internal state share: checks of what comes in, and learning rates of the kernel."""

import math
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_s2pg.common.policies import StatefulPolicy

DIVERGED = "Training has diverged: go back to a checkpoint, lower the learning rate, check the scale of rewards"


class StatefulAlgorithm(BaseAlgorithm):
    """
    Base of the mixins that turn SB3's algorithms into ones with an internal state; to be named before SB3's class.

    Between sampling and storing nothing is committed: callbacks that run in between see a consistent model.
    """

    # The policies that the algorithm can train
    supported_policy_class: type[StatefulPolicy]

    # (z, previous action) of every environment, as predict() takes it; before and after the current step
    _last_state: np.ndarray | None = None
    _next_state: np.ndarray | None = None
    # Number of steps at which schedules end; None for the end of the present call of learn()
    schedule_timesteps: int | None = None

    def _check_policy_class(self) -> None:
        """:raises ValueError: if the policy is one of another algorithm"""
        if not issubclass(self.policy_class, self.supported_policy_class):
            raise ValueError(
                f"{type(self).__name__} cannot train a {self.policy_class.__name__}, it needs a "
                f"{self.supported_policy_class.__name__} (a saved model has to be loaded with the class that saved it)"
            )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        self._check_finite("observation", self._last_obs if self._vec_normalize_env is None else self._last_original_obs)
        if self._last_state is None or len(self._last_state) != self.n_envs:
            self._last_state = self.policy.initial_state(self.n_envs)  # type: ignore[operator]
        return result

    def _check_transition(self, new_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        :param new_obs: Next observation, or the first one of the next episode
        :param rewards: Rewards
        :param dones: Where an episode ends
        :param infos: Additional information, terminal observations among it
        :raises ValueError: if something is not finite
        """
        if self._vec_normalize_env is not None:
            # Running statistics spread what is not finite to all environments: look at what came in
            self._check_finite("observation", self._vec_normalize_env.get_original_obs())
            self._check_finite("reward", self._vec_normalize_env.get_original_reward())
        self._check_finite("observation", new_obs)
        self._check_finite("reward", rewards)
        for env_idx in np.flatnonzero(dones):
            if infos[env_idx].get("terminal_observation") is not None:
                self._check_finite("terminal observation", infos[env_idx]["terminal_observation"], int(env_idx))

    def _check_finite(self, what: str, values: Any, env_idx: int | None = None) -> None:
        """
        :param what: What the values are, for the message
        :param values: Array with one row per environment, or a dict of such arrays
        :param env_idx: The environment, if the values are of one environment only
        :raises ValueError: if a value is not finite; the transition has not been stored then
        """
        if isinstance(values, dict):
            for key, value in values.items():
                self._check_finite(f"{what}[{key!r}]", value, env_idx)
            return
        if isinstance(values, np.ndarray) and values.dtype == np.float32 and np.isfinite(values).all():
            return  # the usual case, and every step of every environment passes here
        values = np.asarray(values)
        if not np.issubdtype(values.dtype, np.floating):
            return
        with np.errstate(over="ignore"):
            # What networks and buffer will see of it
            finite = np.isfinite(values.astype(np.float32, copy=False))
        if finite.all():
            return
        if env_idx is None:
            env_idx = int(np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))[0])
            values = values[env_idx]
        # The environment is one step ahead of what is stored: start new episodes if learn() is called again
        self._last_obs = None
        message = f"Non-finite {what} in environment {env_idx} at step {self.num_timesteps}: {values}. "
        if what in ("internal state", "action"):
            message += DIVERGED
        else:
            message += "The transition was not stored; what is stored and the weights are as they were before it"
            if self._vec_normalize_env is not None:
                message += ", but restore the statistics of VecNormalize, which have seen it"
        raise ValueError(message)

    def _check_update(self, what: str, value: th.Tensor) -> float:
        """
        :param what: What the value is, for the message
        :param value: A scalar that an update is about to use
        :return: The value
        :raises ValueError: if it is not finite; the update that would spread it has not been made then
        """
        number = value.item()
        if not math.isfinite(number):
            raise ValueError(
                f"Non-finite {what} at step {self.num_timesteps}, after {self._n_updates} updates: {number}. {DIVERGED}"
            )
        return number

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, self.schedule_timesteps or total_timesteps)
        # The last rollout may go beyond the total: a linear schedule would turn negative, and training into its opposite
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] *= group.get("lr_ratio", 1.0)
