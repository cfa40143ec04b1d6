"""Adversarial imitation with memory, through the ``imitation`` library."""

import sb3_s2pg.common.imitation  # noqa: F401 (says what to install)
from sb3_s2pg.gail.airl import S2PGAIRL
from sb3_s2pg.gail.gail import S2PGGAIL

__all__ = ["S2PGAIRL", "S2PGGAIL"]
