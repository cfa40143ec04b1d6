"""The actor loss against the exact gradient (the example is the check), and against numbers worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from memoryless import copy_transitions, copy_weights
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from sb3_s2pg import S2PGSAC

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_gradient_matches_the_exact_one_and_detaching_z_breaks_it(tmp_path):
    command = [sys.executable, str(EXAMPLES / "gradient_check.py"), "--out", str(tmp_path / "check"), "--batches", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "check.json").read_text())
    assert result["s2pg"]["largest_deviation_in_standard_errors"] <= 4
    assert result["largest_standard_error_relative_to_norm"] <= 0.03
    assert result["z' detached"]["largest_deviation_in_standard_errors"] > 4
    assert (tmp_path / "check.png").stat().st_size > 0


def test_without_memory_an_update_is_that_of_sac():
    kwargs = {"buffer_size": 500, "seed": 0, "device": "cpu", "gradient_steps": 0}
    sac = SAC("MlpPolicy", "PendulumNoVel-v1", policy_kwargs={"net_arch": [32, 32]}, **kwargs)
    ours = S2PGSAC(
        "MlpPolicy",
        "PendulumNoVel-v1",
        policy_kwargs={"net_arch": [32, 32], "state_dim": 0, "use_previous_action": False},
        critic_history=0,
        state_ent_coef=0.0,
        **kwargs,
    )
    sac.learn(300)
    copy_transitions(sac.replay_buffer, ours.replay_buffer, 300)
    copy_weights(sac, ours)
    for model in (sac, ours):
        model.set_logger(configure(None, []))
    for _ in range(3):
        numbers = []
        for model in (sac, ours):
            th.manual_seed(1)
            np.random.seed(1)
            model.train(1, batch_size=64)
            numbers.append(
                {name: model.logger.name_to_value[f"train/{name}"] for name in ("critic_loss", "actor_loss", "ent_coef")}
            )
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-4, abs=1e-5)
    for mine, theirs in zip(ours.actor.parameters(), sac.actor.parameters(), strict=True):
        th.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_critic_loss_by_hand():
    """y = r + gamma (1 - done) [min Q(s', z', a~, z~'') - alpha log pi ( - alpha_z log kappa)]"""
    for in_target in (False, True):
        model = S2PGSAC(
            "MlpPolicy",
            "PendulumNoVel-v1",
            buffer_size=300,
            seed=0,
            device="cpu",
            gradient_steps=0,
            critic_history=2,
            state_entropy_in_target=in_target,
            policy_kwargs={"state_dim": 2, "net_arch": [8]},
        )
        model.learn(250)
        batch = model._sample_batch(16)
        alpha, alpha_z = th.tensor(0.2), th.tensor(0.05)
        th.manual_seed(3)
        loss = model._critic_loss(batch, alpha, alpha_z)

        def q_by_hand(critic, obs, state, action, z_next, past):
            values = []
            for i in range(2):
                context = np.concatenate([obs, state, past])
                hidden = (
                    context @ critic.context_layer.weight[i].detach().numpy()
                    + critic.context_layer.bias[i, 0].detach().numpy()
                )
                hidden = hidden + np.concatenate([action, z_next]) @ critic.action_weight[i].detach().numpy()
                last = critic.q_networks[1]
                values.append(np.maximum(hidden, 0) @ last.weight[i, :, 0].detach().numpy() + last.bias[i, 0, 0].item())
            return np.array(values)

        th.manual_seed(3)
        with th.no_grad():
            sample = model.actor.action_log_prob(batch.next_observations, batch.next_states)
        total = 0.0
        for i in range(16):
            # The history is [o_{t-1}, a_{t-1}, o_{t-2}, a_{t-2}], zero before the episode
            steps = np.concatenate([batch.recent_observations[i], batch.recent_actions[i]], axis=1)
            steps = steps * batch.recent_mask[i].numpy()[:, None]
            next_q = q_by_hand(
                model.critic_target,
                *(x[i].numpy() for x in (batch.next_observations, batch.next_states, sample.actions, sample.internal_states)),
                steps[:2].flatten(),
            ).min()
            bonus = alpha.item() * sample.log_prob[i].item()
            if in_target:
                bonus += alpha_z.item() * sample.state_log_prob[i].item()
            target = batch.rewards[i].item() + (1 - batch.dones[i].item()) * 0.99 * (next_q - bonus)
            stored = (batch.observations, batch.states, batch.actions, batch.next_states[:, :2])
            q = q_by_hand(model.critic, *(x[i].numpy() for x in stored), steps[1:].flatten())
            total += 0.5 * ((q - target) ** 2).sum()
        assert loss.item() == pytest.approx(total / 16, rel=1e-4)
