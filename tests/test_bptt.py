"""Backpropagation through time: sequences stay within episodes, and the unrolled state is the one computed step by step."""

import numpy as np
import pytest
import torch as th

from sb3_s2pg import BPTTSAC, BPTTTD3

both = pytest.mark.parametrize("algorithm", [BPTTSAC, BPTTTD3])


def make_model(algorithm, **kwargs):
    settings = {"seed": 0, "device": "cpu", "buffer_size": 300, "policy_kwargs": {"state_dim": 4, "net_arch": [8]}, **kwargs}
    return algorithm("MlpPolicy", "PendulumNoVel-v1", **settings)


@both
@pytest.mark.parametrize("loss_steps", ["last", "all"])
def test_unrolled_states_step_by_step(algorithm, loss_steps):
    model = make_model(algorithm, truncation_length=6, loss_steps=loss_steps, gradient_steps=0)
    model.learn(450)  # the buffer is full, and holds the starts of two episodes
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


@both
def test_invalid_arguments(algorithm):
    for truncation_length in (0, 1.5, 301):
        with pytest.raises(ValueError, match="truncation_length"):
            make_model(algorithm, truncation_length=truncation_length)
    with pytest.raises(ValueError, match="loss_steps"):
        make_model(algorithm, loss_steps="first")
    with pytest.raises(ValueError, match="noise"):
        make_model(algorithm, policy_kwargs={"state_noise_kwargs": {}})


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
