import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from imitation.algorithms.adversarial.gail import GAIL
from imitation.rewards.reward_nets import RewardNet
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.common.algorithm import StatefulAlgorithm
from sb3_s2pg.gail.trainer import StatefulAdversarialTrainer


class S2PGGAIL(StatefulAdversarialTrainer, GAIL):
    """
    Generative adversarial imitation learning of a policy with memory: the discriminator sees (s, a), never z.

    ``imitation``'s GAIL runs with the same generators. What comes on top: policy, critic and discriminator may each see their
    own part of the observation, the paper's entropy bonus and discriminator schedule, learning rate schedules over the whole
    training, save and resume. Trained off-policy, the generator gets the rewards of the present discriminator in both.

    Paper: Time-Efficient Reinforcement Learning with Stochastic Stateful Policies, https://arxiv.org/abs/2311.04082

    :param demonstrations: Trajectories (or ``Transitions``) with the observations of ``venv``
    :param venv: The environment; its rewards are not used. Dict observations (of Boxes) are possible
    :param gen_algo: S2PGPPO, S2PGSAC or S2PGTD3, built for ``venv``; what its policy and its critic see is said in its
        ``policy_kwargs`` (``actor_observation``, ``critic_observation``)
    :param reward_net: Discriminator, for what ``discriminator_observation`` selects; None for the paper's MLP of
        [512, 256] tanh units on (s, a)
    :param demo_batch_size: Number of expert samples, and of generator samples, per update of the discriminator
    :param discriminator_observation: Keys (Dict) or indices (Box) that the discriminator sees; None for everything
    :param disc_entropy_coef: Coefficient of the entropy of the discriminator's Bernoulli distribution, which is maximised
    :param disc_update_interval: The discriminator is updated in every n-th round of the generator, the first included
        (``n_disc_updates_per_round`` times)
    :param disc_opt_kwargs: Arguments of the discriminator's optimizer; None for the paper's learning rate of 3e-4
    :param gen_train_timesteps: Steps per round; None for one rollout of S2PGPPO, or for ``demo_batch_size`` steps of an
        off-policy generator
    :param kwargs: As for ``AdversarialTrainer`` of ``imitation``
    :raises ValueError: if something does not fit; nothing has been trained then
    """

    def __init__(
        self,
        *,
        demonstrations: Any,
        venv: VecEnv,
        gen_algo: StatefulAlgorithm,
        reward_net: RewardNet | None = None,
        demo_batch_size: int = 256,
        discriminator_observation: Sequence[str] | Sequence[int] | None = None,
        disc_entropy_coef: float = 1e-3,
        disc_update_interval: int = 3,
        disc_opt_kwargs: Mapping[str, Any] | None = None,
        gen_train_timesteps: int | None = None,
        **kwargs: Any,
    ):
        if isinstance(disc_update_interval, bool) or not isinstance(disc_update_interval, int) or disc_update_interval < 1:
            raise ValueError(f"disc_update_interval={disc_update_interval!r} must be an integer >= 1 (1 is every round)")
        if not math.isfinite(disc_entropy_coef):
            raise ValueError(f"disc_entropy_coef={disc_entropy_coef!r} must be a finite number (0 is off)")
        self.disc_entropy_coef = disc_entropy_coef
        self.disc_update_interval = disc_update_interval
        super().__init__(
            **self._prepare(
                demonstrations=demonstrations,
                venv=venv,
                gen_algo=gen_algo,
                reward_net=reward_net,
                demo_batch_size=demo_batch_size,
                discriminator_observation=discriminator_observation,
                disc_opt_kwargs={"lr": 3e-4} if disc_opt_kwargs is None else disc_opt_kwargs,
                gen_train_timesteps=gen_train_timesteps,
                **kwargs,
            )
        )

    def train_disc(self, **samples: Any) -> Mapping[str, float]:
        """
        Update the discriminator once, if it is due in this round.

        :param samples: As for ``AdversarialTrainer`` of ``imitation``
        :return: Statistics, the loss without the entropy bonus; empty if it was not due
        """
        if self._global_step > 0 and (self._global_step - 1) % self.disc_update_interval != 0:
            return {}
        return super().train_disc(**samples)

    def logits_expert_is_high(self, *args: Any, **kwargs: Any) -> th.Tensor:
        """
        :param args: As for ``GAIL`` of ``imitation``
        :param kwargs: The same
        :return: Logits of the discriminator, shape (batch,). Gradients that pass them in an update of the discriminator
            take along that of the entropy bonus
        """
        logits = super().logits_expert_is_high(*args, **kwargs)
        if self.disc_entropy_coef != 0 and logits.requires_grad:
            # The loss is out of reach, its gradient is not. It is a mean over the expert's and the generator's samples
            bonus = entropy_gradient(logits.detach()) * (self.disc_entropy_coef / (2 * self.demo_batch_size))
            logits.register_hook(lambda gradient: gradient - bonus)
        return logits


def entropy_gradient(logits: th.Tensor) -> th.Tensor:
    """
    :param logits: Logits of Bernoulli distributions
    :return: Derivative of their entropy with respect to the logits: -l sigma(l) (1 - sigma(l))
    """
    probability = th.sigmoid(logits)
    return -logits * probability * (1 - probability)
