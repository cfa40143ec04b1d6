"""Rollout buffers of the augmented MDP: transitions with their internal states, no sequences."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_s2pg.common.observations import map_observations


class StatefulRolloutBufferSamples(NamedTuple):
    """
    Transitions of the augmented MDP: state (s, z), action (a, z').

    ``states`` are laid out as ``predict`` returns them: internal state, then previous action.
    """

    observations: PyTorchObs
    actions: th.Tensor
    old_values: th.Tensor  # V(s, z), (batch,)
    old_log_prob: th.Tensor  # log pi_a(a | o, z), (batch,)
    advantages: th.Tensor
    returns: th.Tensor
    states: th.Tensor  # (batch, state_dim + action features)
    next_internal_states: th.Tensor  # z', (batch, state_dim)
    old_state_log_prob: th.Tensor  # log kappa(z' | o, z), (batch,)


class StatefulRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of the augmented MDP; minibatches are plain transitions of any number, without padding.

    Values and log-probabilities may be filled in after the rollout (``values``, ``log_probs``, ``state_log_probs``):
    the policy does not change during it.

    :param args: As for ``RolloutBuffer``
    :param states_dim: Size of (z, previous action)
    :param state_dim: Size of the internal state z
    :param kwargs: As for ``RolloutBuffer``
    """

    def __init__(self, *args: Any, states_dim: int = 0, state_dim: int = 0, **kwargs: Any):
        self.states_dim, self.state_dim = states_dim, state_dim  # reset() needs them
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        super().reset()
        self._samples: StatefulRolloutBufferSamples | None = None
        self.states = np.zeros((self.buffer_size, self.n_envs, self.states_dim), dtype=np.float32)
        self.next_internal_states = np.zeros((self.buffer_size, self.n_envs, self.state_dim), dtype=np.float32)
        self.state_log_probs = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)

    def add(  # type: ignore[override]
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
        states: np.ndarray,
        next_internal_states: np.ndarray,
    ) -> None:
        """
        :param obs: Observation
        :param action: Action as the policy sampled it
        :param reward: Reward
        :param episode_start: Start of episode signal
        :param value: V(s, z)
        :param log_prob: log pi_a(a | o, z)
        :param states: (z, previous action), reset where an episode starts, shape (n_envs, states_dim)
        :param next_internal_states: z', shape (n_envs, state_dim)
        """
        self.states[self.pos] = states
        self.next_internal_states[self.pos] = next_internal_states
        super().add(obs, action, reward, episode_start, value, log_prob)

    def all_samples(self) -> StatefulRolloutBufferSamples:
        """:return: All transitions in one batch, environment after environment as in SB3"""

        def flat(array: np.ndarray) -> th.Tensor:
            return self.to_torch(self.swap_and_flatten(array))

        return StatefulRolloutBufferSamples(
            observations=map_observations(flat, self.observations),
            actions=flat(self.actions),
            old_values=flat(self.values).flatten(),
            old_log_prob=flat(self.log_probs).flatten(),
            advantages=flat(self.advantages).flatten(),
            returns=flat(self.returns).flatten(),
            states=flat(self.states),
            next_internal_states=flat(self.next_internal_states),
            old_state_log_prob=flat(self.state_log_probs).flatten(),
        )

    def get(self, batch_size: int | None = None) -> Iterator[StatefulRolloutBufferSamples]:  # type: ignore[override]
        """
        :param batch_size: Number of transitions per minibatch, None for all
        :return: Minibatches in random order; every transition comes once
        """
        assert self.full, "The rollout is not complete"
        n_samples = self.buffer_size * self.n_envs
        batch_size = batch_size or n_samples
        # As SB3 does; but the data becomes tensors once, and is shuffled once an epoch, not once per minibatch
        if self._samples is None:
            self._samples = self.all_samples()
        indices = self.to_torch(np.random.permutation(n_samples))
        shuffled = [map_observations(lambda value: value[indices], part) for part in self._samples]
        for start in range(0, n_samples, batch_size):
            rows = slice(start, start + batch_size)
            yield StatefulRolloutBufferSamples(
                *(map_observations(lambda value: value[rows], part) for part in shuffled)  # noqa: B023
            )


class StatefulDictRolloutBuffer(StatefulRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """``StatefulRolloutBuffer`` for Dict observations."""
