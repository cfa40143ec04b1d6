import sb3_s2pg.common.imitation  # noqa: F401 (says what to install)
from sb3_s2pg.ls_iq.learner import HUMANOID, LSIQSAC
from sb3_s2pg.ls_iq.ls_iq import LSIQ

__all__ = ["HUMANOID", "LSIQ", "LSIQSAC"]
