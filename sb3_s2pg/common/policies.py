"""What all stateful policies share: the state that travels through ``predict``, who sees what, and the actor's memory."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_s2pg.common.actions import ActionEncoder
from sb3_s2pg.common.kernels import KERNELS, StateKernel, check_kernel, get_kernel_class
from sb3_s2pg.common.noise import StateNoise, get_noise_class
from sb3_s2pg.common.observations import ObservationSelection, actor_and_critic_observation, batch_size_of

DEFAULT_STATE_DIM = 32


class StatefulActorMixin:
    """
    The memory of an actor: a state kernel and its noise, kappa(z' | o, z).

    The action head reads the kernel's input and the kernel's mean, so the current observation
    reaches the action in the same step; a and z' are conditionally independent given (o, z).
    """

    kernel: StateKernel | None
    state_noise: StateNoise | None
    state_dim: int
    use_previous_action: bool

    def _set_memory(self, kernel: StateKernel | None, state_noise: StateNoise | None, use_previous_action: bool) -> None:
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

    The state that ``predict`` takes and returns is a float32 array of shape ``(n_envs, state_dim + action features)``:
    z first, then the executed action (a Box scaled to [-1, 1], one-hot for discrete actions).

    :param observation_space: Observation space
    :param action_space: Action space
    :param args: As for ``BasePolicy``
    :param state_dim: Size of the internal state z; 0 for a memoryless policy
    :param state_kernel_class: State kernel, by name or as a class
    :param state_kernel_kwargs: Keyword arguments of the state kernel
    :param state_noise_class: Noise of the state kernel, by name or as a class
    :param state_noise_kwargs: Keyword arguments of the noise
    :param kernel_lr_ratio: What the kernel's learning rate is multiplied by
    :param use_previous_action: Whether kernel, action head, noise and critic read the previous action
    :param actor_observation: Keys (Dict) or indices (Box) that the actor sees; None for all keys but ``privileged``
    :param critic_observation: Keys (Dict) or indices (Box) that the critic sees; None for everything
    :param kwargs: As for ``BasePolicy``
    :raises ValueError: if the memory is configured in a way that cannot work, or the observation does not have those
        keys or indices
    """

    # What the noise is if ``state_noise_kwargs`` do not say otherwise
    default_state_noise_kwargs: ClassVar[dict[str, Any]] = {}
    # Whether z has to lie in (-1, 1)
    needs_bounded_states = False
    # Whether the kernel learns from the score function of its noise
    needs_score = False

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *args: Any,
        state_dim: int = DEFAULT_STATE_DIM,
        state_kernel_class: str | type[StateKernel] = "gru",
        state_kernel_kwargs: dict[str, Any] | None = None,
        state_noise_class: str | type[StateNoise] = "gaussian",
        state_noise_kwargs: dict[str, Any] | None = None,
        kernel_lr_ratio: float = 1.0,
        use_previous_action: bool = True,
        actor_observation: ObservationSelection = None,
        critic_observation: ObservationSelection = None,
        **kwargs: Any,
    ):
        # Before SB3's constructors: some of them build the networks
        self.state_dim = checked_state_dim(state_dim)
        if kernel_lr_ratio < 0:
            raise ValueError(f"kernel_lr_ratio={kernel_lr_ratio} must not be negative (0 freezes the kernel)")
        self.kernel_lr_ratio = kernel_lr_ratio
        self.state_kernel_class = get_kernel_class(state_kernel_class)
        self.state_kernel_kwargs = state_kernel_kwargs or {}
        self.state_noise_class = get_noise_class(state_noise_class)
        if self.needs_score and not self.state_noise_class.has_score:
            raise ValueError(
                f"state_noise_class={self.state_noise_class.__name__}: S2PGPPO and S2PGTRPO could not learn a kernel with "
                "it, its score is zero inside of the support. Use 'gaussian', or S2PGSAC or S2PGTD3"
            )
        self.state_noise_kwargs = {**self.default_state_noise_kwargs, **(state_noise_kwargs or {})}
        self.use_previous_action = use_previous_action
        self.actor_subset, self.critic_subset = actor_and_critic_observation(
            observation_space, actor_observation, critic_observation
        )
        self.encode_actions = ActionEncoder(action_space)
        self.action_features_dim = self.encode_actions.size
        # Size of the part of the state that is read beside z
        self.previous_action_dim = self.action_features_dim if use_previous_action else 0
        self._stateful_kwargs = {
            "state_dim": state_dim,
            "state_kernel_class": self.state_kernel_class,
            "state_kernel_kwargs": self.state_kernel_kwargs,
            "state_noise_class": self.state_noise_class,
            "state_noise_kwargs": self.state_noise_kwargs,
            "kernel_lr_ratio": kernel_lr_ratio,
            "use_previous_action": use_previous_action,
            "actor_observation": actor_observation,
            "critic_observation": critic_observation,
        }
        super().__init__(observation_space, action_space, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._stateful_kwargs}

    def make_memory(self, features_dim: int) -> dict[str, Any]:
        """
        :param features_dim: Size of the observation features
        :return: What ``StatefulActorMixin._set_memory`` takes
        """
        input_dim = features_dim + self.previous_action_dim
        kernel = state_noise = None
        if self.state_dim > 0:
            kernel = self._make_kernel(input_dim)
            state_noise = self.state_noise_class(input_dim, self.state_dim, **self.state_noise_kwargs)
        return {"kernel": kernel, "state_noise": state_noise, "use_previous_action": self.use_previous_action}

    def _make_kernel(self, input_dim: int) -> StateKernel:
        """
        :param input_dim: Size of x
        :return: A new kernel, bounded if need be
        :raises ValueError: if it is not, or does not return what a kernel has to
        """
        kwargs = dict(self.state_kernel_kwargs)
        if self.state_kernel_class.bounded is None:
            kwargs.setdefault("bounded", self.needs_bounded_states)
        kernel = self.state_kernel_class(input_dim, self.state_dim, **kwargs)
        check_kernel(kernel)
        if self.needs_bounded_states and not kernel.bounded:
            raise ValueError(
                f"state_kernel_class={self.state_kernel_class.__name__}, state_kernel_kwargs={self.state_kernel_kwargs}: z "
                f"leaves (-1, 1), where it has to lie here. Use one of {sorted(KERNELS)} without bounded=False, or S2PGPPO"
            )
        return kernel

    def make_features_extractor_for(self, space: spaces.Space) -> BaseFeaturesExtractor:
        """
        :param space: What the actor or the critic sees of the observation
        :return: A new features extractor
        """
        return self.features_extractor_class(space, **self.features_extractor_kwargs)

    def make_optimizer(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, kernel: StateKernel | None = None
    ) -> th.optim.Optimizer:
        """
        :param parameters: What to train
        :param learning_rate: Learning rate
        :param kernel: A kernel among it; its parameters get a group of their own with the learning rate ratio
        :return: The optimizer
        """
        in_kernel = set() if kernel is None else {id(parameter) for parameter in kernel.parameters()}
        parameters = list(parameters)
        groups: list[dict[str, Any]] = []
        for ratio, of_kernel in ((1.0, False), (self.kernel_lr_ratio, True)):
            group = [parameter for parameter in parameters if (id(parameter) in in_kernel) == of_kernel]
            if group:
                # The algorithm's update of learning rates reads "lr_ratio"
                groups.append({"params": group, "lr_ratio": ratio, "lr": learning_rate * ratio})
        kwargs = dict(self.optimizer_kwargs)
        if self.optimizer_class is th.optim.Adam and not {"foreach", "differentiable", "fused"} & kwargs.keys():
            # Same arithmetic, one kernel instead of a dozen per step
            kwargs["fused"] = True
        return self.optimizer_class(groups, lr=learning_rate, **kwargs)  # type: ignore[call-arg]

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
        if any(network.training for network in self.children()):
            self.set_training_mode(False)
        if isinstance(observation, tuple):
            raise ValueError(
                "predict() got a tuple as observation: `obs, info = env.reset()` (Gym) "
                "and `obs = vec_env.reset()` (VecEnv) were probably mixed up"
            )
        obs, vectorized_env = self.obs_to_tensor(self.actor_subset.select_keys(observation))
        state = self.state_at_episode_starts(state, episode_start, batch_size_of(obs))

        with th.no_grad():
            actions_th, internal_states = self._predict_stateful(obs, th.as_tensor(state, device=self.device), deterministic)
        actions = actions_th.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        actions = self.executable_actions(actions)
        next_state = self.make_state(internal_states.cpu().numpy(), self.encode_actions(actions))
        return (actions if vectorized_env else actions.squeeze(axis=0)), next_state

    def executable_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: Actions as the policy samples them, shape (n_envs, *action_shape)
        :return: Actions as the environment takes them
        """
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.squash_output:
            return self.unscale_action(actions)
        # The Gaussian is not bounded, see SB3
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def make_state(self, internal_states: np.ndarray, executed_actions: np.ndarray) -> np.ndarray:
        """
        :param internal_states: z', shape (n_envs, state_dim)
        :param executed_actions: Features of the executed actions (``encode_actions``), shape (n_envs, action features)
        :return: State as ``predict`` takes it, shape (n_envs, state_dim + action features)
        """
        return np.concatenate([internal_states, executed_actions.reshape(len(internal_states), -1)], axis=1, dtype=np.float32)

    def state_at_episode_starts(self, state: np.ndarray | None, episode_start: np.ndarray | None, n_envs: int) -> np.ndarray:
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


def checked_state_dim(state_dim: int) -> int:
    """
    :param state_dim: Size of the internal state z
    :return: The same
    :raises ValueError: if it is not an integer >= 0
    """
    if isinstance(state_dim, bool) or not isinstance(state_dim, (int, np.integer)) or state_dim < 0:
        raise ValueError(f"state_dim={state_dim!r} must be an integer >= 0 (0 is a memoryless policy)")
    return int(state_dim)
