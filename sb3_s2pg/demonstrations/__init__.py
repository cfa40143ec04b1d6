"""Demonstrations of an expert: collect, save, load, and derive from a full state what a learner sees of it."""

import sb3_s2pg.common.imitation  # noqa: F401 (says what to install)
from sb3_s2pg.demonstrations.collect import EXPERTS, collect_demonstrations, load_expert
from sb3_s2pg.demonstrations.files import derive_observations, load_demonstrations, save_demonstrations

__all__ = [
    "EXPERTS",
    "collect_demonstrations",
    "derive_observations",
    "load_demonstrations",
    "load_expert",
    "save_demonstrations",
]
