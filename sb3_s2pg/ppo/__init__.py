from sb3_s2pg.ppo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_s2pg.ppo.ppo import S2PGPPO

__all__ = ["S2PGPPO", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
