"""Backpropagation through time on the networks of S2PG: what BPTTSAC and BPTTTD3 share."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs

from sb3_s2pg.common.buffers import Sequences, StatefulReplayBufferSamples
from sb3_s2pg.common.noise import StateNoise
from sb3_s2pg.common.observations import map_observations
from sb3_s2pg.common.off_policy_algorithm import S2PGOffPolicyAlgorithm
from sb3_s2pg.common.off_policy_policies import StatefulOffPolicyPolicy
from sb3_s2pg.common.policies import DEFAULT_STATE_DIM, StatefulActorMixin

LOSS_STEPS = ("last", "all")


class NoStateNoise(StateNoise):
    """No noise: z' is the kernel's mean, and its log density is not counted. Parameters are those of ``StateNoise``."""

    has_score = False

    def forward(self, inputs: th.Tensor, states: th.Tensor, scale: th.Tensor | None = None) -> th.Tensor:
        return th.zeros_like(states)

    def sample(self, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return th.zeros_like(std), th.zeros_like(std)


class BPTTActorMixin(StatefulActorMixin):
    """
    The memory of an actor that is trained through time, to be named before the actor of S2PG in the list of bases.

    z' is not an action here: nothing but what is done with it later says how it should have been.
    """

    def transition(self, features: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        head_inputs, mean, std = super().transition(features, states)
        return head_inputs, mean.detach(), std

    def unroll(self, observations: PyTorchObs, previous_actions: th.Tensor, internal_states: th.Tensor) -> th.Tensor:
        """
        :param observations: The actor's observations over time, shape (time, batch, ...)
        :param previous_actions: The actions before them, shape (time, batch, action_dim)
        :param internal_states: z before the first step, shape (batch, state_dim)
        :return: z before every step and after the last one, shape (time + 1, batch, state_dim), differentiable through time
        """
        assert self.kernel is not None
        time, batch_size, _ = previous_actions.shape
        actor: Any = self
        flat = map_observations(lambda values: values.flatten(0, 1), observations)
        features = actor.extract_features(flat, actor.features_extractor).view(time, batch_size, -1)
        inputs = th.cat([features, previous_actions], dim=2) if self.use_previous_action else features
        return th.cat([internal_states.unsqueeze(0), self.kernel.unroll(inputs, internal_states)])


class BPTTPolicyMixin(StatefulOffPolicyPolicy):
    """Policy whose kernel has no noise, to be named before the policy of S2PG in the list of bases."""

    def __init__(self, *args: Any, **kwargs: Any):
        # Fixed: no parameters that nothing would train
        kwargs |= {"state_noise_class": NoStateNoise, "state_noise_kwargs": {"std_type": "fixed"}}
        super().__init__(*args, **kwargs)


class BPTTAlgorithm(S2PGOffPolicyAlgorithm):
    """
    Mixin that trains an off-policy algorithm of S2PG by truncated backpropagation through time, to be named before it in the
    list of bases. All else is as there: acting, replay buffer, critic, critic history, state refresh.

    An update draws sequences that start at the internal state which the replay buffer holds, unrolls the kernel along them,
    and lets the actor's loss flow back through what was unrolled. The critic reads what was unrolled, too, without
    gradient.
    """

    # z' has no noise, and the batch holds what the present kernel makes of it already
    meaningless_diagnostics = frozenset({"state_entropy", "state_ent_coef", "state_refresh_shift"})
    truncation_length: int
    loss_steps: str
    # Arguments of the algorithm of S2PG that mean nothing without noise on z', and what they are
    without_noise: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        policy: str | type[StatefulOffPolicyPolicy],
        env: GymEnv | str,
        *,
        truncation_length: int = 10,
        loss_steps: str = "last",
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        if isinstance(truncation_length, bool) or not isinstance(truncation_length, int) or truncation_length < 1:
            raise ValueError(f"truncation_length={truncation_length!r} must be an integer of at least 1 step")
        if loss_steps not in LOSS_STEPS:
            raise ValueError(f"loss_steps={loss_steps!r} must be one of {list(LOSS_STEPS)}")
        of_noise = [name for name in policy_kwargs or {} if name in ("state_noise_class", "state_noise_kwargs")]
        of_noise += [name for name in kwargs if name in self.without_noise]
        if of_noise:
            name = type(self).__name__
            raise ValueError(f"{of_noise[0]}: {name} has no noise on z', leave it out, or use S2PGSAC or S2PGTD3")
        super().__init__(  # type: ignore[call-arg]
            policy,
            env,
            policy_kwargs=policy_kwargs,
            _init_setup_model=False,
            **self.without_noise,
            **kwargs,
        )
        self.truncation_length = truncation_length
        self.loss_steps = loss_steps
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        steps = max(self.buffer_size // self.n_envs, 1)
        # A model is loaded for acting with a buffer of one step
        if self.truncation_length > steps > 1:
            raise ValueError(
                f"truncation_length={self.truncation_length} is longer than the replay buffer, which holds {steps} steps "
                f"of each of {self.n_envs} environments: use a larger buffer_size or a smaller truncation_length"
            )
        if self.policy_kwargs.get("state_dim", DEFAULT_STATE_DIM) == 0:
            raise ValueError(f"state_dim=0 leaves {type(self).__name__} nothing to unroll: use SB3's algorithm, or S2PG's")
        super()._setup_model()

    def _sample_batch(self, batch_size: int) -> StatefulReplayBufferSamples:
        every_step = self.loss_steps == "all"
        n_sequences = max(batch_size // self.truncation_length, 1) if every_step else batch_size
        batch, sequences = self.replay_buffer.sample_sequences(
            n_sequences, self.truncation_length, every_step, env=self._vec_normalize_env
        )
        return self._with_unrolled_states(self._with_history(batch), sequences)

    def _with_unrolled_states(self, batch: StatefulReplayBufferSamples, sequences: Sequences) -> StatefulReplayBufferSamples:
        """
        :param batch: Batch as it is stored
        :param sequences: What led to it
        :return: The same with z and z' as the current kernel unrolls them
        """
        with th.set_grad_enabled(self._actor_is_due()):
            unrolled = self.actor.unroll(
                self.policy.actor_subset(sequences.observations), sequences.previous_actions, sequences.internal_states
            )
        step, sequence = sequences.rows
        state_dim = self.policy.state_dim
        states = th.cat([unrolled[step, sequence], batch.states[:, state_dim:]], dim=1)
        next_internal_states = unrolled.detach()[step + 1, sequence]
        return batch._replace(
            states=states.detach(),
            unrolled_states=states,
            next_states=th.cat([next_internal_states, batch.next_states[:, state_dim:]], dim=1),
        )


__all__ = ["BPTTActorMixin", "BPTTAlgorithm", "BPTTPolicyMixin", "NoStateNoise"]
