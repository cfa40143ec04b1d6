"""The augmented MDP as sb3-contrib's TRPO can read it: what the policy sees as one object, (a, z') as one distribution."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples
from torch.distributions import Normal, register_kl

from sb3_s2pg.common.observations import map_observations
from sb3_s2pg.common.rollout_buffers import StatefulRolloutBuffer


@dataclass
class AugmentedObservations:
    """
    What TRPO carries from the rollout to the policy without looking at it.

    :param observations: Observations
    :param states: (z, previous action), shape (batch, state_dim + action features)
    :param next_internal_states: z', shape (batch, state_dim). It is part of the action, but TRPO knows one tensor of actions
    """

    observations: PyTorchObs
    states: th.Tensor
    next_internal_states: th.Tensor

    def __getitem__(self, rows: slice) -> "AugmentedObservations":
        """:return: Some of the transitions, for TRPO's ``sub_sampling_factor``"""
        observations = map_observations(lambda value: value[rows], self.observations)
        return AugmentedObservations(observations, self.states[rows], self.next_internal_states[rows])


class JointDistribution(th.distributions.Distribution):
    """
    pi(a, z' | o, z): the distribution of a and the Gaussian of z', independent given (o, z).

    :param action: Distribution of a
    :param state_mean: Mean of z', shape (batch, state_dim)
    :param state_std: Std of z', shape (batch, state_dim)
    :param next_internal_states: z', shape (batch, state_dim)
    """

    def __init__(self, action: Distribution, state_mean: th.Tensor, state_std: th.Tensor, next_internal_states: th.Tensor):
        super().__init__(batch_shape=state_mean.shape[:1], validate_args=False)
        # The policy has one object for the distribution of a, and overwrites it when it is asked again
        self.action = copy.copy(action)
        self.state = Normal(state_mean, state_std)
        self.next_internal_states = next_internal_states

    @property
    def distribution(self) -> "JointDistribution":
        """:return: Itself: where SB3's distributions keep that of torch"""
        return self

    def log_prob(self, value: th.Tensor) -> th.Tensor:
        """
        :param value: a as it was sampled
        :return: log pi_a(a | o, z) + log kappa(z' | o, z), shape (batch,)
        """
        # Buffers keep the dtype of the action space, with which MultiBinary has no log-probability
        return self.action.log_prob(value.float()) + self.state.log_prob(self.next_internal_states).sum(dim=1)


@register_kl(JointDistribution, JointDistribution)
def joint_kl_divergence(p: JointDistribution, q: JointDistribution) -> th.Tensor:
    """
    :param p: Distribution of (a, z')
    :param q: Another one
    :return: KL(p || q), shape (batch,)
    """
    # One number per entry of a Box or MultiBinary action, of which TRPO itself would take the mean
    action = kl_divergence(p.action, q.action).reshape(len(p.next_internal_states), -1)
    return action.sum(dim=1) + th.distributions.kl_divergence(p.state, q.state).sum(dim=1)


class JointRollout:
    """
    A rollout buffer for ``TRPO.train``, which reads it through ``get``, ``values`` and ``returns``.

    :param buffer: The rollout
    """

    def __init__(self, buffer: StatefulRolloutBuffer):
        self.buffer, self.values, self.returns = buffer, buffer.values, buffer.returns

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:
        """
        :param batch_size: Number of transitions per minibatch, None for all
        :return: Minibatches in random order, with the joint log-probability of (a, z')
        """
        for batch in self.buffer.get(batch_size):
            yield RolloutBufferSamples(
                observations=AugmentedObservations(  # type: ignore[arg-type]
                    batch.observations, batch.states, batch.next_internal_states
                ),
                actions=batch.actions,
                old_values=batch.old_values,
                old_log_prob=batch.old_log_prob + batch.old_state_log_prob,
                advantages=batch.advantages,
                returns=batch.returns,
            )
