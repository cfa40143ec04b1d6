"""
RL Zoo with S2PG's algorithms and tasks: ``python -m sb3_s2pg.zoo train --algo s2pg_sac --env PendulumNoVel-v1``.

RL Zoo has no hook for algorithms of other packages. What it keeps in module-level dictionaries is extended here.
"""

from sb3_s2pg.zoo.registration import ZOO_ALGORITHMS, default_config, register

__all__ = ["ZOO_ALGORITHMS", "default_config", "register"]
