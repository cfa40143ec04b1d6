"""Experts act in imitation's rollouts; what they do is collected, saved, loaded whole or not at all, and derived."""

import json
import os
import subprocess
import sys

import datasets
import gymnasium as gym
import numpy as np
import pytest
from envs import Counter
from imitation.data import rollout, serialize, types
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_s2pg import S2PGPPO, S2PGSAC, S2PGTD3
from sb3_s2pg.demonstrations import (
    EXPERTS,
    collect_demonstrations,
    derive_observations,
    load_demonstrations,
    load_expert,
    save_demonstrations,
)
from sb3_s2pg.demonstrations.__main__ import main
from sb3_s2pg.envs import PartialObservation

SMALL = {"net_arch": [8]}
# Of jsonpickle, which imitation calls
pytestmark = pytest.mark.filterwarnings("ignore:keys will default:DeprecationWarning")


def expert(algorithm=SAC, env="Pendulum-v1", policy="MlpPolicy", **kwargs):
    """Not a good one, but one that acts."""
    if algorithm not in (PPO, S2PGPPO):
        kwargs["buffer_size"] = 10
    return algorithm(policy, env, policy_kwargs=dict(SMALL), seed=0, device="cpu", **kwargs)


def command(*arguments):
    """Run the command and return what it printed."""
    line = [sys.executable, "-m", "sb3_s2pg.demonstrations", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3, S2PGPPO])
def test_an_expert_with_memory_keeps_its_state_in_rollouts(algorithm):
    model = expert(algorithm, Counter())
    venv = DummyVecEnv([lambda: Counter(0, length=4), lambda: Counter(1, length=7)])
    trajectories = rollout.rollout(
        model, venv, rollout.make_min_episodes(6), np.random.default_rng(0), unwrap=False, deterministic_policy=True
    )
    assert {len(trajectory) for trajectory in trajectories} == {4, 7}
    for trajectory in trajectories:
        state, forgetful = None, []
        for obs, action in zip(trajectory.obs[:-1], trajectory.acts, strict=True):
            forgetful.append(model.predict(obs, deterministic=True)[0])
            by_hand, state = model.predict(obs, state=state, deterministic=True)
            np.testing.assert_allclose(action, by_hand, atol=1e-5)
        # The state makes a difference
        assert not np.allclose(forgetful, trajectory.acts, atol=1e-5)


def test_the_command_records_the_full_state(tmp_path):
    model = expert()
    model.save(tmp_path / "expert")
    out = tmp_path / "deep" / "demos"
    printed = command("--algo=sac", f"--model={tmp_path / 'expert.zip'}", "--env=Pendulum-v1", "--episodes=3", f"--out={out}")
    trajectories = load_demonstrations(out)
    returns = [trajectory.rews.sum() for trajectory in trajectories]
    assert f"3 episodes of 200 to 200 steps, 600 in all. Return: mean {np.mean(returns):.1f}" in printed
    assert [trajectory.obs.shape for trajectory in trajectories] == [(201, 3)] * 3
    for trajectory in trajectories:
        assert trajectory.obs.dtype == trajectory.acts.dtype == np.float32 and np.abs(trajectory.obs[:, 2]).max() > 0
        assert [info["TimeLimit.truncated"] for info in trajectory.infos] == [False] * 199 + [True]
        np.testing.assert_allclose(model.predict(trajectory.obs[:-1], deterministic=True)[0], trajectory.acts, atol=1e-5)
    # imitation reads the folder, too
    assert serialize.load(str(out))[0].obs.shape == (201, 3)

    hidden = load_demonstrations(out, "PendulumNoVelPriv-v1")
    for full, partial in zip(trajectories, hidden, strict=True):
        np.testing.assert_array_equal(partial.obs.get("privileged"), full.obs)
        np.testing.assert_array_equal(partial.obs.get("observation"), full.obs * np.array([1, 1, 0], dtype=np.float32))
    np.testing.assert_array_equal(load_demonstrations(out, "PendulumNoVel-v1")[0].obs, hidden[0].obs.get("observation"))
    np.testing.assert_array_equal(load_demonstrations(out, derive=lambda obs: obs[:, :2])[0].obs, trajectories[0].obs[:, :2])
    with pytest.raises(ValueError, match=r"shape \(3,\), the environment's have \(4,\)"):
        load_demonstrations(out, "CartPoleNoVel-v1")


def test_what_a_task_shows_of_a_full_state():
    full = np.arange(12, dtype=np.float32).reshape(4, 3)
    dropped = PartialObservation(gym.make("Pendulum-v1"), hidden=[2], drop=True)
    np.testing.assert_array_equal(derive_observations(full, dropped), full[:, :2])
    np.testing.assert_array_equal(derive_observations(full[:, :2], dropped), full[:, :2])
    np.testing.assert_array_equal(derive_observations(full, gym.make("Pendulum-v1")), full)
    both = derive_observations(full, PartialObservation(gym.make("Pendulum-v1"), hidden=[0], privileged=True))
    np.testing.assert_array_equal(both["privileged"], full)
    np.testing.assert_array_equal(both["observation"], full * [0, 1, 1])


def test_dict_observations_survive(tmp_path):
    model = expert(S2PGSAC, "PendulumNoVelPriv-v1", "MultiInputPolicy")
    collected = collect_demonstrations(model, "PendulumNoVelPriv-v1", 2, n_envs=2)
    save_demonstrations(tmp_path / "demos", collected)
    loaded = load_demonstrations(tmp_path / "demos", "PendulumNoVelPriv-v1")
    assert len(collected) == 2 and all(isinstance(trajectory.obs, types.DictObs) for trajectory in collected)
    for before, after in zip(collected, loaded, strict=True):
        assert before.obs == after.obs and after.obs.dtype["privileged"] == np.float32
        np.testing.assert_array_equal(before.acts, after.acts)
        np.testing.assert_array_equal(before.rews, after.rews)


def test_an_expert_that_sees_normalized_observations(tmp_path):
    venv = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    model = expert(SAC, venv)
    model.learn(200)
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    recorded = collect_demonstrations(model, "Pendulum-v1", 1, vec_normalize=tmp_path / "vecnormalize.pkl")[0]
    np.testing.assert_allclose(np.square(recorded.obs[:, :2]).sum(axis=1), 1, atol=1e-5)
    seen = venv.normalize_obs(recorded.obs[:-1])
    np.testing.assert_allclose(model.predict(seen, deterministic=True)[0], recorded.acts, atol=1e-4)
    assert recorded.rews.min() < -1  # rewards of the task, not normalized ones


def test_discrete_actions_and_a_seed(tmp_path):
    model = expert(PPO, "CartPole-v1")
    runs = [collect_demonstrations(model, "CartPole-v1", 3, seed=seed, deterministic=False) for seed in (1, 1, 2)]
    assert runs[0][0].acts.dtype == np.int64 and len(runs[0]) == 3
    np.testing.assert_array_equal(runs[0][0].obs[0], runs[1][0].obs[0])
    assert not np.array_equal(runs[0][0].obs[0], runs[2][0].obs[0])
    save_demonstrations(tmp_path / "demos", runs[0])
    loaded = load_demonstrations(tmp_path / "demos", "CartPoleNoVel-v1")
    assert loaded[0].acts.dtype == np.int64 and (loaded[0].obs[:, 1] == 0).all()


def test_rewards_may_be_integers():
    class Integers(Counter):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, int(reward), terminated, truncated, info

    gym.register("Integers-v0", entry_point=Integers)
    recorded = collect_demonstrations(expert(SAC, Integers()), "Integers-v0", 1)[0]
    np.testing.assert_array_equal(recorded.rews, [1.0, 2.0, 3.0, 4.0, 5.0])
    gym.registry.pop("Integers-v0")


def test_every_expert_exists():
    import sb3_contrib
    import stable_baselines3

    import sb3_s2pg

    modules = {module.__name__: module for module in (sb3_contrib, sb3_s2pg, stable_baselines3)}
    missing = [name for name, (module, cls) in EXPERTS.items() if not hasattr(modules[module], cls)]
    assert missing in ([], ["crossq"])  # sb3-contrib has it since 2.4


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    expert(S2PGSAC, "PendulumNoVel-v1").save(tmp_path / "memory")
    expert().save(tmp_path / "sac")
    (tmp_path / "text.zip").write_text("nothing")
    out = tmp_path / "demos"
    good = {"algo": "sac", "model": tmp_path / "sac.zip", "env": "Pendulum-v1", "episodes": 1, "out": out}
    for wrong, message in (
        ({"model": tmp_path / "nowhere.zip"}, "nowhere.zip"),
        ({"model": tmp_path / "text.zip"}, "could not be loaded as a model of SAC"),
        ({"algo": "td3"}, "could not be loaded as a model of TD3"),
        ({"algo": "s2pg_sac"}, "could not be loaded as a model of S2PGSAC"),
        ({"env": "Nowhere-v1"}, "Nowhere"),
        ({"env": "CartPole-v1"}, "spaces do not match"),
        ({"episodes": 0}, "n_episodes=0"),
        ({"out": tmp_path / "text.zip"}, "exists"),
    ):
        arguments = [f"--{name}={value}" for name, value in {**good, **wrong}.items()]
        monkeypatch.setattr(sys, "argv", ["demonstrations", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr().err
        assert end.value.code == 1 and printed.startswith("error: ") and printed.count("\n") == 1 and message in printed
    assert not out.exists()
    with pytest.raises(ValueError, match=r"algo='dreamer' must be one of"):
        load_expert("dreamer", tmp_path / "sac.zip")


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    trajectories = [
        types.Trajectory(
            obs=rng.normal(size=(n + 1, 3)).astype(np.float32),
            acts=rng.uniform(-2, 2, size=(n, 1)).astype(np.float32),
            infos=None,
            terminal=True,
        )
        for n in (5, 8)
    ]
    save_demonstrations(tmp_path / "demos", trajectories, env="Pendulum-v1")
    return tmp_path / "demos", trajectories


def test_saving_is_all_or_nothing(saved, monkeypatch):
    path, trajectories = saved
    with pytest.raises(ValueError, match="exists"):
        save_demonstrations(path, trajectories)
    with pytest.raises(ValueError, match="empty"):
        save_demonstrations(path.with_name("other"), [])

    def full_disk(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(serialize, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_demonstrations(path.with_name("other"), trajectories)
    assert list(path.parent.iterdir()) == [path]


def rewrite(change):
    def damage(path):
        file = path / "sb3_s2pg.json"
        about = json.loads(file.read_text())
        change(about)
        file.write_text(json.dumps(about))

    return damage


def cut_in_half(path):
    data = path / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def foreign(path):
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(path / "other"))
    for file in list(path.iterdir()):
        if file.is_file():
            file.unlink()
    for file in (path / "other").iterdir():
        file.rename(path / file.name)


@pytest.mark.parametrize(
    "damage, match",
    [
        (lambda path: (path / "data-00000-of-00001.arrow").unlink(), "does not hold complete demonstrations"),
        (cut_in_half, "does not hold complete demonstrations"),
        (lambda path: (path / "state.json").unlink(), "does not hold complete demonstrations"),
        (lambda path: (path / "sb3_s2pg.json").write_text("{"), "does not hold complete demonstrations.*JSON"),
        (rewrite(lambda about: about["lengths"].append(9)), r"lengths \[5, 8, 9\] were saved, those of lengths \[5, 8\]"),
        (rewrite(lambda about: about.update(version=99)), "version 99 is unknown"),
        (rewrite(lambda about: about["observation"].update(shape=[4])), "does not hold complete demonstrations"),
        (foreign, "does not hold complete demonstrations"),
        (lambda path: [file.unlink() for file in path.iterdir()], "does not hold complete demonstrations"),
    ],
)
def test_what_is_damaged_or_foreign_is_not_loaded(saved, damage, match):
    path, _ = saved
    damage(path)
    with pytest.raises(ValueError, match=match):
        load_demonstrations(path)


def test_files_and_nothing_are_not_folders(tmp_path):
    (tmp_path / "demos.npz").write_bytes(b"x")
    for path in (tmp_path / "demos.npz", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="is not a folder"):
            load_demonstrations(path)


def test_a_folder_of_imitation_itself(tmp_path, saved):
    _, trajectories = saved
    serialize.save(tmp_path / "plain", trajectories)
    loaded = load_demonstrations(tmp_path / "plain", "PendulumNoVelPriv-v1")
    np.testing.assert_allclose(loaded[1].obs.get("privileged"), trajectories[1].obs)
    np.testing.assert_allclose(loaded[1].acts, trajectories[1].acts)
