"""Actions as networks read them: the previous action is part of what the policy remembers."""

import numpy as np
from gymnasium import spaces


def encode_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """
    :param space: Action space
    :param actions: Actions as the environment takes them, shape (n_envs, *action_shape)
    :return: Their features, float32 of shape (n_envs, ``spaces.flatdim(space)``): a Box scaled to [-1, 1] where it has
        bounds, one-hot for Discrete and (concatenated) MultiDiscrete, the bits of MultiBinary
    """
    n_envs = len(actions)
    if isinstance(space, spaces.Box):
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        features = 2.0 * (actions - low) / (high - low) - 1.0
    elif isinstance(space, spaces.Discrete):
        features = np.eye(space.n)[actions]
    elif isinstance(space, spaces.MultiDiscrete):
        columns = actions.reshape(n_envs, -1).T
        features = np.concatenate([np.eye(n)[column] for n, column in zip(space.nvec.flat, columns, strict=True)], axis=1)
    else:
        features = actions
    return features.reshape(n_envs, -1).astype(np.float32)
