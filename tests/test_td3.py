"""S2PG-TD3 against SB3's TD3 where there is no memory, and against numbers worked out by hand where there is."""

import copy
import inspect
import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from memoryless import copy_transitions, copy_weights, linear_layers, linear_layers_of_sb3
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise

from sb3_s2pg import S2PGSAC, S2PGTD3
from sb3_s2pg.td3.policies import MlpPolicy

STATE_DIM = 2


def make(policy_kwargs=None, **kwargs):
    """A model with 250 transitions, its weights not small and its targets some way off its networks."""
    kwargs = {"buffer_size": 300, "seed": 0, "device": "cpu", "gradient_steps": 0, "critic_history": 2, **kwargs}
    policy_kwargs = {"state_dim": STATE_DIM, "net_arch": [8, 6], **(policy_kwargs or {})}
    model = S2PGTD3("MlpPolicy", "PendulumNoVel-v1", policy_kwargs=policy_kwargs, **kwargs)
    model.learn(250)
    with th.no_grad():
        for network in (model.actor, model.critic, model.actor_target, model.critic_target):
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * th.randn_like(parameter)
    return model


def test_defaults_are_those_of_the_newest_td3():
    ours = {name: parameter.default for name, parameter in inspect.signature(S2PGTD3.__init__).parameters.items()}
    # Spelled out: SB3 2.2.1 has others
    newest = {"learning_rate": 1e-3, "buffer_size": 1_000_000, "learning_starts": 100, "batch_size": 256, "tau": 0.005}
    newest |= {"gamma": 0.99, "train_freq": 1, "gradient_steps": 1, "policy_delay": 2, "n_steps": 1}
    newest |= {"target_policy_noise": 0.2, "target_noise_clip": 0.5, "action_noise": None, "optimize_memory_usage": False}
    assert {name: ours[name] for name in newest} == newest
    assert ours["state_noise"] == 0.05 and ours["state_refresh_rate"] == 1

    model = S2PGTD3("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, device="cpu", state_noise=0.08)
    assert model.policy.exploration_state_std == 0.08
    assert model.policy.state_dim == 32 and model.policy.net_arch == [400, 300]
    kwargs = {"state_noise": 0.08, "target_state_noise": 0.0, "target_state_noise_clip": 0.3}
    model = S2PGTD3("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, device="cpu", **kwargs)
    assert {name: getattr(model, name) for name in kwargs} == kwargs


# Without memory


@pytest.mark.parametrize("policy_delay", [1, 2])
def test_without_memory_an_update_is_that_of_td3(policy_delay):
    kwargs = {"buffer_size": 500, "seed": 0, "device": "cpu", "policy_delay": policy_delay, "target_policy_noise": 0.0}
    collect = {"train_freq": 1, "gradient_steps": 0}
    theirs = TD3("MlpPolicy", "PendulumNoVel-v1", policy_kwargs={"net_arch": [32, 24]}, **collect, **kwargs)
    ours = S2PGTD3(
        "MlpPolicy",
        "PendulumNoVel-v1",
        policy_kwargs={"net_arch": [32, 24], "state_dim": 0, "use_previous_action": False},
        critic_history=0,
        **kwargs,
    )
    theirs.learn(300)
    copy_transitions(theirs.replay_buffer, ours.replay_buffer, 300)
    copy_weights(theirs, ours)
    for model in (theirs, ours):
        model.set_logger(configure(None, []))
    actor = [parameter.detach().clone() for parameter in theirs.actor.parameters()]
    for n_updates in range(1, 5):
        losses = []
        for model in (theirs, ours):
            np.random.seed(n_updates)
            model.train(1, batch_size=64)
            losses.append([model.logger.name_to_value.get(f"train/{name}_loss") for name in ("critic", "actor")])
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        # The first one is all there is before the first delayed update
        moved = any(not th.equal(old, new) for old, new in zip(actor, ours.actor.parameters(), strict=True))
        assert moved == (n_updates >= policy_delay)
        for name in ("actor", "actor_target"):
            networks = (getattr(model, name).parameters() for model in (ours, theirs))
            for mine, other in zip(*networks, strict=True):
                th.testing.assert_close(mine, other, atol=1e-5, rtol=0)
        for name in ("critic", "critic_target"):
            for i in range(2):
                pairs = zip(linear_layers(getattr(ours, name), i), linear_layers_of_sb3(getattr(theirs, name), i), strict=True)
                for mine, other in pairs:
                    th.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    assert ours._n_updates == 4


# The losses, in numpy


def numbers(tensor):
    return tensor.detach().numpy().astype(np.float64)


def mlp(layers, inputs):
    """
    :param layers: Weights and biases, as ``nn.Linear`` lays them out
    :param inputs: Inputs of one transition
    :return: Output of the network, ReLUs in between
    """
    for i, (weight, bias) in enumerate(layers):
        inputs = numbers(weight) @ (np.maximum(inputs, 0) if i else inputs) + numbers(bias)
    return inputs


def q_by_hand(critic, obs, state, history, action, z_next):
    """Q(s, z, a, z') of one transition, network after network."""
    inputs = np.concatenate([obs, state, history, action, z_next])
    return np.array([mlp(linear_layers(critic, i), inputs)[0] for i in range(critic.n_critics)])


def actor_by_hand(actor, obs, state):
    """a, z' without noise and its unit, of one transition."""
    inputs, z = np.concatenate([obs, state[STATE_DIM:]]), state[:STATE_DIM]
    cell = actor.kernel.cell
    from_inputs = numbers(cell.weight_ih) @ inputs + numbers(cell.bias_ih)
    from_states = numbers(cell.weight_hh) @ z + numbers(cell.bias_hh)
    reset, keep, candidate = (slice(k * STATE_DIM, (k + 1) * STATE_DIM) for k in range(3))
    gates = 1 / (1 + np.exp(-(from_inputs + from_states)))
    written = np.tanh(from_inputs[candidate] + gates[reset] * from_states[candidate])
    mean = gates[keep] * z + (1 - gates[keep]) * written
    head = [(layer.weight, layer.bias) for layer in actor.mu if isinstance(layer, th.nn.Linear)]
    return np.tanh(mlp(head, np.concatenate([inputs, mean]))), mean, 1 - gates[keep]


def rows(batch, *names):
    """Transition after transition, in numpy."""
    return zip(*(numbers(getattr(batch, name)) for name in names), strict=True)


@pytest.mark.parametrize("target_state_noise", [0.0, 0.1, 3.0])
def test_critic_loss_by_hand(target_state_noise):
    """y = r + gamma (1 - done) min_i Qbar_i(s', z', a~, z~''), smoothed in both; the sum of the critics' squared errors."""
    noise = {"target_state_noise": target_state_noise, "target_state_noise_clip": 1.2 * target_state_noise}
    model = make(target_policy_noise=0.4, target_noise_clip=0.3, gamma=0.9, **noise)
    batch = model._sample_batch(32)
    # Pendulum's rewards would drown what the noise changes, and it never ends
    batch = batch._replace(rewards=0.1 * batch.rewards, dones=th.bernoulli(th.full((32, 1), 0.3)))
    th.manual_seed(3)
    loss = model._critic_loss(batch)
    th.manual_seed(3)
    epsilon_z = th.randn(32, STATE_DIM) if target_state_noise else th.zeros(32, STATE_DIM)
    epsilon_a = th.randn(32, 1)
    total, n_clipped, n_at_bounds = 0.0, 0, 0
    targets = rows(batch, "next_observations", "next_states", "next_history", "rewards", "dones")
    stored = rows(batch, "observations", "states", "history", "actions", "next_states")
    for target, (*seen, z_next), e_z, e_a in zip(targets, stored, numbers(epsilon_z), numbers(epsilon_a), strict=True):
        obs, state, history, reward, done = target
        action, mean, unit = actor_by_hand(model.actor_target, obs, state)
        z_noise = np.clip(target_state_noise * unit * e_z, -1.2 * target_state_noise * unit, 1.2 * target_state_noise * unit)
        n_clipped += int((np.abs(e_z) > 1.2).sum())
        n_at_bounds += int((np.abs(mean + z_noise) > 1).sum())
        next_action = np.clip(action + np.clip(0.4 * e_a, -0.3, 0.3), -1, 1)
        next_z = np.clip(mean + z_noise, -1, 1)
        q_target = q_by_hand(model.critic_target, obs, state, history, next_action, next_z).min()
        q = q_by_hand(model.critic, *seen, z_next[:STATE_DIM])
        total += ((q - (reward[0] + 0.9 * (1 - done[0]) * q_target)) ** 2).sum()
    assert loss.item() == pytest.approx(total / 32, rel=1e-5)
    assert (n_clipped > 0) == (target_state_noise > 0) and (n_at_bounds > 0) == (target_state_noise == 3)


def test_actor_loss_by_hand():
    """-Q_1 only, at a and z' without noise, with the history at t."""
    model = make()
    batch = model._sample_batch(32)
    loss, _ = model._actor_loss(batch)
    expected = []
    for obs, state, history in rows(batch, "observations", "states", "history"):
        action, mean, _ = actor_by_hand(model.actor, obs, state)
        expected.append(-q_by_hand(model.critic, obs, state, history, action, mean)[0])
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    with th.no_grad():
        for parameter in model.critic.parameters():
            parameter[1] += 1  # the second critic
    assert model._actor_loss(batch)[0].item() == loss.item()


def test_gradient_of_the_actor():
    """grad J = E[grad mu_a dQ/da + grad mu_z dQ/dz']: both terms reach the kernel, nothing reaches the critic."""
    model = make()
    batch = model._sample_batch(64)
    loss, _ = model._actor_loss(batch)
    loss.backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.critic.parameters())

    actions, z_next, _ = model.actor(batch.observations, batch.states)
    inputs = [actions.detach().requires_grad_(), z_next.detach().requires_grad_()]
    q_values = model.critic(batch.observations, batch.states, *inputs, batch.history)[0]
    dq = th.autograd.grad(-q_values.mean(), inputs)
    kernel = dict(model.actor.kernel.named_parameters())
    terms = [
        th.autograd.grad(output, list(kernel.values()), grad_outputs=slope, retain_graph=True)
        for output, slope in zip((actions, z_next), dq, strict=True)
    ]
    for parameter, through_a, through_z in zip(kernel.values(), *terms, strict=True):
        assert through_a.abs().max() > 1e-6 and through_z.abs().max() > 1e-6
        th.testing.assert_close(parameter.grad, through_a + through_z)


@pytest.mark.parametrize(
    "noise, std, clip",
    [
        ({"state_noise": 0.0, "target_state_noise": 0.02, "target_state_noise_clip": 0.03}, 0.02, 0.03),
        # By default half of the exploration noise, cut at 1.25 times it
        ({"state_noise": 0.04}, 0.02, 0.05),
    ],
)
@pytest.mark.parametrize("gated_noise", [False, True])
def test_smoothing_noise_of_the_target(gated_noise, noise, std, clip):
    """Observed where it enters the target critic: the given std in the kernel's unit, cut at the given multiple of it."""
    model = make({"state_kernel_kwargs": {"gated_noise": gated_noise}}, **noise)
    batch, seen = model._sample_batch(10_000), {}
    model.critic_target.register_forward_pre_hook(lambda _, inputs: seen.update(a=inputs[2], z=inputs[3]))
    model._critic_loss(batch)
    with th.no_grad():
        actions, mean, unit = model.actor_target(batch.next_observations, batch.next_states)
    assert (unit.std() > 0.01) == gated_noise and (gated_noise or (unit == 1).all())
    inside = mean.abs() < 0.97
    noise = ((seen["z"] - mean) / unit)[inside]
    assert noise.abs().max().item() == pytest.approx(clip, rel=1e-3)
    # A Gaussian that is cut at 1.5 or 2.5 times its std
    share = math.erfc(clip / std / math.sqrt(2))
    assert (noise.abs() > 0.997 * clip).float().mean().item() == pytest.approx(share, abs=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise[noise.abs() < 0.02].std().item() == pytest.approx(0.02 * 0.5397, rel=0.05)  # within one std
    assert (seen["a"] - actions).abs().max() <= 0.5 + 1e-6 and (seen["a"] - actions).std() > 0.1


# Exploration


def repeated(model, n, seed=0):
    """One observation and state, n times."""
    rng = np.random.default_rng(seed)
    obs = np.tile(rng.uniform(-1, 1, (1, 3)), (n, 1)).astype(np.float32)
    return obs, np.tile(rng.uniform(-0.5, 0.5, (1, STATE_DIM + 1)), (n, 1)).astype(np.float32)


@pytest.mark.parametrize("state_noise", [0.0, 0.05])
def test_exploration_is_on_the_internal_state_only(state_noise):
    model = make(state_noise=state_noise)
    obs, state = repeated(model, 10_000)
    mean_action, mean = model.predict(obs, state=state, deterministic=True)
    action, next_state = model.predict(obs, state=state)
    np.testing.assert_array_equal(action, mean_action)
    np.testing.assert_array_equal(next_state[:, STATE_DIM:], mean[:, STATE_DIM:])
    _, _, unit = actor_by_hand(model.actor, obs[0], state[0])
    noise = (next_state - mean)[:, :STATE_DIM] / unit
    assert noise.std(axis=0) == pytest.approx([state_noise] * STATE_DIM, rel=0.03)
    assert noise.mean(axis=0) == pytest.approx([0] * STATE_DIM, abs=0.002)
    again = model.predict(obs, state=state, deterministic=True)[1]
    np.testing.assert_array_equal(again, mean)


def test_explored_states_stay_within_bounds():
    model = make(state_noise=5.0)
    obs, state = repeated(model, 1000)
    z_next = model.predict(obs, state=state)[1][:, :STATE_DIM]
    assert np.abs(z_next).max() == 1
    assert np.abs(model.replay_buffer.next_internal_states).max() == 1


def test_action_noise_reaches_the_action_and_what_is_remembered_of_it():
    noise = NormalActionNoise(np.array([0.3]), np.array([0.0]))
    model = make(action_noise=noise, state_noise=0.0)
    for _ in range(20):
        last = (model._last_obs, model._last_state, model._last_episode_starts)
        mean_action, mean = model.policy.predict(*last, deterministic=True)
        executed, stored = model._sample_action(0, noise)
        np.testing.assert_allclose(stored, np.clip(mean_action / 2 + 0.3, -1, 1), atol=1e-6)
        np.testing.assert_allclose(executed, 2 * stored, atol=1e-6)
        np.testing.assert_array_equal(model._next_state[:, :STATE_DIM], mean[:, :STATE_DIM])
        np.testing.assert_allclose(model._next_state[:, STATE_DIM:], stored, atol=1e-6)
        model.learn(1, reset_num_timesteps=False)
        position = model.replay_buffer.pos - 1
        np.testing.assert_allclose(model.replay_buffer.actions[position], stored, atol=1e-6)
        np.testing.assert_array_equal(model.replay_buffer.next_internal_states[position], mean[:, :STATE_DIM])


# State refresh


@pytest.mark.parametrize("policy_delay, rate", [(1, 1.0), (3, 1.0), (3, 0.25), (2, 0.0)])
def test_refresh_happens_with_the_delayed_updates(policy_delay, rate):
    """What is written is z' of the kernel before its update, blended with what was stored."""
    model = make(policy_delay=policy_delay, state_refresh_rate=rate, state_noise=0.0, learning_rate=0.01)
    buffer = model.replay_buffer
    for n_updates in range(1, 2 * policy_delay + 1):
        expected, actor = buffer.next_internal_states.copy(), copy.deepcopy(model.actor)
        np.random.seed(n_updates)
        batch = model._sample_batch(40)
        with th.no_grad():
            new = actor(batch.observations, batch.states)[1].numpy()
        np.random.seed(n_updates)
        model.train(1, batch_size=40)
        if n_updates % policy_delay == 0:
            expected[batch.indices] = (1 - rate) * expected[batch.indices] + rate * new
            before = [parameter for parameter in actor.kernel.parameters()]
            assert not any(th.equal(old, now) for old, now in zip(before, model.actor.kernel.parameters(), strict=True))
        np.testing.assert_allclose(buffer.next_internal_states, expected, atol=1e-6)
    # From the second refresh on, the kernel is another one than the one that acted
    assert rate == 0 or np.abs(new - batch.next_states[:, :STATE_DIM].numpy()).max() > 1e-3


def test_refresh_explores():
    model = make(policy_delay=1, state_noise=0.1)
    actor = copy.deepcopy(model.actor)
    np.random.seed(0)
    batch = model._sample_batch(3000)
    np.random.seed(0)
    model.train(1, batch_size=3000)
    with th.no_grad():
        _, mean, unit = actor(batch.observations, batch.states)
    first = np.unique(np.stack(batch.indices), axis=1, return_index=True)[1]
    written = model.replay_buffer.next_internal_states[batch.indices]
    noise = ((written - mean.numpy()) / unit.numpy())[first]
    assert len(first) == 250 and noise.std() == pytest.approx(0.1, rel=0.15)


# Loading, and what cannot work


def test_exploration_survives_saving(tmp_path):
    model = make(state_noise=0.07, target_state_noise=0.01)
    model.save(tmp_path / "model")
    loaded = S2PGTD3.load(tmp_path / "model", device="cpu")
    assert loaded.policy.exploration_state_std == loaded.state_noise == 0.07 and loaded.target_state_noise == 0.01
    obs, state = repeated(model, 5000)
    assert loaded.predict(obs, state=state)[1][:, :STATE_DIM].std(axis=0).min() > 0.01
    quiet = S2PGTD3.load(tmp_path / "model", device="cpu", state_noise=0.0)
    assert np.ptp(quiet.predict(obs, state=state)[1][:, :STATE_DIM], axis=0).max() < 1e-5


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"state_noise": None}, "state_noise=None must be a number"),
        ({"state_noise": float("nan")}, "state_noise=nan must be a number"),
        ({"state_noise": -0.1}, r"state_noise=-0\.1 must be a number"),
        ({"target_state_noise": -0.1}, r"target_state_noise=-0\.1 must be a number"),
        ({"target_state_noise_clip": -1.0}, r"target_state_noise_clip=-1\.0 must be a number"),
        ({"policy_kwargs": {"exploration_state_std": 0.1}}, "exploration_state_std is an argument of the algorithm"),
        ({"n_steps": 3}, "n_steps=3"),
        ({"env": "CartPoleNoVel-v1"}, "S2PGTD3 needs a Box action space.*S2PGPPO"),
        ({"policy": S2PGSAC.policy_aliases["MlpPolicy"]}, "S2PGTD3 cannot train a S2PGSACPolicy"),
        ({"policy": TD3.policy_aliases["MlpPolicy"]}, "S2PGTD3 cannot train a TD3Policy"),
    ],
)
def test_bad_input(kwargs, match):
    policy, env = kwargs.pop("policy", "MlpPolicy"), kwargs.pop("env", "PendulumNoVel-v1")
    with pytest.raises(ValueError, match=match):
        S2PGTD3(policy, env, buffer_size=10, device="cpu", **kwargs)


def test_a_policy_of_td3_is_none_of_sac():
    with pytest.raises(ValueError, match="S2PGSAC cannot train a S2PGTD3Policy"):
        S2PGSAC(MlpPolicy, "PendulumNoVel-v1", buffer_size=10, device="cpu")


@pytest.mark.parametrize("other", [SAC, TD3, S2PGSAC])
def test_files_of_another_kind(other, tmp_path):
    other("MlpPolicy", gym.make("PendulumNoVel-v1"), buffer_size=10, policy_kwargs={"net_arch": [8]}).save(tmp_path / "model")
    with pytest.raises(ValueError, match="loaded with the class that saved it"):
        S2PGTD3.load(tmp_path / "model")


def test_the_std_of_the_noise_cannot_be_learned():
    with pytest.raises(ValueError, match=r"cannot learn the std of its noise.*state_noise of the algorithm"):
        make({"state_noise_kwargs": {"std_type": "constant"}})


def test_load_with_the_same_policy_kwargs(tmp_path):
    policy_kwargs = {"net_arch": [8], "state_dim": 3}
    S2PGTD3("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs=policy_kwargs).save(tmp_path / "model")
    loaded = S2PGTD3.load(tmp_path / "model", policy_kwargs=policy_kwargs)
    assert loaded.policy.state_dim == 3 and loaded.policy.critic_history == loaded.critic_history == 8
    with pytest.raises(ValueError, match="policy kwargs"):
        S2PGTD3.load(tmp_path / "model", policy_kwargs={"net_arch": [8], "state_dim": 4})
