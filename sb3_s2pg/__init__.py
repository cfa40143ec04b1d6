"""Policies with memory for Stable-Baselines3, trained without backpropagation through time."""

import sb3_s2pg.envs  # noqa: F401 (registers the tasks)
from sb3_s2pg.common.callbacks import InternalStateCallback
from sb3_s2pg.common.kernels import (
    CPGKernel,
    GRUKernel,
    LinearKernel,
    LSTMKernel,
    ODEKernel,
    OUKernel,
    RNNKernel,
    StateKernel,
)
from sb3_s2pg.common.noise import GaussianStateNoise, StateNoise, UniformStateNoise
from sb3_s2pg.ppo import S2PGPPO
from sb3_s2pg.sac import S2PGSAC
from sb3_s2pg.td3 import S2PGTD3
from sb3_s2pg.version import __version__

__all__ = [
    "S2PGPPO",
    "S2PGSAC",
    "S2PGTD3",
    "CPGKernel",
    "GRUKernel",
    "GaussianStateNoise",
    "InternalStateCallback",
    "LSTMKernel",
    "LinearKernel",
    "ODEKernel",
    "OUKernel",
    "RNNKernel",
    "StateKernel",
    "StateNoise",
    "UniformStateNoise",
    "__version__",
]
