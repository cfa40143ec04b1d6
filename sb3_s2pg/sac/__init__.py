from sb3_s2pg.sac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_s2pg.sac.sac import S2PGSAC

__all__ = ["S2PGSAC", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
