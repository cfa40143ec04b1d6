"""LS-IQ: losses against numbers worked out with loops, internal states of demonstrations, no rewards, bad input."""

import itertools
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Counter, MixedDict, Recall
from gymnasium import spaces
from imitation.algorithms.base import make_data_loader
from imitation.data import rollout, types
from imitation.util.logger import configure
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_s2pg import LSIQ, S2PGSAC
from sb3_s2pg.ls_iq import HUMANOID

SMALL = {"net_arch": [16], "state_dim": 4}
BOX = gym.make("PendulumNoVel-v1")


def demonstrations(env="PendulumNoVelPriv-v1", n=2, seed=50):
    """Random episodes: what they show does not matter here."""
    venv = make_vec_env(env, 1, seed=seed) if isinstance(env, str) else DummyVecEnv([env])
    venv.action_space.seed(seed)
    trajectories = rollout.generate_trajectories(None, venv, rollout.make_min_episodes(n), np.random.default_rng(seed))
    venv.close()
    return list(trajectories)


def make(env="PendulumNoVelPriv-v1", demos=None, n_envs=1, policy_kwargs=None, tmp_path=None, **kwargs):
    venv = make_vec_env(env, n_envs, seed=0) if isinstance(env, str) else env
    return LSIQ(
        demonstrations=demonstrations(env) if demos is None else demos,
        venv=venv,
        custom_logger=configure(tmp_path, ["csv"] if tmp_path else []),
        policy_kwargs={**SMALL, **(policy_kwargs or {})},
        **{"seed": 0, "device": "cpu", "buffer_size": 1000, "expert_batch_size": 24, "batch_size": 16, **kwargs},
    )


def weights(trainer):
    return th.cat([parameter.detach().flatten() for parameter in trainer.policy.parameters()])


def by_hand(learner, batch, seed):
    """Losses as paper.md has them, one transition at a time."""
    c, gamma, n = learner.reg_mult, learner.gamma, learner.expert_batch_size
    alpha, alpha_z = 0.3, 0.07
    r_max, q_max = 1 / c, 1 / (c * (1 - gamma))
    state_dim = learner.policy.state_dim
    actor_sees, critic_sees = learner.policy.actor_subset, learner.policy.critic_subset

    def values(critic, observations, states, history):
        sample = learner.actor.action_log_prob(actor_sees(observations), states)
        q = critic(critic_sees(observations), states, sample.actions, sample.internal_states, history)[0]
        v = q - alpha * sample.log_prob
        return (v - alpha_z * sample.state_log_prob if learner.state_entropy_in_target else v).numpy()[:, 0].astype(float)

    with th.no_grad():
        th.manual_seed(seed)
        next_v = values(learner.critic_target, batch.next_observations, batch.next_states, batch.next_history)
        v = values(learner.critic, batch.observations, batch.states, batch.history)
        next_z = batch.next_states[:, :state_dim]
        q = learner.critic(critic_sees(batch.observations), batch.states, batch.actions, next_z, batch.history)
        q = q[0, :, 0].numpy().astype(float)
    absorbing = batch.dones.numpy()[:, 0] > 0
    assert absorbing[:n].any() and absorbing[n:].any() and (np.abs(next_v) > q_max).any()

    def regress(error):
        if learner.regression == "mse":
            return error**2
        return error**2 / 2 if abs(error) < 1 else abs(error) - 0.5

    def mean(terms, rows):
        return sum(terms(i) for i in rows) / len(rows)

    def y(i):
        return 0.0 if absorbing[i] else gamma * (min(max(next_v[i], -q_max), q_max) if learner.clip_q else next_v[i])

    def reward(i, r):
        return r / (1 - gamma) if absorbing[i] and learner.treat_absorbing else r

    expert, policy = range(n), range(n, len(q))
    if learner.expert_target == "fix":
        expert_part = mean(lambda i: regress(q[i] - q_max), expert)
    elif learner.loss == "sqil_like":
        expert_part = mean(lambda i: regress(q[i] - (reward(i, r_max) + y(i))), expert)
    if learner.loss == "sqil_like":
        value = v if learner.policy_value == "v" else q
        return expert_part + mean(lambda i: regress(value[i] - (reward(i, -r_max) + y(i))), policy)

    def implied(value, i):
        return (1 - gamma) * value[i] if absorbing[i] and learner.treat_absorbing else value[i] - y(i)

    if learner.expert_target == "bootstrap":
        expert_part = -mean(lambda i: implied(q, i), expert)
    squares = {
        "expert": mean(lambda i: implied(q, i) ** 2, expert),
        "policy": mean(lambda i: implied(q, i) ** 2, policy),
    }
    squares["both"] = (squares["expert"] + squares["policy"]) / 2
    value_part = (mean(lambda i: implied(v, i), expert) + mean(lambda i: implied(v, i), policy)) / 2
    return expert_part + value_part + c * squares[learner.regularize]


SETTINGS = [
    {"loss": "sqil_like", "expert_target": target, "regression": regression, "policy_value": value}
    for target, regression, value in itertools.product(("fix", "bootstrap"), ("mse", "huber"), ("q", "v"))
]
SETTINGS += [
    {"loss": "iq_like", "expert_target": target, "regularize": over}
    for target, over in itertools.product(("fix", "bootstrap"), ("both", "expert", "policy"))
]
OTHERS = [
    {"treat_absorbing": False},
    {"clip_q": False},
    {"state_entropy_in_target": True},
    {"reg_mult": 2.0, "gamma": 0.9},
]
SETTINGS += [{"loss": loss, "expert_target": "bootstrap", **other} for loss in ("sqil_like", "iq_like") for other in OTHERS]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_losses_by_hand(settings):
    trainer = make("PendulumNoVel-v1", critic_history=2, learning_starts=30, **{"reg_mult": 0.5, **settings})
    trainer.train(35)
    learner = trainer.rl_algo
    with th.no_grad():
        # Large values, so that clipping has something to do
        for critic, scale in ((learner.critic, 300.0), (learner.critic_target, 4000.0)):
            critic.q_networks[-1].weight.mul_(scale)
    batch = learner._sample_batch(16)
    batch.dones[::5] = 1.0
    th.manual_seed(7)
    loss = learner._critic_loss(batch, th.tensor(0.3), th.tensor(0.07))
    assert loss.item() == pytest.approx(by_hand(learner, batch, 7), rel=1e-4)
    loss.backward()
    # It trains the critic, and nothing else
    assert all(parameter.grad is not None for parameter in learner.critic.parameters())
    learner.actor.zero_grad()


def test_a_batch_is_the_experts_then_the_policys():
    trainer = make(n_envs=2, critic_history=3)
    trainer.train(300)
    learner = trainer.rl_algo
    batch = learner._sample_batch(16)
    assert len(batch.actions) == len(batch.history) == 40 and learner.critic.n_critics == 1
    demos = demonstrations()
    expert = np.concatenate([trajectory.obs.get("privileged")[:-1] for trajectory in demos])
    actions = np.concatenate([trajectory.acts for trajectory in demos]) / 2  # scaled from [-2, 2]
    for row in range(40):
        seen, action = batch.observations["privileged"][row].numpy(), batch.actions[row].numpy()
        at = np.flatnonzero((expert == seen).all(axis=1) & np.isclose(actions, action).all(axis=1))
        assert (len(at) > 0) == (row < 24)


def by_kernel(learner, trajectory):
    """z' along a trajectory, one step after the other, with the noise that torch has drawn since it was seeded."""
    policy, state, states = learner.policy, learner.policy.initial_state(1), []
    for step, action in enumerate(trajectory.acts):
        obs, _ = policy.obs_to_tensor(policy.actor_subset.select_keys(trajectory.obs[step].unwrap()))
        with th.no_grad():
            _, next_z = learner.actor(obs, th.as_tensor(state))
        states.append(next_z.numpy()[0])
        state = policy.make_state(next_z.numpy(), policy.scale_action(action[None]))
    return np.array(states)


def test_internal_states_of_demonstrations_are_rolled_along_the_trajectory():
    trainer = make(demos=demonstrations(n=1))
    learner = trainer.rl_algo
    th.manual_seed(3)
    learner.roll_expert_states()
    th.manual_seed(3)
    expected = by_kernel(learner, demonstrations(n=1)[0])
    np.testing.assert_allclose(learner.expert_buffer.next_internal_states[:, 0], expected, atol=1e-5)
    assert expected.std(axis=0).min() > 0.01


def test_each_trajectory_starts_from_z_0_whatever_the_lengths():
    demos = demonstrations(n=3)
    demos = [
        types.Trajectory(obs=t.obs[: n + 1], acts=t.acts[:n], infos=None, terminal=False)
        for t, n in zip(demos, (30, 50, 7), strict=True)
    ]
    # Hardly any noise: whatever is drawn, the states are those of the kernel's mean
    quiet = {"state_noise_kwargs": {"std_type": "fixed", "log_std_init": -9.0, "log_std_min": -9.0}}
    learner = make(demos=demos, policy_kwargs=quiet).rl_algo
    expected = np.concatenate([by_kernel(learner, trajectory) for trajectory in demos])
    np.testing.assert_allclose(learner.expert_buffer.next_internal_states[:, 0], expected, atol=5e-3)
    starts = np.array([0, 30, 80])
    batch = learner.expert_buffer._get_samples(starts, env_indices=np.zeros(3, dtype=int))
    np.testing.assert_array_equal(batch.states, learner.policy.initial_state(3))


def test_both_buffers_are_refreshed_equally_often():
    """Fresher z would tell the critic whose they are."""
    trainer = make(n_envs=2, state_refresh_rate=0.25)
    trainer.train(250)
    learner = trainer.rl_algo
    buffers = (learner.expert_buffer, learner.replay_buffer)
    counts = [np.zeros(buffer.next_internal_states.shape[:2], dtype=int) for buffer in buffers]
    for _ in range(400):
        batch = learner._sample_batch(16)
        before = [buffer.next_internal_states.copy() for buffer in buffers]
        new = np.random.default_rng(0).uniform(5, 6, size=(40, 4)).astype(np.float32)
        learner._refresh_states(batch, new)
        for number, (buffer, rows) in enumerate(zip(buffers, (range(24), range(24, 40)), strict=True)):
            changed = (buffer.next_internal_states != before[number]).all(axis=2)
            counts[number] += changed
            # What changed was in the batch, and moved by a quarter of the way to one of its values
            drawn = {(batch.indices[0][row], batch.indices[1][row]): [] for row in rows}
            for row in rows:
                at = (batch.indices[0][row], batch.indices[1][row])
                drawn[at].append(0.75 * before[number][at] + 0.25 * new[row])
            for at in zip(*np.nonzero(changed), strict=True):
                assert any(np.allclose(buffer.next_internal_states[at], value) for value in drawn[at])
            buffer.next_internal_states[:] = before[number]
    # 400 x 16 draws from 250 transitions of the policy's, 400 x 24 from 400 of the expert's
    means = [counts[0].mean(), counts[1][:125].mean()]
    assert means[0] == pytest.approx(400 * 24 / 400, rel=0.06) and means[1] == pytest.approx(means[0], rel=0.06)


class RandomRewards(gym.RewardWrapper):
    def reward(self, reward):
        return float(np.random.default_rng().normal(scale=1000))


@pytest.mark.parametrize("loss", ["sqil_like", "iq_like"])
def test_rewards_change_nothing(loss):
    results = []
    for wrapper in (None, RandomRewards, RandomRewards):
        venv = make_vec_env("PendulumNoVelPriv-v1", 1, seed=0, wrapper_class=wrapper)
        trainer = make(venv, demos=demonstrations(), loss=loss)
        trainer.train(160)
        results.append(weights(trainer))
    assert th.equal(results[0], results[1]) and th.equal(results[0], results[2])


def test_demonstrations_change_something():
    results = []
    for seed in (50, 51):
        trainer = make(demos=demonstrations(seed=seed))
        trainer.train(150)
        results.append(weights(trainer))
    assert not th.equal(*results)


def memory_demonstrations(n=20):
    """The cue at the last step, zero before it."""
    trajectories = []
    for number in range(n):
        cue = float(number % 2 * 2 - 1)
        obs = np.zeros((5, 2), dtype=np.float32)
        obs[0, 0], obs[3, 1] = cue, 1
        acts = np.array([[0.0], [0.0], [0.0], [cue]], dtype=np.float32)
        trajectories.append(types.Trajectory(obs=obs, acts=acts, infos=None, terminal=True))
    return trajectories


def train_recall(state_dim):
    trainer = make(
        DummyVecEnv([lambda: Recall(length=4)]),
        demos=memory_demonstrations(),
        policy_kwargs={"net_arch": [32, 32], "state_dim": state_dim, "use_previous_action": False},
        learning_rate=1e-3,
        buffer_size=3000,
        batch_size=64,
        expert_batch_size=64,
    )
    trainer.train(1000)
    venv = make_vec_env(lambda: Recall(length=4), 1, seed=100)
    return evaluate_policy(trainer.policy, venv, n_eval_episodes=50)[0]


def test_a_cue_is_remembered_as_demonstrated():
    assert train_recall(state_dim=8) > -0.4


def test_without_memory_it_is_not():
    assert train_recall(state_dim=0) < -0.7


def test_contiguous_transitions_are_trajectories():
    demos = demonstrations("PendulumNoVel-v1")
    flat = rollout.flatten_trajectories(demos)
    buffers = [make("PendulumNoVel-v1", demos=given).rl_algo.expert_buffer for given in (demos, flat)]
    for name in ("observations", "next_observations", "actions", "dones", "timeouts", "episode_starts"):
        np.testing.assert_array_equal(*(getattr(buffer, name) for buffer in buffers))
    # Their last episode may be a fragment
    make("PendulumNoVel-v1", demos=flat[:330])
    nested = rollout.flatten_trajectories(demonstrations())
    assert make(demos=nested).rl_algo.expert_buffer.full


def shuffled(transitions):
    order = np.random.default_rng(0).permutation(len(transitions))
    names = ("obs", "next_obs", "acts", "dones", "infos")
    return types.Transitions(**{name: getattr(transitions, name)[order] for name in names})


def cut(trajectory, n):
    return types.Trajectory(obs=trajectory.obs[: n + 1], acts=trajectory.acts[:n], infos=None, terminal=True)


def changed(**fields):
    trajectory = demonstrations("PendulumNoVel-v1", n=1)[0]
    defaults = {"obs": trajectory.obs, "acts": trajectory.acts, "infos": None, "terminal": True}
    return types.Trajectory(**{name: fields.get(name, lambda value: value)(value) for name, value in defaults.items()})


@pytest.mark.parametrize(
    "given, match",
    [
        (lambda: [], "demonstrations are empty"),
        (lambda: demonstrations("PendulumNoVelPriv-v1"), r"have the keys \['observation', 'privileged'\].*no keys"),
        (lambda: demonstrations("CartPoleNoVel-v1"), r"observations have the shape \(4,\).*\(3,\)"),
        (lambda: [changed(), cut(changed(), 1)], r"demonstrations\[1\] has 1 step"),
        (lambda: [cut(changed(), 20), cut(changed(), 30)], "allow_variable_horizon"),
        (lambda: [changed(acts=lambda acts: 3 + acts)], "lies outside of"),
        (lambda: [changed(acts=lambda acts: np.repeat(acts, 2, axis=1))], r"actions have the shape \(2,\)"),
        (lambda: [changed(acts=lambda acts: acts * np.nan)], "actions hold something that is not a finite number"),
        (lambda: [changed(obs=lambda obs: np.full_like(obs, np.inf))], "observations hold something"),
        (lambda: shuffled(rollout.flatten_trajectories(demonstrations("PendulumNoVel-v1"))), "shuffled"),
        (lambda: types.TransitionsMinimal(changed().obs[:-1], changed().acts, np.array([{}] * 200)), "what follows what"),
        (lambda: make_data_loader(demonstrations("PendulumNoVel-v1"), 8), r"demonstrations\[0\] is a dict"),
        (lambda: 3, "of type int"),
    ],
)
def test_demonstrations_that_do_not_fit(given, match):
    trainer = make("PendulumNoVel-v1")
    before = trainer.rl_algo.expert_buffer
    with pytest.raises(ValueError, match=match):
        trainer.set_demonstrations(given())
    assert trainer.rl_algo.expert_buffer is before
    with pytest.raises(ValueError, match=match):
        make("PendulumNoVel-v1", demos=given())


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"loss": "sqil"}, "loss='sqil'.*sqil_like"),
        ({"expert_target": "none"}, "expert_target='none'"),
        ({"regression": "l1"}, "regression='l1'"),
        ({"policy_value": "a"}, "policy_value='a'"),
        ({"regularize": "none"}, "regularize='none'"),
        ({"reg_mult": 0.0}, "reg_mult=0.0"),
        ({"gamma": 1.0}, "gamma=1.0"),
        ({"expert_batch_size": 0}, "expert_batch_size=0"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate=-1.0"),
        ({"absorbing_fn": lambda obs, done: done, "optimize_memory_usage": True}, "optimize_memory_usage"),
        ({"absorbing_fn": lambda obs, done: np.zeros(7)}, r"absorbing_fn returned the shape \(7,\)"),
        ({"policy": "MlpPolicy"}, "MultiInputPolicy"),
    ],
)
def test_arguments_that_cannot_work(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(**kwargs)


def test_discrete_actions_are_for_others():
    with pytest.raises(ValueError, match="S2PGPPO"):
        make("CartPoleNoVel-v1")


def test_episodes_of_different_length_need_consent():
    def venv():
        return DummyVecEnv([lambda: Counter(length=5), lambda: Counter(length=9)])

    def fixed():
        return demonstrations(lambda: Counter(length=5))

    trainer = make(venv(), demos=fixed())
    with pytest.raises(ValueError, match="allow_variable_horizon"):
        trainer.train(100)
    trainer = make(venv(), demos=[cut(fixed()[0], 4), fixed()[0]], allow_variable_horizon=True)
    trainer.train(100)
    # Fixed ones do not, also if training is cut within an episode
    trainer = make(DummyVecEnv([lambda: Counter(length=5)] * 2), demos=fixed(), learning_starts=1000)
    trainer.train(14)
    trainer.train(31, reset_num_timesteps=False)
    assert trainer.rl_algo.num_timesteps == 46


def absorbing_ends(buffer):
    return (buffer.dones * (1 - buffer.timeouts))[:, 0].astype(bool)


def test_the_end_of_an_episode_is_absorbing_unless_a_time_limit_made_it():
    for truncate in (False, True):
        demos = demonstrations(lambda truncate=truncate: Counter(length=5, truncate=truncate))
        trainer = make(DummyVecEnv([lambda truncate=truncate: Counter(length=5, truncate=truncate)]), demos=demos)
        trainer.train(40)
        for buffer in (trainer.rl_algo.expert_buffer, trainer.rl_algo.replay_buffer):
            ends = np.arange(buffer.size()) % 5 == 4
            np.testing.assert_array_equal(absorbing_ends(buffer)[: buffer.size()], ends & (not truncate))
    # Without infos the length tells, if the task says what its time-limit is
    for n, is_absorbing in ((200, False), (150, True)):
        trainer = make(demos=[cut(demonstrations(n=1)[0], n)])
        assert absorbing_ends(trainer.rl_algo.expert_buffer)[-1] == is_absorbing
    # A fragment goes on
    trainer = make(
        demos=[types.Trajectory(obs=t.obs[:11], acts=t.acts[:10], infos=None, terminal=False) for t in demonstrations()]
    )
    assert not absorbing_ends(trainer.rl_algo.expert_buffer).any()


def test_absorbing_fn_decides_on_both_sides():
    seen = []

    def third_step(next_observations, terminated):
        seen.append(terminated)
        return next_observations[:, 2] == 3

    venv = VecNormalize(DummyVecEnv([lambda: Counter(length=5)]))
    trainer = make(venv, demos=demonstrations(lambda: Counter(length=5)), absorbing_fn=third_step)
    trainer.train(40)
    for buffer in (trainer.rl_algo.expert_buffer, trainer.rl_algo.replay_buffer):
        np.testing.assert_array_equal(absorbing_ends(buffer)[: buffer.size()], np.arange(buffer.size()) % 5 == 2)
    assert np.concatenate(seen).sum() == 10 and trainer.rl_algo._last_episode_starts.all()


def test_expert_and_policy_are_normalized_alike():
    venv = VecNormalize(make_vec_env("PendulumNoVel-v1", 1, seed=0))
    trainer = make(venv, demos=demonstrations("PendulumNoVel-v1"))
    trainer.train(150)
    learner = trainer.rl_algo
    batch = learner._sample_batch(16)
    positions, _ = batch.indices
    raw = np.concatenate(
        [learner.expert_buffer.observations[positions[:24], 0], learner.replay_buffer.observations[positions[24:], 0]]
    )
    np.testing.assert_allclose(batch.observations, venv.normalize_obs(raw), atol=1e-5)


@pytest.mark.parametrize(
    "env, kwargs",
    [
        ("Pendulum-v1", {"policy_kwargs": {"actor_observation": [0, 1], "critic_observation": [0, 1, 2]}}),
        ("PendulumNoVel-v1", {"n_envs": 3, "gradient_steps": -1, "critic_history": 4, "policy_kwargs": {"n_critics": 2}}),
        ("PendulumNoVel-v1", {"policy_kwargs": {"state_dim": 0, "use_previous_action": False}, "critic_history": 0}),
        ("PendulumNoVel-v1", {"loss": "iq_like", "use_sde": True, "train_freq": (1, "episode")}),
    ],
)
def test_settings_of_s2pg_sac(env, kwargs):
    trainer = make(env, **kwargs)
    before = weights(trainer)
    trainer.train(420)
    assert not th.equal(before, weights(trainer)) and th.isfinite(weights(trainer)).all()
    if env == "Pendulum-v1":
        obs = np.array([[1.0, 0.0, 5.0]], dtype=np.float32)
        blind = trainer.policy.predict(obs * [1, 1, 0], deterministic=True)[0]
        np.testing.assert_array_equal(trainer.policy.predict(obs, deterministic=True)[0], blind)


def test_dict_observations_with_discrete_parts():
    def make_env():
        return MixedDict(with_camera=False)

    space = make_env().observation_space
    space.seed(0)
    obs = [space.sample() for _ in range(16)]
    stacked = types.DictObs({key: np.stack([each[key] for each in obs]) for key in space})
    demo = types.Trajectory(obs=stacked, acts=np.zeros((15, 2), dtype=np.float32), infos=None, terminal=True)
    trainer = make(DummyVecEnv([make_env]), demos=[demo])
    trainer.train(130)
    action, state = trainer.policy.predict({key: value for key, value in obs[0].items() if key != "privileged"})
    assert action.shape == (2,) and state.shape == (1, 6)


def test_the_authors_settings():
    trainer = make(**{**HUMANOID, "policy_kwargs": HUMANOID["policy_kwargs"]}, learning_starts=10)
    trainer.train(15)
    learner = trainer.rl_algo
    assert {group["lr"] for group in learner.actor.optimizer.param_groups} == {1e-4}
    assert {group["lr"] for group in learner.critic.optimizer.param_groups} == {3e-4}
    assert learner.target_state_entropy == -32 and learner.policy.state_dim == 32 and not learner.policy.use_previous_action
    assert len(learner._sample_batch(256).actions) == 512


def test_losses_and_q_values_are_logged(tmp_path):
    trainer = make(tmp_path=tmp_path)
    steps = []
    trainer.train(410, log_interval=1, callback=lambda local, _: steps.append(0) or True)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    wanted = ("critic_loss", "actor_loss", "expert_q_value", "policy_q_value", "ent_coef", "state_ent_coef", "state_abs")
    assert {f"train/{name}" for name in wanted} <= set(header) and len(steps) == 410
    trainer.logger = configure(tmp_path / "other", ["csv"])
    callbacks = CallbackList([CheckpointCallback(100, str(tmp_path))])
    trainer.train(210, log_interval=1, callback=callbacks)
    assert (tmp_path / "other" / "progress.csv").exists() and len(list(tmp_path.glob("*.zip"))) == 2


def test_save_and_load(tmp_path):
    trainer = make(absorbing_fn=lambda next_obs, terminated: terminated, critic_learning_rate=1e-3)
    trainer.train(150)
    trainer.save(tmp_path / "model")
    venv = make_vec_env("PendulumNoVelPriv-v1", 2, seed=5)
    obs = venv.reset()
    action, state = trainer.policy.predict(obs, deterministic=True)

    loaded = LSIQ.load(tmp_path / "model", device="cpu", custom_logger=configure(None, []))
    again, state_again = loaded.policy.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, again)
    np.testing.assert_array_equal(state, state_again)
    assert loaded.rl_algo.critic_learning_rate == 1e-3 and loaded.rl_algo.expert_buffer is None

    loaded = LSIQ.load(tmp_path / "model", venv=venv, device="cpu", custom_logger=configure(None, []))
    with pytest.raises(ValueError, match="no demonstrations"):
        loaded.train(100)
    loaded.set_demonstrations(demonstrations())
    before = weights(loaded)
    loaded.train(300)
    assert not th.equal(before, weights(loaded))
    with pytest.raises(ValueError, match="spaces do not match"):
        LSIQ.load(tmp_path / "model", venv=make_vec_env("Pendulum-v1"), device="cpu", custom_logger=configure(None, []))


WITHOUT_IMITATION = """
import sys
sys.modules["imitation"] = None
import numpy as np
import sb3_s2pg
model = sb3_s2pg.S2PGSAC.load(sys.argv[1], buffer_size=1, device="cpu")
print(model.predict(np.array([[1.0, 0.0, 0.0]], dtype=np.float32), deterministic=True)[0].item())
for module in ("ls_iq", "demonstrations"):
    try:
        __import__("sb3_s2pg." + module)
    except ImportError as error:
        print(error)
from sb3_s2pg import LSIQ
"""


def test_without_imitation(tmp_path):
    """The package works, what was learned acts, and the rest says what to install."""
    trainer = make("PendulumNoVel-v1")
    trainer.train(120)
    trainer.save(tmp_path / "model")
    command = [sys.executable, "-c", WITHOUT_IMITATION, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    printed = done.stdout.splitlines()
    expected = trainer.policy.predict(np.array([[1.0, 0.0, 0.0]], dtype=np.float32), deterministic=True)[0].item()
    assert float(printed[0]) == pytest.approx(expected)
    for message in (*printed[1:], done.stderr):
        assert 'pip install "sb3-s2pg[imitation]"' in message and "pip install --no-deps imitation==1.0.1" in message
    assert done.returncode == 1 and "ImportError" in done.stderr and len(printed) == 3


def test_unknown_names_are_unknown():
    import sb3_s2pg

    assert not hasattr(sb3_s2pg, "LSIQSAC") and isinstance(BOX.observation_space, spaces.Box)
    assert issubclass(LSIQ.__annotations__["rl_algo"], S2PGSAC)
