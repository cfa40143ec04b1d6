import math
from collections import defaultdict
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from sb3_s2pg.common.on_policy_algorithm import S2PGOnPolicyAlgorithm
from sb3_s2pg.common.rollout_buffers import StatefulRolloutBufferSamples
from sb3_s2pg.ppo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, S2PGPPOPolicy

SelfS2PGPPO = TypeVar("SelfS2PGPPO", bound="S2PGPPO")


class S2PGPPO(S2PGOnPolicyAlgorithm, PPO):
    """
    Proximal Policy Optimization with memory, trained without backpropagation through time:
    PPO on the augmented MDP with state (s, z) and action (a, z'). Minibatches are plain transitions.

    Paper: Time-Efficient Reinforcement Learning with Stochastic Stateful Policies, https://arxiv.org/abs/2311.04082

    Parameters that are not listed are those of SB3's ``PPO``, with the same defaults.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy). Of its ``policy_kwargs``,
        ``state_dim``, ``state_kernel_class``, ``state_kernel_kwargs``, ``state_noise_kwargs``, ``kernel_lr_ratio``,
        ``use_previous_action``, ``actor_observation`` and ``critic_observation`` are described at ``StatefulPolicy``
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param rollout_buffer_class: ``StatefulRolloutBuffer``, ``StatefulDictRolloutBuffer`` or a subclass;
        None for the one that fits the observation
    :param state_ent_coef: Entropy coefficient of z', apart from that of the action (``ent_coef``)
    :raises ValueError: if an argument cannot work; nothing has been trained or overwritten then
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    supported_policy_class = S2PGPPOPolicy

    def __init__(
        self,
        policy: str | type[S2PGPPOPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        state_ent_coef: float = 0.0,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.state_ent_coef = state_ent_coef

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        # Afterwards: in a file of another algorithm it may be anything, and that is what has to be said
        if isinstance(self.state_ent_coef, (str, bool)) or not math.isfinite(self.state_ent_coef):
            raise ValueError(f"state_ent_coef={self.state_ent_coef!r} must be a number")

    def train(self) -> None:
        """Update policy and value function with the current rollout."""
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
            self.logger.record("train/clip_range_vf", clip_range_vf)
        logs: dict[str, list[float]] = defaultdict(list)
        in_memory = {id(parameter) for parameter in self.policy.memory_parameters()}
        parts: dict[str, list[th.nn.Parameter]] = {"grad_norm": [], "memory_grad_norm": []}
        for parameter in self.policy.parameters():
            parts["memory_grad_norm" if id(parameter) in in_memory else "grad_norm"].append(parameter)

        for epoch in range(self.n_epochs):
            for part in ("", "action_", "state_"):
                logs.pop(f"{part}approx_kl", None)  # of the last epoch, as in SB3
            stopped = False
            for batch in self.rollout_buffer.get(self.batch_size):
                loss = self._loss(batch, clip_range, clip_range_vf, logs)
                stopped = self.target_kl is not None and logs["approx_kl"][-1] > 1.5 * self.target_kl
                if stopped:
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {logs['approx_kl'][-1]:.2f}")
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()
                self._clip_gradients(parts, logs)
                self.policy.optimizer.step()
            self._n_updates += 1
            if stopped:
                break

        for name, values in logs.items():
            self.logger.record(f"train/{name}", np.mean(values))
        self.logger.record("train/loss", loss.item())
        buffer = self.rollout_buffer
        self.logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self._log_memory()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)

    def _clip_gradients(self, parts: dict[str, list[th.nn.Parameter]], logs: dict[str, list[float]]) -> None:
        """
        Clip the gradients of the memory (kernel and noise) and those of all other networks to ``max_grad_norm`` each.
        The score of z' is of size 1 / std: in a common norm it would leave next to nothing of the others.

        :param parts: The two lists of parameters, by the name under which their norm is logged
        :param logs: Where to append the norms before clipping
        :raises ValueError: if they are not finite
        """
        for name, parameters in parts.items():
            if parameters:
                norm = th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                logs[name].append(self._check_update("gradient", norm))

    def _loss(
        self,
        batch: StatefulRolloutBufferSamples,
        clip_range: float,
        clip_range_vf: float | None,
        logs: dict[str, list[float]],
    ) -> th.Tensor:
        """
        The clipped surrogate of the joint policy pi(a, z' | o, z), the value loss of V(s, z) and two entropy bonuses.

        :param batch: Batch of the augmented MDP
        :param clip_range: Clipping of the ratio
        :param clip_range_vf: Clipping of the value function, or None
        :param logs: Where to append what is to be logged
        :return: The loss, a scalar
        """
        with self._check_distributions():
            now = self.policy.evaluate_actions(batch.observations, batch.actions, batch.states, batch.next_internal_states)
        advantages = batch.advantages
        # Normalization does not make sense if mini batchsize == 1, see SB3's GH issue #325
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        # Both should be zero at the first minibatch of the first epoch
        log_ratio = now.log_prob - batch.old_log_prob
        state_log_ratio = now.state_log_prob - batch.old_state_log_prob
        ratio = th.exp(log_ratio + state_log_ratio)
        policy_loss = -th.min(advantages * ratio, advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)).mean()

        values = now.values
        if clip_range_vf is not None:
            # NOTE: this depends on the reward scaling
            values = batch.old_values + th.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
        value_loss = F.mse_loss(batch.returns, values)

        # Approximate entropy when there is no analytical form
        entropy_loss = now.log_prob.mean() if now.entropy is None else -now.entropy.mean()
        state_entropy_loss = -now.state_entropy.mean()
        loss = policy_loss + self.vf_coef * value_loss
        for coefficient, term in ((self.ent_coef, entropy_loss), (self.state_ent_coef, state_entropy_loss)):
            if coefficient != 0:  # by default both are, and a gradient that is zero costs as much as any other
                loss = loss + coefficient * term

        self._check_update("loss", loss)
        with th.no_grad():
            logs["policy_gradient_loss"].append(policy_loss.item())
            logs["value_loss"].append(value_loss.item())
            logs["entropy_loss"].append(entropy_loss.item())
            if self.policy.state_dim > 0:
                logs["state_entropy_loss"].append(state_entropy_loss.item())
                logs["state_std"].append(now.state_std.mean().item())
            # Approximate form of reverse KL Divergence, see http://joschu.net/blog/kl-approx.html
            log_ratios = th.stack([log_ratio + state_log_ratio, log_ratio, state_log_ratio])
            differences = th.expm1(log_ratios)
            kl_divergences = (differences - log_ratios).mean(dim=1).tolist()
            clip_fractions = (differences.abs() > clip_range).float().mean(dim=1).tolist()
            for name, kl, clipped in zip(("", "action_", "state_"), kl_divergences, clip_fractions, strict=True):
                if name == "" or self.policy.state_dim > 0:
                    logs[f"{name}approx_kl"].append(kl)
                    logs[f"{name}clip_fraction"].append(clipped)
        return loss

    def learn(
        self: SelfS2PGPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "S2PGPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfS2PGPPO:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
