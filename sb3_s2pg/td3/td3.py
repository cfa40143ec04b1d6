from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from sb3_s2pg.common.buffers import StatefulReplayBufferSamples
from sb3_s2pg.common.critics import StatefulCritic
from sb3_s2pg.common.off_policy_algorithm import Logs, S2PGOffPolicyAlgorithm, checked_env, checked_policy_kwargs, frozen
from sb3_s2pg.td3.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, S2PGTD3Actor, S2PGTD3Policy

SelfS2PGTD3 = TypeVar("SelfS2PGTD3", bound="S2PGTD3")


class S2PGTD3(S2PGOffPolicyAlgorithm, TD3):
    """
    Twin Delayed DDPG with memory, trained without backpropagation through time:
    TD3 on the augmented MDP with state (s, z) and action (a, z').

    Paper: Time-Efficient Reinforcement Learning with Stochastic Stateful Policies, https://arxiv.org/abs/2311.04082

    Parameters that are not listed are those of SB3's ``TD3``, with the defaults of its newest version.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy). Of its ``policy_kwargs``,
        ``state_dim``, ``state_kernel_class``, ``state_kernel_kwargs``, ``kernel_lr_ratio``, ``use_previous_action``,
        ``actor_observation`` and ``critic_observation`` are described at ``StatefulPolicy``
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param action_noise: Exploration noise on a
    :param n_steps: Only 1 is possible: z' at t + 1 does not match the observation at t + n
    :param state_noise: Std of the exploration noise on z', 0 for none. Here and below, the kernel may scale the noise
    :param target_state_noise: Std of the smoothing noise on the target's z'; None for half of ``state_noise``
    :param target_state_noise_clip: Largest smoothing noise on the target's z'; None for 2.5 times its std
    :param state_refresh_rate: State refresh: how much of a stored z' is replaced by the one that the
        current kernel (with exploration noise) returns, from 0 (off) to 1; happens with the policy's delayed updates
    :param critic_history: Number of previous observations and actions of the episode that the critic sees;
        without privileged information Q(o, z, a, z') alone is not Markov.
        None for 0 if the critic sees more than the actor and for images, else 8. The policy never needs it
    :raises ValueError: if an argument cannot work; nothing has been trained or overwritten then
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    supported_policy_class = S2PGTD3Policy
    policy: S2PGTD3Policy  # type: ignore[assignment]
    actor: S2PGTD3Actor
    actor_target: S2PGTD3Actor
    critic: StatefulCritic  # type: ignore[assignment]
    critic_target: StatefulCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[S2PGTD3Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,  # 1e6
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        state_noise: float = 0.05,
        target_state_noise: float | None = None,
        target_state_noise_clip: float | None = None,
        state_refresh_rate: float = 1.0,
        critic_history: int | None = None,
    ):
        super().__init__(
            policy,  # type: ignore[arg-type]
            checked_env(env, type(self).__name__, verbose),  # type: ignore[arg-type]
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            policy_delay=policy_delay,
            target_policy_noise=target_policy_noise,
            target_noise_clip=target_noise_clip,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=checked_policy_kwargs(policy_kwargs, ("critic_history", "exploration_state_std")),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.n_steps = n_steps  # unknown to SB3 before 2.7; anything but 1 is refused
        self.state_noise = state_noise
        self.target_state_noise = target_state_noise
        self.target_state_noise_clip = target_state_noise_clip
        self.state_refresh_rate = state_refresh_rate
        self.critic_history = critic_history

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        for name in ("state_noise", "target_state_noise", "target_state_noise_clip"):
            value = getattr(self, name)
            by_default = value is None and name != "state_noise"
            if not by_default and (not isinstance(value, (int, float)) or not value >= 0):
                raise ValueError(f"{name}={value!r} must be a number that is not negative (0 is no noise)")
        super()._setup_model()

    def _policy_arguments(self) -> dict[str, Any]:
        return {**super()._policy_arguments(), "exploration_state_std": self.state_noise}

    def _update(self, batch: StatefulReplayBufferSamples, gradient_step: int, logs: Logs) -> th.Tensor | None:
        self._optimize(self.critic, self._critic_loss(batch), "critic", logs)
        if not self._actor_is_due():
            return None

        actor_loss, internal_states = self._actor_loss(batch)
        self._optimize(self.actor, actor_loss, "actor", logs)
        self._update_target(self.critic, self.critic_target)
        self._update_target(self.actor, self.actor_target)
        # Copy running stats, see SB3's GH issue #996
        polyak_update(self.critic_batch_norm_stats, self.critic_batch_norm_stats_target, 1.0)
        polyak_update(self.actor_batch_norm_stats, self.actor_batch_norm_stats_target, 1.0)
        return internal_states

    def _actor_is_due(self) -> bool:
        # Delayed policy updates
        return (self._n_updates + 1) % self.policy_delay == 0

    def _critic_loss(self, batch: StatefulReplayBufferSamples) -> th.Tensor:
        """
        TD error of Q(s, z, a, z'), with smoothing noise on both a and z' of the target (paper, S2PG-TD3).

        :param batch: Batch of the augmented MDP
        :return: The loss, a scalar
        """
        std = 0.5 * self.state_noise if self.target_state_noise is None else self.target_state_noise
        clip = 2.5 * std if self.target_state_noise_clip is None else self.target_state_noise_clip
        with th.no_grad():
            next_actions, next_internal_states, unit = self.actor_target(
                self.policy.actor_subset(batch.next_observations), batch.next_states
            )
            next_internal_states = self.actor_target.add_noise(next_internal_states, unit, std, clip)
            noise = th.randn_like(next_actions) * self.target_policy_noise
            next_actions = (next_actions + noise.clamp(-self.target_noise_clip, self.target_noise_clip)).clamp(-1, 1)
            next_q_values = self.critic_target(
                self.policy.critic_subset(batch.next_observations),
                batch.next_states,
                next_actions,
                next_internal_states,
                batch.next_history,
            )
            target_q_values = batch.rewards + (1 - batch.dones) * self.gamma * next_q_values.min(dim=0).values

        critic_obs = self.policy.critic_subset(batch.observations)
        stored_internal_states = batch.next_states[:, : self.policy.state_dim]
        current_q_values = self.critic(critic_obs, batch.states, batch.actions, stored_internal_states, batch.history)
        # The sum over critics of their mean squared error, as in SB3
        return self.critic.n_critics * F.mse_loss(current_q_values, target_q_values.expand_as(current_q_values))

    def _actor_loss(self, batch: StatefulReplayBufferSamples) -> tuple[th.Tensor, th.Tensor]:
        """
        -Q_1(s, z, mu_a(o, z), mu_z(o, z)): the deterministic policy gradient in (a, z'); one time step is all it needs.

        :param batch: Batch of the augmented MDP
        :return: the loss, a scalar, and z' with exploration noise, detached, shape (batch, state_dim)
        """
        actions, internal_states, unit = self.actor(self.policy.actor_subset(batch.observations), batch.actor_states)
        with frozen(self.critic):
            critic_obs = self.policy.critic_subset(batch.observations)
            q_values = self.critic(critic_obs, batch.states, actions, internal_states.clamp(-1, 1), batch.history, n_critics=1)
        with th.no_grad():
            explored = self.actor.add_noise(internal_states, unit, self.state_noise)
        return -q_values.mean(), explored

    def learn(
        self: SelfS2PGTD3,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "S2PGTD3",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfS2PGTD3:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
