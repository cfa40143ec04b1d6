"""Recurrent TD3: S2PG-TD3's networks, trained by truncated backpropagation through time."""

from typing import Any, ClassVar, TypeVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_s2pg.bptt.common import BPTTActorMixin, BPTTAlgorithm, BPTTPolicyMixin
from sb3_s2pg.td3 import S2PGTD3, policies

SelfBPTTTD3 = TypeVar("SelfBPTTTD3", bound="BPTTTD3")


class BPTTTD3Actor(BPTTActorMixin, policies.S2PGTD3Actor):
    """Actor of BPTT-TD3. Parameters are those of ``S2PGTD3Actor``."""


class BPTTTD3Policy(BPTTPolicyMixin, policies.S2PGTD3Policy):
    """Policy class for BPTT-TD3. Parameters are those of ``S2PGTD3Policy``, without noise."""

    actor_class = BPTTTD3Actor


class CnnPolicy(BPTTTD3Policy, policies.CnnPolicy):
    """``BPTTTD3Policy`` for images: ``NatureCNN`` extracts the features."""


class MultiInputPolicy(BPTTTD3Policy, policies.MultiInputPolicy):
    """``BPTTTD3Policy`` for Dict observations: ``CombinedExtractor`` extracts the features."""


class BPTTTD3(BPTTAlgorithm, S2PGTD3):
    """
    Recurrent TD3: the kernels and networks of ``S2PGTD3`` without noise on z', trained by truncated
    backpropagation through time. It is what S2PG is measured against, and recurrent TD3 for Stable-Baselines3.

    Parameters that are not listed are those of ``S2PGTD3``, with the same defaults; there are none for noise on z'.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param truncation_length: Number of steps through which the gradient flows back, the one of the loss included; sequences
        end earlier at the start of an episode
    :param loss_steps: "last": ``batch_size`` sequences, and losses at the last step of each, as the authors of S2PG do;
        "all": ``batch_size // truncation_length`` sequences, and losses at every step
    :param policy_kwargs: As for ``S2PGTD3``, without ``state_noise_class`` and ``state_noise_kwargs``
    :raises ValueError: if an argument cannot work; nothing has been trained or overwritten then
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": BPTTTD3Policy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    supported_policy_class = BPTTTD3Policy
    without_noise: ClassVar[dict[str, Any]] = {"state_noise": 0.0, "target_state_noise": 0.0, "target_state_noise_clip": 0.0}

    def learn(
        self: SelfBPTTTD3,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "BPTTTD3",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBPTTTD3:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
