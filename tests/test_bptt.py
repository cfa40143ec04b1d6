"""Backpropagation through time: sequences stay within episodes, and what flows back along them is the gradient."""

import numpy as np
import pytest
import torch as th
from envs import Counter, Recall
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_s2pg import BPTTSAC, BPTTTD3, LSTMKernel, StateKernel
from sb3_s2pg.common.kernels import KERNELS

both = pytest.mark.parametrize("algorithm", [BPTTSAC, BPTTTD3])
either_loss = pytest.mark.parametrize("loss_steps", ["last", "all"])


def make_model(algorithm, env="PendulumNoVel-v1", policy="MlpPolicy", **kwargs):
    settings = {"seed": 0, "device": "cpu", "buffer_size": 300, "policy_kwargs": {"state_dim": 4, "net_arch": [8]}, **kwargs}
    return algorithm(policy, env, **settings)


# Sequences


@both
@either_loss
@pytest.mark.parametrize("n_envs", [1, 3])
def test_unrolled_states_step_by_step(algorithm, loss_steps, n_envs):
    venv = make_vec_env("PendulumNoVel-v1", n_envs, seed=0)
    model = make_model(algorithm, venv, truncation_length=6, loss_steps=loss_steps, gradient_steps=0, buffer_size=300 * n_envs)
    model.learn(450 * n_envs)  # the buffer is full, and holds the starts of two episodes
    batch = model._sample_batch(1000)
    buffer, seen_starts = model.replay_buffer, 0
    for row, (position, env) in enumerate(zip(*batch.indices, strict=True)):
        # With weights as they were when it was stored, z is what was stored, wherever the sequence starts
        start = buffer.episode_starts[position, env]
        stored = np.zeros(4) if start else buffer.next_internal_states[(position - 1) % 300, env]
        seen_starts += int(start)
        np.testing.assert_allclose(batch.states[row, :4], stored, atol=1e-5)
        np.testing.assert_allclose(batch.next_states[row, :4], buffer.next_internal_states[position, env], atol=1e-5)
    assert seen_starts > 0
    assert batch.unrolled_states is not None and not batch.states.requires_grad


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("memory_optimized", [False, True])
@pytest.mark.parametrize("every_step", [False, True])
def test_sequences_end_at_the_transition_and_start_within_the_episode(truncate, memory_optimized, every_step):
    """The observations of ``Counter`` tell where they come from: [environment, episode, step]."""
    envs = DummyVecEnv([lambda number=number: Counter(number, 5 + number, truncate) for number in range(2)])
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = make_model(BPTTSAC, envs, gradient_steps=0, buffer_size=36, **(kwargs if memory_optimized else {}))
    model.learn(100)  # the buffer holds 18 steps of each environment and has been wrapped around
    length = 4
    batch, sequences = model.replay_buffer.sample_sequences(500, length, every_step)
    of_last = sequences.observations[-1].numpy()  # what is beyond the end repeats it
    full_length = 0
    for column, last in enumerate(of_last):
        observations = sequences.observations[:, column].numpy()
        assert (observations[:, :2] == last[:2]).all()  # same environment, same episode
        n_steps = len(np.unique(observations[:, 2]))
        np.testing.assert_array_equal(observations[:n_steps, 2], np.arange(last[2] - n_steps + 1, last[2] + 1))
        np.testing.assert_array_equal(observations[n_steps:, 2], np.full(length - n_steps, last[2]))
        # Shorter only at the start of an episode, or where the buffer holds no more
        full_length += n_steps == length
        if observations[0, 2] == 0:
            np.testing.assert_array_equal(sequences.internal_states[column], np.zeros(4))
            np.testing.assert_array_equal(sequences.previous_actions[0, column], np.zeros(2))
    assert full_length > 100
    step, sequence = sequences.rows
    np.testing.assert_array_equal(batch.observations, sequences.observations[step, sequence])
    if every_step:
        counts = np.bincount(sequence.numpy(), minlength=500)
        expected = [len(np.unique(sequences.observations[:, column, 2])) for column in range(500)]
        np.testing.assert_array_equal(counts, expected)
    else:
        np.testing.assert_array_equal(sequence, np.arange(500))
        np.testing.assert_array_equal(batch.observations, of_last)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_every_kernel_unrolls_as_it_steps(kernel):
    th.manual_seed(0)
    bounded = {"bounded": True} if KERNELS[kernel].bounded is None else {}
    memory = KERNELS[kernel](3, 6, **bounded)
    inputs, states = th.randn(7, 5, 3), memory.initial_state(5) + 0.1 * th.rand(5, 6)
    unrolled, by_step = memory.unroll(inputs, states), []
    for step_inputs in inputs:
        states, _ = memory(step_inputs, states)
        by_step.append(states)
    th.testing.assert_close(unrolled, th.stack(by_step), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bias", [0.0, 8.0])
def test_an_lstm_unrolls_as_it_steps_where_its_cell_is_cut_off(bias):
    th.manual_seed(0)
    memory = LSTMKernel(3, 6, bounded=True)
    with th.no_grad():
        memory.cell.bias_ih += bias  # gates open: c grows by almost 1 at every step
    inputs, states = th.randn(12, 5, 3), 0.1 * th.rand(5, 6)
    unrolled, by_step = memory.unroll(inputs, states), StateKernel.unroll(memory, inputs, states)
    assert (by_step.abs().max() > 0.9999) == (bias > 0)
    th.testing.assert_close(unrolled, by_step, atol=1e-5, rtol=0)
    gradients = [th.autograd.grad(values.square().sum(), memory.cell.weight_hh)[0] for values in (unrolled, by_step)]
    th.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


# The gradient


def loss_of_algorithm(model, batch):
    """The actor's loss with the same noise at every call."""
    th.manual_seed(1)
    if isinstance(model, BPTTTD3):
        return model._actor_loss(batch)[0]
    sample = model.actor.action_log_prob(model.policy.actor_subset(batch.observations), batch.actor_states)
    return model._actor_loss(batch, sample, th.tensor(0.1), th.tensor(0.0))


def objective(model, batch, states):
    """
    What it is the gradient of: the policy acts on ``states``, the critic judges with z and z' of the batch, which are no
    actions here and stay as they are.
    """
    th.manual_seed(1)
    obs = model.policy.actor_subset(batch.observations)
    if isinstance(model, BPTTTD3):
        actions, penalty = model.actor(obs, states)[0], 0
    else:
        sample = model.actor.action_log_prob(obs, states)
        actions, penalty = sample.actions, 0.1 * sample.log_prob
    internal_states = batch.next_states[:, : model.policy.state_dim]
    q_values = model.critic(batch.observations, batch.states, actions, internal_states, batch.history)
    return (penalty - (q_values[0] if isinstance(model, BPTTTD3) else q_values.min(dim=0).values)).mean().item()


@both
@either_loss
@pytest.mark.parametrize("kernel", ["gru", "lstm", "linear"])
def test_gradient_through_time_against_finite_differences(algorithm, loss_steps, kernel):
    policy_kwargs = {"state_dim": 4, "net_arch": [8], "state_kernel_class": kernel}
    model = make_model(algorithm, truncation_length=7, loss_steps=loss_steps, gradient_steps=0, policy_kwargs=policy_kwargs)
    model.learn(300)
    model.policy.double()
    model.replay_buffer._as_tensor = lambda array: th.as_tensor(array, dtype=None if array.dtype.kind == "i" else th.float64)
    model._n_updates = 1  # the next update of TD3 is one of the actor, too

    def sample():
        np.random.seed(0)
        return model._sample_batch(64)

    batch = sample()
    parameters = list(model.actor.kernel.parameters())
    gradient = th.autograd.grad(loss_of_algorithm(model, batch), parameters)
    # What a truncation after one step would leave: the memory as it was, and what is written at this step
    direct = th.autograd.grad(loss_of_algorithm(model, batch._replace(unrolled_states=batch.states)), parameters)
    th.manual_seed(2)
    direction = [th.randn_like(parameter) for parameter in parameters]

    def loss_at(step):
        with th.no_grad():
            for parameter, move in zip(parameters, direction, strict=True):
                parameter += step * move
            loss = objective(model, batch, sample().unrolled_states)
            for parameter, move in zip(parameters, direction, strict=True):
                parameter -= step * move
        return loss

    along = [sum((g * move).sum().item() for g, move in zip(each, direction, strict=True)) for each in (gradient, direct)]
    assert (loss_at(1e-4) - loss_at(-1e-4)) / 2e-4 == pytest.approx(along[0], rel=1e-4)
    assert along[1] != pytest.approx(along[0], rel=0.05)


# Learning


@pytest.mark.parametrize("algorithm, loss_steps", [(BPTTSAC, "last"), (BPTTTD3, "all")])
def test_a_cue_is_remembered(algorithm, loss_steps):
    # The same without memory is tested in test_learning.py
    model = make_model(
        algorithm,
        Recall(length=4),
        truncation_length=4,
        loss_steps=loss_steps,
        learning_rate=1e-3,
        batch_size=64,
        buffer_size=2500,
        policy_kwargs={"net_arch": [32, 32], "state_dim": 8, "use_previous_action": False},
        **({"action_noise": NormalActionNoise(np.zeros(1), 0.3 * np.ones(1))} if algorithm is BPTTTD3 else {}),
    )
    model.learn(2500)
    env = Monitor(Recall(length=4))
    env.reset(seed=100)
    assert np.mean(evaluate_policy(model, env, n_eval_episodes=50)[0]) > -0.4


# Around it


@both
def test_invalid_arguments(algorithm):
    for truncation_length in (0, 1.5, 301):
        with pytest.raises(ValueError, match="truncation_length"):
            make_model(algorithm, truncation_length=truncation_length)
    with pytest.raises(ValueError, match="loss_steps"):
        make_model(algorithm, loss_steps="first")
    with pytest.raises(ValueError, match="noise"):
        make_model(algorithm, policy_kwargs={"state_noise_kwargs": {}})
    with pytest.raises(ValueError, match="state_dim=0"):
        make_model(algorithm, policy_kwargs={"state_dim": 0})


@both
def test_save_and_load(algorithm, tmp_path):
    model = make_model(algorithm, truncation_length=3, learning_starts=50)
    before = [parameter.clone() for parameter in model.actor.kernel.parameters()]
    model.learn(80)
    assert any(not th.equal(old, new) for old, new in zip(before, model.actor.kernel.parameters(), strict=True))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    observation = model.observation_space.sample()
    for old, new in zip(
        model.predict(observation, deterministic=True), loaded.predict(observation, deterministic=True), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@both
def test_logs_say_what_means_something(algorithm, tmp_path):
    model = make_model(algorithm, "PendulumNoVelPriv-v1", "MultiInputPolicy", tensorboard_log=str(tmp_path))
    model.learn(250, log_interval=1)
    (folder,) = tmp_path.iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    keys = set(events.Tags()["scalars"])
    assert {"train/actor_loss", "train/kernel_grad_norm", "train/state_abs", "train/state_change"} <= keys
    assert not {"train/state_entropy", "train/state_ent_coef", "train/state_refresh_shift"} & keys
