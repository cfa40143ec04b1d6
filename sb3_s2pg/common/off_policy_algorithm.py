"""What off-policy algorithms with an internal state share: how the state travels, who sees what, bad input."""

import contextlib
import io
import pathlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from sb3_s2pg.common.algorithm import StatefulAlgorithm
from sb3_s2pg.common.buffers import (
    EPISODE_START,
    NEXT_INTERNAL_STATE,
    StatefulDictReplayBuffer,
    StatefulReplayBuffer,
    StatefulReplayBufferSamples,
)
from sb3_s2pg.common.critics import StatefulCritic
from sb3_s2pg.common.diagnostics import gradient_norm, state_diagnostics
from sb3_s2pg.common.observations import ObservationSubset, actor_and_critic_observation
from sb3_s2pg.common.off_policy_policies import StatefulOffPolicyPolicy
from sb3_s2pg.common.policies import DEFAULT_STATE_DIM, checked_state_dim

DEFAULT_CRITIC_HISTORY = 8
# Norms and state statistics are for curves: computing them at every step would cost a few per cent
DIAGNOSTICS_EVERY = 25
# What an update has to say, by name: one number per update
Logs: TypeAlias = "defaultdict[str, list[float]]"


class S2PGOffPolicyAlgorithm(StatefulAlgorithm, OffPolicyAlgorithm):
    """
    Mixin for SB3's off-policy algorithms, to be named before them in the list of bases.

    It acts with the policy's state, stores z' with every transition, and hands out batches of the augmented MDP.
    """

    policy: StatefulOffPolicyPolicy
    replay_buffer: StatefulReplayBuffer
    actor: Any
    critic: StatefulCritic
    critic_history: int | None
    state_refresh_rate: float
    # What would be logged, but says nothing about this algorithm
    meaningless_diagnostics: ClassVar[frozenset[str]] = frozenset()
    _last_diagnostics: int = -DIAGNOSTICS_EVERY
    _diagnostics_due: bool = False

    def _setup_model(self) -> None:
        self._check_policy_class()
        n_steps = getattr(self, "n_steps", 1)
        if n_steps != 1:
            raise ValueError(f"n_steps={n_steps} is not possible, use 1: z' at t + 1 does not match the observation at t + n")
        if not 0 <= self.state_refresh_rate <= 1:
            raise ValueError(f"state_refresh_rate={self.state_refresh_rate} must lie between 0 (off) and 1 (replace)")
        state_dim = checked_state_dim(self.policy_kwargs.get("state_dim", DEFAULT_STATE_DIM))
        actor_subset, critic_subset = actor_and_critic_observation(
            self.observation_space,
            self.policy_kwargs.get("actor_observation"),
            self.policy_kwargs.get("critic_observation"),
        )
        self.critic_history = resolve_critic_history(self.critic_history, actor_subset, critic_subset)

        is_dict = isinstance(self.observation_space, spaces.Dict)
        if self.replay_buffer_class is None:
            self.replay_buffer_class = StatefulDictReplayBuffer if is_dict else StatefulReplayBuffer
        elif not issubclass(self.replay_buffer_class, StatefulReplayBuffer):
            raise ValueError(
                f"replay_buffer_class={self.replay_buffer_class.__name__} cannot store internal states, use a subclass of "
                "StatefulReplayBuffer. Hindsight replay (HER) is not supported: z remembers the goal that was pursued, "
                "not the one that is relabelled"
            )
        if is_dict != issubclass(self.replay_buffer_class, StatefulDictReplayBuffer):
            raise ValueError(
                f"replay_buffer_class={self.replay_buffer_class.__name__} does not fit {self.observation_space}: "
                "StatefulDictReplayBuffer is for Dict observations, StatefulReplayBuffer for all others"
            )
        self.replay_buffer_kwargs = {
            **self.replay_buffer_kwargs,
            "state_dim": state_dim,
            "critic_history": self.critic_history,
        }
        # For the construction only: what is saved has to be what the user has given, or load() could not compare the two
        of_user = self.policy_kwargs
        self.policy_kwargs = {**of_user, **self._policy_arguments()}
        super()._setup_model()
        self.policy_kwargs = of_user
        self.replay_buffer.initial_state = self.policy.initial_state(1)[0]
        self.replay_buffer.reward_fn = learned_reward(self.env)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        self.replay_buffer.reward_fn = learned_reward(self.env)

    def _policy_arguments(self) -> dict[str, Any]:
        """:return: Arguments of the algorithm that it passes on to the policy"""
        return {"critic_history": self.critic_history}

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        super().set_parameters(*args, **kwargs)
        # z_0 may be among what was loaded
        self.replay_buffer.initial_state = self.policy.initial_state(1)[0]

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.replay_buffer.size() == 0:
            # Emptied by the user: what comes first must not look like the middle of an episode
            self._last_obs = None
        elif self._last_obs is None and self.optimize_memory_usage:
            # The first observation of the new episode will overwrite the last next observation (SB3's GH issue #46)
            self.replay_buffer.dones[self.replay_buffer.pos - 1] = True
        return super()._setup_learn(*args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Sample (a, z'); only a reaches the environment, z' waits for the transition to be stored.
        During warm-up a is random, z' is not.

        :param learning_starts: Number of steps before learning for the warm-up phase
        :param action_noise: Action noise, added to a only
        :param n_envs: Number of environments
        :return: action to take in the environment and scaled action that will be stored in the replay buffer
        """
        assert self._last_obs is not None and self._last_episode_starts is not None
        actions, next_state = self.policy.predict(
            self._last_obs, state=self._last_state, episode_start=self._last_episode_starts, deterministic=False
        )
        if self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup):
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        scaled_actions = self.policy.scale_action(actions)
        if action_noise is not None:
            scaled_actions = np.clip(scaled_actions + action_noise(), -1, 1)
        self._next_state = self.policy.make_state(next_state[:, : self.policy.state_dim], scaled_actions)
        self._check_finite("internal state", self._next_state[:, : self.policy.state_dim])
        self._check_finite("action", scaled_actions)
        return self.policy.unscale_action(scaled_actions), scaled_actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store the transition together with z' and commit z <- z'; terminal observations and VecNormalize are SB3's affair.

        :param replay_buffer: Replay buffer where to store the transition
        :param buffer_action: Scaled action
        :param new_obs: Next observation, or the first one of the next episode
        :param reward: Reward of the transition
        :param dones: Termination signal
        :param infos: Additional information about the transition
        :raises ValueError: if something is not finite
        """
        assert self._next_state is not None and self._last_episode_starts is not None
        internal_states = self._next_state[:, : self.policy.state_dim]
        self._check_transition(new_obs, reward, dones, infos)
        infos = [
            {**info, NEXT_INTERNAL_STATE: internal_state, EPISODE_START: start}
            for info, internal_state, start in zip(infos, internal_states, self._last_episode_starts, strict=True)
        ]
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._last_state = self._next_state
        # predict() resets the state of these environments when it is used next
        self._last_episode_starts = dones

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        rollout = super().collect_rollouts(*args, **kwargs)
        if not rollout.continue_training:
            # SB3 has stepped the environment, but not stored the transition: start new episodes if learn() is called again
            self._last_obs = None
        return rollout

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update networks and stored states.

        :param gradient_steps: Number of updates
        :param batch_size: Number of transitions per update
        :raises ValueError: if training has diverged
        """
        self.policy.set_training_mode(True)
        self._update_learning_rates()
        logs: Logs = defaultdict(list)

        for gradient_step in range(gradient_steps):
            batch = self._sample_batch(batch_size)
            self._diagnostics_due = abs(self.num_timesteps - self._last_diagnostics) >= DIAGNOSTICS_EVERY

            internal_states = self._update(batch, gradient_step, logs)
            self._n_updates += 1
            if internal_states is None:
                continue
            if self.state_refresh_rate > 0:
                self._refresh_states(batch, internal_states.cpu().numpy())
            if self._diagnostics_due:
                self._last_diagnostics = self.num_timesteps
                if self.policy.state_dim > 0:
                    for name, value in state_diagnostics(batch, internal_states, self.state_refresh_rate).items():
                        logs[name].append(value)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in logs.keys() - self.meaningless_diagnostics:
            self.logger.record(f"train/{name}", np.mean(logs[name]))

    def _sample_batch(self, batch_size: int) -> StatefulReplayBufferSamples:
        """
        :param batch_size: Number of transitions
        :return: Batch of the augmented MDP, normalized, with the critic's history
        """
        return self._with_history(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))

    def _with_history(self, batch: StatefulReplayBufferSamples) -> StatefulReplayBufferSamples:
        """
        :param batch: Batch as a stateful replay buffer samples it
        :return: The same, with the critic's history as the critic reads it
        """
        if batch.recent_observations is None:
            return batch
        assert batch.recent_actions is not None and batch.recent_mask is not None
        history, next_history = self.policy.critic_histories(
            batch.recent_observations, batch.recent_actions, batch.recent_mask
        )
        return batch._replace(history=history, next_history=next_history)

    def _refresh_states(self, batch: StatefulReplayBufferSamples, internal_states: np.ndarray) -> None:
        """
        State refresh.

        :param batch: Batch that has been learned from
        :param internal_states: z' as the current kernel samples it for the batch, shape (batch, state_dim)
        """
        self.replay_buffer.refresh(batch.indices, internal_states, self.state_refresh_rate)

    def _update(self, batch: StatefulReplayBufferSamples, gradient_step: int, logs: Logs) -> th.Tensor | None:
        """
        One update of everything that is learned.

        :param batch: Batch of the augmented MDP
        :param gradient_step: Number of the update within this call of ``train``
        :param logs: Where to append what is to be logged
        :return: z' as the current kernel samples it for the batch, shape (batch, state_dim), for the state refresh;
            None if this update did not sample it
        """
        raise NotImplementedError()

    def _actor_is_due(self) -> bool:
        """:return: Whether the present update is one of the actor, too"""
        return True

    def _update_learning_rates(self) -> None:
        """Apply the schedules."""
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])

    def _optimize(self, network: Any, loss: th.Tensor, name: str, logs: Logs) -> None:
        """
        One step of gradient descent.

        :param network: Actor or critic, with its optimizer
        :param loss: The loss, a scalar
        :param name: "actor" or "critic", for logs and messages
        :param logs: Where to append what is to be logged
        :raises ValueError: if the loss is not finite
        """
        logs[f"{name}_loss"].append(self._check_update(f"{name} loss", loss))
        network.optimizer.zero_grad()
        loss.backward()
        if self._diagnostics_due:
            logs[f"{name}_grad_norm"].append(gradient_norm(network))
            if getattr(network, "kernel", None) is not None:
                logs["kernel_grad_norm"].append(gradient_norm(network.kernel))
        network.optimizer.step()

    def _update_target(self, network: th.nn.Module, target: th.nn.Module) -> None:
        """
        SB3's ``polyak_update`` in one operation.

        :param network: The network
        :param target: The one that follows it
        """
        with th.no_grad():
            th._foreach_lerp_(list(target.parameters()), list(network.parameters()), self.tau)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer from a pickle file.

        :param path: Path to the pickled replay buffer
        :param truncate_last_traj: Of no meaning here, kept for the signature of SB3
        :raises ValueError: if the buffer was saved by another kind of model; the present buffer is kept then
        """
        present = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
        except AssertionError as error:
            raise ValueError(f"{path} does not hold a replay buffer of this model: {error}") from error
        finally:
            loaded, self.replay_buffer = self.replay_buffer, present
        if not isinstance(loaded, StatefulReplayBuffer):
            raise ValueError(
                f"{path} holds a {type(loaded).__name__} without internal states, saved by a memoryless algorithm"
            )
        for name, wanted in {
            "state_dim": present.state_dim,
            "n_envs": self.n_envs,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "optimize_memory_usage": self.optimize_memory_usage,
        }.items():
            if getattr(loaded, name) != wanted:
                raise ValueError(
                    f"The replay buffer in {path} was saved with {name}={getattr(loaded, name)}, "
                    f"this model has {name}={wanted}: load it into a model that was built with the same settings"
                )
        # Settings of the model, not of the data
        loaded.critic_history = present.critic_history
        loaded.initial_state = present.initial_state
        loaded.reward_fn = present.reward_fn
        self.replay_buffer = loaded
        # What comes next does not follow what was loaded
        self._last_obs = None


def resolve_critic_history(
    critic_history: int | None, actor_subset: ObservationSubset, critic_subset: ObservationSubset
) -> int:
    """
    :param critic_history: Number of previous observations and actions that the critic sees, or None for the default
    :param actor_subset: What the actor sees
    :param critic_subset: What the critic sees
    :return: The number to use; by default 0 if the critic sees more than the actor, and for images
    :raises ValueError: if the number is negative, or there are images
    """
    parts = getattr(critic_subset.space, "spaces", {"": critic_subset.space}).values()
    if critic_history is None:
        privileged = bool(critic_subset.entries - actor_subset.entries)
        # By their shape: is_image_space does not recognise normalized images
        has_images = any(len(part.shape or ()) >= 3 for part in parts)
        return 0 if privileged or has_images else DEFAULT_CRITIC_HISTORY
    if isinstance(critic_history, bool) or not isinstance(critic_history, (int, np.integer)) or critic_history < 0:
        raise ValueError(f"critic_history={critic_history!r} must be an integer >= 0, or None for the default")
    if critic_history > 0 and any(is_image_space(part, check_channels=False) for part in parts):
        raise ValueError(f"critic_history={critic_history} does not work with images: use 0 and stack frames (VecFrameStack)")
    return int(critic_history)


def learned_reward(env: VecEnv | None) -> Callable[..., np.ndarray] | None:
    """
    :param env: The environment
    :return: The function that a wrapper (``RewardVecEnvWrapper`` of ``imitation``) replaces the rewards by, None without one
    :raises ValueError: if the function sees images that are laid out in another way than those that are stored
    """
    reward_fn = None if env is None else getattr(env, "reward_fn", None)
    if reward_fn is not None and isinstance(env, VecTransposeImage):
        raise ValueError(
            "The learned reward sees images with the channels last, the replay buffer holds them with the channels first: "
            "wrap the environment in VecTransposeImage before it is given to the trainer"
        )
    return reward_fn


def checked_env(env: GymEnv | str | None, name: str, verbose: int = 0) -> GymEnv | None:
    """
    Make the environment if it is an id, and check its action space before anything is built.

    :param env: Environment or id, None when a model is loaded
    :param name: Name of the algorithm, for the message
    :param verbose: Verbosity level
    :return: The environment
    :raises ValueError: if the actions are not a bounded Box
    """
    if env is None:
        return None
    made = maybe_make_env(env, verbose)
    space = made.action_space
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{name} needs a Box action space, not {space}: S2PGPPO is the algorithm for discrete actions")
    if not np.isfinite([space.low, space.high]).all():
        raise ValueError(
            f"{name} needs a bounded action space, not {space}: wrap the environment in RescaleAction or ClipAction"
        )
    return made


def checked_policy_kwargs(
    policy_kwargs: dict[str, Any] | None, reserved: tuple[str, ...] = ("critic_history",)
) -> dict[str, Any] | None:
    """
    :param policy_kwargs: What the user passes on to the policy
    :param reserved: What is an argument of the algorithm, which passes it on itself
    :return: A copy: SB3 writes into it, and the user may pass the same dict to another algorithm
    :raises ValueError: if there is something in it that is an argument of the algorithm
    """
    for name in reserved:
        if policy_kwargs is not None and name in policy_kwargs:
            raise ValueError(f"policy_kwargs={policy_kwargs}: {name} is an argument of the algorithm, pass it there")
    return None if policy_kwargs is None else dict(policy_kwargs)


@contextlib.contextmanager
def frozen(module: th.nn.Module) -> Iterator[None]:
    """
    What is computed inside is differentiable in its inputs, not in the weights of the module.

    :param module: The module
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
