from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from imitation.algorithms.adversarial.airl import AIRL
from imitation.algorithms.adversarial.common import AdversarialTrainer
from imitation.data.types import dataclass_quick_asdict
from imitation.rewards.reward_nets import RewardNet
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.common.algorithm import StatefulAlgorithm
from sb3_s2pg.common.demonstrations import as_trajectories
from sb3_s2pg.common.rolling import roll_states
from sb3_s2pg.gail.observations import SubsetRewardNet
from sb3_s2pg.gail.trainer import StatefulAdversarialTrainer

# What the infos of a transition carry: the state before it, or which row of the demonstrations it is
STATE = "s2pg_state"
ROW = "s2pg_row"


class StateRecorder(BaseCallback):
    """Write the state (z, previous action) that the generator acts with into the infos, which ``imitation`` stores."""

    def _on_step(self) -> bool:
        # Called between sampling and storing: the state before this step is still the last one
        model: Any = self.model
        states = model.policy.state_at_episode_starts(model._last_state, model._last_episode_starts, model.n_envs)
        for info, state in zip(self.locals["infos"], states, strict=True):
            info[STATE] = state
        return True


class S2PGAIRL(StatefulAdversarialTrainer, AIRL):
    """
    Adversarial inverse reinforcement learning with a policy with memory: ``imitation``'s AIRL with log pi(a | o, z).

    z of the generator's samples is the one that it acted with. Demonstrations carry none: z is rolled along each of them with
    the state kernel as it is in that round.

    :param demonstrations: Trajectories, each from the start of an episode, with the observations of ``venv``
    :param venv: The environment; its rewards are not used. Dict observations (of Boxes) are possible
    :param gen_algo: S2PGPPO or S2PGSAC, built for ``venv``
    :param reward_net: Reward net, for what ``discriminator_observation`` selects; None for an MLP of [512, 256] tanh units
        on (s, a)
    :param demo_batch_size: Number of expert samples, and of generator samples, per update of the discriminator
    :param discriminator_observation: Keys (Dict) or indices (Box) that the reward net sees; None for everything
    :param gen_train_timesteps: Steps per round; None for one rollout of S2PGPPO, or for ``demo_batch_size`` steps of S2PGSAC
    :param kwargs: As for ``AdversarialTrainer`` of ``imitation``
    :raises ValueError: if something does not fit; nothing has been trained then
    """

    def __init__(
        self,
        *,
        demonstrations: Any,
        venv: VecEnv,
        gen_algo: StatefulAlgorithm,
        reward_net: RewardNet | None = None,
        demo_batch_size: int = 256,
        discriminator_observation: Sequence[str] | Sequence[int] | None = None,
        gen_train_timesteps: int | None = None,
        **kwargs: Any,
    ):
        if not hasattr(gen_algo.policy, "log_prob"):
            raise ValueError(
                f"gen_algo={type(gen_algo).__name__} has no log-probability of its actions, which S2PGAIRL needs: use S2PGPPO "
                "or S2PGSAC, or train it with S2PGGAIL"
            )
        self._expert_states: np.ndarray | None = None
        self._batch_states: list[np.ndarray] = []
        arguments = self._prepare(
            demonstrations=demonstrations,
            venv=venv,
            gen_algo=gen_algo,
            reward_net=reward_net,
            demo_batch_size=demo_batch_size,
            discriminator_observation=discriminator_observation,
            gen_train_timesteps=gen_train_timesteps,
            **kwargs,
        )
        # Not AIRL's, which adds a check for the policies of SB3
        AdversarialTrainer.__init__(self, **arguments)
        callbacks = [] if self.gen_callback is None else [self.gen_callback]
        self.gen_callback: Any = [*callbacks, StateRecorder()]

    def set_demonstrations(self, demonstrations: Any) -> None:
        """
        :param demonstrations: Trajectories, each from the start of an episode, or transitions that follow each other
        :raises ValueError: if they are something else, or do not fit
        """
        demonstrations = as_trajectories(demonstrations)
        self._expert_trajectories = demonstrations
        self._expert_states = None
        ends = np.cumsum([len(trajectory) for trajectory in demonstrations])
        super().set_demonstrations(
            [
                replace(trajectory, infos=np.array([{ROW: row} for row in range(end - len(trajectory), end)]))
                for trajectory, end in zip(demonstrations, ends, strict=True)
            ]
        )

    @property
    def reward_test(self) -> RewardNet:
        """The reward without shaping."""
        net = self._reward_net
        return net.without_wrappers() if isinstance(net, SubsetRewardNet) else super().reward_test

    def train_gen(self, *args: Any, **kwargs: Any) -> None:
        """
        :param args: As for ``AdversarialTrainer`` of ``imitation``
        :param kwargs: The same
        """
        self._expert_states = None  # those of another kernel
        super().train_gen(*args, **kwargs)

    def expert_states(self) -> np.ndarray:
        """:return: (z, previous action) before each action of the demonstrations, with the kernel as it is in this round"""
        if self._expert_states is None:
            self._expert_states = np.concatenate(roll_states(self.policy, self._expert_trajectories))  # type: ignore[arg-type]
        return self._expert_states

    def _make_disc_train_batches(
        self, *, gen_samples: Mapping | None = None, expert_samples: Mapping | None = None
    ) -> Iterator[Mapping[str, th.Tensor]]:
        if expert_samples is None:
            expert_samples = self._next_expert_batch()
        if gen_samples is None:
            gen_samples = dataclass_quick_asdict(self._gen_replay_buffer.sample(self.demo_batch_size))
        expert_states = self.expert_states()[[info[ROW] for info in expert_samples["infos"]]]
        gen_states = np.stack([info[STATE] for info in gen_samples["infos"]])
        size = self.demo_minibatch_size
        self._batch_states = [
            np.concatenate([expert_states[start : start + size], gen_states[start : start + size]])
            for start in range(0, self.demo_batch_size, size)
        ]
        yield from super()._make_disc_train_batches(gen_samples=gen_samples, expert_samples=expert_samples)

    def _get_log_policy_act_prob(self, obs_th: th.Tensor, acts_th: th.Tensor) -> th.Tensor:
        """
        :param obs_th: Observations of a minibatch, the expert's first
        :param acts_th: Actions
        :return: log pi(a | o, z), shape (batch,)
        """
        policy: Any = self.policy
        obs = obs_th.cpu().numpy()
        obs, _ = policy.obs_to_tensor(obs if self._layout is None else self._layout.unflatten(obs))
        states = th.as_tensor(self._batch_states.pop(0), device=policy.device)
        policy.set_training_mode(False)
        return policy.log_prob(obs, acts_th, states)
