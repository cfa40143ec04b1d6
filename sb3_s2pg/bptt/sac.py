"""Recurrent SAC: S2PG-SAC's networks, trained by truncated backpropagation through time."""

from typing import Any, ClassVar, TypeVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_s2pg.bptt.common import BPTTActorMixin, BPTTAlgorithm, BPTTPolicyMixin
from sb3_s2pg.sac import S2PGSAC, policies

SelfBPTTSAC = TypeVar("SelfBPTTSAC", bound="BPTTSAC")


class BPTTSACActor(BPTTActorMixin, policies.S2PGSACActor):
    """Actor of BPTT-SAC. Parameters are those of ``S2PGSACActor``."""


class BPTTSACPolicy(BPTTPolicyMixin, policies.S2PGSACPolicy):
    """Policy class (with both actor and critic) for BPTT-SAC. Parameters are those of ``S2PGSACPolicy``, without noise."""

    actor_class = BPTTSACActor


class CnnPolicy(BPTTSACPolicy, policies.CnnPolicy):
    """``BPTTSACPolicy`` for images: ``NatureCNN`` extracts the features."""


class MultiInputPolicy(BPTTSACPolicy, policies.MultiInputPolicy):
    """``BPTTSACPolicy`` for Dict observations: ``CombinedExtractor`` extracts the features."""


class BPTTSAC(BPTTAlgorithm, S2PGSAC):
    """
    Recurrent Soft Actor-Critic: the kernels and networks of ``S2PGSAC`` without noise on z', trained by truncated
    backpropagation through time. It is what S2PG is measured against, and recurrent SAC for Stable-Baselines3.

    Parameters that are not listed are those of ``S2PGSAC``, with the same defaults; there are none for noise and temperature
    of z'.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param truncation_length: Number of steps through which the gradient flows back, the one of the loss included; sequences
        end earlier at the start of an episode
    :param loss_steps: "last": ``batch_size`` sequences, and losses at the last step of each, as the authors of S2PG do;
        "all": ``batch_size // truncation_length`` sequences, and losses at every step
    :param policy_kwargs: As for ``S2PGSAC``, without ``state_noise_class`` and ``state_noise_kwargs``
    :raises ValueError: if an argument cannot work; nothing has been trained or overwritten then
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": BPTTSACPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    supported_policy_class = BPTTSACPolicy
    without_noise: ClassVar[dict[str, Any]] = {
        "state_ent_coef": 0.0,
        "target_state_entropy": 0.0,
        "state_ent_coef_learning_rate": None,
        "state_entropy_in_target": False,
    }

    def learn(
        self: SelfBPTTSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "BPTTSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBPTTSAC:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
