"""What a user got wrong is said clearly, before anything is trained, stored or overwritten."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Counter, Images, MixedDict
from gymnasium import spaces
from stable_baselines3 import SAC, TD3, HerReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_s2pg import S2PGSAC, S2PGTD3, InternalStateCallback, StateKernel
from sb3_s2pg.common.buffers import StatefulDictReplayBuffer
from sb3_s2pg.envs import PartialObservation

SMALL = {"net_arch": [8], "state_dim": 4}
both = pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])


def make(env="PendulumNoVel-v1", policy="MlpPolicy", policy_kwargs=None, algorithm=S2PGSAC, **kwargs):
    return algorithm(policy, env, buffer_size=300, policy_kwargs={**SMALL, **(policy_kwargs or {})}, device="cpu", **kwargs)


class Unbounded(Counter):
    action_space = spaces.Box(-np.inf, np.inf, (1,), dtype=np.float32)


class Broken(Counter):
    """Returns something that is not finite at the step ``at``."""

    def __init__(self, what: str, at: int):
        super().__init__(length=6)
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


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"env": "CartPoleNoVel-v1"}, "S2PGPPO"),
        ({"env": Unbounded()}, "bounded action space"),
        ({"policy_kwargs": {"state_dim": -1}}, "state_dim=-1"),
        ({"policy_kwargs": {"state_dim": 2.5}}, "state_dim=2.5"),
        ({"policy_kwargs": {"state_kernel_class": "nonsense"}}, "state_kernel_class='nonsense'.*gru"),
        ({"policy_kwargs": {"state_kernel_class": dict}}, "state_kernel_class"),
        ({"policy_kwargs": {"actor_observation": [0, 3]}}, r"actor_observation=\[0, 3\]: indices \[3\] do not exist"),
        ({"policy_kwargs": {"actor_observation": []}}, "selects nothing"),
        ({"policy_kwargs": {"critic_observation": [0, 0]}}, "twice"),
        ({"policy_kwargs": {"kernel_lr_ratio": -1.0}}, "kernel_lr_ratio=-1.0"),
        ({"policy_kwargs": {"state_noise_kwargs": {"log_std_init": 5.0}}}, "log_std_init=5.0"),
        ({"policy_kwargs": {"share_features_extractor": True, "actor_observation": [0]}}, "share_features_extractor"),
        ({"critic_history": -1}, "critic_history=-1"),
        ({"critic_history": 1.5}, "critic_history=1.5"),
        ({"env": Images(), "policy": "CnnPolicy", "critic_history": 2}, "does not work with images"),
        ({"policy_kwargs": {"state_kernel_class": StateKernel}}, "state_kernel_class"),
        ({"policy_kwargs": {"critic_history": 3}}, "argument of the algorithm"),
        ({"policy_kwargs": {"actor_observation": "observation"}}, "must be a list"),
        ({"n_steps": 3}, "n_steps=3"),
        ({"state_refresh_rate": 1.5}, "state_refresh_rate=1.5"),
        ({"replay_buffer_class": StatefulDictReplayBuffer}, "does not fit"),
        ({"replay_buffer_class": HerReplayBuffer}, "Hindsight replay"),
        ({"policy": SAC.policy_aliases["MlpPolicy"]}, "SACPolicy"),
    ],
)
@both
def test_constructor(algorithm, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(algorithm=algorithm, **kwargs)


# Of S2PGTD3 alone: test_td3.py
@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"state_ent_coef": "auto_0"}, "state_ent_coef='auto_0'"),
        ({"state_ent_coef": "auto_x"}, "state_ent_coef='auto_x'"),
        ({"state_ent_coef": -0.1}, "state_ent_coef=-0.1"),
        ({"target_state_entropy": "none"}, "target_state_entropy='none'"),
    ],
)
def test_temperatures(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(**kwargs)


def test_keys_of_a_dict():
    env = MixedDict(with_camera=False)
    for kwargs, match in (
        ({"actor_observation": ["joint"]}, r"actor_observation=\['joint'\]: keys \['joint'\] do not exist.*joints"),
        ({"critic_observation": ["camera"]}, "critic_observation"),
        ({"actor_observation": [0]}, "do not exist"),
    ):
        with pytest.raises(ValueError, match=match):
            make(env, "MultiInputPolicy", kwargs)
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make(env, "MlpPolicy")


def test_an_actor_without_observation():
    class OnlyPrivileged(MixedDict):
        def __init__(self):
            self.observation_space = spaces.Dict({"privileged": spaces.Box(-1, 1, (2,), dtype=np.float32)})

    with pytest.raises(ValueError, match=r"actor_observation.*selects nothing"):
        make(OnlyPrivileged(), "MultiInputPolicy")


@pytest.mark.parametrize("name", ["ent_coef_learning_rate", "state_ent_coef_learning_rate"])
@pytest.mark.parametrize("value", ["lin_3e-4", -1e-3, True])
def test_learning_rates_of_the_temperatures(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} must be a number"):
        make(**{name: value})


@pytest.mark.parametrize(
    "hidden, match",
    [
        ([5], "do not exist"),
        ([0, 1, 2], "hides the whole observation"),
        ([True, False, False], "neither indices nor names"),
        ([1.5], "neither indices nor names"),
    ],
)
def test_partial_observation(hidden, match):
    with pytest.raises(ValueError, match=match):
        PartialObservation(gym.make("Pendulum-v1"), hidden=hidden)


def test_partial_observation_of_something_else():
    with pytest.raises(ValueError, match="one-dimensional Box"):
        PartialObservation(Images(), hidden=[0])


def test_files_of_another_kind(tmp_path):
    for algorithm in (SAC, TD3, S2PGTD3):
        path = tmp_path / algorithm.__name__
        algorithm("MlpPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs={"net_arch": [8]}).save(path)
        with pytest.raises(ValueError, match="loaded with the class that saved it"):
            S2PGSAC.load(path)
    make().save(tmp_path / "ours")
    with pytest.raises(ValueError, match="n_steps=3"):
        S2PGSAC.load(tmp_path / "ours", n_steps=3)
    text = tmp_path / "notes.zip"
    text.write_text("not a model")
    with pytest.raises(ValueError, match="zip"):
        S2PGSAC.load(text)


@both
def test_replay_buffers_of_another_kind(algorithm, tmp_path):
    model = make(algorithm=algorithm)
    model.learn(120)
    present = model.replay_buffer
    other = make(policy_kwargs={"state_dim": 5})
    other.save_replay_buffer(tmp_path / "other")
    sac = SAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=300, policy_kwargs={"net_arch": [8]})
    sac.save_replay_buffer(tmp_path / "sac")
    with pytest.raises(ValueError, match="state_dim=5"):
        model.load_replay_buffer(tmp_path / "other")
    with pytest.raises(ValueError, match="without internal states"):
        model.load_replay_buffer(tmp_path / "sac")
    save_to_pkl(tmp_path / "something", {"not": "a buffer"})
    with pytest.raises(ValueError, match="does not hold a replay buffer"):
        model.load_replay_buffer(tmp_path / "something")
    assert model.replay_buffer is present and present.size() == 120


@pytest.mark.parametrize(
    "what, at, step",
    [("observation", 16, 32), ("terminal observation", 18, 36), ("reward", 20, 40), ("first observation", 0, 0)],
)
@pytest.mark.parametrize("normalize", [False, True])
@both
def test_what_is_not_finite_is_not_stored(algorithm, what, at, step, normalize, tmp_path):
    env = DummyVecEnv([lambda: Counter(), lambda: Broken(what, at)])
    if normalize:
        env = VecNormalize(env)
    model = make(env, learning_starts=10, algorithm=algorithm)
    with pytest.raises(ValueError, match=f"Non-finite .*{what.split()[-1]} in environment 1 at step {step}:"):
        model.learn(200)
    assert_finite(model, tmp_path)


def test_what_overflows_in_single_precision_is_not_stored(tmp_path):
    class Huge(Counter):
        observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype=np.float64)

        def _observation(self):
            return np.full(3, 1e39 if self.steps == 4 else 1.0)

    model = make(Huge(), learning_starts=10)
    with pytest.raises(ValueError, match="Non-finite observation in environment 0 at step 4"):
        model.learn(200)
    assert_finite(model, tmp_path)


@both
def test_a_policy_that_has_diverged(algorithm):
    model = make(learning_starts=10, algorithm=algorithm)
    model.learn(5)
    with th.no_grad():
        model.actor.kernel.cell.bias_ih.fill_(np.nan)
    with pytest.raises(ValueError, match=r"Non-finite internal state.*Training has diverged"):
        model.learn(5)


@pytest.mark.parametrize("gradient_steps", [1, 10])
@both
def test_training_that_diverges_leaves_everything_finite(algorithm, gradient_steps, tmp_path):
    model = make(algorithm=algorithm, learning_starts=20, train_freq=10, gradient_steps=gradient_steps, learning_rate=1e20)
    with pytest.raises(ValueError, match="Training has diverged"):
        model.learn(200)
    assert_finite(model, tmp_path)


class WrongShape(StateKernel):
    def forward(self, inputs, states):
        return states[:, :1], None


class WrongScale(StateKernel):
    def forward(self, inputs, states):
        return states, states / 0


@pytest.mark.parametrize("kernel, match", [(WrongShape, r"mean has the shape \(1, 1\)"), (WrongScale, "scale has the shape")])
def test_a_kernel_that_returns_nonsense(kernel, match):
    with pytest.raises(ValueError, match=match):
        make(policy_kwargs={"state_kernel_class": kernel})


def test_callback():
    with pytest.raises(ValueError, match="eval_freq=0"):
        InternalStateCallback(Counter(), eval_freq=0)
    with pytest.raises(ValueError, match="no internal state"):
        make(policy_kwargs={"state_dim": 0}).learn(10, callback=InternalStateCallback(Counter()))
    with pytest.raises(ValueError, match="VecNormalize"):
        make(VecNormalize(DummyVecEnv([Counter]))).learn(10, callback=InternalStateCallback(Counter()))


def test_an_internal_state_that_is_not_finite(tmp_path):
    env = DummyVecEnv([lambda: Counter(), lambda: Counter(1)])
    model = make(env, learning_starts=10)
    model.learn(40)
    # A user's own kernel or a learning rate gone wild would do this
    model._last_state[1] = np.nan
    model._last_episode_starts = np.zeros(2, dtype=bool)
    with pytest.raises(ValueError, match="Non-finite internal state in environment 1 at step 40"):
        model.learn(40, reset_num_timesteps=False)
    assert_finite(model, tmp_path)
    # The next call starts new episodes, and goes on
    model.learn(40, reset_num_timesteps=False)
    assert_finite(model, tmp_path)


def assert_finite(model, tmp_path):
    buffer = model.replay_buffer
    for array in (buffer.observations, buffer.next_observations, buffer.rewards, buffer.next_internal_states, buffer.actions):
        assert np.isfinite(array).all()
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in model.policy.parameters())
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
