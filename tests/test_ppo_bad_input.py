"""What a user of S2PGPPO got wrong is said clearly, before anything is trained or overwritten."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import AnyAction, Counter, Images, MixedDict
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_s2pg import S2PGPPO, S2PGSAC, InternalStateCallback, StateKernel
from sb3_s2pg.common.rollout_buffers import StatefulDictRolloutBuffer, StatefulRolloutBuffer

SMALL = {"net_arch": [8], "state_dim": 4}


def make(env="PendulumNoVel-v1", policy="MlpPolicy", policy_kwargs=None, **kwargs):
    kwargs = {"n_steps": 10, "batch_size": 10, "n_epochs": 2, "device": "cpu", **kwargs}
    return S2PGPPO(policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)


class Broken(Counter):
    """Returns something that is not finite at the step ``at``."""

    def __init__(self, what: str, at: int):
        super().__init__(length=6, truncate=True)
        self.what, self.at, self.total = what, at, 0

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return (obs * np.nan if self.what == "first observation" else obs), info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total == self.at:
            if self.what == "observation":
                obs = np.full_like(obs, np.inf)
            elif self.what == "terminal observation":
                obs = np.full_like(obs, np.nan)
            elif self.what == "reward":
                reward = np.nan
        return obs, reward, terminated, truncated, info


class WrongShape(StateKernel):
    def forward(self, inputs, states):
        return states[:, :1], None


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"policy_kwargs": {"state_dim": -1}}, "state_dim=-1"),
        ({"policy_kwargs": {"state_dim": 2.5}}, "state_dim=2.5"),
        ({"policy_kwargs": {"state_kernel_class": "nonsense"}}, "state_kernel_class='nonsense'.*gru"),
        ({"policy_kwargs": {"state_kernel_class": WrongShape}}, r"mean has the shape \(1, 1\)"),
        ({"policy_kwargs": {"state_noise_kwargs": {"log_std_init": 5.0}}}, "log_std_init=5.0"),
        ({"policy_kwargs": {"state_noise_kwargs": {"log_std_init": -11.0}}}, "log_std_init=-11.0"),
        ({"policy_kwargs": {"state_noise_kwargs": {"log_std_init": float("nan")}}}, "log_std_init=nan"),
        ({"policy_kwargs": {"state_noise_kwargs": {"std_type": "learned"}}}, "std_type='learned'.*constant"),
        ({"policy_kwargs": {"kernel_lr_ratio": -1.0}}, "kernel_lr_ratio=-1.0"),
        ({"policy_kwargs": {"actor_observation": [0, 3]}}, r"actor_observation=\[0, 3\]: indices \[3\] do not exist"),
        ({"policy_kwargs": {"actor_observation": []}}, "selects nothing"),
        ({"policy_kwargs": {"critic_observation": [0, 0]}}, "twice"),
        ({"policy_kwargs": {"actor_observation": [0], "share_features_extractor": True}}, "share_features_extractor=True"),
        ({"env": Images(), "policy": "CnnPolicy", "policy_kwargs": {"actor_observation": [0]}}, "one-dimensional Box"),
        ({"policy": PPO.policy_aliases["MlpPolicy"]}, "S2PGPPO cannot train a ActorCriticPolicy, it needs a S2PGPPOPolicy"),
        ({"policy": S2PGSAC.policy_aliases["MlpPolicy"]}, "S2PGPPO cannot train a .*SAC"),
        ({"policy": "LstmPolicy"}, "LstmPolicy"),
        ({"rollout_buffer_class": RolloutBuffer}, "rollout_buffer_class=RolloutBuffer cannot store internal states"),
        ({"rollout_buffer_class": DictRolloutBuffer}, "cannot store internal states"),
        ({"rollout_buffer_class": StatefulDictRolloutBuffer}, "rollout_buffer_class=StatefulDictRolloutBuffer does not fit"),
    ],
    ids=str,
)
def test_constructor(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(**kwargs)


def test_dict_observations():
    env = MixedDict(with_camera=False)
    for kwargs, match in (
        (
            {"policy_kwargs": {"actor_observation": ["joint"]}},
            r"actor_observation=\['joint'\]: keys \['joint'\] do not exist.*joints",
        ),
        ({"policy_kwargs": {"critic_observation": ["camera"]}}, "critic_observation"),
        ({"policy_kwargs": {"actor_observation": "joints"}}, "must be a list"),
        ({"policy_kwargs": {"share_features_extractor": True}}, "share_features_extractor=True"),
        ({"rollout_buffer_class": StatefulRolloutBuffer}, "rollout_buffer_class=StatefulRolloutBuffer does not fit"),
    ):
        with pytest.raises(ValueError, match=match):
            make(env, "MultiInputPolicy", **kwargs)
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make(env, "MlpPolicy")


def test_what_sb3_refuses():
    unbounded = AnyAction(spaces.Box(-np.inf, np.inf, (1,), dtype=np.float32))
    for cls in (PPO, S2PGPPO):
        with pytest.raises(AssertionError, match="finite lower and upper bound"):
            cls("MlpPolicy", unbounded)
        with pytest.raises(AssertionError, match="batch_size"):
            cls("MlpPolicy", "PendulumNoVel-v1", batch_size=1)
        with pytest.raises(AssertionError, match="clip_range_vf"):
            cls("MlpPolicy", "PendulumNoVel-v1", clip_range_vf=-1.0)


def test_a_truncated_minibatch_of_one():
    with pytest.warns(UserWarning, match="truncated mini-batch of size 1"):
        model = make(n_steps=11, batch_size=5)
    # It trains without normalising that one
    model.learn(22)
    assert model._n_updates == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(n_steps=10, batch_size=5)


def test_files_of_another_kind(tmp_path):
    small = {"policy_kwargs": {"net_arch": [8]}}
    PPO("MlpPolicy", "PendulumNoVel-v1", **small).save(tmp_path / "ppo")
    S2PGSAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, **small).save(tmp_path / "sac")
    for name in ("ppo", "sac"):
        with pytest.raises(ValueError, match="loaded with the class that saved it"):
            S2PGPPO.load(tmp_path / name)
    make().save(tmp_path / "ours")
    with pytest.raises(ValueError, match="loaded with the class that saved it"):
        S2PGSAC.load(tmp_path / "ours")
    with pytest.raises(ValueError, match="policy kwargs"):
        S2PGPPO.load(tmp_path / "ours", policy_kwargs={"state_dim": 5})
    with pytest.raises(ValueError, match="spaces do not match"):
        S2PGPPO.load(tmp_path / "ours", env=gym.make("CartPoleNoVel-v1"))


def snapshot(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@pytest.mark.parametrize(
    "what, at, step",
    [("observation", 16, 32), ("terminal observation", 18, 36), ("reward", 20, 40), ("first observation", 0, 0)],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_not_finite_is_not_stored(what, at, step, normalize, tmp_path):
    env = DummyVecEnv([lambda: Counter(), lambda: Broken(what, at)])
    if normalize:
        env = VecNormalize(env)
    model = make(env)
    with pytest.raises(ValueError, match=f"Non-finite .*{what.split()[-1]} in environment 1 at step {step}:.*not stored"):
        model.learn(200)
    # The step itself is not in the buffer, those before are
    assert model.rollout_buffer.pos == max(0, at - 1) % 10
    assert_finite(model, tmp_path)
    if what != "first observation" and not normalize:
        # The next call starts new episodes, and goes on
        model.learn(40, reset_num_timesteps=False)
        assert model.num_timesteps == step + 40
        assert_finite(model, tmp_path)


def test_a_terminal_observation_of_a_terminated_episode():
    class BrokenEnd(Counter):
        def step(self, action):
            obs, *rest = super().step(action)
            return (obs * np.nan if rest[1] else obs), *rest

    with pytest.raises(ValueError, match="Non-finite terminal observation in environment 0 at step 5"):
        make(BrokenEnd()).learn(20)


def test_dict_observations_that_are_not_finite():
    class BrokenDict(MixedDict):
        def step(self, action):
            obs, *rest = super().step(action)
            if self.steps == 4:
                obs["privileged"] = np.full(2, np.nan, dtype=np.float32)
            return obs, *rest

    with pytest.raises(ValueError, match=r"Non-finite observation\['privileged'\] in environment 0 at step 4"):
        make(BrokenDict(with_camera=False), "MultiInputPolicy").learn(20)


def test_what_overflows_in_single_precision():
    class Huge(Counter):
        observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype=np.float64)

        def _observation(self):
            return np.full(3, 1e39 if self.steps == 4 else 1.0)

    with pytest.raises(ValueError, match="Non-finite observation in environment 0 at step 4"):
        make(Huge()).learn(20)


ACTION_SPACES = [
    spaces.Box(-1, 1, (2,), dtype=np.float32),
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
@pytest.mark.parametrize("kwargs", [{}, {"n_epochs": 1}, {"policy_kwargs": {"state_dim": 0}}], ids=str)
def test_training_that_diverges_leaves_the_weights_finite(space, kwargs, tmp_path):
    model = make(AnyAction(space), learning_rate=1e20, seed=0, **kwargs)
    with pytest.raises(ValueError, match="Training has diverged"):
        model.learn(400)
    assert_finite(model, tmp_path)


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
@pytest.mark.parametrize("parameter", ["kernel.linear.bias", "action_net.bias", "value_net.bias"])
def test_weights_that_are_not_finite(space, parameter):
    model = make(AnyAction(space), seed=0)
    model.learn(10)
    with th.no_grad():
        model.policy.get_parameter(parameter).fill_(np.nan)
    with pytest.raises(ValueError, match=r"Non-finite.*Training has diverged"):
        model.learn(10)


def test_rewards_too_large_to_square():
    class Rich(Counter):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, 1e30, *rest

    model = make(Rich())
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"Non-finite loss at step 10, after 0 updates.*scale of rewards"):
        model.learn(20)
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())


def test_callback():
    with pytest.raises(ValueError, match="no internal state"):
        make(policy_kwargs={"state_dim": 0}).learn(10, callback=InternalStateCallback(Counter()))


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5,)])
def test_states_of_the_wrong_shape(shape):
    model, obs = make(), np.zeros((4, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="state has the shape"):
        model.predict(obs, state=np.zeros(shape, dtype=np.float32))
    with pytest.raises(ValueError, match="episode_start has the shape"):
        model.predict(obs, state=model.predict(obs)[1], episode_start=np.ones(2, dtype=bool))


def assert_finite(model, tmp_path):
    buffer = model.rollout_buffer
    for array in (buffer.observations, buffer.rewards, buffer.actions, buffer.states, buffer.next_internal_states):
        assert np.isfinite(array).all()
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in model.policy.parameters())
    model.save(tmp_path / "model")
