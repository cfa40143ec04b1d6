"""Actor, critic and target critic of the off-policy algorithms."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_s2pg.common.critics import StatefulCritic
from sb3_s2pg.common.observations import batch_size_of, flatten_observations, map_observations
from sb3_s2pg.common.policies import StatefulPolicy


class StatefulOffPolicyPolicy(StatefulPolicy):
    """
    Actor, critic and target critic of S2PGSAC and its relatives.

    Parameters that are not listed are those of ``StatefulPolicy`` and of SB3's ``SACPolicy``.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param critic_history: Number of previous observations and actions that the critic sees
        (set by the algorithm, which has an argument of that name)
    :param actor_kwargs: Arguments of the policy that go on to the actor
    :param kwargs: As for ``StatefulPolicy``
    :raises ValueError: if the memory is configured in a way that cannot work
    """

    default_net_arch: ClassVar[list[int]] = [256, 256]
    needs_bounded_states = True

    actor: Any  # a BasePolicy with StatefulActorMixin
    critic: StatefulCritic
    critic_target: StatefulCritic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        critic_history: int = 0,
        actor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
            **kwargs,
        )
        if share_features_extractor and not self.actor_subset.is_same_as(self.critic_subset):
            raise ValueError("share_features_extractor=True needs an actor and a critic that see the same observation")
        self.net_arch = self.default_net_arch if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.critic_history = critic_history
        self.actor_kwargs = actor_kwargs or {}
        self._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
            critic_history=self.critic_history,
            lr_schedule=self._dummy_schedule,  # not needed for loading the policy alone
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            **self.actor_kwargs,
        )
        return data

    def _build(self, lr_schedule: Schedule) -> None:
        """
        :param lr_schedule: Learning rate schedule
        """
        self.actor = self.make_actor()
        shared_extractor = self.actor.features_extractor if self.share_features_extractor else None
        self.critic = self.make_critic(shared_extractor)
        self.critic_target = self.make_critic(None)
        self.critic_target.load_state_dict(self.critic.state_dict())
        # Target networks should always be in eval mode
        self.critic_target.set_training_mode(False)

        learning_rate = lr_schedule(1)
        self.actor.optimizer = self.make_optimizer(self.actor.parameters(), learning_rate, self.actor.kernel)
        critic_parameters = [
            parameter
            for name, parameter in self.critic.named_parameters()
            if not (self.share_features_extractor and "features_extractor" in name)
        ]
        self.critic.optimizer = self.make_optimizer(critic_parameters, learning_rate)

    def make_actor(self) -> Any:
        """:return: A new actor"""
        raise NotImplementedError()

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> StatefulCritic:
        """
        :param features_extractor: Features extractor to share; None for a new one
        :return: A new critic
        """
        if features_extractor is None:
            features_extractor = self.make_features_extractor_for(self.critic_subset.space)
        return StatefulCritic(
            self.critic_subset.space,
            self.action_space,  # type: ignore[arg-type]
            get_actor_critic_arch(self.net_arch)[1],
            features_extractor,
            features_extractor.features_dim,
            state_dim=self.state_dim,
            states_dim=self.state_dim + self.previous_action_dim,
            history_dim=self.critic_history * self._history_step_dim(),
            activation_fn=self.activation_fn,
            normalize_images=self.normalize_images,
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
        ).to(self.device)

    def _history_step_dim(self) -> int:
        """:return: Size of one step of the critic history: flattened observation and action"""
        if self.critic_history == 0:
            return 0
        return spaces.flatdim(self.critic_subset.space) + self.action_features_dim

    def critic_histories(
        self, recent_observations: PyTorchObs, recent_actions: th.Tensor, recent_mask: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        What the critic remembers at a transition and at the one that follows it; steps before the episode are zero.

        :param recent_observations: Observations from lag 0 on, shape (batch, 1 + critic_history, ...)
        :param recent_actions: Actions from lag 0 on, shape (batch, 1 + critic_history, action_dim)
        :param recent_mask: Which steps belong to the episode, shape (batch, 1 + critic_history)
        :return: the history at t and at t + 1, shape (batch, critic_history * (observation + action)) each
        """
        batch_size, length = recent_mask.shape
        observations = map_observations(lambda value: value.flatten(0, 1), self.critic_subset(recent_observations))
        preprocessed = preprocess_obs(observations, self.critic_subset.space, normalize_images=self.normalize_images)
        steps = th.cat([flatten_observations(preprocessed, 1), recent_actions.flatten(0, 1)], dim=1)
        flat = (steps.view(batch_size, length, -1) * recent_mask.unsqueeze(-1)).flatten(start_dim=1)
        step_dim = steps.shape[1]
        return flat[:, step_dim:], flat[:, :-step_dim]

    def _initial_internal_state(self, n_envs: int) -> th.Tensor:
        if self.actor.kernel is None:
            return th.zeros(n_envs, 0)
        return self.actor.kernel.initial_state(n_envs).detach()

    def _predict_stateful(self, obs: PyTorchObs, states: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        return self.actor(self.actor_subset(obs), states, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Action at the start of an episode; ``predict`` is the way to act with memory."""
        states = th.as_tensor(self.initial_state(batch_size_of(observation)), device=self.device)
        return self._predict_stateful(observation, states, deterministic)[0]

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        :param obs: Observations at the start of an episode
        :param deterministic: Whether to use the mean
        :return: Actions in [-1, 1]
        """
        return self._predict(obs, deterministic=deterministic)

    def set_training_mode(self, mode: bool) -> None:
        """
        :param mode: True for training mode, False for evaluation mode; the target critic stays in evaluation mode
        """
        self.actor.set_training_mode(mode)
        self.critic.set_training_mode(mode)
        self.training = mode
