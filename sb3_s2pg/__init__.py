"""Policies with memory for Stable-Baselines3, trained without backpropagation through time."""

from typing import TYPE_CHECKING, Any

import sb3_s2pg.envs  # noqa: F401 (registers the tasks)
from sb3_s2pg.common.callbacks import InternalStateCallback
from sb3_s2pg.common.kernels import GRUKernel, LinearKernel, StateKernel
from sb3_s2pg.ppo import S2PGPPO
from sb3_s2pg.sac import S2PGSAC
from sb3_s2pg.td3 import S2PGTD3
from sb3_s2pg.version import __version__

if TYPE_CHECKING:
    from sb3_s2pg.gail import S2PGAIRL as S2PGAIRL
    from sb3_s2pg.gail import S2PGGAIL as S2PGGAIL

__all__ = ["S2PGPPO", "S2PGSAC", "S2PGTD3", "GRUKernel", "InternalStateCallback", "LinearKernel", "StateKernel", "__version__"]

# They need the imitation library, all else does not
_WITH_IMITATION = ("S2PGAIRL", "S2PGGAIL")


def __getattr__(name: str) -> Any:
    if name in _WITH_IMITATION:
        import sb3_s2pg.gail

        return getattr(sb3_s2pg.gail, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
