"""Masses that are redrawn at each reset, seen by the critic alone."""

import pickle

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from sb3_s2pg.envs import PartialObservation, RandomizedMass

VERSION = 5 if gym.__version__ >= "1" else 4
# Everything that the draw changes, and what MuJoCo derives from it
CHANGED = [
    *("body_mass", "body_inertia", "geom_size", "geom_rbound", "geom_aabb", "bvh_aabb"),
    *("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "actuator_acc0", "tendon_invweight0"),
]


def original(name: str) -> mujoco.MjModel:
    return gym.make(f"{name}-v{VERSION}").unwrapped.model


@pytest.mark.parametrize("name", ["Ant", "HalfCheetah", "Hopper", "Walker2d", "Humanoid"])
def test_mass_inertia_and_radius_follow_the_draw(name):
    before = original(name)
    env = gym.make(f"{name}NoVelMass-v{VERSION}")
    seen: set[float] = set()
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        model, change = env.unwrapped.model, info["mass_change"]
        assert change.shape == (before.nbody - 1,)
        seen |= set(change)
        np.testing.assert_array_equal(model.body_mass[1:], before.body_mass[1:] * (1 + change))
        np.testing.assert_array_equal(model.body_inertia[1:], before.body_inertia[1:] * (1 + change)[:, None])
        for geom in range(model.ngeom):
            body = model.geom_bodyid[geom]
            factor = 1.0 if body == 0 else 1 + change[body - 1]
            np.testing.assert_array_equal(model.geom_size[geom], before.geom_size[geom] * [factor, 1, 1])
        # What MuJoCo derives from it has followed
        assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum(), rel=1e-12)
        np.testing.assert_array_equal(observation["privileged"][-len(change) :], change)
        assert observation["observation"].shape == gym.make(f"{name}NoVel-v{VERSION}").observation_space.shape
        # It is kept for the episode
        observation, *_ = env.step(env.action_space.sample())
        np.testing.assert_array_equal(observation["privileged"][-len(change) :], change)
    assert seen == {-0.3, 0.0, 0.3}


def test_by_hand():
    env = gym.make(f"HalfCheetahNoVelMass-v{VERSION}")
    observation, info = env.reset(seed=0)
    # The torso of the whole cheetah of 14 kg: two capsules with radius 0.046
    torso = env.unwrapped.model.body_mass[1]
    assert original("HalfCheetah").body_mass.sum() == pytest.approx(14)
    assert torso == pytest.approx({-0.3: 4.3751, 0.0: 6.2502, 0.3: 8.1252}[info["mass_change"][0]], abs=1e-4)
    radius = {-0.3: 0.0322, 0.0: 0.046, 0.3: 0.0598}[info["mass_change"][0]]
    np.testing.assert_allclose(env.unwrapped.model.geom_size[1:3, 0], radius)
    # 17 entries of the full observation, and 7 bodies
    assert env.observation_space["privileged"].shape == (24,)
    np.testing.assert_array_equal(env.observation_space["privileged"].low[17:], -0.3)
    np.testing.assert_array_equal(env.observation_space["privileged"].high[17:], 0.3)
    np.testing.assert_array_equal(observation["observation"], [*env.unwrapped.data.qpos[1:], *np.zeros(9)])


def test_the_first_observation_belongs_to_the_new_masses():
    env = gym.make(f"HumanoidNoVelMass-v{VERSION}")
    for seed in (0, None, None):
        observation, info = env.reset(seed=seed)
        # The last of the ten numbers that are each body's com inertia is its mass
        start, bodies = 45, 13 if VERSION == 5 else 14
        masses = observation["privileged"][start : start + 10 * bodies].reshape(bodies, 10)[-13:, 9]
        np.testing.assert_allclose(masses, original("Humanoid").body_mass[1:] * (1 + info["mass_change"]), rtol=1e-12)
        assert (observation["observation"][start : start + 10 * bodies] == 0).all()


def test_the_same_seed_gives_the_same_masses_and_the_same_episode():
    env, other = gym.make(f"HopperNoVelMass-v{VERSION}"), gym.make(f"HopperNoVelMass-v{VERSION}")
    draws = []
    for seed in (7, None, None, 8):
        observation, info = env.reset(seed=seed)
        expected, other_info = other.reset(seed=seed)
        draws.append(tuple(info["mass_change"]))
        np.testing.assert_array_equal(info["mass_change"], other_info["mass_change"])
        env.action_space.seed(0)
        for _ in range(5):
            np.testing.assert_array_equal(observation["privileged"], expected["privileged"])
            action = env.action_space.sample()
            observation, expected = env.step(action)[0], other.step(action)[0]
    # Every reset draws anew
    assert len(set(draws)) > 1
    np.testing.assert_array_equal(env.reset(seed=7)[1]["mass_change"], draws[0])


def test_a_pickled_environment_draws_the_same():
    env = gym.make(f"HopperNoVelMass-v{VERSION}")
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    for seed in (3, None):
        np.testing.assert_array_equal(env.reset(seed=seed)[0]["privileged"], copy.reset(seed=seed)[0]["privileged"])
        np.testing.assert_array_equal(env.unwrapped.model.body_mass, copy.unwrapped.model.body_mass)


def test_all_changes_are_equally_likely_and_bodies_independent():
    env = RandomizedMass(gym.make(f"Hopper-v{VERSION}"), changes=(-0.5, 1.0))
    env.reset(seed=0)
    draws = np.array([env.reset()[1]["mass_change"] for _ in range(400)])
    assert set(draws.ravel()) == {-0.5, 1.0}
    # Five standard errors
    np.testing.assert_allclose((draws == 1.0).mean(axis=0), 0.5, atol=0.125)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.25


def test_everything_is_put_back_on_close():
    before = original("Humanoid")
    env = gym.make(f"HumanoidNoVelMass-v{VERSION}")
    env.reset(seed=0)
    model = env.unwrapped.model
    assert all((getattr(model, name) != getattr(before, name)).any() for name in CHANGED)
    env.close()
    for name in CHANGED:
        np.testing.assert_array_equal(getattr(model, name), getattr(before, name), err_msg=name)


def test_no_contact_is_missed():
    """MuJoCo looks for contacts inside bounds, which older versions keep when sizes change: about 20 of 300 were missed."""
    env = RandomizedMass(gym.make(f"Ant-v{VERSION}"), changes=[0.3])
    env.reset(seed=0)
    model, data = env.unwrapped.model, env.unwrapped.data
    rng = np.random.default_rng(0)
    bounds, flags, n_contacts = model.geom_rbound.copy(), model.opt.disableflags, 0
    for _ in range(300):
        position = env.unwrapped.init_qpos + rng.uniform(-1, 1, model.nq)
        position[2] = rng.uniform(0.1, 1.2)
        found = []
        for disable, rbound in ((0, bounds), (mujoco.mjtDisableBit.mjDSBL_MIDPHASE, np.where(bounds > 0, 100, 0))):
            model.opt.disableflags = flags | disable
            model.geom_rbound[:] = rbound
            data.qpos[:] = position
            mujoco.mj_forward(model, data)
            found.append(data.ncon)
        assert found[0] == found[1]
        n_contacts += found[0]
    assert n_contacts > 300


def test_without_a_privileged_key_the_observation_stays():
    plain = gym.make(f"HalfCheetah-v{VERSION}")
    env = RandomizedMass(PartialObservation(plain, "velocities"))
    observation, info = env.reset(seed=0)
    assert env.observation_space == gym.make(f"HalfCheetahNoVel-v{VERSION}").observation_space
    np.testing.assert_array_equal(observation, [*plain.unwrapped.data.qpos[1:], *np.zeros(9)])
    np.testing.assert_array_equal(info["mass_change"], env.mass_change)


@pytest.mark.parametrize(
    "name, changes, match",
    [
        (f"Hopper-v{VERSION}", (0.3, -1.0), r"changes=\(0.3, -1.0\) must be numbers above -1"),
        (f"Hopper-v{VERSION}", (), r"changes=\(\)"),
        (f"Hopper-v{VERSION}", (0.1, float("nan")), "changes="),
        (f"Hopper-v{VERSION}", 0.3, "changes=0.3"),
        ("Pendulum-v1", (0.3,), "needs a MuJoCo task such as HalfCheetah, not .*Pendulum"),
    ],
)
def test_bad_arguments(name, changes, match):
    with pytest.raises(ValueError, match=match):
        RandomizedMass(gym.make(name), changes)
