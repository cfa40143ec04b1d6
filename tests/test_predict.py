"""``predict`` is pure and vectorised; a trained policy can be deployed without its privileged sensor."""

import pickle

import numpy as np
import pytest
import torch as th
from envs import MixedDict
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_s2pg import S2PGSAC, S2PGTD3

SMALL = {"net_arch": [16], "state_dim": 6}
ALGORITHMS = [S2PGSAC, S2PGTD3]
both = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module", params=ALGORITHMS)
def model(request):
    return request.param("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, seed=0, device="cpu", policy_kwargs=SMALL)


@pytest.fixture
def observations(model):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (20, 4, 3)).astype(np.float32)


def rollout(model, observations, deterministic=True, episode_starts=None):
    state, actions, states = None, [], []
    for t, obs in enumerate(observations):
        start = None if episode_starts is None else episode_starts[t]
        action, state = model.predict(obs, state=state, episode_start=start, deterministic=deterministic)
        actions.append(action)
        states.append(state)
    return np.array(actions), np.array(states)


def test_layout_of_the_state(model, observations):
    action, state = model.predict(observations[0])
    assert state.dtype == np.float32 and state.shape == (4, 6 + 1)
    # Pendulum's torque lies in [-2, 2]: the action in the state is the executed one, scaled to [-1, 1]
    np.testing.assert_allclose(state[:, 6:], action / 2, rtol=1e-6)
    assert np.abs(state[:, :6]).max() < 1
    action, state = model.predict(observations[0, 0])
    assert action.shape == (1,) and state.shape == (1, 7)


def test_environments_do_not_touch_each_other(model, observations):
    together = rollout(model, observations)
    for i in range(4):
        alone = rollout(model, observations[:, i : i + 1])
        np.testing.assert_allclose(together[0][:, i : i + 1], alone[0], atol=1e-6)
        np.testing.assert_allclose(together[1][:, i : i + 1], alone[1], atol=1e-6)


def test_episode_start_resets_single_environments(model, observations):
    starts = np.zeros((20, 4), dtype=bool)
    starts[0] = True
    starts[7, 2] = True
    actions, states = rollout(model, observations, episode_starts=starts)
    plain_actions, plain_states = rollout(model, observations)
    others = [0, 1, 3]
    np.testing.assert_array_equal(actions[:, others], plain_actions[:, others])
    assert np.abs(states[7:, 2] - plain_states[7:, 2]).max() > 1e-4
    fresh_actions, fresh_states = rollout(model, observations[7:, 2:3])
    np.testing.assert_allclose(actions[7:, 2:3], fresh_actions, atol=1e-6)
    np.testing.assert_allclose(states[7:, 2:3], fresh_states, atol=1e-6)


def test_predict_is_pure(model, observations):
    state = model.predict(observations[0])[1]
    kept = state.copy()
    first = model.predict(observations[1], state=state, deterministic=True)
    model.predict(observations[2], state=state, episode_start=np.ones(4, dtype=bool))
    again = model.predict(observations[1], state=state, deterministic=True)
    np.testing.assert_array_equal(state, kept)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_state_matters_and_so_does_noise(model, observations):
    rng = np.random.default_rng(1)
    state = rng.uniform(-0.9, 0.9, (4, 7)).astype(np.float32)
    with_state, _ = model.predict(observations[0], state=state, deterministic=True)
    without, _ = model.predict(observations[0], deterministic=True)
    assert np.abs(with_state - without).max() > 1e-4
    samples = [model.predict(observations[0], state=state) for _ in range(2)]
    # The noise on the action of S2PGTD3 is the algorithm's
    assert np.array_equal(samples[0][0], samples[1][0]) == isinstance(model, S2PGTD3)
    assert not np.array_equal(samples[0][1][:, :6], samples[1][1][:, :6])


def test_the_kernel_is_what_predict_applies(model, observations):
    _, states = rollout(model, observations)
    kernel = model.actor.kernel
    previous = np.concatenate([np.zeros((1, 4, 1), dtype=np.float32), states[:-1, :, 6:]])
    inputs = th.as_tensor(np.concatenate([observations, previous], axis=2))
    with th.no_grad():
        unrolled = kernel.unroll(inputs, kernel.initial_state(4))
    np.testing.assert_allclose(states[:, :, :6], unrolled.numpy(), atol=1e-5)


@both
def test_deployment_without_the_privileged_sensor(algorithm, tmp_path):
    model = algorithm("MultiInputPolicy", "PendulumNoVelPriv-v1", buffer_size=300, seed=0, policy_kwargs=SMALL, device="cpu")
    model.learn(200)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = algorithm.load(tmp_path / "model", device="cpu", buffer_size=1)
    full = {"observation": np.array([1, 0, 0], dtype=np.float32), "privileged": np.array([1, 0, 5], dtype=np.float32)}
    visible = {"observation": full["observation"]}
    expected = model.predict(full, deterministic=True)
    for policy in (model, loaded):
        action, state = policy.predict(visible, deterministic=True)
        np.testing.assert_array_equal(action, expected[0])
        np.testing.assert_array_equal(state, expected[1])
    with pytest.raises(ValueError, match="lacks the keys"):
        model.predict({"privileged": full["privileged"]})
    with pytest.raises(ValueError, match="needs a dict observation"):
        model.predict(full["observation"])


def test_deployment_with_saved_statistics(tmp_path):
    """As the README says: the pickled VecNormalize takes an observation without the privileged key."""
    env = VecNormalize(make_vec_env("PendulumNoVelPriv-v1", 1, seed=0), norm_obs_keys=["observation"])
    model = S2PGSAC("MultiInputPolicy", env, buffer_size=300, seed=0, policy_kwargs=SMALL, device="cpu")
    model.learn(120)
    env.save(str(tmp_path / "vec_normalize.pkl"))
    with open(tmp_path / "vec_normalize.pkl", "rb") as file:
        normalize = pickle.load(file)
    visible = np.array([[0.6, 0.8, 0.0]], dtype=np.float32)
    normalized = normalize.normalize_obs({"observation": visible})
    full = env.normalize_obs({"observation": visible, "privileged": visible})
    np.testing.assert_array_equal(normalized["observation"], full["observation"])
    assert np.abs(normalized["observation"] - visible).max() > 1e-3
    np.testing.assert_array_equal(model.predict(normalized, deterministic=True)[0], model.predict(full, deterministic=True)[0])


@both
def test_policy_saved_alone_predicts_the_same(algorithm, tmp_path):
    from stable_baselines3 import __version__

    if __version__.startswith("2.2"):
        pytest.skip("policy.load() of SB3 2.2.1 itself does not work with torch >= 2.6 (weights_only)")
    model = algorithm("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs=SMALL, device="cpu")
    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    obs = np.array([[1, 0, 0]], dtype=np.float32)
    for a, b in zip(policy.predict(obs, deterministic=True), model.predict(obs, deterministic=True), strict=True):
        np.testing.assert_array_equal(a, b)


@both
def test_actor_and_critic_see_what_they_are_told(algorithm):
    model = algorithm(
        "MlpPolicy",
        "Pendulum-v1",
        buffer_size=300,
        policy_kwargs={**SMALL, "actor_observation": [0, 1]},
        device="cpu",
    )
    assert model.critic_history == 0  # the critic sees more than the actor
    obs = np.array([[0.6, 0.8, 3.0]], dtype=np.float32)
    faster = np.array([[0.6, 0.8, -7.0]], dtype=np.float32)
    assert model.predict(obs, deterministic=True)[0] == model.predict(faster, deterministic=True)[0]
    batch = (th.zeros(1, 7), th.zeros(1, 1), th.zeros(1, 6))
    assert not th.equal(model.critic(th.as_tensor(obs), *batch), model.critic(th.as_tensor(faster), *batch))
    model.learn(150)

    env = MixedDict(with_camera=False)
    kwargs = {**SMALL, "actor_observation": ["joints"], "critic_observation": ["joints", "mode"]}
    model = algorithm("MultiInputPolicy", env, buffer_size=300, policy_kwargs=kwargs, device="cpu")
    model.learn(150)
    obs = env.reset(seed=0)[0]
    action, _ = model.predict(obs, deterministic=True)
    only_joints, _ = model.predict({"joints": obs["joints"]}, deterministic=True)
    np.testing.assert_array_equal(action, only_joints)


@pytest.mark.parametrize(
    "state, match",
    [
        (np.zeros((4, 6), dtype=np.float32), "state has the shape"),
        (np.zeros((3, 7), dtype=np.float32), "state has the shape"),
        (np.zeros(7, dtype=np.float32), "state has the shape"),
    ],
)
def test_state_of_the_wrong_shape(model, observations, state, match):
    with pytest.raises(ValueError, match=match):
        model.predict(observations[0], state=state)


def test_other_wrong_arguments(model, observations):
    state = model.predict(observations[0])[1]
    with pytest.raises(ValueError, match="episode_start has the shape"):
        model.predict(observations[0], state=state, episode_start=np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="tuple"):
        model.predict((observations[0], {}))


@both
def test_evaluate_policy_carries_the_state(algorithm):
    env = make_vec_env("PendulumNoVel-v1", 3, seed=0)
    model = algorithm("MlpPolicy", env, buffer_size=10, policy_kwargs=SMALL, device="cpu", seed=0)
    reward, _ = evaluate_policy(model, make_vec_env("PendulumNoVel-v1", 1, seed=5), n_eval_episodes=2)

    eval_env = make_vec_env("PendulumNoVel-v1", 1, seed=5)
    returns = []
    obs = eval_env.reset()
    for _ in range(2):
        state, total, done = None, 0.0, False
        while not done:
            action, state = model.predict(obs, state=state, deterministic=True)
            obs, rewards, dones, _ = eval_env.step(action)
            total, done = total + rewards[0], dones[0]
        returns.append(total)
    assert reward == pytest.approx(np.mean(returns), rel=1e-4)
