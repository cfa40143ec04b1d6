import math
from typing import Any, ClassVar, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor
from torch.nn import functional as F

from sb3_s2pg.common.critics import make_relu_inplace
from sb3_s2pg.common.kernels import StateKernel
from sb3_s2pg.common.noise import StateNoise, sample_gaussian
from sb3_s2pg.common.off_policy_policies import StatefulOffPolicyPolicy
from sb3_s2pg.common.policies import StatefulActorMixin

# atanh of the kernel's mean has to stay finite
MAX_ABS_MEAN = 1 - 1e-4


class AugmentedAction(NamedTuple):
    """A batch of actions (a, z') of the augmented MDP."""

    actions: th.Tensor  # a in [-1, 1], (batch, action_dim)
    log_prob: th.Tensor  # log pi_a(a | o, z), (batch, 1)
    internal_states: th.Tensor  # z' in [-1, 1], (batch, state_dim)
    state_log_prob: th.Tensor  # log kappa(z' | o, z), (batch, 1)


class S2PGSACActor(StatefulActorMixin, Actor):
    """
    Actor of S2PG-SAC: pi(a, z' | o, z) = pi_a(a | o, z) kappa(z' | o, z), both squashed Gaussians.

    :param observation_space: What the actor sees of the observation
    :param action_space: Action space
    :param net_arch: Hidden layers of the action head
    :param features_extractor: Network to extract features
    :param features_dim: Number of features
    :param kernel: State kernel; None for a memoryless policy
    :param state_noise: Noise of the state kernel
    :param use_previous_action: Whether kernel and head read the previous action
    :param kwargs: As for SAC's ``Actor``
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
        make_relu_inplace(self.latent_pi)

    def get_action_dist_params(  # type: ignore[override]
        self, obs: PyTorchObs, states: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor], th.Tensor, th.Tensor]:
        """
        :param obs: The actor's observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :return: mean, log std and keyword arguments of the action distribution, mean and std of z'
        """
        head_inputs, state_mean, state_std = self.transition(self.extract_features(obs, self.features_extractor), states)
        latent_pi = self.latent_pi(head_inputs)
        mean_actions = self.mu(latent_pi)
        if self.use_sde:
            return mean_actions, self.log_std, {"latent_sde": latent_pi}, state_mean, state_std
        log_std = self.log_std(latent_pi).clamp(LOG_STD_MIN, LOG_STD_MAX)  # type: ignore[operator]
        return mean_actions, log_std, {}, state_mean, state_std

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, states: th.Tensor, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: The actor's observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :param deterministic: Whether to use the mean of both
        :return: a in [-1, 1], shape (batch, action_dim), and z' in [-1, 1], shape (batch, state_dim)
        """
        mean, log_std, kwargs, state_mean, state_std = self.get_action_dist_params(obs, states)
        if self.use_sde:
            actions = self.action_dist.actions_from_params(mean, log_std, deterministic=deterministic, **kwargs)
        else:
            actions = th.tanh(mean if deterministic else mean + log_std.exp() * th.randn_like(mean))
        if deterministic:
            return actions, state_mean.clamp(-MAX_ABS_MEAN, MAX_ABS_MEAN)
        return actions, th.tanh(self._sample_unsquashed_state(state_mean, state_std)[0])

    def action_log_prob(self, obs: PyTorchObs, states: th.Tensor) -> AugmentedAction:  # type: ignore[override]
        """
        :param obs: The actor's observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :return: Sampled (a, z') and their log-probabilities
        """
        mean, log_std, kwargs, state_mean, state_std = self.get_action_dist_params(obs, states)
        if self.use_sde:
            actions, log_prob = self.action_dist.log_prob_from_params(mean, log_std, **kwargs)
            log_prob = log_prob.reshape(-1, 1)
        else:
            # SB3's distribution without its dozens of small operations, and exact where that has log(1 - a^2 + 1e-6)
            noise, log_density = sample_gaussian(log_std.exp())
            actions, log_prob = squash(mean + noise, log_density)
        return AugmentedAction(actions, log_prob, *squash(*self._sample_unsquashed_state(state_mean, state_std)))

    def _sample_unsquashed_state(self, mean: th.Tensor, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        z' = tanh(atanh(mean) + noise): at zero noise z' is the kernel's mean, so that what is kept does not fade.

        :param mean: Mean of z', shape (batch, state_dim)
        :param std: Std of the noise, shape (batch, state_dim)
        :return: atanh(z') and, entry by entry, its log density, shape (batch, state_dim) each
        """
        if self.state_noise is None:
            return mean, std  # without memory both are empty
        noise, log_density = self.state_noise.sample(std)
        return th.atanh(mean.clamp(-MAX_ABS_MEAN, MAX_ABS_MEAN)) + noise, log_density


def squash(unsquashed: th.Tensor, log_density: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param unsquashed: Sample u, shape (batch, dim)
    :param log_density: Log density of its entries, shape (batch, dim)
    :return: tanh(u), shape (batch, dim), and its log-probability, shape (batch, 1)
    """
    # log(1 - tanh(u)^2), in the form that does not lose the tails
    log_det = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
    return th.tanh(unsquashed), (log_density - log_det).sum(dim=1, keepdim=True)


class S2PGSACPolicy(StatefulOffPolicyPolicy):
    """
    Policy class (with both actor and critic) for S2PG-SAC.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param use_sde: Whether to use State Dependent Exploration for the action or not
    :param log_std_init: Initial value for the log standard deviation of the action with gSDE
    :param use_expln: Use ``expln()`` instead of ``exp()`` with gSDE
    :param clip_mean: Clip the mean output when using gSDE
    :param kwargs: As for ``StatefulOffPolicyPolicy``
    """

    actor_class: ClassVar[type[S2PGSACActor]] = S2PGSACActor
    actor: S2PGSACActor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        use_sde: bool = False,
        log_std_init: float = -3,
        use_expln: bool = False,
        clip_mean: float = 2.0,
        **kwargs: Any,
    ):
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            actor_kwargs={
                "use_sde": use_sde,
                "log_std_init": log_std_init,
                "use_expln": use_expln,
                "clip_mean": clip_mean,
            },
            **kwargs,
        )

    def make_actor(self) -> S2PGSACActor:
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
            **self.actor_kwargs,
        ).to(self.device)

    def log_prob(self, obs: PyTorchObs, actions: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations
        :param actions: Actions as the environment takes them, shape (batch, *action_shape)
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :return: log pi_a(a | o, z), shape (batch,): the density of a scaled to [-1, 1], as in SB3
        """
        mean, log_std, kwargs, *_ = self.actor.get_action_dist_params(self.actor_subset(obs), states)
        space: Any = self.action_space
        low, high = (th.as_tensor(bound, device=actions.device) for bound in (space.low, space.high))
        scaled = (2 * (actions - low) / (high - low) - 1).flatten(start_dim=1)
        return self.actor.action_dist.proba_distribution(mean, log_std, **kwargs).log_prob(scaled)

    def reset_noise(self, batch_size: int = 1) -> None:
        """
        Sample new weights for the exploration matrix, when using gSDE.

        :param batch_size: Number of environments
        """
        self.actor.reset_noise(batch_size=batch_size)


MlpPolicy = S2PGSACPolicy


class CnnPolicy(S2PGSACPolicy):
    """``S2PGSACPolicy`` for images: ``NatureCNN`` extracts the features."""

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        **kwargs: Any,
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(S2PGSACPolicy):
    """``S2PGSACPolicy`` for Dict observations: ``CombinedExtractor`` extracts the features."""

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        **kwargs: Any,
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "S2PGSACActor", "S2PGSACPolicy"]
