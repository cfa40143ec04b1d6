from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from sb3_s2pg.common.buffers import StatefulReplayBufferSamples
from sb3_s2pg.common.critics import StatefulCritic
from sb3_s2pg.common.off_policy_algorithm import Logs, S2PGOffPolicyAlgorithm, checked_env, checked_policy_kwargs, frozen
from sb3_s2pg.sac.policies import AugmentedAction, CnnPolicy, MlpPolicy, MultiInputPolicy, S2PGSACActor, S2PGSACPolicy

SelfS2PGSAC = TypeVar("SelfS2PGSAC", bound="S2PGSAC")


class S2PGSAC(S2PGOffPolicyAlgorithm, SAC):
    """
    Soft Actor-Critic with memory, trained without backpropagation through time:
    SAC on the augmented MDP with state (s, z) and action (a, z').

    Paper: Time-Efficient Reinforcement Learning with Stochastic Stateful Policies, https://arxiv.org/abs/2311.04082

    Parameters that are not listed are those of SB3's ``SAC``, with the same defaults.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy). Of its ``policy_kwargs``,
        ``state_dim``, ``state_kernel_class``, ``state_kernel_kwargs``, ``kernel_lr_ratio``, ``use_previous_action``,
        ``actor_observation`` and ``critic_observation`` are described at ``StatefulPolicy`` and
        ``StatefulOffPolicyPolicy``
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param n_steps: Only 1 is possible: z' at t + 1 does not match the observation at t + n
    :param ent_coef: Temperature of the action; 'auto' to learn it, 'auto_0.1' for using 0.1 as initial value
    :param target_entropy: Target of the entropy of the action, 'auto' is -dim(a)
    :param ent_coef_learning_rate: Learning rate of the action's temperature; None for ``learning_rate``
    :param state_ent_coef: Temperature of z', with the same options as ``ent_coef``
    :param target_state_entropy: Target of the entropy of z'; 'auto' is -3 dim(z): memory is better with less noise
    :param state_ent_coef_learning_rate: Learning rate of the temperature of z'; None for ``learning_rate``
    :param state_entropy_in_target: Whether the entropy of z' enters the TD target (off in the paper's runs)
    :param state_refresh_rate: State refresh: how much of a stored z' is replaced by the one that the
        current kernel samples, from 0 (off) to 1
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
    supported_policy_class = S2PGSACPolicy
    policy: S2PGSACPolicy  # type: ignore[assignment]
    actor: S2PGSACActor
    critic: StatefulCritic  # type: ignore[assignment]
    critic_target: StatefulCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[S2PGSACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
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
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        ent_coef_learning_rate: float | Schedule | None = None,
        state_ent_coef: str | float = "auto_0.01",
        target_state_entropy: str | float = "auto",
        state_ent_coef_learning_rate: float | Schedule | None = None,
        state_entropy_in_target: bool = False,
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
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=checked_policy_kwargs(policy_kwargs),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.n_steps = n_steps  # unknown to SB3 before 2.7; anything but 1 is refused
        self.ent_coef_learning_rate = ent_coef_learning_rate
        self.state_ent_coef = state_ent_coef
        self.target_state_entropy = target_state_entropy
        self.state_ent_coef_learning_rate = state_ent_coef_learning_rate
        self.state_entropy_in_target = state_entropy_in_target
        self.state_refresh_rate = state_refresh_rate
        self.critic_history = critic_history
        self.log_state_ent_coef: th.Tensor | None = None
        self.state_ent_coef_optimizer: th.optim.Optimizer | None = None

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        for name in ("ent_coef_learning_rate", "state_ent_coef_learning_rate"):
            check_learning_rate(name, getattr(self, name))
        super()._setup_model()
        if self.target_state_entropy == "auto":
            self.target_state_entropy = -3.0 * self.policy.state_dim
        elif isinstance(self.target_state_entropy, str):
            raise ValueError(f"target_state_entropy={self.target_state_entropy!r} must be a number or 'auto'")
        self.target_state_entropy = float(self.target_state_entropy)

        # As SAC does for the temperature of the action
        init_value = state_temperature(self.state_ent_coef)
        if isinstance(self.state_ent_coef, str) and self.state_ent_coef.startswith("auto"):
            self.log_state_ent_coef = th.log(th.ones(1, device=self.device) * init_value).requires_grad_(True)
            self.state_ent_coef_optimizer = th.optim.Adam([self.log_state_ent_coef], lr=self.lr_schedule(1))
        else:
            self.state_ent_coef_tensor = th.tensor(init_value, device=self.device)

    def _update(self, batch: StatefulReplayBufferSamples, gradient_step: int, logs: Logs) -> th.Tensor:
        # We need to sample because `log_std` may have changed between two gradient steps
        if self.use_sde:
            self.actor.reset_noise()

        sample = self.actor.action_log_prob(self.policy.actor_subset(batch.observations), batch.actor_states)
        self._check_update("log-probability of the policy", (sample.log_prob + sample.state_log_prob).sum())
        ent_coef, state_ent_coef = self._update_temperatures(sample, logs)

        self._optimize(self.critic, self._critic_loss(batch, ent_coef, state_ent_coef), "critic", logs)
        # With the updated critic, as in SB3
        self._optimize(self.actor, self._actor_loss(batch, sample, ent_coef, state_ent_coef), "actor", logs)
        if gradient_step % self.target_update_interval == 0:
            self._update_target(self.critic, self.critic_target)
            # Copy running stats, see SB3's GH issue #996
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

        logs["ent_coef"].append(ent_coef.item())
        logs["state_ent_coef"].append(state_ent_coef.item())
        if self._diagnostics_due and self.policy.state_dim > 0:
            logs["state_entropy"].append(-sample.state_log_prob.mean().item())
        return sample.internal_states.detach()

    def _critic_loss(
        self,
        batch: StatefulReplayBufferSamples,
        ent_coef: th.Tensor,
        state_ent_coef: th.Tensor,
    ) -> th.Tensor:
        """
        TD error of Q(s, z, a, z') (paper, S2PG-SAC).

        :param batch: Batch of the augmented MDP
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: The loss, a scalar
        """
        with th.no_grad():
            next_values = self._next_values(batch, ent_coef, state_ent_coef)
            target_q_values = batch.rewards + (1 - batch.dones) * self.gamma * next_values

        current_q_values = self._current_q_values(batch)
        # The sum over critics of half their mean squared error, as in SB3
        return 0.5 * self.critic.n_critics * F.mse_loss(current_q_values, target_q_values.expand_as(current_q_values))

    def _current_q_values(self, batch: StatefulReplayBufferSamples) -> th.Tensor:
        """
        :param batch: Batch of the augmented MDP
        :return: Q(s, z, a, z') of what was stored, shape (n_critics, batch, 1)
        """
        critic_obs = self.policy.critic_subset(batch.observations)
        stored_internal_states = batch.next_states[:, : self.policy.state_dim]
        return self.critic(critic_obs, batch.states, batch.actions, stored_internal_states, batch.history)

    def _next_values(self, batch: StatefulReplayBufferSamples, ent_coef: th.Tensor, state_ent_coef: th.Tensor) -> th.Tensor:
        """
        :param batch: Batch of the augmented MDP
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: V(s', z') by the target critic, shape (batch, 1)
        """
        return self._values(
            self.critic_target, batch.next_observations, batch.next_states, batch.next_history, ent_coef, state_ent_coef
        )

    def _values(
        self,
        critic: StatefulCritic,
        observations: PyTorchObs,
        states: th.Tensor,
        history: th.Tensor | None,
        ent_coef: th.Tensor,
        state_ent_coef: th.Tensor,
    ) -> th.Tensor:
        """
        V(s, z) = min_i Q_i(s, z, a, z') - alpha log pi_a (- alpha_z log kappa, if it enters the TD target), for one sample of
        (a, z'). Differentiable in the critic's weights only.

        :param critic: The critic
        :param observations: Observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :param history: Critic history
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: Values, shape (batch, 1)
        """
        with th.no_grad():
            sample = self.actor.action_log_prob(self.policy.actor_subset(observations), states)
        critic_obs = self.policy.critic_subset(observations)
        q_values = critic(critic_obs, states, sample.actions, sample.internal_states, history)
        values = q_values.min(dim=0).values - ent_coef * sample.log_prob
        if self.state_entropy_in_target:
            values = values - state_ent_coef * sample.state_log_prob
        return values

    def _actor_loss(
        self,
        batch: StatefulReplayBufferSamples,
        sample: AugmentedAction,
        ent_coef: th.Tensor,
        state_ent_coef: th.Tensor,
    ) -> th.Tensor:
        """
        alpha log pi_a + alpha_z log kappa - min_i Q_i(s, z, a, z') (paper, S2PG-SAC); one time step is all it needs.

        :param batch: Batch of the augmented MDP
        :param sample: (a, z') that the actor samples for it
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: The loss, a scalar; the critic's weights need no gradients here
        """
        with frozen(self.critic):
            critic_obs = self.policy.critic_subset(batch.observations)
            q_values_pi = self.critic(critic_obs, batch.states, sample.actions, sample.internal_states, batch.history)
        min_qf_pi = q_values_pi.min(dim=0).values
        return (ent_coef * sample.log_prob + state_ent_coef * sample.state_log_prob - min_qf_pi).mean()

    def _update_temperatures(self, sample: AugmentedAction, logs: Logs) -> tuple[th.Tensor, th.Tensor]:
        """
        Move each temperature that is learned towards its own target entropy.

        :param sample: (a, z') that the actor samples for a batch
        :param logs: Where to append the losses
        :return: temperature of the action and of z', before this update
        """
        coefficients = []
        for name, log_prob, target in (
            ("ent_coef", sample.log_prob, self.target_entropy),
            ("state_ent_coef", sample.state_log_prob, self.target_state_entropy),
        ):
            optimizer = getattr(self, f"{name}_optimizer")
            if optimizer is None:
                coefficients.append(getattr(self, f"{name}_tensor"))
                continue
            log_coefficient = getattr(self, f"log_{name}")
            coefficients.append(th.exp(log_coefficient.detach()))
            assert isinstance(target, float)
            # Gradient of the loss -(log_coefficient * (log_prob + target)).mean(), which is linear
            log_coefficient.grad = -(log_prob.detach().mean(dim=0) + target)
            logs[f"{name}_loss"].append((log_coefficient.detach() * log_coefficient.grad).item())
            optimizer.step()
        return coefficients[0], coefficients[1]

    def _update_learning_rates(self) -> None:
        super()._update_learning_rates()
        for optimizer, schedule in (
            (self.ent_coef_optimizer, self.ent_coef_learning_rate),
            (self.state_ent_coef_optimizer, self.state_ent_coef_learning_rate),
        ):
            if optimizer is None:
                continue
            if schedule is None:
                schedule = self.lr_schedule
            progress = self._current_progress_remaining
            optimizer.param_groups[0]["lr"] = schedule(progress) if callable(schedule) else schedule

    def learn(
        self: SelfS2PGSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "S2PGSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfS2PGSAC:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, saved_pytorch_variables = super()._get_torch_save_params()
        if self.state_ent_coef_optimizer is not None:
            saved_pytorch_variables.append("log_state_ent_coef")
            state_dicts.append("state_ent_coef_optimizer")
        else:
            saved_pytorch_variables.append("state_ent_coef_tensor")
        return state_dicts, saved_pytorch_variables


def check_learning_rate(name: str, value: float | Schedule | None) -> None:
    """
    :param name: Name of the argument
    :param value: Learning rate, schedule, or None
    :raises ValueError: if it is something else
    """
    if value is not None and not callable(value) and (isinstance(value, (str, bool)) or not value >= 0):
        raise ValueError(f"{name}={value!r} must be a number that is not negative, a schedule, or None")


def state_temperature(state_ent_coef: str | float) -> float:
    """
    :param state_ent_coef: "auto", "auto_<initial value>" or a number
    :return: The (initial) value
    :raises ValueError: if it is something else
    """
    text = str(state_ent_coef)
    try:
        value = 1.0 if text == "auto" else float(text.removeprefix("auto_"))
    except ValueError:
        raise ValueError(f"state_ent_coef={state_ent_coef!r} must be a number, 'auto' or 'auto_0.01'") from None
    if value < 0:
        raise ValueError(f"state_ent_coef={state_ent_coef!r} must not be negative")
    if value == 0 and text.startswith("auto"):
        raise ValueError(f"state_ent_coef={state_ent_coef!r}: the initial value of a learned one must be greater than 0")
    return value
