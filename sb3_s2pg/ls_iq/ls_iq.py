"""LS-IQ with memory, as an algorithm of ``imitation``."""

import io
import pathlib
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from imitation.algorithms.base import AnyTransitions, DemonstrationAlgorithm
from imitation.data import types
from imitation.util.logger import HierarchicalLogger
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.common.demonstrations import as_trajectories, check_demonstrations
from sb3_s2pg.ls_iq.learner import LSIQSAC
from sb3_s2pg.sac.policies import S2PGSACPolicy

SelfLSIQ = TypeVar("SelfLSIQ", bound="LSIQ")


class LSIQ(DemonstrationAlgorithm[types.Transitions]):
    """
    Least-squares inverse Q-learning with memory: a stateful policy learns from demonstrations, without rewards and
    without backpropagation through time.

    Papers: LS-IQ: Implicit Reward Regularization for Inverse Reinforcement Learning, https://arxiv.org/abs/2303.00599;
    with memory: Time-Efficient Reinforcement Learning with Stochastic Stateful Policies, https://arxiv.org/abs/2311.04082

    Policy and critic may see different parts of the observation, as in ``S2PGSAC``: a ``privileged`` key in the observations
    of the environment and of the demonstrations, or ``policy_kwargs=dict(actor_observation=..., critic_observation=...)``.

    :param demonstrations: Trajectories, or transitions in the order in which they happened; observations as the environment
        returns them (not normalized). None to call ``set_demonstrations`` later
    :param venv: The environments to learn from
    :param policy: MlpPolicy, CnnPolicy, MultiInputPolicy, or a class; None for the one that fits the observations
    :param custom_logger: Where to log to; None for a new logger
    :param allow_variable_horizon: Whether episodes may differ in length, which tells about the reward
        (see the documentation of ``imitation``)
    :param kwargs: As for ``LSIQSAC``, which explains them, and ``S2PGSAC``: ``loss``, ``reg_mult``, ``learning_rate``,
        ``policy_kwargs``, ``seed``, ... (``sb3_s2pg.ls_iq.HUMANOID`` holds what the authors used for Humanoid)
    :raises ValueError: if demonstrations do not fit, episodes differ in length without consent, or an argument cannot work
    """

    rl_algo: LSIQSAC

    def __init__(
        self,
        *,
        demonstrations: AnyTransitions | None,
        venv: VecEnv,
        policy: str | type[S2PGSACPolicy] | None = None,
        custom_logger: HierarchicalLogger | None = None,
        allow_variable_horizon: bool = False,
        **kwargs: Any,
    ):
        super().__init__(demonstrations=None, custom_logger=custom_logger, allow_variable_horizon=allow_variable_horizon)
        if policy is None:
            policy = default_policy(venv.observation_space)
        self._set_rl_algo(LSIQSAC(policy, venv, **kwargs))
        if demonstrations is not None:
            self.set_demonstrations(demonstrations)

    def _set_rl_algo(self, rl_algo: LSIQSAC) -> None:
        """
        :param rl_algo: The learner
        """
        self.rl_algo = rl_algo
        self.rl_algo.set_logger(self.logger)

    @property
    def logger(self) -> HierarchicalLogger:
        """:return: Where losses and statistics are logged"""
        return self._logger

    @logger.setter
    def logger(self, value: HierarchicalLogger) -> None:
        self._logger = value
        self.rl_algo.set_logger(value)

    @property
    def policy(self) -> S2PGSACPolicy:
        """:return: The policy that imitates the demonstrations; its state travels through ``predict``"""
        return self.rl_algo.policy

    def set_demonstrations(self, demonstrations: AnyTransitions) -> None:
        """
        :param demonstrations: Trajectories, or transitions in the order in which they happened
        :raises ValueError: if they do not fit, or differ in length without consent; earlier ones are kept then
        """
        trajectories = as_trajectories(demonstrations)
        check_demonstrations(trajectories, self.rl_algo.observation_space, self.rl_algo.action_space)
        # The length of a fragment says nothing
        self._check_fixed_horizon(len(trajectory) for trajectory in trajectories if trajectory.terminal)
        self.rl_algo.set_demonstrations(trajectories)

    def train(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> None:
        """
        :param total_timesteps: Number of steps in the environments
        :param callback: Callback(s) of Stable-Baselines3
        :param log_interval: Number of episodes between two logs
        :param progress_bar: Whether to show one
        :param reset_num_timesteps: Whether steps are counted (and schedules and warm-up start) from zero
        :raises ValueError: if there are no demonstrations, or episodes differ in length without consent
        """
        callbacks = list(callback) if isinstance(callback, list) else [] if callback is None else [callback]
        # Of functions SB3 makes callbacks only if they are not in a list
        callbacks = [each if isinstance(each, BaseCallback) else ConvertCallback(each) for each in callbacks]
        if not self.allow_variable_horizon:
            callbacks.insert(0, _FixedHorizon(self))
        self.rl_algo.learn(
            total_timesteps,
            callback=callbacks,
            log_interval=log_interval,
            progress_bar=progress_bar,
            reset_num_timesteps=reset_num_timesteps,
        )

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save policy, critic, optimizers and settings; neither demonstrations nor replay buffer
        (``trainer.rl_algo.save_replay_buffer``). ``S2PGSAC.load`` reads the file, too, and needs no ``imitation``.

        :param path: Where to write
        """
        self.rl_algo.save(path)

    @classmethod
    def load(
        cls: type[SelfLSIQ],
        path: str | pathlib.Path | io.BufferedIOBase,
        venv: VecEnv | None = None,
        demonstrations: AnyTransitions | None = None,
        custom_logger: HierarchicalLogger | None = None,
        allow_variable_horizon: bool = False,
        **kwargs: Any,
    ) -> SelfLSIQ:
        """
        :param path: What ``save`` wrote
        :param venv: The environments to go on learning from; None to act only
        :param demonstrations: As for the constructor
        :param custom_logger: As for the constructor
        :param allow_variable_horizon: As for the constructor
        :param kwargs: As for ``LSIQSAC.load``
        :return: The trainer
        :raises ValueError: if environments or demonstrations do not fit
        """
        trainer = cls.__new__(cls)
        DemonstrationAlgorithm.__init__(
            trainer, demonstrations=None, custom_logger=custom_logger, allow_variable_horizon=allow_variable_horizon
        )
        trainer._set_rl_algo(LSIQSAC.load(path, env=venv, **kwargs))
        if demonstrations is not None:
            trainer.set_demonstrations(demonstrations)
        return trainer


class _FixedHorizon(BaseCallback):
    """
    ``imitation``'s check of the lengths of episodes, while they are being made.

    :param trainer: The trainer
    """

    def __init__(self, trainer: LSIQ):
        super().__init__()
        self.trainer = trainer

    def _on_training_start(self) -> None:
        self.steps = np.zeros(self.model.n_envs, dtype=int)
        # Episodes may go on from an earlier call of train()
        self.is_whole = np.array(self.model._last_episode_starts, dtype=bool)

    def _on_step(self) -> bool:
        self.steps += 1
        dones = self.locals["dones"]
        try:
            self.trainer._check_fixed_horizon(self.steps[dones & self.is_whole].tolist())
        except ValueError:
            # The environment is one step ahead of what is stored: start new episodes if train() is called again
            self.model._last_obs = None
            raise
        self.steps[dones] = 0
        self.is_whole |= dones
        return True


def default_policy(space: spaces.Space) -> str:
    """
    :param space: Observation space
    :return: Name of the policy that fits it
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


__all__ = ["LSIQ", "default_policy"]
