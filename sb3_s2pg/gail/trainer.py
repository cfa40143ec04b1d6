"""What S2PG-GAIL and S2PG-AIRL share: checks, who sees what, schedules, save and resume."""

import math
import pathlib
from collections.abc import Callable, Sequence, Sized
from typing import Any

import numpy as np
from gymnasium import spaces
from imitation.algorithms.adversarial.common import AdversarialTrainer
from imitation.data.types import Trajectory, Transitions, TransitionsMinimal, concatenate_maybe_dictobs
from imitation.rewards.reward_nets import BasicRewardNet, RewardNet
from imitation.util.util import get_first_iter_element
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, is_vecenv_wrapped
from torch import nn

from sb3_s2pg.common.algorithm import StatefulAlgorithm
from sb3_s2pg.common.demonstrations import check_demonstrations, time_limit_of
from sb3_s2pg.common.observations import ObservationSubset
from sb3_s2pg.gail.checkpoint import resume_trainer, save_trainer
from sb3_s2pg.gail.observations import DictObservations, FlatLayout, FlatObservations, SubsetRewardNet

DISCRIMINATOR_ARCH = (512, 256)  # as in the paper, with tanh


class StatefulAdversarialTrainer(AdversarialTrainer):
    """
    Base of S2PGGAIL and S2PGAIRL, to be named before the trainer of ``imitation``.

    A Dict observation is flattened for ``imitation``, and is one again for the generator.
    """

    gen_algo: StatefulAlgorithm
    _layout: FlatLayout | None = None

    def _prepare(
        self,
        *,
        venv: VecEnv,
        gen_algo: StatefulAlgorithm,
        reward_net: RewardNet | None,
        discriminator_observation: Sequence[str] | Sequence[int] | None,
        demo_batch_size: int,
        gen_train_timesteps: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """
        Check the arguments and turn them into what ``imitation`` can work with.

        :return: Arguments of the trainer of ``imitation``
        :raises ValueError: if something does not fit
        """
        if not isinstance(gen_algo, StatefulAlgorithm):
            raise ValueError(
                f"gen_algo={type(gen_algo).__name__} has no internal state: use S2PGPPO, S2PGSAC or S2PGTD3 (memoryless with "
                "policy_kwargs=dict(state_dim=0, use_previous_action=False)), or the trainer of imitation"
            )
        if gen_algo.n_envs != venv.num_envs:
            raise ValueError(
                f"gen_algo was built for {gen_algo.n_envs} environments, venv has {venv.num_envs}: give both the same"
            )
        if is_vecenv_wrapped(venv, VecNormalize):
            raise ValueError(
                "venv is normalized by VecNormalize, demonstrations are not, and a discriminator tells them apart by that: "
                "normalize inside of reward_net (normalize_input_layer=imitation.util.networks.RunningNorm)"
            )
        rollout = gen_algo.n_envs * (gen_algo.n_steps if isinstance(gen_algo, OnPolicyAlgorithm) else 1)
        if gen_train_timesteps is None:
            # Off-policy: as many new samples per round as one update of the discriminator gets to see
            n_rollouts = 1 if isinstance(gen_algo, OnPolicyAlgorithm) else math.ceil(demo_batch_size / rollout)
            gen_train_timesteps = n_rollouts * rollout
        if gen_train_timesteps < 1 or gen_train_timesteps % rollout != 0:
            raise ValueError(
                f"gen_train_timesteps={gen_train_timesteps} must be a multiple of {rollout}, the steps of one rollout "
                f"({gen_algo.n_envs} environments): a round would collect more steps than it counts"
            )

        self._spaces = (venv.observation_space, venv.action_space)
        self._time_limit = time_limit_of(venv)
        if isinstance(venv.observation_space, spaces.Dict):
            self._layout = FlatLayout(venv.observation_space)
            venv = FlatObservations(venv, self._layout)
            if discriminator_observation is not None:
                selected = ObservationSubset(self._layout.dict_space, discriminator_observation, "discriminator_observation")
                discriminator_observation = self._layout.indices(selected.keys or [])
        subset = ObservationSubset(venv.observation_space, discriminator_observation, "discriminator_observation")
        if reward_net is None:
            reward_net = BasicRewardNet(subset.space, venv.action_space, hid_sizes=DISCRIMINATOR_ARCH, activation=nn.Tanh)
        elif reward_net.observation_space.shape != subset.space.shape:
            raise ValueError(
                f"reward_net was built for {reward_net.observation_space}, but the discriminator sees {subset.space}: build "
                "it for what discriminator_observation selects (of a Dict: the keys concatenated), or leave reward_net out"
            )
        if discriminator_observation is not None:
            reward_net = SubsetRewardNet(reward_net, venv.observation_space, subset)
        return {
            "venv": venv,
            "gen_algo": gen_algo,
            "reward_net": reward_net,
            "demo_batch_size": demo_batch_size,
            "gen_train_timesteps": gen_train_timesteps,
            **kwargs,
        }

    @property
    def venv_train(self) -> VecEnv:
        """What the generator is trained in: with the learned reward, and the observations that it was built for."""
        return self._venv_train

    @venv_train.setter
    def venv_train(self, venv: VecEnv) -> None:
        self._venv_train = venv if self._layout is None else DictObservations(venv, self._layout)

    def set_demonstrations(self, demonstrations: Any) -> None:
        """
        :param demonstrations: Trajectories, ``Transitions`` or an iterable of batches, as in ``imitation``;
            with the observations of the environment (of a Dict: with all keys)
        :raises ValueError: if they are empty, too short or of different length, or do not fit the spaces
        """
        if isinstance(demonstrations, TransitionsMinimal):
            if not isinstance(demonstrations, Transitions):
                raise ValueError("demonstrations lack next_obs and dones: give Transitions or, better, trajectories")
            check_demonstrations([as_one(demonstrations.obs, demonstrations.acts)], *self._spaces)
        elif isinstance(demonstrations, Sized) and len(demonstrations) == 0:
            check_demonstrations([], *self._spaces)
        else:
            first, demonstrations = get_first_iter_element(demonstrations)
            if isinstance(first, Trajectory):
                demonstrations = list(demonstrations)
                check_demonstrations(demonstrations, *self._spaces)
                self._check_lengths([len(trajectory) for trajectory in demonstrations if trajectory.terminal])
            elif self._layout is None:
                check_demonstrations([as_one(np.asarray(first["obs"]), np.asarray(first["acts"]))], *self._spaces)
            else:
                raise ValueError("demonstrations with Dict observations have to be trajectories or Transitions, not batches")
        if self._layout is not None:
            demonstrations = self._layout.flatten_demonstrations(demonstrations)
        super().set_demonstrations(demonstrations)

    def _check_lengths(self, lengths: list[int]) -> None:
        """
        :param lengths: Lengths of the whole episodes among the demonstrations
        :raises ValueError: if they differ from each other or from what the environment allows, without consent
        """
        # Also of those of the generator, which are checked after each round
        self._check_fixed_horizon(lengths)
        limit = self._time_limit
        if limit is not None and not self.allow_variable_horizon and max(lengths, default=0) > limit:
            raise ValueError(
                f"The demonstrations have episodes of {max(lengths)} steps, but venv ends them after {limit}: record them "
                "with the same time-limit, or pass allow_variable_horizon=True"
            )

    def train(
        self,
        total_timesteps: int,
        callback: Callable[[int], None] | None = None,
        *,
        schedule_timesteps: int | None = None,
    ) -> None:
        """
        Alternate between generator and discriminator.

        :param total_timesteps: Number of steps in the environment; what does not fill a round is left out
        :param callback: Called at the end of every round with its number
        :param schedule_timesteps: Steps of the generator, those of earlier calls included, at which its schedules end;
            None for the end of this call (for ``imitation`` it is the end of every round)
        :raises ValueError: if there are too few steps for a round
        """
        n_rounds = total_timesteps // self.gen_train_timesteps
        if n_rounds < 1:
            raise ValueError(
                f"total_timesteps={total_timesteps} is less than one round of gen_train_timesteps={self.gen_train_timesteps}"
            )
        end = self.gen_algo.num_timesteps + n_rounds * self.gen_train_timesteps
        self.gen_algo.schedule_timesteps = end if schedule_timesteps is None else schedule_timesteps
        try:
            super().train(total_timesteps, callback)
        finally:
            self.gen_algo.schedule_timesteps = None

    def save(self, path: str | pathlib.Path) -> None:
        """
        Save what is needed to go on in another process: reward net and its optimizer, generator with its replay buffer, recent
        samples of the generator, counters, and the state of the global random number generators.

        :param path: File to write; what was there is replaced when all has been written
        """
        save_trainer(self, path)

    def resume(self, path: str | pathlib.Path) -> None:
        """
        Go on from a saved trainer. Build this one with the arguments that the saved one was built with; environment and
        demonstrations start anew. ``gen_algo`` is another object afterwards.

        :param path: What ``save`` has written; it holds pickled objects, so load only what you trust
        :raises ValueError: if the file is broken or of another kind of trainer; this one is as it was then
        """
        resume_trainer(self, path)


def as_one(obs: Any, acts: np.ndarray) -> Trajectory:
    """
    :param obs: Observations of transitions in any order
    :param acts: Their actions
    :return: The same in the form that is checked
    """
    return Trajectory(obs=concatenate_maybe_dictobs([obs, obs[-1:]]), acts=acts, infos=None, terminal=False)
