"""What on-policy algorithms with an internal state share: rollouts of the augmented MDP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.common.algorithm import DIVERGED, StatefulAlgorithm
from sb3_s2pg.common.observations import map_observations
from sb3_s2pg.common.policies import DEFAULT_STATE_DIM, checked_state_dim
from sb3_s2pg.common.rollout_buffers import StatefulDictRolloutBuffer, StatefulRolloutBuffer

if TYPE_CHECKING:
    from sb3_s2pg.ppo.policies import S2PGPPOPolicy

# After a rollout its values and log-probabilities are computed in batches of this size
EVALUATION_BATCH_SIZE = 1024


class S2PGOnPolicyAlgorithm(StatefulAlgorithm, OnPolicyAlgorithm):
    """
    Mixin for SB3's on-policy algorithms, to be named before them in the list of bases.

    It acts with the policy's state and fills the rollout buffer with transitions of the augmented MDP.
    """

    policy: "S2PGPPOPolicy"
    rollout_buffer: StatefulRolloutBuffer

    def _setup_model(self) -> None:
        self._check_policy_class()
        is_dict = isinstance(self.observation_space, spaces.Dict)
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = StatefulDictRolloutBuffer if is_dict else StatefulRolloutBuffer
        elif not issubclass(self.rollout_buffer_class, StatefulRolloutBuffer):
            raise ValueError(
                f"rollout_buffer_class={self.rollout_buffer_class.__name__} cannot store internal states, "
                "use a subclass of StatefulRolloutBuffer"
            )
        if is_dict != issubclass(self.rollout_buffer_class, StatefulDictRolloutBuffer):
            raise ValueError(
                f"rollout_buffer_class={self.rollout_buffer_class.__name__} does not fit {self.observation_space}: "
                "StatefulDictRolloutBuffer is for Dict observations, StatefulRolloutBuffer for all others"
            )
        state_dim = checked_state_dim(self.policy_kwargs.get("state_dim", DEFAULT_STATE_DIM))
        self.rollout_buffer_kwargs = {
            **self.rollout_buffer_kwargs,
            "states_dim": state_dim + spaces.flatdim(self.action_space),
            "state_dim": state_dim,
        }
        super()._setup_model()

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Collect transitions of the augmented MDP, as SB3 does for plain ones: only a reaches the environment.

        :param env: The training environment
        :param callback: Callback that will be called at each step (and at the beginning and end of the rollout)
        :param rollout_buffer: Buffer to fill
        :param n_rollout_steps: Number of steps to collect per environment
        :return: Whether training goes on: False if the callback stopped it
        :raises ValueError: if something is not finite
        """
        assert self._last_obs is not None and self._last_state is not None and self._last_episode_starts is not None
        assert isinstance(rollout_buffer, StatefulRolloutBuffer)
        # Switch to eval mode (this affects batch norm / dropout)
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        # Values and log-probabilities are computed afterwards, in a few large batches
        later = th.zeros(env.num_envs)
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()

        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)

            state = self.policy.state_at_episode_starts(self._last_state, self._last_episode_starts, env.num_envs)
            with th.no_grad(), self._check_distributions():
                obs_tensor = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
                sampled = self.policy.sample(obs_tensor, th.as_tensor(state, device=self.device))
            actions, internal_states = (tensor.cpu().numpy() for tensor in sampled)
            self._check_finite("internal state", internal_states)
            self._check_finite("action", actions)
            # A name that SB3's callbacks may look for among the local variables
            clipped_actions = self.policy.executable_actions(actions)
            next_state = self.policy.make_state(internal_states, self.policy.encode_actions(clipped_actions))

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs

            # Give access to local variables
            callback.update_locals(locals())
            if not callback.on_step():
                # The environment has been stepped, but nothing is stored: start new episodes if learn() is called again
                self._last_obs = None
                return False

            self._update_info_buffer(infos, dones)
            self._check_transition(new_obs, rewards, dones, infos)
            # A time-limit is not the end of the task: bootstrap from V(terminal observation, z')
            for idx in np.flatnonzero(dones):
                if infos[idx].get("TimeLimit.truncated", False) and infos[idx].get("terminal_observation") is not None:
                    terminal_obs, _ = self.policy.obs_to_tensor(infos[idx]["terminal_observation"])
                    with th.no_grad():
                        terminal_state = th.as_tensor(next_state[idx : idx + 1], device=self.device)
                        rewards[idx] += self.gamma * self.policy.predict_values(terminal_obs, terminal_state).item()

            starts = self._last_episode_starts
            rollout_buffer.add(self._last_obs, actions, rewards, starts, later, later, state, internal_states)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_state = next_state
            # The state of these environments is reset when it is used next
            self._last_episode_starts = dones

        self._evaluate_rollout(rollout_buffer)
        with th.no_grad():
            # Where an episode has ended, the value is multiplied by zero
            obs_tensor = obs_as_tensor(new_obs, self.device)  # type: ignore[arg-type]
            last_values = self.policy.predict_values(obs_tensor, th.as_tensor(next_state, device=self.device))
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)

        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _evaluate_rollout(self, rollout_buffer: StatefulRolloutBuffer) -> None:
        """
        Fill in V(s, z) and the log-probabilities of a and z'.

        :param rollout_buffer: The rollout, collected with the present policy
        """
        steps_per_batch = max(1, EVALUATION_BATCH_SIZE // self.n_envs)
        for start in range(0, rollout_buffer.buffer_size, steps_per_batch):
            rows = slice(start, start + steps_per_batch)
            shape = rollout_buffer.values[rows].shape
            n_transitions = shape[0] * shape[1]

            def flat(array: np.ndarray, rows: slice = rows, n_transitions: int = n_transitions) -> th.Tensor:
                # Not reshape(-1, ...), which cannot tell how many rows an array without columns has (state_dim=0)
                return th.as_tensor(array[rows].reshape(n_transitions, *array.shape[2:]), device=self.device)

            with th.no_grad(), self._check_distributions():
                evaluation = self.policy.evaluate_actions(
                    map_observations(flat, rollout_buffer.observations),
                    flat(rollout_buffer.actions),
                    flat(rollout_buffer.states),
                    flat(rollout_buffer.next_internal_states),
                )
            rollout_buffer.values[rows] = evaluation.values.cpu().numpy().reshape(shape)
            rollout_buffer.log_probs[rows] = evaluation.log_prob.cpu().numpy().reshape(shape)
            rollout_buffer.state_log_probs[rows] = evaluation.state_log_prob.cpu().numpy().reshape(shape)

    @contextmanager
    def _check_distributions(self) -> Iterator[None]:
        """:raises ValueError: if torch refuses what would be the parameters of the action distribution"""
        try:
            yield
        except ValueError as error:
            if "Expected parameter" not in str(error):
                raise
            raise ValueError(
                f"Non-finite action distribution at step {self.num_timesteps}, after {self._n_updates} updates. {DIVERGED}"
            ) from error

    def _log_memory(self) -> None:
        """Log how large the internal states of the rollout are, and how fast they change."""
        if self.policy.kernel is not None:
            buffer = self.rollout_buffer
            states = buffer.states[..., : self.policy.state_dim]
            self.logger.record("train/state_abs", np.abs(buffer.next_internal_states).mean())
            self.logger.record("train/state_change", np.abs(buffer.next_internal_states - states).mean())
