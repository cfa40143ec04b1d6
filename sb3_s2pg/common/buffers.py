"""Replay buffers that carry the internal state and can look back in the episode."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize

from sb3_s2pg.common.observations import map_observations

# What the algorithm adds to the ``infos`` of a transition that it stores
NEXT_INTERNAL_STATE = "next_internal_state"
EPISODE_START = "episode_start"


class Sequences(NamedTuple):
    """
    What led to the transitions of a batch: steps of the same episode in the order in which they happened.

    All start at step 0; what comes after the last step of a shorter one is of no meaning. Entry i of the batch is the step
    ``rows[0][i]`` of the sequence ``rows[1][i]``.
    """

    observations: PyTorchObs  # (time, n_sequences, *obs_shape)
    previous_actions: th.Tensor  # (time, n_sequences, action_dim)
    internal_states: th.Tensor  # z before the first step, as it is stored, (n_sequences, state_dim)
    rows: tuple[th.Tensor, th.Tensor]  # (batch,) each


class StatefulReplayBufferSamples(NamedTuple):
    """
    A batch of transitions of the augmented MDP: state (s, z), action (a, z').

    ``states`` and ``next_states`` are laid out as ``predict`` returns them: internal state, then previous action.
    The ``recent_*`` fields look back in the episode, lag 0 (the transition itself) first; None without critic history.
    From them the algorithm makes ``history`` and ``next_history``, as the critic reads them.
    """

    observations: PyTorchObs
    actions: th.Tensor
    next_observations: PyTorchObs
    dones: th.Tensor
    rewards: th.Tensor
    states: th.Tensor  # (batch, state_dim + action_dim)
    next_states: th.Tensor  # (batch, state_dim + action_dim)
    indices: tuple[np.ndarray, np.ndarray]  # where the batch lies in the buffer: positions, environments
    recent_observations: PyTorchObs | None = None  # (batch, 1 + critic_history, *obs_shape)
    recent_actions: th.Tensor | None = None  # (batch, 1 + critic_history, action_dim)
    recent_mask: th.Tensor | None = None  # (batch, 1 + critic_history), 1 where that step belongs to the episode
    history: th.Tensor | None = None  # (batch, critic_history * (observation + action))
    next_history: th.Tensor | None = None  # the same, at t + 1
    unrolled_states: th.Tensor | None = None  # ``states`` with their gradients through time, for the actor (BPTT only)

    @property
    def actor_states(self) -> th.Tensor:
        """(z, previous action) for the actor; all others take ``states``."""
        return self.states if self.unrolled_states is None else self.unrolled_states


class StatefulReplayBuffer(ReplayBuffer):
    """
    Replay buffer of the augmented MDP. Per transition it stores z' and one flag more than SB3's buffer:
    z and the previous action of a step are read from the step before it, unless it starts an episode,
    and so are the observations of the critic history.

    Set ``reward_fn`` where the reward is learned: what is stored goes stale, so that sampled batches are given the rewards
    of that moment. It is called with observations and next observations (normalized, if there is VecNormalize), actions as
    the environment takes them, and dones (a time-limit is not one), and returns rewards of shape (batch,).

    :param args: As for ``ReplayBuffer``
    :param state_dim: Size of the internal state z
    :param critic_history: Number of previous observations and actions to hand out for the critic
    :param kwargs: As for ``ReplayBuffer``
    """

    def __init__(self, *args: Any, state_dim: int = 0, critic_history: int = 0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.state_dim = state_dim
        self.critic_history = critic_history
        self.reward_fn: Callable[[Any, np.ndarray, Any, np.ndarray], np.ndarray] | None = None
        # z_0 and "no previous action"; the algorithm sets what the kernel says
        self.initial_state = np.zeros(state_dim + self.action_dim, dtype=np.float32)
        # At an episode's end z' is kept as it was: a time-limit bootstraps from (s_T, z')
        self.next_internal_states = np.zeros((self.buffer_size, self.n_envs, state_dim), dtype=np.float32)
        # Not the same as the previous done: an episode is also left when learn() is called again or a callback stops it
        self.episode_starts = np.zeros((self.buffer_size, self.n_envs), dtype=bool)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Add a transition; ``infos`` carry z' and whether the transition starts an episode.

        :raises KeyError: if they do not
        """
        for key in (NEXT_INTERNAL_STATE, EPISODE_START):
            if any(key not in info for info in infos):
                raise KeyError(f"infos lack {key!r}: a stateful replay buffer has to be told z' and the episode starts")
        self.next_internal_states[self.pos] = np.array([info[NEXT_INTERNAL_STATE] for info in infos])
        self.episode_starts[self.pos] = np.array([info[EPISODE_START] for info in infos])
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> StatefulReplayBufferSamples:  # type: ignore[override]
        """
        :param batch_size: Number of transitions to sample
        :param env: VecNormalize to normalize observations and rewards with
        :return: Batch of the augmented MDP
        :raises ValueError: if the buffer holds nothing that can be sampled
        """
        positions, envs = self._sample_indices(batch_size)
        return self._get_samples(positions, env=env, env_indices=envs)

    def sample_sequences(
        self, n_sequences: int, length: int, every_step: bool, env: VecNormalize | None = None
    ) -> tuple[StatefulReplayBufferSamples, Sequences]:
        """
        Sequences of at most this length end at transitions that are drawn as ``sample`` draws them, and start at the
        internal state that is stored there. They do not reach back beyond the start of the episode.

        :param n_sequences: Number of sequences
        :param length: Greatest number of steps of a sequence, its last transition included
        :param every_step: Whether the batch holds all transitions of the sequences; else the last one of each
        :param env: VecNormalize to normalize observations and rewards with
        :return: the batch and the sequences that it belongs to
        """
        last, envs = self._sample_indices(n_sequences)
        (window, _), in_reach = self._look_back(last, envs, length - 1)
        if self.full:
            # z before the oldest entry is lost, unless it starts an episode
            in_reach &= (window != self.pos) | self.episode_starts[window, envs[:, None]]
        lengths = in_reach.sum(axis=1)

        # From the first step on; what is beyond the last one repeats it
        steps = np.minimum(np.arange(length)[:, None], lengths - 1)  # (time, n_sequences)
        positions = (last - (lengths - 1) + steps) % self.buffer_size
        internal_states, previous_actions = self._internal_states(positions[0], envs), self._previous_actions(positions, envs)
        observations = self._normalize_obs(map_observations(lambda array: array[positions, envs], self.observations), env)

        if every_step:
            rows = np.nonzero(np.arange(length)[:, None] < lengths)
        else:
            rows = (lengths - 1, np.arange(n_sequences))
        batch = self._get_samples(positions[rows], env=env, env_indices=envs[rows[1]])
        return batch, Sequences(
            observations=map_observations(self._as_tensor, observations),
            previous_actions=self._as_tensor(previous_actions.astype(np.float32)),
            internal_states=self._as_tensor(internal_states),
            rows=(self._as_tensor(rows[0]), self._as_tensor(rows[1])),
        )

    def _sample_indices(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """
        :param batch_size: Number of transitions to sample
        :return: positions and environments, shape (batch,) each
        :raises ValueError: if the buffer holds nothing that can be sampled
        """
        if self.size() == 0 or (self.full and self.buffer_size == 1):
            raise ValueError(f"Nothing to sample: the buffer holds {self.size()} of {self.buffer_size} steps per environment")
        positions = np.random.randint(0, self.size(), size=batch_size)
        envs = np.random.randint(0, self.n_envs, size=batch_size)
        if self.full:
            # The oldest entry lost its predecessor, and with it z (unless it starts an episode);
            # with optimize_memory_usage its observation is overwritten, too
            lost = positions == self.pos
            if not self.optimize_memory_usage:
                lost &= ~self.episode_starts[positions, envs]
            positions[lost] = (self.pos + np.random.randint(1, self.buffer_size, size=lost.sum())) % self.buffer_size
        return positions, envs

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None, env_indices: np.ndarray | None = None
    ) -> StatefulReplayBufferSamples:
        if env_indices is None:
            env_indices = np.random.randint(0, self.n_envs, size=len(batch_inds))
        at = (batch_inds, env_indices)

        states = np.concatenate([self._internal_states(*at), self._previous_actions(*at)], axis=1, dtype=np.float32)
        actions = self.actions[at]
        next_states = np.concatenate([self.next_internal_states[at], actions], axis=1, dtype=np.float32)

        if self.optimize_memory_usage:
            next_obs = self.observations[(batch_inds + 1) % self.buffer_size, env_indices]
        else:
            next_obs = map_observations(lambda array: array[at], self.next_observations)

        recent: dict[str, Any] = {}
        if self.critic_history > 0:
            window, mask = self._look_back(*at, self.critic_history)
            recent_obs = self._normalize_obs(map_observations(lambda array: array[window], self.observations), env)
            obs = map_observations(lambda array: array[:, 0], recent_obs)
            recent = {
                "recent_observations": map_observations(self._as_tensor, recent_obs),
                "recent_actions": self._as_tensor(self.actions[window]),
                "recent_mask": self._as_tensor(mask.astype(np.float32)),
            }
        else:
            obs = self._normalize_obs(map_observations(lambda array: array[at], self.observations), env)

        next_obs = self._normalize_obs(next_obs, env)
        # Only use dones that are not due to timeouts
        dones = self.dones[at] * (1 - self.timeouts[at])
        if self.reward_fn is None:
            rewards = self._normalize_reward(self.rewards[at], env)
        else:
            rewards = self.reward_fn(obs, self._executed(actions), next_obs, dones)
        return StatefulReplayBufferSamples(
            observations=map_observations(self._as_tensor, obs),
            actions=self._as_tensor(actions),
            next_observations=map_observations(self._as_tensor, next_obs),
            dones=self._as_tensor(dones.reshape(-1, 1)),
            rewards=self._as_tensor(rewards.reshape(-1, 1)),
            states=self._as_tensor(states),
            next_states=self._as_tensor(next_states),
            indices=at,
            **recent,
        )

    def _internal_states(self, positions: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param positions: Positions of transitions, shape (...)
        :param envs: Their environments
        :return: z, shape (..., state_dim)
        """
        return self._before(self.next_internal_states, self.initial_state[: self.state_dim], positions, envs)

    def _previous_actions(self, positions: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param positions: Positions of transitions, shape (...)
        :param envs: Their environments
        :return: The previous actions, shape (..., action_dim)
        """
        return self._before(self.actions, self.initial_state[self.state_dim :], positions, envs)

    def _before(self, stored: np.ndarray, initial: np.ndarray, positions: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param stored: What is stored with every transition
        :param initial: What an episode starts with
        :param positions: Positions of transitions, shape (...)
        :param envs: Their environments
        :return: What is stored with the transition before each, or what the episode starts with
        """
        before = stored[(positions - 1) % self.buffer_size, envs]
        before[self.episode_starts[positions, envs]] = initial
        return before

    def _look_back(
        self, positions: np.ndarray, envs: np.ndarray, n_back: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """
        :param positions: Positions of transitions, shape (batch,)
        :param envs: Their environments, shape (batch,)
        :param n_back: How many steps to look back
        :return: an index of the transitions and the ``n_back`` ones before them,
            and a mask of those that belong to the same episode, both of shape (batch, 1 + n_back)
        """
        lags = np.arange(n_back + 1)
        window = ((positions[:, None] - lags) % self.buffer_size, envs[:, None])
        # A step is in reach if none of the steps after it, up to the transition, starts an episode ...
        reached = np.ones(window[0].shape, dtype=bool)
        reached[:, 1:] = ~np.logical_or.accumulate(self.episode_starts[window][:, :-1], axis=1)
        # ... and if it is not older than the oldest entry, which lies under the write head
        oldest = self.pos + int(self.optimize_memory_usage) if self.full else 0
        age = (positions - oldest) % self.buffer_size
        return window, reached & (lags <= age[:, None])

    def refresh(self, indices: tuple[np.ndarray, np.ndarray], internal_states: np.ndarray, rate: float) -> None:
        """
        State refresh: blend newly sampled z' into the stored ones, and so into the z of the steps that follow.

        :param indices: Where the transitions lie, ``indices`` of a sampled batch
        :param internal_states: New z', shape (batch, state_dim)
        :param rate: 1 replaces the stored ones, 0 leaves them
        """
        if rate == 1.0:
            self.next_internal_states[indices] = internal_states
        else:
            self.next_internal_states[indices] = (1 - rate) * self.next_internal_states[indices] + rate * internal_states

    def _executed(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: Actions in [-1, 1], as they are stored, shape (batch, action_dim)
        :return: The same as the environment takes them, shape (batch, *action_shape)
        """
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        return low + 0.5 * (actions.reshape(-1, *low.shape) + 1.0) * (high - low)

    def __getstate__(self) -> dict[str, Any]:
        # A part of the trainer, not of the data
        return {**self.__dict__, "reward_fn": None}

    def _as_tensor(self, array: np.ndarray) -> th.Tensor:
        # Indexing with arrays has copied already; only views of the buffer itself would need another copy
        return self.to_torch(array, copy=False)


class StatefulDictReplayBuffer(StatefulReplayBuffer, DictReplayBuffer):  # type: ignore[misc]
    """``StatefulReplayBuffer`` for Dict observations."""
