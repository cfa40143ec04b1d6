"""Policies with memory for Stable-Baselines3, trained without backpropagation through time."""

import sb3_s2pg.envs  # noqa: F401 (registers the tasks)
from sb3_s2pg.common.kernels import GRUKernel, StateKernel
from sb3_s2pg.sac import S2PGSAC

__version__ = "0.1.0"

__all__ = ["S2PGSAC", "GRUKernel", "StateKernel"]
