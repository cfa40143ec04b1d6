from sb3_s2pg.bptt.sac import BPTTSAC
from sb3_s2pg.bptt.td3 import BPTTTD3

__all__ = ["BPTTSAC", "BPTTTD3"]
