"""What S2PGPPO collects, against a recording from outside, and its advantages against numbers worked out by hand."""

from itertools import pairwise
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import AnyAction, Counter, Recorder
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_s2pg import S2PGPPO, StateKernel

SMALL = {"net_arch": [8], "state_dim": 3}
BOX = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32))
ACTION_SPACES = [
    BOX,
    spaces.Box(-1, 1, (2, 3), dtype=np.float32),
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiBinary(3),
]


class Clock(StateKernel):
    """Counts the steps of an episode, starting from 7."""

    def forward(self, inputs, states):
        return states + 1, None

    def initial_state(self, n):
        return th.full((n, self.state_dim), 7.0)


CLOCK = {"net_arch": [8], "state_dim": 2, "state_kernel_class": Clock, "state_noise_kwargs": {"log_std_init": -7.0}}


def counters():
    return Recorder(
        DummyVecEnv(
            [
                lambda: Counter(0, length=5),
                lambda: Counter(1, length=7, truncate=True),
                lambda: Counter(2, length=6),  # ends with the first rollout
                lambda: Counter(3, length=4, truncate=True),
                lambda: Counter(4, length=100),
            ]
        )
    )


def make(env, policy_kwargs=None, policy="MlpPolicy", **kwargs):
    kwargs = {"n_steps": 12, "batch_size": 30, "n_epochs": 1, "seed": 0, "device": "cpu", **kwargs}
    return S2PGPPO(policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)


ARRAYS = ["observations", "actions", "rewards", "episode_starts", "states", "next_internal_states"]
ARRAYS += ["values", "log_probs", "state_log_probs", "advantages", "returns"]


class KeepRollouts(BaseCallback):
    """Keeps every rollout as it is before the first gradient step."""

    def __init__(self, check=None, stop_at=0):
        super().__init__()
        self.rollouts, self.check, self.stop_at = [], check, stop_at

    def _on_step(self):
        return self.n_calls != self.stop_at

    def _on_rollout_end(self):
        rollout = SimpleNamespace(**{name: getattr(self.model.rollout_buffer, name).copy() for name in ARRAYS})
        self.rollouts.append(rollout)
        if self.check is not None:
            self.check(self.model, rollout)


def joined(rollouts, name):
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def recorded(env, name):
    return np.array([transition[name] for transition in env.transitions])


def scaled(actions):
    """Features of the executed actions of ``Counter``."""
    return 2 * (actions - BOX.low) / (BOX.high - BOX.low) - 1


def test_everything_stored_equals_a_recording_from_outside():
    env = counters()
    model = make(env, CLOCK)
    keep = KeepRollouts()
    model.learn(3 * 12 * 5, callback=keep)
    assert len(keep.rollouts) == 3 and len(env.transitions) == 36
    observations, starts = recorded(env, "obs"), recorded(env, "starts")
    stored = {name: joined(keep.rollouts, name) for name in ARRAYS}
    np.testing.assert_array_equal(stored["observations"], observations)
    np.testing.assert_array_equal(stored["episode_starts"], starts)
    np.testing.assert_array_equal(np.clip(stored["actions"], BOX.low, BOX.high), recorded(env, "actions"))
    assert (stored["actions"] != recorded(env, "actions")).any()  # something was clipped

    # The clock starts anew with every episode, and only then: two rollouts are one history
    steps = observations[..., 2]
    assert steps[:, 4].tolist() == list(range(36)) and steps[:, 0].tolist() == [t % 5 for t in range(36)]
    z, previous = stored["states"][..., :2], stored["states"][..., 2:]
    np.testing.assert_allclose(z, np.repeat(7 + steps[..., None], 2, axis=2), atol=0.05)
    np.testing.assert_array_equal(z[starts], 7)
    np.testing.assert_allclose(stored["next_internal_states"], z + 1, atol=6e-3)
    # z' of one step is exactly z of the next one, and so is the executed action
    goes_on = ~starts[1:]
    np.testing.assert_array_equal(z[1:][goes_on], stored["next_internal_states"][:-1][goes_on])
    np.testing.assert_allclose(previous[1:][goes_on], scaled(recorded(env, "actions"))[:-1][goes_on], atol=1e-6)
    assert (previous[starts] == 0).all()
    # Noise is drawn for every environment and entry
    noise = (stored["next_internal_states"] - (z + 1)).reshape(-1)
    assert len(np.unique(noise)) > 0.5 * len(noise)


def test_terminal_rewards_are_those_of_the_environment_but_for_truncation():
    env = counters()
    keep = KeepRollouts()
    make(env, CLOCK).learn(60, callback=keep)
    (rollout,) = keep.rollouts
    differs = rollout.rewards != recorded(env, "rewards")
    expected = np.zeros((12, 5), dtype=bool)
    expected[6, 1] = expected[[3, 7, 11], 3] = True
    np.testing.assert_array_equal(differs, expected)


def next_episodes_start(model, env, keep):
    """The first step of the last rollout starts an episode everywhere, with the initial state."""
    rollout = keep.rollouts[-1]
    assert (rollout.episode_starts[0] == 1).all()
    assert (rollout.states[0, :, :2] == 7).all() and (rollout.states[0, :, 2:] == 0).all()
    np.testing.assert_array_equal(rollout.observations[:, :, 2], recorded(env, "obs")[-12:, :, 2])
    np.testing.assert_allclose(rollout.states[..., 0], 7 + rollout.observations[..., 2], atol=0.05)


def test_learn_again_continues_or_starts_anew():
    env = counters()
    model, keep = make(env, CLOCK), KeepRollouts()
    model.learn(60, callback=keep)
    model.learn(60, callback=keep, reset_num_timesteps=False)
    assert model.num_timesteps == 120
    np.testing.assert_allclose(joined(keep.rollouts, "states")[:, 4, 0], 7 + np.arange(24), atol=0.05)
    model.learn(60, callback=keep)
    assert model.num_timesteps == 60
    next_episodes_start(model, env, keep)


def test_a_callback_that_stops_training():
    env = counters()
    model, keep = make(env, CLOCK), KeepRollouts(stop_at=20)
    model.learn(600, callback=keep)
    assert model.num_timesteps == 100 and len(keep.rollouts) == 1
    model.learn(60, callback=keep, reset_num_timesteps=False)
    assert model.num_timesteps == 160 and len(keep.rollouts) == 2
    next_episodes_start(model, env, keep)


def test_set_env():
    model, keep = make(counters(), CLOCK), KeepRollouts()
    model.learn(60, callback=keep)
    env = counters()
    model.set_env(env)
    model.learn(60, callback=keep, reset_num_timesteps=False)
    next_episodes_start(model, env, keep)


def test_constant_values_exact_advantages():
    """gamma = lambda = 1/2, V = 2 everywhere, the reward is the step number."""
    env = DummyVecEnv([lambda: Counter(0, length=3), lambda: Counter(1, length=3, truncate=True)])
    model = make(env, n_steps=5, gamma=0.5, gae_lambda=0.5, batch_size=10)
    with th.no_grad():
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(2.0)
    keep = KeepRollouts()
    model.learn(10, callback=keep)
    (rollout,) = keep.rollouts
    assert (rollout.values == 2).all()
    # Rewards 1, 2, 3, then 1, 2. TD errors r + 1 - 2 = 0, 1, (2 if truncated, 1 if terminated), 0, 1
    np.testing.assert_array_equal(rollout.advantages[:, 0], [0.25 + 0.0625, 1 + 0.25, 1, 0.25, 1])
    np.testing.assert_array_equal(rollout.advantages[:, 1], [0.25 + 0.125, 1 + 0.5, 2, 0.25, 1])
    np.testing.assert_array_equal(rollout.returns, rollout.advantages + 2)


def test_advantages_with_values_that_depend_on_everything():
    """V(s, z) is linear in observation, z and previous action, with known weights: each has to be the right one."""
    env = counters()
    gamma, gae_lambda = 0.9, 0.7
    model = make(env, {"net_arch": {"pi": [8], "vf": []}}, gamma=gamma, gae_lambda=gae_lambda)
    weights = np.array([0.3, -0.2, 0.5, 2.0, -1.0, 1.5, 0.7, -0.4])  # environment, episode, step; z; action
    with th.no_grad():
        model.policy.value_net.weight.copy_(th.as_tensor(weights))
        model.policy.value_net.bias.fill_(0.1)
    keep = KeepRollouts()
    model.learn(60, callback=keep)
    (rollout,) = keep.rollouts
    actions = scaled(recorded(env, "actions"))

    def value(obs, t, i):
        """After the step t of environment i; the state is not reset."""
        return weights @ np.concatenate([obs, rollout.next_internal_states[t, i], actions[t, i]]) + 0.1

    values = np.concatenate([rollout.observations, rollout.states], axis=2) @ weights + 0.1
    np.testing.assert_allclose(rollout.values, values, atol=1e-5)
    for i in range(5):
        errors, ends = [], []
        for t, transition in enumerate(env.transitions):
            if i in transition["terminal"]:
                obs, truncated = transition["terminal"][i]
                assert obs[2] == [5, 7, 6, 4][i]
                following = value(obs, t, i) if truncated else 0.0
            else:
                following = value(env.transitions[t + 1]["obs"][i] if t < 11 else env.obs[i], t, i)
            errors.append(transition["rewards"][i] + gamma * following - values[t, i])
            ends.append(i in transition["terminal"])
        for t in range(12):
            last = next((u for u in range(t, 12) if ends[u]), 11)
            expected = sum((gamma * gae_lambda) ** (u - t) * errors[u] for u in range(t, last + 1))
            assert rollout.advantages[t, i] == pytest.approx(expected, rel=1e-4, abs=1e-4), (t, i)
    np.testing.assert_allclose(rollout.returns, rollout.advantages + rollout.values, atol=1e-5)


def unroll_step_by_step(model, rollout):
    """Walks through a rollout with one environment and one step at a time, as ``predict`` would."""
    policy = model.policy
    n_steps, n_envs = rollout.episode_starts.shape
    for i in range(n_envs):
        state = rollout.states[0, i : i + 1]
        for t in range(n_steps):
            if rollout.episode_starts[t, i]:
                state = policy.initial_state()
            obs = th.as_tensor(rollout.observations[t, i : i + 1])
            action = rollout.actions[t, i].reshape(1, *model.action_space.shape)
            z, previous = th.as_tensor(state[:, : policy.state_dim]), th.as_tensor(state[:, policy.state_dim :])
            with th.no_grad():
                distribution = policy.get_distribution(obs, th.as_tensor(state))
                flat = th.as_tensor(action.reshape(1, -1))
                flat = flat.flatten() if isinstance(model.action_space, spaces.Discrete) else flat.float()
                log_prob = distribution.log_prob(flat)
                x = th.cat([obs, previous], dim=1)
                mean, scale = policy.kernel(x, z)
                std = (policy.state_noise.log_std.exp() * scale).clamp(min=np.exp(-10))
                next_z = rollout.next_internal_states[t, i : i + 1]
                state_log_prob = th.distributions.Normal(mean, std).log_prob(th.as_tensor(next_z)).sum()
                value = policy.predict_values(obs, th.as_tensor(state))
            np.testing.assert_allclose(rollout.log_probs[t, i], log_prob.item(), atol=1e-5)
            # A log density grows with its sharpness, and so does its rounding
            np.testing.assert_allclose(rollout.state_log_probs[t, i], state_log_prob.item(), atol=2e-5, rtol=1e-5)
            np.testing.assert_allclose(rollout.values[t, i], value.item(), atol=1e-5)
            executed = policy.executable_actions(action)
            state = np.concatenate([next_z, spaces_flatten(model.action_space, executed)], axis=1)
    model.n_checked = getattr(model, "n_checked", 0) + n_steps * n_envs


def spaces_flatten(space, actions):
    """Features of actions by another route than the package's: gymnasium's."""
    if isinstance(space, spaces.Box):
        flat = actions.reshape(1, -1)
        if not np.isfinite(space.low).all():
            return flat
        low, high = space.low.reshape(1, -1), space.high.reshape(1, -1)
        return ((flat - (low + high) / 2) / ((high - low) / 2)).astype(np.float32)
    action = actions[0].astype(space.dtype)
    return spaces.flatten(space, int(action) if isinstance(space, spaces.Discrete) else action)[None].astype(np.float32)


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
def test_log_probabilities_and_values_equal_those_step_by_step(space):
    env = DummyVecEnv([lambda: AnyAction(space, 5), lambda: AnyAction(space, 7, truncate=True)])
    model = make(env, n_steps=16, batch_size=16, learning_rate=1e-2)
    model.learn(64, callback=KeepRollouts(unroll_step_by_step))
    assert model.n_checked == 64


def test_long_rollouts_are_evaluated_in_several_batches():
    """More than EVALUATION_BATCH_SIZE transitions, and not a multiple of it."""

    def all_at_once(model, rollout):
        flat = [
            th.as_tensor(getattr(rollout, name).reshape(401 * 3, -1))
            for name in ("observations", "actions", "states", "next_internal_states")
        ]
        with th.no_grad():
            evaluation = model.policy.evaluate_actions(*flat)
        for name, expected in (
            ("values", evaluation.values),
            ("log_probs", evaluation.log_prob),
            ("state_log_probs", evaluation.state_log_prob),
        ):
            np.testing.assert_allclose(getattr(rollout, name).flatten(), expected, atol=2e-5, err_msg=name)
        assert np.unique(rollout.log_probs).size > 1000

    keep = KeepRollouts(all_at_once)
    make(DummyVecEnv([lambda: AnyAction(BOX, 50)] * 3), n_steps=401, batch_size=1203).learn(1203, callback=keep)
    assert len(keep.rollouts) == 1


def test_the_first_ratio_is_one():
    """One epoch with one minibatch: old and new policy are the same."""
    model = make(DummyVecEnv([lambda: AnyAction(BOX)] * 2), n_steps=50, batch_size=100)
    model.learn(100)
    logged = model.logger.name_to_value
    for name in ("approx_kl", "action_approx_kl", "state_approx_kl"):
        assert abs(logged[f"train/{name}"]) < 1e-6
    assert logged["train/clip_fraction"] == logged["train/state_clip_fraction"] == 0
    # Normalised advantages times a ratio of one
    assert abs(logged["train/policy_gradient_loss"]) < 1e-5


def test_minibatches_hold_every_transition_once():
    with pytest.warns(UserWarning, match="truncated mini-batch of size 4"):
        model, keep = make(counters(), n_steps=12, batch_size=7), KeepRollouts()
    model.learn(60, callback=keep)
    (rollout,) = keep.rollouts
    batches = list(model.rollout_buffer.get(7))
    assert [len(batch.advantages) for batch in batches] == [7] * 8 + [4]
    names = {"observations": "observations", "actions": "actions", "states": "states"}
    names |= {"next_internal_states": "next_internal_states", "old_values": "values", "old_log_prob": "log_probs"}
    names |= {"old_state_log_prob": "state_log_probs", "advantages": "advantages", "returns": "returns"}
    rows = np.concatenate(
        [
            np.concatenate([getattr(batch, name).numpy().reshape(len(batch.advantages), -1) for name in names], 1)
            for batch in batches
        ]
    )
    expected = np.concatenate([getattr(rollout, name).reshape(60, -1) for name in names.values()], 1)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    (everything,) = model.rollout_buffer.get()
    assert len(everything.advantages) == 60


def test_gsde_noise_is_drawn_as_often_as_told():
    for freq, n_draws in ((-1, 1), (4, 3)):
        env = Recorder(DummyVecEnv([lambda: AnyAction(spaces.Box(-100, 100, (1,), dtype=np.float32), 50)]))
        model = make(env, {"log_std_init": 1.0}, use_sde=True, sde_sample_freq=freq, batch_size=12)
        draws = []

        class Watch(BaseCallback):
            def _on_step(self, draws=draws):
                draws.append(self.model.policy.action_dist.exploration_mat.clone())
                return True

        model.learn(12, callback=Watch())
        assert sum(not th.equal(a, b) for a, b in pairwise(draws)) + 1 == n_draws


class KeepTruncations(BaseCallback):
    """Keeps what a truncation is bootstrapped from, and the weights before the first gradient step."""

    def __init__(self):
        super().__init__()
        self.truncated = []

    def _on_step(self):
        if self.locals["dones"][0]:
            terminal_obs, reward = self.locals["infos"][0]["terminal_observation"], float(self.locals["rewards"][0])
            self.truncated.append((terminal_obs, reward, self.locals["internal_states"][0], self.locals["clipped_actions"][0]))
        return True

    def _on_rollout_end(self):
        self.rewards = self.model.rollout_buffer.rewards.copy()
        self.weights = {name: value.clone() for name, value in self.model.policy.state_dict().items()}


def test_a_privileged_critic_at_a_truncation():
    """The terminal observation of a Dict goes to the critic, privileged part and all."""
    model = make(gym.make("PendulumNoVelPriv-v1", max_episode_steps=4), policy="MultiInputPolicy", n_steps=8, batch_size=8)
    keep = KeepTruncations()
    model.learn(8, callback=keep)
    model.policy.load_state_dict(keep.weights)
    terminal_obs, reward, z, action = keep.truncated[0]
    assert len(keep.truncated) == 2 and set(terminal_obs) == {"observation", "privileged"}
    obs, _ = model.policy.obs_to_tensor(terminal_obs)
    with th.no_grad():
        value = model.policy.predict_values(obs, th.as_tensor(np.concatenate([z, action / 2])[None])).item()
    assert abs(value) > 1e-3 and keep.rewards[3, 0] == pytest.approx(reward + 0.99 * value, rel=1e-5)
