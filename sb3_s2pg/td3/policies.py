import math
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor

from sb3_s2pg.common.critics import make_relu_inplace
from sb3_s2pg.common.kernels import StateKernel
from sb3_s2pg.common.noise import StateNoise
from sb3_s2pg.common.off_policy_policies import StatefulOffPolicyPolicy
from sb3_s2pg.common.policies import StatefulActorMixin


class S2PGTD3Actor(StatefulActorMixin, Actor):
    """
    Actor of S2PG-TD3: (a, z') = mu(o, z), both deterministic.

    :param observation_space: What the actor sees of the observation
    :param action_space: Action space
    :param net_arch: Hidden layers of the action head
    :param features_extractor: Network to extract features
    :param features_dim: Number of features
    :param kernel: State kernel; None for a memoryless policy
    :param state_noise: Noise of the state kernel, of unit size: exploration and target smoothing multiply it
    :param use_previous_action: Whether kernel and head read the previous action
    :param kwargs: As for TD3's ``Actor``
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        kernel: StateKernel | None,
        state_noise: StateNoise | None,
        use_previous_action: bool,
        **kwargs: Any,
    ):
        head_dim = features_dim + (math.prod(action_space.shape) if use_previous_action else 0)
        head_dim += 0 if kernel is None else kernel.state_dim
        super().__init__(observation_space, action_space, net_arch, features_extractor, head_dim, **kwargs)
        self._set_memory(kernel, state_noise, use_previous_action)
        make_relu_inplace(self.mu)

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, states: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: The actor's observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :return: a in [-1, 1], shape (batch, action_dim), z' without noise and the unit of its noise (1 times what the
            kernel scales it by), shape (batch, state_dim) each
        """
        features = self.extract_features(obs, self.features_extractor)
        head_inputs, internal_states, unit = self.transition(features, states)
        return self.mu(head_inputs), internal_states, unit

    def add_noise(self, internal_states: th.Tensor, unit: th.Tensor, std: float, clip: float = math.inf) -> th.Tensor:
        """
        :param internal_states: z' without noise, shape (batch, state_dim)
        :param unit: Unit of its noise, shape (batch, state_dim)
        :param std: Std of the noise in that unit
        :param clip: Largest noise in that unit
        :return: z' in [-1, 1] with noise, shape (batch, state_dim)
        """
        if std > 0 and self.state_noise is not None:
            noise = self.state_noise.sample_noise(std * unit)
            internal_states = internal_states + noise.clamp(-clip * unit, clip * unit)
        return internal_states.clamp(-1, 1)


class S2PGTD3Policy(StatefulOffPolicyPolicy):
    """
    Policy class (with actor, critic and their targets) for S2PG-TD3.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param exploration_state_std: Std of the exploration noise on z'
        (set by the algorithm, which has the argument ``state_noise``)
    :param kwargs: As for ``StatefulOffPolicyPolicy``
    """

    default_net_arch: ClassVar[list[int]] = [400, 300]
    # Of unit size, and not learned: the deterministic policy gradient has no use for it
    default_state_noise_kwargs: ClassVar[dict[str, Any]] = {"std_type": "fixed", "log_std_init": 0.0}

    actor_class: ClassVar[type[S2PGTD3Actor]] = S2PGTD3Actor
    actor: S2PGTD3Actor
    actor_target: S2PGTD3Actor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        exploration_state_std: float = 0.0,
        **kwargs: Any,
    ):
        self.exploration_state_std = exploration_state_std
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        if self.state_noise_kwargs.get("std_type") != "fixed":
            raise ValueError(
                f"state_noise_kwargs={self.state_noise_kwargs}: a deterministic policy cannot learn the std of its noise, "
                "leave std_type at 'fixed' and set state_noise of the algorithm"
            )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "exploration_state_std": self.exploration_state_std}

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.actor_target = self.make_actor()
        self.actor_target.load_state_dict(self.actor.state_dict())
        # Target networks should always be in eval mode
        self.actor_target.set_training_mode(False)

    def make_actor(self) -> S2PGTD3Actor:
        features_extractor = self.make_features_extractor_for(self.actor_subset.space)
        return self.actor_class(
            self.actor_subset.space,
            self.action_space,  # type: ignore[arg-type]
            get_actor_critic_arch(self.net_arch)[0],
            features_extractor,
            features_extractor.features_dim,
            **self.make_memory(features_extractor.features_dim),
            activation_fn=self.activation_fn,
            normalize_images=self.normalize_images,
        ).to(self.device)

    def _predict_stateful(self, obs: PyTorchObs, states: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        # As in SB3, the algorithm adds the noise on a
        actions, internal_states, unit = self.actor(self.actor_subset(obs), states)
        return actions, self.actor.add_noise(internal_states, unit, 0.0 if deterministic else self.exploration_state_std)


MlpPolicy = S2PGTD3Policy


class CnnPolicy(S2PGTD3Policy):
    """``S2PGTD3Policy`` for images: ``NatureCNN`` extracts the features."""

    default_net_arch: ClassVar[list[int]] = [256, 256]

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        **kwargs: Any,
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(S2PGTD3Policy):
    """``S2PGTD3Policy`` for Dict observations: ``CombinedExtractor`` extracts the features."""

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        **kwargs: Any,
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "S2PGTD3Actor", "S2PGTD3Policy"]
