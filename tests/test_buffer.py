"""What happened comes back from the replay buffer exactly as it happened."""

import numpy as np
import pytest
import torch as th
from envs import Counter, MixedDict
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_s2pg import S2PGSAC, S2PGTD3
from sb3_s2pg.common.buffers import StatefulDictReplayBuffer, StatefulReplayBuffer

STATE_DIM = 4
both = pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])


class Recorder(BaseCallback):
    """Writes down every step as it happens, from the outside."""

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.steps: list[list[dict]] = []  # per step, per environment
        self.stop_at = stop_at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.stop_at:
            return False
        model, row = self.model, []
        for i in range(model.n_envs):
            start = bool(model._last_episode_starts[i])
            before = np.zeros(STATE_DIM + 2, dtype=np.float32) if start else model._last_state[i]
            done, info = self.locals["dones"][i], self.locals["infos"][i]
            row.append(
                {
                    "start": start,
                    "obs": model._last_obs[i].copy(),
                    "state": before.copy(),
                    "action": self.locals["buffer_actions"][i].copy(),
                    "executed": self.locals["actions"][i].copy(),
                    "next_state": model._next_state[i].copy(),
                    "reward": self.locals["rewards"][i],
                    "next_obs": info["terminal_observation"] if done else self.locals["new_obs"][i].copy(),
                    "done": done and not info.get("TimeLimit.truncated", False),
                }
            )
        self.steps.append(row)
        return True


def make_counters():
    # Different lengths; the first is terminated, the second cut by a time-limit, the third never ends
    return DummyVecEnv(
        [lambda: Counter(0, length=5), lambda: Counter(1, length=7, truncate=True), lambda: Counter(2, length=10**6)]
    )


def make_model(env, n_positions: int, critic_history: int = 3, algorithm=S2PGSAC, **kwargs):
    return algorithm(
        "MlpPolicy",
        env,
        buffer_size=n_positions * env.num_envs,
        learning_starts=kwargs.pop("learning_starts", 10),
        gradient_steps=0,  # nothing is refreshed
        critic_history=critic_history,
        policy_kwargs={"state_dim": STATE_DIM, "net_arch": [16]},
        seed=0,
        device="cpu",
        **kwargs,
    )


def assert_batch_is_what_happened(batch, recorder, n_positions, critic_history, oldest_observation_lost=False):
    n_steps = len(recorder.steps)
    oldest = max(0, n_steps - n_positions)
    seen = set()
    for row, (position, env) in enumerate(zip(*batch.indices, strict=True)):
        # Position p holds the newest step of the recording that is congruent to p
        step = (n_steps - 1) - (n_steps - 1 - position) % n_positions
        seen.add((step, env))
        truth = recorder.steps[step][env]
        np.testing.assert_array_equal(batch.observations[row], truth["obs"])
        np.testing.assert_array_equal(batch.next_observations[row], truth["next_obs"])
        np.testing.assert_array_equal(batch.states[row], truth["state"])
        np.testing.assert_array_equal(batch.next_states[row], truth["next_state"])
        np.testing.assert_array_equal(batch.actions[row], truth["action"])
        assert batch.rewards[row].item() == truth["reward"]
        assert batch.dones[row].item() == truth["done"]
        # History: back to the start of the episode, or to the oldest entry
        start = step
        while not recorder.steps[start][env]["start"] and start > oldest + oldest_observation_lost:
            start -= 1
        for lag in range(critic_history + 1):
            in_reach = step - lag >= start
            assert batch.recent_mask[row, lag].item() == float(in_reach), (step, env, lag)
            if in_reach:
                past = recorder.steps[step - lag][env]
                np.testing.assert_array_equal(batch.recent_observations[row, lag], past["obs"])
                np.testing.assert_array_equal(batch.recent_actions[row, lag], past["action"])
    return seen


@pytest.mark.parametrize("n_steps", [15, 40, 53, 60, 61, 65])
@both
def test_what_happened_comes_back(algorithm, n_steps):
    # 20 positions: not full, wrapped around once, twice, and with the write head at different steps of the episodes
    env, n_positions = make_counters(), 20
    model, recorder = make_model(env, n_positions, algorithm=algorithm), Recorder()
    model.learn(n_steps * env.num_envs, callback=recorder)
    seen = assert_batch_is_what_happened(model.replay_buffer.sample(3000), recorder, n_positions, 3)

    oldest = max(0, n_steps - n_positions)
    expected = {(step, i) for step in range(oldest, n_steps) for i in range(env.num_envs)}
    if n_steps >= n_positions:
        # The oldest entry has lost its predecessor, and with it z, unless it starts an episode
        expected -= {(oldest, i) for i in range(env.num_envs) if not recorder.steps[oldest][i]["start"]}
        assert len(expected) < n_positions * env.num_envs
    assert seen == expected


@both
def test_previous_action_is_the_one_that_was_executed(algorithm):
    env = make_counters()
    noise = NormalActionNoise(np.zeros(2), 0.7 * np.ones(2))
    model, recorder = make_model(env, 50, algorithm=algorithm, action_noise=noise, learning_starts=30), Recorder()
    model.learn(90, callback=recorder)
    low, high = env.action_space.low, env.action_space.high
    clipped = 0
    for earlier, later in zip(recorder.steps[:-1], recorder.steps[1:], strict=True):
        for before, now in zip(earlier, later, strict=True):
            executed = 2 * (before["executed"] - low) / (high - low) - 1
            expected = np.zeros(2) if now["start"] else executed
            np.testing.assert_allclose(now["state"][STATE_DIM:], expected, atol=1e-6)
            np.testing.assert_array_equal(now["state"][:STATE_DIM], 0 if now["start"] else before["next_state"][:STATE_DIM])
            clipped += int((np.abs(executed) == 1).any())
    assert clipped > 0
    assert_batch_is_what_happened(model.replay_buffer.sample(500), recorder, 50, 3)


def test_episodes_left_early_do_not_run_together():
    # Left by learn() called again, and by a callback whose transition SB3 does not store
    env, n_positions = make_counters(), 40
    model, recorder = make_model(env, n_positions), Recorder()
    model.learn(33, callback=recorder)
    model.learn(33, callback=recorder)
    recorder.stop_at = 54
    model.learn(33, callback=recorder, reset_num_timesteps=False)
    recorder.stop_at = None
    model.learn(33, callback=recorder, reset_num_timesteps=False)
    starts = [i for i, row in enumerate(recorder.steps) if row[2]["start"]]
    assert len(starts) == 3 and starts[0] == 0 and starts[1] == 11
    assert_batch_is_what_happened(model.replay_buffer.sample(2000), recorder, n_positions, 3)


def test_learn_goes_on_in_the_same_episode():
    env = make_counters()
    model, recorder = make_model(env, 40), Recorder()
    model.learn(33, callback=recorder)
    model.learn(33, callback=recorder, reset_num_timesteps=False)
    assert [i for i, row in enumerate(recorder.steps) if row[2]["start"]] == [0]
    assert_batch_is_what_happened(model.replay_buffer.sample(2000), recorder, 40, 3)


@both
def test_memory_efficient_variant(algorithm):
    env, n_positions = make_counters(), 20
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model, recorder = make_model(env, n_positions, algorithm=algorithm, **kwargs), Recorder()
    model.learn(47 * 3, callback=recorder)
    for row in recorder.steps:
        for i, truth in enumerate(row):
            # Without time-limits of its own, this variant does not keep the terminal observation
            if truth["next_obs"][1] != truth["obs"][1] or truth["next_obs"][2] == env.envs[i].unwrapped.length:
                truth["done"], truth["next_obs"] = True, None
    batch = model.replay_buffer.sample(3000)
    keep = [
        row
        for row, (p, i) in enumerate(zip(*batch.indices, strict=True))
        if recorder.steps[46 - (46 - p) % n_positions][i]["next_obs"] is not None
    ]
    kept = batch._replace(
        **{name: value[keep] for name, value in batch._asdict().items() if isinstance(value, th.Tensor)},
        indices=(batch.indices[0][keep], batch.indices[1][keep]),
    )
    seen = assert_batch_is_what_happened(kept, recorder, n_positions, 3, oldest_observation_lost=True)
    assert all(step > 47 - n_positions for step, _ in seen)


def test_a_restarted_episode_does_not_leak_into_the_last_transition():
    env = make_counters()
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model, recorder = make_model(env, 40, **kwargs), Recorder(stop_at=33)
    model.learn(99, callback=recorder)
    assert model.replay_buffer.pos == 10 and model.replay_buffer.dones[9, 2] == 0
    model.learn(3, reset_num_timesteps=False)
    # The first observation of the new episode lies where the next observation was: it must not be bootstrapped from
    assert model.replay_buffer.observations[10, 2, 2] == 0 and (model.replay_buffer.dones[9] == 1).all()


@pytest.mark.parametrize("how", ["load", "reset"])
def test_another_buffer_in_the_middle_of_an_episode(how, tmp_path):
    model = make_model(make_counters(), 40)
    model.learn(33)
    model.save_replay_buffer(tmp_path / "buffer")
    model.learn(12, reset_num_timesteps=False)
    if how == "load":
        model.load_replay_buffer(tmp_path / "buffer")
    else:
        model.replay_buffer.reset()
    position = model.replay_buffer.pos
    model.learn(3, reset_num_timesteps=False)
    assert model.replay_buffer.episode_starts[position].all()
    assert (model.replay_buffer.observations[position, :, 2] == 0).all()


def test_refresh_reaches_the_next_step_and_no_other():
    env, n_positions = make_counters(), 20
    model = make_model(env, n_positions)
    model.learn(33 * 3)
    buffer = model.replay_buffer
    n_steps, everything = 33, (np.repeat(np.arange(n_positions), 3), np.tile(np.arange(3), n_positions))
    before = buffer._get_samples(everything[0], env_indices=everything[1])
    position, env_idx = (n_steps - 5) % n_positions, 1
    new = np.full((1, STATE_DIM), 0.5, dtype=np.float32)
    old = buffer.next_internal_states[position, env_idx].copy()
    buffer.refresh((np.array([position]), np.array([env_idx])), new, rate=0.25)
    after = buffer._get_samples(everything[0], env_indices=everything[1])

    blended = 0.75 * old + 0.25 * 0.5
    for row, at in enumerate(zip(*everything, strict=True)):
        if at == (position, env_idx):
            np.testing.assert_allclose(after.next_states[row, :STATE_DIM], blended, rtol=1e-6)
        else:
            assert th.equal(after.next_states[row], before.next_states[row])
        if at == ((position + 1) % n_positions, env_idx) and not buffer.episode_starts[at]:
            np.testing.assert_allclose(after.states[row, :STATE_DIM], blended, rtol=1e-6)
        else:
            assert th.equal(after.states[row], before.states[row])


@pytest.mark.parametrize("algorithm, kwargs", [(S2PGSAC, {}), (S2PGTD3, {"policy_delay": 1})])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_training_refreshes_what_it_sampled(algorithm, kwargs, rate):
    env = make_counters()
    model = make_model(env, 40, algorithm=algorithm, state_refresh_rate=rate, **kwargs)
    model.learn(60)
    buffer, before = model.replay_buffer, model.replay_buffer.next_internal_states.copy()
    sampled = []
    refresh = buffer.refresh

    def spy(indices, internal_states, rate):
        sampled.append((indices, internal_states, rate))
        refresh(indices, internal_states, rate)

    buffer.refresh = spy
    model.train(1, batch_size=8)
    if rate == 0:
        assert not sampled and np.array_equal(before, buffer.next_internal_states)
        return
    (indices, new, used_rate) = sampled[0]
    assert used_rate == rate and np.abs(new).max() <= 1
    changed = np.zeros(before.shape[:2], dtype=bool)
    changed[indices] = True
    assert np.array_equal((buffer.next_internal_states != before).any(axis=-1), changed)


def test_vec_normalize_normalizes_the_history_too():
    env = VecNormalize(make_counters())
    model = make_model(env, 40)
    model.learn(60)
    buffer = model.replay_buffer
    np.random.seed(0)
    raw = buffer.sample(64)
    np.random.seed(0)
    normalized = buffer.sample(64, env=env)
    np.testing.assert_allclose(normalized.observations, env.normalize_obs(raw.observations.numpy()))
    np.testing.assert_allclose(normalized.recent_observations, env.normalize_obs(raw.recent_observations.numpy()))
    np.testing.assert_allclose(normalized.next_observations, env.normalize_obs(raw.next_observations.numpy()))
    np.testing.assert_allclose(normalized.rewards, env.normalize_reward(raw.rewards.numpy()), rtol=1e-6)


def test_dict_observations_come_back():
    env = DummyVecEnv([lambda: MixedDict(with_camera=False)] * 2)
    model = S2PGSAC("MultiInputPolicy", env, buffer_size=60, learning_starts=1000, critic_history=3, seed=0, device="cpu")
    model.learn(80)
    assert isinstance(model.replay_buffer, StatefulDictReplayBuffer)
    batch = model.replay_buffer.sample(200)
    position, env_idx = batch.indices
    for key, stored in model.replay_buffer.observations.items():
        np.testing.assert_array_equal(batch.observations[key], stored[position, env_idx])
        for lag in range(4):
            here = batch.recent_mask[:, lag].bool().numpy()
            np.testing.assert_array_equal(
                batch.recent_observations[key][here, lag], stored[(position - lag) % 30, env_idx][here]
            )
    history, next_history = model.policy.critic_histories(batch.recent_observations, batch.recent_actions, batch.recent_mask)
    step_dim = 3 + 4 + 2 + 2  # joints, one-hot mode, privileged, action
    assert history.shape == next_history.shape == (200, 3 * step_dim)
    # The history at t + 1 begins with the present step and goes on with the history at t
    assert th.equal(next_history[:, step_dim:], history[:, : 2 * step_dim])
    assert th.equal(next_history[:, step_dim - 2 : step_dim], batch.actions)
    assert (history[batch.recent_mask[:, 1] == 0] == 0).all()


def nbytes(buffer):
    arrays = [array for value in vars(buffer).values() for array in (value.values() if isinstance(value, dict) else [value])]
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


@pytest.mark.parametrize("state_dim", [0, 8, 32])
def test_memory_beyond_sac(state_dim):
    kwargs = {"buffer_size": 10_000, "device": "cpu"}
    sac = SAC("MlpPolicy", "Pendulum-v1", **kwargs)
    ours = S2PGSAC("MlpPolicy", "PendulumNoVel-v1", policy_kwargs={"state_dim": state_dim}, critic_history=8, **kwargs)
    assert isinstance(ours.replay_buffer, StatefulReplayBuffer)
    extra = (nbytes(ours.replay_buffer) - nbytes(sac.replay_buffer)) / 10_000
    assert extra <= 4 * state_dim + 8


def test_sampling_from_an_empty_buffer_and_adding_without_states():
    model = S2PGSAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=100, device="cpu")
    with pytest.raises(ValueError, match="Nothing to sample"):
        model.replay_buffer.sample(4)
    obs, action = np.zeros((1, 3)), np.zeros((1, 1))
    with pytest.raises(KeyError, match="next_internal_state"):
        model.replay_buffer.add(obs, obs, action, np.zeros(1), np.zeros(1), [{}])
    assert model.replay_buffer.size() == 0
    infos = [{"next_internal_state": np.full(32, 0.1), "episode_start": True}]
    model.replay_buffer.extend([obs], [obs], [action], [np.zeros(1)], [np.zeros(1)], [infos])
    assert model.replay_buffer.size() == 1
