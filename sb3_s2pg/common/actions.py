"""Actions as networks read them: the previous action is part of what the policy remembers."""

import numpy as np
from gymnasium import spaces


class ActionEncoder:
    """
    Turns actions into float32 features: a Box is scaled to [-1, 1] where it has bounds, Discrete and MultiDiscrete
    become one-hot, MultiBinary stays as it is.

    :param space: Action space
    """

    def __init__(self, space: spaces.Space):
        self.space = space
        self.size = spaces.flatdim(space)
        if isinstance(space, spaces.Box):
            bounded = np.isfinite(space.low) & np.isfinite(space.high)
            low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
            self._center, self._half_range = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
        elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
            sizes = [space.n] if isinstance(space, spaces.Discrete) else list(space.nvec.flat)
            self._one_hot = [np.eye(int(size), dtype=np.float32) for size in sizes]

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: Actions as the environment takes them, shape (n_envs, *action_shape)
        :return: Their features, float32 of shape (n_envs, ``size``)
        """
        if isinstance(self.space, spaces.Box):
            features = (actions - self._center) / self._half_range
        elif isinstance(self.space, (spaces.Discrete, spaces.MultiDiscrete)):
            columns = actions.reshape(len(actions), -1).T
            features = np.concatenate([rows[column] for rows, column in zip(self._one_hot, columns, strict=True)], axis=1)
        else:
            features = actions
        return features.reshape(len(actions), -1).astype(np.float32)
