from sb3_s2pg.trpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_s2pg.trpo.trpo import S2PGTRPO

__all__ = ["S2PGTRPO", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
