"""Policies with memory for Stable-Baselines3, trained without backpropagation through time."""

import importlib
from typing import TYPE_CHECKING, Any

import sb3_s2pg.envs  # noqa: F401 (registers the tasks)
from sb3_s2pg.bptt import BPTTSAC, BPTTTD3
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

if TYPE_CHECKING:
    from sb3_s2pg.gail import S2PGAIRL as S2PGAIRL
    from sb3_s2pg.gail import S2PGGAIL as S2PGGAIL
    from sb3_s2pg.ls_iq import LSIQ as LSIQ
    from sb3_s2pg.trpo import S2PGTRPO as S2PGTRPO

__all__ = [
    "BPTTSAC",
    "BPTTTD3",
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

# Imported when they are asked for: they need an optional library, imitation or sb3-contrib
_NEEDS_ANOTHER_LIBRARY = {
    "LSIQ": "sb3_s2pg.ls_iq",
    "S2PGAIRL": "sb3_s2pg.gail",
    "S2PGGAIL": "sb3_s2pg.gail",
    "S2PGTRPO": "sb3_s2pg.trpo",
}


def __getattr__(name: str) -> Any:
    if name in _NEEDS_ANOTHER_LIBRARY:
        return getattr(importlib.import_module(_NEEDS_ANOTHER_LIBRARY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
