"""Adversarial imitation with memory, through the ``imitation`` library."""

try:
    import imitation.algorithms.adversarial.common  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"S2PGGAIL and S2PGAIRL need the imitation library ({error}): pip install 'sb3-s2pg[imitation]', which brings "
        "stable-baselines3 2.2.1; on a newer one pip install --no-deps imitation==1.0.1, and what it imports (see the README)"
    ) from error

from sb3_s2pg.gail.airl import S2PGAIRL
from sb3_s2pg.gail.gail import S2PGGAIL

__all__ = ["S2PGAIRL", "S2PGGAIL"]
