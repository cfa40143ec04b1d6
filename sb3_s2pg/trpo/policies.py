from typing import Any, ClassVar

import torch as th

from sb3_s2pg.common.noise import GaussianStateNoise
from sb3_s2pg.ppo import policies as ppo
from sb3_s2pg.trpo.joint import AugmentedObservations, JointDistribution


class S2PGTRPOPolicy(ppo.S2PGPPOPolicy):
    """
    Policy class (with both actor and critic) for S2PG-TRPO: that of S2PG-PPO, which also answers for (a, z') at once.

    :param args: As for ``S2PGPPOPolicy``
    :param kernel_lr_ratio: Has no meaning here: the length of TRPO's step is set by the KL divergence, whatever the
        parameter. Any other value than 1.0 is refused
    :param kwargs: As for ``S2PGPPOPolicy``
    :raises ValueError: if the memory is configured in a way that cannot work
    """

    # More than S2PGPPO's: a shift of z' counts in stds in the KL divergence, and with little noise the trust region is used up
    # by the memory: CartPoleNoVel-v1 is not learned with exp(-4), and is with exp(-2) (examples/trust_region.py)
    default_state_noise_kwargs: ClassVar[dict[str, Any]] = {
        **ppo.S2PGPPOPolicy.default_state_noise_kwargs,
        "log_std_init": -2.0,
    }

    def __init__(self, *args: Any, kernel_lr_ratio: float = 1.0, **kwargs: Any):
        if kernel_lr_ratio != 1.0:
            raise ValueError(
                f"kernel_lr_ratio={kernel_lr_ratio} has no meaning for S2PGTRPO: target_kl sets the length of the step of all "
                "that acts, kernel included. Leave it out, or use S2PGPPO"
            )
        super().__init__(*args, kernel_lr_ratio=kernel_lr_ratio, **kwargs)
        if self.state_noise_class.evaluate is not GaussianStateNoise.evaluate:
            raise ValueError(
                f"state_noise_class={self.state_noise_class.__name__}: S2PGTRPO needs the KL divergence of z', and knows that "
                "of 'gaussian' (GaussianStateNoise, or a subclass with another std)"
            )

    def get_distribution(self, obs: Any, states: th.Tensor | None = None) -> Any:
        """
        :param obs: Observations; or ``AugmentedObservations``, as ``TRPO.train`` calls it
        :param states: (z, previous action), shape (batch, state_dim + action features); None at the start of an episode
        :return: The distribution of a; or of (a, z')
        """
        if not isinstance(obs, AugmentedObservations):
            return super().get_distribution(obs, states)
        _, action, state_mean, state_std = self._act(obs.observations, obs.states)
        return JointDistribution(action, state_mean, state_std, obs.next_internal_states)

    def predict_values(self, obs: Any, states: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: Observations; or ``AugmentedObservations``, as ``TRPO.train`` calls it
        :param states: (z, previous action), shape (batch, state_dim + action features); None at the start of an episode
        :return: V(s, z), shape (batch, 1) as in SB3
        """
        if isinstance(obs, AugmentedObservations):
            obs, states = obs.observations, obs.states
        return super().predict_values(obs, states)


MlpPolicy = S2PGTRPOPolicy


class CnnPolicy(S2PGTRPOPolicy, ppo.CnnPolicy):
    """``S2PGTRPOPolicy`` for images: ``NatureCNN`` extracts the features."""


class MultiInputPolicy(S2PGTRPOPolicy, ppo.MultiInputPolicy):
    """``S2PGTRPOPolicy`` for Dict observations: ``CombinedExtractor`` extracts the features."""


__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "S2PGTRPOPolicy"]
