"""S2PGPPO does everything that users of SB3's PPO rely on, on real tasks."""

import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import AnyAction, Images, MixedDict
from gymnasium import spaces
from predictions import assert_same_predictions
from stable_baselines3 import PPO, __version__
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_s2pg import S2PGPPO
from sb3_s2pg.common.callbacks import InternalStateCallback
from sb3_s2pg.common.rollout_buffers import StatefulDictRolloutBuffer, StatefulRolloutBuffer

SMALL = {"net_arch": [16, 16], "state_dim": 4}
BOX = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32))


def make(env="PendulumNoVel-v1", policy="MlpPolicy", policy_kwargs=None, **kwargs):
    kwargs = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", **kwargs}
    return S2PGPPO(policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)


def weights(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def test_same_constructor_and_defaults_as_ppo():
    theirs, ours = (inspect.signature(cls.__init__).parameters for cls in (PPO, S2PGPPO))
    assert [name for name in ours if name != "state_ent_coef"] == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind), name
    assert ours["state_ent_coef"].default == 0.0 and ours["state_ent_coef"].kind == inspect.Parameter.KEYWORD_ONLY
    learn = [inspect.signature(cls.learn).parameters for cls in (PPO, S2PGPPO)]
    for name, parameter in learn[0].items():
        assert learn[1][name].default == parameter.default or name == "tb_log_name"


@pytest.mark.parametrize(
    "space, n_features",
    [
        (BOX, 2),
        (spaces.Box(-1, 1, (2, 3), dtype=np.float32), 6),
        (spaces.Box(-1, 1, (2,), dtype=np.float64), 2),
        (spaces.Discrete(3), 3),
        (spaces.MultiDiscrete([2, 4]), 6),
        (spaces.MultiBinary(3), 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("state_dim", [0, 4])
def test_action_spaces(space, n_features, state_dim, tmp_path):
    model = make(DummyVecEnv([lambda: AnyAction(space)] * 2), policy_kwargs={"state_dim": state_dim})
    before = weights(model)
    model.learn(128)
    assert th.isfinite(weights(model)).all() and not th.equal(before, weights(model))
    model.save(tmp_path / "model")
    loaded = S2PGPPO.load(tmp_path / "model", env=DummyVecEnv([lambda: AnyAction(space)] * 2), device="cpu")
    assert_same_predictions(model, loaded, np.full((2, 3), 0.3, dtype=np.float32))
    loaded.learn(64)

    # z, then the executed action
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    actions, state = model.predict(obs)
    assert state.shape == (5, state_dim + n_features) and state.dtype == np.float32 and actions.shape == (5, *space.shape)
    assert all(space.contains(action.astype(space.dtype)) for action in actions)
    features = state[:, state_dim:]
    if isinstance(space, spaces.Box):
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        np.testing.assert_allclose(low + (features + 1) / 2 * (high - low), actions.reshape(5, -1), atol=1e-6)
    elif isinstance(space, spaces.MultiBinary):
        np.testing.assert_array_equal(features, actions)
    else:
        sizes = [space.n] if isinstance(space, spaces.Discrete) else list(space.nvec)
        columns = np.split(features, np.cumsum(sizes)[:-1], axis=1)
        assert all((column.sum(axis=1) == 1).all() for column in columns)
        np.testing.assert_array_equal(np.stack([c.argmax(axis=1) for c in columns], axis=1), actions.reshape(5, -1))
    single, _ = model.predict(obs[0])
    assert single.shape == space.shape


@pytest.mark.parametrize(
    "kwargs",
    [
        {"use_sde": True, "sde_sample_freq": 4},
        {"use_sde": True, "policy_kwargs": {"squash_output": True, "full_std": False, "use_expln": True}},
        {"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {"net_arch": []}},
        {"learning_rate": lambda progress: 1e-3 * progress, "clip_range": lambda progress: 0.2 * progress},
        {"clip_range_vf": 0.2, "target_kl": 0.01},
        {"clip_range_vf": lambda progress: 0.1},
        {"ent_coef": 0.01, "state_ent_coef": 1e-3, "vf_coef": 1.0, "max_grad_norm": 5.0},
        {"normalize_advantage": False, "batch_size": 1},
        {"gamma": 1.0, "gae_lambda": 1.0, "stats_window_size": 3},
        {"policy_kwargs": {"state_dim": 0}},
        {"policy_kwargs": {"state_dim": 0, "use_previous_action": False}},
        {"policy_kwargs": {"use_previous_action": False}},
        {"policy_kwargs": {"net_arch": []}},
        {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [16, 8]}}},
        {"policy_kwargs": {"activation_fn": th.nn.ReLU, "ortho_init": False, "log_std_init": -1.0}},
        {"policy_kwargs": {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}},
        {"policy_kwargs": {"share_features_extractor": False}},
        {"policy_kwargs": {"share_features_extractor": True}},
        {"policy_kwargs": {"state_noise_kwargs": {"std_type": "state_dependent", "log_std_init": -2.0}}},
        {"policy_kwargs": {"state_noise_kwargs": {"std_type": "fixed"}, "kernel_lr_ratio": 0.0}},
        {"policy_kwargs": {"state_kernel_class": "gru", "state_kernel_kwargs": {"gated_noise": False, "input_gain": 2.0}}},
        {"policy_kwargs": {"actor_observation": [0, 1], "critic_observation": [1, 0, 2]}},
    ],
    ids=str,
)
def test_options_train_save_and_load(kwargs, tmp_path):
    model = make(**kwargs)
    before = weights(model)
    model.learn(64)
    assert th.isfinite(weights(model)).all() and not th.equal(before, weights(model))
    model.save(tmp_path / "model")
    loaded = S2PGPPO.load(tmp_path / "model", env=make_vec_env("PendulumNoVel-v1", 1), device="cpu")
    assert_same_predictions(model, loaded, np.array([[0.6, 0.8, 0.0]], dtype=np.float32))
    assert loaded.state_ent_coef == kwargs.get("state_ent_coef", 0.0)
    loaded.learn(64)
    assert th.isfinite(weights(loaded)).all() and not th.equal(weights(loaded), weights(model))


def test_string_and_class_give_the_same_policy():
    models = [make(policy=policy) for policy in ("MlpPolicy", S2PGPPO.policy_aliases["MlpPolicy"])]
    assert th.equal(weights(models[0]), weights(models[1]))


def test_one_dict_of_policy_kwargs_for_two_algorithms():
    policy_kwargs, buffer_kwargs = {"net_arch": [8]}, {}
    for cls in (S2PGPPO, PPO):
        cls(
            "MlpPolicy",
            "PendulumNoVel-v1",
            n_steps=8,
            batch_size=8,
            policy_kwargs=policy_kwargs,
            rollout_buffer_kwargs=buffer_kwargs,
        )
    assert policy_kwargs == {"net_arch": [8]} and buffer_kwargs == {}


def test_several_environments_in_processes():
    env = make_vec_env("sb3_s2pg:PendulumNoVel-v1", 2, seed=0, vec_env_cls=SubprocVecEnv)
    model = make(env)
    model.learn(150)
    assert model.num_timesteps == 192 and model._n_updates == 6
    env.close()


@pytest.mark.parametrize(
    "env, policy, policy_kwargs",
    [
        (Images, "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 16}}),
        (Images, "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 16}, "share_features_extractor": False}),
        (MixedDict, "MultiInputPolicy", {"features_extractor_kwargs": {"cnn_output_dim": 16}}),
        (lambda: MixedDict(with_camera=False), "MultiInputPolicy", {"critic_observation": ["joints", "mode"]}),
    ],
)
def test_images_and_dicts(env, policy, policy_kwargs, tmp_path):
    model = make(env(), policy, policy_kwargs, learning_rate=1e-2)
    extractors = [
        [parameter.detach().clone() for parameter in extractor.parameters()]
        for extractor in (model.policy.pi_features_extractor, model.policy.vf_features_extractor)
    ]
    model.learn(64)
    for old, extractor in zip(
        extractors, (model.policy.pi_features_extractor, model.policy.vf_features_extractor), strict=True
    ):
        assert all(not th.equal(a, b) for a, b in zip(old, extractor.parameters(), strict=True))
    shared = model.policy.pi_features_extractor is model.policy.vf_features_extractor
    # By default if both see the same; only the critic of the first Dict sees its privileged key
    assert shared == (env is not MixedDict and "share_features_extractor" not in policy_kwargs)
    model.save(tmp_path / "model")
    loaded = S2PGPPO.load(tmp_path / "model", device="cpu")
    obs, _ = env().reset(seed=3)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


def test_discrete_observations():
    model = make(DummyVecEnv([lambda: gym.make("FrozenLake-v1", max_episode_steps=5)] * 2))
    model.learn(128)
    assert model.predict(np.array([3, 7]))[1].shape == (2, 4 + 4)


def test_vec_normalize_and_frame_stack():
    env = VecNormalize(VecFrameStack(make_vec_env("PendulumNoVel-v1", 2, seed=0), 3))
    model = make(env)
    model.learn(128)
    assert model.observation_space.shape == (9,) and th.isfinite(weights(model)).all()

    env = VecNormalize(make_vec_env("PendulumNoVelPriv-v1", 2, seed=0))
    eval_env = VecNormalize(make_vec_env("PendulumNoVelPriv-v1", 1, seed=1), training=False, norm_reward=False)
    model = make(env, "MultiInputPolicy")
    model.learn(256, callback=EvalCallback(eval_env, eval_freq=60, n_eval_episodes=1, verbose=0))
    # Evaluated at 60 and 120 calls; 128 steps per environment in all
    assert env.obs_rms["observation"].count - eval_env.obs_rms["observation"].count == pytest.approx(2 * 8, abs=2)


def test_callbacks_do_not_disturb_the_state(tmp_path):
    """Evaluation and checkpoints in between change nothing: same seed, same run, with or without them."""
    runs = []
    for with_callbacks in (False, True):
        eval_env = make_vec_env("PendulumNoVel-v1", 1)
        model = make()
        callbacks = []
        if with_callbacks:
            callbacks = [
                EvalCallback(eval_env, best_model_save_path=str(tmp_path), eval_freq=40, n_eval_episodes=1, verbose=0),
                CheckpointCallback(50, str(tmp_path)),
            ]
        model.learn(128, callback=callbacks)
        runs.append((weights(model), model.rollout_buffer.next_internal_states.copy()))
    assert th.equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert (tmp_path / "best_model.zip").exists()
    checkpoint = S2PGPPO.load(tmp_path / "rl_model_100_steps", env=make_vec_env("PendulumNoVel-v1", 1), device="cpu")
    checkpoint.learn(64, reset_num_timesteps=False)
    assert checkpoint.num_timesteps == 164


def test_same_seed_same_run():
    runs = []
    for seed in (3, 3, 4):
        model = make(make_vec_env("PendulumNoVel-v1", 2, seed=seed), seed=seed)
        model.learn(128)
        runs.append(weights(model))
    assert th.equal(runs[0], runs[1]) and not th.equal(runs[0], runs[2])


def test_save_and_continue(tmp_path):
    """What is saved is all there is: a loaded model trains on exactly as the original one."""
    model = make()
    model.learn(64)
    model.save(tmp_path / "model")
    runs = []
    for use_loaded in (False, True):
        env = make_vec_env("PendulumNoVel-v1", 1)
        current = S2PGPPO.load(tmp_path / "model", env=env, device="cpu") if use_loaded else model
        current.set_env(env)
        current.set_random_seed(7)
        current.learn(64, reset_num_timesteps=False)
        runs.append((weights(current), current.num_timesteps))
    assert th.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1] == 128


def test_load_with_another_number_of_environments(tmp_path):
    model = make()
    model.learn(32)
    model.save(tmp_path / "model")
    loaded = S2PGPPO.load(tmp_path / "model", env=make_vec_env("PendulumNoVel-v1", 3), device="cpu")
    loaded.learn(96)
    assert loaded.rollout_buffer.states.shape == (32, 3, 5) and loaded.num_timesteps == 96


def test_stop_after_episodes_and_learn_again():
    model = make(max_steps_env(10), n_steps=64)
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps == 30 and model._n_updates == 0
    model.learn(64)
    assert model.num_timesteps == 64 and model._n_updates == 2


def max_steps_env(n):
    return gym.make("PendulumNoVel-v1", max_episode_steps=n)


class Rates(BaseCallback):
    """Writes down the learning rates of the update before each rollout, by size of the parameter group."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.rates.append({len(group["params"]): group["lr"] for group in self.model.policy.optimizer.param_groups})


def test_learning_rates_of_the_kernel_follow_the_schedule():
    model = make(learning_rate=lambda progress: 1e-3 * progress, policy_kwargs={"kernel_lr_ratio": 0.1})
    n_kernel, n_all = len(list(model.policy.kernel.parameters())), len(list(model.policy.parameters()))
    callback = Rates()
    model.learn(128, callback=callback)
    for rates, progress in zip(callback.rates, (1.0, 0.75, 0.5, 0.25), strict=True):
        assert rates == pytest.approx({n_all - n_kernel: 1e-3 * progress, n_kernel: 1e-4 * progress})


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_kernel_lr_ratio_zero_freezes_the_kernel(ratio):
    model = make(policy_kwargs={"kernel_lr_ratio": ratio})
    kernel = [parameter.detach().clone() for parameter in model.policy.kernel.parameters()]
    model.learn(64)
    same = [th.equal(a, b) for a, b in zip(kernel, model.policy.kernel.parameters(), strict=True)]
    assert all(same) if ratio == 0 else not any(same)


def test_clip_range_follows_its_schedule(tmp_path):
    model = make(clip_range=lambda progress: 0.4 * progress, tensorboard_log=str(tmp_path))
    model.learn(128)
    values = [event.value for event in events_of(tmp_path).Scalars("train/clip_range")]
    np.testing.assert_allclose(values, [0.3, 0.2, 0.1], rtol=1e-5)


def events_of(folder):
    (run,) = folder.iterdir()
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return events


def test_tensorboard_files(tmp_path):
    model = make(max_steps_env(20), tensorboard_log=str(tmp_path), n_steps=64, n_epochs=4)
    model.learn(256, callback=InternalStateCallback(max_steps_env(20), eval_freq=100), log_interval=1)
    assert next(tmp_path.iterdir()).name == "S2PGPPO_1"
    events = events_of(tmp_path)
    expected = {"approx_kl", "clip_fraction", "clip_range", "entropy_loss", "explained_variance", "learning_rate"}
    expected |= {"loss", "policy_gradient_loss", "value_loss", "std"}  # up to here SB3's
    expected |= {"action_approx_kl", "state_approx_kl", "action_clip_fraction", "state_clip_fraction", "state_std"}
    expected |= {"state_entropy_loss", "state_abs", "state_change", "grad_norm", "memory_grad_norm"}
    assert {f"train/{name}" for name in expected} <= set(events.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"} <= set(events.Tags()["scalars"])
    values = {name: [event.value for event in events.Scalars(f"train/{name}")] for name in expected}
    assert all(len(value) == 3 and np.isfinite(value).all() for value in values.values())
    for name in ("approx_kl", "action_approx_kl", "state_approx_kl"):
        assert all(value > -1e-6 for value in values[name]) and max(values[name]) > 0
    for name in ("clip_fraction", "action_clip_fraction", "state_clip_fraction"):
        assert all(0 <= value <= 1 for value in values[name])
    # The std of the noise, scaled by the share that is written
    assert all(0 < value < np.exp(-2.5) for value in values["state_std"])
    assert all(0 < value < 1 for value in values["state_abs"] + values["state_change"])
    assert all(value <= 1 for value in values["explained_variance"])
    assert all(value > 0 for value in values["memory_grad_norm"] + values["grad_norm"])
    images = events.Images("eval/internal_states")
    assert [image.step for image in images] == [100, 200] and images[0].encoded_image_string[:4] == b"\x89PNG"


def test_stats_window_and_success_rate():
    model = make(gym.make("FirstStepCue-v0", length=3, n_cues=2), stats_window_size=5, n_steps=64)
    model.learn(128)
    assert model.ep_info_buffer.maxlen == 5 and [info["l"] for info in model.ep_info_buffer] == [4] * 5
    # SB3's PPO logs their mean as rollout/success_rate, from SB3 2.3 on
    assert len(model.ep_success_buffer) == 5 and set(model.ep_success_buffer) <= {True, False}


def test_progress_bar_and_verbose(capsys):
    model = make(verbose=1, target_kl=1e-6, learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm.rich calls itself experimental
        model.learn(64, progress_bar=True, log_interval=1)
    printed = capsys.readouterr().out
    assert "state_approx_kl" in printed and "Early stopping" in printed


class DoubledRewards(StatefulRolloutBuffer):
    def add(self, obs, action, reward, *args):
        super().add(obs, action, 2 * reward, *args)


class OwnDictBuffer(StatefulDictRolloutBuffer):
    pass


def test_own_rollout_buffers(tmp_path):
    model, plain = (make(rollout_buffer_class=cls).learn(32) for cls in (DoubledRewards, None))
    np.testing.assert_allclose(model.rollout_buffer.rewards, 2 * plain.rollout_buffer.rewards, rtol=1e-6)
    model.save(tmp_path / "model")
    assert type(S2PGPPO.load(tmp_path / "model", device="cpu").rollout_buffer) is DoubledRewards
    model = make("PendulumNoVelPriv-v1", "MultiInputPolicy", rollout_buffer_class=OwnDictBuffer)
    model.learn(32)
    assert type(model.rollout_buffer) is OwnDictBuffer


def test_privileged_critic(tmp_path):
    model = make("PendulumNoVelPriv-v1", "MultiInputPolicy")
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = S2PGPPO.load(tmp_path / "model", device="cpu")
    full = {"observation": np.array([1, 0, 0], dtype=np.float32), "privileged": np.array([1, 0, 5], dtype=np.float32)}
    slower = {**full, "privileged": np.array([1, 0, -3], dtype=np.float32)}
    for policy in (model, loaded):
        assert_same_predictions(policy, model, full)
        assert_same_predictions(policy, OnlyWhatIsVisible(model), full)
    # The critic sees it, the actor does not
    obs, other = (model.policy.obs_to_tensor(o)[0] for o in (full, slower))
    with th.no_grad():
        assert model.policy.predict_values(obs).item() != model.policy.predict_values(other).item()
        assert th.equal(model.policy.get_distribution(obs).mode(), model.policy.get_distribution(other).mode())
    with pytest.raises(ValueError, match="lacks the keys"):
        model.predict({"privileged": full["privileged"]})
    # A value network and an extractor of its own
    assert not model.policy.share_features_extractor
    assert model.policy.mlp_extractor.value_net[0].in_features == 6 + 4 + 1
    assert model.policy.mlp_extractor.policy_net[0].in_features == 3 + 1 + 4


class OnlyWhatIsVisible:
    """Predicts without the privileged sensor."""

    def __init__(self, model):
        self.model = model

    def predict(self, obs, *args, **kwargs):
        return self.model.predict({"observation": obs["observation"]}, *args, **kwargs)


def test_index_subsets_of_a_box():
    model = make("Pendulum-v1", policy_kwargs={"actor_observation": [0, 1]})
    model.learn(32)
    obs, faster = (np.array([[0.6, 0.8, velocity]], dtype=np.float32) for velocity in (3.0, -7.0))
    assert model.predict(obs, deterministic=True)[0] == model.predict(faster, deterministic=True)[0]
    with th.no_grad():
        values = [model.policy.predict_values(th.as_tensor(o)).item() for o in (obs, faster)]
    assert values[0] != values[1]
    assert make(
        "Pendulum-v1", policy_kwargs={"actor_observation": [0, 1], "critic_observation": [0, 1]}
    ).policy.share_features_extractor


@pytest.mark.skipif(
    __version__.startswith("2.2"), reason="policy.load() of SB3 2.2.1 itself does not work with torch >= 2.6 (weights_only)"
)
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"use_sde": True, "policy_kwargs": {"squash_output": True}}, {"env": "CartPoleNoVel-v1"}],
    ids=str,
)
def test_policy_saved_alone_predicts_the_same(kwargs, tmp_path):
    model = make(**kwargs)
    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    assert_same_predictions(policy, model, np.full((2, *model.observation_space.shape), 0.4, dtype=np.float32))
    assert policy.optimizer.param_groups[0]["params"]


@pytest.mark.skipif(
    __version__.startswith("2.2"), reason="policy.load() of SB3 2.2.1 itself does not work with torch >= 2.6 (weights_only)"
)
def test_image_and_dict_policies_saved_alone(tmp_path):
    cases = [
        (Images(), "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 8}}),
        (MixedDict(with_camera=False), "MultiInputPolicy", {"actor_observation": ["joints"]}),
    ]
    for env, name, kwargs in cases:
        model = make(env, name, kwargs)
        model.policy.save(tmp_path / "policy.pt")
        policy = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
        assert_same_predictions(policy, model, model.env.reset())


@pytest.fixture(scope="module")
def trained():
    model = make(DummyVecEnv([lambda: AnyAction(spaces.Discrete(3))]))
    model.learn(32)
    return model


@pytest.fixture
def observations():
    return np.random.default_rng(0).uniform(-1, 1, (20, 4, 3)).astype(np.float32)


def walk(model, observations, starts=None):
    state, actions, states = None, [], []
    for t, obs in enumerate(observations):
        start = None if starts is None else starts[t]
        action, state = model.predict(obs, state=state, episode_start=start, deterministic=True)
        actions.append(action)
        states.append(state)
    return np.array(actions), np.array(states)


def test_predict_is_pure(trained, observations):
    state = trained.predict(observations[0])[1]
    kept, seen = state.copy(), observations.copy()
    first = trained.predict(observations[1], state=state, deterministic=True)
    trained.predict(observations[2], state=state, episode_start=np.ones(4, dtype=bool))
    again = trained.predict(observations[1], state=state, deterministic=True)
    np.testing.assert_array_equal(state, kept)
    np.testing.assert_array_equal(observations, seen)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_episode_start_resets_single_environments(trained, observations):
    starts = np.zeros((20, 4), dtype=bool)
    starts[7, 2] = True
    actions, states = walk(trained, observations, starts)
    plain_actions, plain_states = walk(trained, observations)
    others = [0, 1, 3]
    np.testing.assert_array_equal(actions[:, others], plain_actions[:, others])
    np.testing.assert_array_equal(states[:, others], plain_states[:, others])
    assert np.abs(states[7:, 2] - plain_states[7:, 2]).max() > 1e-4
    fresh_actions, fresh_states = walk(trained, observations[7:, 2:3])
    np.testing.assert_array_equal(actions[7:, 2:3], fresh_actions)
    np.testing.assert_allclose(states[7:, 2:3], fresh_states, atol=1e-6)


def test_predict_unrolls_the_kernel(trained, observations):
    _, states = walk(trained, observations)
    kernel = trained.policy.kernel
    previous = np.concatenate([np.zeros((1, 4, 3), dtype=np.float32), states[:-1, :, 4:]])
    with th.no_grad():
        unrolled = kernel.unroll(th.as_tensor(np.concatenate([observations, previous], axis=2)), kernel.initial_state(4))
    np.testing.assert_allclose(states[:, :, :4], unrolled.numpy(), atol=1e-5)
    # Noise is on both a and z'
    state = states[5]
    samples = [trained.predict(observations[6], state=state) for _ in range(6)]
    assert (
        len({sample[0].tobytes() for sample in samples}) > 1 and len({sample[1][:, :4].tobytes() for sample in samples}) == 6
    )


def test_evaluate_policy_carries_the_state():
    model = make("CartPoleNoVel-v1")
    reward, _ = evaluate_policy(model, make_vec_env("CartPoleNoVel-v1", 1, seed=5), n_eval_episodes=3)
    env = make_vec_env("CartPoleNoVel-v1", 1, seed=5)
    returns, obs = [], env.reset()
    for _ in range(3):
        state, total, done = None, 0.0, False
        while not done:
            action, state = model.predict(obs, state=state, deterministic=True)
            obs, rewards, dones, _ = env.step(action)
            total, done = total + rewards[0], dones[0]
        returns.append(total)
    assert reward == pytest.approx(np.mean(returns))


def test_sb3s_ways_to_use_a_policy(trained):
    """forward, get_distribution, predict_values and evaluate_actions without a state: the start of an episode."""
    obs = th.tensor([[0.1, -0.2, 0.3], [0.5, 0.5, 0.0]])
    with th.no_grad():
        actions, next_z, values = trained.policy(obs, deterministic=True)
        assert th.equal(values, trained.policy.predict_values(obs).flatten())
        assert th.equal(actions, trained.policy.get_distribution(obs).mode())
        assert th.equal(actions, trained.policy._predict(obs, deterministic=True))
    predicted, state = trained.predict(obs.numpy(), deterministic=True)
    np.testing.assert_array_equal(actions, predicted)
    np.testing.assert_array_equal(next_z, state[:, :4])


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
def test_cuda(tmp_path):
    for env, policy in (("CartPoleNoVel-v1", "MlpPolicy"), ("PendulumNoVelPriv-v1", "MultiInputPolicy")):
        model = make(env, policy, device="cuda")
        model.learn(64)
        model.save(tmp_path / "model")
        loaded = S2PGPPO.load(tmp_path / "model", device="cpu")
        obs, _ = gym.make(env).reset(seed=0)
        np.testing.assert_allclose(
            model.predict(obs, deterministic=True)[1], loaded.predict(obs, deterministic=True)[1], atol=1e-5
        )


def test_linear_schedules_do_not_turn_negative_in_the_last_rollout():
    """A rollout of 64 steps for a total of 10: SB3's progress remaining would be -5.4."""
    rates = []

    def linear(progress_remaining):
        rates.append(progress_remaining)
        return 1e-3 * progress_remaining

    model = S2PGPPO("MlpPolicy", "CartPoleNoVel-v1", learning_rate=linear, n_steps=64, batch_size=64, n_epochs=1, seed=0)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(10)
    assert min(rates) == 0 and model.num_timesteps == 64
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
