from typing import Any, ClassVar, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_s2pg.common.kernels import StateKernel
from sb3_s2pg.common.observations import ObservationSubset, batch_size_of
from sb3_s2pg.common.policies import StatefulActorMixin, StatefulPolicy


class Evaluation(NamedTuple):
    """What the policy says about a batch of transitions of the augmented MDP."""

    values: th.Tensor  # V(s, z), (batch,)
    log_prob: th.Tensor  # log pi_a(a | o, z), (batch,)
    entropy: th.Tensor | None  # of pi_a, (batch,); None if there is no closed form
    state_log_prob: th.Tensor  # log kappa(z' | o, z), (batch,)
    state_entropy: th.Tensor  # of kappa, (batch,)
    state_std: th.Tensor  # (batch, state_dim)


class NoLogProbability:
    """
    What the policy says about log pi(a | o) without z: nothing. It passes through code that only carries it along, as
    GAIL of ``imitation`` does; AIRL subtracts it, and that is an error.

    :param batch_size: Number of actions
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.batch_size

    def reshape(self, *shape: Any) -> "NoLogProbability":
        """:return: The same, of any shape"""
        return self

    def __rsub__(self, other: Any) -> Any:
        raise ValueError(
            "A policy with memory has no log pi(a | o), only log pi(a | o, z): use sb3_s2pg.S2PGAIRL in place of AIRL, "
            "or call evaluate_actions(obs, actions, states, next_internal_states)"
        )


class ActorCriticMlp(nn.Module):
    """
    SB3's ``MlpExtractor`` for two inputs of different size.

    :param policy_dim: Size of the input of the policy network
    :param value_dim: Size of the input of the value network
    :param net_arch: Hidden layers of both, or of each
    :param activation_fn: Activation function
    """

    def __init__(
        self, policy_dim: int, value_dim: int, net_arch: list[int] | dict[str, list[int]], activation_fn: type[nn.Module]
    ):
        super().__init__()
        pi_arch, vf_arch = (net_arch.get("pi", []), net_arch.get("vf", [])) if isinstance(net_arch, dict) else (net_arch,) * 2
        self.policy_net = nn.Sequential(*create_mlp(policy_dim, -1, pi_arch, activation_fn))
        self.value_net = nn.Sequential(*create_mlp(value_dim, -1, vf_arch, activation_fn))
        self.latent_dim_pi = pi_arch[-1] if pi_arch else policy_dim
        self.latent_dim_vf = vf_arch[-1] if vf_arch else value_dim


class S2PGPPOPolicy(StatefulActorMixin, StatefulPolicy, ActorCriticPolicy):
    """
    Policy class (with both actor and critic) for S2PG-PPO: pi_a(a | o, z) is SB3's action distribution,
    kappa(z' | o, z) an unsquashed Gaussian around the kernel's mean, V(s, z) a network of its own.

    Parameters that are not listed are those of ``StatefulPolicy`` and of SB3's ``ActorCriticPolicy``.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param share_features_extractor: Whether actor and critic have one features extractor;
        None for yes if both see the same
    :param state_kernel_class: State kernel, by name or as a class
    :param kernel_lr_ratio: What the kernel's learning rate is multiplied by. All that PPO knows about z' comes from noisy
        returns, and a memory that changes slowly is one that the heads can learn to read
    :param kwargs: As for ``StatefulPolicy`` and ``ActorCriticPolicy``
    :raises ValueError: if the memory is configured in a way that cannot work
    """

    needs_score = True
    # A learned std per entry; the floor is low, because a kernel that keeps for long scales its noise by little
    default_state_noise_kwargs: ClassVar[dict[str, Any]] = {"std_type": "constant", "log_std_init": -4.0, "log_std_min": -10.0}

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        share_features_extractor: bool | None = None,
        state_kernel_class: str | type[StateKernel] = "linear",
        kernel_lr_ratio: float = 0.03,
        **kwargs: Any,
    ):
        self._share_if_same = share_features_extractor
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            *args,
            share_features_extractor=share_features_extractor is not False,
            state_kernel_class=state_kernel_class,
            kernel_lr_ratio=kernel_lr_ratio,
            **kwargs,
        )

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        return self.make_features_extractor_for(self.actor_subset.space)

    def _build_mlp_extractor(self) -> None:
        same = self.actor_subset.is_same_as(self.critic_subset)
        if self._share_if_same and not same:
            raise ValueError("share_features_extractor=True needs an actor and a critic that see the same observation")
        self.share_features_extractor = self.share_features_extractor and same
        if not same:
            self.vf_features_extractor = self.make_features_extractor_for(self.critic_subset.space)
        pi_dim, vf_dim = self.pi_features_extractor.features_dim, self.vf_features_extractor.features_dim
        # Before the networks: some kernels draw their weights, and the order of draws is part of a seed's meaning
        self._set_memory(**self.make_memory(pi_dim))
        states_dim = self.state_dim + self.previous_action_dim
        self.mlp_extractor = ActorCriticMlp(  # type: ignore[assignment]
            pi_dim + states_dim, vf_dim + states_dim, self.net_arch, self.activation_fn
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.optimizer = self.make_optimizer(self.parameters(), lr_schedule(1), self.kernel)

    def memory_parameters(self) -> list[nn.Parameter]:
        """:return: Parameters of the state kernel and its noise"""
        modules = [module for module in (self.kernel, self.state_noise) if module is not None]
        return [parameter for module in modules for parameter in module.parameters()]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            share_features_extractor=self._share_if_same,
            squash_output=bool(data["squash_output"]),
            full_std=data["full_std"] is not False,
            use_expln=bool(data["use_expln"]),
            normalize_images=self.normalize_images,
        )
        return data

    def _features(self, obs: PyTorchObs, subset: ObservationSubset, extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: Observations
        :param subset: What is seen of them
        :param extractor: Network to extract features
        :return: Features, shape (batch, features_dim)
        """
        return extractor(preprocess_obs(subset(obs), subset.space, normalize_images=self.normalize_images))

    def _act(self, obs: PyTorchObs, states: th.Tensor) -> tuple[th.Tensor, Distribution, th.Tensor, th.Tensor]:
        """
        :param obs: Observations
        :param states: (z, previous action), shape (batch, state_dim + action features)
        :return: the actor's features, the distribution of a, and mean and std of z'
        """
        features = self._features(obs, self.actor_subset, self.pi_features_extractor)
        head_inputs, state_mean, state_std = self.transition(features, states)
        distribution = self._get_action_dist_from_latent(self.mlp_extractor.policy_net(head_inputs))
        return features, distribution, state_mean, state_std

    def _value(self, obs: PyTorchObs, states: th.Tensor, features: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: Observations
        :param states: (z, previous action), shape (batch, state_dim + action features)
        :param features: The actor's features, used if the extractor is shared
        :return: V(s, z), shape (batch,)
        """
        if features is None or not self.share_features_extractor:
            features = self._features(obs, self.critic_subset, self.vf_features_extractor)
        inputs = th.cat([features, states[:, : self.state_dim + self.previous_action_dim]], dim=1)
        return self.value_net(self.mlp_extractor.value_net(inputs)).flatten()

    def sample(self, obs: PyTorchObs, states: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: Observations
        :param states: (z, previous action), shape (batch, state_dim + action features)
        :param deterministic: Whether to use the mode of a and the mean of z'
        :return: a, shape (batch, *action_shape), and z', shape (batch, state_dim)
        """
        _, distribution, mean, std = self._act(obs, states)
        actions = distribution.get_actions(deterministic=deterministic)
        if not deterministic and self.state_noise is not None:
            mean = mean + self.state_noise.sample_noise(std)
        return actions.reshape((-1, *self.action_space.shape)), mean  # type: ignore[misc]

    def evaluate_actions(
        self,
        obs: PyTorchObs,
        actions: th.Tensor,
        states: th.Tensor | None = None,
        next_internal_states: th.Tensor | None = None,
    ) -> Any:
        """
        :param obs: Observations
        :param actions: a as it was sampled
        :param states: (z, previous action), shape (batch, state_dim + action features)
        :param next_internal_states: z', shape (batch, state_dim)
        :return: ``Evaluation``: value, log-probabilities and entropies; the joint log-probability is the sum of the two.
            With two arguments, as ``imitation`` calls it: no value, no log-probability, no entropy
        """
        if states is None or next_internal_states is None:
            return None, NoLogProbability(len(actions)), None
        features, distribution, state_mean, state_std = self._act(obs, states)
        values = self._value(obs, states, features)
        if self.state_noise is None:
            state_log_prob = state_entropy = th.zeros_like(values)
        else:
            state_log_prob, state_entropy = self.state_noise.evaluate(next_internal_states - state_mean, state_std)
        log_prob, entropy = self._log_prob(distribution, actions), distribution.entropy()
        return Evaluation(values, log_prob, entropy, state_log_prob, state_entropy, state_std)

    def log_prob(self, obs: PyTorchObs, actions: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations
        :param actions: Actions, shape (batch, *action_shape)
        :param states: (z, previous action), shape (batch, state_dim + action features)
        :return: log pi_a(a | o, z), shape (batch,)
        """
        return self._log_prob(self.get_distribution(obs, states), actions)

    def _log_prob(self, distribution: Distribution, actions: th.Tensor) -> th.Tensor:
        # Buffers keep the dtype of the action space, with which MultiBinary has no log-probability
        actions = actions.flatten().float() if isinstance(self.action_space, spaces.Discrete) else actions.float()
        return distribution.log_prob(actions)

    def predict_values(self, obs: PyTorchObs, states: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: Observations
        :param states: (z, previous action), shape (batch, state_dim + action features); None at the start of an episode
        :return: V(s, z), shape (batch, 1) as in SB3
        """
        return self._value(obs, self._states_or_initial(obs, states)).unsqueeze(1)

    def get_distribution(self, obs: PyTorchObs, states: th.Tensor | None = None) -> Distribution:
        """
        :param obs: Observations
        :param states: (z, previous action), shape (batch, state_dim + action features); None at the start of an episode
        :return: The distribution of a
        """
        return self._act(obs, self._states_or_initial(obs, states))[1]

    def _states_or_initial(self, obs: PyTorchObs, states: th.Tensor | None) -> th.Tensor:
        return th.as_tensor(self.initial_state(batch_size_of(obs)), device=self.device) if states is None else states

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, states: th.Tensor | None = None, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: Observations
        :param states: (z, previous action), shape (batch, state_dim + action features); None at the start of an episode
        :param deterministic: Whether to use the mode of a and the mean of z'
        :return: a, z' and V(s, z)
        """
        states = self._states_or_initial(obs, states)
        return *self.sample(obs, states, deterministic), self._value(obs, states)

    def _initial_internal_state(self, n_envs: int) -> th.Tensor:
        return th.zeros(n_envs, 0) if self.kernel is None else self.kernel.initial_state(n_envs).detach()

    def _predict_stateful(self, obs: PyTorchObs, states: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        return self.sample(obs, states, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Action at the start of an episode; ``predict`` is the way to act with memory."""
        return self.sample(observation, self._states_or_initial(observation, None), deterministic)[0]


MlpPolicy = S2PGPPOPolicy


class CnnPolicy(S2PGPPOPolicy):
    """``S2PGPPOPolicy`` for images: ``NatureCNN`` extracts the features."""

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        **kwargs: Any,
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(S2PGPPOPolicy):
    """``S2PGPPOPolicy`` for Dict observations: ``CombinedExtractor`` extracts the features."""

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        **kwargs: Any,
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "S2PGPPOPolicy"]
