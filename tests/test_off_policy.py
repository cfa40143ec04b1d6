"""Everything that users of SB3 rely on, on real tasks, with S2PGSAC and S2PGTD3."""

import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Images, MixedDict
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_s2pg import S2PGSAC, S2PGTD3
from sb3_s2pg.common.callbacks import InternalStateCallback

SMALL = {"net_arch": [16, 16], "state_dim": 4}
both = pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])


def make(env="PendulumNoVel-v1", policy="MlpPolicy", policy_kwargs=None, algorithm=S2PGSAC, **kwargs):
    kwargs = {"learning_starts": 50, "batch_size": 32, "buffer_size": 500, "seed": 0, "device": "cpu", **kwargs}
    return algorithm(policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)


def newest(prefix):
    """The newest version of a task that the installed gymnasium has."""
    return max((name for name in gym.registry if name.startswith(prefix + "-v")), key=lambda name: int(name.split("-v")[1]))


def weights(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.parametrize("theirs, ours", [(SAC, S2PGSAC), (TD3, S2PGTD3)])
def test_same_constructor_and_defaults(theirs, ours):
    theirs, ours = (inspect.signature(cls.__init__).parameters for cls in (theirs, ours))
    # TD3's changed after SB3 2.2.1 to these (see test_td3.py, too)
    changed = {"batch_size": 256, "train_freq": 1, "gradient_steps": 1} if "policy_delay" in theirs else {}
    for name, parameter in theirs.items():
        assert ours[name].default == changed.get(name, parameter.default), name
    # n_steps came with SB3 2.7; it stands where it stands there
    positional = [name for name, p in ours.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert [name for name in positional if name in theirs] == list(theirs)


def test_several_environments_in_processes():
    # Another process has imported nothing yet: the module in front of the id makes gymnasium import it
    env = make_vec_env("sb3_s2pg:PendulumNoVel-v1", 3, seed=0, vec_env_cls=SubprocVecEnv)
    model = make(env)
    model.learn(300)
    assert model._n_updates > 0 and model.replay_buffer.pos == 100
    env.close()


@pytest.mark.parametrize(
    "kwargs, n_updates",
    [
        ({"train_freq": 4}, 38),  # every 4 steps, from step 52 to step 200
        ({"train_freq": (1, "episode")}, 1),
        ({"train_freq": (1, "episode"), "gradient_steps": -1}, 200),
        ({"train_freq": 10, "gradient_steps": 3}, 45),
        ({"gradient_steps": -1}, 150),
        ({"gradient_steps": 0}, 0),
        ({"learning_starts": 1000}, 0),
    ],
)
def test_train_freq_and_gradient_steps(kwargs, n_updates):
    model = make(**kwargs)
    model.learn(200)
    assert model._n_updates == n_updates


OPTIONS = {
    S2PGSAC: [
        {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))},
        {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.1 * np.ones(1))},
        {"use_sde": True, "sde_sample_freq": 4},
        {"use_sde": True, "use_sde_at_warmup": True},
        {"ent_coef": 0.1, "state_ent_coef": 0.0},
        {"ent_coef": "auto_0.3", "state_ent_coef": "auto"},
        {"target_entropy": -2.0, "target_state_entropy": -7.0},
        {"state_entropy_in_target": True},
        {"critic_history": 0},
        {"state_refresh_rate": 0.5},
        {"target_update_interval": 3, "gradient_steps": 4, "train_freq": 4},
        {"policy_kwargs": {"state_dim": 0}},
        {"policy_kwargs": {"state_dim": 0, "use_previous_action": False}},
        {"policy_kwargs": {"use_previous_action": False}},
        {"policy_kwargs": {"net_arch": []}},
        {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [16, 8]}, "n_critics": 1}},
        {"policy_kwargs": {"activation_fn": th.nn.Tanh, "n_critics": 3}},
        {"policy_kwargs": {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}},
        {"policy_kwargs": {"optimizer_kwargs": {"foreach": True}}},
        {"policy_kwargs": {"share_features_extractor": True}},
        {"policy_kwargs": {"state_kernel_kwargs": {"gated_noise": False, "input_gain": 2.0}}},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ],
    S2PGTD3: [
        {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))},
        {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.1 * np.ones(1))},
        {"policy_delay": 1, "target_policy_noise": 0.0},
        {"policy_delay": 3, "gradient_steps": 4, "train_freq": 4},
        {"state_noise": 0.0},
        {"state_noise": 0.2, "target_state_noise": 0.3, "target_state_noise_clip": 0.0},
        {"critic_history": 0},
        {"state_refresh_rate": 0.5},
        {"policy_kwargs": {"state_dim": 0}},
        {"policy_kwargs": {"state_dim": 0, "use_previous_action": False}},
        {"policy_kwargs": {"net_arch": []}},
        {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [16, 8]}, "n_critics": 1}},
        {"policy_kwargs": {"activation_fn": th.nn.Tanh, "n_critics": 3}},
        {"policy_kwargs": {"share_features_extractor": True}},
        {"policy_kwargs": {"state_kernel_kwargs": {"gated_noise": False}, "kernel_lr_ratio": 0.1}},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ],
}


@pytest.mark.parametrize("algorithm, kwargs", [(cls, kwargs) for cls, options in OPTIONS.items() for kwargs in options])
def test_options_train_save_and_load(algorithm, kwargs, tmp_path):
    model = make(algorithm=algorithm, **kwargs)
    before = weights(model)
    model.learn(220)
    assert th.isfinite(weights(model)).all() and not th.equal(before, weights(model))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=make_vec_env("PendulumNoVel-v1", 1), device="cpu")
    obs = np.array([[0.6, 0.8, 0.0]], dtype=np.float32)
    state = model.predict(obs)[1]
    for a, b in zip(
        model.predict(obs, state=state, deterministic=True), loaded.predict(obs, state=state, deterministic=True), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    loaded.learn(100)
    assert th.isfinite(weights(loaded)).all()


class MeanOfImage(BaseFeaturesExtractor):
    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.linear = th.nn.Linear(observation_space.shape[-1], features_dim)

    def forward(self, observations):
        return self.linear(observations.mean(dim=(1, 2)))


@pytest.mark.parametrize(
    "env, policy, policy_kwargs",
    [
        (Images, "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 16}}),
        (Images, "CnnPolicy", {"features_extractor_class": MeanOfImage}),
        (Images, "CnnPolicy", {"features_extractor_class": MeanOfImage, "share_features_extractor": True}),
        (MixedDict, "MultiInputPolicy", {"features_extractor_kwargs": {"cnn_output_dim": 16}}),
        (lambda: MixedDict(with_camera=False), "MultiInputPolicy", {}),
    ],
)
@both
def test_images_dicts_and_features_extractors(algorithm, env, policy, policy_kwargs, tmp_path):
    model = make(env(), policy, policy_kwargs, algorithm, learning_starts=20, batch_size=16, buffer_size=100)
    assert model.critic_history == 0
    extractor = [parameter.detach().clone() for parameter in model.actor.features_extractor.parameters()]
    model.learn(50)
    moved = [not th.equal(a, b) for a, b in zip(extractor, model.actor.features_extractor.parameters(), strict=True)]
    assert all(moved)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    obs, _ = env().reset(seed=3)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


def test_one_dict_of_policy_kwargs_for_several_algorithms():
    policy_kwargs = {"net_arch": [8]}
    S2PGSAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs=policy_kwargs)
    S2PGTD3("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs=policy_kwargs)
    assert policy_kwargs == {"net_arch": [8]}
    SAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs=policy_kwargs)


@both
def test_default_critic_history(algorithm):
    assert make(algorithm=algorithm).critic_history == 8
    assert make("PendulumNoVelPriv-v1", "MultiInputPolicy", algorithm=algorithm).critic_history == 0
    assert make("Pendulum-v1", policy_kwargs={"actor_observation": [0, 1]}, algorithm=algorithm).critic_history == 0
    assert make("PendulumNoVelPriv-v1", "MultiInputPolicy", critic_history=2, algorithm=algorithm).critic_history == 2

    class NormalizedImages(Images):
        observation_space = gym.spaces.Box(0, 1, (3, 36, 36), dtype=np.float32)

    kwargs = {"normalize_images": False, "features_extractor_kwargs": {"normalized_image": True, "features_dim": 8}}
    assert make(NormalizedImages(), "CnnPolicy", kwargs, algorithm, buffer_size=10).critic_history == 0
    # Nothing is privileged if critic and actor are told to see the same
    assert (
        make("PendulumNoVelPriv-v1", "MultiInputPolicy", {"critic_observation": ["observation"]}, algorithm).critic_history
        == 8
    )


@both
def test_vec_normalize_and_frame_stack(algorithm):
    env = VecNormalize(VecFrameStack(make_vec_env("PendulumNoVel-v1", 2, seed=0), 3))
    model = make(env, algorithm=algorithm)
    model.learn(200)
    assert model.observation_space.shape == (9,) and th.isfinite(weights(model)).all()

    env = VecNormalize(make_vec_env("PendulumNoVelPriv-v1", 2, seed=0))
    eval_env = VecNormalize(make_vec_env("PendulumNoVelPriv-v1", 1, seed=1), training=False, norm_reward=False)
    model = make(env, "MultiInputPolicy", algorithm=algorithm)
    model.learn(200, callback=EvalCallback(eval_env, eval_freq=50, n_eval_episodes=1, verbose=0))
    assert eval_env.obs_rms["observation"].count == pytest.approx(env.obs_rms["observation"].count, abs=2)


def test_mujoco():
    model = make(newest("HalfCheetah"), policy_kwargs={"actor_observation": list(range(8))})
    model.learn(150)
    assert model.actor.kernel.input_dim == 8 + 6 and th.isfinite(weights(model)).all()


@both
def test_callbacks_do_not_disturb_the_state(algorithm, tmp_path):
    """Evaluation and checkpoints in between change nothing: same seed, same run, with or without them."""
    runs = []
    for with_callbacks in (False, True):
        model = make(algorithm=algorithm)
        callbacks = []
        if with_callbacks:
            eval_env = Monitor(gym.make("PendulumNoVel-v1"))
            # Deterministic evaluation draws no random numbers
            callbacks = [
                EvalCallback(eval_env, best_model_save_path=str(tmp_path), eval_freq=40, n_eval_episodes=1, verbose=0),
                CheckpointCallback(60, str(tmp_path), save_replay_buffer=True),
            ]
        model.learn(200, callback=callbacks)
        runs.append((weights(model), model.replay_buffer.next_internal_states[:200].copy()))
    assert th.equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert (tmp_path / "best_model.zip").exists()
    checkpoint = algorithm.load(tmp_path / "rl_model_180_steps", env=make_vec_env("PendulumNoVel-v1", 1), device="cpu")
    checkpoint.load_replay_buffer(tmp_path / "rl_model_replay_buffer_180_steps")
    assert checkpoint.replay_buffer.size() == 179  # the checkpoint is taken before the step is stored
    checkpoint.learn(50, reset_num_timesteps=False)
    assert checkpoint.replay_buffer.episode_starts[179, 0] and checkpoint.num_timesteps == 230


@both
def test_same_seed_same_run(algorithm):
    runs = []
    for seed in (3, 3, 4):
        model = make(make_vec_env("PendulumNoVel-v1", 2, seed=seed), algorithm=algorithm, seed=seed)
        model.learn(300)
        runs.append(weights(model))
    assert th.equal(runs[0], runs[1]) and not th.equal(runs[0], runs[2])


@both
def test_save_and_continue(algorithm, tmp_path):
    """What is saved is all there is: a loaded model trains on exactly as the original one."""
    model = make(algorithm=algorithm)
    # With an odd number of updates: the next one is the delayed one of S2PGTD3
    model.learn(151)
    assert model._n_updates % 2 == 1
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    runs = []
    for use_loaded in (False, True):
        env = make_vec_env("PendulumNoVel-v1", 1)
        if use_loaded:
            current = algorithm.load(tmp_path / "model", env=env, device="cpu")
            current.load_replay_buffer(tmp_path / "buffer")
        else:
            current = model
            current.set_env(env)
        current.set_random_seed(7)
        current.learn(120, reset_num_timesteps=False)
        temperature = current.log_state_ent_coef.item() if algorithm is S2PGSAC else None
        runs.append((weights(current), temperature, current._n_updates, current.num_timesteps))
    assert th.equal(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]


@both
def test_learn_again_and_set_env(algorithm):
    model = make(algorithm=algorithm)
    model.learn(100)
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == 200
    model.set_env(DummyVecEnv([lambda: gym.make("PendulumNoVel-v1")]))
    model.learn(100)
    starts = np.flatnonzero(model.replay_buffer.episode_starts[:300, 0])
    assert starts.tolist() == [0, 200]
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 200


@both
def test_tensorboard_files(algorithm, tmp_path):
    model = make(tensorboard_log=str(tmp_path), policy_kwargs={"net_arch": [16]}, algorithm=algorithm)
    callback = InternalStateCallback(gym.make("PendulumNoVel-v1"), eval_freq=300)
    model.learn(800, callback=callback, log_interval=1)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{algorithm.__name__}_1"
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    expected = {"actor_loss", "critic_loss", "learning_rate"}  # SB3's
    expected |= {"state_abs", "state_change", "state_saturated", "state_refresh_shift"}
    expected |= {"actor_grad_norm", "critic_grad_norm", "kernel_grad_norm"}
    if algorithm is S2PGSAC:
        expected |= {"ent_coef", "ent_coef_loss", "state_ent_coef", "state_ent_coef_loss", "state_entropy"}
    scalars = set(events.Tags()["scalars"])
    assert {name.removeprefix("train/") for name in scalars if name.startswith("train/")} == expected
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"} <= scalars
    values = {name: [event.value for event in events.Scalars(f"train/{name}")] for name in expected}
    assert all(np.isfinite(value).all() for value in values.values())
    assert all(0 < value < 1 for value in values["state_abs"]) and all(0 <= v <= 1 for v in values["state_saturated"])
    assert all(value > 0 for value in values["state_change"] + values["kernel_grad_norm"] + values["state_refresh_shift"])
    images = events.Images("eval/internal_states")
    assert [image.step for image in images] == [300, 600] and images[0].encoded_image_string[:4] == b"\x89PNG"


def test_progress_bar_and_verbose(capsys):
    model = make(verbose=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm.rich calls itself experimental
        model.learn(450, progress_bar=True, log_interval=1)
    assert "state_ent_coef" in capsys.readouterr().out


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@both
def test_cuda(algorithm, tmp_path):
    for env, policy in (("PendulumNoVel-v1", "MlpPolicy"), ("PendulumNoVelPriv-v1", "MultiInputPolicy")):
        model = make(env, policy, algorithm=algorithm, device="cuda")
        model.learn(200)
        model.save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model", device="cpu")
        obs, _ = gym.make(env).reset(seed=0)
        np.testing.assert_allclose(
            model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0], atol=1e-5
        )
