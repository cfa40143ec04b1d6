from sb3_s2pg.td3.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_s2pg.td3.td3 import S2PGTD3

__all__ = ["S2PGTD3", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
