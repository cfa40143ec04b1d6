"""The parts of an update, each against numbers worked out on its own."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_s2pg import S2PGSAC, S2PGTD3


def make(algorithm=S2PGSAC, env="PendulumNoVel-v1", **kwargs):
    kwargs = {"buffer_size": 300, "seed": 0, "device": "cpu", "gradient_steps": 0, "critic_history": 2, **kwargs}
    model = algorithm("MlpPolicy", env, policy_kwargs={"state_dim": 2, "net_arch": [8]}, **kwargs)
    model.learn(250)
    return model


def test_defaults():
    model = S2PGSAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs={"state_dim": 5}, device="cpu")
    assert model.target_entropy == -1 and model.target_state_entropy == -15
    assert model.log_ent_coef.exp().item() == pytest.approx(1) and model.log_state_ent_coef.exp().item() == pytest.approx(0.01)
    assert not model.state_entropy_in_target and model.state_refresh_rate == 1
    assert S2PGSAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=10).policy.state_dim == 32


def test_actor_loss_by_hand():
    """alpha log pi_a + alpha_z log kappa - min_i Q_i(s, z, a, z'), with the history at t and the critic as it is."""
    model = make()
    batch = model._sample_batch(64)
    sample = model.actor.action_log_prob(batch.observations, batch.states)
    loss = model._actor_loss(batch, sample, th.tensor(0.3), th.tensor(0.07))
    with th.no_grad():
        q_values = model.critic(batch.observations, batch.states, sample.actions, sample.internal_states, batch.history)
        expected = 0.3 * sample.log_prob + 0.07 * sample.state_log_prob - th.minimum(q_values[0], q_values[1])
    th.testing.assert_close(loss.detach(), expected.mean())
    assert not th.allclose(batch.history, batch.next_history)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.critic.parameters())
    assert all(parameter.requires_grad for parameter in model.critic.parameters())
    assert all(parameter.grad is not None for parameter in model.actor.kernel.parameters())


@pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])
def test_a_batch_carries_the_history_of_the_critic(algorithm):
    """[o_{t-1}, a_{t-1}, o_{t-2}, a_{t-2}] at t, one step later at t + 1; zero before the episode."""
    model = make(algorithm, VecNormalize(make_vec_env("PendulumNoVel-v1", 1, seed=0)))
    batch, env = model._sample_batch(200), model.get_vec_normalize_env()
    buffer = model.replay_buffer
    for row, (position, _) in enumerate(zip(*batch.indices, strict=True)):
        past, start = [], position - position % 200  # episodes have 200 steps
        for step in range(position, position - 3, -1):
            values = [env.normalize_obs(buffer.observations[step, 0]), buffer.actions[step, 0]]
            past += [value if step >= start else 0 * value for value in values]
        flat = np.concatenate(past).astype(np.float32)
        np.testing.assert_allclose(batch.next_history[row], flat[:8], atol=1e-6)
        np.testing.assert_allclose(batch.history[row], flat[4:], atol=1e-6)


def test_each_temperature_moves_towards_its_own_target():
    model = make(target_entropy=-3.0, target_state_entropy=-11.0)
    batch = model._sample_batch(64)
    sample = model.actor.action_log_prob(batch.observations, batch.states)
    before = [model.log_ent_coef.item(), model.log_state_ent_coef.item()]
    logs = {name: [] for name in ("ent_coef_loss", "state_ent_coef_loss")}
    used = model._update_temperatures(sample, logs)
    # The temperatures that the losses use are those before the update
    assert [value.item() for value in used] == pytest.approx(np.exp(before))
    for log_coefficient, log_prob, target, old in (
        (model.log_ent_coef, sample.log_prob, -3.0, before[0]),
        (model.log_state_ent_coef, sample.state_log_prob, -11.0, before[1]),
    ):
        gradient = -(log_prob.mean().item() + target)
        assert log_coefficient.grad.item() == pytest.approx(gradient, rel=1e-5)
        # Adam's first step has the size of the learning rate
        assert log_coefficient.item() - old == pytest.approx(-3e-4 * np.sign(gradient), rel=1e-3)
    assert logs["state_ent_coef_loss"][0] == pytest.approx(-before[1] * (sample.state_log_prob.mean().item() - 11), rel=1e-4)


def test_constant_temperatures_stay():
    model = make(ent_coef=0.4, state_ent_coef=0.02)
    model.train(3, batch_size=32)
    assert model.ent_coef_tensor.item() == pytest.approx(0.4) and model.state_ent_coef_tensor.item() == pytest.approx(0.02)
    assert "train/state_ent_coef_loss" not in model.logger.name_to_value


@pytest.mark.parametrize("interval, n_moves", [(1, 4), (2, 2), (3, 2)])
def test_targets_follow_slowly(interval, n_moves):
    model = make(target_update_interval=interval, tau=0.1)
    expected = [parameter.detach().clone() for parameter in model.critic_target.parameters()]
    trajectory = []
    step = model.actor.optimizer.step

    def record():
        step()
        trajectory.append([parameter.detach().clone() for parameter in model.critic.parameters()])

    model.actor.optimizer.step = record
    model.train(4, batch_size=32)
    moves = 0
    for gradient_step, online in enumerate(trajectory):
        if gradient_step % interval == 0:
            moves += 1
            expected = [0.9 * old + 0.1 * new for old, new in zip(expected, online, strict=True)]
    assert moves == n_moves
    for target, by_hand in zip(model.critic_target.parameters(), expected, strict=True):
        th.testing.assert_close(target.detach(), by_hand)


@pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])
def test_warm_up_is_random_in_the_action_only(algorithm):
    model = make(algorithm, learning_starts=1000)
    model.action_space.seed(11)
    actions = [model._sample_action(1000)[0] for _ in range(3)]
    model.action_space.seed(11)
    np.testing.assert_allclose(actions, [[model.action_space.sample()] for _ in range(3)], atol=1e-6)
    # z' comes from the policy: it follows the kernel's mean up to the noise
    mean = model.policy.predict(model._last_obs, model._last_state, model._last_episode_starts, deterministic=True)[1]
    samples = np.array([model._sample_action(1000) and model._next_state[0, :2] for _ in range(200)])
    assert samples.std(axis=0).min() > 1e-4
    np.testing.assert_allclose(samples.mean(axis=0), mean[0, :2], atol=0.02)
    # After warm-up both come from the policy, whose action S2PGTD3 leaves to the action noise
    model.num_timesteps = 2000
    draws = [(model._sample_action(1000)[0].copy(), model._next_state.copy()) for _ in range(2)]
    assert np.array_equal(draws[0][0], draws[1][0]) == (algorithm is S2PGTD3)
    assert not np.array_equal(draws[0][1][:, :2], draws[1][1][:, :2])


@pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])
def test_diagnostics_are_logged_in_episodic_training(algorithm, tmp_path):
    model = make(algorithm, train_freq=(1, "episode"), gradient_steps=2, learning_starts=10)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(1000, log_interval=1, reset_num_timesteps=False)
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/state_abs")
    assert sum(bool(line.split(",")[column]) for line in lines[1:]) >= 4
