"""Partially observable versions of gymnasium's tasks."""

import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import sb3_s2pg
from sb3_s2pg.envs import VELOCITY_INDICES, PartialObservation, list_tasks

# What RL Zoo's MaskVelocityWrapper hides, written down by hand
HIDDEN = {
    "CartPole": (1, 3),
    "LunarLander": (2, 3, 5),
    "LunarLanderContinuous": (2, 3, 5),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
}
# How many coordinates of the root gymnasium leaves out of the observation
SKIPPED = {"Ant": 2, "HalfCheetah": 1, "Hopper": 1, "Walker2d": 1, "Humanoid": 2, "InvertedPendulum": 0}
LOCOMOTION = ["Ant", "HalfCheetah", "Hopper", "Walker2d", "Humanoid"]
NEW = gym.__version__ >= "1"
VERSIONS = {
    **{"CartPole": 1, "MountainCar": 0, "MountainCarContinuous": 0, "Pendulum": 1},
    **dict.fromkeys(["LunarLander", "LunarLanderContinuous"], 3 if NEW else 2),
    **dict.fromkeys(SKIPPED, 5 if NEW else 4),
}
OWN = [
    *(f"PointMass{task}-v0" for task in ("Memory", "MemoryPriv", "Doors", "DoorsPriv")),
    *(f"FirstStepCue{kind}{length}-v0" for kind in ("", "Continuous") for length in ("", 10, 20, 50, 100, 200)),
]
IDS = [task.id for task in list_tasks()]


def test_registered_ids():
    assert VELOCITY_INDICES == HIDDEN
    partial = [f"{name}{suffix}-v{version}" for name, version in VERSIONS.items() for suffix in ("NoVel", "NoVelPriv")]
    assert sorted(IDS) == sorted(partial + [f"{name}NoVelMass-v{VERSIONS[name]}" for name in LOCOMOTION] + OWN)
    for name, version in VERSIONS.items():
        base = gym.spec(f"{name}-v{version}")
        assert base.version == max(spec.version for spec in gym.registry.values() if spec.name == name)
        for suffix in ("NoVel", "NoVelPriv"):
            spec = gym.spec(f"{name}{suffix}-v{version}")
            assert (spec.max_episode_steps, spec.reward_threshold) == (base.max_episode_steps, base.reward_threshold)
            if name in HIDDEN:
                assert tuple(spec.additional_wrappers[0].kwargs["hidden"]) == HIDDEN[name]


def test_what_the_list_says():
    tasks = {task.id: task[1:] for task in list_tasks()}
    version = VERSIONS["Humanoid"]
    hidden = "velocities, com_inertia, com_velocity, actuator_forces"
    assert tasks["PendulumNoVel-v1"] == ("velocities", "")
    assert tasks["PendulumNoVelPriv-v1"] == ("velocities", "full observation")
    assert tasks[f"HumanoidNoVelMass-v{version}"] == (hidden + ", masses", "full observation, masses")
    done = subprocess.run([sys.executable, "-m", "sb3_s2pg.envs"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["task", "hidden", "privileged"]
    assert [line.split()[0] for line in lines[1:]] == list(tasks)
    # Columns are aligned
    assert all(line[lines[0].index("hidden") - 1] == " " and line[lines[0].index("hidden")] != " " for line in lines)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("ignore")
def test_environment_checkers(env_id):
    env = gym.make(env_id)
    check_env(env, skip_render_check=True)
    sb3_check_env(gym.make(env_id))
    assert env.spec.id == env_id
    # No key but this one is for the critic alone
    keys = set(env.observation_space.spaces) if isinstance(env.observation_space, gym.spaces.Dict) else set()
    assert keys == ({"observation", "privileged"} if "Priv" in env_id or "Mass-" in env_id else set())


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("suffix", ["NoVel", "NoVelPriv"])
def test_what_is_hidden_is_zero_and_the_rest_is_the_same(name, suffix):
    partial, full = (gym.make(f"{name}{suffix}-v{VERSIONS[name]}"), gym.make(f"{name}-v{VERSIONS[name]}"))
    hidden = list(HIDDEN[name])
    observation, _ = partial.reset(seed=5)
    expected, _ = full.reset(seed=5)
    partial.action_space.seed(0)
    for _ in range(30):
        if "Priv" in suffix:
            np.testing.assert_array_equal(observation["privileged"], expected)
            observation = observation["observation"]
        assert (observation[hidden] == 0).all() and observation.dtype == expected.dtype
        visible = np.delete(np.arange(len(expected)), hidden)
        np.testing.assert_array_equal(observation[visible], expected[visible])
        action = partial.action_space.sample()
        observation, reward, *_ = partial.step(action)
        expected, same_reward, terminated, *_ = full.step(action)
        assert reward == same_reward
        if terminated:
            break


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_hidden_in_mujoco_tasks(name):
    env = gym.make(f"{name}NoVelPriv-v{VERSIONS[name]}")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(20):
        observation, *_ = env.step(env.action_space.sample())
    partial, full = observation["observation"], observation["privileged"]
    data = env.unwrapped.data
    start = data.qpos.size - SKIPPED[name]
    end = start + data.qvel.size
    np.testing.assert_array_equal(partial[:start], data.qpos[SKIPPED[name] :])
    assert (partial[start:end] == 0).all() and (full[start:end] != 0).any()
    # Hopper and Walker2d clip
    np.testing.assert_array_equal(
        full[start:end], np.clip(data.qvel, -10, 10) if name in ("Hopper", "Walker2d") else data.qvel
    )
    if name == "Humanoid":
        contacts = data.cfrc_ext[int(NEW) :].ravel()
        assert (partial[end : -contacts.size] == 0).all() and (full[end : -contacts.size] != 0).any()
        end = full.size - contacts.size
        np.testing.assert_array_equal(partial[end:], contacts)
    np.testing.assert_array_equal(partial[end:], full[end:])


@pytest.mark.parametrize(
    "env_id, kwargs, hidden, expected",
    [
        ("HalfCheetah", {}, "positions", range(8)),
        ("HalfCheetah", {}, "velocities", range(8, 17)),
        ("HalfCheetah", {}, ["velocities", 0, -17], [0, *range(8, 17)]),
        ("HalfCheetah", {"exclude_current_positions_from_observation": False}, ("velocities",), range(9, 18)),
        ("InvertedPendulum", {}, "velocities", [2, 3]),
        ("Ant", {}, "velocities", range(13, 27)),
        ("Humanoid", {}, "velocities", range(22, 45)),
        ("Humanoid", {}, "com_inertia", range(45, 175) if NEW else range(45, 185)),
        ("Humanoid", {}, "com_velocity", range(175, 253) if NEW else range(185, 269)),
        ("Humanoid", {}, "actuator_forces", range(253, 270) if NEW else range(269, 292)),
        ("Humanoid", {}, ["contact_forces"], range(270, 348) if NEW else range(292, 376)),
        ("Ant", {} if NEW else {"use_contact_forces": True}, "contact_forces", range(27, 105) if NEW else range(27, 111)),
        ("Pendulum", {}, "velocities", [2]),
        ("CartPole", {}, "velocities", [1, 3]),
        ("LunarLander", {}, "velocities", [2, 3, 5]),
        ("Pendulum", {}, 0, [0]),
        ("Pendulum", {}, np.int64(1), [1]),
        ("Pendulum", {}, np.array([0, 2]), [0, 2]),
        ("Pendulum", {}, (), []),
    ],
)
def test_names_and_indices(env_id, kwargs, hidden, expected):
    env = gym.make(f"{env_id}-v{VERSIONS[env_id]}", **kwargs)
    size = env.observation_space.shape[0]
    # Nothing is zero, so that what is hidden can be told from the rest
    partial = PartialObservation(env, hidden).observation(np.arange(1.0, size + 1))
    np.testing.assert_array_equal(np.flatnonzero(partial == 0), list(expected))
    dropped = PartialObservation(env, hidden, drop=True).observation(np.arange(1.0, size + 1))
    np.testing.assert_array_equal(dropped, np.delete(np.arange(1.0, size + 1), list(expected)))


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_segments_of_version_4_are_told_by_its_size():
    for name, skipped in SKIPPED.items():
        env = gym.make(f"{name}-v4")
        env.reset(seed=0)
        observation = env.unwrapped._get_obs()
        partial = PartialObservation(env, "velocities").observation(observation)
        start, n_velocities = env.unwrapped.model.nq - skipped, env.unwrapped.model.nv
        np.testing.assert_array_equal(
            observation - partial, np.pad(env.unwrapped.data.qvel, (start, len(partial) - start - n_velocities))
        )


def test_dropped_entries_are_gone_from_the_space():
    env = PartialObservation(gym.make("Pendulum-v1"), "velocities", privileged=True, drop=True)
    observation, _ = env.reset(seed=0)
    full, _ = gym.make("Pendulum-v1").reset(seed=0)
    np.testing.assert_array_equal(observation["observation"], full[:2])
    np.testing.assert_array_equal(observation["privileged"], full)
    assert env.observation_space["observation"] == gym.spaces.Box(-1.0, 1.0, (2,), dtype=np.float32)
    assert env.observation_space.contains(observation)
    assert gym.make(env.spec).observation_space == env.observation_space


@pytest.mark.parametrize(
    "env_id, hidden, match",
    [
        ("HalfCheetah", "speed", "no 'speed' in .* which has positions, velocities$"),
        ("HalfCheetah", ["velocities", "com_inertia"], "no 'com_inertia' in .*positions, velocities$"),
        ("Humanoid", "qvel", "positions, velocities, com_inertia, com_velocity, actuator_forces, contact_forces$"),
        ("HalfCheetah", ["velocities", "positions"], "hides the whole observation of size 17: leave at least one"),
        ("HalfCheetah", ["velocities", 17], r"indices \[17\] do not exist in an observation of size 17"),
        ("Pendulum", "positions", "no 'positions' in .*which has velocities$"),
    ],
)
def test_what_cannot_be_hidden(env_id, hidden, match):
    with pytest.raises(ValueError, match=match):
        PartialObservation(gym.make(f"{env_id}-v{VERSIONS[env_id]}"), hidden)


def test_segments_that_are_not_known():
    # Layouts of their own, one of MuJoCo and one that a wrapper has made
    env = gym.make(f"InvertedDoublePendulum-v{VERSIONS['InvertedPendulum']}")
    twice = PartialObservation(gym.make("Pendulum-v1"), 0, drop=True)
    for unknown in (env, twice, gym.make("Acrobot-v1")):
        with pytest.raises(ValueError, match=r"'velocities'.*of which no segments are known: hide indices$"):
            PartialObservation(unknown, "velocities")


def test_zero_lies_in_the_space_and_the_environment_can_be_pickled():
    class Shifted(gym.ObservationWrapper):
        observation_space = gym.spaces.Box(1, 2, (3,), dtype=np.float32)

        def observation(self, observation):
            return np.full(3, 1.5, dtype=np.float32)

    env = PartialObservation(Shifted(gym.make("Pendulum-v1")), hidden=[-1])
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation, [1.5, 1.5, 0])
    assert env.observation_space.contains(observation)

    env = gym.make("PendulumNoVelPriv-v1")
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    action = env.action_space.sample()
    np.testing.assert_array_equal(env.step(action)[0]["privileged"], copy.step(action)[0]["privileged"])
    assert gym.make(env.spec).observation_space == env.observation_space


def test_what_has_been_registered_before_is_left_alone():
    code = (
        "import gymnasium as gym\n"
        "gym.register('PendulumNoVel-v1', entry_point='somewhere:Else')\n"
        "gym.register('foreign/Pendulum-v9', entry_point='somewhere:Else')\n"
        "import sb3_s2pg\n"
        "assert gym.spec('PendulumNoVel-v1').entry_point == 'somewhere:Else'\n"
        "assert gym.make('PendulumNoVelPriv-v1') is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_cheap_and_goes_with_rl_zoo():
    code = (
        "import sys, warnings\n"
        "import sb3_s2pg\n"
        "assert not {'mujoco', 'Box2D', 'pygame'} & set(sys.modules)\n"
        "import gymnasium as gym\n"
        "assert gym.make('CartPoleNoVel-v1') is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import rl_zoo3.import_envs\n"
        "import gymnasium as gym\n"
        "assert 'PendulumNoVel-v1' in gym.registry\n"
        "from sb3_s2pg.envs import list_tasks\n"
        "assert all(task.id in gym.registry for task in list_tasks())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["sb3_s2pg", "rl_zoo3.exp_manager"])
def test_they_are_ours_in_rl_zoo_whatever_is_imported_first(module):
    code = (
        f"import {module}, sb3_s2pg, rl_zoo3.exp_manager, sb3_s2pg.zoo\n"
        "from sb3_s2pg.envs import FullObservation\n"
        "import gymnasium as gym\n"
        "assert FullObservation(gym.make('CartPoleNoVel-v1')).reset()[0].all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("env_id", [f"HopperNoVelMass-v{VERSIONS['Hopper']}", "PointMassDoorsPriv-v0"])
def test_other_processes_find_the_tasks_and_do_the_same(env_id):
    here = make_vec_env(env_id, 2, seed=3, vec_env_cls=DummyVecEnv)
    there = make_vec_env(f"sb3_s2pg:{env_id}", 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"})
    here.action_space.seed(0)
    observations = here.reset(), there.reset()
    for _ in range(40):
        for key in ("observation", "privileged"):
            np.testing.assert_array_equal(observations[0][key], observations[1][key])
        actions = np.stack([here.action_space.sample() for _ in range(2)])
        observations = here.step(actions)[0], there.step(actions)[0]
    there.close()


def test_version():
    assert sb3_s2pg.__version__.count(".") == 2
