"""Partially observable versions of gymnasium's tasks."""

import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import sb3_s2pg
from sb3_s2pg.envs import VELOCITY_INDICES, PartialObservation

PLAYABLE = [
    "CartPoleNoVel-v1",
    "MountainCarNoVel-v0",
    "MountainCarContinuousNoVel-v0",
    "PendulumNoVel-v1",
    "PendulumNoVelPriv-v1",
]


# What RL Zoo's MaskVelocityWrapper hides, written down by hand
HIDDEN = {
    "CartPole": (1, 3),
    "LunarLander": (2, 3, 5),
    "LunarLanderContinuous": (2, 3, 5),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
}


def test_registered_ids():
    assert VELOCITY_INDICES == HIDDEN
    for name, hidden in HIDDEN.items():
        newest = max(spec.version for spec in gym.registry.values() if spec.name == name)
        spec = gym.spec(f"{name}NoVel-v{newest}")
        base = gym.spec(f"{name}-v{newest}")
        assert tuple(spec.additional_wrappers[0].kwargs["hidden"]) == hidden
        assert (spec.max_episode_steps, spec.reward_threshold) == (base.max_episode_steps, base.reward_threshold)


@pytest.mark.parametrize("env_id", PLAYABLE)
@pytest.mark.filterwarnings("ignore")
def test_environment_checkers(env_id):
    env = gym.make(env_id)
    check_env(env, skip_render_check=True)
    sb3_check_env(gym.make(env_id))
    assert env.spec.id == env_id and env.spec.max_episode_steps is not None


@pytest.mark.parametrize("env_id", PLAYABLE)
def test_what_is_hidden_is_zero_and_the_rest_is_the_same(env_id):
    name, version = env_id.replace("NoVelPriv", "NoVel").split("NoVel")
    partial, full = gym.make(env_id), gym.make(name + version)
    hidden = list(HIDDEN[name])
    observation, _ = partial.reset(seed=5)
    expected, _ = full.reset(seed=5)
    partial.action_space.seed(0)
    for _ in range(30):
        if "Priv" in env_id:
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


def test_version():
    assert sb3_s2pg.__version__.count(".") == 2
