from typing import ClassVar, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_s2pg.common.on_policy_algorithm import S2PGOnPolicyAlgorithm
from sb3_s2pg.trpo.joint import JointRollout
from sb3_s2pg.trpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, S2PGTRPOPolicy

try:
    from sb3_contrib import TRPO
except ImportError as error:
    raise ImportError(f'S2PGTRPO needs sb3-contrib, install it with `pip install "sb3-s2pg[trpo]"` ({error})') from error

SelfS2PGTRPO = TypeVar("SelfS2PGTRPO", bound="S2PGTRPO")
# What acts. TRPO takes every parameter with "value" in its name for one of the value function
ACTING = ("features_extractor.", "kernel.", "state_noise.", "mlp_extractor.policy_net.")


class S2PGTRPO(S2PGOnPolicyAlgorithm, TRPO):
    """
    Trust Region Policy Optimization with memory, trained without backpropagation through time:
    sb3-contrib's TRPO on the augmented MDP with state (s, z) and action (a, z'), with their joint log-probability and
    their joint KL divergence. The update is ``TRPO.train``, unchanged.

    Paper: Time-Efficient Reinforcement Learning with Stochastic Stateful Policies, https://arxiv.org/abs/2311.04082

    Parameters that are not listed are those of sb3-contrib's ``TRPO``, with the same defaults.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy). Of its ``policy_kwargs``,
        ``state_dim``, ``state_kernel_class``, ``state_kernel_kwargs``, ``state_noise_kwargs``,
        ``use_previous_action``, ``actor_observation`` and ``critic_observation`` are described at ``StatefulPolicy``;
        ``kernel_lr_ratio`` has no meaning here, because ``learning_rate`` is that of the value function alone
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param rollout_buffer_class: ``StatefulRolloutBuffer``, ``StatefulDictRolloutBuffer`` or a subclass;
        None for the one that fits the observation
    :param target_kl: Target Kullback-Leibler divergence between updates: of (a, z') together, summed over the entries of
        both. (TRPO takes the mean over the entries of a Box or MultiBinary action)
    :raises ValueError: if an argument cannot work; nothing has been trained or overwritten then
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    supported_policy_class = S2PGTRPOPolicy
    policy: S2PGTRPOPolicy

    def _setup_model(self) -> None:
        super()._setup_model()
        for name, parameter in self.policy.named_parameters():
            if "value" in name and name.startswith(ACTING):
                raise ValueError(f"{name}: TRPO would not train what has 'value' in its name, give it another one")
            if "value" not in name and not parameter.requires_grad:
                raise ValueError(
                    f"{name} does not require a gradient, but TRPO differentiates with respect to all that acts. "
                    "Noise of the state kernel that is 'fixed' is possible with S2PGPPO"
                )

    def train(self) -> None:
        """Update policy and value function with the current rollout."""
        rollout_buffer = self.rollout_buffer
        before = {name: value.clone() for name, value in self.policy.state_dict().items()}
        self.rollout_buffer = JointRollout(rollout_buffer)  # type: ignore[assignment]
        try:
            with self._check_distributions():
                super().train()
            if self.n_critic_updates > 0:
                self._check_update("value loss", th.tensor(self.logger.name_to_value["train/value_loss"]))
        except ValueError:
            # The line search leaves the weights that it was trying
            self.policy.load_state_dict(before)
            raise
        finally:
            self.rollout_buffer = rollout_buffer
        self._log_memory()

    def learn(
        self: SelfS2PGTRPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "S2PGTRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfS2PGTRPO:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
