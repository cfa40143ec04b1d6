"""What all stateful policies share: the state that travels through ``predict``, and who sees what."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_s2pg.common.critics import StatefulCritic
from sb3_s2pg.common.kernels import StateKernel, get_kernel_class
from sb3_s2pg.common.noise import GaussianStateNoise
from sb3_s2pg.common.observations import ObservationSelection, actor_and_critic_observation, flatten_observations

DEFAULT_STATE_DIM = 32


class StatefulActorMixin:
    """
    The memory of an actor: a state kernel and its noise, kappa(z' | o, z).

    The action head reads the kernel's input and the kernel's mean, so the current observation
    reaches the action in the same step; a and z' are conditionally independent given (o, z).
    """

    kernel: StateKernel | None
    state_noise: GaussianStateNoise | None
    state_dim: int
    use_previous_action: bool

    def _set_memory(
        self, kernel: StateKernel | None, state_noise: GaussianStateNoise | None, use_previous_action: bool
    ) -> None:
        """
        :param kernel: State kernel; None for a memoryless policy
        :param state_noise: Noise of the state kernel
        :param use_previous_action: Whether the kernel (and so the head) reads the previous action
        """
        self.kernel = kernel
        self.state_noise = state_noise
        self.state_dim = 0 if kernel is None else kernel.state_dim
        self.use_previous_action = use_previous_action

    def transition(self, features: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param features: Observation features, shape (batch, features_dim)
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :return: the input of the action head, and mean and std of z', shape (batch, state_dim) each
        """
        internal_states, previous_actions = states[:, : self.state_dim], states[:, self.state_dim :]
        inputs = th.cat([features, previous_actions], dim=1) if self.use_previous_action else features
        if self.kernel is None:
            return inputs, internal_states, internal_states
        assert self.state_noise is not None
        mean, scale = self.kernel(inputs, internal_states)
        return th.cat([inputs, mean], dim=1), mean, self.state_noise(inputs, internal_states, scale)


class StatefulPolicy(BasePolicy):
    """
    Base class of policies with an internal state.

    The state that ``predict`` takes and returns is a float32 array of shape
    ``(n_envs, state_dim + action features)``: z first, then the executed action (a Box scaled to [-1, 1]).

    :param args: As for ``BasePolicy``
    :param state_dim: Size of the internal state z; 0 for a memoryless policy
    :param use_previous_action: Whether kernel and critic read the previous action
    :param actor_observation: Keys (Dict) or indices (Box) that the actor sees; None for all keys but ``privileged``
    :param critic_observation: Keys (Dict) or indices (Box) that the critic sees; None for everything
    :param kwargs: As for ``BasePolicy``
    :raises ValueError: if the state size is negative or the observation does not have those keys or indices
    """

    def __init__(
        self,
        *args: Any,
        state_dim: int = DEFAULT_STATE_DIM,
        use_previous_action: bool = True,
        actor_observation: ObservationSelection = None,
        critic_observation: ObservationSelection = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.state_dim = checked_state_dim(state_dim)
        self.use_previous_action = use_previous_action
        self.actor_subset, self.critic_subset = actor_and_critic_observation(
            self.observation_space, actor_observation, critic_observation
        )
        self.action_features_dim = get_action_dim(self.action_space)
        self._stateful_kwargs = {
            "state_dim": state_dim,
            "use_previous_action": use_previous_action,
            "actor_observation": actor_observation,
            "critic_observation": critic_observation,
        }

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._stateful_kwargs}

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """
        :param n_envs: Number of environments
        :return: The state at the start of an episode, shape (n_envs, state_dim + action features)
        """
        state = np.zeros((n_envs, self.state_dim + self.action_features_dim), dtype=np.float32)
        state[:, : self.state_dim] = self._initial_internal_state(n_envs).cpu().numpy()
        return state

    def _initial_internal_state(self, n_envs: int) -> th.Tensor:
        """
        :param n_envs: Number of environments
        :return: z_0, shape (n_envs, state_dim)
        """
        raise NotImplementedError()

    def _predict_stateful(self, obs: PyTorchObs, states: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: Observations, shape (n_envs, ...)
        :param states: (z, previous action), shape (n_envs, state_dim + action features)
        :param deterministic: Whether to use the mean of both
        :return: a, shape (n_envs, action_dim), and z', shape (n_envs, state_dim)
        """
        raise NotImplementedError()

    def predict(  # type: ignore[override]
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Get the action and the next state; nothing is remembered between calls.

        :param observation: Observation(s); the privileged key may be missing
        :param state: What the previous call returned, shape (n_envs, state_dim + action features);
            None starts an episode in every environment
        :param episode_start: Which environments start an episode (their state is reset), shape (n_envs,)
        :param deterministic: Whether to use the mean of action and next internal state
        :return: the action(s), and the state to pass to the next call
        :raises ValueError: if the observation or the state do not have the right shape
        """
        self.set_training_mode(False)
        if isinstance(observation, tuple):
            raise ValueError(
                "predict() got a tuple as observation: `obs, info = env.reset()` (Gym) "
                "and `obs = vec_env.reset()` (VecEnv) were probably mixed up"
            )
        obs, vectorized_env = self.obs_to_tensor(self.actor_subset.select_keys(observation))
        n_envs = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        state = self._state_at_episode_starts(state, episode_start, n_envs)

        with th.no_grad():
            actions_th, internal_states = self._predict_stateful(obs, th.as_tensor(state, device=self.device), deterministic)
        assert isinstance(self.action_space, spaces.Box)
        actions = actions_th.cpu().numpy().reshape((-1, *self.action_space.shape))
        if self.squash_output:
            executed = actions
            actions = self.unscale_action(actions)
        else:
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
            executed = self.scale_action(actions)
        next_state = self.make_state(internal_states.cpu().numpy(), executed)
        return (actions if vectorized_env else actions.squeeze(axis=0)), next_state

    def make_state(self, internal_states: np.ndarray, executed_actions: np.ndarray) -> np.ndarray:
        """
        :param internal_states: z', shape (n_envs, state_dim)
        :param executed_actions: Executed actions, a Box scaled to [-1, 1], shape (n_envs, *action_shape)
        :return: State as ``predict`` takes it, shape (n_envs, state_dim + action features)
        """
        return np.concatenate([internal_states, executed_actions.reshape(len(internal_states), -1)], axis=1, dtype=np.float32)

    def _state_at_episode_starts(self, state: np.ndarray | None, episode_start: np.ndarray | None, n_envs: int) -> np.ndarray:
        """
        :param state: State as ``predict`` takes it, or None
        :param episode_start: Which environments start an episode, or None
        :param n_envs: Number of environments
        :return: The state, reset where an episode starts, shape (n_envs, state_dim + action features)
        :raises ValueError: if a shape is wrong
        """
        if state is None:
            return self.initial_state(n_envs)
        state = np.asarray(state, dtype=np.float32)
        shape = (n_envs, self.state_dim + self.action_features_dim)
        if state.shape != shape:
            raise ValueError(
                f"state has the shape {state.shape}, but {shape} is needed: (n_envs, state_dim + action features). "
                "Pass what predict() returned last, or None to start an episode"
            )
        if episode_start is None:
            return state
        starts = np.atleast_1d(np.asarray(episode_start, dtype=bool))
        if starts.shape != (n_envs,):
            raise ValueError(
                f"episode_start has the shape {starts.shape}, but {(n_envs,)} is needed: one flag per environment"
            )
        return np.where(starts[:, None], self.initial_state(n_envs), state) if starts.any() else state


class StatefulOffPolicyPolicy(StatefulPolicy):
    """
    Actor, critic and target critic of S2PGSAC and its relatives.

    Parameters that are not listed are those of SB3's ``SACPolicy``.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param state_kernel_class: State kernel, by name or as a class
    :param state_kernel_kwargs: Keyword arguments of the state kernel
    :param state_noise_class: Noise of the state kernel
    :param state_noise_kwargs: Keyword arguments of the noise
    :param kernel_lr_ratio: What the kernel's learning rate is multiplied by
    :param critic_history: Number of previous observations and actions that the critic sees
        (set by the algorithm, which has an argument of that name)
    :raises ValueError: if the memory is configured in a way that cannot work
    """

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
        state_dim: int = DEFAULT_STATE_DIM,
        state_kernel_class: str | type[StateKernel] = "gru",
        state_kernel_kwargs: dict[str, Any] | None = None,
        state_noise_class: type[GaussianStateNoise] = GaussianStateNoise,
        state_noise_kwargs: dict[str, Any] | None = None,
        kernel_lr_ratio: float = 1.0,
        use_previous_action: bool = True,
        actor_observation: ObservationSelection = None,
        critic_observation: ObservationSelection = None,
        critic_history: int = 0,
        actor_kwargs: dict[str, Any] | None = None,
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
            state_dim=state_dim,
            use_previous_action=use_previous_action,
            actor_observation=actor_observation,
            critic_observation=critic_observation,
        )
        if kernel_lr_ratio < 0:
            raise ValueError(f"kernel_lr_ratio={kernel_lr_ratio} must not be negative (0 freezes the kernel)")
        if share_features_extractor and not self.actor_subset.is_same_as(self.critic_subset):
            raise ValueError("share_features_extractor=True needs an actor and a critic that see the same observation")
        self.net_arch = [256, 256] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.state_kernel_class = get_kernel_class(state_kernel_class)
        self.state_kernel_kwargs = state_kernel_kwargs or {}
        self.state_noise_class = state_noise_class
        self.state_noise_kwargs = state_noise_kwargs or {}
        self.kernel_lr_ratio = kernel_lr_ratio
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
            state_kernel_class=self.state_kernel_class,
            state_kernel_kwargs=self.state_kernel_kwargs,
            state_noise_class=self.state_noise_class,
            state_noise_kwargs=self.state_noise_kwargs,
            kernel_lr_ratio=self.kernel_lr_ratio,
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

        # The kernel has a parameter group of its own; the algorithm's learning rate update reads "lr_ratio"
        kernel_parameters = [] if self.actor.kernel is None else list(self.actor.kernel.parameters())
        in_kernel = {id(parameter) for parameter in kernel_parameters}
        other_parameters = [parameter for parameter in self.actor.parameters() if id(parameter) not in in_kernel]
        learning_rate = lr_schedule(1)
        groups: list[dict[str, Any]] = [{"params": other_parameters, "lr_ratio": 1.0}]
        if kernel_parameters:
            lr = learning_rate * self.kernel_lr_ratio
            groups.append({"params": kernel_parameters, "lr_ratio": self.kernel_lr_ratio, "lr": lr})
        self.actor.optimizer = self.make_optimizer(groups, learning_rate)
        critic_parameters = [
            parameter
            for name, parameter in self.critic.named_parameters()
            if not (self.share_features_extractor and "features_extractor" in name)
        ]
        self.critic.optimizer = self.make_optimizer(critic_parameters, learning_rate)

    def make_optimizer(self, parameters: list[Any], learning_rate: float) -> th.optim.Optimizer:
        """
        :param parameters: Parameters or parameter groups
        :param learning_rate: Learning rate
        :return: The optimizer
        """
        kwargs = dict(self.optimizer_kwargs)
        if self.optimizer_class is th.optim.Adam and not {"foreach", "differentiable", "fused"} & kwargs.keys():
            # Same arithmetic, one kernel instead of a dozen per step
            kwargs["fused"] = True
        return self.optimizer_class(parameters, lr=learning_rate, **kwargs)  # type: ignore[call-arg]

    def make_memory(self, features_dim: int) -> dict[str, Any]:
        """
        :param features_dim: Size of the observation features
        :return: What ``StatefulActorMixin._set_memory`` takes
        """
        input_dim = features_dim + (self.action_features_dim if self.use_previous_action else 0)
        kernel = state_noise = None
        if self.state_dim > 0:
            kernel = self.state_kernel_class(input_dim, self.state_dim, **self.state_kernel_kwargs)
            state_noise = self.state_noise_class(input_dim, self.state_dim, **self.state_noise_kwargs)
        return {"kernel": kernel, "state_noise": state_noise, "use_previous_action": self.use_previous_action}

    def make_features_extractor_for(self, space: spaces.Space) -> BaseFeaturesExtractor:
        """
        :param space: What the actor or the critic sees of the observation
        :return: A new features extractor
        """
        return self.features_extractor_class(space, **self.features_extractor_kwargs)

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
            states_dim=self.state_dim + (self.action_features_dim if self.use_previous_action else 0),
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
        observations = self.critic_subset(recent_observations)
        if isinstance(observations, dict):
            observations = {key: value.flatten(0, 1) for key, value in observations.items()}
        else:
            observations = observations.flatten(0, 1)
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
        n_envs = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        states = th.as_tensor(self.initial_state(n_envs), device=self.device)
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


def checked_state_dim(state_dim: int) -> int:
    """
    :param state_dim: Size of the internal state z
    :return: The same
    :raises ValueError: if it is not an integer >= 0
    """
    if isinstance(state_dim, bool) or not isinstance(state_dim, (int, np.integer)) or state_dim < 0:
        raise ValueError(f"state_dim={state_dim!r} must be an integer >= 0 (0 is a memoryless policy)")
    return int(state_dim)
