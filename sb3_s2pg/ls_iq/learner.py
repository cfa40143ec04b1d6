"""The learner inside of LS-IQ: S2PG-SAC with another critic loss, which reads demonstrations instead of rewards."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from imitation.data import types
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch.nn import functional as F

from sb3_s2pg.common.buffers import EPISODE_START, NEXT_INTERNAL_STATE, StatefulReplayBuffer, StatefulReplayBufferSamples
from sb3_s2pg.common.demonstrations import check_demonstrations, ends_at_time_limit, rows, time_limit_of
from sb3_s2pg.sac import S2PGSAC
from sb3_s2pg.sac.policies import S2PGSACPolicy
from sb3_s2pg.sac.sac import check_learning_rate

# (next observations as the environment returns them, terminated) -> whether they are absorbing; one row per transition
AbsorbingFunction = Callable[[Any, np.ndarray], np.ndarray]

CHOICES = {
    "loss": ("sqil_like", "iq_like"),
    "expert_target": ("fix", "bootstrap"),
    "regression": ("mse", "huber"),
    "policy_value": ("q", "v"),
    "regularize": ("both", "expert", "policy"),
}

# What the authors of S2PG train Humanoid with, for 1M steps
HUMANOID: dict[str, Any] = {
    "loss": "sqil_like",
    "expert_target": "fix",
    "regression": "mse",
    "policy_value": "q",
    "reg_mult": 0.5,
    "treat_absorbing": True,
    "learning_rate": 1e-4,
    "critic_learning_rate": 3e-4,
    "ent_coef": "auto_1.0",
    "ent_coef_learning_rate": 3e-4,
    "state_ent_coef": "auto_0.01",
    "state_ent_coef_learning_rate": 3e-4,
    "target_state_entropy": -32.0,
    "batch_size": 256,
    "expert_batch_size": 256,
    "tau": 0.005,
    "policy_kwargs": {
        "state_dim": 32,
        "use_previous_action": False,
        "state_noise_kwargs": {"log_std_min": -5.0, "log_std_max": 2.0},
    },
}


class LSIQSAC(S2PGSAC):
    """
    S2PG-SAC whose critic learns from demonstrations by least-squares inverse Q-learning. The environment's rewards are
    not used. ``LSIQ`` is the way to use it; ``S2PGSAC.load`` reads what it saves, to act without demonstrations.

    Papers: LS-IQ: Implicit Reward Regularization for Inverse Reinforcement Learning, https://arxiv.org/abs/2303.00599;
    with memory: https://arxiv.org/abs/2311.04082

    With c = ``reg_mult``, r_max = -r_min = 1/c, Q_max = -Q_min = 1/(c (1 - gamma)) and
    y = (1 - absorbing) gamma clip(Vbar(s', z'), Q_min, Q_max):

    - ``sqil_like``: the expert's Q(s, z, a, z') is regressed to Q_max ("fix") or r_max + y ("bootstrap"),
      the policy's Q or V to r_min + y
    - ``iq_like``: -E_expert[Q - y] (or the regression to Q_max) + E_both[V - y] + c E[(Q - y)^2]

    An absorbing state lasts for ever. So the reward of a transition into one counts r / (1 - gamma); where the loss takes
    the reward from Q, it is (1 - gamma) Q there instead of Q - y (and (1 - gamma) V instead of V - y).

    The internal states of the demonstrations are made by rolling the kernel, with its noise, along each trajectory from z_0
    on. From then on they are refreshed like those of the replay buffer, and as often: each of the expert's transitions is
    drawn more often than each of the policy's, and if its z were fresher, that would tell the critic whose it is. For the
    same reason the demonstrations are not rolled again in training.

    Parameters that are not listed are those of ``S2PGSAC``, with the same defaults, but there is one critic and nothing reads
    the previous action (``policy_kwargs=dict(n_critics=1, use_previous_action=False)``): the noise in it would tell the policy
    from the expert, whatever the policy does next.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment to learn from
    :param loss: "sqil_like" or "iq_like"
    :param expert_target: What the expert's Q is drawn to: "bootstrap", or "fix", which the authors use for their 1M steps and
        which learns much more slowly at the start: every action at a state of the expert's looks as good as any
    :param regression: "mse" or "huber"
    :param policy_value: Whether the policy's "q" or "v" is regressed (``sqil_like``)
    :param regularize: Over whose transitions the regularizer is averaged: "both", "expert" or "policy" (``iq_like``)
    :param reg_mult: c, the weight of the regularizer; rewards lie within +-1/c
    :param clip_q: Whether to clip Vbar
    :param treat_absorbing: Whether absorbing states last for ever; else nothing comes after them
    :param absorbing_fn: Says which transitions lead into an absorbing state: ``absorbing_fn(next_observations, terminated)``,
        one row per transition, observations as the environment returns them. By default those that are terminated,
        which a time-limit does not count as
    :param critic_learning_rate: Learning rate (or schedule) of the critic; None for ``learning_rate``
    :param expert_batch_size: Number of the expert's transitions per update, next to ``batch_size`` of the policy's
    :param kwargs: As for ``S2PGSAC``
    :raises ValueError: if an argument cannot work
    """

    def __init__(
        self,
        policy: str | type[S2PGSACPolicy],
        env: GymEnv | str,
        *,
        loss: str = "sqil_like",
        expert_target: str = "bootstrap",
        regression: str = "mse",
        policy_value: str = "q",
        regularize: str = "both",
        reg_mult: float = 0.5,
        clip_q: bool = True,
        treat_absorbing: bool = True,
        absorbing_fn: AbsorbingFunction | None = None,
        critic_learning_rate: float | Schedule | None = None,
        expert_batch_size: int = 256,
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        policy_kwargs = {"n_critics": 1, "use_previous_action": False, **(policy_kwargs or {})}
        super().__init__(policy, env, policy_kwargs=policy_kwargs, _init_setup_model=False, **kwargs)
        self.loss = loss
        self.expert_target = expert_target
        self.regression = regression
        self.policy_value = policy_value
        self.regularize = regularize
        self.reg_mult = reg_mult
        self.clip_q = clip_q
        self.treat_absorbing = treat_absorbing
        self.absorbing_fn = absorbing_fn
        self.critic_learning_rate = critic_learning_rate
        self.expert_batch_size = expert_batch_size
        self.expert_buffer: StatefulReplayBuffer | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {list(choices)}")
        if not self.reg_mult > 0:
            raise ValueError(f"reg_mult={self.reg_mult} must be greater than 0: rewards lie within 1 / reg_mult")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma={self.gamma} must be less than 1: Q lies within 1 / (reg_mult (1 - gamma))")
        if not self.expert_batch_size >= 1:
            raise ValueError(f"expert_batch_size={self.expert_batch_size} must be at least 1")
        if self.absorbing_fn is not None and self.optimize_memory_usage:
            raise ValueError("absorbing_fn needs the last observations of episodes, which optimize_memory_usage=True drops")
        check_learning_rate("critic_learning_rate", self.critic_learning_rate)
        super()._setup_model()

    def set_demonstrations(self, trajectories: Sequence[types.Trajectory]) -> None:
        """
        :param trajectories: Demonstrations; observations as the environment returns them, not normalized
        :raises ValueError: if they do not fit; earlier ones are kept then
        """
        check_demonstrations(trajectories, self.observation_space, self.action_space)
        buffer = self.replay_buffer_class(  # type: ignore[misc]
            sum(map(len, trajectories)),
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=1,
            **self.replay_buffer_kwargs,
        )
        assert isinstance(buffer, StatefulReplayBuffer)
        buffer.initial_state = self.replay_buffer.initial_state
        time_limit = None if self.env is None else time_limit_of(self.env)
        for trajectory in trajectories:
            self._add_demonstration(buffer, trajectory, ends_at_time_limit(trajectory, time_limit))
        self.expert_buffer = buffer
        self.roll_expert_states()

    def _add_demonstration(self, buffer: StatefulReplayBuffer, trajectory: types.Trajectory, at_time_limit: bool) -> None:
        """
        :param buffer: Where to add it
        :param trajectory: A demonstration
        :param at_time_limit: Whether a time-limit ended it
        """
        observations = types.maybe_unwrap_dictobs(trajectory.obs)
        actions = self.policy.scale_action(np.clip(trajectory.acts, self.action_space.low, self.action_space.high))  # type: ignore[attr-defined]
        for step, action in enumerate(actions):
            obs, next_obs = (rows(observations, at) for at in (step, step + 1))
            is_last = step == len(trajectory) - 1
            info = {
                NEXT_INTERNAL_STATE: np.zeros(self.policy.state_dim),  # until the kernel is rolled along
                EPISODE_START: step == 0,
                "TimeLimit.truncated": is_last and at_time_limit,
            }
            done = np.array([is_last and trajectory.terminal])
            buffer.add(obs, next_obs, action[None], np.zeros(1), done, [info])
            self._mark_absorbing(buffer)

    def _mark_absorbing(self, buffer: StatefulReplayBuffer) -> None:
        """
        Let ``absorbing_fn`` decide for the transition that was added last.

        :param buffer: Replay buffer or expert buffer
        :raises ValueError: if ``absorbing_fn`` does not return a flag per transition
        """
        if self.absorbing_fn is None:
            return
        at = (buffer.pos - 1) % buffer.buffer_size
        next_obs = rows(buffer.next_observations, at)
        terminated = (buffer.dones[at] * (1 - buffer.timeouts[at])).astype(bool)
        absorbing = np.asarray(self.absorbing_fn(next_obs, terminated))
        if absorbing.shape != terminated.shape:
            raise ValueError(
                f"absorbing_fn returned the shape {absorbing.shape}, one flag per row is needed: {terminated.shape}"
            )
        # sample() hands out done and not timeout; episodes are told apart by other means
        buffer.dones[at], buffer.timeouts[at] = absorbing, False

    def _store_transition(self, replay_buffer: Any, *args: Any, **kwargs: Any) -> None:
        super()._store_transition(replay_buffer, *args, **kwargs)
        self._mark_absorbing(replay_buffer)

    def roll_expert_states(self) -> None:
        """Roll the kernel along every demonstration, and store what z' it samples."""
        buffer = self.expert_buffer
        assert buffer is not None
        if self.policy.state_dim == 0:
            return
        training = self.policy.training
        self.policy.set_training_mode(False)
        starts = np.flatnonzero(buffer.episode_starts[:, 0])
        lengths = np.diff([*starts, buffer.buffer_size])
        for step in range(lengths.max()):
            positions = starts[lengths > step] + step
            # z of this step is what the last step has just stored
            batch = buffer._get_samples(positions, env=self._vec_normalize_env, env_indices=np.zeros_like(positions))
            with th.no_grad():
                _, internal_states = self.actor(self.policy.actor_subset(batch.observations), batch.states)
            buffer.refresh(batch.indices, internal_states.cpu().numpy(), rate=1.0)
        self.policy.set_training_mode(training)

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        super().set_parameters(*args, **kwargs)
        if self.expert_buffer is not None:
            self.expert_buffer.initial_state = self.replay_buffer.initial_state
            self.roll_expert_states()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.expert_buffer is None:
            raise ValueError(
                "There are no demonstrations to learn from (they are not saved with a model): set_demonstrations()"
            )
        return super()._setup_learn(*args, **kwargs)

    def _sample_batch(self, batch_size: int) -> StatefulReplayBufferSamples:
        """
        :param batch_size: Number of the policy's transitions
        :return: ``expert_batch_size`` of the expert's transitions, then those of the policy
        """
        assert self.expert_buffer is not None
        expert = self._with_history(self.expert_buffer.sample(self.expert_batch_size, env=self._vec_normalize_env))
        return StatefulReplayBufferSamples(*_joined([expert, super()._sample_batch(batch_size)]))

    def _refresh_states(self, batch: StatefulReplayBufferSamples, internal_states: np.ndarray) -> None:
        assert self.expert_buffer is not None
        n = self.expert_batch_size
        # How often a transition is drawn per update: whoever is drawn more often is refreshed only sometimes (see the class)
        rates = [n / self.expert_buffer.size(), (len(internal_states) - n) / (self.replay_buffer.size() * self.n_envs)]
        is_refreshed = np.ones(len(internal_states), dtype=bool)
        is_refreshed[:n] = np.random.random(n) < rates[1] / rates[0]
        is_refreshed[n:] = np.random.random(len(internal_states) - n) < rates[0] / rates[1]
        for buffer, part in ((self.expert_buffer, slice(None, n)), (self.replay_buffer, slice(n, None))):
            chosen = np.flatnonzero(is_refreshed[part])
            positions, envs = (each[part][chosen] for each in batch.indices)
            buffer.refresh((positions, envs), internal_states[part][chosen], self.state_refresh_rate)

    def _critic_loss(self, batch: StatefulReplayBufferSamples, ent_coef: th.Tensor, state_ent_coef: th.Tensor) -> th.Tensor:
        """
        Loss of Q(s, z, a, z') (see the class).

        :param batch: The expert's transitions, then the policy's
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: The loss, a scalar
        """
        q_max = 1 / (self.reg_mult * (1 - self.gamma))
        with th.no_grad():
            next_values = self._next_values(batch, ent_coef, state_ent_coef)
            if self.clip_q:
                next_values = next_values.clamp(-q_max, q_max)
            y = (1 - batch.dones) * self.gamma * next_values
        q_values = self._current_q_values(batch)
        if self._diagnostics_due:
            n = self.expert_batch_size
            self.logger.record_mean("train/expert_q_value", q_values[:, :n].mean().item())
            self.logger.record_mean("train/policy_q_value", q_values[:, n:].mean().item())
        if self.loss == "sqil_like":
            return self._sqil_like_loss(batch, q_values, y, q_max, ent_coef, state_ent_coef)
        return self._iq_like_loss(batch, q_values, y, q_max, ent_coef, state_ent_coef)

    def _sqil_like_loss(
        self,
        batch: StatefulReplayBufferSamples,
        q_values: th.Tensor,
        y: th.Tensor,
        q_max: float,
        ent_coef: th.Tensor,
        state_ent_coef: th.Tensor,
    ) -> th.Tensor:
        """
        :param batch: The expert's transitions, then the policy's
        :param q_values: Their Q, shape (n_critics, batch, 1)
        :param y: Discounted values of what follows, shape (batch, 1)
        :param q_max: Q_max
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: The loss, a scalar
        """
        n = self.expert_batch_size
        steps = 1 + batch.dones * (1 / (1 - self.gamma) - 1) if self.treat_absorbing else th.ones_like(y)
        expert_targets = th.full_like(y[:n], q_max) if self.expert_target == "fix" else steps[:n] / self.reg_mult + y[:n]
        policy_targets = y[n:] - steps[n:] / self.reg_mult
        policy_values = q_values[:, n:]
        if self.policy_value == "v":
            policy_values = self._current_values(batch, ent_coef, state_ent_coef)[n:].expand_as(policy_values)
        return self._regression(q_values[:, :n], expert_targets) + self._regression(policy_values, policy_targets)

    def _iq_like_loss(
        self,
        batch: StatefulReplayBufferSamples,
        q_values: th.Tensor,
        y: th.Tensor,
        q_max: float,
        ent_coef: th.Tensor,
        state_ent_coef: th.Tensor,
    ) -> th.Tensor:
        """
        :param batch: The expert's transitions, then the policy's
        :param q_values: Their Q, shape (n_critics, batch, 1)
        :param y: Discounted values of what follows, shape (batch, 1)
        :param q_max: Q_max
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: The loss, a scalar
        """
        n = self.expert_batch_size
        values = self._current_values(batch, ent_coef, state_ent_coef)
        rewards, value_steps = q_values - y, values - y
        if self.treat_absorbing:
            absorbing = batch.dones > 0
            rewards = th.where(absorbing, (1 - self.gamma) * q_values, rewards)
            value_steps = th.where(absorbing, (1 - self.gamma) * values, value_steps)
        if self.expert_target == "fix":
            expert_loss = self._regression(q_values[:, :n], th.full_like(y[:n], q_max))
        else:
            expert_loss = -rewards[:, :n].mean()
        squares = [rewards[:, :n].square().mean(), rewards[:, n:].square().mean()]
        regularizer = {"expert": squares[0], "policy": squares[1], "both": 0.5 * (squares[0] + squares[1])}[self.regularize]
        # Each half counts the same, whatever the sizes of the batches
        return expert_loss + 0.5 * (value_steps[:n].mean() + value_steps[n:].mean()) + self.reg_mult * regularizer

    def _regression(self, values: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """
        :param values: Shape (n_critics, batch, 1)
        :param targets: Shape (batch, 1)
        :return: Their distance, a scalar
        """
        distance = F.mse_loss if self.regression == "mse" else F.huber_loss
        return distance(values, targets.expand_as(values))

    def _current_values(self, batch: StatefulReplayBufferSamples, ent_coef: th.Tensor, state_ent_coef: th.Tensor) -> th.Tensor:
        """
        :param batch: Batch of the augmented MDP
        :param ent_coef: Temperature of the action
        :param state_ent_coef: Temperature of z'
        :return: V(s, z) by the critic, shape (batch, 1)
        """
        return self._values(self.critic, batch.observations, batch.states, batch.history, ent_coef, state_ent_coef)

    def _update_learning_rates(self) -> None:
        super()._update_learning_rates()
        rate = self.critic_learning_rate
        if rate is None:
            return
        for group in self.critic.optimizer.param_groups:
            group["lr"] = rate(self._current_progress_remaining) if callable(rate) else rate

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "expert_buffer"]


def _joined(parts: Sequence[Any]) -> Any:
    """
    :param parts: Batches, or the same field of each: tensors, arrays, tuples or dicts of them, or None
    :return: One after the other
    """
    kind = parts[0]
    if kind is None:
        return None
    if isinstance(kind, dict):
        return {key: _joined([part[key] for part in parts]) for key in kind}
    if isinstance(kind, tuple):
        return tuple(_joined(fields) for fields in zip(*parts, strict=True))
    return np.concatenate(parts) if isinstance(kind, np.ndarray) else th.cat(list(parts))
